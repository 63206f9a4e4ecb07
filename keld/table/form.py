"""Form: which reader a file has, by its suffix."""

import os

import pyarrow as pa

from keld.errors import SourceError
from keld.table.csv import csv_fault, csv_reader, csv_type
from keld.table.file import File
from keld.table.jsonl import jsonl_fault, jsonl_reader, jsonl_type
from keld.table.parquet import parquet_file_of
from keld.table.place import Place, form_of
from keld.table.text import TextForm, text_file


def open_file(place: Place, like: pa.Schema | None) -> File:
    match form_of(place.path):
        case "parquet":
            return parquet_file_of(place)
        case "csv" | "jsonl" as form:
            return text_file(place, like, _TEXT_FORMS[form])
    if place.fs is None and not os.path.exists(place.path):
        raise FileNotFoundError(place.path)
    raise SourceError(f"{place.uri}: not a kind of file Keld reads. Give .parquet, .csv, .jsonl (or .gz of the latter two).")


_TEXT_FORMS = {
    "csv": TextForm(csv_reader, csv_type, csv_fault),
    "jsonl": TextForm(jsonl_reader, jsonl_type, jsonl_fault),
}
