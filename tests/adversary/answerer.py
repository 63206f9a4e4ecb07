"""Answerer: what the model says: a plain sentence that names the prompt, or a value of the asked schema that holds it where text may stand."""

from __future__ import annotations

from typing import Any


def answer(prompt: str, schema: dict[str, Any] | None) -> Any:
    """Text, or a value valid for `schema`; which prompt it answers can be read off it where the schema has a free string."""
    return f"re: {prompt}" if schema is None else _value(schema, prompt, schema)


def _value(schema: dict[str, Any], prompt: str, root: dict[str, Any]) -> Any:
    if "$ref" in schema:
        found: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        return _value(found, prompt, root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][len(prompt) % len(schema["enum"])]
    for branches in ("anyOf", "oneOf"):
        if branches in schema:
            return _value(schema[branches][0], prompt, root)
    kind = schema.get("type", "string")
    kind = kind[0] if isinstance(kind, list) else kind
    match kind:
        case "object":
            return {name: _value(part, prompt, root) for name, part in schema.get("properties", {}).items()}
        case "array":
            return [_value(schema.get("items", {}), prompt, root)]
        case "boolean":
            return len(prompt) % 2 == 0
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "null":
            return None
        case _:
            return f"re: {prompt}"
