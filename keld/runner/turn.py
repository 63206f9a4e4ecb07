"""Turn: whose shard may be sent next where a provider's queue is full.

A step of the runner, before `submit`.  Enqueued-token and rate limits are one account's and model's, shared by all its job runs, so the queue
is kept in the ledger: those whom the provider turned away are its members.  While there are any, nobody else is sent past them; when
some come due, the one with the earliest deadline goes first.  A job run that nobody advances any more holds nobody up.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from keld.record import JobRun, Shard, Waiting
from keld.runner.visit import Visit
from keld.state import State

_STALE = timedelta(minutes=5)  # a job run whose next look is overdue by more has nobody who advances it
_REST = timedelta(minutes=1)  # how long nobody tries after somebody was turned away
_NEVER = datetime.max.replace(tzinfo=UTC)


def put_off_until(visit: Visit, run: JobRun, shard: Shard) -> datetime | None:
    """When this shard may ask again whether it is its turn; None: it is."""
    queue = visit.ledger.waiting(shard.provider, shard.host, shard.model)
    if not queue:
        return None
    me = Waiting(
        shard_id=shard.id, ordinal=shard.ordinal, run_id=run.id, deadline_at=run.deadline_at, created_at=run.created_at,
        not_before=shard.not_before, tried_at=shard.intent_at, next_check_at=None,
    )  # fmt: skip
    others = [other for other in queue if other.shard_id != shard.id and not _is_stale(other, visit.now())]
    return turn(me, others, visit.now(), fresh=shard.state is State.STAGED, ask_again=visit.settings.poll_most)


def turn(me: Waiting, others: Sequence[Waiting], now: datetime, *, fresh: bool, ask_again: timedelta) -> datetime | None:
    """None if `me` goes next; else when to ask again.

    Args:
        others: the shards that the provider turned away, or that wait behind them.
        fresh: `me` was not turned away itself.
    """
    later = [other for other in others if other.not_before is not None and other.not_before > now]
    due = [other for other in others if other not in later]
    if fresh and later and not due:
        return min(other.not_before or now for other in later)
    just_tried = max((other.tried_at for other in later if other.tried_at is not None), default=None)
    if just_tried is not None and just_tried + _REST > now:
        return just_tried + _REST
    return None if min([me, *due], key=_urgency) is me else now + ask_again


def wake_next(visit: Visit, ended: Shard) -> None:
    """A batch has ended, and its tokens are free: the most urgent of those that wait for them may ask at once."""
    queue = visit.ledger.waiting(ended.provider, ended.host, ended.model)
    if queue:
        visit.ledger.wake(min(queue, key=_urgency).shard_id, visit.now())


def _urgency(waiting: Waiting) -> tuple[datetime, datetime, str, int]:
    return waiting.deadline_at or _NEVER, waiting.created_at, waiting.run_id, waiting.ordinal


def _is_stale(waiting: Waiting, now: datetime) -> bool:
    return waiting.next_check_at is not None and waiting.next_check_at < now - _STALE
