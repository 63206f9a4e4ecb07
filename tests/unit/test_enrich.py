"""The enriched partition: every input row, in order, exactly once, with what became of it."""

import os
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keld import snapshot
from keld.answer import AnswerSink, answer_schema
from keld.enrich import KELD_COLUMNS, enrich, enriched_schema, final_outcomes, retryable, source_schema
from keld.job import Job
from keld.outcome import Outcome
from keld.schema import output_schema
from keld.table import open_table

OUTPUT = output_schema(
    {"type": "object", "properties": {"label": {"type": "string"}, "tags": {"type": "array", "items": {"type": "string"}}}}
)
JOB = Job(name="labels", key="id", prompt="{body}", models="openai:m")
SHARED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
Round = dict[int, tuple[Outcome, bool, int]]  # position -> outcome, whether it may be asked again, pico-dollars


def _snapshot(folder: Path, bodies: list[str | None]) -> Path:
    path = folder / "snapshot.parquet"
    table = pa.table({"id": pa.array(range(len(bodies)), pa.int64()), "body": pa.array(bodies, pa.string())})
    snapshot.take(JOB, open_table(table), path)
    return path


def _answers(path: Path, answers: Round) -> Path:
    """An answers file; the label says which file it is from."""
    positions = sorted(answers)
    rows = [
        {
            "keld_position": n, "keld_outcome": answers[n][0].value, "keld_error": None, "keld_model": path.stem, "keld_lane": "batch",
            "keld_cost_pico": answers[n][2], "keld_retryable": answers[n][1], "label": f"{path.stem} {n}", "tags": [str(n)],
        }
        for n in positions
    ]  # fmt: skip
    with AnswerSink(path, OUTPUT, np.array(positions, dtype=np.int64), 0) as sink:
        sink.add(pa.RecordBatch.from_pylist(rows, schema=answer_schema(OUTPUT)))
    return path


def _enriched(snapshot_: Path, answers: list[Path]) -> list[dict[str, Any]]:
    return [row for batch in enrich(snapshot_, answers, OUTPUT) for row in batch.to_pylist()]


OUTCOMES = st.sampled_from([Outcome.ANSWERED, Outcome.INVALID, Outcome.EXPIRED, Outcome.LOST, Outcome.REFUSED])
ROUND = st.dictionaries(st.integers(0, 29), st.tuples(OUTCOMES, st.booleans(), st.integers(0, 10**12)), max_size=30)


@SHARED
@given(rounds=st.lists(ROUND, max_size=4), unaskable=st.sets(st.integers(0, 29), max_size=5))
def test_every_row_comes_once_in_order_whatever_the_rounds_hold(tmp_path: Path, rounds: list[Round], unaskable: set[int]) -> None:
    """The first answer that may not be asked again stands, else the last answer, else the last word; the costs of all are summed."""
    rounds = [{n: answer for n, answer in answers.items() if n not in unaskable} for answers in rounds]
    path = _snapshot(tmp_path, [None if n in unaskable else f"body {n}" for n in range(30)])
    files = [_answers(tmp_path / f"round-{n}.parquet", answers) for n, answers in enumerate(rounds)]
    rows = _enriched(path, files)
    assert [row["id"] for row in rows] == list(range(30))
    for n, row in enumerate(rows):
        words = [(k, answers[n]) for k, answers in enumerate(rounds) if n in answers]
        answered = [word for word in words if word[1][0] is Outcome.ANSWERED]
        standing = next((word for word in answered if not word[1][1]), (answered or words or [None])[-1])
        if standing is None:
            assert row["keld_outcome"] == ("unaskable" if n in unaskable else "unasked")
            assert (row["label"], row["keld_model"], row["keld_cost_usd"]) == (None, None, 0)
        else:
            assert (row["keld_outcome"], row["label"]) == (standing[1][0].value, f"round-{standing[0]} {n}")
            assert row["keld_cost_usd"] * 10**12 == sum(word[1][2] for word in words)


