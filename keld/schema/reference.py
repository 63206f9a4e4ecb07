"""Reference: what a JSON Schema says through other parts of it or implies: a `$ref`, an `allOf`, a type that is not named."""

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
    """`schema` with its `$ref`, if any, replaced by its target; the keys beside it have precedence, as in openai's SDK."""
    seen: set[str] = set()
    while "$ref" in schema:
        ref = schema["$ref"]
        if ref in seen:
            raise SchemaError(f"the $ref {ref!r} leads back to itself.")
        seen.add(ref)
        schema = {**resolve(root, ref), **{key: value for key, value in schema.items() if key != "$ref"}}
    return schema


def merged(schema: JsonSchema, root: JsonSchema, refs: tuple[str, ...] = ()) -> JsonSchema:
    """`schema` without `allOf`: the sum of its parts, as far as one schema can express it.

    Of two rules of the same keyword the first is kept: the result may ask for less, but never for what a part would refuse.
    """
    made: JsonSchema = {}
    for part in ({key: value for key, value in schema.items() if key != "allOf"}, *schema.get("allOf", ())):
        ref = part.get("$ref")
        if ref in refs:
            continue
        inner = inlined(part, root)
        inner = merged(inner, root, (*refs, ref) if ref else refs) if "allOf" in inner else inner
        properties = dict(made.get("properties", {}))
        for name, child in inner.get("properties", {}).items():
            properties[name] = {"allOf": [properties[name], child]} if name in properties and properties[name] != child else child
        required = list(dict.fromkeys((*made.get("required", ()), *inner.get("required", ()))))
        made = inner | made | ({"properties": properties} if properties else {}) | ({"required": required} if required else {})
    return made


def kinds_of(node: JsonSchema) -> list[str]:
    """The types that a schema names, or that its keywords imply."""
    kind = node.get("type")
    if kind is not None:
        return [kind] if isinstance(kind, str) else list(kind)
    if "properties" in node:
        return ["object"]
    return ["array"] if "items" in node or "prefixItems" in node else []


def is_null(variant: Any) -> bool:
    """True if a variant of a union allows only null."""
    return isinstance(variant, dict) and (variant.get("type") == "null" or variant.get("const", 0) is None)
