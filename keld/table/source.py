"""Source: a path, frame, Arrow object or rows -> a `Table`."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from keld.errors import InvalidJob, KeldError, SourceError
from keld.reading import USUAL, Reading
from keld.table.block import Table, plain_type
from keld.table.directory import of_directory, of_files
from keld.table.frame import of_columns, of_dataset, of_lazy_polars, of_pandas, of_rows, of_stream
from keld.table.lake import lake_at, open_lake
from keld.table.parts import Parts, of_parts
from keld.table.place import Place, is_pattern, is_upath, place_of, unreadable


def open_table(source: Any, *, partition: str | None = None, reading: Reading = USUAL) -> Table:
    """`source` as a table.

    Args:
        source: a path, UPath or URI of a Parquet, CSV, JSONL or Arrow file, of a directory of them or of a Delta table, a pattern
            (`part-*.csv`) or a list of paths (`{partition}` in them is filled); a pandas or Polars frame; an Arrow table, batch, reader or
            dataset; anything with `__arrow_c_stream__`; rows as dicts, named tuples, dataclasses, `sqlite3.Row` or Pydantic objects; a dict of
            columns; `Parts` of functions that return these; or a function that returns one of these, called only when the table is needed.
        partition: the key; percent-encoded, so that it is always one segment of the path.
        reading: how text files are read.

    Raises:
        SourceError: there is nothing to read, or it cannot be read; names the path and what to do.
        InvalidJob: `reading` declares a missing column, or one whose type the table itself declares, or has an option without effect on such
            a source.
    """
    table = _opened(source() if callable(source) else source, partition, reading)
    _check_types(table, reading)
    return table


def _opened(source: Any, partition: str | None, reading: Reading) -> Table:
    if source is None or (isinstance(source, str) and not source.strip()):
        raise SourceError(
            f"the source is {source!r}, which is neither rows nor a path. Nothing was sent. Does a function return nothing, or is a name empty? "
            "For no rows give []."
        )
    if _is_path(source):
        return _open_place(place_of(source).filled(partition, SourceError).as_written(), reading)
    if isinstance(source, list | tuple) and source and all(map(_is_path, source)):
        return _open_all([place_of(path).filled(partition, SourceError).as_written() for path in source], reading, f"{len(source)} paths")
    if isinstance(source, Parts):
        return of_parts(source, lambda part: _opened(part, partition, reading))
    reading.check_used(f"a {type(source).__name__}, which is not a text file")
    library = type(source).__module__.partition(".")[0]
    if library == "pandas":
        return of_pandas(source)
    if library == "polars" and hasattr(source, "collect_batches"):
        return of_lazy_polars(source)
    if library == "pyarrow" and hasattr(source, "scanner"):
        return of_dataset(source)
    if hasattr(source, "__arrow_c_stream__"):
        return of_stream(source)
    if isinstance(source, Mapping):
        return of_columns(source)
    if isinstance(source, Iterable) and not isinstance(source, bytes):
        return of_rows(source)
    raise SourceError(
        f"a {type(source).__name__} is not a table. Nothing was sent. "
        "Give a path, a pandas or Polars frame, an Arrow object, or rows as dicts."
    )


def _is_path(source: Any) -> bool:
    return isinstance(source, str | os.PathLike) or is_upath(source)


def _open_place(place: Place, reading: Reading) -> Table:
    try:
        if is_pattern(place):
            return _open_all(place.matches(), reading, place.uri)
        if (lake := lake_at(place)) is not None:
            reading.check_used(f"{place.uri}, which is a lake table")
            return open_lake(lake, place)
        return of_directory(place, reading) if place.is_dir() else of_files([(place, [])], reading, place.uri)
    except KeldError:
        raise
    except Exception as error:  # every fsspec file system has its own errors
        raise unreadable(place, error) from error


def _open_all(places: Sequence[Place], reading: Reading, description: str) -> Table:
    """One table of the files of several paths, in their order."""
    if not places:
        raise SourceError(
            f"{description}: no file matches this pattern. Nothing was sent. Check it and the partition's key.", source=description
        )
    for place in places:
        try:
            if lake_at(place) is not None:
                raise SourceError(
                    f"{place.uri}: a path of a lake table among several paths. Nothing was sent. Give the table's directory alone.",
                    source=place.uri,
                )
            if place.is_dir():
                raise SourceError(
                    f"{place.uri}: a directory among several paths. Nothing was sent. Give files, e.g. {place.path.rstrip('/')}/*.parquet.",
                    source=place.uri,
                )
        except OSError as error:
            raise unreadable(place, error) from error
    # The names of directories (`day=2026-11-02/`) become columns only if a directory is read as a whole.
    return of_files([(place, []) for place in places], reading, f"{description} ({len(places)} files)")


def _check_types(table: Table, reading: Reading) -> None:
    for name, kind in reading.column_types().items() if table.schema.names else ():
        if name not in table.schema.names:
            raise InvalidJob(
                f"types declares the column {name!r}, which {table.description} does not have (it has {', '.join(map(repr, table.schema.names))}). "
                "Nothing was sent. Correct types=."
            )
        found = table.schema.field(name).type
        if found != plain_type(kind):
            raise InvalidJob(
                f"types declares {name!r} {kind}, and {table.description} itself has the type {found}. Nothing was sent. "
                "types= is for CSV, JSON Lines and the names of Hive directories; convert the column in the source."
            )
