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
        blocks: reads the rows; JSON Lines by the given schema, which holds their values, other formats by their own.
        settled: for formats that write all values as text, the final type of a column after all files were seen; mixed types become JSON.
        note: how it is read, shown with the plan.
    """

    place: Place
    schema: pa.Schema
    rows: int | None
    blocks: Callable[[pa.Schema], Iterator[pa.RecordBatch]]
    settled: Callable[[pa.DataType], pa.DataType] | None = None
    note: str | None = None
