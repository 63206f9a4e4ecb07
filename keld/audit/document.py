"""Document: the JSON values in a text that is not one value a line: printed over many lines, joined by commas or by nothing, or in pages.

Reads also what Python writes and JSON does not have: NaN, and the halves of a character.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import msgspec

_BETWEEN = re.compile(r"[\s,\x00\x1e]*")  # 0x1e stands before each record of a JSON text sequence
_decoder = json.JSONDecoder()


def documents(text: bytes) -> tuple[list[Any], int]:
    """The values in a text, those of an array one by one, and how many lines could not be read."""
    try:
        found, bad = [msgspec.json.decode(text)], 0
    except (msgspec.DecodeError, UnicodeDecodeError):
        found, bad = _one_by_one(text.decode("utf-8", "replace"))
    flat: list[Any] = []
    for one in found:
        flat += one if isinstance(one, list) else [one]
    return flat, bad


def _one_by_one(text: str) -> tuple[list[Any], int]:
    found, bad, at = [], 0, _after(text, 0)
    while at < len(text):
        try:
            value, at = _decoder.raw_decode(text, at)
            found.append(value)
        except (ValueError, RecursionError):
            bad += 1
            line = text.find("\n", at)
            at = len(text) if line < 0 else line + 1
        at = _after(text, at)
    return found, bad


def _after(text: str, at: int) -> int:
    match = _BETWEEN.match(text, at)
    return at if match is None else match.end()


def inner(document: Any, is_record: Callable[[Any], bool]) -> str | None:
    """The field of a page in which its records are; None: it has none, or it is a record itself."""
    if not isinstance(document, dict) or is_record(document):
        return None
    lists = (name for name, value in document.items() if isinstance(value, list) and value)
    return next((name for name in lists if is_record(document[name][0])), None)
