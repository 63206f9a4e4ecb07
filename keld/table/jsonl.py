"""JSON Lines: an object a line -> blocks."""

import io
from typing import Any

import msgspec
import pyarrow as pa

from keld.errors import SourceError
from keld.table.block import nested
from keld.table.place import Place
from keld.table.text import TEXT_BLOCK, Raw, text_fault


def jsonl_reader(place: Place, schema: pa.Schema | None) -> Any:
    from pyarrow import json as arrow_json

    rules = arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error") if schema else None
    options = arrow_json.ReadOptions(use_threads=False, block_size=TEXT_BLOCK)
    return arrow_json.open_json(place.open(), read_options=options, parse_options=rules)


def jsonl_type(kind: pa.DataType) -> pa.DataType:
    """JSON's strings stay strings, however much the first ones look like times."""
    if pa.types.is_null(kind) or pa.types.is_timestamp(kind):
        return pa.string()
    return nested(kind, jsonl_type)


def jsonl_fault(place: Place, schema: pa.Schema, error: Exception) -> SourceError:
    """Arrow names neither line nor column, and quotes the value: look for the line once more, slowly."""
    types = {column.name: column.type for column in schema}
    with io.BufferedReader(Raw(place.open())) as lines:
        for number, line in enumerate(lines, start=1):
            odd = _oddity(line, types) if line.strip() else None
            if odd and types:
                return SourceError(
                    f"{place.uri}: line {number}: {odd}. Nothing was sent. "
                    "Give every line the fields and types of the first ones, or give Parquet, whose types are declared."
                )
    return text_fault(place, error)


def _oddity(line: bytes, types: dict[str, pa.DataType]) -> str | None:
    try:
        document = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError):
        return "it is not a JSON object"
    for name, value in document.items():
        if name not in types:
            return f"the field {name!r} is not in the first lines"
        try:
            pa.array([value], type=types[name])
            pa.array([value]).cast(types[name])  # the first takes 1.5 for an integer, the second 1 for a string
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            return f"column {name!r} is {types[name]} in the first lines and something else here"
    return None
