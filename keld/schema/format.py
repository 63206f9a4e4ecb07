"""Format: the decoder's check of a text whose schema names a `format`.

As lenient as a well-known reader of the format (an instant without an offset is valid, as in Pydantic), because a refused answer is
asked, and paid for, again.  A format that is not checked here is named in `OutputSchema.unchecked`.
"""

import re
from collections.abc import Callable
from datetime import date, datetime, time
from ipaddress import IPv4Address, IPv6Address
from typing import Any
from uuid import UUID

from keld.errors import InvalidAnswer

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\s<>\"{}|\\^`]+")
_EMAIL = re.compile(r"[^\s@]+@[^\s@]+")
_HOSTNAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(?:\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?")
_DURATION = re.compile(r"[+-]?P(?=.)(?:\d+(?:[.,]\d+)?[YMWD])*(?:T(?=.)(?:\d+(?:[.,]\d+)?[HMS])*)?")


def _matches(pattern: re.Pattern[str]) -> Callable[[str], Any]:
    def read(text: str) -> None:
        if not pattern.fullmatch(text):
            raise ValueError

    return read


READERS: dict[str, Callable[[str], Any]] = {
    "date-time": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "duration": _matches(_DURATION),
    "email": _matches(_EMAIL),
    "hostname": _matches(_HOSTNAME),
    "uri": _matches(_URI),
    "ipv4": IPv4Address,
    "ipv6": IPv6Address,
    "uuid": UUID,
}


def check_format(name: str, at: str, text: str) -> str:
    """The text, if it has the format.

    Raises:
        InvalidAnswer: it has not.
    """
    try:
        READERS[name](text)
    except ValueError:
        raise InvalidAnswer(f"Expected text of the format {name} - at `{at}`") from None
    return text
