"""Variant: nodes that msgspec alone cannot check: JSON text with a reader of its own, and unions."""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import msgspec
import pyarrow as pa

from keld.errors import InvalidAnswer
from keld.schema.document import reader
from keld.schema.node import JsonSchema, Node, Reader
from keld.schema.reference import is_null

DECIMAL = "x-decimal"  # marks the text form of the two forms that Pydantic gives a Decimal
# Pydantic 2.9 to 2.13 begin the pattern of that text like this; other versions have no pattern, and no other sign.
_DECIMAL = r"^(?!^[-+.]*$)[+-]?0*"
_PLAIN_DIGITS = 100  # a longer number is written with its exponent: 1e999999 has a million digits


def read_nothing(text: str | bytes) -> None:
    raise AssertionError("read before it was compiled")


def json_text(check: Reader) -> Node:
    """The node of a string column that holds the JSON text after `check` accepted it; JSON's null is null."""

    def settle(raw: Any) -> str | None:
        document = bytes(raw)
        check(document)
        return None if document == b"null" else document.decode()

    return Node(arrow=pa.string(), wire=msgspec.Raw, settle=settle)


def union(keyword: str, nodes: list[Node], at: str) -> Node:
    """The node of a union: variants of one Arrow type keep it (integer and number are float64); others become JSON text."""
    readers = [reader(node, at) for node in nodes]
    common = _common_type([node.arrow for node in nodes if node.wire is not msgspec.Raw], len(nodes))

    def settle(raw: Any) -> Any:
        document = bytes(raw)
        values = [value for reader in readers for value in _accepted(reader, document)]
        wanted = {"anyOf": max(len(values), 1), "oneOf": 1, "allOf": len(readers)}[keyword]
        if len(values) != wanted:
            raise InvalidAnswer(f"Matches {len(values)} of the {len(readers)} variants of {keyword} - at `{at}`")
        if common is None:
            return None if document == b"null" else document.decode()
        return float(values[0]) if common == pa.float64() and values[0] is not None else values[0]

    if common is None:
        return Node(arrow=pa.string(), wire=msgspec.Raw, settle=settle)
    return Node(arrow=common, wire=msgspec.Raw, settle=settle, arrays=nodes[0].arrays)


def _common_type(types: list[pa.DataType], variants: int) -> pa.DataType | None:
    if len(types) < variants:
        return None
    if all(kind == types[0] for kind in types):
        return types[0]
    return pa.float64() if all(kind in (pa.int64(), pa.float64()) for kind in types) else None


def _accepted(reader: Reader, document: bytes) -> Iterator[Any]:
    try:
        yield reader(document)
    except InvalidAnswer:
        return


def decimal_of(variants: Sequence[Any]) -> JsonSchema | None:
    """The number of a union that is a Pydantic Decimal, a number or its digits as text (or null); None for any other union."""
    some = [variant for variant in variants if not is_null(variant)]
    if not all(isinstance(variant, dict) for variant in some):
        return None
    texts = [variant for variant in some if variant.get("type") == "string" and _is_digits(variant)]
    numbers = [variant for variant in some if variant.get("type") == "number"]
    return numbers[0] if len(texts) == len(numbers) == 1 and len(some) == 2 else None


def decimal(number: Node, at: str) -> Node:
    """The node of a column of exact digits: `12.50` from a number or from a text; the rules of the number are checked for both."""
    text, check = reader(Node(arrow=pa.string(), wire=str), at), reader(number, at)

    def settle(raw: Any) -> str:
        document = bytes(raw)
        written = text(document) if document.startswith(b'"') else document.decode()
        try:
            value = Decimal(written.strip())
        except ArithmeticError:
            raise InvalidAnswer(f"Expected a decimal number - at `{at}`") from None
        if not value.is_finite():
            raise InvalidAnswer(f"Expected a finite decimal number - at `{at}`")
        digits = format(value, "f") if abs(value.adjusted()) < _PLAIN_DIGITS else str(value)
        check(digits)
        return digits

    return Node(arrow=pa.string(), wire=msgspec.Raw, settle=settle)


def _is_digits(variant: JsonSchema) -> bool:
    return DECIMAL in variant or str(variant.get("pattern", "")).startswith(_DECIMAL)
