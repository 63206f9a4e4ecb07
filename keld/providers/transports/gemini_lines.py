"""Gemini lines: the lines of a batch's input file and of its file of responses.

A part of the transport `gemini`; pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import msgspec

from keld.outcome import Outcome
from keld.providers.dialects.gemini_answer import errored
from keld.providers.line import lines_of
from keld.providers.part import Dialect
from keld.reply import Reply

_ID_FIELD = "key"
B = TypeVar("B")


class _Named(msgspec.Struct, gc=False):
    key: str


class _Line(msgspec.Struct, Generic[B], gc=False):
    """`error` or `status`: both were seen where a request failed (docs/notes/providers.md)."""

    key: str
    response: B | None = None
    error: Any = None
    status: Any = None


def _line_of(body: type[Any]) -> Any:
    return _Line[body]  # type: ignore[valid-type]  # the dialect's own struct, at run time


class GeminiEnvelope:
    """`Envelope` of batch mode's files."""

    def overhead_bytes(self, path: str) -> int:
        return len(b'{"key":"","request":}\n') + 64  # and the custom_id of a position of any length

    def wrap(self, custom_id: str, path: str, body: bytes) -> bytes:
        return b'{"key":"%b","request":%b}\n' % (custom_id.encode(), body)

    def around(self, lines: Iterator[bytes]) -> Iterator[bytes]:
        return lines

    def ids(self, block: bytes) -> list[str]:
        return [line.key for line in lines_of(block, _Named, _ID_FIELD)]

    def read(self, block: bytes, dialect: Dialect) -> list[Reply]:
        return [_reply(line, dialect) for line in lines_of(block, _line_of(dialect.body_type), _ID_FIELD)]


def _reply(line: _Line[Any], dialect: Dialect) -> Reply:
    if line.response is not None:
        return dialect.judge(line.key, 200, line.response)
    error = line.error or line.status
    if isinstance(error, dict) and error:
        return errored(line.key, 0, error)
    return Reply(custom_id=line.key, outcome=Outcome.LOST, error="a result line without a response", retryable=True)
