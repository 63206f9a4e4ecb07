"""Value: how an Arrow value is written in a prompt, in a CSV cell and in a line of JSON; one form each, whatever is installed.

Beside the road, below `request` and `table`, which both write values as text.  Pure.
Python has no nanoseconds, no months in a span and no number that keeps its written digits.  Such values become text: spans as ISO 8601
(`P1DT2H`), instants with all their digits, and a column of JSON (`arrow.json`: values of several types, numbers that no binary number
holds exactly) as its own text.
"""

from __future__ import annotations

import re
from base64 import b64encode
from decimal import Decimal
from functools import cache
from itertools import islice
from math import isfinite
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

_NANOS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
_TAIL = re.compile(r"(?:(?<=:\d\d)\.0{9}|(?<=\.\d{6})000)($|[+-]\d\d:\d\d$)")  # `str` of pandas' and Python's datetimes leaves them out
_JSON_STRING = msgspec.json.Decoder(str)


class Unreadable:
    """Stands for bytes that are not UTF-8, and so are not text."""


UNREADABLE = Unreadable()


def json_type() -> pa.DataType:
    """The type of a column whose values are JSON, as it was written."""
    return pa.json_(pa.string())


def is_json(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.JsonType)


def is_uuid(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.UuidType)


def unknown_zone(kind: pa.DataType) -> str | None:
    """The time zone of a type, at any depth, that this machine cannot write an instant in; None if there is none."""
    if isinstance(kind, pa.DictionaryType):
        return unknown_zone(kind.value_type)
    if isinstance(kind, pa.TimestampType):
        return None if not kind.tz or _is_zone(kind.tz) else kind.tz
    return (
        next(filter(None, (unknown_zone(kind.field(n).type) for n in range(kind.num_fields))), None) if pa.types.is_nested(kind) else None
    )


@cache
def _is_zone(name: str) -> bool:
    """True if Python and Arrow know the zone: they have a list each, and either is used."""
    begin = pa.scalar(0, pa.timestamp("s", name))
    try:
        return bool(begin.as_py() and begin.cast(pa.string()))
    except (pa.ArrowInvalid, LookupError, ValueError):  # Python's error for a zone that it does not know is a KeyError
        return False


# ---- in a prompt


def readable(column: pa.Array) -> list[Any]:
    """N Python values as a template shows them; `UNREADABLE` for bytes that are not UTF-8."""
    kind = column.type
    if is_json(kind):
        return [None if text is None else _unquoted(text) for text in column.storage.to_pylist()]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        try:
            texts: list[Any] = column.to_pylist()
            return texts
        except UnicodeDecodeError:
            return [
                _decoded(value) for value in column.cast(pa.large_binary() if pa.types.is_large_string(kind) else pa.binary()).to_pylist()
            ]
    if pa.types.is_duration(kind) or is_uuid(kind):
        return _python(column)
    try:
        values: list[Any] = column.to_pylist()
    except (ValueError, OverflowError):  # nanoseconds if pandas is not installed, and years outside of Python's range
        return _plain_instants(column) if pa.types.is_timestamp(kind) else _python(column)
    if pa.types.is_time64(kind) and kind.unit == "ns":  # Python's times end at microseconds, and drop the rest
        exact, counts = _python(column), column.cast(pa.int64()).to_pylist()
        return [text if count and count % 1_000 else value for text, value, count in zip(exact, values, counts, strict=True)]
    return (
        [_decoded(value) for value in values] if _holds_bytes(kind) else values
    )  # Hive and Impala write text into Parquet without declaring it as text


def _plain_instants(column: pa.Array) -> list[Any]:
    """As `str` of a datetime: `2026-11-01 11:00:00.123456789+01:00`."""
    exact = [None if text is None else text.replace("T", " ", 1).replace("Z", "+00:00") for text in iso_instants(column).to_pylist()]
    return [None if text is None else _TAIL.sub(r"\1", text) for text in exact]


def _unquoted(text: str) -> str:
    """JSON text for a reader: a string without its quotes, everything else unchanged."""
    return _JSON_STRING.decode(text) if text.startswith('"') else text


def _decoded(value: Any) -> Any:
    """A value whose bytes, at any depth, are decoded to text, so that a prompt never shows `b'...'`."""
    match value:
        case bytes():
            try:
                return value.decode()
            except UnicodeDecodeError:
                return UNREADABLE
        case list():
            parts = [_decoded(part) for part in value]
            return UNREADABLE if UNREADABLE in parts else parts
        case dict():
            named = {name: _decoded(part) for name, part in value.items()}
            return UNREADABLE if UNREADABLE in named.values() else named
    return value


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _holds_bytes(kind.value_type)
    binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    return any(check(kind) for check in binary) or any(_holds_bytes(kind.field(n).type) for n in range(kind.num_fields))


# ---- in CSV


def csv_texts(column: pa.Array) -> pa.Array:
    """N cells: nested values as JSON, decimals in plain digits, binary as base64, spans and times as ISO 8601; null stays null."""
    kind = column.type
    types = pa.types
    if is_json(kind):
        return pa.array(readable(column), type=pa.string())
    if types.is_timestamp(kind):
        return pc.replace_substring_regex(column.cast(pa.string()), r"([+-]\d\d)(\d\d)$", r"\1:\2")
    if types.is_time(kind) or types.is_date(kind) or types.is_null(kind):
        return column.cast(pa.string())
    return pa.array([None if value is None else _cell(value) for value in _python(column)], type=pa.string())


def _cell(value: Any) -> str:
    match value:
        case str():
            return value
        case Decimal():
            return format(value, "f")
        case bytes():
            return b64encode(value).decode()
    return encode(value).decode()


