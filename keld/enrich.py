"""Enrich: the rows of a snapshot plus the answers of all its shards -> the enriched partition.

On the road: `answer` -> **`enrich`** -> `table`.  Every input row, in order, exactly once.
No hash join: a snapshot's rows are numbered and every answers file is in the order of those numbers, so this is a merge, block by
block, and memory holds only the current blocks.  Of several answers of one row (retries) the first that is `answered` is
taken, else the last; the costs of all of them are summed, so that the column adds up to the bill.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from keld.answer import read_answers
from keld.merge import Cursor, windows
from keld.outcome import Outcome
from keld.row_set import RowSet
from keld.schema import OutputSchema
from keld.snapshot import OWN as SNAPSHOT_OWN
from keld.table import read_parquet

if TYPE_CHECKING:
    from numpy.typing import NDArray

# With their types: to find the type of a Python text, pyarrow tries to import `dateutil` each time.
_ANSWERED = pa.scalar(Outcome.ANSWERED.value, type=pa.string())
_INVALID = pa.scalar(Outcome.INVALID.value, type=pa.string())
_NO_ATTEMPT = pa.array([Outcome.CANCELLED.value, Outcome.OVER_CEILING.value])
_NOT_REACHED = pa.array([Outcome.CANCELLED.value, Outcome.OVER_CEILING.value, Outcome.EXPIRED.value])
KELD_COLUMNS = pa.schema(
    [
        pa.field("keld_outcome", pa.string()),
        pa.field("keld_error", pa.string()),
        pa.field("keld_model", pa.string()),
        pa.field("keld_lane", pa.string()),
        pa.field("keld_cost_usd", pa.decimal128(18, 12)),
    ]
)


def enriched_schema(source: pa.Schema, output: OutputSchema) -> pa.Schema:
    """The table's columns, the answer's, Keld's five."""
    return pa.schema([*source, *output.columns, *KELD_COLUMNS])


def source_schema(snapshot: Path) -> pa.Schema:
    """The columns of the table that a snapshot was taken of."""
    import pyarrow.parquet as pq

    own = set(SNAPSHOT_OWN.names)
    return pa.schema([column for column in pq.read_schema(snapshot) if column.name not in own])


def enrich(snapshot: Path, answers: Sequence[Path], output: OutputSchema) -> Iterator[pa.RecordBatch]:
    """The enriched rows, in the order of the snapshot.

    Args:
        answers: the answers files, those of earlier rounds first.
    """
    source = source_schema(snapshot)
    schema = enriched_schema(source, output)
    cursors = [Cursor(path) for path in answers]
    start = 0
    for rows in read_parquet(snapshot, columns=[*source.names, "keld_input_error"]):
        stop = start + rows.num_rows
        parts = [part for cursor in cursors for part in cursor.read_until(stop)]
        yield _enriched(rows, parts, start, output, schema)
        start = stop


def retryable(answers: Sequence[Path], rows: int, max_attempts: int) -> RowSet:
    """The rows to ask again: the latest outcome is retryable, no answer was accepted, and attempts are left.

    Args:
        answers: the answers files, those of earlier rounds first.
        max_attempts: how often a row is asked at most; a cancelled or unsent request is no attempt.
    """
    found = RowSet(rows)
    for start, stop, parts in windows(answers, rows, ["keld_position", "keld_outcome", "keld_retryable"]):
        again = np.zeros(stop - start, dtype=np.bool_)
        satisfied = np.zeros(stop - start, dtype=np.bool_)
        attempts = np.zeros(stop - start, dtype=np.int16)
        for part in parts:
            where = part.column(0).to_numpy() - start
            here = part.column(2).to_numpy(zero_copy_only=False)
            again[where] = here
            satisfied[where] |= _is_answered(part.column(1)) & ~here  # a retryable answer is one that was not accepted
            attempts[where] += pc.invert(pc.is_in(part.column(1), value_set=_NO_ATTEMPT)).to_numpy(zero_copy_only=False)
        found.put(start, again & ~satisfied & (attempts < max_attempts))
    return found


def invalid(answers: Sequence[Path], rows: int) -> RowSet:
    """The rows whose latest answer was invalid.

    Args:
        answers: the answers files, those of earlier rounds first.
    """
    found = RowSet(rows)
    for start, stop, parts in windows(answers, rows, ["keld_position", "keld_outcome"]):
        here = np.zeros(stop - start, dtype=np.bool_)
        for part in parts:
            here[part.column(0).to_numpy() - start] = pc.equal(part.column(1), _INVALID).to_numpy(zero_copy_only=False)
        found.put(start, here)
    return found


def complaints(answers: Sequence[Path], positions: NDArray[np.int64]) -> dict[int, str]:
    """By position, why the latest answer was invalid, for those of `positions` (ascending) where it was.

    Args:
        answers: the answers files, those of earlier rounds first.
    """
    found: dict[int, str] = {}
    for path in answers:
        for batch in read_answers(path, columns=["keld_position", "keld_outcome", "keld_error"]):
            here = batch.filter(pa.array(np.isin(batch.column(0).to_numpy(), positions, assume_unique=True)))
            for position, outcome, error in zip(*(column.to_pylist() for column in here.columns), strict=True):
                found.pop(position, None)
                if outcome == Outcome.INVALID.value:
                    found[position] = error or "it is invalid"
    return found


