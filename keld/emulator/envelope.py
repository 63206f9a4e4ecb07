"""Envelope: how a line of a batch wraps an id and a request's body, and how a result line wraps what came of it.

One a batch wire; the body in it is of a dialect.  A row of a batch is answered here: `Envelope.read` -> `Dialect.make` -> a result line.
"""

from typing import TYPE_CHECKING, NamedTuple, Protocol

from .answer import Usage
from .bill import BillEntry, entry
from .dialect import Conditions, Made
from .error import ApiError
from .life import Status
from .rule import row_fate

if TYPE_CHECKING:
    from .batch import Batch


class Envelope(Protocol):
    """What a batch needs to know of its wire."""

    @property
    def one_file(self) -> bool:
        """True if refused rows are in the same file as the answers."""

    @property
    def id_field(self) -> str:
        """The field of a result line that has the row's id."""

    def read(self, row: bytes) -> tuple[str, bytes]:
        """A row's id and the body of its request."""

    def answered(self, batch: "Batch", rank: int, custom_id: str, made: Made) -> bytes:
        """The result line of a row that was answered, as number `rank` of its batch."""

    def refused(self, batch: "Batch", rank: int, custom_id: str, error: ApiError) -> bytes:
        """The result line of a row that was refused."""

    def unanswered(self, custom_id: str, status: Status) -> bytes | None:
        """The line of a row that was not reached before its batch expired or was cancelled; None: there is none."""


class Outcome(NamedTuple):
    """What came of one row: a result line; `paid` and its usage only where the service bills it."""

    line: bytes
    custom_id: str
    ok: bool
    paid: BillEntry | None
    usage: Usage | None


def answer_row(batch: "Batch", row: bytes, rank: int, at: float) -> Outcome:
    """What comes of the row that finishes as number `rank` (from 0) of its batch."""
    custom_id, body = batch.envelope.read(row)
    try:
        fate = row_fate(batch.rules_at("rows"), rank, custom_id) if batch.rules else None
        made = batch.dialect.make(body, Conditions(at, True, fate, batch.started_at, batch.id))
    except ApiError as error:
        return Outcome(batch.envelope.refused(batch, rank, custom_id, error), custom_id, False, None, None)
    paid = entry(batch.provider, made, batch_id=batch.id, custom_id=custom_id, at=at)
    return Outcome(batch.envelope.answered(batch, rank, custom_id, made), custom_id, True, paid, made.usage)
