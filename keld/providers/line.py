"""Line: blocks of result lines -> typed structs; one damaged line never loses a whole file.

Beside `base`.  A block is decoded at once; if that fails, line by line; a line that fails gets a lenient second try (lone
surrogates, NaN, a field of the wrong type); a line without a readable id is left out, and its row, which then has no line,
is lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

_BEGINNING_BYTES = 1 << 20  # of results: enough for the ids of some rows

# A retry may help: timeouts, conflicts, rate limits; some hosts send 0 for "no reply inside".
RETRYABLE_STATUS = frozenset({0, 408, 409, 429})
_COUNTS = ("usage", "model", "usageMetadata", "modelVersion", "tokenCount")  # as the families name them
_DIGITS_MOST = 640  # of an integer that Python always makes (`sys.int_info.str_digits_check_threshold`)
_decoders: dict[Any, Any] = {}


def lines_of(block: bytes, kind: type[T], id_field: str) -> list[T]:
    """The structs of a block of whole lines, in order; blank lines are skipped.

    Args:
        id_field: the name in the JSON of the field that holds the custom_id.
    """
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    try:
        decoded: list[T] = decoder.decode_lines(block)
        return decoded
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return [struct for line in block.split(b"\n") if (struct := _one(line, kind, id_field, decoder)) is not None]


def beginning(chunks: Iterator[bytes]) -> bytes:
    """The complete lines in the first megabyte of a batch's results; all of that megabyte if it has no line end."""
    begun = b""
    for chunk in chunks:
        begun += chunk
        if len(begun) >= _BEGINNING_BYTES:
            break
    return begun[: begun.rfind(b"\n") + 1] or begun


def _one(line: bytes, kind: type[T], id_field: str, decoder: Any) -> T | None:
    line = line.strip().removeprefix(b"\xef\xbb\xbf")
    if not line:
        return None
    try:
        struct: T = decoder.decode(line)
        return struct
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _lenient(line, kind, id_field)


def _lenient(line: bytes, kind: type[T], id_field: str) -> T | None:
    try:
        found = json.loads(line.decode("utf-8", "replace"), parse_int=_whole)
    except (ValueError, RecursionError):
        return None
    try:
        found = _without_surrogates(found)
        return msgspec.convert(found, kind, strict=False)
    except (msgspec.MsgspecError, RecursionError):
        pass
    try:  # an answer that was paid must not be lost because of a bad token count
        return msgspec.convert(_without_counts(found), kind, strict=False)
    except (msgspec.MsgspecError, RecursionError):
        return _id_only(found, kind, id_field)


def _whole(digits: str) -> int | float:
    """The number; Python makes no integer of more than some thousand digits, and a field of such a number must not cost its line."""
    return int(digits) if len(digits) < _DIGITS_MOST else float(digits)


def _id_only(found: Any, kind: type[T], id_field: str) -> T | None:
    """A line of which only the id can be read, as a struct with nothing but that id: a line without a response."""
    custom_id = found.get(id_field) if isinstance(found, dict) else None
    if not isinstance(custom_id, str):
        return None
    try:
        return msgspec.convert({id_field: custom_id}, kind)
    except msgspec.MsgspecError:
        return None


def _without_counts(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: None if name in _COUNTS else _without_counts(item) for name, item in value.items()}


def _without_surrogates(value: Any) -> Any:
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case list():
            return [_without_surrogates(item) for item in value]
        case dict():
            return {_without_surrogates(name): _without_surrogates(item) for name, item in value.items()}
        case _:
            return value
