"""Bedrock lines: the lines of a batch inference job's input and output.

A part of the transport `bedrock`; pure.  An output line has its input in it again, which is skipped when it is read.  A row that the job did not reach
has no line.  Wire: docs.aws.amazon.com/bedrock/latest/userguide/batch-inference-data.html and batch-inference-results.html, read 29 Nov 2026.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import msgspec

from keld.outcome import Outcome
from keld.providers.fault import scrubbed
from keld.providers.line import RETRYABLE_STATUS, lines_of
from keld.providers.part import Dialect
from keld.reply import Reply

_ID_FIELD = "recordId"
_MODEL_ERROR = 424  # the model failed at this request, not because of it
B = TypeVar("B")


class _Named(msgspec.Struct, gc=False):
    recordId: str  # noqa: N815  the wire's own names, here and below


class _Error(msgspec.Struct, gc=False):
    errorCode: int | str | None = None  # noqa: N815
    errorMessage: Any = None  # noqa: N815


class _Line(msgspec.Struct, Generic[B], gc=False):
    recordId: str  # noqa: N815
    modelOutput: B | None = None  # noqa: N815
    error: _Error | None = None


def _line_of(body: type[Any]) -> Any:
    return _Line[body]  # type: ignore[valid-type]  # the dialect's own struct, at run time


class BedrockEnvelope:
    """`Envelope` of the records of a job."""

    def overhead_bytes(self, path: str) -> int:
        return len(b'{"recordId":"","modelInput":}\n') + 32  # and the id of a position of any length

    def wrap(self, custom_id: str, path: str, body: bytes) -> bytes:
        return b'{"recordId":"%b","modelInput":%b}\n' % (custom_id.encode(), body)

    def around(self, lines: Iterator[bytes]) -> Iterator[bytes]:
        return lines

    def ids(self, block: bytes) -> list[str]:
        return [line.recordId for line in lines_of(block, _Named, _ID_FIELD)]

    def read(self, block: bytes, dialect: Dialect) -> list[Reply]:
        return [_reply(line, dialect) for line in lines_of(block, _line_of(dialect.body_type), _ID_FIELD)]


def _reply(line: _Line[Any], dialect: Dialect) -> Reply:
    if line.error is None and line.modelOutput is not None:
        return dialect.judge(line.recordId, 200, line.modelOutput)
    if line.error is None:
        return Reply(custom_id=line.recordId, outcome=Outcome.LOST, error="a result line without a result", retryable=True)
    code = str(line.error.errorCode or 0)
    status = int(code) if code.isdigit() else 0
    retryable = status in RETRYABLE_STATUS or status == _MODEL_ERROR or status >= 500
    error = f"HTTP {code}: {scrubbed(str(line.error.errorMessage or 'no reason given'))}"
    return Reply(custom_id=line.recordId, outcome=Outcome.ERRORED, error=error, retryable=retryable)
