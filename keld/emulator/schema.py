"""Schema: a JSON Schema -> a maker of conforming JSON texts.

A schema is compiled once into closures; a row then costs a few microseconds.  Every choice comes from a `Dice`, so the
same request gets the same answer, today and on another machine.  Unknown keywords are ignored, as the services do.
"""

import math
from collections.abc import Callable
from decimal import Decimal
from hashlib import sha256
from typing import Any

import msgspec

from .pattern import matching

_SHALLOW = 4  # references followed before optional properties, long arrays and recursive branches are left out
_BOTTOM = 40  # a schema that only allows endless documents ends here with null
_TALE = (
    "amber basket candle delta ember forest garden harbor island jacket kettle ladder marble needle orchard pepper "
    "quartz river saddle timber velvet willow yellow zephyr"
)
_WORDS = _TALE.split()


class Dice:
    """Choices drawn from a digest."""

    __slots__ = ("_seed", "_value")

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._value = int.from_bytes(seed, "big")

    def roll(self, sides: int) -> int:
        """One of 0..sides-1."""
        if self._value < sides:
            self._seed = sha256(self._seed).digest()
            self._value = int.from_bytes(self._seed, "big")
        self._value, chosen = divmod(self._value, sides)
        return chosen

    def words(self, count: int) -> str:
        return " ".join(_WORDS[self.roll(len(_WORDS))] for _ in range(count))


Maker = Callable[[Dice, int], str]
"""(dice, references followed so far) -> JSON text."""


class Compiler:
    """One root schema; `$ref`s are resolved in it, each once."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._by_ref: dict[str, Maker] = {}

    def compile(self, schema: Any) -> Maker:
        if not isinstance(schema, dict) or not schema:
            return _word
        if "$ref" in schema:
            return self._reference(str(schema["$ref"]))
        if "const" in schema:
            return _constants([schema["const"]])
        if "enum" in schema:
            return _constants(schema["enum"])
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
                return _integer(schema)
            case "number":
                return _number(schema)
            case "boolean":
                return _constants([True, False])
            case "null":
                return _constants([None])
            case _:
                return _string(schema)

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
            return "{" + ",".join(f'"{_WORDS[n % len(_WORDS)]}{n}":{value(dice, depth)}' for n in range(size)) + "}"

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


def _constants(values: list[Any]) -> Maker:
    texts = [msgspec.json.encode(value).decode() for value in values]
    if len(texts) == 1:
        return lambda dice, depth: texts[0]
    return lambda dice, depth: texts[dice.roll(len(texts))]


def _bounds(schema: dict[str, Any]) -> tuple[float | None, bool, float | None, bool]:
    """(low, low excluded, high, high excluded); both spellings of `exclusive*` are read, draft 4's booleans too."""
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    low_open, high_open = above is True, below is True
    if above is not None and not isinstance(above, bool) and (low is None or above >= low):
        low, low_open = above, True
    if below is not None and not isinstance(below, bool) and (high is None or below <= high):
        high, high_open = below, True
    return low, low_open, high, high_open


def _integer(schema: dict[str, Any]) -> Maker:
    low, low_open, high, high_open = _bounds(schema)
    step = int(schema.get("multipleOf", 1)) or 1
    least = None if low is None else math.floor(low) + 1 if low_open else math.ceil(low)
    most = None if high is None else math.ceil(high) - 1 if high_open else math.floor(high)
    if least is None:
        least = 0 if most is None or most >= 0 else most - 100 * step
    if most is None:
        most = least + 100 * step
    first, last = -(-least // step), most // step
    span = max(last - first, 0) + 1
    return lambda dice, depth: str((first + dice.roll(span)) * step)


def _number(schema: dict[str, Any]) -> Maker:
    low, low_open, high, high_open = _bounds(schema)
    floor = low if low is not None else (0.0 if high is None or high > 0 else high - 100.0)
    roof = high if high is not None else floor + 100.0
    if "multipleOf" in schema:
        step = Decimal(str(schema["multipleOf"]))
        first = math.floor(Decimal(str(floor)) / step) + 1 if low_open else math.ceil(Decimal(str(floor)) / step)
        last = math.ceil(Decimal(str(roof)) / step) - 1 if high_open else math.floor(Decimal(str(roof)) / step)
        span = max(last - first, 0) + 1
        return lambda dice, depth: str((first + dice.roll(span)) * step)

    def make(dice: Dice, depth: int) -> str:
        value = floor + (roof - floor) * (1 + dice.roll(998)) / 1000
        short = round(value, 4)
        return repr(float(short if floor < short < roof else value))

    return make


_FORMATS: dict[str, Callable[[Dice], str]] = {
    "date": lambda dice: f"20{10 + dice.roll(17)}-{1 + dice.roll(12):02}-{1 + dice.roll(28):02}",
    "time": lambda dice: f"{dice.roll(24):02}:{dice.roll(60):02}:{dice.roll(60):02}Z",
    "date-time": lambda dice: f"{_FORMATS['date'](dice)}T{_FORMATS['time'](dice)}",
    "duration": lambda dice: f"PT{1 + dice.roll(59)}M",
    "email": lambda dice: f"{dice.words(1)}@example.com",
    "hostname": lambda dice: f"{dice.words(1)}.example.com",
    "uri": lambda dice: f"https://example.com/{dice.words(1)}",
    "ipv4": lambda dice: f"192.0.2.{dice.roll(256)}",
    "ipv6": lambda dice: f"2001:db8::{dice.roll(65536):x}",
    "uuid": lambda dice: (
        f"{dice.roll(1 << 32):08x}-{dice.roll(1 << 16):04x}-4{dice.roll(1 << 12):03x}-a{dice.roll(1 << 12):03x}-{dice.roll(1 << 48):012x}"
    ),
}


def _string(schema: dict[str, Any]) -> Maker:
    formatted = _FORMATS.get(str(schema.get("format")))
    if formatted:
        return lambda dice, depth: f'"{formatted(dice)}"'
    pattern = schema.get("pattern")
    least, most = int(schema.get("minLength", 0)), int(schema.get("maxLength", 1 << 30))
    if not pattern and least <= 4 and most >= 40:
        return lambda dice, depth: f'"{dice.words(1 + dice.roll(3))}"'

    def make(dice: Dice, depth: int) -> str:
        if pattern:
            # A length bound beside the pattern is met by trying: patterns rarely say their length.
            tries = (matching(pattern, dice.roll) for _ in range(20))
            fitting = next((text for text in tries if text is not None and least <= len(text) <= most), None)
            if fitting is not None:
                return msgspec.json.encode(fitting).decode()
        text = dice.words(max(2, math.ceil(least / 5)))
        return f'"{text[: max(least, min(most, 40))]}"' if len(text) > most else f'"{text}"'

    return make


def _word(dice: Dice, depth: int) -> str:
    return f'"{dice.words(1)}"'
