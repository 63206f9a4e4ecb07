"""Meter: the time of a host of one's own, reserved before a realtime run begins, measured while it runs, and paid when it ends.

A part of the step `fast_lane`, for accounts with `gpu_hour_usd`.  The reservation is what the ceiling and the latest end leave room for; the run ends
itself when it is used up, so that the ceiling holds whatever the rows take.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from keld.ledger import JobRun, Shard
from keld.ledger.stretch import SEEN_EVERY
from keld.price import Lane
from keld.runner.context import RunContext
from keld.runner.option import gpu_time
from keld.runner.round import due_of

DRAIN = timedelta(seconds=60)  # before the end of the reservation no row begins; what is in flight then is cut off at the end


def hour_usd(context: RunContext, run: JobRun, shard: Shard) -> Decimal | None:
    """What an hour of the shard's host costs; None: its answers are priced by tokens."""
    name = f"{shard.provider}:{shard.model}"
    known = context.environment.rates(name, Lane(shard.lane), run.created_at, run.terms.prices) if shard.lane != Lane.BATCH else None
    return None if known is None else known.gpu_hour_usd


def worst_usd(context: RunContext, shard: Shard) -> Decimal:
    """The worst case of a shard that is about to be sent: where time is paid, what the ceiling and the latest end leave room for now."""
    run = context.ledger.run(shard.run_id)
    hour = hour_usd(context, run, shard)
    if hour is None:
        return shard.worst_usd
    left = None if run.ceiling_usd is None else run.ceiling_usd - run.spent_usd - run.reserved_usd
    name, now = f"{shard.provider}:{shard.model}", context.now()
    due = due_of(run, now)
    return gpu_time(context.environment, name, hour, None if due is None else due - now, left).worst_usd(shard.requests)


@dataclass(slots=True)
class Meter:
    """The time of one run.

    Args:
        began_at: when the run began.
        ends_at: when the reservation is used up.
    """

    context: RunContext
    stretch: str
    began_at: datetime
    ends_at: datetime
    busy: bool = True  # the host answered something, or may have
    _seen_at: float = 0.0
    _latest: datetime | None = None  # what the clock said at the last look
    _set_back: timedelta = timedelta(0)

    def now(self) -> datetime:
        """What the clock would say if nobody had set it back since the run, and the one before it, began: else the run would last longer than is reserved."""
        at = self.context.now()
        self._set_back += max(timedelta(0), (self._latest or self.began_at) - at)
        self._latest = at
        return at + self._set_back

    @property
    def left(self) -> timedelta:
        return self.ends_at - self.now()

    def is_used_up(self) -> bool:
        """True if no more rows may begin; notes from time to time that the run is under way."""
        if time.monotonic() - self._seen_at > SEEN_EVERY.total_seconds():
            self._seen_at = time.monotonic()
            self.context.ledger.stretches.see(self.stretch, self.now())
        return self.left <= DRAIN


@contextmanager
def metered(context: RunContext, run: JobRun, shard: Shard) -> Iterator[Meter | None]:
    """Within the block, the host's time is measured; None: it is not what is paid."""
    hour = hour_usd(context, run, shard)
    if hour is None:
        yield None
        return
    ledger = context.ledger
    stretch, begun = ledger.stretches.begin(context.lease, shard, context.now(), hour)
    reserved = timedelta(hours=float(shard.worst_usd / hour)) - ledger.stretches.used(shard.id)
    meter = Meter(context, stretch, begun, begun + reserved)
    try:
        yield meter
    finally:
        ledger.stretches.end(stretch, meter.now(), busy=meter.busy)
