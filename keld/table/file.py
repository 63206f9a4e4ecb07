"""File: one file with its plain schema known, whatever its format."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from keld.table.place import Place


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file with its plain schema known."""

    place: Place
    schema: pa.Schema
    rows: int | None
    blocks: Callable[[], Iterator[pa.RecordBatch]]
