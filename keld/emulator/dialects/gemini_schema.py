"""Gemini schema: what `responseSchema` refuses, in the service's words, and the JSON Schema that it stands for.

Written from ai.google.dev/api/caching#Schema and from replies as people quoted them (Nov 2026); it shares nothing with what Keld sends:
'Unknown name "additionalProperties" at 'generation_config.response_schema': Cannot find field', "enum: only allowed for STRING type",
"enum[0]: cannot be empty", "properties: should be non-empty for OBJECT type", "items: missing field", "only 'enum' and 'date-time' are supported
for STRING type", "required[0]: property is not defined".
"""

from functools import lru_cache
from typing import Any

import msgspec

from ..error import ApiError
from .gemini_body import invalid

_FIELDS = frozenset((
    "type", "format", "title", "description", "nullable", "enum", "maxItems", "minItems", "properties", "required", "minProperties",
    "maxProperties", "minLength", "maxLength", "pattern", "example", "anyOf", "propertyOrdering", "default", "items", "minimum", "maximum",
))  # fmt: skip
_TYPES = frozenset(("STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL"))
_FORMATS = {"STRING": ("enum", "date-time"), "NUMBER": ("float", "double"), "INTEGER": ("int32", "int64")}
_PATH = "GenerateContentRequest.generation_config.response_schema"


@lru_cache(maxsize=1_024)
def json_schema(schema: bytes) -> bytes | ApiError:
    """The JSON Schema of the documents that a `responseSchema` allows, or why the service does not take it."""
    try:
        return msgspec.json.encode(_node(msgspec.json.decode(schema), "", "generation_config.response_schema"))
    except ApiError as refused:
        return refused


def _node(node: Any, at: str, place: str) -> dict[str, Any]:
    """One part of a schema; `at` names it in complaints about values, `place` in those about fields."""
    if not isinstance(node, dict):
        raise invalid(f"Invalid value at '{place}' (type.googleapis.com/google.ai.generativelanguage.v1beta.Schema)")
    for name in node:
        if name not in _FIELDS:
            raise invalid(f"Invalid JSON payload received. Unknown name \"{name}\" at '{place}': Cannot find field.")
    if "anyOf" in node:
        branches = [_node(one, f"{at}.any_of[{n}]", f"{place}.any_of[{n}]") for n, one in enumerate(node["anyOf"])]
        return {"anyOf": branches + ([{"type": "null"}] if node.get("nullable") else [])}
    kind = str(node.get("type", "")).upper()
    if kind not in _TYPES:
        raise invalid(
            f"Invalid value at '{place}.type' (type.googleapis.com/google.ai.generativelanguage.v1beta.Type), \"{node.get('type')}\""
        )
    made: dict[str, Any] = {"type": [kind.lower(), "null"] if node.get("nullable") else kind.lower()}
    _check_values(node, kind, at)
    if kind == "OBJECT":
        return made | _object(node, at, place)
    if kind == "ARRAY":
        if "items" not in node:
            raise _wrong(at, "items: missing field.")
        sizes = {name: int(node[name]) for name in ("minItems", "maxItems") if name in node}
        return made | {"items": _node(node["items"], f"{at}.items", f"{place}.items")} | sizes
    if "enum" in node:  # as alternatives, so that null stays one of them
        return {"enum": [*node["enum"], *([None] if node.get("nullable") else [])]}
    return made | {name: node[name] for name in ("format", "minimum", "maximum", "minLength", "maxLength", "pattern") if name in node}


def _object(node: dict[str, Any], at: str, place: str) -> dict[str, Any]:
    properties = node.get("properties")
    if not properties:
        raise _wrong(at, "properties: should be non-empty for OBJECT type")
    for field in ("required", "propertyOrdering"):
        for n, name in enumerate(node.get(field, ())):
            if name not in properties:
                raise _wrong(at, f"{'required' if field == 'required' else 'property_ordering'}[{n}]: property is not defined")
    children = {
        name: _node(child, f"{at}.properties[{name}]", f"{place}.properties[{n}].value")
        for n, (name, child) in enumerate(properties.items())
    }
    order = node.get("propertyOrdering") or sorted(children)
    ordered = {name: children[name] for name in [*order, *(name for name in sorted(children) if name not in order)]}
    return {"properties": ordered, "required": node.get("required", []), "additionalProperties": False}


def _check_values(node: dict[str, Any], kind: str, at: str) -> None:
    if "enum" in node:
        if kind != "STRING":
            raise _wrong(at, "enum: only allowed for STRING type")
        for n, value in enumerate(node["enum"]):
            if not isinstance(value, str) or not value:
                raise _wrong(at, f"enum[{n}]: cannot be empty")
    if "format" in node and node["format"] not in _FORMATS.get(kind, ()):
        known = " and ".join(f"'{one}'" for one in _FORMATS.get(kind, ()))
        raise _wrong(at, f"format: only {known} are supported for {kind} type")
    if "properties" in node and kind != "OBJECT":
        raise _wrong(at, "properties: only allowed for OBJECT type")
    if "items" in node and kind != "ARRAY":
        raise _wrong(at, "items: only allowed for ARRAY type")


def _wrong(at: str, what: str) -> ApiError:
    return invalid(f"* {_PATH}{at}.{what}\n")
