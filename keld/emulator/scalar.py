"""Scalar: a JSON Schema of a constant, a number or a string -> a maker of conforming JSON texts."""

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec

from .dice import Dice
from .pattern import matching

Maker = Callable[[Dice, int], str]
"""(dice, references followed so far) -> JSON text."""


def constants(values: list[Any]) -> Maker:
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


def integer(schema: dict[str, Any]) -> Maker:
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


def number(schema: dict[str, Any]) -> Maker:
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


def string(schema: dict[str, Any]) -> Maker:
    formatted = _FORMATS.get(str(schema.get("format")))
    if formatted:
        return lambda dice, depth: f'"{formatted(dice)}"'
    pattern = schema.get("pattern")
    least, most = int(schema.get("minLength", 0)), int(schema.get("maxLength", 1 << 30))
    if not pattern and least <= 4 and most >= 40:
        return lambda dice, depth: f'"{dice.words(1 + dice.roll(3))}"'

    def make(dice: Dice, depth: int) -> str:
        if pattern:
            # A length bound together with a pattern is met by trying: a pattern rarely has a fixed length.
            tries = (matching(pattern, dice.roll) for _ in range(20))
            fitting = next((text for text in tries if text is not None and least <= len(text) <= most), None)
            if fitting is not None:
                return msgspec.json.encode(fitting).decode()
        text = dice.words(max(2, math.ceil(least / 5)))
        return f'"{text[: max(least, min(most, 40))]}"' if len(text) > most else f'"{text}"'

    return make


def word(dice: Dice, depth: int) -> str:
    return f'"{dice.words(1)}"'
