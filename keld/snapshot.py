"""Snapshot: the rows of a partition as they were asked, each with its prompt; taken once, at submission.

On the road: `table` + `request` -> **`snapshot`** -> `shard`, `answer`.
A job run keeps its own copy of what was asked: if the upstream is rewritten while the provider works, nothing changes here, a retry
asks the same bytes, and the enriched partition is the snapshot plus the answers.  One streamed pass reads the source, renders
the prompts, checks the keys and writes one Parquet file: the table's columns, then `keld_prompt` (a JSON fragment),
`keld_size` (its bytes; 0 where the row cannot be asked), `keld_input_error`, `keld_fingerprint` (16 bytes).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from keld.errors import SourceError
from keld.failpoint import failpoint
from keld.job import Column, Job, template_columns
from keld.prompt import Prompts, check_columns, renderer
from keld.request import row_fingerprint
from keld.size import Sizes
from keld.spool import Spool
from keld.table import ROW_FAULT, ParquetSink, Table, read_parquet, read_ranges

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FAR_ROWS = 4_096  # between two rows: more of them cost more to read over than a new range costs to begin
_NO_PROMPT, _NO_BYTES = pa.scalar(None, type=pa.large_binary()), pa.scalar(0, type=pa.int64())
OWN = pa.schema(
    [
        pa.field("keld_prompt", pa.large_binary()),
        pa.field("keld_size", pa.int32()),
        pa.field("keld_input_error", pa.string()),
        pa.field("keld_fingerprint", pa.binary(16)),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What was found in the partition; the file holds the rows."""

    rows: int
    unaskable: int
    prompt_bytes: int  # of all fragments
    marks_cache: bool  # a prompt sets cache marks of its own
    digest: str  # of the file: the same rows have the same digest
    skipped: Mapping[str, int] = field(default_factory=dict)  # why rows cannot be asked, and how many for each reason


def take(job: Job, table: Table, path: Path, marks_cache: Callable[[bytes], bool] = lambda fragment: False) -> Snapshot:
    """The snapshot of a partition, read once and written to `path`, whole or not at all.

    Args:
        marks_cache: True if a prompt fragment sets cache marks of its own.

    Raises:
        SourceError: a column is missing, or of a type that cannot be used; the key is null or repeated (the message says where); the table
            cannot be read.
    """
    columns = _columns(job, table)
    check_columns(job, columns)
    _check_numbers(job, columns)
    render = renderer(job.prompt, job.missing)
    rows = unaskable = prompt_bytes = 0
    marked, skipped = False, Counter[str]()
    schema = pa.schema([*columns, *OWN])
    failpoint("snapshot.write")
    with Spool(path.parent) as hashes, ParquetSink(path, schema) as sink:
        keys = _Keys(job, hashes)
        for batch in table.batches():
            plain = batch.select(columns.names)
            keys.add(plain.column(job.key), rows)
            asked = render(plain)
            if ROW_FAULT in batch.schema.names:
                asked = _without(asked, batch.column(batch.schema.get_field_index(ROW_FAULT)))
            own = _own_columns(asked)
            sink.write(pa.RecordBatch.from_arrays([*plain.columns, *own], schema=schema))
            rows += batch.num_rows
            if faults := asked.errors.drop_null().to_pylist():
                skipped.update(faults)
                unaskable += len(faults)
            prompt_bytes += pc.sum(own[1]).as_py() or 0
            marked = marked or any(map(marks_cache, _conversations(asked)))
        keys.check(rows)
    failpoint("snapshot.done")
    return Snapshot(rows=rows, unaskable=unaskable, prompt_bytes=prompt_bytes, marks_cache=marked, digest=sink.sha256, skipped=skipped)


def sizes(path: Path) -> Sizes:
    """The fragment sizes of all rows; 0 for a row that cannot be asked."""
    return Sizes(lambda: (batch.column(0).to_numpy().astype("int64") for batch in read_parquet(path, columns=["keld_size"])))


def sizes_at(path: Path, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """The fragment sizes in bytes of the rows at `positions` (ascending, one or more)."""
    import numpy as np

    start = int(positions[0])
    blocks = read_parquet(path, columns=["keld_size"], start=start, stop=int(positions[-1]) + 1)
    return np.concatenate([batch.column(0).to_numpy(zero_copy_only=False).astype("int64") for batch in blocks])[positions - start]


def priorities(path: Path, column: str | None) -> NDArray[np.float64] | None:
    """N numbers, the priority of each row; a null is the lowest.  None if the job has no such column."""
    import numpy as np

    if column is None:
        return None
    blocks = [
        batch.column(0).cast(pa.float64()).fill_null(float("-inf")).to_numpy(zero_copy_only=False)
        for batch in read_parquet(path, columns=[column])
    ]
    return np.concatenate(blocks) if blocks else np.array([], dtype=np.float64)


def fragments(path: Path, positions: NDArray[np.int64]) -> Iterator[tuple[int, bytes]]:
    """(position, prompt fragment) of the rows at `positions` (ascending), in order."""
    for here, asked in fragment_blocks(path, positions):
        yield from zip(here.tolist(), asked.to_pylist(), strict=True)


def fragment_blocks(path: Path, positions: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], pa.Array]]:
    """The same in blocks of about 3 MB: the positions of N rows, and their N fragments as large_binary."""
    import numpy as np

    if not len(positions):
        return
    # Rows that lie far apart, as those of a sample or of a second round, are read without what lies between them.
    ends = np.flatnonzero(np.diff(positions) > _FAR_ROWS) + 1
    ranges = [(int(part[0]), int(part[-1]) + 1) for part in np.split(positions, ends)]
    for at, batch in read_ranges(path, ["keld_prompt"], ranges):
        here = positions[np.searchsorted(positions, at) : np.searchsorted(positions, at + batch.num_rows)]
        column = batch.column(0)
        yield here, column if len(here) == batch.num_rows else column.take(pa.array(here - at))