# ---- in JSON


def jsonable(column: pa.Array) -> list[Any]:
    """N values that `encode` can write: instants as ISO 8601 with their offset, decimals with all digits, binary as base64."""
    return _python(column)


_encoder = msgspec.json.Encoder(decimal_format="number")
encode = _encoder.encode
encode_lines = _encoder.encode_lines


def as_json(column: pa.Array) -> pa.Array:
    """A column of any type as a column of JSON, for values that Parquet has no type for."""
    return pa.ExtensionArray.from_storage(
        json_type(), pa.array([None if value is None else encode(value).decode() for value in _python(column)], type=pa.string())
    )


def as_text(column: pa.Array) -> pa.Array:
    """Spans of months, days and nanoseconds as ISO 8601, since Parquet has no type for them."""
    return pa.array(_python(column), type=pa.string())


# ---- Arrow -> Python, by parts


def _python(column: pa.Array) -> list[Any]:
    """As `to_pylist`, but without pandas: values that Python has no type for are text; JSON stays as it is written."""
    kind = column.type
    types = pa.types
    if is_json(kind):
        return [None if text is None else msgspec.Raw(text.encode()) for text in column.storage.to_pylist()]
    if is_uuid(kind):
        return [None if value is None else str(value) for value in column.to_pylist()]
    if isinstance(column, pa.ExtensionArray):
        return _python(column.cast(pa.bool_()) if isinstance(kind, pa.Bool8Type) else column.storage)
    if types.is_floating(kind):
        return [_digits(value) for value in column.to_pylist()]
    if types.is_timestamp(kind):
        return _instants(column)
    if types.is_interval(kind) or types.is_duration(kind):
        return _spans(column)
    if types.is_time(kind) and kind.unit == "ns":
        texts: list[Any] = column.cast(pa.string()).to_pylist()
        return texts
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return _python(column.dictionary_decode() if types.is_dictionary(kind) else pc.run_end_decode(column))
    if types.is_struct(kind):
        return _structs(column)
    if types.is_map(kind):
        return _maps(column)
    if types.is_nested(kind) and not types.is_union(kind):
        return _lists(column.value_lengths(), _python(column.flatten()))
    return _counted(column)


def _spans(column: pa.Array) -> list[Any]:
    if pa.types.is_interval(column.type):
        return [None if value is None else iso_span(value.nanoseconds, value.days, value.months) for value in column.to_pylist()]
    unit = _NANOS[column.type.unit]
    return [None if count is None else iso_span(count * unit) for count in column.cast(pa.int64()).to_pylist()]


def _digits(value: float | None) -> Any:
    """A double as Python writes it and prompts show it: `1e-09`; null for a value that JSON cannot write (NaN, infinity)."""
    if value is None or not isfinite(value):
        return None
    return value if value == 0 or 1e-4 <= abs(value) < 1e16 else msgspec.Raw(repr(value).encode())


def _counted(column: pa.Array) -> list[Any]:
    try:
        values: list[Any] = column.to_pylist()
    except (ValueError, OverflowError):  # years that Python does not count
        values = column.cast(pa.string()).to_pylist()
    return values


def _instants(column: pa.Array) -> list[Any]:
    if column.type.unit != "ns":
        try:
            values: list[Any] = column.to_pylist()
            return values
        except (ValueError, OverflowError):  # years that Python does not count
            pass
    texts: list[Any] = iso_instants(column).to_pylist()
    return texts


def iso_instants(column: pa.Array) -> pa.Array:
    """N texts, e.g. `2026-11-01T11:00:00.123456789+01:00`; UTC as `Z`."""
    text = pc.replace_substring_regex(column.cast(pa.string()), r"^([-0-9]+) ", r"\1T")
    return pc.replace_substring_regex(text, r"([+-]\d\d)(\d\d)$", r"\1:\2")


def _structs(column: pa.Array) -> list[Any]:
    names = [part.name for part in column.type]
    if not names:
        return [{} if valid else None for valid in column.is_valid().to_pylist()]
    parts = [_python(column.field(number)) for number in range(len(names))]
    rows = zip(column.is_valid().to_pylist(), zip(*parts, strict=True), strict=True)
    return [dict(zip(names, row, strict=True)) if valid else None for valid, row in rows]


def _maps(column: pa.Array) -> list[Any]:
    """Pairs, since a map may have keys that are not text, and the same key twice."""
    whole = column.take(pa.array(range(len(column)), type=pa.int64()))  # `keys` and `items` ignore that an array is a slice
    pairs = [list(pair) for pair in zip(_python(whole.keys), _python(whole.items), strict=True)]
    lengths = pc.if_else(whole.is_valid(), pc.pairwise_diff(whole.offsets).slice(1), None)
    return _lists(lengths, pairs)


def _lists(lengths: pa.Array, flat: list[Any]) -> list[Any]:
    rest = iter(flat)
    return [None if length is None else list(islice(rest, length)) for length in lengths.to_pylist()]


def iso_span(nanoseconds: int, days: int = 0, months: int = 0) -> str:
    """ISO 8601: `P1M2DT3.000000005S`; a span without days and months shows whole days as days."""
    if not months and not days:
        sign, nanoseconds = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
        days, nanoseconds = divmod(nanoseconds, 86_400 * _NANOS["s"])
    else:
        sign = ""
    date = (f"{months}M" if months else "") + (f"{days}D" if days else "")
    seconds = format(Decimal(nanoseconds).scaleb(-9).normalize(), "f")
    time = f"T{seconds}S" if nanoseconds or not date else ""
    return f"{sign}P{date}{time}"
