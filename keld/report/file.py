"""File: the report's files, each written completely or not at all, to a local path or any file system that a URI names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import pyarrow as pa

from keld.errors import SinkError
from keld.table.landing import Landing
from keld.table.place import PathLike, Place, place_of
from keld.table.writer import WRITERS

Form = Literal["parquet", "csv"]


def write_page(path: PathLike, page: str) -> str:
    """The URI of a page after it was written.

    Raises:
        SinkError: it cannot be written; an earlier file there is unchanged.
    """
    place = place_of(path, SinkError)
    with Landing(place, _unwritten) as landing:
        landing.write(page.encode())
    return place.uri


def write_tables(directory: PathLike, tables: Mapping[str, pa.Table], form: Form) -> list[str]:
    """The URIs of `<name>.parquet` or `<name>.csv` in a directory, after they were written.

    Raises:
        SinkError: one cannot be written; those before it are written, and others are unchanged.
    """
    place = place_of(directory, SinkError)
    return [_write_table(place.child(f"{name}.{form}"), table, form) for name, table in tables.items()]


def _write_table(place: Place, table: pa.Table, form: Form) -> str:
    with Landing(place, _unwritten) as landing:
        writer = WRITERS[form](landing, table.schema)
        for batch in table.to_batches():
            writer.write(batch)
        writer.close()
    return place.uri


def _unwritten(place: Place, error: Exception) -> SinkError:
    return SinkError(
        f"{place.uri}: the report cannot be written: {error}. An earlier one there is unchanged. Check the path and access to it.",
        sink=place.uri,
    )
