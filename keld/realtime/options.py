"""Options: how many requests a realtime run sends at once, and how long it waits.

Beside the road, below `run`.  Only values; every default is written here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec

from keld.price import Lane

# platform.openai.com/docs/guides/flex-processing, 20 Nov 2026: 15 minutes; both SDKs wait 10 minutes for any other answer.
_TIMEOUT_S = {Lane.FLEX: 900.0, Lane.STANDARD: 600.0}


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The options of one realtime run.

    Args:
        begin_with, most: the number of requests at once, at the beginning and at most.
        timeout_s: of one request; None: 600, in the flex lane 900.
        patience_s: for how long the provider may reject requests, without one answer, before the run ends.
        tries: how often one row may be rejected.
        same_fault: after so many consecutive rows with the same fault, no more are asked.
        output_tokens: the answer's size that is assumed for a rate limit of tokens.
        ends_in_s: when the run is over, whatever is in flight then; None: there is no such time.
        alone_s: how long the first request is sent alone at most: the others can then read the prompt cache that it wrote.
    """

    begin_with: int = 8
    most: int = 256
    timeout_s: float | None = None
    patience_s: float = 300.0
    tries: int = 10
    same_fault: int = 20
    output_tokens: int = 256
    alone_s: float = 0.0
    ends_in_s: float | None = None

    def timeout_in(self, lane: Lane) -> float:
        """Seconds that one request may take in a lane."""
        return self.timeout_s or _TIMEOUT_S[lane]


class Time(msgspec.Struct, frozen=True, kw_only=True):
    """A clock in seconds that does not go backwards, and a way to sleep by it."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
