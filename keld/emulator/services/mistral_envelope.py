"""Mistral envelope: the lines of Mistral's input, output and error files.

`{"custom_id", "body"}` asks the job's model; `{"id", "custom_id", "response": {"status_code", "body"}, "error"}` answers, in the output
file or in the error file, never in both.  A line without an id is answered without one.  Rows that were not reached have no line: nothing
says that they would (mistralai 3.7, extra/batch/client.py: an id may be "missing from output").
"""

from dataclasses import dataclass

import msgspec

from ..batch import Batch
from ..dialect import Made
from ..error import ApiError
from ..life import Status
from .mistral_object import error_object


class Line(msgspec.Struct, gc=False):
    body: msgspec.Raw
    custom_id: str | None = None


_line = msgspec.json.Decoder(Line)
_quoted = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class MistralEnvelope:
    """Of a job of one model; None: each line names its own."""

    model: str | None
    one_file: bool = False
    id_field: str = "custom_id"

    def read(self, row: bytes) -> tuple[str, bytes]:
        line = _line.decode(row)
        body = bytes(line.body).rstrip()
        if self.model is not None and body.endswith(b"}") and body != b"{}":
            body = body[:-1] + b',"model":' + _quoted(self.model) + b"}"  # the last of two counts
        return line.custom_id or "", body

    def answered(self, batch: Batch, rank: int, custom_id: str, made: Made) -> bytes:
        head = _head(batch, rank, custom_id)
        return f'{head}{{"status_code":200,"body":{made.body}}},"error":null}}'.encode()

    def refused(self, batch: Batch, rank: int, custom_id: str, error: ApiError) -> bytes:
        head, body = _head(batch, rank, custom_id), _quoted(error_object(error)).decode()
        return f'{head}{{"status_code":{error.status},"body":{body}}},"error":{_quoted(error.message).decode()}}}'.encode()

    def unanswered(self, custom_id: str, status: Status) -> bytes | None:
        return None


def _head(batch: Batch, rank: int, custom_id: str) -> str:
    name = _quoted(custom_id or None).decode()
    return f'{{"id":"batch-{batch.id[:8]}-{rank:08x}","custom_id":{name},"response":'
