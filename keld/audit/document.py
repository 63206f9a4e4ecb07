"""Document: the JSON values in a text that is not one value a line: printed over many lines, joined by commas or by nothing, or in pages.

Reads also what Python writes and JSON does not have: NaN, and the halves of a character.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import msgspec

from keld.audit.chunk import opened

_BETWEEN = re.compile(r"[\s,\x00\x1e]*")  # 0x1e stands before each record of a JSON text sequence
_WRAPPERS = ("message", "@message", "log", "jsonPayload", "_source")  # where CloudWatch, Docker, Google and Elastic have what was logged
_SHARED = ("userId", "user_id", "sessionId", "session_id", "tags")
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
            found.append(_whole(value))
        except (ValueError, RecursionError):
            bad += 1
            line = text.find("\n", at)
            at = len(text) if line < 0 else line + 1
        at = _after(text, at)
    return found, bad


def _whole(value: Any) -> Any:
    """The same without halves of characters, which no column can hold."""
    return json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


def _after(text: str, at: int) -> int:
    match = _BETWEEN.match(text, at)
    return at if match is None else match.end()


def records(document: Any, is_record: Callable[[Any], bool], depth: int = 3) -> list[Any]:
    """The records in a document, with those around it that wrap them: a page, a trace, an event of a log service; empty: there are none."""
    document = opened(document)
    if is_record(document):
        return [document]
    if not depth or not isinstance(document, dict | list):
        return []
    if isinstance(document, list):
        return [record for one in document for record in records(one, is_record, depth - 1)]
    for name in _WRAPPERS:
        if is_record(found := opened(document.get(name))):
            return [found]
    for value in document.values():
        if isinstance(value, list) and value and records(value[0], is_record, depth - 1):
            return [{**_about(document), **one} for one in records(value, is_record, depth)]
    return []


def _about(page: dict[str, Any]) -> dict[str, Any]:
    """What a trace says of all calls within."""
    return {name: page[name] for name in _SHARED if page.get(name)}
