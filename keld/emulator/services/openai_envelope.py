"""OpenAI envelope: the lines of OpenAI's input, output and error files."""

import secrets
from dataclasses import dataclass

import msgspec

from ..batch import Batch
from ..dialect import Made
from ..error import ApiError
from ..life import Status
from .openai_object import error_object

_UNANSWERED = {
    "expired": ("batch_expired", "This request could not be executed before the completion window expired."),
    "cancelled": ("batch_cancelled", "This request was cancelled before it was executed."),
}


class Line(msgspec.Struct, gc=False):
    custom_id: str
    body: msgspec.Raw


_line = msgspec.json.Decoder(Line)
_quoted = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class OpenAIEnvelope:
    """Answers are in the output file; refused rows, and those that were not reached, in the error file."""

    one_file: bool = False
    id_field: str = "custom_id"

    def read(self, row: bytes) -> tuple[str, bytes]:
        line = _line.decode(row)
        return line.custom_id, bytes(line.body)

    def answered(self, batch: Batch, rank: int, custom_id: str, made: Made) -> bytes:
        head = _head(batch, rank, custom_id)
        return f'{head}{{"status_code":200,"request_id":"req_{made.digest[:32]}","body":{made.body}}},"error":null}}'.encode()

    def refused(self, batch: Batch, rank: int, custom_id: str, error: ApiError) -> bytes:
        head, body = _head(batch, rank, custom_id), _quoted(error_object(error)).decode()
        return f'{head}{{"status_code":{error.status},"request_id":"req_{rank:032x}","body":{body}}},"error":null}}'.encode()

    def unanswered(self, custom_id: str, status: Status) -> bytes:
        code, message = _UNANSWERED[status]
        name = f"batch_req_{secrets.token_hex(10)}"
        error = {"code": code, "message": message}
        return _quoted({"id": name, "custom_id": custom_id, "response": None, "error": error})


def _head(batch: Batch, rank: int, custom_id: str) -> str:
    return f'{{"id":"batch_req_{batch.id[-12:]}{rank:08x}","custom_id":{_quoted(custom_id).decode()},"response":'
