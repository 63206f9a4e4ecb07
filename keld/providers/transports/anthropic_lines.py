"""Anthropic lines: the lines of a message batch's input and of its results.

A part of the transport `anthropic`; pure, and without the SDK.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import msgspec

from keld.outcome import Outcome
from keld.providers.envelope import ID_FIELD, IN_DOUBT, Named
from keld.providers.line import lines_of
from keld.providers.part import Dialect
from keld.reply import Reply

_OPENING, _CLOSING = b'{"requests":[', b"]}"
AROUND_BYTES = len(_OPENING) + len(_CLOSING)
B = TypeVar("B")


class _Result(msgspec.Struct, Generic[B], gc=False):
    type: str | None = None
    message: B | None = None
    error: B | None = None


class _Line(msgspec.Struct, Generic[B], gc=False):
    custom_id: str
    result: _Result[B] | None = None


def _line_of(body: type[Any]) -> Any:
    return _Line[body]  # type: ignore[valid-type]  # the dialect's own struct, at run time


class AnthropicEnvelope:
    """`Envelope` of the create's `requests` array, and of the result lines."""

    def overhead_bytes(self, path: str) -> int:
        return len(b'"params":}') + 64  # and the custom_id of a position of any length

    def wrap(self, custom_id: str, path: str, body: bytes) -> bytes:
        return b'{"custom_id":"%b","params":%b}' % (custom_id.encode(), body)

    def around(self, lines: Iterator[bytes]) -> Iterator[bytes]:
        yield _OPENING
        between = b""
        for line in lines:
            yield between + line
            between = b",\n"
        yield _CLOSING

    def ids(self, block: bytes) -> list[str]:
        return [line.custom_id for line in lines_of(block, Named, ID_FIELD)]

    def read(self, block: bytes, dialect: Dialect) -> list[Reply]:
        return [_reply(line, dialect) for line in lines_of(block, _line_of(dialect.body_type), ID_FIELD)]


def _reply(line: _Line[Any], dialect: Dialect) -> Reply:
    custom_id, result = line.custom_id, line.result or _Result()
    match result.type:
        case "succeeded" if result.message is not None:
            return dialect.judge(custom_id, 200, result.message)
        case "errored":
            return _errored(custom_id, dialect, result.error)
        case "expired":
            return Reply(custom_id=custom_id, outcome=Outcome.EXPIRED, error="the batch expired first", retryable=True)
        case "canceled":
            return Reply(custom_id=custom_id, outcome=Outcome.CANCELLED, error="the batch was cancelled first", retryable=True)
        case _:
            return Reply(custom_id=custom_id, outcome=Outcome.LOST, error="a result line without a result", retryable=True)


def _errored(custom_id: str, dialect: Dialect, body: Any) -> Reply:
    inner: Any = getattr(body, "error", None)
    if isinstance(inner, dict) and inner.get("type") == IN_DOUBT:  # in a journal of version 0.1
        return Reply(custom_id=custom_id, outcome=Outcome.LOST, error=str(inner.get("message") or ""), retryable=True)
    return dialect.judge(custom_id, 0, body if body is not None else dialect.body_type())
