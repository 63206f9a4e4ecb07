"""Answers: whatever the result files hold, each row that was asked gets exactly one."""

import base64
import json
import struct
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import keld.answer
from keld.answer import AnswerSink, Sent, Tally, answer_schema, judge_results, read_answers, same
from keld.outcome import Outcome
from keld.price import Bracket, Rates, Usage
from keld.reply import Reply
from keld.request import custom_id
from keld.schema import Embedding, OutputSchema, output_schema
from keld.table import read_parquet

NONCE = "abcdefghij"
LABEL = {"type": "object", "properties": {"label": {"type": "string"}, "score": {"type": "integer"}}, "required": ["label", "score"]}
OUTPUT = output_schema(LABEL)
ONE = Decimal(1)
RATES = Rates(brackets=(Bracket(above=0, input=ONE, cached=ONE / 10, cache_write=ONE, cache_write_1h=ONE, output=2 * ONE),), source="")
STANDARD = Rates(
    brackets=(Bracket(above=0, input=2 * ONE, cached=ONE / 5, cache_write=2 * ONE, cache_write_1h=2 * ONE, output=4 * ONE),), source=""
)
SHARED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _sent(positions: Sequence[int], *, standard: Rates | None = STANDARD) -> Sent:
    return Sent(nonce=NONCE, positions=np.array(positions, dtype=np.int64), model="openai:m", lane="batch", rates=RATES, standard=standard)


def _good(n: int, **more: Any) -> Reply:
    content = json.dumps({"label": f"row {n}", "score": n})
    return Reply(
        **{
            "custom_id": custom_id(NONCE, n),
            "outcome": Outcome.ANSWERED,
            "content": content,
            "input_tokens": 10,
            "output_tokens": 5,
            **more,
        }
    )


def _bad(n: int, outcome: Outcome = Outcome.EXPIRED) -> Reply:
    return Reply(custom_id=custom_id(NONCE, n), outcome=outcome, error="why", retryable=True)


def _read(block: bytes) -> list[Reply]:
    return [msgspec.json.decode(line, type=Reply) for line in block.splitlines() if line]


def _collect(
    folder: Path, files: Sequence[Sequence[Reply]], positions: Sequence[int], output: OutputSchema = OUTPUT, **sent: Any
) -> tuple[Tally, list[dict[str, Any]]]:
    """What the tally and the answers file say of result files with these replies."""
    paths = []
    for n, replies in enumerate(files):
        paths.append(folder / f"result-{n}.jsonl")
        paths[-1].write_bytes(b"\n".join(msgspec.json.encode(reply) for reply in replies))
    tally = judge_results(paths, _read, _sent(positions, **sent), output, folder / "answers.parquet")
    return tally, [row for batch in read_parquet(folder / "answers.parquet") for row in batch.to_pylist()]


# --- exactly one a row ------------------------------------------------------------------------------------------------


@st.composite
def _files(draw: st.DrawFn) -> tuple[list[int], list[list[Reply]]]:
    """Positions that were asked; lines of some of them, some twice, some of others, in any order, in several files."""
    positions = sorted(draw(st.sets(st.integers(0, 40), min_size=1, max_size=20)))
    about = draw(st.lists(st.sampled_from(positions), max_size=30))
    replies = [_good(n) if draw(st.booleans()) else _bad(n) for n in about]
    foreign = draw(st.lists(st.sampled_from([custom_id("zzzzzzzzzz", 1), custom_id(NONCE, 99), "nonsense", ""]), max_size=4))
    replies += [Reply(custom_id=odd, outcome=Outcome.ANSWERED, content="{}") for odd in foreign]
    shuffled = draw(st.permutations(replies))
    middle = draw(st.integers(0, len(shuffled)))
    return positions, [list(shuffled[:middle]), list(shuffled[middle:])]


@SHARED
@given(case=_files())
def test_every_row_asked_has_one_answer_in_order_whatever_came(tmp_path: Path, case: tuple[list[int], list[list[Reply]]]) -> None:
    positions, files = case
    _, rows = _collect(tmp_path, files, positions)
    assert [row["keld_position"] for row in rows] == positions


@SHARED
@given(case=_files())
def test_the_first_line_of_a_row_stands_and_the_rest_is_counted(tmp_path: Path, case: tuple[list[int], list[list[Reply]]]) -> None:
    positions, files = case
    tally, rows = _collect(tmp_path, files, positions)
    lines = [reply for file in files for reply in file]
    ours = {custom_id(NONCE, n): n for n in positions}
    first: dict[int, Reply] = {}
    for reply in lines:
        if reply.custom_id in ours:
            first.setdefault(ours[reply.custom_id], reply)
    expected = [first[n].outcome.value if n in first else "lost" for n in positions]
    assert [row["keld_outcome"] for row in rows] == expected
    known = sum(reply.custom_id in ours for reply in lines)
    assert (tally.duplicates, tally.foreign) == (known - len(first), len(lines) - known)


