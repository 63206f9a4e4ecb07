"""Compiler: a JSON Schema -> nodes, once.

Everything that msgspec cannot express becomes JSON text with a reader that checks it; a rule that is not checked is named in `unchecked`.
"""

import math
import re
from functools import partial
from types import GenericAlias
from typing import Annotated, Any, Literal

import msgspec
import pyarrow as pa

from keld.errors import InvalidAnswer, SchemaError
from keld.schema.codec import Codec
from keld.schema.document import object_decoder, reader
from keld.schema.format import READERS, check_format
from keld.schema.node import (
    ANYTHING,
    JsonSchema,
    Node,
    Reader,
    blank,
    columns,
    list_array,
    or_null,
    settled_fields,
    settled_items,
    settled_values,
    struct_array,
)
from keld.schema.reference import inlined, is_null, kinds_of, resolve
from keld.schema.variant import decimal, decimal_of, json_text, read_nothing, union

_INT64 = (-(2**63), 2**63 - 1)
_ANNOTATIONS = frozenset(
    ("title", "description", "default", "example", "examples", "deprecated", "readOnly", "writeOnly", "discriminator"),
).union(("type", "$comment", "$schema", "$id", "$defs", "definitions"))
_CHECKED = {
    "string": frozenset(("minLength", "maxLength", "pattern", "format")),
    "integer": frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")),
    "number": frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")),
    "boolean": frozenset[str](),
    "array": frozenset(("items", "prefixItems", "minItems", "maxItems")),
    "object": frozenset(("properties", "required", "additionalProperties", "minProperties", "maxProperties")),
}
_APPLIES_TO_SOME = frozenset[str]().union(*_CHECKED.values())


class Compiled(msgspec.Struct, frozen=True):
    properties: dict[str, Node]
    codec: Codec
    unchecked: list[str]


