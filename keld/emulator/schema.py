"""Schema: a JSON Schema -> a maker of conforming JSON texts.

A schema is compiled once into closures; a row then costs a few microseconds.  Every choice comes from a `Dice`, so the
same request gets the same answer, today and on another machine.  Unknown keywords are ignored, as the services do.
"""

from typing import Any

import msgspec

from .dice import WORDS, Dice
from .scalar import Maker, constants, integer, number, string, word

_SHALLOW = 4  # references followed before optional properties, long arrays and recursive branches are left out
_BOTTOM = 40  # a schema that only allows endless documents ends here with null


class Compiler:
    """One root schema; `$ref`s are resolved in it, each once."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._by_ref: dict[str, Maker] = {}

    def compile(self, schema: Any) -> Maker:
        if not isinstance(schema, dict) or not schema:
            return word
        if "$ref" in schema:
            return self._reference(str(schema["$ref"]))
        if "const" in schema:
            return constants([schema["const"]])
        if "enum" in schema:
            return constants(schema["enum"])
        if "allOf" in schema:
            return self.compile(self._merged(schema))
        branches = schema.get("anyOf") or schema.get("oneOf")
        if branches:
            return self._branches(branches)
        return self._typed(schema)

    def _typed(self, schema: dict[str, Any]) -> Maker:
        kind = schema.get("type") or _kind_by_keywords(schema)
        if isinstance(kind, list):
            return self._branches([{**schema, "type": one} for one in kind])
        match kind:
            case "object":
                return self._object(schema)
            case "array":
                return self._array(schema)
            case "integer":
                return integer(schema)
            case "number":
                return number(schema)
            case "boolean":
                return constants([True, False])
            case "null":
                return constants([None])
            case _:
                return string(schema)

    def _reference(self, ref: str) -> Maker:
        def follow(dice: Dice, depth: int) -> str:
            if depth >= _BOTTOM:
                return "null"
            # Compiled when first followed, not when met: a recursive schema would never finish compiling.
            if ref not in self._by_ref:
                self._by_ref[ref] = self.compile(self._target(ref))
            return self._by_ref[ref](dice, depth + 1)

        return follow

    def _target(self, ref: str) -> Any:
        node = self._root
        for part in ref.removeprefix("#").split("/"):
            if part:
                key = part.replace("~1", "/").replace("~0", "~")
                node = node.get(key, {}) if isinstance(node, dict) else {}
        return node

    def _merged(self, schema: dict[str, Any]) -> dict[str, Any]:
        merged = {key: value for key, value in schema.items() if key != "allOf"}
        for part in schema["allOf"]:
            resolved = self._target(str(part["$ref"])) if "$ref" in part else part
            inner = self._merged(resolved) if "allOf" in resolved else resolved
            properties = {**merged.get("properties", {}), **inner.get("properties", {})}
            required = [*merged.get("required", []), *inner.get("required", [])]
            merged = {**merged, **inner}
            if properties:
                merged |= {"properties": properties, "required": required}
        return merged

    def _branches(self, branches: list[Any]) -> Maker:
        makers = [self.compile(branch) for branch in branches]
        flat = [maker for maker, branch in zip(makers, branches, strict=True) if b'"$ref"' not in msgspec.json.encode(branch)]

        def choose(dice: Dice, depth: int) -> str:
            among = flat if flat and depth >= _SHALLOW else makers
            return among[dice.roll(len(among))](dice, depth)

        return choose

    def _object(self, schema: dict[str, Any]) -> Maker:
        required = set(schema.get("required", ()))
        fields = [
            (msgspec.json.encode(name).decode() + ":", self.compile(value), name in required)
            for name, value in schema.get("properties", {}).items()
        ]
        rest = schema.get("additionalProperties")
        if not fields and isinstance(rest, dict):
            return self._mapping(self.compile(rest), max(1, int(schema.get("minProperties", 1))))

        def make(dice: Dice, depth: int) -> str:
            kept = fields if depth < _SHALLOW else [one for one in fields if one[2]]
            return "{" + ",".join([key + maker(dice, depth) for key, maker, _ in kept]) + "}"

        return make

    @staticmethod
    def _mapping(value: Maker, size: int) -> Maker:
        def make(dice: Dice, depth: int) -> str:
            return "{" + ",".join(f'"{WORDS[n % len(WORDS)]}{n}":{value(dice, depth)}' for n in range(size)) + "}"

        return make

    def _array(self, schema: dict[str, Any]) -> Maker:
        first = [self.compile(item) for item in schema.get("prefixItems", ())]
        item = self.compile(schema.get("items", {}))
        least = int(schema.get("minItems", len(first)))
        most = int(schema.get("maxItems", max(least, 1) + 2))
        unique = bool(schema.get("uniqueItems"))

        def make(dice: Dice, depth: int) -> str:
            wanted = least if depth >= _SHALLOW else least + dice.roll(most - least + 1 if most - least < 3 else 3)
            items = [maker(dice, depth) for maker in first[:wanted]]
            tries = 0
            while len(items) < wanted and tries < wanted + 30:
                tries += 1
                made = item(dice, depth)
                if not (unique and made in items):
                    items.append(made)
            return "[" + ",".join(items) + "]"

        return make


def compile_schema(schema: bytes) -> Maker:
    """The maker of a schema's JSON bytes.

    Raises:
        msgspec.DecodeError: the bytes are not JSON.
    """
    root = msgspec.json.decode(schema)
    return Compiler(root).compile(root)


def _kind_by_keywords(schema: dict[str, Any]) -> str:
    if "properties" in schema or "additionalProperties" in schema:
        return "object"
    if "items" in schema or "prefixItems" in schema:
        return "array"
    return "integer" if "minimum" in schema or "maximum" in schema else "string"
