"""The snapshot: what was asked, taken once, with a key for every row."""

import re
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keld.errors import SourceError, SourceUnavailable
from keld.job import Column, Job
from keld.request import row_fingerprint
from keld.snapshot import Snapshot, fragments, sizes, take
from keld.table import open_table

SHARED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _take(folder: Path, table: pa.Table, **terms: Any) -> tuple[Snapshot, pa.Table]:
    job = Job(**{"name": "labels", "key": "id", "prompt": "{body}", "models": "openai:m", **terms})
    path = folder / "snapshot.parquet"
    return take(job, open_table(table), path), pq.read_table(path)


def _keyed(keys: Any) -> pa.Table:
    column = keys if isinstance(keys, pa.Array | pa.ChunkedArray) else pa.array(keys)
    return pa.table({"id": column, "body": ["x"] * len(column)})


# --- keys -------------------------------------------------------------------------------------------------------------

GOOD_KEYS: dict[str, Any] = {
    "text": ["a", "A", "", "雪", "a "],
    "whole numbers": [1, -1, 0, 2**62],
    "days": [date(2026, 11, 19), date(2026, 11, 20)],
    "instants": [datetime(2026, 11, 19), datetime(2026, 11, 19, 0, 0, 0, 1)],
    "decimals": [Decimal("1.10"), Decimal("1.11")],
    "bytes": [b"\xff", b"\xfe", b""],
    "bytes of one size": pa.array([b"\xff" * 16, b"\xfe" * 16], type=pa.binary(16)),
    "a dictionary": pa.array(["a", "b"]).dictionary_encode(),
    "large text": pa.array(["a", "b"], type=pa.large_string()),
    "text that is not UTF-8": pa.Array.from_buffers(pa.string(), 2, pa.array([b"\xff", b"\xfe"]).buffers()),
}


@pytest.mark.parametrize("keys", GOOD_KEYS.values(), ids=GOOD_KEYS.keys())
def test_a_unique_key_of_any_plain_type_is_taken(tmp_path: Path, keys: Any) -> None:
    taken, _ = _take(tmp_path, _keyed(keys))
    assert taken.rows == len(keys)


@pytest.mark.parametrize("keys", GOOD_KEYS.values(), ids=GOOD_KEYS.keys())
def test_a_repeated_key_of_any_plain_type_is_refused(tmp_path: Path, keys: Any) -> None:
    column = keys if isinstance(keys, pa.Array) else pa.array(keys)
    twice = pa.chunked_array([column.cast(open_table(_keyed(column)).schema.field("id").type)] * 2)
    with pytest.raises(SourceError, match=rf"{len(keys)} rows of {2 * len(keys)} repeat an earlier one") as caught:
        _take(tmp_path, _keyed(twice))
    rows = re.search(r"not unique: rows (\d+) and (\d+)", str(caught.value))
    assert rows is not None
    assert int(rows[2]) - int(rows[1]) == len(keys)


def test_a_refused_table_leaves_no_snapshot(tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        _take(tmp_path, _keyed(["a", "a"]))
    assert list(tmp_path.iterdir()) == []


def test_a_null_key_is_refused_with_its_row(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"null in row 2 .*Nothing was sent"):
        _take(tmp_path, _keyed(["a", "b", None, None]))


def test_a_null_key_far_down_is_refused_with_its_row(tmp_path: Path) -> None:
    """Rows come in blocks; the count goes on over them."""
    with pytest.raises(SourceError, match="null in row 39,999"):
        _take(tmp_path, _keyed([*range(39_999), None]))


@pytest.mark.parametrize("keys", [[[1], [2]], [{"a": 1}, {"a": 2}]], ids=["lists", "structs"])
def test_a_key_of_many_parts_is_refused(tmp_path: Path, keys: Any) -> None:
    with pytest.raises(SourceError, match="A key is text, a number or a date"):
        _take(tmp_path, _keyed(keys))


@SHARED
@given(keys=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=3), max_size=30))
def test_keys_are_refused_if_and_only_if_one_is_repeated(tmp_path: Path, keys: list[str]) -> None:
    table = _keyed(pa.array(keys, pa.string()))
    if len(set(keys)) == len(keys):
        assert _take(tmp_path, table)[0].rows == len(keys)
    else:
        with pytest.raises(SourceError, match="not unique"):
            _take(tmp_path, table)


# --- what is kept -----------------------------------------------------------------------------------------------------

ROWS = pa.table({"id": [1, 2, 3, 4], "body": ['say "hi"', None, "雪", ""], "extra": [[1], None, [2, 3], []]})


def test_the_tables_columns_are_kept_as_they_were(tmp_path: Path) -> None:
    _, kept = _take(tmp_path, ROWS)
    assert kept.select(ROWS.schema.names).equals(ROWS)


def test_each_row_has_its_prompt_its_size_and_its_fingerprint(tmp_path: Path) -> None:
    _, kept = _take(tmp_path, ROWS)
    prompts = [b'"say \\"hi\\""', None, '"雪"'.encode(), None]
    assert kept.column("keld_prompt").to_pylist() == prompts
    assert kept.column("keld_size").to_pylist() == [12, 0, 5, 0]
    assert kept.column("keld_fingerprint").to_pylist() == [None if prompt is None else row_fingerprint(prompt) for prompt in prompts]