@SHARED
@given(case=_files())
def test_the_tally_is_what_the_answers_say(tmp_path: Path, case: tuple[list[int], list[list[Reply]]]) -> None:
    positions, files = case
    tally, rows = _collect(tmp_path, files, positions)
    assert tally.outcomes.total() == len(positions)
    assert tally.retryable == sum(row["keld_retryable"] for row in rows)
    assert tally.answered == sum(row["keld_outcome"] == "answered" for row in rows)
    assert tally.cost_usd * 10**12 == sum(row["keld_cost_pico"] for row in rows)
    assert tally.standard_usd == 2 * tally.cost_usd


def test_without_any_result_file_every_row_is_lost_and_may_be_asked_again(tmp_path: Path) -> None:
    tally, rows = _collect(tmp_path, [], [3, 5])
    assert [(row["keld_position"], row["keld_outcome"], row["keld_retryable"]) for row in rows] == [(3, "lost", True), (5, "lost", True)]
    assert (tally.cost_usd, tally.retryable) == (0, 2)


def test_an_answer_in_the_first_file_beats_an_error_in_the_second(tmp_path: Path) -> None:
    tally, [row] = _collect(tmp_path, [[_good(0)], [_bad(0)]], [0])
    assert (row["keld_outcome"], row["label"], tally.duplicates) == ("answered", "row 0", 1)


@pytest.mark.parametrize("files", [[[_good(n) for n in range(400)]], [[_good(n) for n in reversed(range(400))]]])
@pytest.mark.parametrize("range_bytes", [1, 500, 1 << 20])
def test_answers_too_large_for_memory_come_in_order_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[list[Reply]], range_bytes: int
) -> None:
    """They are scattered into ranges on disk, and each range is put in order by itself."""
    monkeypatch.setattr(keld.answer, "_RANGE_BYTES", range_bytes)
    monkeypatch.setattr(keld.answer, "BLOCK_BYTES", 700)
    _, rows = _collect(tmp_path, [file[:300] for file in files], range(400))
    assert [row["keld_position"] for row in rows] == list(range(400))
    assert not list(tmp_path.glob(".answers-*"))


# --- judging ----------------------------------------------------------------------------------------------------------