class Compiler:
    """A JSON Schema -> nodes.  Keeps what is not part of a node: the root that `$ref` points into, the unchecked rules."""

    def __init__(self, root: JsonSchema) -> None:
        self._root = root
        self._unchecked: list[str] = []
        self._definitions: dict[str, Reader] = {}  # readers of recursive `$ref`s, which the text columns call by name
        self._recursive: list[str] = []

    def compile(self) -> Compiled:
        top = inlined(self._root, self._root)
        if top.get("type", "object") != "object" or not top.get("properties"):
            if "json_schema" in top or isinstance(top.get("schema"), dict):  # `response_format` of OpenAI's requests
                raise SchemaError("this is the envelope of a JSON Schema, as requests have it. Give the `schema` in it alone.")
            raise SchemaError(
                "the top level must be an object with properties, which become the columns. "
                "Wrap the value: {'type': 'object', 'properties': {...}}."
            )
        refs = (self._root["$ref"],) if "$ref" in self._root else ()
        properties, root = self._struct(top, "$", refs)
        self._note(top, "object", "$")
        if top.get("additionalProperties", False) is not False:
            self._unchecked.append("$: additionalProperties (accepted, and dropped)")
        while self._recursive:
            ref = self._recursive.pop()
            if ref not in self._definitions:
                self._definitions[ref] = read_nothing  # a placeholder, so that the recursion of the definition ends
                self._definitions[ref] = reader(self._node(resolve(self._root, ref), ref, (ref,)), ref)
        arrays = partial(columns, tuple(properties.values()), blank(root.wire))
        return Compiled(properties, Codec(object_decoder(root), arrays), self._unchecked)

    def _node(self, schema: Any, at: str, refs: tuple[str, ...]) -> Node:
        if schema is True:
            schema = {}
        if not isinstance(schema, dict):
            raise SchemaError(f"`{at}` is {schema!r}, which allows no value. Remove it.", at=at)
        if "$ref" in schema:
            return self._reference(schema, at, refs)
        if "const" in schema or "enum" in schema:
            return self._choice(schema, at)
        kinds = kinds_of(schema)
        if not kinds:
            return self._untyped(schema, at, refs)
        some = [kind for kind in kinds if kind != "null"]
        if len(some) > 1:
            return self._either("anyOf", [{**schema, "type": kind} for kind in kinds], at, refs)
        node = self._of_kind(some[0], schema, at, refs) if some else Node(arrow=pa.string(), wire=None)
        return or_null(node) if some and "null" in kinds else node

    def _of_kind(self, kind: str, schema: JsonSchema, at: str, refs: tuple[str, ...]) -> Node:
        self._note(schema, kind, at)
        match kind:
            case "string":
                return self._string(schema, at)
            case "integer":
                return Node(arrow=pa.int64(), wire=_ruled(int, _integer_rules(schema) | self._step(schema, at)))
            case "number":
                return Node(arrow=pa.float64(), wire=_ruled(float, _float_rules(schema) | self._step(schema, at)))
            case "boolean":
                return Node(arrow=pa.bool_(), wire=bool)
            case "array":
                return self._array(schema, at, refs)
            case "object":
                return self._object(schema, at, refs)
        raise SchemaError(f"`{at}` has the type {kind!r}, which JSON Schema does not know. Correct it.", at=at)

    def _note(self, schema: JsonSchema, kind: str, at: str) -> None:
        """Records the rules that are not checked; a rule for another type (`minimum` of a string) has no effect and is ignored."""
        rest = schema.keys() - _ANNOTATIONS - _CHECKED.get(kind, frozenset()) - _APPLIES_TO_SOME
        self._unchecked.extend(f"{at}: {keyword}" for keyword in sorted(rest))

    def _step(self, schema: JsonSchema, at: str) -> dict[str, Any]:
        step = schema.get("multipleOf")
        if step is None:
            return {}
        if step == int(step) and 0 < step <= _INT64[1]:
            return {"multiple_of": int(step)}
        self._unchecked.append(f"{at}: multipleOf")  # in binary floats 0.3 is not a multiple of 0.1
        return {}

    def _string(self, schema: JsonSchema, at: str) -> Node:
        pattern = schema.get("pattern")
        try:
            re.compile(pattern or "")
        except re.error:  # ECMA-262 has forms that Python's `re` does not have
            self._unchecked.append(f"{at}: pattern")
            pattern = None
        form = schema.get("format")
        if form is not None and form not in READERS:
            self._unchecked.append(f"{at}: format")
        return Node(
            arrow=pa.string(),
            wire=_ruled(str, _size_rules(schema, "Length") | {"pattern": pattern}),
            settle=partial(check_format, form, at) if form in READERS else None,
        )

    def _choice(self, schema: JsonSchema, at: str) -> Node:
        values = [schema["const"]] if "const" in schema else list(schema["enum"])
        some = [value for value in values if value is not None]
        self._note({key: value for key, value in schema.items() if key not in ("const", "enum")}, "", at)
        if not some:
            return Node(arrow=pa.string(), wire=None)
        if all(isinstance(value, str) for value in some):
            node = Node(arrow=pa.string(), wire=Literal[tuple(some)])
        elif all(_is_integer(value) for value in some):
            node = Node(arrow=pa.int64(), wire=Literal[tuple(int(value) for value in some)])
        else:
            node = self._loose_choice(some, at)
        nullable = len(some) < len(values) and ("type" not in schema or "null" in kinds_of(schema))
        return or_null(node) if nullable else node

    def _loose_choice(self, values: list[Any], at: str) -> Node:
        """An enum of booleans, floats or mixed values: msgspec has no Literal for them, so only the type is checked."""
        if set(map(type, values)) == {bool}:
            if len(set(values)) == 1:
                self._unchecked.append(f"{at}: enum")
            return Node(arrow=pa.bool_(), wire=bool)
        self._unchecked.append(f"{at}: enum")
        if all(type(value) in (int, float) for value in values):
            return Node(arrow=pa.float64(), wire=float)
        return json_text(reader(ANYTHING, at))

    def _untyped(self, schema: JsonSchema, at: str, refs: tuple[str, ...]) -> Node:
        keyword = next((keyword for keyword in ("anyOf", "oneOf", "allOf") if keyword in schema), None)
        rest = {key: value for key, value in schema.items() if key != keyword}
        if keyword == "allOf" and len(schema["allOf"]) == 1:
            return self._node({**schema["allOf"][0], **rest}, at, refs)
        self._unchecked.extend(f"{at}: {key}" for key in sorted(rest.keys() - _ANNOTATIONS))
        if keyword is None:
            return json_text(reader(ANYTHING, at))
        return self._either(keyword, schema[keyword], at, refs)

    def _either(self, keyword: str, variants: list[Any], at: str, refs: tuple[str, ...]) -> Node:
        some = [variant for variant in variants if not is_null(variant)]
        number = decimal_of(variants) if keyword == "anyOf" else None
        if number is not None:
            node = decimal(self._node(number, at, refs), at)
            return or_null(node) if len(some) < len(variants) else node
        nodes = [self._node(variant, at, refs) for variant in some]
        if not nodes:
            return Node(arrow=pa.string(), wire=None)
        node = nodes[0] if len(nodes) == 1 else union(keyword, nodes, at)
        return or_null(node) if len(some) < len(variants) else node

    def _reference(self, schema: JsonSchema, at: str, refs: tuple[str, ...]) -> Node:
        ref = schema["$ref"]
        if ref not in refs:
            return self._node(inlined(schema, self._root), at, (*refs, ref))
        self._recursive.append(ref)
        # No Arrow type contains itself: the inner value stays JSON text.  Its rules are checked at any depth.
        return json_text(lambda raw: self._definitions[ref](raw))  # noqa: PLW0108  # not compiled yet: look it up late

    def _array(self, schema: JsonSchema, at: str, refs: tuple[str, ...]) -> Node:
        size = _size_rules(schema, "Items")
        if "prefixItems" in schema:
            return self._tuple(schema, at, refs)
        if schema.get("items", True) is True:
            return json_text(reader(Node(arrow=pa.string(), wire=_ruled(list[Any], size)), at))
        item = self._node(schema["items"], f"{at}[...]", refs)
        return Node(
            arrow=pa.list_(item.arrow),
            wire=_ruled(GenericAlias(list, (item.wire,)), size),
            settle=None if item.settle is None else partial(settled_items, item.settle),
            arrays=None if item.arrays is None else partial(list_array, item),
        )

    def _tuple(self, schema: JsonSchema, at: str, refs: tuple[str, ...]) -> Node:
        items = [self._node(item, f"{at}[{index}]", refs) for index, item in enumerate(schema["prefixItems"])]
        fixed = schema.get("minItems") == schema.get("maxItems") == len(items)
        if not fixed or any(item.settle is not None for item in items):
            self._unchecked.append(f"{at}: prefixItems")
            return json_text(reader(Node(arrow=pa.string(), wire=list[Any]), at))
        node = Node(arrow=pa.list_(items[0].arrow), wire=GenericAlias(tuple, tuple(item.wire for item in items)))
        alike = all(item.arrow == items[0].arrow and item.arrays is None for item in items)
        return node if alike else json_text(reader(node, at))

    def _object(self, schema: JsonSchema, at: str, refs: tuple[str, ...]) -> Node:
        extra = schema.get("additionalProperties", {})
        if not schema.get("properties") and extra is not False:
            return self._map(schema, extra, at, refs)
        self._unchecked.extend(f"{at}: {key}" for key in ("minProperties", "maxProperties") if key in schema)
        properties, node = self._struct(schema, at, refs)
        if "additionalProperties" not in schema or extra is False:
            return node if properties else json_text(reader(node, at))  # Parquet has no struct without fields
        self._unchecked.extend([f"{at}: additionalProperties"] if extra is not True else [])
        return json_text(reader(node, at))  # further properties have no column: keep the whole text

    def _map(self, schema: JsonSchema, extra: Any, at: str, refs: tuple[str, ...]) -> Node:
        self._unchecked.extend([f"{at}: required"] if schema.get("required") else [])
        value = self._node(extra, f"{at}[...]", refs)
        wire = _ruled(GenericAlias(dict, (str, value.wire)), _size_rules(schema, "Properties"))
        settle = None if value.settle is None else partial(settled_values, value.settle)
        return json_text(reader(Node(arrow=pa.string(), wire=wire, settle=settle), at))

    def _struct(self, schema: JsonSchema, at: str, refs: tuple[str, ...]) -> tuple[dict[str, Node], Node]:
        required = frozenset(schema.get("required", ()))
        children = schema.get("properties", {})
        properties = {name: self._node(child, f"{at}.{name}", refs) for name, child in children.items()}
        self._unchecked.extend(f"{at}: required {name}" for name in sorted(required - properties.keys()))
        fields = [
            (f"f{index}", node.wire, msgspec.field(name=name, **self._absent(name, children[name], node, required, f"{at}.{name}")))
            for index, (name, node) in enumerate(properties.items())
        ]
        closed = schema.get("additionalProperties") is False
        # JSON is a tree: the garbage collector has nothing to find among its structs.
        wire = msgspec.defstruct("Answer", fields, kw_only=True, gc=False, forbid_unknown_fields=closed)
        settles = [(f"f{index}", node.settle) for index, node in enumerate(properties.values()) if node.settle]
        node = Node(
            arrow=pa.struct([(name, node.arrow) for name, node in properties.items()]),
            wire=wire,
            settle=partial(settled_fields, settles) if settles else None,
            arrays=partial(struct_array, properties, blank(wire)),
            least=sum(1 + node.least for name, node in properties.items() if name in required),
        )
        return properties, node

    def _absent(self, name: str, schema: Any, node: Node, required: frozenset[str], at: str) -> dict[str, Any]:
        """The default of a property that an answer leaves out: none (it is required), its own, or None (which msgspec does not check)."""
        if name in required:
            return {}
        default = inlined(schema, self._root).get("default") if isinstance(schema, dict) else None
        if default is None:
            return {"default": None}
        text = msgspec.json.encode(default)
        try:
            reader(node, at)(text)
        except InvalidAnswer:
            self._unchecked.append(f"{at}: default (it breaks the schema, and is not applied)")
            return {"default": None}
        # Made for each answer, as msgspec parses it, since it is settled together with the rest of the answer.
        return {"default_factory": partial(msgspec.json.Decoder(node.wire).decode, text)}


