"""Node: one place of a compiled schema: its Arrow type, what parses and checks it, and how its values become an array.

What msgspec cannot express (maps, unions, recursion) is kept as `msgspec.Raw` and read by a reader of its own: see `variant`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from operator import attrgetter
from typing import Any, TypeAlias

import msgspec
import pyarrow as pa

JsonSchema: TypeAlias = dict[str, Any]
Decoded: TypeAlias = Any  # opaque: made by a decoder, for `to_arrow`
Array: TypeAlias = "pa.Array[Any]"  # pyarrow's own is not subscriptable at run time
Reader: TypeAlias = Callable[[str | bytes], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One place of the schema.

    Args:
        wire: the msgspec type that parses and checks it.
        settle: what msgspec parsed -> the value, if a part of it is still `Raw`; raises InvalidAnswer.
        arrays: values (None for null) -> an array of `arrow`; None if `pa.array` can make it.
        least: the least number of object members in an accepted value.
    """

    arrow: pa.DataType
    wire: Any
    settle: Callable[[Any], Any] | None = None
    arrays: Callable[[list[Any]], Array] | None = None
    least: int = 0

    def array(self, values: list[Any]) -> Array:
        return pa.array(values, type=self.arrow) if self.arrays is None else self.arrays(values)


ANYTHING = Node(arrow=pa.string(), wire=Any)


def or_null(node: Node) -> Node:
    if node.wire is None:
        return node
    if node.wire is not msgspec.Raw:  # Raw alone accepts null, and an Optional of Raw is always read as Raw by msgspec
        return replace(node, wire=node.wire | None, least=0)
    settle = node.settle
    return replace(node, settle=lambda raw: None if settle is None or bytes(raw) == b"null" else settle(raw))


def settled_fields(settles: list[tuple[str, Callable[[Any], Any]]], value: Any) -> Any:
    for name, settle in settles:
        part = getattr(value, name)
        if part is not None:
            setattr(value, name, settle(part))
    return value


def settled_items(settle: Callable[[Any], Any], values: list[Any]) -> list[Any]:
    return [None if value is None else settle(value) for value in values]


def settled_values(settle: Callable[[Any], Any], values: dict[str, Any]) -> dict[str, Any]:
    return {key: None if value is None else settle(value) for key, value in values.items()}


# ---- values -> arrays


def blank(struct: Any) -> Any:
    return struct(**dict.fromkeys(struct.__struct_fields__))


def columns(nodes: tuple[Node, ...], blank: Any, values: Sequence[Any | None]) -> list[Array]:
    rows = [blank if value is None else value for value in values]
    return [node.array(list(map(attrgetter(f"f{index}"), rows))) for index, node in enumerate(nodes)]


def struct_array(properties: dict[str, Node], blank: Any, values: list[Any]) -> Array:
    fields = [pa.field(name, node.arrow) for name, node in properties.items()]
    missing = pa.array([value is None for value in values], type=pa.bool_())
    return pa.StructArray.from_arrays(columns(tuple(properties.values()), blank, values), fields=fields, mask=missing)


def list_array(item: Node, values: list[Any]) -> Array:
    offsets = accumulate((0 if value is None else len(value) for value in values), initial=0)
    flat = item.array([part for value in values if value is not None for part in value])
    missing = pa.array([value is None for value in values], type=pa.bool_())
    return pa.ListArray.from_arrays(pa.array(offsets, type=pa.int32()), flat, type=pa.list_(item.arrow), mask=missing)
