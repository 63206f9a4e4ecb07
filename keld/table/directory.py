"""Directory: all files below a path as one table; the names of Hive directories become columns."""

from collections.abc import Iterator
from urllib.parse import unquote

import pyarrow as pa

from keld.errors import SourceError
from keld.table.block import Table, table_of
from keld.table.file import File
from keld.table.form import open_file
from keld.table.place import Place, form_of
from keld.table.writer import WRITERS


def of_directory(root: Place) -> Table:
    places = [place for place in root.files() if form_of(place.path) in WRITERS]
    if not places:
        raise SourceError(f"{root.uri}: no Parquet, CSV or JSONL file in this directory. Nothing was sent. Check the path.")
    if len({form_of(place.path) for place in places}) > 1:
        raise SourceError(f"{root.uri}: files of several formats in one directory. Nothing was sent. Leave one.")
    # All of them now: a file that does not fit must be known before anything is paid.
    first = open_file(places[0], None)
    files = [first, *(open_file(place, first.schema) for place in places[1:])]
    hive = [_hive(root, file) for file in files]
    for file, keys in zip(files, hive, strict=True):
        _check_alike(first, file)
        if keys.keys() != hive[0].keys():
            raise SourceError(f"{file.place.uri}: its directories name other columns than {first.place.uri} does. Mend them.")
    schema = pa.schema([*first.schema, *((name, pa.string()) for name in hive[0])])
    rows = sum(file.rows for file in files if file.rows is not None) if first.rows is not None else None

    def blocks() -> Iterator[pa.RecordBatch]:
        for file, keys in zip(files, hive, strict=True):
            for block in file.blocks():
                for name, value in keys.items():
                    block = block.append_column(name, pa.repeat(pa.scalar(value, type=pa.string()), block.num_rows))
                yield block

    return table_of(schema, rows, f"{root.uri} ({len(files)} files)", blocks)


def _hive(root: Place, file: File) -> dict[str, str | None]:
    """`a=x/b=y/` -> columns of strings, where the file itself has none of that name."""
    pairs = [part.split("=", 1) for part in root.parts_to(file.place)[:-1] if "=" in part]
    values = {name: None if value == "__HIVE_DEFAULT_PARTITION__" else unquote(value) for name, value in pairs}
    return {name: value for name, value in values.items() if name not in file.schema.names}


def _check_alike(first: File, file: File) -> None:
    ours, theirs = ({column.name: column.type for column in one.schema} for one in (first, file))
    for name in dict.fromkeys((*ours, *theirs)):
        if ours.get(name) != theirs.get(name):
            raise SourceError(
                f"{file.place.uri}: mixed schemas: column {name!r} is {theirs.get(name, 'absent')} here and "
                f"{ours.get(name, 'absent')} in {first.place.uri}. Nothing was sent. Write the files with one schema."
            )
