"""OpenAI schema: what structured outputs refuse in a JSON Schema, in the service's words.

Written from the service's documentation and from its own replies, as people quoted them; it shares nothing with what Keld sends.
The documentation is developers.openai.com/api/docs/guides/structured-outputs, section "Supported schemas", as read in Nov 2026.
If only the rule is documented and no text was quoted (sizes of strings and enums), the text is ours.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations
from typing import Any

import msgspec

from ..error import ApiError

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LOOKAROUND = re.compile(r"(?<!\\)(?:\\\\)*\(\?<?[=!]")
# "Supported properties" of strings in the documentation; 'uri' is not a valid format: github.com/tailcallhq/forgecode/issues/2974.
_FORMATS = frozenset(("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"))
# "'minLength' is not permitted" (github.com/coder/mux/pull/1220, Dec 2025), "'uniqueItems' is not permitted" (github.com/mastra-ai/mastra/issues/23321,
# Sep 2026), "'oneOf' is not permitted", "'default' is not permitted", "'propertyNames' is not permitted" (quoted all over 2024 to 2026); the
# compositions and conditions are listed as unsupported in the documentation.
_REFUSED = (
    "allOf", "oneOf", "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "patternProperties", "propertyNames",
    "minProperties", "maxProperties", "unevaluatedProperties", "unevaluatedItems", "prefixItems", "contains", "minContains", "maxContains",
    "uniqueItems", "minLength", "maxLength", "default",
)  # fmt: skip
_ANY_OF_TYPES = frozenset(("string", "number", "integer", "boolean", "object", "array", "null"))
# The documentation's "limitations on nesting depth and size", raised in July 2025.
_MOST_PROPERTIES, _MOST_LEVELS, _MOST_CHARACTERS, _MOST_VALUES = 5_000, 10, 120_000, 1_000
_LONG_ENUM, _MOST_LONG_ENUM_CHARACTERS = 250, 15_000
_REQUIRED = "'required' is required to be supplied and to be an array including every key in properties."
_SHARED_KEYS = (
    "Invalid schema: Objects provided via 'anyOf' must not share identical first keys. "
    "Consider adding a discriminator key or rearranging the properties to ensure the first key is unique."
)


@lru_cache(maxsize=1_024)
def refusal(schema: bytes, name: str, strict: bool, responses: bool) -> ApiError | None:
    """Why the service would not take a schema; None where it would.

    Args:
        strict: most rules hold in strict mode only.
        responses: whether it came to /v1/responses, whose errors have another `param` and `code` than those of chat completions.
    """
    param, code = ("text.format.schema", "invalid_json_schema") if responses else ("response_format", None)
    if not _NAME.fullmatch(name):
        where = "text.format.name" if responses else "response_format.json_schema.name"
        pattern = "Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'."
        return ApiError(
            status=400, message=f"Invalid '{where}': string does not match pattern. {pattern}", param=where, code="invalid_value"
        )
    try:
        root = msgspec.json.decode(schema)
        if not isinstance(root, dict) or root.get("type") != "object":
            kind = root.get("type") if isinstance(root, dict) else None
            raise _Refused(f"""schema must be a JSON Schema of 'type: "object"', got 'type: "{kind}"'.""")
        _check_patterns(root, "$")
        if strict:
            _Strict(root).check()
    except _Refused as refused:
        begun = "" if refused.whole else f"Invalid schema for response_format '{name}': "
        return ApiError(status=400, message=begun + str(refused), param=param, code=refused.code or code)
    except RecursionError:
        return ApiError(status=400, message=f"Invalid schema for response_format '{name}'.", param=param, code=code)
    return None


class _Refused(Exception):
    def __init__(self, said: str, *, whole: bool = False, code: str | None = None) -> None:
        super().__init__(said)
        self.whole = whole  # the message is not begun with the schema's name
        self.code = code


def _check_patterns(node: Any, at: str) -> None:
    """In strict mode and without: tools that never asked for strict mode were refused as well (github.com/anomalyco/opencode/issues/32073)."""
    if isinstance(node, dict):
        if isinstance(node.get("pattern"), str) and _LOOKAROUND.search(node["pattern"]):
            said = f"Invalid JSON schema: regex lookaround is not supported. Found at {at}.pattern."
            raise _Refused(said, whole=True, code="invalid_json_schema")
        for key, part in node.items():
            _check_patterns(part, f"{at}.{key}")
    elif isinstance(node, list):
        for n, part in enumerate(node):
            _check_patterns(part, f"{at}[{n}]")


@dataclass
class _Strict:
    """One look through a schema; the sizes add up on the way."""

    root: dict[str, Any]
    properties: int = 0
    characters: int = 0
    values: int = 0
    levels: int = 0
    followed: dict[str, int] = field(default_factory=dict)  # at which level a reference was followed, the deepest

    def check(self) -> None:
        self._node(self.root, (), 0, ())
        for group in ("$defs", "definitions"):
            for name, node in self.root.get(group, {}).items():
                self.characters += len(name)
                self._node(node, (group, name), 0, (f"#/{group}/{name}",))
        for count, most, what in (
            (self.levels, _MOST_LEVELS, "levels of nesting"),
            (self.properties, _MOST_PROPERTIES, "parameters"),
            (self.values, _MOST_VALUES, "enum values"),
            (self.characters, _MOST_CHARACTERS, "characters of names and values"),
        ):
            if count > most:
                raise _Refused(f"{count} {what} exceeds limit of {most}.")

    def _node(self, node: Any, at: tuple[str, ...], level: int, refs: tuple[str, ...]) -> None:
        if not isinstance(node, dict):
            raise self._in(at, "schema must have a 'type' key.")
        self.levels = max(self.levels, level)
        if "$ref" in node:
            self._reference(node, at, level, refs)
            return
        for keyword in _REFUSED:
            if keyword in node:
                raise self._in(at, f"'{keyword}' is not permitted.")
        if "anyOf" in node:
            self._any_of(node["anyOf"], at, level, refs)
            return
        kinds = node.get("type")
        kinds = [kinds] if isinstance(kinds, str) else kinds
        if not kinds:
            raise self._in(at, "schema must have a 'type' key.")
        for kind in kinds:
            if kind not in _ANY_OF_TYPES:
                raise self._in(at, f"'{kind}' is not a valid type.")
        self._values(node, at)
        if "object" in kinds:
            self._object(node, at, level, refs)
        if "array" in kinds:
            if "items" not in node:
                raise self._in(at, "array schema missing items.")
            self._node(node["items"], (*at, "items"), level + 1, refs)
        if node.get("format") is not None and node["format"] not in _FORMATS:
            raise self._in(at, f"'{node['format']}' is not a valid format.")

    def _reference(self, node: dict[str, Any], at: tuple[str, ...], level: int, refs: tuple[str, ...]) -> None:
        ref, beside = str(node["$ref"]), [key for key in node if key != "$ref"]
        if beside:
            raise self._in(at, f"$ref cannot have keywords {set(beside)}.")
        target = self._target(ref)
        if target is None:
            raise self._in(at, f"reference to component '{ref}' which was not found in the schema.")
        if ref not in refs and ref != "#" and self.followed.get(ref, -1) < level:
            self.followed[ref] = level
            before = self.properties, self.characters, self.values
            self._node(target, at, level, (*refs, ref))
            self.properties, self.characters, self.values = before  # a definition's size counts where it is defined

    def _target(self, ref: str) -> Any:
        """What a reference points to; None where that is nothing of this schema."""
        target: Any = self.root
        for part in ref.removeprefix("#").split("/")[1:]:
            target = target.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(target, dict) else None
        return target if ref.startswith("#") else None

    def _object(self, node: dict[str, Any], at: tuple[str, ...], level: int, refs: tuple[str, ...]) -> None:
        if node.get("additionalProperties") is not False:
            raise self._in(at, "'additionalProperties' is required to be supplied and to be false.")
        properties = node.get("properties", {})
        required = node.get("required")
        missing = [name for name in properties if not isinstance(required, list) or name not in required]
        if missing:
            raise self._in(at, f"{_REQUIRED} Missing '{missing[0]}'.")
        if extra := sorted(set(required or ()) - set(properties)):
            raise self._in(at, f"{_REQUIRED} Extra required key '{extra[0]}' supplied.")
        self.properties += len(properties)
        for name, child in properties.items():
            self.characters += len(name)
            self._node(child, (*at, "properties", name), level + 1, refs)

    def _values(self, node: dict[str, Any], at: tuple[str, ...]) -> None:
        values = node.get("enum", [node["const"]] if "const" in node else [])
        texts = [value for value in values if isinstance(value, str)]
        length = sum(map(len, texts))
        self.characters += length
        self.values += len(node.get("enum", ()))
        if len({_kind(value) for value in values} - {"null"}) > 1:
            raise self._in(at, "enum values must be of the same type.")
        if len(texts) > _LONG_ENUM and length > _MOST_LONG_ENUM_CHARACTERS:
            raise self._in(at, f"{length} characters in {len(texts)} enum values exceeds limit of {_MOST_LONG_ENUM_CHARACTERS}.")

    def _any_of(self, variants: list[Any], at: tuple[str, ...], level: int, refs: tuple[str, ...]) -> None:
        for n, variant in enumerate(variants):
            self._node(variant, (*at, "anyOf", str(n)), level, refs)
        for one, other in combinations(self._first_keys(variants), 2):
            if one[0] == other[0] and (one[1] is None or other[1] is None or one[1] == other[1]):
                raise _Refused(_SHARED_KEYS, whole=True)

    def _first_keys(self, variants: list[Any]) -> Iterator[tuple[str, bytes | None]]:
        """The first key of each object among them, and the one value it may have, where there is only one."""
        for variant in variants:
            variant = self._target(variant["$ref"]) if "$ref" in variant else variant
            for name, child in list(variant.get("properties", {}).items())[:1]:
                values = [child["const"]] if "const" in child else child.get("enum", [])
                yield name, msgspec.json.encode(values[0]) if len(values) == 1 else None

    @staticmethod
    def _in(at: tuple[str, ...], said: str) -> _Refused:
        return _Refused(f"In context={at}, {said}")


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
    return type(value).__name__
