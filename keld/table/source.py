"""Source: whatever holds a table -> a `Table`."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from keld.errors import SourceError
from keld.table.block import Table, table_of
from keld.table.directory import of_directory
from keld.table.form import open_file
from keld.table.frame import of_dataset, of_lazy_polars, of_pandas, of_rows, of_stream
from keld.table.place import Place, is_upath, place_of, unreadable


def open_table(source: Any, *, partition: str | None = None) -> Table:
    """`source` as a table.

    Args:
        source: a path, UPath or URI of a Parquet, CSV or JSONL file or of a directory of them (`{partition}` in it is
            filled); a pandas or Polars frame; an Arrow table, batch, reader or dataset; anything with
            `__arrow_c_stream__`; rows as dicts; or a function that gives one of these, called only where the table is needed.
        partition: the key; percent-encoded, so that it stays one segment of the path whatever it holds.

    Raises:
        SourceError: there is nothing to read, or it cannot be read; names the path and what to do.
    """
    if callable(source):
        source = source()
    if isinstance(source, str | os.PathLike) or is_upath(source):
        return _open_place(place_of(source).filled(partition, SourceError))
    library = type(source).__module__.partition(".")[0]
    if library == "pandas":
        return of_pandas(source)
    if library == "polars" and hasattr(source, "collect_batches"):
        return of_lazy_polars(source)
    if library == "pyarrow" and hasattr(source, "scanner"):
        return of_dataset(source)
    if hasattr(source, "__arrow_c_stream__"):
        return of_stream(source)
    if isinstance(source, Iterable) and not isinstance(source, Mapping | bytes):
        return of_rows(source)
    raise SourceError(
        f"a {type(source).__name__} is no table. Nothing was sent. "
        "Give a path, a pandas or Polars frame, an Arrow object, or rows as dicts."
    )


def _open_place(place: Place) -> Table:
    try:
        if place.is_dir():
            return of_directory(place)
        file = open_file(place, None)
    except SourceError:
        raise
    except Exception as error:  # every fsspec file system has its own
        raise unreadable(place, error) from error
    return table_of(file.schema, file.rows, place.uri, file.blocks)
