"""JSON Lines: one object on each line, every number with the digits it was written with.

The file is read twice: once to learn the types of all its lines, once for the rows; so no later line can have an unexpected type, and the
types do not depend on which lines come first.  Arrow reads whole blocks at once if no value can change by it.  It turns integers beyond 64
bits and `1.10` into doubles: a column with numbers that no double holds as written, or with values of several types, is kept as JSON, as
it was written.  A field that cannot be decoded (a lone surrogate) makes only its row unaskable; a line that is not an object, and so has
no key, is refused with the whole table.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pyarrow as pa

from keld.errors import SourceError
from keld.reading import Reading
from keld.table.block import ROW_FAULT, plain_type
from keld.table.declared import declared
from keld.table.file import File
from keld.table.place import Place
from keld.table.text import TEXT_BLOCK, Text, check_no_nul, encoding_fault
from keld.value import is_json, json_type

_LINE_MOST = 64 << 20
_OPENINGS_MOST = 900  # of brackets and braces in a line that is surely not too deep for any reader
_CONSTANTS = (b"NaN", b"Infinity", b"-Infinity")  # written by Python's `json` and read by Arrow, but not JSON
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_raw = msgspec.json.Encoder().encode


def jsonl_file(place: Place, reading: Reading) -> File:
    """A JSON Lines file with the columns and types of all its lines.

    Raises:
        SourceError: a line is not a JSON object, or larger than 64 MB, or nested too deeply; names the line.
    """
    types = reading.column_types()
    try:
        learned = _learn(place, reading, types)
    except RecursionError:
        raise _too_deep(place, "a line") from None
    columns = [(name, plain_type(types[name]) if name in types else kind) for name, kind in learned.types.items()]
    schema = pa.schema([*columns, *([(ROW_FAULT, pa.string())] if learned.faulty else [])])
    return File(
        place=place,
        schema=schema,
        rows=learned.rows,
        blocks=lambda wanted: _blocks(place, reading, wanted, types),
        settled=settled,
        note=learned.note,
    )


# ---- lines


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Whole lines, the first of which has this number, counted from 1."""

    data: bytes
    first: int

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """(number, line) for each line that is not blank."""
        return ((number, line) for number, line in enumerate(self.data.split(b"\n"), start=self.first) if line.strip())


def _chunks(place: Place, reading: Reading) -> Iterator[_Chunk]:
    with closing(Text(place, reading.encoding)) as text:
        rest, number = b"", 1
        while data := text.read(TEXT_BLOCK):
            if number == 1 and not rest:
                check_no_nul(place, data)
            end = data.rfind(b"\n") + 1
            if not end:
                rest += data
                if len(rest) > _LINE_MOST:
                    raise SourceError(
                        f"{place.uri}: line {number} is larger than 64 MB. Nothing was sent. Give the table as Parquet.", source=place.uri
                    )
                continue
            chunk = _Chunk(rest + data[:end], number)
            yield _checked(place, reading, chunk)
            rest, number = data[end:], number + chunk.data.count(b"\n")
        if rest.strip():
            yield _checked(place, reading, _Chunk(rest, number))
        if text.broken:
            raise encoding_fault(place, reading.encoding) or _changed(place)


def _checked(place: Place, reading: Reading, chunk: _Chunk) -> _Chunk:
    try:
        chunk.data.decode()
    except UnicodeError:
        raise encoding_fault(place, reading.encoding) or _changed(place) from None
    if chunk.data.count(b"[") + chunk.data.count(b"{") - chunk.data.count(b"\n") > _OPENINGS_MOST:
        _check_depth(place, chunk)
    return chunk


def _check_depth(place: Place, chunk: _Chunk) -> None:
    """Passes if no line is nested so deeply that Arrow's reader, which counts no levels, would end the process."""
    for number, line in chunk.lines():
        if line.count(b"[") + line.count(b"{") > _OPENINGS_MOST:
            with suppress(msgspec.MsgspecError):  # told later
                try:
                    _fields.decode(line)
                except RecursionError:
                    raise _too_deep(place, f"line {number}") from None


