"""CSV: text in columns -> blocks."""

import csv
import io
import re
from typing import Any

import pyarrow as pa

from keld.errors import SourceError
from keld.table.place import Place
from keld.table.text import TEXT_BLOCK, Raw, text_fault


def csv_reader(place: Place, schema: pa.Schema | None) -> Any:
    from pyarrow import csv as arrow_csv

    return arrow_csv.open_csv(
        place.open(),
        read_options=arrow_csv.ReadOptions(use_threads=False, block_size=TEXT_BLOCK),
        parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
        # Only an empty field without quotes is null: "NA" and "null" may be what a text says.
        convert_options=arrow_csv.ConvertOptions(
            column_types=schema, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
        ),
    )


def csv_type(kind: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_null(kind) else kind  # empty so far: it may yet hold text


_CSV_TYPE_FAULT = re.compile(r"CSV column #(\d+): (?:Row #(\d+): )?CSV conversion error to ([^:]+)")
_CSV_WIDTH_FAULT = re.compile(r"Row #(\d+): (Expected \d+ columns, got \d+)")


def csv_fault(place: Place, schema: pa.Schema, error: Exception) -> SourceError:
    if found := _CSV_TYPE_FAULT.search(str(error)):
        with io.TextIOWrapper(io.BufferedReader(Raw(place.open())), encoding="utf-8-sig") as text:
            name = next(csv.reader(text))[int(found[1])]
        return SourceError(
            f"{place.uri}: column {name!r} is {found[3]} in the first rows, and row {found[2] or '?'} is not. "
            "Nothing was sent. Write all its values alike, or give Parquet, whose types are declared."
        )
    if found := _CSV_WIDTH_FAULT.search(str(error)):
        return SourceError(f"{place.uri}: row {found[1]}: {found[2]}. Nothing was sent. Quote or mend the row.")
    return text_fault(place, error)
