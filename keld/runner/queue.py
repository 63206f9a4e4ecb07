"""Queue: which shard is sent next when a provider's queue is full, and which job run goes first in an account's fast lanes.

A step of the runner, before `submit` and `fast_lane`.  Enqueued-token and rate limits belong to an account and a model, and all job runs share
them, so the queue is in the ledger: its members are the shards that the provider rejected.  While there are any, no other shard is sent before
them; when some are due, the one with the earliest deadline goes first.  A job run that no worker advances any more delays no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from keld.deadline import standard_escalation_time
from keld.ledger import JobRun, QueuedShard, Shard
from keld.runner.context import RunContext
from keld.runner.option import speed_of
from keld.state import State

_STALE = timedelta(minutes=5)  # a job run whose next look is overdue by more is not advanced by any worker
_PAUSE = timedelta(minutes=1)  # how long no shard is sent after one was rejected
_HOUR = timedelta(hours=1)
_NEVER = datetime.max.replace(tzinfo=UTC)


def deferred_until(context: RunContext, run: JobRun, shard: Shard) -> datetime | None:
    """The time at which this shard checks the queue again; None: it may be sent now."""
    queue = context.ledger.queue.waiting(shard.provider, shard.host, shard.model)
    if not queue:
        return None
    me = QueuedShard(
        shard_id=shard.id, ordinal=shard.ordinal, run_id=run.id, deadline_at=run.deadline_at, created_at=run.created_at,
        not_before=shard.not_before, tried_at=shard.intent_at, next_check_at=None,
    )  # fmt: skip
    others = [other for other in queue if other.shard_id != shard.id and not _is_stale(other, context.now())]
    return waits_until(me, others, context.now(), fresh=shard.state is State.STAGED, ask_again=context.settings.poll_most)


def waits_until(me: QueuedShard, others: Sequence[QueuedShard], now: datetime, *, fresh: bool, ask_again: timedelta) -> datetime | None:
    """The time at which `me` checks the queue again; None if it may be sent now.

    Args:
        others: the shards that the provider rejected, or that wait behind those.
        fresh: `me` itself was not rejected.
    """
    later = [other for other in others if other.not_before is not None and other.not_before > now]
    due = [other for other in others if other not in later]
    if fresh and later and not due:
        return min(*(other.not_before or now for other in later), now + _HOUR)
    # A try that is later than now was made before the clock was set back.
    just_tried = max((other.tried_at for other in later if other.tried_at is not None and other.tried_at <= now + _PAUSE), default=None)
    if just_tried is not None and just_tried + _PAUSE > now:
        return just_tried + _PAUSE
    return None if min([me, *due], key=_urgency) is me else now + ask_again


def yields_until(context: RunContext, run: JobRun, shard: Shard) -> datetime | None:
    """The time at which a realtime run checks again whether it may go on; None: it may now.

    The account's limits bound the speed of its fast lanes: if many job runs share them equally, all are late.  So the more urgent job run goes
    first, as long as the other has time to wait; without a deadline, that waits an hour at most.
    """
    now = context.now()
    rivals = context.ledger.queue.in_fast_lanes(shard.provider, shard.host, shard.model, now, other_than=run.id)
    mine = (run.deadline_at or _NEVER, run.created_at, run.id)
    if not any((rival.deadline_at or _NEVER, rival.created_at, rival.run_id) < mine for rival in rivals if rival.lane == shard.lane):
        return None
    latest = run.created_at + _HOUR
    if run.deadline_at is not None:
        left = sum(other.requests - (other.done or 0) for other in context.ledger.open_shards(run.id))
        latest = standard_escalation_time(
            run.deadline_at, left, speed_of(context.environment, f"{shard.provider}:{shard.model}", run.id), batch=False
        )
    return min(latest, now + context.settings.poll_least) if now < latest else None


def queue_wait(context: RunContext, shard: Shard) -> timedelta:
    """The wait of a shard that a full queue rejected; it doubles with each attempt."""
    doublings: int = min(max(shard.attempt - 1, 0), 5)
    return min(context.settings.retry_queue_full * (1 << doublings), timedelta(minutes=30))


def wake_next(context: RunContext, ended: Shard) -> None:
    """Lets the most urgent deferred shard try at once, since a batch has ended and its tokens are free."""
    queue = [waiting for waiting in context.ledger.queue.waiting(ended.provider, ended.host, ended.model) if waiting.deferred]
    if queue:
        context.ledger.queue.wake(min(queue, key=_urgency).shard_id)


def _urgency(waiting: QueuedShard) -> tuple[datetime, datetime, str, int]:
    return waiting.deadline_at or _NEVER, waiting.created_at, waiting.run_id, waiting.ordinal


def _is_stale(waiting: QueuedShard, now: datetime) -> bool:
    return waiting.next_check_at is not None and waiting.next_check_at < now - _STALE
