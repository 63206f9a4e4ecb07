"""Variant: nodes that msgspec alone cannot check: JSON text behind a reader of its own, and unions."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pyarrow as pa

from keld.errors import InvalidAnswer
from keld.schema.document import reader
from keld.schema.node import Node, Reader


def read_nothing(text: str | bytes) -> None:
    raise AssertionError("read before it was compiled")


def json_text(check: Reader) -> Node:
    """A string column that holds the JSON text, once `check` has accepted it; JSON's null is null."""

    def settle(raw: Any) -> str | None:
        document = bytes(raw)
        check(document)
        return None if document == b"null" else document.decode()

    return Node(arrow=pa.string(), wire=msgspec.Raw, settle=settle)


def union(keyword: str, nodes: list[Node], at: str) -> Node:
    """Variants of one Arrow type share it (integer and number are float64); others become JSON text."""
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
