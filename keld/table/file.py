"""File: one file with its plain schema known, whatever its format."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from keld.table.place import Place


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file with its plain schema known.

    Args:
        schema: without columns, the file is an empty partition.
        blocks: reads the rows; JSON Lines by this schema, which holds their values, others by their own.
        settled: of a format whose values are all written out, the type of a column that all its files are seen of; mixed ones are JSON there.
        note: how it is read, for who plans.
    """

    place: Place
    schema: pa.Schema
    rows: int | None
    blocks: Callable[[pa.Schema], Iterator[pa.RecordBatch]]
    settled: Callable[[pa.DataType], pa.DataType] | None = None
    note: str | None = None
