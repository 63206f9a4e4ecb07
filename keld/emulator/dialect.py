"""Dialect: the request body of one family of models, and the answer to it.

A service (`service`) finds the dialect of a request; a batch row and a realtime call come through the same one.  A dialect knows no
routes, no files and no batches, so several services may speak it.  The families are in `dialects/`.
"""

from typing import Literal, NamedTuple, Protocol

from .answer import Usage
from .rule import RowFate

Lane = Literal["batch", "standard", "flex"]


class Conditions(NamedTuple):
    """The conditions of an answer: when (unix seconds), whether as a row of a batch, and with which fault.

    `started_at` and `batch_id` are of the batch, whose rows all begin when it does; `arrived` is the tick (`cache`) of a call that is answered at once.
    """

    at: float
    batch: bool
    fate: RowFate | None = None
    started_at: float | None = None
    batch_id: str | None = None
    arrived: int | None = None

    @property
    def begun(self) -> float:
        return self.at if self.started_at is None else self.started_at


class Made(NamedTuple):
    """The answer to one request, which is paid.

    `input_tokens` are those that the service calls input tokens: some services count the cached ones in, others do not.
    `usage.input` is everything that was read.  `digest` is the SHA-256 of the request's body, in hexadecimal.
    """

    body: str
    model: str
    lane: Lane
    usage: Usage
    input_tokens: int
    digest: str
    rows: int = 1  # a request of embeddings may hold many texts


class Dialect(Protocol):
    def make(self, body: bytes, conditions: Conditions) -> Made:
        """The answer to `body`.

        Raises:
            ApiError: it is refused.
        """