BAD_CONTENTS: list[Any] = [
    None, "", "no JSON", '{"label": "x"', '{"label": "x"}', '{"label": "x", "score": "y"}', '{"label": 1, "score": 1}', "[]", "null", 5,
    '{"label": "\\ud800", "score": 1}', '{"label": "x", "score": 1e400}', '{"label": "x", "score": 99999999999999999999}', "[" * 100_000,
    '{"label": "a", "label": "b", "score": 1}', {"label": "x"}, "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("content", BAD_CONTENTS, ids=lambda content: repr(content)[:30])
def test_an_answer_that_breaks_the_schema_is_invalid_and_paid_and_harms_no_other(tmp_path: Path, content: Any) -> None:
    def read(_: bytes) -> list[Reply]:  # a reply may hold what no file can, such as a lone surrogate
        return [_good(0), _good(1, content=content), _good(2)]

    (tmp_path / "result.jsonl").write_text("any\n")
    tally = judge_results([tmp_path / "result.jsonl"], read, _sent([0, 1, 2]), OUTPUT, tmp_path / "answers.parquet")
    rows = [row for batch in read_parquet(tmp_path / "answers.parquet") for row in batch.to_pylist()]
    assert [row["keld_outcome"] for row in rows] == ["answered", "invalid", "answered"]
    assert rows[1]["keld_error"]
    assert (rows[1]["label"], rows[1]["score"], rows[1]["keld_cost_pico"]) == (None, None, rows[0]["keld_cost_pico"])
    assert tally.cost_usd == 3 * Decimal("0.00002")


def test_why_an_answer_is_invalid_never_quotes_it(tmp_path: Path) -> None:
    _, [row] = _collect(tmp_path, [[_good(0, content='{"label": "x", "score": "SECRET"}')]], [0])
    assert "SECRET" not in row["keld_error"]


def test_a_text_answer_is_the_text(tmp_path: Path) -> None:
    _, [row] = _collect(tmp_path, [[_good(0, content="雪\x00\n")]], [0], output_schema(str))
    assert (row["keld_outcome"], row["answer"]) == ("answered", "雪\x00\n")


def test_a_vector_comes_as_numbers_or_as_base64(tmp_path: Path) -> None:
    packed = base64.b64encode(struct.pack("<2f", 0.5, -1)).decode()
    _, rows = _collect(
        tmp_path,
        [[_good(0, content=[0.5, -1.0]), _good(1, content=packed), _good(2, content=[1.0])]],
        range(3),
        output_schema(Embedding(2)),
    )
    assert [row["embedding"] for row in rows] == [[0.5, -1.0], [0.5, -1.0], None]
    assert rows[2]["keld_outcome"] == "invalid"


# --- paying -----------------------------------------------------------------------------------------------------------


def test_the_model_that_answered_is_named(tmp_path: Path) -> None:
    _, rows = _collect(tmp_path, [[_good(0, model="m-2026-01-01"), _good(1)]], [0, 1])
    assert [row["keld_model"] for row in rows] == ["m-2026-01-01", "openai:m"]


def test_with_an_unknown_standard_price_nothing_counts_as_saved(tmp_path: Path) -> None:
    tally, _ = _collect(tmp_path, [[_good(0)]], [0], standard=None)
    assert tally.standard_usd == tally.cost_usd > 0


def test_cached_tokens_cost_what_they_cost(tmp_path: Path) -> None:
    tally, [row] = _collect(tmp_path, [[_good(0, input_tokens=100, cached_tokens=90)]], [0])
    assert row["keld_cost_pico"] == 10 * 10**6 + 90 * 10**5 + 5 * 2 * 10**6
    assert (tally.input_tokens, tally.cached_tokens, tally.output_tokens) == (100, 90, 5)


@pytest.mark.parametrize(
    ("counts", "pico"),
    [
        ({"input_tokens": -5, "output_tokens": -5}, 0),
        ({"input_tokens": 0, "cached_tokens": 10, "output_tokens": 0}, 10 * 10**5),
        ({"input_tokens": 10**30, "output_tokens": 0}, 10**9 * 10**6),
        ({"input_tokens": 2**63 - 1, "output_tokens": 2**63 - 1}, 10**9 * 3 * 10**6),
    ],
    ids=str,
)
def test_counts_that_cannot_be_make_nothing_cheaper_and_stop_no_one(tmp_path: Path, counts: dict[str, int], pico: int) -> None:
    """One line's nonsense must not keep the answers of a whole batch from being collected."""

    def read(_: bytes) -> list[Reply]:
        return [_good(0, **counts), _good(1)]

    (tmp_path / "result.jsonl").write_text("any\n")
    judge_results([tmp_path / "result.jsonl"], read, _sent([0, 1]), OUTPUT, tmp_path / "answers.parquet")
    rows = [row for batch in read_parquet(tmp_path / "answers.parquet") for row in batch.to_pylist()]
    assert [row["keld_cost_pico"] for row in rows] == [pico, 20 * 10**6]


def test_answers_without_a_count_of_tokens_are_counted_and_a_refusal_without_one_is_not(tmp_path: Path) -> None:
    """A gateway that leaves `usage` out makes nothing free (github.com/BerriAI/litellm/issues/35363)."""
    replies = [_good(0), _good(1, input_tokens=0, output_tokens=0), Reply(custom_id=custom_id(NONCE, 2), outcome=Outcome.REFUSED)]
    (tmp_path / "result.jsonl").write_text("any\n")
    tally = judge_results([tmp_path / "result.jsonl"], lambda _: replies, _sent([0, 1, 2]), OUTPUT, tmp_path / "answers.parquet")
    assert tally.unmetered == 1


@pytest.mark.parametrize(
    ("lane", "tier", "billed_in"),
    [
        ("flex", "flex", "flex"), ("flex", None, "flex"), ("flex", "default", "standard"), ("flex", "on_demand", "standard"),
        ("standard", "default", "standard"), ("standard", "flex", "standard"), ("batch", "default", "batch"), ("batch", "standard", "batch"),
    ],
)  # fmt: skip
def test_a_flex_answer_is_priced_by_the_tier_that_was_served(tmp_path: Path, lane: str, tier: str | None, billed_in: str) -> None:
    """Flex may be asked for and the standard tier be given; batches always say "default" or "standard", at the batch's price."""
    path = tmp_path / "result.jsonl"
    path.write_bytes(msgspec.json.encode(_good(0, tier=tier)))
    tally = judge_results([path], _read, replace(_sent([0]), lane=lane), OUTPUT, tmp_path / "answers.parquet")
    (row,) = [row for batch in read_parquet(tmp_path / "answers.parquet") for row in batch.to_pylist()]
    paid = STANDARD if (lane, billed_in) == ("flex", "standard") else RATES
    assert row["keld_lane"] == billed_in
    assert tally.cost_usd == paid.cost(Usage(input_tokens=10, output_tokens=5)) == Decimal(row["keld_cost_pico"]) / 10**12
    assert tally.standard_usd == STANDARD.cost(Usage(input_tokens=10, output_tokens=5))


# --- files and blocks -------------------------------------------------------------------------------------------------


@SHARED
@given(
    lines=st.lists(st.binary(max_size=40).filter(lambda line: b"\n" not in line), max_size=20), size=st.integers(1, 50), last=st.booleans()
)
def test_blocks_hold_whole_lines_and_all_of_them(tmp_path: Path, lines: list[bytes], size: int, last: bool) -> None:
    seen: list[bytes] = []

    def read(block: bytes) -> list[Reply]:
        seen.append(block)
        return []

    (tmp_path / "result.jsonl").write_bytes(b"\n".join(lines) + (b"\n" if last and lines else b""))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keld.answer, "BLOCK_BYTES", size)
        judge_results([tmp_path / "result.jsonl"], read, _sent([0]), OUTPUT, tmp_path / "answers.parquet")
    assert all(block.endswith(b"\n") for block in seen[:-1])
    assert b"".join(seen) == (tmp_path / "result.jsonl").read_bytes()


