"""Reuse: the answers that an earlier generation of a job run already paid for, found by the fingerprint of the prompt.

On the road: `snapshot` -> **`reuse`** -> `plan`.  Two snapshots are joined on the 16-byte fingerprints of their prompts; a row
whose prompt was answered before takes that answer, at no cost, whatever its position now; a quarantined row stays quarantined, since
asking it again could mean paying twice.  Half a million rows are compared at a time, so that memory does not grow with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from keld.answer import OWN, AnswerSink, answer_schema, read_answers
from keld.merge import windows
from keld.outcome import Outcome
from keld.row_set import WINDOW, RowSet
from keld.schema import OutputSchema
from keld.spool import Spool
from keld.table import read_parquet, rows_in

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PART = 1 << 18  # rows whose fingerprints are compared at a time, about; more of more than 33 million
_ANSWER_BYTES = 1_024  # of an answer in memory, at most in nearly all jobs; it decides in how many ranges they are sorted
_SPREAD = 64  # of so many rows one tells, well enough, how all are spread


def reuse(
    old_snapshot: Path,
    old_answers: Sequence[Path],
    new_snapshot: Path,
    settled: RowSet,
    output: OutputSchema,
    into: Path,
    outcome: Outcome = Outcome.ANSWERED,
) -> RowSet:
    """The rows of the new snapshot that need not be asked, beside `settled`; their earlier answers are at `into`, if there are any.

    Args:
        settled: rows that are not looked for.
        outcome: which outcome is taken over: ANSWERED, or QUARANTINED, for rows that must not be asked again.
    """
    hits, outcomes = RowSet(settled.rows), pa.array([outcome.value])
    rows = rows_in(old_snapshot)
    answered = _having(old_answers, rows, outcomes)
    with Spool(into.parent) as pairs:
        for sources, targets in _matches(old_snapshot, answered, new_snapshot, settled):
            hits.add(targets)
            pairs.add(sources << 32 | targets)
        if len(hits):
            _copy(old_answers, rows, pairs, hits, output, into, outcomes)
    return hits


def _matches(
    old_snapshot: Path, answered: RowSet, new_snapshot: Path, settled: RowSet
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(old row, new row) with the same prompt, of those that are `answered` and those that are not `settled`; a new row has one old row at most."""
    parts = min(128, 1 << (max(answered.rows, settled.rows) // _PART).bit_length())
    for part in range(parts):
        old_rows, old = _marks(old_snapshot, answered, True, part, parts)
        new_rows, new = _marks(new_snapshot, settled, False, part, parts)
        order = np.argsort(old, kind="stable")
        keys = old[order]
        at = np.searchsorted(keys, new)
        inside = np.flatnonzero(at < len(keys))
        hit = inside[keys[at[inside]] == new[inside]]
        yield old_rows[order[at[hit]]], new_rows[hit]


def _marks(snapshot: Path, rows: RowSet, wanted: bool, part: int, parts: int) -> tuple[NDArray[np.int64], NDArray[np.bytes_]]:
    """The positions and fingerprints of the rows of one part of all fingerprints that can be asked and are (`wanted`), or are not, among `rows`."""
    positions, marks, start = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype="S16")], 0
    for block in fingerprint_blocks(snapshot):
        chosen = (block != b"") & (rows.mask(start, start + len(block)) == wanted)
        if parts > 1:
            chosen &= np.ascontiguousarray(block).view(np.uint8)[::16] % np.uint8(parts) == part
        here = np.flatnonzero(chosen)
        positions.append(start + here)
        marks.append(block[here])
        start += len(block)
    return np.concatenate(positions), np.concatenate(marks)


def _copy(old_answers: Sequence[Path], rows: int, pairs: Spool, hits: RowSet, output: OutputSchema, into: Path, outcomes: pa.Array) -> None:
    """Copies the answers of `pairs`, each an old row and a new row in one number, window by window of the old rows."""
    starts = np.arange(WINDOW, rows, WINDOW, dtype=np.int64) << 32
    some = np.concatenate([block[::_SPREAD] for block in hits.blocks()])
    with AnswerSink(into, output, some, len(hits) * _ANSWER_BYTES) as sink:
        for (_, _, parts), moves in zip(windows(old_answers, rows), pairs.ordered(starts), strict=True):
            for part in parts:
                _move(part.filter(_has_outcome(part, outcomes)), moves >> 32, moves & 0xFFFF_FFFF, output, sink)


def copy_answers(
    old_answers: Sequence[Path], sources: NDArray[np.int64], targets: NDArray[np.int64], output: OutputSchema, into: Path
) -> None:
    """Copies the answer of old row `sources[i]` (ascending) to new row `targets[i]`, at no cost."""
    with AnswerSink(into, output, np.sort(targets), sum(path.stat().st_size for path in old_answers) * 4) as sink:
        for path in old_answers:
            for batch in read_answers(path):
                _move(batch, sources, targets, output, sink)


def _move(rows: pa.RecordBatch, sources: NDArray[np.int64], targets: NDArray[np.int64], output: OutputSchema, sink: AnswerSink) -> None:
    """Adds the answers of those of `sources` (ascending) that are among `rows`, as answers of `targets`."""
    positions = rows.column(0).to_numpy()
    first, after = np.searchsorted(sources, positions, "left"), np.searchsorted(sources, positions, "right")
    taken = np.repeat(np.arange(len(positions)), after - first)
    if len(taken):
        moved = np.concatenate([targets[a:b] for a, b in zip(first.tolist(), after.tolist(), strict=True)])
        sink.add(_moved(rows.take(pa.array(taken)), moved, answer_schema(output)))


def _moved(rows: pa.RecordBatch, positions: NDArray[np.int64], schema: pa.Schema) -> pa.RecordBatch:
    """The rows with the names of `schema`: the same question has the same columns in the same order, but `output_prefix` may have changed."""
    own = set(OWN.names)
    before, now = ([name for name in names if name not in own] for names in (rows.schema.names, schema.names))
    renamed = dict(zip(before, now, strict=True))
    columns = dict(zip([renamed.get(name, name) for name in rows.schema.names], rows.columns, strict=True))
    columns["keld_position"] = pa.array(positions)
    columns["keld_cost_pico"] = pa.array(np.zeros(len(positions), dtype=np.int64))  # it was paid and counted before
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


def _having(answers: Sequence[Path], rows: int, outcomes: pa.Array) -> RowSet:
    """The rows that have an answer with one of these outcomes."""
    found = RowSet(rows)
    for path in answers:
        for batch in read_answers(path, columns=["keld_position", "keld_outcome"]):
            found.add(batch.filter(_has_outcome(batch, outcomes)).column(0).to_numpy())
    return found


def _has_outcome(batch: pa.RecordBatch, outcomes: pa.Array) -> pa.Array:
    return pc.is_in(batch.column(batch.schema.get_field_index("keld_outcome")), value_set=outcomes)


def fingerprint_blocks(snapshot: Path) -> Iterator[NDArray[np.bytes_]]:
    """N x 16 bytes, block by block; empty for a row that cannot be asked."""
    for batch in read_parquet(snapshot, columns=["keld_fingerprint"]):
        yield _bytes16(batch.column(0))


def _bytes16(column: pa.Array) -> NDArray[np.bytes_]:
    found = np.frombuffer(column.buffers()[1], dtype="S16")[column.offset : column.offset + len(column)]
    return found if not column.null_count else np.where(column.is_null(), np.bytes_(b""), found)
