"""Anthropic schema: what structured outputs refuse in a JSON Schema, in the service's words.

Written from the service's documentation and from its own replies, as people quoted them; it shares nothing with what Keld sends.
The documentation is platform.claude.com/docs/en/build-with-claude/structured-outputs, "JSON Schema limitations", as read in Nov 2026.
Quoted replies: "For 'integer' type, properties maximum, minimum are not supported", "For 'array' type, property 'maxItems' is not supported",
"'minItems' values other than 0 or 1 are not supported", "'additionalProperties' must be explicitly set to false", "Circular reference detected
in schema definitions: A -> A", and the two counts below (github.com/vercel/ai/issues/17197 and others, 2026).  Other words are ours.
"""

import re
from functools import lru_cache
from typing import Any

import msgspec

from ..error import ApiError

_BEGUN = "output_config.format.schema: "
_FORMATS = frozenset(("date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"))
_REFUSED = {
    "integer": ("exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf"),
    "number": ("exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf"),
    "string": ("maxLength", "minLength"),
    "array": ("contains", "maxContains", "maxItems", "minContains", "prefixItems", "unevaluatedItems", "uniqueItems"),
    "object": (
        "dependentRequired", "dependentSchemas", "maxProperties", "minProperties", "patternProperties", "propertyNames", "unevaluatedProperties",
    ),
    "boolean": (),
    "null": (),
}  # fmt: skip
_NEVER = ("oneOf", "not", "if", "then", "else")
_MOST_OPTIONAL, _MOST_UNIONS = 24, 16
# "NOT supported: backreferences, lookahead and lookbehind, word boundaries".
_PATTERN = re.compile(r"(?<!\\)(?:\\\\)*(?:\(\?<?[=!]|\\[1-9]|\\[bB])")
# Generally available from the 4.5 models on; before them the reply is "'claude-3-haiku-20240307' does not support output format."
_WITHOUT = re.compile(r"claude-(?:\d|instant|v\d|(?:opus|sonnet)-4-(?:0\b|20))")


@lru_cache(maxsize=1_024)
def refusal(schema: bytes, model: str) -> ApiError | None:
    """Why the service would not take a schema; None where it would."""
    if _WITHOUT.match(model):
        return ApiError(status=400, message=f"'{model}' does not support output format.")
    try:
        look = _Look(msgspec.json.decode(schema))
        look.check()
    except _Refused as refused:
        return ApiError(status=400, message=_BEGUN + str(refused))
    if look.optional > _MOST_OPTIONAL:
        said = f"Schemas contains too many optional parameters ({look.optional}), which would make grammar compilation inefficient."
        return ApiError(
            status=400, message=f"{said} Reduce the number of optional parameters in your tool schemas (limit: {_MOST_OPTIONAL})."
        )
    if look.unions > _MOST_UNIONS:
        said = f"Schemas contains too many parameters with union types ({look.unions} parameters with type arrays or anyOf)."
        more = f"Reduce the number of nullable or union-typed parameters (limit: {_MOST_UNIONS} parameters with unions)."
        return ApiError(status=400, message=f"{said} This causes exponential compilation cost. {more}")
    return None


class _Refused(Exception):
    pass


class _Look:
    """One look through a schema; what is limited in number is counted on the way."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self.optional = 0
        self.unions = 0

    def check(self) -> None:
        if not isinstance(self._root, dict):
            raise _Refused("Input should be an object")
        for group in ("$defs", "definitions"):
            for name, node in self._root.get(group, {}).items():
                self._circle(f"#/{group}/{name}", ())
                self._node(node)
        self._node({key: part for key, part in self._root.items() if key not in ("$defs", "definitions")})

    def _circle(self, ref: str, path: tuple[str, ...]) -> None:
        if ref in path:
            raise _Refused(
                "Circular reference detected in schema definitions: " + " -> ".join(one.rpartition("/")[2] for one in (*path, ref))
            )
        for found in _references(self._target(ref)):
            self._circle(found, (*path, ref))

    def _target(self, ref: str) -> Any:
        if not ref.startswith("#"):
            raise _Refused(f"External $ref '{ref}' is not supported")
        if ref == "#":
            raise _Refused("Circular reference detected in schema definitions: # -> #")
        target: Any = self._root
        for part in ref[1:].split("/")[1:]:
            target = target.get(part) if isinstance(target, dict) else None
        if target is None:
            raise _Refused(f"$ref '{ref}' was not found")
        return target

    def _node(self, node: Any) -> None:
        if not isinstance(node, dict):
            raise _Refused(f"{node!r} is not supported as a schema")
        if "$ref" in node:
            self._target(str(node["$ref"]))
            return
        for keyword in _NEVER:
            if keyword in node:
                raise _Refused(f"Schema type '{keyword}' is not supported")
        for keyword in ("anyOf", "allOf"):
            for variant in node.get(keyword, ()):
                if keyword == "allOf" and "$ref" in variant:
                    raise _Refused("'allOf' with '$ref' is not supported")
                self._node(variant)
        kinds = node.get("type")
        if "anyOf" in node or isinstance(kinds, list):
            self.unions += 1
        self._values(node)
        if kinds is None and not node.keys() & {"anyOf", "allOf", "enum", "const"}:
            raise _Refused("Schema type 'None' is not supported")
        for kind in [kinds] if isinstance(kinds, str) else kinds or ():
            self._typed(str(kind), node)

    @staticmethod
    def _values(node: dict[str, Any]) -> None:
        if any(isinstance(value, dict | list) for value in [*node.get("enum", ()), node.get("const")]):
            raise _Refused("Complex types within enums are not supported")
        # Reported by users, not documented: a nullable enum is accepted with `null` among its values and without a list of types.
        if "enum" in node and isinstance(node.get("type"), list):
            raise _Refused("'enum' beside a list of types is not supported")

    def _typed(self, kind: str, node: dict[str, Any]) -> None:
        if kind not in _REFUSED:
            raise _Refused(f"Schema type '{kind}' is not supported")
        refused = [keyword for keyword in _REFUSED[kind] if keyword in node]
        if len(refused) == 1:
            raise _Refused(f"For '{kind}' type, property '{refused[0]}' is not supported")
        if refused:
            raise _Refused(f"For '{kind}' type, properties {', '.join(refused)} are not supported")
        match kind:
            case "object":
                self._object(node)
            case "array":
                if node.get("minItems", 0) not in (0, 1):
                    raise _Refused("For 'array' type, 'minItems' values other than 0 or 1 are not supported")
                if "items" in node:
                    self._node(node["items"])
            case "string":
                if node.get("format", "date") not in _FORMATS:
                    raise _Refused(f"For 'string' type, format '{node['format']}' is not supported")
                if _PATTERN.search(node.get("pattern", "")):
                    raise _Refused("For 'string' type, the 'pattern' uses a regex feature that is not supported")

    def _object(self, node: dict[str, Any]) -> None:
        if isinstance(node.get("additionalProperties"), dict):
            raise _Refused("For 'object' type, 'additionalProperties: object' is not supported. Please set 'additionalProperties' to false")
        if node.get("additionalProperties") is not False:
            raise _Refused("For 'object' type, 'additionalProperties' must be explicitly set to false")
        properties = node.get("properties", {})
        self.optional += len(properties.keys() - set(node.get("required", ())))
        for child in properties.values():
            self._node(child)


def _references(node: Any) -> list[str]:
    if isinstance(node, list):
        return [ref for part in node for ref in _references(part)]
    if not isinstance(node, dict):
        return []
    own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
    return own + [ref for part in node.values() for ref in _references(part)]
