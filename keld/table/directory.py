"""Directory: many files as one table; the names of Hive directories become columns.

Part files of one table differ: a column was added, had no value in one part (pandas writes it as null), or was narrower.  Their schemas are
unified if no value changes; if one would, the error names both files.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

import pyarrow as pa

from keld.errors import KeldError, SourceError
from keld.reading import Reading
from keld.table.block import Table, table_of
from keld.table.declared import declared
from keld.table.file import File
from keld.table.form import open_file
from keld.table.lake import NULL_KEY
from keld.table.place import Place, form_of, unreadable
from keld.table.unify import unified, unified_text
from keld.table.writer import WRITERS


def of_directory(root: Place, reading: Reading) -> Table:
    """The table of all files below `root`, in the order of their paths, without hidden ones.

    Raises:
        SourceError: there is none, or they are not of one kind.
    """
    places = [place for place in root.files() if form_of(place.path) in WRITERS]
    if not places:
        raise SourceError(
            f"{root.uri}: no Parquet, CSV or JSONL file in this directory. Nothing was sent. Check the path.", source=root.uri
        )
    return of_files([(place, root.parts_to(place)[:-1]) for place in places], reading, f"{root.uri} ({len(places)} files)")


def of_files(places: Sequence[tuple[Place, Sequence[str]]], reading: Reading, description: str) -> Table:
    """Files as one table, in this order.

    Args:
        places: each with the names of its directories that may hold column values (`day=2026-11-02`).
    """
    forms = {form_of(place.path) for place, _ in places}
    if len(forms) > 1:
        raise SourceError(
            f"{description}: files of several formats ({', '.join(sorted(map(str, forms)))}). Nothing was sent. Keep one.",
            source=description,
        )
    # All files are opened now: one that does not fit must be found before anything is paid.
    parts = [_part(_opened(place, reading), folders) for place, folders in places]
    full = [part for part in parts if part.file.schema.names]
    for part in full:
        if part.keys.keys() != full[0].keys.keys():
            raise SourceError(
                f"{part.file.place.uri}: its directories name other columns than those of {full[0].file.place.uri}. Nothing was sent. Rename them.",
                source=part.file.place.uri,
            )
    schema = _schema(full, reading)
    known = [part.file.rows for part in parts]
    rows = None if None in known else sum(rows for rows in known if rows is not None)
    notes = tuple(dict.fromkeys(part.file.note for part in full if part.file.note))[:1]
    return table_of(schema, rows, description, lambda: (block for part in full for block in part.blocks(schema)), notes)


def _opened(place: Place, reading: Reading) -> File:
    """As `open_file`; every error names this file."""
    try:
        return open_file(place, reading)
    except KeldError:
        raise
    except Exception as error:  # every fsspec file system has its own errors
        raise unreadable(place, error) from error


@dataclass(frozen=True, slots=True)
class _Part:
    """A file, and the column values that the names of its directories give to all its rows."""

    file: File
    keys: dict[str, str | None]

    def blocks(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        own = pa.schema([schema.field(name) for name in self.file.schema.names])
        for block in self.file.blocks(own):
            found = dict(zip(block.schema.names, block.columns, strict=True))
            columns = [found[column.name] if column.name in found else self._said(column, block.num_rows) for column in schema]
            yield pa.RecordBatch.from_arrays(columns, names=schema.names)

    def _said(self, column: pa.Field, rows: int) -> pa.Array:
        """The column of a directory's key, or nulls for a column that the file does not have."""
        if self.keys.get(column.name) is None:
            return pa.nulls(rows, column.type)
        key = declared(pa.array([self.keys[column.name]], type=pa.string()), column, self.file.place, lambda _: "its directory")
        return pa.repeat(key[0], rows)


def _part(file: File, folders: Sequence[str]) -> _Part:
    """`a=x/b=y/` -> columns of strings, unless the file itself has a column of that name."""
    pairs = [folder.split("=", 1) for folder in folders if "=" in folder]
    values = {name: None if value == NULL_KEY else unquote(value) for name, value in pairs}
    return _Part(file, {name: value for name, value in values.items() if name not in file.schema.names})


def _schema(parts: Sequence[_Part], reading: Reading) -> pa.Schema:
    types: dict[str, pa.DataType] = {}
    first: dict[str, File] = {}
    for part in parts:
        both = unified if part.file.settled is None else unified_text
        for column in part.file.schema:
            kind = both(types.get(column.name, pa.null()), column.type)
            if kind is None:
                raise SourceError(
                    f"{part.file.place.uri}: mixed schemas: column {column.name!r} is {column.type} here and {types[column.name]} in "
                    f"{first[column.name].place.uri}, and no type holds both unchanged. Nothing was sent. Write the files with one schema.",
                    source=part.file.place.uri,
                )
            types[column.name] = kind
            first.setdefault(column.name, part.file)
    settled = parts[0].file.settled if parts else None
    if settled is not None:
        types = {name: settled(kind) for name, kind in types.items()}
    named = reading.column_types()
    keys = parts[0].keys if parts else {}
    return pa.schema([*types.items(), *((name, named.get(name, pa.string())) for name in keys)])
