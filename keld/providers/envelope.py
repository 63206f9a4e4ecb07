"""Envelope: one line for a request and one line for an answer, in the shape that most hosts have.

Beside `base`.  `{"custom_id", "method", "url", "body"}` asks, `{"custom_id", "response": {"status_code", "body"}, "error"}` answers: the files of
OpenAI's batches, and of the many hosts that copied them.  Journals of fast lanes have the same lines for every provider, so that one reader
serves them all; the body inside is the dialect's.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, Generic, TypeVar

import msgspec

from keld.outcome import ERRORED, Outcome
from keld.providers.fault import scrubbed
from keld.providers.line import lines_of
from keld.providers.part import Dialect, Envelope
from keld.providers.word import reply_words
from keld.reply import Reply

IN_DOUBT = "keld_in_doubt"  # our code for a line that means: sent, no reply; providers have no such code
NO_REPLY = "keld_no_reply"  # our code for a line that means: sent, no reply, and nothing was paid
ID_FIELD = "custom_id"
B = TypeVar("B")


class Named(msgspec.Struct, gc=False):
    """A result line, only its id."""

    custom_id: str


class _Error(msgspec.Struct, gc=False):
    code: str | int | None = None
    type: str | None = None
    message: str | None = None


class _Response(msgspec.Struct, Generic[B], gc=False):
    status_code: int | None = None
    body: B | None = None


class _Line(msgspec.Struct, Generic[B], gc=False):
    custom_id: str
    response: _Response[B] | None = None
    error: _Error | str | None = None


def _line_of(body: type[Any]) -> Any:
    return _Line[body]  # type: ignore[valid-type]  # the dialect's own struct, at run time


class LineEnvelope:
    """`Envelope` of OpenAI's lines."""

    def overhead_bytes(self, path: str) -> int:
        return len(_middle(path)) + 50  # the braces, and the custom_id of a position of any length

    def wrap(self, custom_id: str, path: str, body: bytes) -> bytes:
        return b'{"custom_id":"%b",%b%b}\n' % (custom_id.encode(), _middle(path), body)

    def around(self, lines: Iterator[bytes]) -> Iterator[bytes]:
        return lines

    def ids(self, block: bytes) -> list[str]:
        return [line.custom_id for line in lines_of(block, Named, ID_FIELD)]

    def read(self, block: bytes, dialect: Dialect) -> list[Reply]:
        return [_reply(line, dialect) for line in lines_of(block, _line_of(dialect.body_type), ID_FIELD)]


LINES = LineEnvelope()


def read_journal(block: bytes, dialect: Dialect, formerly: Envelope | None) -> list[Reply]:
    """Replies of a block of a journal's lines.

    Args:
        formerly: the provider's own envelope: until version 0.1 a journal's lines had that shape, and a job run may last longer than an upgrade.
    """
    replies = LINES.read(block, dialect)
    if formerly is None or isinstance(formerly, LineEnvelope) or all(reply.error != _NO_RESPONSE for reply in replies):
        return replies
    old = {reply.custom_id: reply for reply in formerly.read(block, dialect)}
    return [old.get(reply.custom_id, reply) if reply.error == _NO_RESPONSE else reply for reply in replies]


def reply_line(custom_id: str, status: int, body: bytes) -> bytes:
    """The line of a reply; `body` is one line of JSON."""
    return b'{"custom_id":"%b","response":{"status_code":%d,"body":%b},"error":null}\n' % (custom_id.encode(), status, body)


def in_doubt_line(custom_id: str, why: str) -> bytes:
    """The line of a request that was sent and whose outcome is unknown."""
    return msgspec.json.encode({"custom_id": custom_id, "response": None, "error": {"code": IN_DOUBT, "message": why}}) + b"\n"


def unanswered_line(custom_id: str, why: str) -> bytes:
    """The line of a request that was sent more than once without a reply, at a host where that costs nothing."""
    return msgspec.json.encode({"custom_id": custom_id, "response": None, "error": {"code": NO_REPLY, "message": why}}) + b"\n"


def doubt(why: str) -> str:
    """The reason in such a line, for people."""
    return f"sent, outcome unknown ({why}): it may have been paid"


_NO_RESPONSE = "a result line without a response"


@cache
def _middle(path: str) -> bytes:
    return b'"method":"POST","url":%b,"body":' % msgspec.json.encode(path)


def _reply(line: _Line[Any], dialect: Dialect) -> Reply:
    response = line.response
    if response is not None and response.body is not None:
        reply = dialect.judge(line.custom_id, response.status_code or 0, response.body)
        if reply.outcome is ERRORED and line.error and getattr(response.body, "error", None) is None:
            return msgspec.structs.replace(
                reply, error=_said(line.error, response.status_code)
            )  # some hosts put the error beside the response
        return reply
    code = line.error.code if isinstance(line.error, _Error) else None
    match code:
        case "batch_expired":
            return Reply(custom_id=line.custom_id, outcome=Outcome.EXPIRED, error="the batch expired first", retryable=True)
        case "batch_cancelled":
            return Reply(custom_id=line.custom_id, outcome=Outcome.CANCELLED, error="the batch was cancelled first", retryable=True)
        case _ if code == IN_DOUBT and isinstance(line.error, _Error):
            return Reply(custom_id=line.custom_id, outcome=Outcome.LOST, error=line.error.message, retryable=True)
        case None if line.error is None:
            return Reply(custom_id=line.custom_id, outcome=Outcome.LOST, error=_NO_RESPONSE, retryable=True)
        case _:
            return Reply(custom_id=line.custom_id, outcome=Outcome.ERRORED, error=_said(line.error), retryable=True)


def _said(error: _Error | str | None, status: int | None = None) -> str:
    if isinstance(error, _Error):
        return f"{reply_words(status, error.code or error.type)}: {scrubbed(error.message or '')}"
    return f"{reply_words(status)}: {scrubbed(error or 'no reason given')}"
