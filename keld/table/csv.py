"""CSV: every column is text, as it is written, unless its type is declared.

Types are not guessed: readers that guess turn `007` into 7, `12E5` into 1200000.0, an id into 4.1e21, and each reader guesses differently.
What cannot be right is refused before anything is sent, with the line and the likely fix: rows of different width, quotes that are not
closed, columns of the same name, a delimiter that the header does not have.  An empty field is null, one in quotes (`""`) an empty text;
if a type is declared, both are null.
"""

import csv
import io
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa

from keld.errors import SourceError
from keld.reading import Reading
from keld.table.block import plain_schema
from keld.table.declared import check_declared, declared
from keld.table.file import File
from keld.table.place import Place, delimiter_of
from keld.table.quote import Quotes
from keld.table.text import TEXT_BLOCK, Text, check_no_nul, encoding_fault, line_at

_DELIMITERS = {";": "a semicolon", "\t": "a tab", "|": "a bar", ",": "a comma"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Dialect:
    """How one file is cut into fields."""

    encoding: str | None
    encoding_name: str
    delimiter: str
    quote: str
    skipped_rows: int  # before the header
    has_rows: bool = True


def csv_file(place: Place, reading: Reading) -> File:
    """A CSV file with its columns known: the names of its first row.

    Raises:
        SourceError: it is not what its suffix says, or not readable with this dialect.
    """
    dialect, names = _head(place, reading)
    types = {name: kind for name, kind in reading.column_types().items() if name in names}
    schema = plain_schema(pa.schema([(name, types.get(name, pa.string())) for name in names]), place.uri)
    check_declared(place, types)
    return File(
        place=place,
        schema=schema,
        rows=None if dialect.has_rows else 0,
        blocks=lambda _: _blocks(place, dialect, schema),
        note=_note(dialect, names, types),
    )


def _note(dialect: _Dialect, names: list[str], types: Mapping[str, pa.DataType]) -> str | None:
    texts = [name for name in names if name not in types]
    if not texts:
        return None
    shown = ", ".join(texts[:8]) + (", ..." if len(texts) > 8 else "")
    delimiter = _DELIMITERS.get(dialect.delimiter, repr(dialect.delimiter))
    return (
        f"CSV, {dialect.encoding_name.upper()}, {delimiter} between fields: text as it is written in {shown}. "
        "Where a column has another type, declare it: types={'amount': 'decimal(12,2)'}."
    )


# ---- the header


def _head(place: Place, reading: Reading) -> tuple[_Dialect, list[str]]:
    with closing(Text(place, reading.encoding)) as text:
        head, encoding = text.read(TEXT_BLOCK), text.encoding
    check_no_nul(place, head)
    lines = head.lstrip(b"\r\n")
    delimiter = reading.delimiter or delimiter_of(place.path)
    skipped = 0
    if lines[:4].lower() == b"sep=":
        named = lines[4:5].decode(errors="replace")
        if reading.delimiter is None or named != reading.delimiter:
            raise SourceError(
                f"{place.uri}: line 1 is Excel's `sep={named}`, not a header. Nothing was sent. Give delimiter={named!r}, or remove the line.",
                source=place.uri,
            )
        skipped, lines = 1, lines.partition(b"\n")[2]
    quote = '"' if reading.quote is None else reading.quote
    dialect = _Dialect(encoding=reading.encoding, encoding_name=encoding, delimiter=delimiter, quote=quote, skipped_rows=skipped)
    names, rest = _names(place, dialect, lines)
    _check_names(place, dialect, names)
    return replace(dialect, has_rows=bool(names and rest.strip())), names


def _names(place: Place, dialect: _Dialect, lines: bytes) -> tuple[list[str], bytes]:
    """(names of the columns, a part of the bytes after the header)."""
    try:
        # Lazily: the rest of `lines` is not the header's, and may be cut within a character.
        file = io.BytesIO(lines)
        text = (line.decode() for line in iter(lambda: _line(file), b""))
        quoting: dict[str, Any] = {"quotechar": dialect.quote} if dialect.quote else {"quoting": csv.QUOTE_NONE}
        names = next((row for row in csv.reader(text, delimiter=dialect.delimiter, **quoting) if row), [])
        return names, file.read()
    except UnicodeError:
        raise encoding_fault(place, dialect.encoding) or _fault(place, "line 1 cannot be read") from None
    except csv.Error:
        raise _fault(
            place, "line 1 is not a header: a name is longer than 131,072 characters, so a quote in it may not be closed"
        ) from None


def _line(file: io.BytesIO) -> bytes:
    """The bytes up to a line's end; `\\r` alone is a line's end, too."""
    start, data = file.tell(), file.readline()
    end = data.find(b"\r") + 1
    if 0 < end < len(data) and data[end : end + 1] != b"\n":
        file.seek(start + end)
        return data[:end]
    return data


def _check_names(place: Place, dialect: _Dialect, names: list[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SourceError(f"{place.uri}: two columns of the name {twice!r}. Nothing was sent. Rename one.", source=place.uri)
    if len(names) == 1:
        for other, called in _DELIMITERS.items():
            if other != dialect.delimiter and other in names[0]:
                raise SourceError(
                    f"{place.uri}: the header is one column that holds {called}: {names[0][:80]!r}. Nothing was sent. "
                    f"Give delimiter={other!r}.",
                    source=place.uri,
                )


# ---- the rows


def _blocks(place: Place, dialect: _Dialect, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    if not dialect.has_rows:
        return
    quotes = Quotes(dialect.quote, dialect.delimiter) if dialect.quote else None
    uneven: list[Any] = []
    row = 2 + dialect.skipped_rows  # as a spreadsheet counts: the header is row 1
    with closing(Text(place, dialect.encoding, quotes.feed if quotes else lambda data: None)) as text:
        try:
            for block in _arrow(text, dialect, schema, uneven):
                columns = [
                    declared(column, wanted, place, partial(_row_name, row)) for column, wanted in zip(block.columns, schema, strict=True)
                ]
                yield pa.RecordBatch.from_arrays(columns, schema=schema)
                row += block.num_rows
        except pa.ArrowInvalid as error:  # its own message would quote the row
            raise _explained(place, dialect, quotes, uneven, error) from None
        if quotes is not None:
            quotes.end()
        if text.broken or (quotes is not None and quotes.fault):
            raise _explained(place, dialect, quotes, uneven, None)


def _row_name(first: int, number: int) -> str:
    return f"row {first + number:,} (the header is row 1)"


def _arrow(text: Text, dialect: _Dialect, schema: pa.Schema, uneven: list[Any]) -> Iterator[pa.RecordBatch]:
    from pyarrow import csv as arrow_csv

    def note(row: Any) -> str:
        uneven.append(row)
        return "error"

    reader = arrow_csv.open_csv(
        pa.PythonFile(text, mode="r"),
        read_options=arrow_csv.ReadOptions(use_threads=False, block_size=TEXT_BLOCK, skip_rows=dialect.skipped_rows),
        parse_options=arrow_csv.ParseOptions(
            delimiter=dialect.delimiter, quote_char=dialect.quote or False, newlines_in_values=bool(dialect.quote), invalid_row_handler=note
        ),
        # Only an empty field without quotes is null: "NA" and "null" may be what a text says.
        convert_options=arrow_csv.ConvertOptions(
            column_types={name: pa.string() for name in schema.names},
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    with closing(reader):
        if reader.schema.names != schema.names:
            raise pa.ArrowInvalid("the header changed while the file was read")
        yield from reader


def _explained(place: Place, dialect: _Dialect, quotes: Quotes | None, uneven: list[Any], error: Exception | None) -> SourceError:
    """Arrow's error in words; its cause is often at an earlier place than where Arrow fails."""
    if quotes is not None and quotes.fault is None and error is not None and "straddling" in str(error):
        quotes.end()
    if quotes is not None and quotes.fault is not None:
        what, byte = quotes.fault
        return _fault(
            place,
            f"line {line_at(place, dialect.encoding, byte)}: {what}",
            "Write a quote within a field twice, or give quote='' if quotes have no meaning in this file.",
        )
    if found := encoding_fault(place, dialect.encoding):
        return found
    if uneven:
        row = uneven[0]
        return _fault(
            place,
            f"row {row.number} has {row.actual_columns} values, and the header names {row.expected_columns}",
            "Quote or correct the row, or give the delimiter.",
        )
    if error is not None and "straddling" in str(error):
        return _fault(place, "a row is larger than 2 MB", "Give the table as Parquet.")
    return _fault(place, "this is not CSV, or it changed while it was read", "Repair it, and run again.")


def _fault(place: Place, what: str, way: str = "Repair it.") -> SourceError:
    return SourceError(f"{place.uri}: {what}. Nothing was sent. {way}", source=place.uri)