def test_a_line_longer_than_any_answer_is_skipped_and_the_next_one_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keld.answer, "BLOCK_BYTES", 100)
    monkeypatch.setattr(keld.answer, "LINE_BYTES_MAX", 1_000)
    tally, rows = _collect(tmp_path, [[_good(0), _good(1, content="x" * 5_000), _good(2)]], range(3))
    assert [row["keld_outcome"] for row in rows] == ["answered", "lost", "answered"]
    assert tally.unreadable == 1


def test_a_reader_that_fails_leaves_no_answers_file(tmp_path: Path) -> None:
    def read(_: bytes) -> list[Reply]:
        raise RuntimeError("broken")

    (tmp_path / "result.jsonl").write_text("any\n")
    with pytest.raises(RuntimeError):
        judge_results([tmp_path / "result.jsonl"], read, _sent([0]), OUTPUT, tmp_path / "answers.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["result.jsonl"]


def test_rows_that_never_belonged_to_a_shard_have_an_outcome_too(tmp_path: Path) -> None:
    with AnswerSink(tmp_path / "unsent.parquet", OUTPUT, np.array([4, 7]), 0) as sink:
        sink.add(same([4, 7], Outcome.UNASKABLE, "too large", None, OUTPUT))
    [batch] = read_parquet(tmp_path / "unsent.parquet")
    assert batch.schema.names == answer_schema(OUTPUT).names
    assert pa.Table.from_batches([batch]).select(["keld_position", "keld_outcome", "keld_model"]).to_pylist() == [
        {"keld_position": 4, "keld_outcome": "unaskable", "keld_model": None},
        {"keld_position": 7, "keld_outcome": "unaskable", "keld_model": None},
    ]


def test_a_file_of_an_earlier_version_is_read_under_the_names_of_this_one(tmp_path: Path) -> None:
    """What was answered, and paid, before an upgrade is neither lost nor asked again."""
    path = tmp_path / "answers.parquet"
    with AnswerSink(path, OUTPUT, np.array([3, 5]), 0) as sink:
        sink.add(same([3, 5], Outcome.LOST, "gone", None, OUTPUT, retryable=True))
    table = pq.read_table(path)
    former = {"keld_position": "position", "keld_retryable": "retryable"}
    pq.write_table(table.rename_columns([former.get(name, name) for name in table.schema.names]), path)
    assert pa.Table.from_batches(read_answers(path)).equals(table)
    some = ["keld_position", "keld_outcome", "keld_retryable"]
    assert pa.Table.from_batches(read_answers(path, some)).equals(table.select(some))


# --- requests of many rows --------------------------------------------------------------------------------------------

VECTOR = output_schema(Embedding(dimensions=2))


def _packed(first: int, rows: int, **more: Any) -> Reply:
    """The answer to a request of `rows` rows, each of which has a vector that tells its place."""
    parts = [[float(n), 1.0] for n in range(rows)]
    made = {"outcome": Outcome.ANSWERED, "content": parts[0], "parts": parts, "input_tokens": 10 * rows}
    return Reply(custom_id=custom_id(NONCE, first, rows=rows), **{**made, **more})


def test_the_rows_of_a_request_are_those_that_follow_each_other_in_the_shard(tmp_path: Path) -> None:
    """Not in the table: rows 4, 5 and 7 were not asked."""
    tally, rows = _collect(tmp_path, [[_packed(3, 3), _packed(9, 2)]], [3, 6, 8, 9, 12], VECTOR)
    assert [(row["keld_position"], row["embedding"][0]) for row in rows] == [(3, 0.0), (6, 1.0), (8, 2.0), (9, 0.0), (12, 1.0)]
    assert (tally.answered, tally.lines, tally.foreign, tally.input_tokens) == (5, 2, 0, 50)


def test_each_row_of_a_request_costs_by_the_length_of_its_text(tmp_path: Path) -> None:
    sent = replace(_sent([0, 1, 2]), weights=np.array([1, 1, 8], dtype=np.int64))
    (tmp_path / "result.jsonl").write_bytes(msgspec.json.encode(_packed(0, 3, input_tokens=101)))
    tally = judge_results([tmp_path / "result.jsonl"], _read, sent, VECTOR, tmp_path / "answers.parquet")
    costs = [row["keld_cost_pico"] for batch in read_parquet(tmp_path / "answers.parquet") for row in batch.to_pylist()]
    assert sum(costs) == tally.cost_usd * 10**12 == 101 * 10**6
    assert costs[2] > 7 * costs[0]


def test_a_refused_request_is_all_of_its_rows_each_to_be_asked_again(tmp_path: Path) -> None:
    """It was not paid, and does not say whose fault it was."""
    refused = _packed(0, 3, outcome=Outcome.ERRORED, parts=None, error="HTTP 400: too long", input_tokens=0)
    tally, rows = _collect(tmp_path, [[refused]], [0, 1, 2], VECTOR)
    assert [(row["keld_outcome"], row["keld_error"], row["keld_retryable"]) for row in rows] == [
        ("errored", "HTTP 400: too long (of a request with 3 rows)", True)
    ] * 3
    assert (tally.retryable, tally.lines, tally.cost_usd) == (3, 1, 0)


@pytest.mark.parametrize("outcome", [Outcome.EXPIRED, Outcome.CANCELLED])
def test_a_request_that_was_not_done_is_all_of_its_rows(tmp_path: Path, outcome: Outcome) -> None:
    _, rows = _collect(tmp_path, [[_packed(0, 2, outcome=outcome, parts=None, input_tokens=0, retryable=True)]], [0, 1], VECTOR)
    assert [(row["keld_outcome"], row["keld_retryable"]) for row in rows] == [(outcome, True)] * 2


@pytest.mark.parametrize("parts", [None, [[1.0, 1.0]], [[1.0, 1.0]] * 4], ids=str)
def test_an_answer_without_a_part_for_each_row_gives_no_row_the_vector_of_another(tmp_path: Path, parts: Any) -> None:
    """It was paid, and its rows are asked again."""
    tally, rows = _collect(tmp_path, [[_packed(0, 3, parts=parts)]], [0, 1, 2], VECTOR)
    assert [(row["keld_outcome"], row["embedding"], row["keld_retryable"]) for row in rows] == [("invalid", None, True)] * 3
    assert tally.input_tokens == 30


@pytest.mark.parametrize(
    "odd", [custom_id(NONCE, 1, rows=2), custom_id(NONCE, 0, rows=4), custom_id(NONCE, 0, rows=999_999), custom_id("zzzzzzzzzz", 0, rows=3),
            f"{NONCE}-00000000x1", f"{NONCE}-00000000x0"],
)  # fmt: skip
def test_a_request_that_the_shard_cannot_have_sent_is_foreign(tmp_path: Path, odd: str) -> None:
    """Row 1 is not asked, and no four rows are."""
    reply = Reply(custom_id=odd, outcome=Outcome.ANSWERED, parts=[[0.0, 0.0]] * 4)
    tally, rows = _collect(tmp_path, [[reply]], [0, 2, 3], VECTOR)
    assert (tally.foreign, tally.lines) == (1, 0)
    assert [row["keld_outcome"] for row in rows] == ["lost"] * 3


def test_the_first_line_of_a_request_stands_and_each_row_of_a_second_one_is_counted(tmp_path: Path) -> None:
    again = _packed(0, 3, parts=[[9.0, 9.0]] * 3)
    tally, rows = _collect(tmp_path, [[_packed(0, 3), again, _packed(3, 1)]], [0, 1, 2, 3], VECTOR)
    assert [row["embedding"] and row["embedding"][0] for row in rows] == [0.0, 1.0, 2.0, 0.0]
    assert (tally.duplicates, tally.lines, tally.input_tokens) == (3, 2, 40)