def _too_deep(place: Place, what: str) -> SourceError:
    return SourceError(
        f"{place.uri}: {what} is nested too deeply. Nothing was sent. Correct it, or write that value as text.", source=place.uri
    )


def _changed(place: Place) -> SourceError:
    return SourceError(f"{place.uri}: it changed while it was read. Nothing was sent. Run again.", source=place.uri)


def _objects(place: Place, chunk: _Chunk) -> Iterator[tuple[int, Mapping[str, bytes], list[str]]]:
    """(number, fields as they are written, names of fields that cannot be decoded) for each line."""
    for number, line in chunk.lines():
        try:
            yield number, {name: bytes(value) for name, value in _fields.decode(line).items()}, []
        except (msgspec.MsgspecError, UnicodeError):
            yield number, *_slowly(place, number, line)


def _slowly(place: Place, number: int, line: bytes) -> tuple[dict[str, bytes], list[str]]:
    """(fields, names that cannot be decoded) of a line, by Python's own reader, which also takes NaN and lone surrogates."""
    try:
        document = json.loads(line, parse_float=_exactly, parse_int=_exactly, parse_constant=_exactly)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise SourceError(
            f"{place.uri}: line {number} is not a JSON object. Nothing was sent. Correct the line, or remove it.", source=place.uri
        )
    found, odd = {}, []
    for name, value in document.items():
        shown = name.encode(errors="replace").decode()
        try:
            found[shown] = _raw(value)
        except UnicodeError:
            found[shown] = b"null"
            odd.append(shown)
        if shown != name:
            odd.append(shown)
    return found, odd


def _exactly(digits: str) -> msgspec.Raw:
    return msgspec.Raw(digits.encode())


# ---- the types


@dataclass(slots=True)
class _Learned:
    """The types seen so far."""

    types: dict[str, pa.DataType] = field(default_factory=dict)
    rows: int = 0
    faulty: bool = False
    note: str | None = None

    def see(self, name: str, kind: pa.DataType, line: int) -> None:
        before = self.types.get(name, pa.null())
        both = before if is_json(before) else _both(before, kind)
        if both is None or (is_json(kind) and not is_json(before)):
            self.note = self.note or (
                f"JSON Lines: {name!r} has values of several types, or numbers that no column holds as they are written (by line {line:,}): "
                f"it is kept as JSON. If it should have one type, declare it: types={{{name!r}: 'decimal(38,10)'}}."
            )
        self.types[name] = json_type() if both is None else both


def _learn(place: Place, reading: Reading, declared_types: Mapping[str, pa.DataType]) -> _Learned:
    learned = _Learned()
    for chunk in _chunks(place, reading):
        table = _read(chunk, None)
        if table is None:
            _learn_by_field(place, chunk, learned)
            continue
        learned.rows += table.num_rows
        risky = {column.name: column.type for column in table.schema if _at_risk(column.type) and column.name not in declared_types}
        exact = risky.keys() - _inexact(place, chunk, dict(risky))
        for column in table.schema:
            is_inexact = column.name in risky and column.name not in exact
            learned.see(column.name, json_type() if is_inexact else _as_written(column.type), chunk.first)
    return learned


def _inexact(place: Place, chunk: _Chunk, risky: dict[str, pa.DataType]) -> set[str]:
    """The columns with doubles that hold a number which no double represents as written."""
    found: set[str] = set()
    for number, line in chunk.lines() if risky else ():
        try:
            fields = _fields.decode(line)
        except msgspec.MsgspecError:  # NaN, which Arrow also reads
            fields = {name: msgspec.Raw(value) for name, value in _slowly(place, number, line)[0].items()}
        for name, kind in list(risky.items()):
            value = fields.get(name)
            if value is not None and not _is_exact(bytes(value), kind):
                found.add(name)
                del risky[name]
        if not risky:
            break
    return found


