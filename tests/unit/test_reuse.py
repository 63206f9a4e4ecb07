"""Reuse: what was paid for before is found by what was asked, wherever the row stands now."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import keld.reuse
from keld import snapshot
from keld.answer import AnswerSink, answer_schema
from keld.job import Job
from keld.outcome import Outcome
from keld.reuse import reuse
from keld.row_set import RowSet
from keld.schema import output_schema
from keld.table import open_table, read_parquet

OUTPUT = output_schema(str)
JOB = Job(name="labels", key="id", prompt="{body}", models="openai:m")
BODIES = st.lists(st.one_of(st.none(), st.sampled_from([f"body {n}" for n in range(12)])), max_size=25)
SHARED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _snapshot(path: Path, bodies: list[str | None]) -> Path:
    table = pa.table({"id": pa.array(range(len(bodies)), pa.int64()), "body": pa.array(bodies, pa.string())})
    snapshot.take(JOB, open_table(table), path)
    return path


def _answers(path: Path, bodies: list[str | None], answered: set[int]) -> Path:
    """Each row's answer names its prompt; those not in `answered` have expired."""
    asked = [n for n, body in enumerate(bodies) if body is not None]
    rows = [
        {
            "keld_position": n, "keld_outcome": (Outcome.ANSWERED if n in answered else Outcome.EXPIRED).value, "keld_model": "m", "keld_lane": "batch",
            "keld_cost_pico": 7, "keld_retryable": n not in answered, "answer": f"to {bodies[n]}" if n in answered else None,
        }
        for n in asked
    ]  # fmt: skip
    with AnswerSink(path, OUTPUT, np.array(asked, dtype=np.int64), 0) as sink:
        sink.add(pa.RecordBatch.from_pylist(rows, schema=answer_schema(OUTPUT)))
    return path


@SHARED
@given(old=BODIES, new=BODIES, data=st.data())
def test_whatever_the_order_each_row_takes_the_answer_to_its_own_prompt(
    tmp_path: Path, old: list[str | None], new: list[str | None], data: st.DataObject
) -> None:
    answered = data.draw(st.sets(st.sampled_from(range(len(old))))) if old else set()
    (tmp_path / "reused.parquet").unlink(missing_ok=True)
    hit = reuse(
        _snapshot(tmp_path / "old.parquet", old), [_answers(tmp_path / "answers.parquet", old, answered)],
        _snapshot(tmp_path / "new.parquet", new), RowSet(len(new)), OUTPUT, tmp_path / "reused.parquet",
    )  # fmt: skip
    paid = {old[n] for n in answered} - {None}
    expected = [n for n, body in enumerate(new) if body in paid]
    assert hit.positions().tolist() == expected
    if not expected:
        assert not (tmp_path / "reused.parquet").exists()
        return
    rows = [row for batch in read_parquet(tmp_path / "reused.parquet") for row in batch.to_pylist()]
    assert [(row["keld_position"], row["answer"], row["keld_outcome"]) for row in rows] == [
        (n, f"to {new[n]}", "answered") for n in expected
    ]


def test_what_is_reused_costs_nothing(tmp_path: Path) -> None:
    """It was paid, and counted, before."""
    bodies: list[str | None] = ["a", "b"]
    old = _snapshot(tmp_path / "old.parquet", bodies)
    reuse(old, [_answers(tmp_path / "answers.parquet", bodies, {0, 1})], old, RowSet(2), OUTPUT, tmp_path / "reused.parquet")
    [batch] = read_parquet(tmp_path / "reused.parquet")
    assert batch.column("keld_cost_pico").to_pylist() == [0, 0]


def test_an_answer_of_any_round_is_found(tmp_path: Path) -> None:
    bodies: list[str | None] = ["a", "b"]
    old = _snapshot(tmp_path / "old.parquet", bodies)
    rounds = [_answers(tmp_path / f"{n}.parquet", bodies, {n}) for n in range(2)]
    assert reuse(old, rounds, old, RowSet(2), OUTPUT, tmp_path / "reused.parquet").positions().tolist() == [0, 1]


def test_large_partitions_in_another_order_are_matched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are compared in parts, and copied in windows; some prompts are asked by several rows."""
    monkeypatch.setattr(keld.reuse, "_PART", 30_000)
    rows, half = 140_000, 70_000
    bodies: list[str | None] = [f"body {n % 139_000}" for n in range(rows)]
    turned = bodies[::-1]
    hit = reuse(
        _snapshot(tmp_path / "old.parquet", bodies), [_answers(tmp_path / "answers.parquet", bodies, set(range(0, rows, 2)))],
        _snapshot(tmp_path / "new.parquet", turned), RowSet.of(rows, np.arange(1_000)), OUTPUT, tmp_path / "reused.parquet",
    )  # fmt: skip
    answers = pa.Table.from_batches(list(read_parquet(tmp_path / "reused.parquet")))
    paid = {bodies[n] for n in range(0, rows, 2)}
    assert hit.positions().tolist() == [n for n in range(1_000, rows) if turned[n] in paid]
    assert half - 1_000 < len(hit) == len(answers)
    assert answers.column("keld_position").to_pylist() == hit.positions().tolist()
    assert answers.column("answer").to_pylist() == [f"to {turned[n]}" for n in answers.column("keld_position").to_pylist()]
