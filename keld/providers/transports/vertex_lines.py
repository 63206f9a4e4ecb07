"""Vertex lines: the lines of a batch prediction job's input and output.

A part of the transport `vertex`; pure.  A line of Gemini's has no field for an id: it is in a label of the request, which the output has again.  A line of
Claude's has a `custom_id`.  If a model's output has the request without its labels, a row is known again by the rest of its request (`matched`): two rows
with the same request take the same answers, whichever is which.  Wire: docs.cloud.google.com/vertex-ai/generative-ai/docs, the pages
`multimodal/batch-prediction-from-cloud-storage` and `partner-models/claude/batch`, read 29 Nov 2026.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, Generic, TypeVar

import msgspec

from keld.outcome import Outcome
from keld.providers.dialects.gemini_answer import errored
from keld.providers.dialects.vertex_models import CLAUDE_PATH
from keld.providers.line import lines_of
from keld.providers.part import Dialect
from keld.reply import Reply

LABEL = "keld"
_ID_FIELD = "custom_id"
B = TypeVar("B")


class _Labels(msgspec.Struct, gc=False):
    keld: str | None = None


class _Request(msgspec.Struct, gc=False):
    labels: _Labels | None = None


class _Named(msgspec.Struct, gc=False):
    custom_id: str | None = None
    request: _Request | None = None

    @property
    def id(self) -> str | None:
        return self.custom_id or (self.request.labels.keld if self.request and self.request.labels else None)


class _Line(_Named, Generic[B], gc=False):
    status: Any = None
    response: B | None = None


def _line_of(body: type[Any]) -> Any:
    return _Line[body]  # type: ignore[valid-type]  # the dialect's own struct, at run time


class VertexEnvelope:
    """`Envelope` of a job's input and output."""

    def overhead_bytes(self, path: str) -> int:
        return len(b'{"request":,"labels":{"keld":""}}\n') + 64  # and the id of a position of any length

    def wrap(self, custom_id: str, path: str, body: bytes) -> bytes:
        if CLAUDE_PATH in path:
            return b'{"custom_id":"%b","request":%b}\n' % (custom_id.encode(), body)
        return b'{"request":%b,"labels":{"%b":"%b"}}}\n' % (body[:-1], LABEL.encode(), custom_id.encode())

    def around(self, lines: Iterator[bytes]) -> Iterator[bytes]:
        return lines

    def ids(self, block: bytes) -> list[str]:
        return [line.id for line in lines_of(block, _Named, _ID_FIELD) if line.id]

    def read(self, block: bytes, dialect: Dialect) -> list[Reply]:
        return [_reply(line.id, line, dialect) for line in lines_of(block, _line_of(dialect.body_type), _ID_FIELD) if line.id]


def _reply(custom_id: str, line: _Line[Any], dialect: Dialect) -> Reply:
    if line.status:
        error = _error_in(line.status)
        return errored(custom_id, 0, error)
    if line.response is None:
        return Reply(custom_id=custom_id, outcome=Outcome.LOST, error="a result line without a response", retryable=True)
    return dialect.judge(custom_id, 200, line.response)


def _error_in(status: Any) -> dict[str, Any]:
    """The error in the `status` of a row: an object, or a text that may end with one, such as `Bad Request: {"error": {...}}`."""
    found = status
    if isinstance(status, str):
        found = {"message": status}
        with suppress(msgspec.MsgspecError, UnicodeEncodeError):
            found = msgspec.json.decode(status[status.index("{") :] if "{" in status else "{}") or found
    inner = found.get("error", found) if isinstance(found, dict) else {"message": str(found)}
    return inner if isinstance(inner, dict) else {"message": str(inner)}


# -- a row known again by its request -------------------------------------------------------------------------


def is_named(line: bytes) -> bool:
    """True if a line of an output shows the id of its row."""
    return bool(VertexEnvelope().ids(line))


def ids_by_request(lines: Iterable[bytes]) -> dict[bytes, list[str]]:
    """The ids of an input's rows, by what identifies their request."""
    found: dict[bytes, list[str]] = defaultdict(list)
    for line in lines:
        row = msgspec.json.decode(line)
        found[_identity(row["request"])].append(row["request"]["labels"][LABEL])
    return found


def matched(line: bytes, ids: dict[bytes, list[str]]) -> bytes:
    """A line of an output, with the id of its row, which is taken out of `ids`; unchanged if it has one, or if none fits."""
    with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError, KeyError):
        row = msgspec.json.decode(line)
        if not is_named(line) and (left := ids.get(_identity(row["request"]))):
            return msgspec.json.encode({"custom_id": left.pop(), **row})
    return line


def _identity(request: dict[str, Any]) -> bytes:
    """A digest of a request without its labels, whatever the order of its fields."""
    return hashlib.sha256(
        msgspec.json.encode({name: value for name, value in request.items() if name != "labels"}, order="sorted")
    ).digest()