def test_a_row_that_cannot_be_asked_says_why_and_is_counted(tmp_path: Path) -> None:
    taken, kept = _take(tmp_path, ROWS)
    assert (taken.rows, taken.unaskable, taken.prompt_bytes) == (4, 2, 17)
    assert kept.column("keld_input_error").to_pylist() == [None, "column body is null", None, "the prompt is empty"]


def test_the_same_rows_have_the_same_digest(tmp_path: Path) -> None:
    assert _take(tmp_path, ROWS)[0].digest == _take(tmp_path, ROWS)[0].digest


def test_a_changed_cell_changes_the_digest_also_outside_of_the_prompt(tmp_path: Path) -> None:
    """It goes into the enriched partition, which must be written again."""
    other = ROWS.set_column(2, "extra", [[[1], None, [2, 4], []]])
    assert _take(tmp_path, ROWS)[0].digest != _take(tmp_path, other)[0].digest


def test_an_empty_partition_has_an_empty_snapshot(tmp_path: Path) -> None:
    taken, kept = _take(tmp_path, ROWS.slice(0, 0))
    assert (taken.rows, taken.prompt_bytes, kept.num_rows) == (0, 0, 0)


PROMPTS: dict[str, tuple[Any, list[bytes | None]]] = {
    "a template": ("{body}!", [b'"a!"', None]),
    "a literal percent and braces": ("100 % {{}} {body}", [b'"100 % {} a"', None]),
    "a column": (Column("body"), [b'"a"', None]),
    "a function": (lambda batch: [f"n{n}" for n in batch.column("id").to_pylist()], [b'"n1"', b'"n2"']),
    "a function that gives conversations": (
        lambda batch: [[{"role": "user", "content": "x"}], None],
        [b'[{"role":"user","content":"x"}]', None],
    ),
}


@pytest.mark.parametrize(("prompt", "expected"), PROMPTS.values(), ids=PROMPTS.keys())
def test_a_prompt_of_any_kind_is_kept_as_the_bytes_that_are_sent(tmp_path: Path, prompt: Any, expected: list[bytes | None]) -> None:
    _, kept = _take(tmp_path, pa.table({"id": [1, 2], "body": ["a", None]}), prompt=prompt)
    assert kept.column("keld_prompt").to_pylist() == expected


def test_a_function_is_called_block_by_block(tmp_path: Path) -> None:
    """A partition need not fit in memory, so neither do its prompts."""
    seen: list[int] = []

    def prompt(batch: pa.RecordBatch) -> list[str]:
        seen.append(batch.num_rows)
        return ["x"] * batch.num_rows

    _take(tmp_path, _keyed(range(40_000)), prompt=prompt)
    assert sum(seen) == 40_000
    assert max(seen) <= 16_384


def test_what_a_prompt_function_raises_is_told_by_its_kind_and_line_and_leaves_no_snapshot(tmp_path: Path) -> None:
    def prompt(batch: pa.RecordBatch) -> list[str]:
        raise ZeroDivisionError("CANARY-ROW")

    with pytest.raises(SourceUnavailable, match=r"ZeroDivisionError, in .*test_snapshot\.py, line \d+\. Nothing was sent\. (?!.*CANARY)"):
        _take(tmp_path, ROWS, prompt=prompt)
    assert list(tmp_path.iterdir()) == []


# --- reading it back --------------------------------------------------------------------------------------------------


@SHARED
@given(data=st.data(), count=st.sampled_from([1, 7, 200]))
def test_any_rows_fragments_come_with_their_positions_in_order(tmp_path: Path, data: st.DataObject, count: int) -> None:
    wanted = sorted(data.draw(st.sets(st.integers(0, count - 1))))
    _take(tmp_path, pa.table({"id": range(count), "body": [f"body {n}" for n in range(count)]}))
    found = list(fragments(tmp_path / "snapshot.parquet", np.array(wanted, dtype=np.int64)))
    assert found == [(n, f'"body {n}"'.encode()) for n in wanted]


@pytest.mark.parametrize("choose", [lambda n: n % 2 == 0, lambda n: n > 39_000, lambda n: True], ids=["every second", "the last", "all"])
def test_fragments_of_many_blocks_come_in_order(tmp_path: Path, choose: Callable[[int], bool]) -> None:
    _take(tmp_path, pa.table({"id": range(40_000), "body": [f"body {n}" for n in range(40_000)]}))
    wanted = [n for n in range(40_000) if choose(n)]
    found = list(fragments(tmp_path / "snapshot.parquet", np.array(wanted, dtype=np.int64)))
    assert found == [(n, f'"body {n}"'.encode()) for n in wanted]


def test_the_sizes_are_those_of_the_fragments(tmp_path: Path) -> None:
    _take(tmp_path, ROWS)
    assert np.concatenate(list(sizes(tmp_path / "snapshot.parquet").blocks())).tolist() == [12, 0, 5, 0]
