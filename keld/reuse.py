"""Reuse: the answers that an earlier generation of a job run already paid for, found by the fingerprint of the prompt.

On the road: `snapshot` -> **`reuse`** -> `plan`.  Two snapshots are joined on the 16-byte fingerprints of their prompts; a row
whose prompt was answered before takes that answer, at no cost, whatever its position now; a quarantined row stays quarantined, since
asking it again could mean paying twice.  Memory: 40 bytes a row of either snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from keld.answer import OWN, AnswerSink, answer_schema, read_answers
from keld.outcome import Outcome
from keld.row_set import RowSet
from keld.schema import OutputSchema
from keld.table import read_parquet

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
    old, new = fingerprints(old_snapshot), fingerprints(new_snapshot)
    outcomes = pa.array([outcome.value])
    old_position = _positions_of(old_answers, len(old), outcomes)
    order = old_position[np.argsort(old[old_position], kind="stable")]
    keys = old[order]
    at = np.searchsorted(keys, new)
    hit = np.zeros(len(new), dtype=np.bool_)
    inside = at < len(keys)
    hit[inside] = (keys[at[inside]] == new[inside]) & (new[inside] != b"")
    hit &= ~settled.mask(0, len(new))
    if hit.any():
        copy_answers(old_answers, order[at[hit]], np.flatnonzero(hit), output, into, outcomes)
    return RowSet.of(len(new), np.flatnonzero(hit))


def copy_answers(
    old_answers: Sequence[Path],
    sources: NDArray[np.int64],
    targets: NDArray[np.int64],
    output: OutputSchema,
    into: Path,
    outcomes: pa.Array,
) -> None:
    """Copies the answer of old row `sources[i]` to new row `targets[i]`, at no cost.

    Args:
        outcomes: the outcomes that are copied; empty: all.
    """
    by_source = np.argsort(sources, kind="stable")
    sources, wanted = sources[by_source], targets[by_source]
    weight = sum(path.stat().st_size for path in old_answers) * 4  # Parquet is compressed; this only decides how the answers are sorted
    schema = answer_schema(output)
    with AnswerSink(into, output, np.sort(targets), weight) as sink:
        for path in old_answers:
            for batch in read_answers(path):
                rows = batch if not len(outcomes) else batch.filter(_has_outcome(batch, outcomes))
                positions = rows.column(0).to_numpy()
                first, after = np.searchsorted(sources, positions, "left"), np.searchsorted(sources, positions, "right")
                taken = np.repeat(np.arange(len(positions)), after - first)
                if len(taken):
                    moved = np.concatenate([wanted[a:b] for a, b in zip(first.tolist(), after.tolist(), strict=True)])
                    sink.add(_moved(rows.take(pa.array(taken)), moved, schema))


def _moved(rows: pa.RecordBatch, positions: NDArray[np.int64], schema: pa.Schema) -> pa.RecordBatch:
    """The rows with the names of `schema`: the same question has the same columns in the same order, but `output_prefix` may have changed."""
    own = set(OWN.names)
    before, now = ([name for name in names if name not in own] for names in (rows.schema.names, schema.names))
    renamed = dict(zip(before, now, strict=True))
    columns = dict(zip([renamed.get(name, name) for name in rows.schema.names], rows.columns, strict=True))
    columns["keld_position"] = pa.array(positions)
    columns["keld_cost_pico"] = pa.array(np.zeros(len(positions), dtype=np.int64))  # it was paid and counted before
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


def _positions_of(answers: Sequence[Path], rows: int, outcomes: pa.Array) -> NDArray[np.int64]:
    found = np.zeros(rows, dtype=np.bool_)
    for path in answers:
        for batch in read_answers(path, columns=["keld_position", "keld_outcome"]):
            found[batch.filter(_has_outcome(batch, outcomes)).column(0).to_numpy()] = True
    return np.flatnonzero(found)


def _has_outcome(batch: pa.RecordBatch, outcomes: pa.Array) -> pa.Array:
    return pc.is_in(batch.column(batch.schema.get_field_index("keld_outcome")), value_set=outcomes)


def fingerprints(snapshot: Path) -> NDArray[np.bytes_]:
    """N x 16 bytes; empty for a row that cannot be asked."""
    blocks = list(fingerprint_blocks(snapshot))
    return np.concatenate(blocks) if blocks else np.array([], dtype="S16")


def fingerprint_blocks(snapshot: Path) -> Iterator[NDArray[np.bytes_]]:
    """The same, block by block."""
    for batch in read_parquet(snapshot, columns=["keld_fingerprint"]):
        yield _bytes16(batch.column(0))


def _bytes16(column: pa.Array) -> NDArray[np.bytes_]:
    found = np.frombuffer(column.buffers()[1], dtype="S16")[column.offset : column.offset + len(column)]
    return found if not column.null_count else np.where(column.is_null(), np.bytes_(b""), found)
