"""Parquet: row groups in -> blocks of about 3 MB; memory does not depend on the size of a group."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from keld.errors import StagingError
from keld.table.block import BLOCK_BYTES, BLOCK_ROWS, plain_schema
from keld.table.file import File
from keld.table.place import PathLike, Place, place_of

_PROBE_ROWS = 64


def _parquet_file(place: Place) -> pq.ParquetFile:
    # Not the defaults: those prefetch whole row groups (measured at 1M rows: 487 MB against 151, and slower).
    if place.fs is None:
        return pq.ParquetFile(pa.OSFile(place.path, mode="r"), pre_buffer=False, buffer_size=1 << 20)
    file = place.fs.open(place.path, "rb", cache_type="none")  # columns are far apart: a shared read-ahead would thrash
    return pq.ParquetFile(file, pre_buffer=False, buffer_size=4 << 20)


def parquet_file_of(place: Place) -> File:
    with _parquet_file(place) as file:
        schema, rows = plain_schema(file.schema_arrow, place.uri), file.metadata.num_rows
    return File(place=place, schema=schema, rows=rows, blocks=lambda _: read_range(place, None, 0, None))


def read_range(place: Place, columns: Sequence[str] | None, start: int, stop: int | None) -> Iterator[pa.RecordBatch]:
    with _parquet_file(place) as file:
        last = file.metadata.num_rows
        yield from _range(file, columns, start, last if stop is None else min(stop, last))


def _range(file: Any, columns: Sequence[str] | None, start: int, stop: int) -> Iterator[pa.RecordBatch]:
    rows, probing = _PROBE_ROWS, True
    while start < stop:
        groups, skip = _groups(file.metadata, start, stop)
        for batch in file.iter_batches(rows, row_groups=groups, columns=columns, use_threads=False):
            if skip >= batch.num_rows:
                skip -= batch.num_rows
                continue
            piece = batch.slice(skip, stop - start)
            yield piece
            start, skip = start + piece.num_rows, 0
            if start >= stop:
                return
            if probing or batch.nbytes > 2 * BLOCK_BYTES:
                probing, before, rows = False, rows, _fitting_rows(batch)
                if rows != before:
                    break  # a reader has one size for all its batches: a new reader begins here


def _fitting_rows(batch: pa.RecordBatch) -> int:
    """How many rows take about 3 MB in memory.

    The file's metadata does not say it: its sizes are those of the encoding, in which a repeated long text takes no space.
    """
    rows: int = BLOCK_BYTES * 3 // 4 * batch.num_rows // max(batch.nbytes, 1)
    return max(1, min(BLOCK_ROWS, rows))


def _groups(metadata: pq.FileMetaData, start: int, stop: int) -> tuple[list[int], int]:
    """The row groups that hold the range, and how many rows of the first of them come before it."""
    groups: list[int] = []
    skip = first = 0
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        if first < stop and first + rows > start:
            skip = skip if groups else start - first
            groups.append(group)
        first += rows
    return groups, skip


def rows_in(path: PathLike) -> int:
    """How many rows a staging file has.

    Raises:
        StagingError: the file is missing or broken.
    """
    place = place_of(path, StagingError)
    with _staging_faults(place), _parquet_file(place) as file:
        return int(file.metadata.num_rows)


def read_ranges(path: PathLike, columns: Sequence[str], ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """(first row, block) of the rows in each of these ranges (start, stop) of a staging file, in order; it is opened once.

    Raises:
        StagingError: the file is missing or broken.
    """
    place = place_of(path, StagingError)
    with _staging_faults(place), _parquet_file(place) as file:
        for start, stop in ranges:
            at = start
            for batch in _range(file, columns, start, min(stop, file.metadata.num_rows)):
                yield at, batch
                at += batch.num_rows


def read_parquet(path: PathLike, columns: Sequence[str] | None = None, start: int = 0, stop: int | None = None) -> Iterator[pa.RecordBatch]:
    """The rows `start` <= i < `stop` of a staging file, only `columns`, in order, in blocks of about 3 MB.

    Row groups outside of the range are not touched; memory does not depend on how large they are.

    Raises:
        StagingError: the file is missing or broken.
    """
    place = place_of(path, StagingError)
    with _staging_faults(place):
        yield from read_range(place, columns, start, stop)


@contextmanager
def _staging_faults(place: Place) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise StagingError(f"{place.uri}: staging cannot be read: {error}. Restore the file, or submit the job run again.") from error
