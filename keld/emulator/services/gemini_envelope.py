"""Gemini envelope: the lines of an input file and of a file of responses."""

from dataclasses import dataclass

import msgspec

from ..batch import Batch
from ..dialect import Made
from ..error import ApiError
from ..life import Status
from .gemini_object import line_error


class Line(msgspec.Struct, gc=False):
    key: str
    request: msgspec.Raw


line_of = msgspec.json.Decoder(Line).decode
_quoted = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class GeminiEnvelope:
    """Every row has a line in the one file of responses; what was not reached has none, since then there is no file."""

    one_file: bool = True
    id_field: str = "key"

    def read(self, row: bytes) -> tuple[str, bytes]:
        line = line_of(row)
        return line.key, bytes(line.request)

    def answered(self, batch: Batch, rank: int, custom_id: str, made: Made) -> bytes:
        return f'{{"key":{_quoted(custom_id).decode()},"response":{made.body}}}'.encode()

    def refused(self, batch: Batch, rank: int, custom_id: str, error: ApiError) -> bytes:
        # Both fields were seen: docs/notes/providers.md.
        field = "error" if rank % 2 == 0 else "status"
        return f'{{"key":{_quoted(custom_id).decode()},"{field}":{_quoted(line_error(error)).decode()}}}'.encode()

    def unanswered(self, custom_id: str, status: Status) -> bytes:
        return f'{{"key":{_quoted(custom_id).decode()},"error":{{"code":1,"message":"{status}"}}}}'.encode()