def _learn_by_field(place: Place, chunk: _Chunk, learned: _Learned) -> None:
    columns: dict[str, list[tuple[int, bytes]]] = {}
    for number, found, odd in _objects(place, chunk):
        learned.rows += 1
        learned.faulty |= bool(odd)
        for name, value in found.items():
            columns.setdefault(name, []).append((number, value))
    for name, values in columns.items():
        kind = _kind([value for _, value in values])
        learned.see(name, kind if is_json(kind) else _as_written(kind), values[0][0] if values else chunk.first)


def _kind(values: Sequence[bytes]) -> pa.DataType:
    """The type that holds these values as they are written: JSON, if no other does."""
    if not values:
        return pa.null()
    table = _read(_Chunk(b"\n".join(b'{"":' + value.replace(b"\n", b" ") + b"}" for value in values), 1), None)
    if table is None:
        return json_type()
    kind: pa.DataType = table.schema.field(0).type
    return kind if not _at_risk(kind) or all(_is_exact(value, kind) for value in values) else json_type()


def _read(chunk: _Chunk, schema: pa.Schema | None, others: str = "error") -> pa.Table | None:
    """The chunk as Arrow reads it; None if Arrow cannot, or does not find a row in every line."""
    from pyarrow import json as arrow_json

    rules = arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior=others) if schema is not None else None
    options = arrow_json.ReadOptions(use_threads=False, block_size=len(chunk.data) + 1)
    try:
        table = arrow_json.read_json(pa.BufferReader(chunk.data), read_options=options, parse_options=rules)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    lines = chunk.data.count(b"\n") + (not chunk.data.endswith(b"\n"))
    return table if table.num_rows in (lines, sum(1 for _ in chunk.lines())) else None


def _at_risk(kind: pa.DataType) -> bool:
    """True if a number of this type may differ from what was written."""
    return pa.types.is_floating(kind) or (pa.types.is_nested(kind) and any(_at_risk(kind.field(n).type) for n in range(kind.num_fields)))


def _is_exact(value: bytes, kind: pa.DataType) -> bool:
    if pa.types.is_floating(kind):
        return value == b"null" or _is_double(value.decode())
    try:
        return _holds(json.loads(value, parse_float=_Digits, parse_int=_Digits, parse_constant=_Digits), kind)
    except (ValueError, RecursionError):
        return False


class _Digits(str):
    """The digits of a number as written."""

    __slots__ = ()


def _is_double(digits: str) -> bool:
    return repr(float(digits)) == digits or digits.encode() in _CONSTANTS


def _holds(value: Any, kind: pa.DataType) -> bool:
    if isinstance(value, _Digits):
        return _is_double(value) if pa.types.is_floating(kind) else True
    if isinstance(value, list):
        return all(_holds(part, kind.value_type) for part in value)
    if isinstance(value, dict):
        return all(_holds(part, kind.field(name).type) for name, part in value.items())
    return True


def _as_written(kind: pa.DataType) -> pa.DataType:
    """The type with strings instead of times: JSON's strings stay strings, even if they look like times."""
    if pa.types.is_timestamp(kind):
        return pa.string()
    if isinstance(kind, pa.ListType):
        return pa.list_(_as_written(kind.value_type))
    if isinstance(kind, pa.StructType):
        return pa.struct([(part.name, _as_written(part.type)) for part in kind])
    return kind


