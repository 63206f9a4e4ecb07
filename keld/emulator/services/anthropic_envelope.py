"""Anthropic envelope: the lines of a batch's results."""

from dataclasses import dataclass

import msgspec

from ..batch import Batch
from ..dialect import Made
from ..error import ApiError
from ..life import Status
from .anthropic_input import Item
from .anthropic_object import error_object

_item = msgspec.json.Decoder(Item)
_quoted = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class AnthropicEnvelope:
    """Every row has a line in the one file of results."""

    one_file: bool = True
    id_field: str = "custom_id"

    def read(self, row: bytes) -> tuple[str, bytes]:
        item = _item.decode(row)
        return item.custom_id, bytes(item.params)

    def answered(self, batch: Batch, rank: int, custom_id: str, made: Made) -> bytes:
        return _line(custom_id, f'{{"type":"succeeded","message":{made.body}}}')

    def refused(self, batch: Batch, rank: int, custom_id: str, error: ApiError) -> bytes:
        return _line(custom_id, f'{{"type":"errored","error":{_quoted(error_object(error)).decode()}}}')

    def unanswered(self, custom_id: str, status: Status) -> bytes:
        return _line(custom_id, f'{{"type":"{"expired" if status == "expired" else "canceled"}"}}')


def _line(custom_id: str, result: str) -> bytes:
    return f'{{"custom_id":{_quoted(custom_id).decode()},"result":{result}}}'.encode()
