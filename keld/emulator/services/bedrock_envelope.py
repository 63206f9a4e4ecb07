"""Bedrock envelope: the lines of a job's input and output."""

from dataclasses import dataclass

import msgspec

from ..batch import Batch
from ..dialect import Made
from ..error import ApiError
from ..life import Status


class Line(msgspec.Struct, gc=False):
    recordId: str  # noqa: N815  the wire's own name
    modelInput: msgspec.Raw  # noqa: N815


_line = msgspec.json.Decoder(Line)
_quoted = msgspec.json.Encoder().encode


@dataclass
class BedrockEnvelope:
    """Answers and refusals are in one file, each with its input again; a row that was not reached has no line."""

    one_file: bool = True
    id_field: str = "recordId"
    latest: tuple[str, bytes] = ("", b"")  # the input of the row that is answered now

    def read(self, row: bytes) -> tuple[str, bytes]:
        line = _line.decode(row)
        self.latest = line.recordId, bytes(line.modelInput)
        return self.latest

    def answered(self, batch: Batch, rank: int, custom_id: str, made: Made) -> bytes:
        return self._line(custom_id, b'"modelOutput":%b' % made.body.encode())

    def refused(self, batch: Batch, rank: int, custom_id: str, error: ApiError) -> bytes:
        return self._line(custom_id, b'"error":%b' % _quoted({"errorCode": error.status, "errorMessage": error.message}))

    def unanswered(self, custom_id: str, status: Status) -> None:
        return None

    def _line(self, custom_id: str, outcome: bytes) -> bytes:
        assert self.latest[0] == custom_id
        return b'{"modelInput":%b,%b,"recordId":%b}' % (self.latest[1], outcome, _quoted(custom_id))