def _is_integer(value: Any) -> bool:
    return type(value) in (int, float) and value == int(value) and _INT64[0] <= value <= _INT64[1]


def _ruled(kind: Any, rules: dict[str, Any]) -> Any:
    return Annotated[kind, msgspec.Meta(**rules)]


def _size_rules(schema: JsonSchema, of: str) -> dict[str, Any]:
    return {"min_length": schema.get(f"min{of}"), "max_length": schema.get(f"max{of}")}


def _integer_rules(schema: JsonSchema) -> dict[str, Any]:
    """The bounds in the form that msgspec takes for integers: inclusive, whole, and within int64, the column's type."""
    low = [_INT64[0], math.ceil(schema.get("minimum", _INT64[0]))]
    high = [_INT64[1], math.floor(schema.get("maximum", _INT64[1]))]
    if "exclusiveMinimum" in schema:
        low.append(math.floor(schema["exclusiveMinimum"]) + 1)
    if "exclusiveMaximum" in schema:
        high.append(math.ceil(schema["exclusiveMaximum"]) - 1)
    return {"ge": min(max(low), _INT64[1]), "le": max(min(high), _INT64[0])}


def _float_rules(schema: JsonSchema) -> dict[str, Any]:
    """The bounds for msgspec, which takes one for each side: the tighter of two."""
    rules: dict[str, Any] = {}
    above, at_least = schema.get("exclusiveMinimum"), schema.get("minimum")
    if above is not None and (at_least is None or above >= at_least):
        rules["gt"] = above
    elif at_least is not None:
        rules["ge"] = at_least
    below, at_most = schema.get("exclusiveMaximum"), schema.get("maximum")
    if below is not None and (at_most is None or below <= at_most):
        rules["lt"] = below
    elif at_most is not None:
        rules["le"] = at_most
    return rules
