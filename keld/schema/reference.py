"""Reference: what a `$ref` of a JSON Schema points to."""

from typing import Any

from keld.errors import SchemaError
from keld.schema.node import JsonSchema


def resolve(root: JsonSchema, ref: str) -> JsonSchema:
    if ref != "#" and not ref.startswith("#/"):
        raise SchemaError(f"the $ref {ref!r} points outside of the schema. Put the definition under $defs.")
    found: Any = root
    for part in ref.split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        if part not in found:
            raise SchemaError(f"the $ref {ref!r} points to nothing. Put the definition under $defs.")
        found = found[part]
    return found if isinstance(found, dict) else {}


def inlined(schema: JsonSchema, root: JsonSchema) -> JsonSchema:
    """`schema` with its `$ref`, if any, replaced by what it points to; the keys beside it win, as in openai's SDK."""
    seen: set[str] = set()
    while "$ref" in schema:
        ref = schema["$ref"]
        if ref in seen:
            raise SchemaError(f"the $ref {ref!r} leads back to itself.")
        seen.add(ref)
        schema = {**resolve(root, ref), **{key: value for key, value in schema.items() if key != "$ref"}}
    return schema