def _both(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type that holds the values of both, unchanged; None if there is none."""
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if isinstance(one, pa.ListType) and isinstance(other, pa.ListType):
        part = _both(one.value_type, other.value_type)
        return None if part is None else pa.list_(part)
    if isinstance(one, pa.StructType) and isinstance(other, pa.StructType):
        kinds = {part.name: part.type for part in one}
        for part in other:
            merged = _both(kinds.get(part.name, pa.null()), part.type)
            if merged is None:
                return None
            kinds[part.name] = merged
        return pa.struct(list(kinds.items()))
    return None


def settled(kind: pa.DataType) -> pa.DataType:
    """The final type: text for a column without any value; JSON for what Parquet has no type for, such as an object without fields."""
    if pa.types.is_null(kind):
        return pa.string()
    return json_type() if is_json(plain_type(kind)) else _filled(kind)


def _filled(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.ListType):
        return pa.list_(_filled(kind.value_type))
    if isinstance(kind, pa.StructType):
        return pa.struct([(part.name, _filled(part.type)) for part in kind])
    return pa.string() if pa.types.is_null(kind) else kind


# ---- the rows


def _blocks(place: Place, reading: Reading, schema: pa.Schema, declared_types: Mapping[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
    exact = [column.name for column in schema if is_json(column.type) or column.name == ROW_FAULT or _is_cast(column, declared_types)]
    typed = pa.schema([column for column in schema if column.name not in exact])
    for chunk in _chunks(place, reading):
        table = _read(chunk, typed, others="ignore" if exact else "error") if typed.names else None
        if table is not None and not exact:
            yield from table.to_batches()
            continue
        arrays = _by_field(place, chunk, [column for column in schema if table is None or column.name in exact], declared_types)
        if table is not None:
            arrays |= {name: column.combine_chunks() for name, column in zip(table.column_names, table.columns, strict=True)}
        columns = [arrays[name] for name in schema.names]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _is_cast(column: pa.Field, declared_types: Mapping[str, pa.DataType]) -> bool:
    """True if a column is declared, and so read as text first: `1` may be declared text, and `"1"` a number."""
    return column.name in declared_types and not pa.types.is_nested(column.type)


def _by_field(place: Place, chunk: _Chunk, columns: Sequence[pa.Field], declared_types: Mapping[str, pa.DataType]) -> dict[str, pa.Array]:
    """These columns of a chunk; each value is first read as written, then converted."""
    numbers: list[int] = []
    values: dict[str, list[bytes | None]] = {column.name: [] for column in columns if column.name != ROW_FAULT}
    faults: list[str | None] = []
    for number, found, odd in _objects(place, chunk):
        numbers.append(number)
        faults.append(f"line {number}: {odd[0]!r} holds a lone surrogate, which is no text" if odd else None)
        for name, column in values.items():
            value = found.get(name)
            column.append(None if value == b"null" else value)
    arrays = {
        column.name: _column(place, values[column.name], column, numbers, _is_cast(column, declared_types))
        for column in columns
        if column.name != ROW_FAULT
    }
    return arrays if len(arrays) == len(columns) else {**arrays, ROW_FAULT: pa.array(faults, type=pa.string())}


def _column(place: Place, values: list[bytes | None], wanted: pa.Field, numbers: list[int], is_cast: bool) -> pa.Array:
    if is_json(wanted.type):
        return pa.ExtensionArray.from_storage(wanted.type, pa.array([_valid(value) for value in values], type=pa.string()))
    if is_cast:
        texts = pa.array([None if value is None else _unquoted(value) for value in values], type=pa.string())
        return declared(texts, wanted, place, lambda row: f"line {numbers[row]:,}")
    schema = pa.schema([("", wanted.type)])
    table = _read(_Chunk(b"\n".join(b'{"":' + (value or b"null").replace(b"\n", b" ") + b"}" for value in values), 1), schema)
    if table is None:
        row = next(
            (n for n, value in enumerate(values) if value is not None and _read(_Chunk(b'{"":' + value + b"}", 1), schema) is None), 0
        )
        raise SourceError(
            f"{place.uri}: line {numbers[row]:,}: {wanted.name!r} is not {wanted.type}. Nothing was sent. Correct the line, or declare another type in types=.",
            source=place.uri,
        )
    return table.column(0).combine_chunks()


def _valid(value: bytes | None) -> str | None:
    if value is None or value in _CONSTANTS:
        return None
    if b"NaN" in value or b"Infinity" in value:
        value = _raw(json.loads(value, parse_float=_exactly, parse_int=_exactly, parse_constant=lambda _: None))
    return value.decode()


def _unquoted(value: bytes) -> str:
    return msgspec.json.decode(value, type=str) if value.startswith(b'"') else value.decode()
