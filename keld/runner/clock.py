"""Clock: waits are spans, though they are kept as instants; where the clock was set back, they begin anew.

A step of the runner, at the beginning of every visit.  An instant that was reckoned by a clock that ran a day ahead lies a day further away
than the wait was long.  What a wait is counted from stands in the ledger beside it: where that lies in the future, the clock was set back.
"""

from __future__ import annotations

from datetime import timedelta

from keld.ledger import WORKER_SKEW
from keld.runner.context import RunContext, log
from keld.runner.fast_lane import RETRY_MOST
from keld.state import Event, State

_WAITING = {State.UNKNOWN: Event.LOOKED, State.DEFERRED: Event.DEFERRED}


def restart_waits(context: RunContext) -> None:
    """Lets the waits of a job run that were noted by a clock that was set back since last as long as they were meant to, from now."""
    now = context.now()
    waiting = [shard for shard in context.ledger.shards(context.lease.run_id) if shard.not_before is not None and shard.not_before > now]
    noted = context.ledger.progress.noted_at(context.lease.run_id) if any(shard.state in _WAITING for shard in waiting) else {}
    for shard in waiting:
        assert shard.not_before is not None
        if shard.state in _WAITING and (since := noted.get(shard.id, now)) > now + WORKER_SKEW:
            log.warning("clock.set_back shard=%s by_s=%d", shard.id, (since - now).total_seconds())
            wait = max(shard.not_before - since, timedelta(0))
            context.record(shard, _WAITING[shard.state], not_before=now + wait, facts={"clock": "set back"})
        elif shard.state is State.IN_PROGRESS and shard.not_before > now + RETRY_MOST + WORKER_SKEW:
            context.ledger.progress.note(context.lease, shard, shard.done, now)  # in a fast lane: it may ask again whether it may