@SHARED
@given(rounds=st.lists(ROUND, max_size=4), unaskable=st.sets(st.integers(0, 29), max_size=5))
def test_the_final_count_is_that_of_the_rows(tmp_path: Path, rounds: list[Round], unaskable: set[int]) -> None:
    rounds = [{n: answer for n, answer in answers.items() if n not in unaskable} for answers in rounds]
    path = _snapshot(tmp_path, [None if n in unaskable else f"body {n}" for n in range(30)])
    files = [_answers(tmp_path / f"round-{n}.parquet", answers) for n, answers in enumerate(rounds)]
    counted = Counter(row["keld_outcome"] for row in _enriched(path, files))
    assert {outcome.value: n for outcome, n in final_outcomes(files, 30, len(unaskable)).items()} == counted


@SHARED
@given(rounds=st.lists(ROUND, max_size=4))
def test_only_what_no_round_answered_for_good_and_the_last_word_allows_is_asked_again(tmp_path: Path, rounds: list[Round]) -> None:
    files = [_answers(tmp_path / f"round-{n}.parquet", answers) for n, answers in enumerate(rounds)]
    expected = []
    for n in range(30):
        words = [answers[n] for answers in rounds if n in answers]
        if words and words[-1][1] and not any(word[0] is Outcome.ANSWERED and not word[1] for word in words):
            expected.append(n)
    assert retryable(files, 30, 9).positions().tolist() == expected


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only Linux tells which files are open")
def test_an_answers_file_is_open_only_while_its_rows_are_written(tmp_path: Path) -> None:
    """A large partition has hundreds of them, and each that is open holds a block."""
    path = _snapshot(tmp_path, [f"body {n}" for n in range(300)])
    parts = [range(start, start + 100) for start in (0, 100, 200)]
    files = [_answers(tmp_path / f"answers-{part.start}.parquet", dict.fromkeys(part, (Outcome.ANSWERED, False, 1))) for part in parts]

    def open_files() -> set[str]:
        links = (Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd"))
        return {os.path.basename(os.readlink(link)) for link in links if os.path.islink(link)} & {file.name for file in files}

    blocks = enrich(path, files, OUTPUT)
    rows = next(blocks).num_rows
    assert (rows, open_files()) == (64, {"answers-0.parquet"})
    assert rows + sum(block.num_rows for block in blocks) == 300


def test_answers_of_many_blocks_meet_their_rows(tmp_path: Path) -> None:
    """Rows and answers are read in blocks of their own sizes."""
    count = 40_000
    path = _snapshot(tmp_path, ["x" * (n % 300) for n in range(count)])
    first = _answers(tmp_path / "first.parquet", dict.fromkeys(range(count), (Outcome.LOST, True, 1)))
    second = _answers(tmp_path / "second.parquet", dict.fromkeys(range(0, count, 3), (Outcome.ANSWERED, False, 2)))
    table = pa.Table.from_batches(list(enrich(path, [first, second], OUTPUT)))
    assert table.column("id").to_pylist() == list(range(count))
    assert table.column("label").to_pylist() == [f"{'first' if n % 3 else 'second'} {n}" for n in range(count)]


def test_a_partition_without_rows_stays_without(tmp_path: Path) -> None:
    assert _enriched(_snapshot(tmp_path, []), []) == []


def test_the_columns_are_the_tables_then_the_answers_then_our_five(tmp_path: Path) -> None:
    path = _snapshot(tmp_path, ["x"])
    assert source_schema(path).names == ["id", "body"]
    assert enriched_schema(source_schema(path), OUTPUT).names == ["id", "body", "label", "tags", *KELD_COLUMNS.names]
    assert next(iter(enrich(path, [], OUTPUT))).schema == enriched_schema(source_schema(path), OUTPUT)


def test_why_a_row_was_never_asked_is_said(tmp_path: Path) -> None:
    rows = _enriched(_snapshot(tmp_path, [None, "x"]), [])
    assert [row["keld_error"] for row in rows] == ["column body is null", "the job run was cancelled before this row was sent"]


@pytest.mark.parametrize("pico", [0, 1, 123_456_789_012, 10**18 - 1])
def test_a_cost_is_read_to_the_last_pico_dollar(tmp_path: Path, pico: int) -> None:
    path = _snapshot(tmp_path, ["x"])
    [row] = _enriched(path, [_answers(tmp_path / "a.parquet", {0: (Outcome.ANSWERED, False, pico)})])
    assert row["keld_cost_usd"] == Decimal(pico) / 10**12
