"""Clock: waits are kept as instants, so a clock that is set back makes them too long; then they start again.

A step of the runner, each time a worker takes a lease.  If a clock ran a day ahead when an instant was computed, the wait is a day too long.
The ledger also has the time from which each wait is counted: if that is in the future, the clock was set back.
"""

from __future__ import annotations

from datetime import timedelta

from keld.ledger import WORKER_SKEW
from keld.runner.context import RunContext, log
from keld.runner.fast_lane import RETRY_MOST
from keld.state import Event, State

_WAITING = {State.UNKNOWN: Event.LOOKED, State.DEFERRED: Event.DEFERRED}


def restart_waits(context: RunContext) -> None:
    """Starts the waits of a job run again from now, at their intended length, if the clock was set back since they were recorded."""
    now = context.now()
    waiting = [
        shard for shard in context.ledger.open_shards(context.lease.run_id) if shard.not_before is not None and shard.not_before > now
    ]
    noted = context.ledger.progress.noted_at(context.lease.run_id) if any(shard.state in _WAITING for shard in waiting) else {}
    for shard in waiting:
        assert shard.not_before is not None
        if shard.state in _WAITING and (since := noted.get(shard.id, now)) > now + WORKER_SKEW:
            log.warning("clock.set_back shard=%s by_s=%d", shard.id, (since - now).total_seconds())
            wait = max(shard.not_before - since, timedelta(0))
            context.record(shard, _WAITING[shard.state], not_before=now + wait, facts={"clock": "set back"})
        elif shard.state is State.IN_PROGRESS and shard.not_before > now + RETRY_MOST + WORKER_SKEW:
            context.ledger.progress.note(context.lease, shard, shard.done, now)  # in a fast lane: it may try again at once
