"""Text: what CSV and JSON Lines share: the types are those of the first 2 MB, and hold for the rest."""

import io
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from keld.errors import SourceError
from keld.table.block import plain_schema
from keld.table.file import File
from keld.table.place import Place

TEXT_BLOCK = 2 << 20  # CSV and JSONL: what types are inferred from, and the largest row


@dataclass(frozen=True, slots=True)
class TextForm:
    """Args: `reader` of a place with these types (None: found by itself); `fault`, what to say when it stops."""

    reader: Callable[[Place, pa.Schema | None], Any]
    column_type: Callable[[pa.DataType], pa.DataType]
    fault: Callable[[Place, pa.Schema, Exception], SourceError]


def text_file(place: Place, like: pa.Schema | None, form: TextForm) -> File:
    try:
        with closing(form.reader(place, like)) as reader:
            found = reader.schema
    except pa.ArrowInvalid as error:
        raise form.fault(place, like or pa.schema([]), error) from None
    schema = plain_schema(pa.schema([(column.name, form.column_type(column.type)) for column in found]), place.uri)

    def blocks() -> Iterator[pa.RecordBatch]:
        try:
            with closing(form.reader(place, schema)) as reader:
                yield from reader
        except pa.ArrowInvalid as error:
            raise form.fault(place, schema, error) from None  # Arrow's own message quotes the row

    return File(place=place, schema=schema, rows=None, blocks=blocks)


def text_fault(place: Place, error: Exception) -> SourceError:
    if "straddling" in str(error):
        return SourceError(f"{place.uri}: a row is larger than 2 MB. Nothing was sent. Give the table as Parquet.")
    if "Empty" in str(error):
        return SourceError(f"{place.uri}: no rows and no column names. Nothing was sent. Give an empty table as Parquet.")
    return SourceError(f"{place.uri}: this is not UTF-8 text in the form its suffix says. Nothing was sent. Repair it.")


class Raw(io.RawIOBase):
    """An Arrow file as one that Python's text layers read lines from."""

    def __init__(self, file: pa.NativeFile) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()