def apart(answers: Sequence[Path], positions: NDArray[np.int64], max_attempts: int | None = None) -> frozenset[int]:
    """Those of `positions` (ascending) that share no request with other rows: an earlier one with them failed, and does not say because of which row.

    A row that was only never reached, since its batch expired or was cancelled, may share the next one, too.

    Args:
        answers: the answers files, as of `retryable_positions`.
        max_attempts: as there; a row that is asked for the last time shares no request, either.  None: a request that fails is asked again in parts.
    """
    failed = np.zeros(len(positions), dtype=np.bool_)
    attempts = np.ones(len(positions), dtype=np.int16)  # with the one that is about to begin
    for path in answers:
        for batch in read_answers(path, columns=["keld_position", "keld_outcome"]):
            asked = batch.column(0).to_numpy()
            here = np.isin(asked, positions, assume_unique=True)
            outcomes = batch.column(1).filter(pa.array(here))
            at = np.searchsorted(positions, asked[here])
            failed[at] |= pc.invert(pc.is_in(outcomes, value_set=_NOT_REACHED)).to_numpy(zero_copy_only=False)
            attempts[at] += pc.invert(pc.is_in(outcomes, value_set=_NO_ATTEMPT)).to_numpy(zero_copy_only=False)
    last = False if max_attempts is None else attempts >= max_attempts
    return frozenset(positions[failed | last].tolist())


def final_outcomes(answers: Sequence[Path], rows: int, unaskable: int) -> Counter[Outcome]:
    """How many rows end with which outcome; they add up to `rows`.

    Args:
        answers: the answers files, those of earlier rounds first.
        unaskable: how many rows could not be sent, and so are in no file.
    """
    kinds = list(Outcome)
    values, answered = pa.array([kind.value for kind in kinds]), kinds.index(Outcome.ANSWERED)
    totals = np.zeros(len(kinds), dtype=np.int64)
    for start, stop, parts in windows(answers, rows, ["keld_position", "keld_outcome"]):
        last = np.full(stop - start, -1, dtype=np.int8)
        for part in parts:
            where = part.column(0).to_numpy() - start
            found = pc.index_in(part.column(1), value_set=values).to_numpy()
            replaces = last[where] != answered
            last[where[replaces]] = found[replaces]
        totals += np.bincount(last[last >= 0], minlength=len(kinds))
    counts = Counter(dict(zip(kinds, totals.tolist(), strict=True)))
    counts[Outcome.UNASKABLE] += unaskable
    counts[Outcome.UNASKED] += rows - counts.total()
    return +counts


def _enriched(rows: pa.RecordBatch, parts: list[pa.RecordBatch], start: int, output: OutputSchema, schema: pa.Schema) -> pa.RecordBatch:
    n = rows.num_rows
    winner = np.full(n, -1, dtype=np.int64)
    answered = np.zeros(n, dtype=np.bool_)
    settled = np.zeros(n, dtype=np.bool_)
    pico = np.zeros(n, dtype=np.int64)
    offset = 0
    for part in parts:
        where = part.column(0).to_numpy() - start
        here = _is_answered(part.column(1))
        replaces = ~settled[where] & (here | ~answered[where])  # only another answer replaces one that was not accepted
        winner[where[replaces]] = offset + np.flatnonzero(replaces)
        answered[where] |= here
        settled[where] |= here & ~part.column(part.schema.get_field_index("keld_retryable")).to_numpy(zero_copy_only=False)
        pico[where] += part.column(part.schema.get_field_index("keld_cost_pico")).to_numpy()
        offset += part.num_rows
    source = [rows.column(name) for name in rows.schema.names if name != "keld_input_error"]
    unanswered = winner < 0
    # One answer a row, in the order of the rows, as in nearly all blocks: nothing is to be copied.
    order = None if len(parts) == 1 and np.array_equal(winner, np.arange(parts[0].num_rows)) else winner
    outcome, error, model, lane = (_taken(parts, name, order, pa.string()) for name in KELD_COLUMNS.names[:4])
    if unanswered.any():
        outcome, error = _never_sent(rows.column(rows.schema.get_field_index("keld_input_error")), unanswered, outcome, error)
    answers = [_taken(parts, column.name, order, column.type) for column in output.columns]
    return pa.RecordBatch.from_arrays([*source, *answers, outcome, error, model, lane, _usd(pico)], schema=schema)


def _taken(parts: list[pa.RecordBatch], name: str, order: NDArray[np.int64] | None, kind: pa.DataType) -> pa.Array:
    if order is None:
        return parts[0].column(name)
    if not parts:
        return pa.nulls(len(order), kind)
    column = pa.chunked_array([part.column(name) for part in parts], type=kind)
    return _one(column.take(pa.array(order, mask=order < 0)))


def _never_sent(input_error: pa.Array, unanswered: NDArray[np.bool_], outcome: pa.Array, error: pa.Array) -> tuple[pa.Array, pa.Array]:
    mask = pa.array(unanswered)
    unaskable = pc.is_valid(input_error)
    why = pc.if_else(unaskable, Outcome.UNASKABLE.value, Outcome.UNASKED.value)
    what = pc.if_else(unaskable, input_error, "the job run was cancelled before this row was sent")
    return pc.if_else(mask, why, outcome), pc.if_else(mask, what, error)


def _is_answered(outcome: pa.Array) -> NDArray[np.bool_]:
    answered: NDArray[np.bool_] = pc.equal(outcome, _ANSWERED).to_numpy(zero_copy_only=False)
    return answered


def _usd(pico: NDArray[np.int64]) -> pa.Array:
    """Whole pico-dollars as decimal128(18, 12): the same digits, read with twelve places."""
    low = pico.astype("<i8")
    both = np.empty((len(low), 2), dtype="<i8")
    both[:, 0], both[:, 1] = low, low >> 63
    return pa.Array.from_buffers(pa.decimal128(18, 12), len(low), [None, pa.py_buffer(both.tobytes())])


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
