"""Written: numbers and instants as people and spreadsheets write them, where they are neither JSON's nor ISO 8601.

What one text leaves open, the others of its column decide: whether a comma divides thousands or cents, and whether the day or the month is first.
What they leave open, too, is not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Any

_NUMBER = re.compile(
    r"(?:US|USD|EUR|[$€£]|\s)*([-+]?)\s*[$€£]?\s*([\d.,'\u00a0\u202f ]*\d)(e[-+]?\d+)?(?:\s|USD|EUR|[$€£])*", re.IGNORECASE
)
_GAPS = re.compile(r"['\u00a0\u202f ]")
_THOUSANDS = re.compile(r"[1-9]\d{0,2}(?:([.,])\d{3})(?:\1\d{3})*")
_DATE = re.compile(
    r"(\d{1,4})([-./])(\d{1,2})\2(\d{1,4})(?:[,T ]+(\d{1,2}):(\d\d)(?::(\d\d)(?:[.,](\d{1,6})\d*)?)?\s*([AP]\.?M\.?)?\s*(Z|UTC|GMT|[-+]\d\d:?\d\d)?)?",
    re.IGNORECASE,
)
_DAY_FIRST, _MONTH_FIRST = (2, 1, 0), (2, 0, 1)  # where the year, the month and the day are, in a date that ends with its year


def numbers(values: Sequence[Any]) -> Iterator[float]:
    """A number for each value; NaN where there is none.

    >>> list(numbers(["$0.0135", "1,250", "12.5 USD"]))
    [0.0135, 1250.0, 12.5]
    >>> list(numbers(["0,0135", "1.250,00"]))
    [0.0135, 1250.0]
    """
    found = [_NUMBER.fullmatch(value.strip()) if isinstance(value, str) else None for value in values]
    digits = [_GAPS.sub("", match[2]) if match else "" for match in found]
    comma = any(map(_has_decimal_comma, digits))
    for value, match, text in zip(values, found, digits, strict=True):
        plain = text.replace(".", "").replace(",", ".") if comma else text.replace(",", "")
        try:
            yield float(f"{match[1]}{plain}{match[3] or ''}") if match else float(value)
        except (TypeError, ValueError):
            yield float("nan")


def _has_decimal_comma(digits: str) -> bool:
    """True if the comma can only be the mark before a fraction."""
    return digits.count(",") == 1 and digits.rfind(".") < digits.find(",") and not _THOUSANDS.fullmatch(digits)


def is_grouped(text: str) -> bool:
    """True for a whole number in groups of three digits, as `2.000` or `12,500`."""
    return _THOUSANDS.fullmatch(text) is not None


def ungrouped(text: str) -> str:
    return text.replace(".", "").replace(",", "")


def instants(texts: Sequence[str]) -> list[datetime | None]:
    """An instant for each text, in UTC where it names no zone; None where there is none.

    >>> [at.isoformat() for at in instants(["13.10.2026 02:00", "Tue, 13 Oct 2026 02:00:03 GMT", "2026/10/13 2:00:05"])]
    ['2026-10-13T02:00:00+00:00', '2026-10-13T02:00:03+00:00', '2026-10-13T02:00:05+00:00']
    >>> [at.isoformat() for at in instants(["10/5/2026, 2:00:00 PM", "10/6/2026, 2:00:00 PM"])]
    ['2026-10-05T14:00:00+00:00', '2026-10-06T14:00:00+00:00']
    >>> instants(["10/5/2026 14:00"])
    [None]
    """
    matches = [_DATE.fullmatch(text.strip()) for text in texts]
    order = _order([match for match in matches if match is not None and _is_open(match)])
    return [_other(text) if match is None else _instant(match, order) for text, match in zip(texts, matches, strict=True)]


def _is_open(match: re.Match[str]) -> bool:
    """True if a date does not say by itself whether its day or its month is first."""
    return len(match[1]) < 4 and match[2] != "."


def _order(matches: Sequence[re.Match[str]]) -> tuple[int, int, int] | None:
    """The order in which all can be dates; if both are, the one in which they lie closer together: a log is of days in a row."""
    spans = []
    for order in (_MONTH_FIRST, _DAY_FIRST):
        found = [_instant(match, order) for match in matches]
        known = [one for one in found if one is not None]
        if known and len(known) == len(found):
            spans.append((max(known) - min(known), order))
    if len(spans) == 2 and spans[0][0] == spans[1][0]:
        return _MONTH_FIRST if any(match[9] for match in matches) else None  # where hours have AM and PM, the month is first
    return min(spans)[1] if spans else None


def _instant(match: re.Match[str], order: tuple[int, int, int] | None) -> datetime | None:
    parts = (match[1], match[3], match[4])
    order = (0, 1, 2) if len(match[1]) == 4 else _DAY_FIRST if match[2] == "." else order
    if order is None:
        return None
    year, month, day = (int(parts[place]) for place in order)
    hour, minute, second = (int(match[place] or 0) for place in (5, 6, 7))
    if match[9]:
        hour = hour % 12 + (12 if match[9][0] in "Pp" else 0)
    with suppress(ValueError):
        return datetime(year, month, day, hour, minute, second, int((match[8] or "0").ljust(6, "0")), tzinfo=_zone(match[10]))
    return None


def _zone(text: str | None) -> timezone:
    if not text or text[0] not in "+-":
        return UTC
    minutes = int(text[1:3]) * 60 + int(text[-2:])
    return timezone(timedelta(minutes=-minutes if text[0] == "-" else minutes))


def _other(text: str) -> datetime | None:
    with suppress(ValueError, TypeError, IndexError):
        found = parsedate_to_datetime(text)
        return found if found.tzinfo else found.replace(tzinfo=UTC)
    return None