def _columns(job: Job, table: Table) -> pa.Schema:
    """The table's own columns; for an empty partition without any columns, those that the job names.

    They have the null type: readers of many partitions' outputs unify null with any type of the others, but text only with text.
    """
    if not table.schema.names and table.rows == 0:
        prompt = (
            template_columns(job.prompt) if isinstance(job.prompt, str) else [job.prompt.name] if isinstance(job.prompt, Column) else []
        )
        named = dict.fromkeys([job.key, *prompt], pa.null())
        return pa.schema(list((named | ({job.priority: pa.float64()} if job.priority else {})).items()))
    return pa.schema([column for column in table.schema if column.name != ROW_FAULT])


def _check_numbers(job: Job, columns: pa.Schema) -> None:
    """Passes if columns that the job uses or formats as numbers are not text, as CSV columns are unless their type is declared.

    Raises:
        SourceError: names the column and how to declare it.
    """
    kinds = {column.name: column.type for column in columns}
    way = "Nothing was sent. Convert it, or if it is read from CSV or JSON Lines declare it: types={{{!r}: 'decimal(12,2)'}}."
    priority = kinds.get(job.priority) if job.priority else pa.float64()
    if priority is None:
        raise SourceError(
            f"{job.name}: priority names the column {job.priority!r}, which the table does not have. Nothing was sent.", job=job.name
        )
    if not (pa.types.is_integer(priority) or pa.types.is_floating(priority) or pa.types.is_decimal(priority)):
        raise SourceError(
            f"{job.name}: priority names the column {job.priority!r}, which is {priority}, not a number. {way.format(job.priority)}",
            job=job.name,
        )
    for _, name, form, _ in Formatter().parse(job.prompt) if isinstance(job.prompt, str) else ():
        if name and form and pa.types.is_string(kinds.get(name, pa.null())):
            try:
                format("", form)
            except ValueError:
                raise SourceError(
                    f"{job.name}: prompt formats {{{name}:{form}}}, and the column {name!r} is text. {way.format(name)}", job=job.name
                ) from None


def _without(asked: Prompts, faults: pa.Array) -> Prompts:
    """`asked`, where rows with a fault cannot be asked because of it."""
    return Prompts(pc.if_else(faults.is_valid(), _NO_PROMPT, asked.fragments), pc.coalesce(faults, asked.errors))


def _conversations(asked: Prompts) -> list[bytes]:
    """The fragments that are whole conversations."""
    found: list[bytes] = asked.fragments.filter(pc.starts_with(asked.fragments, pattern="[")).to_pylist()
    return found


def _own_columns(asked: Prompts) -> list[pa.Array]:
    """N x `OWN`."""
    import numpy as np

    count, (_, offsets, content) = len(asked.fragments), asked.fragments.buffers()
    bounds = np.frombuffer(offsets, dtype=np.int64, count=count + 1, offset=8 * asked.fragments.offset).tolist()
    prompts = memoryview(content or b"")
    marks = b"".join([row_fingerprint(prompts[start:stop]) for start, stop in pairwise(bounds)])
    valid = asked.fragments.is_valid().to_numpy(zero_copy_only=False)
    askable = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
    return [
        asked.fragments,
        pc.fill_null(pc.binary_length(asked.fragments), _NO_BYTES).cast(pa.int32()),
        asked.errors,
        pa.Array.from_buffers(pa.binary(16), count, [askable, pa.py_buffer(marks)]),
    ]


def _as_text(column: pa.Array) -> pa.Array:
    if isinstance(column, pa.ExtensionArray):  # a UUID cast to text would give its bytes
        return _as_text(column.storage)
    if pa.types.is_fixed_size_binary(column.type):
        return column.cast(pa.binary())
    return column if pa.types.is_binary(column.type) or pa.types.is_string(column.type) else column.cast(pa.string())


class _Keys:
    """Finds null and repeated keys."""

    def __init__(self, job: Job, hashes: Spool) -> None:
        self._job = job
        self._hashes = hashes

    def add(self, column: pa.Array, first_row: int) -> None:
        import numpy as np

        if column.null_count:
            row = first_row + pc.index(column.is_null(), pa.scalar(True)).as_py()
            raise SourceError(
                f"{self._job.name}: the key {self._job.key!r} is null in row {row:,} (counted from 0). Nothing was sent. "
                "Every row needs a key: fill it, or drop the row."
            )
        try:
            # As bytes: a text need not be valid UTF-8 to be a key.
            values = _as_text(column).cast(pa.binary())
        except pa.ArrowException:
            raise SourceError(
                f"{self._job.name}: the key {self._job.key!r} is of type {column.type}. Nothing was sent. A key is text, a number or a date."
            ) from None
        # Python's own hash of text: 64 bits with a secret of this process, so nobody can construct collisions.
        self._hashes.add(np.fromiter(map(hash, values.to_pylist()), dtype=np.int64, count=len(values)))

    def check(self, rows: int) -> None:
        """Raises if a key occurs twice, by 64-bit hashes: a million distinct keys collide in one of 40 million tables."""
        twice = self._hashes.repeated()
        if len(twice):
            first, second = self._hashes.first_two(int(twice[0]))
            raise SourceError(
                f"{self._job.name}: the key {self._job.key!r} is not unique: rows {first:,} and {second:,} (counted from 0) have the same value, "
                f"and {len(twice):,} rows of {rows:,} repeat an earlier one. Nothing was sent. Choose a unique key, or remove the repeats."
            )
