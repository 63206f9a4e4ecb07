"""Pacer: what decides how many requests are in flight together: `throttle` under a provider's limits, `goodput` for an engine of one's own.

Below `loop`.  The provider's traits choose which.  Instants are seconds of any clock that does not go backwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from keld.providers.base import Load, Quota
from keld.realtime.goodput import Goodput
from keld.realtime.throttle import Throttle


class Pacer(Protocol):
    """How many requests at once, and when the next one may begin."""

    at_once: float

    def wait(self, now: float, in_flight: int, tokens: float) -> float | None:
        """Seconds until one more request of `tokens` may begin; None: not before one in flight has ended."""
        ...

    def begin(self, now: float, tokens: float) -> int:
        """The serial number of a request that begins now."""
        ...

    def on_quotas(self, number: int, quotas: Mapping[str, Quota], now: float) -> None:
        """Takes note of the limits that the reply to request `number`, still in flight, reported."""
        ...

    def on_success(self, number: int, now: float, work: float, in_flight: int) -> None:
        """Takes note of the answer to request `number`, of `work` tokens or rows; `in_flight` counts this request, too."""
        ...

    def on_rejected(self, number: int, now: float, retry_after_s: float | None) -> None:
        """Takes note that request `number` was refused for now, or got no reply."""
        ...

    def on_load(self, load: Load) -> None:
        """Takes note of how busy the engine says that it is."""
        ...

    def timeout_s(self, usual_s: float) -> float:
        """Seconds that a request that begins now may take."""
        ...


def pacer(by_goodput: bool, begin_with: int, most: int) -> Pacer:
    """A pacer that begins with so many requests at once."""
    return Goodput(begin_with, most) if by_goodput else Throttle(begin_with, most)
