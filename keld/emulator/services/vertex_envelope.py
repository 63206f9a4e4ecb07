"""Vertex envelope: the lines of a job's input and output, Gemini's without an id of their own, Claude's with one."""

from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from ..batch import Batch
from ..dialect import Made
from ..error import ApiError
from ..life import Status
from .vertex_object import error_object


class Labels(msgspec.Struct, gc=False):
    keld: str | None = None


class Labelled(msgspec.Struct, gc=False):
    labels: Labels | None = None


class Line(msgspec.Struct, gc=False):
    request: msgspec.Raw
    custom_id: str | None = None


_line = msgspec.json.Decoder(Line)
_labelled = msgspec.json.Decoder(Labelled)
_quoted = msgspec.json.Encoder().encode


@dataclass
class VertexEnvelope:
    """Answers and refusals are in the same files, each with its request again; a row that was not reached has no line."""

    one_file: bool = True
    id_field: str = "custom_id"
    latest: Line | None = None  # the input of the row that is answered now

    def read(self, row: bytes) -> tuple[str, bytes]:
        """The id is Claude's `custom_id`; of Gemini's rows, the label that Keld gives them, for the bill and the fault plans only."""
        self.latest = _line.decode(row)
        request = bytes(self.latest.request)
        labels = None if self.latest.custom_id is not None else _labelled.decode(request).labels
        return self.latest.custom_id or (labels.keld if labels else None) or "", request

    def answered(self, batch: Batch, rank: int, custom_id: str, made: Made) -> bytes:
        return self._written(batch, rank, "", made.body)

    def refused(self, batch: Batch, rank: int, custom_id: str, error: ApiError) -> bytes:
        said = _quoted(error_object(error)).decode()
        return self._written(batch, rank, f"Bad Request: {said}" if error.status < 500 else said, "{}")

    def unanswered(self, custom_id: str, status: Status) -> None:
        return None

    def _written(self, batch: Batch, rank: int, status: str, response: str) -> bytes:
        assert self.latest is not None
        named = b"" if self.latest.custom_id is None else b'"custom_id":%b,' % _quoted(self.latest.custom_id)
        at = datetime.fromtimestamp(batch.created_at + rank, UTC).isoformat(timespec="milliseconds")
        return b'{%b"status":%b,"processed_time":"%b","request":%b,"response":%b}' % (
            named, _quoted(status), at.encode(), bytes(self.latest.request), response.encode(),
        )  # fmt: skip
