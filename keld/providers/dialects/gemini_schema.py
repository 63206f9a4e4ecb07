"""Gemini schema: how an output schema is sent, and which JSON Schema `responseSchema` accepts.

A part of `gemini_generate`, at Gemini and at Vertex.  `responseSchema` is no JSON Schema but the `Schema` message of ai.google.dev/api/caching#Schema,
read in Nov 2026: an OpenAPI object with types in capitals, `nullable` in place of the type null, and `propertyOrdering`; an unknown field is
refused ("Unknown name ...: Cannot find field").  There is also `responseJsonSchema`, which takes more, but models degenerated with it in batches
(github.com/crmne/ruby_llm/issues/894, 2026).

- No `$ref`, so definitions are written out where they are used; a schema that contains itself has no such form and is refused.
- No `additionalProperties`, `const` or `oneOf`; enums of texts only ("enum: only allowed for STRING type"), none of them empty; an object has at
  least one property ("should be non-empty for OBJECT type").
- Of formats only `date-time` ("only 'enum' and 'date-time' are supported for STRING type").  `pattern` and the lengths of texts are fields of the
  message, but the guide of structured output does not list them, so they are not sent.
- What is left out is written into the description and checked in every answer by our decoder.
- Without `propertyOrdering` the properties are written in alphabetical order, and a model that should reason first would answer first.
"""

from __future__ import annotations

from typing import Any

import msgspec

from keld.errors import SchemaError
from keld.schema import OutputSchema, Subset

_WHOSE = "Gemini's responseSchema"
STRUCTURED = Subset(
    whose=_WHOSE,
    rules={
        "string": frozenset(("format",)),
        "integer": frozenset(("minimum", "maximum")),
        "number": frozenset(("minimum", "maximum")),
        "array": frozenset(("minItems", "maxItems")),
    },
    formats=frozenset(("date-time",)),
    all_required=False,
    first_keys_differ=False,
)
_KEPT = ("title", "description", "format", "minimum", "maximum", "minItems", "maxItems")


def schema_format(output: OutputSchema) -> dict[str, Any]:
    """The fields of `generationConfig` that ask for this output; none for text.

    Raises:
        SchemaError: the schema has no form that is accepted; the message names the field.
    """
    if output.kind != "object":
        return {}
    form = output.strict_json_schema(STRUCTURED)
    return {"responseMimeType": "application/json", "responseSchema": _message(form, form, "$")}


def _message(node: dict[str, Any], root: dict[str, Any], at: str) -> dict[str, Any]:
    """One part of a form of `STRUCTURED` as a `Schema` message."""
    if "$ref" in node:  # neither recursive nor beside other keywords: `Subset` saw to it
        group, name = node["$ref"].removeprefix("#/").split("/", 1)
        return _message(root[group][name.replace("~1", "/").replace("~0", "~")], root, at)
    if "anyOf" in node:
        return _either(node, root, at)
    kinds = [node["type"]] if isinstance(node["type"], str) else list(node["type"])
    some = [kind for kind in kinds if kind != "null"]
    made: dict[str, Any] = {"type": (some[0] if some else "null").upper()}
    if some and len(some) < len(kinds):
        made["nullable"] = True
    made |= {key: node[key] for key in _KEPT if key in node} | _literals(node)
    if made["type"] == "OBJECT":
        made |= _object(node, root, at)
    if made["type"] == "ARRAY":
        made["items"] = _message(node["items"], root, f"{at}[...]")
    return made


def _object(node: dict[str, Any], root: dict[str, Any], at: str) -> dict[str, Any]:
    properties = {name: _message(child, root, f"{at}.{name}") for name, child in node["properties"].items()}
    if not properties:
        raise SchemaError(f"`{at}` is an object without properties, which {_WHOSE} does not take. Give it one, or leave it out.", at=at)
    required = {"required": node["required"]} if node["required"] else {}
    return {"properties": properties, "propertyOrdering": list(properties)} | required


def _either(node: dict[str, Any], root: dict[str, Any], at: str) -> dict[str, Any]:
    variants = [_message(variant, root, at) for variant in node["anyOf"]]
    some = [variant for variant in variants if variant["type" if "type" in variant else "anyOf"] != "NULL"]
    own = {key: node[key] for key in ("title", "description") if key in node}
    made = some[0] | own if len(some) == 1 else {"anyOf": some} | own
    return made | ({"nullable": True} if len(some) < len(variants) else {})


def _literals(node: dict[str, Any]) -> dict[str, Any]:
    """The values of an enum or a constant: as `enum` if they are texts, else as words for the model."""
    values = [node["const"]] if "const" in node else node.get("enum")
    if values is None:
        return {}
    if all(isinstance(value, str) and value for value in values if value is not None):
        return {"enum": [value for value in values if value is not None]}
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    bounds = {"minimum": min(numbers), "maximum": max(numbers)} if numbers else {}
    said = "One of: " + ", ".join(msgspec.json.encode(value).decode() for value in values)
    return bounds | {"description": f"{node['description']}\n\n{said}" if "description" in node else said}
