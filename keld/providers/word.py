"""Word: what a failed reply is called, for people: its status, and the provider's code where that says more.

Below `fault` and the dialects.  Pure and light: `status` shows these words, too.
"""

from __future__ import annotations

from http import HTTPStatus

# Azure gives the status as the code, Mistral `http_error`; without a code the shapes of errors give `error`.
_SAYS_NOTHING = {"", "error", "http_error", "none", "null"}


def reply_words(status: int | str | None, code: object = "") -> str:
    """`HTTP 429 rate_limit_exceeded`; a code that says nothing more than the status gives way to the status' own name: `HTTP 401 Unauthorized`."""
    number, word = str(status or "?"), str(code or "").strip()
    if word.lower() in _SAYS_NOTHING or word == number:
        word = HTTPStatus(int(number)).phrase if number.isdigit() and int(number) in _NAMED else ""
    return f"HTTP {number} {word}".rstrip()


_NAMED = frozenset(HTTPStatus)
