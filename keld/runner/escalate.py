"""Escalate: at the latest safe moment before a deadline, what is in batches moves on.

A step of the runner, at every look.  The batches are cancelled; the provider's last word is awaited; what was paid is harvested, and only
the unpaid rows are asked again, in the lane that then meets the terms (`finish.next_round`).  A batch that finishes during its cancel is
harvested, and nothing of it is paid twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

import numpy as np

from keld.answer import Outcome
from keld.errors import AccessRefused, ProviderRefused, ProviderUnreachable
from keld.price import Lane
from keld.record import JobRun, Shard
from keld.runner.finish import ask_of, due_of
from keld.runner.hurry import stop
from keld.runner.observe import cancel
from keld.runner.option import give_up_at, options, pace_of
from keld.runner.visit import Visit, World, log
from keld.staging import read_positions
from keld.state import Event, RunState, State

_UNSENT = (State.PLANNED, State.STAGED, State.DEFERRED)
_WAITING = (*_UNSENT, State.SUBMITTING, State.UNKNOWN, State.IN_PROGRESS, State.CANCELLING)


def moment(world: World, run: JobRun, shards: Sequence[Shard]) -> datetime | None:
    """When something that is waited for must move on, by what is left of it now; None where there is no deadline to keep, or nothing to move."""
    return min(moments(world, run, shards).values(), default=None)


def moments(world: World, run: JobRun, shards: Sequence[Shard]) -> dict[Lane, datetime]:
    """When what is in batches, and what is in the flex lane, must move on."""
    due = due_of(run, world.clock())
    if due is None or run.state is not RunState.OPEN or run.terms.get("lane", "auto") != "auto":
        return {}  # late is better than never
    left = {lane: _rows_left(shards, lane) for lane in (Lane.BATCH, Lane.FLEX)}
    if not any(left.values()):
        return {}
    pace, rows = pace_of(world, run.terms["models"]), sum(left.values())
    return {lane: give_up_at(lane, due, rows, pace) for lane in left if left[lane]}


def _rows_left(shards: Sequence[Shard], lane: Lane) -> int:
    waiting = (shard for shard in shards if shard.lane == lane and shard.state in _WAITING)
    return sum(shard.requests - min(shard.done or 0, shard.requests) for shard in waiting)


def escalate(visit: Visit, run: JobRun, shards: Sequence[Shard], *, heavy: bool) -> bool:
    """Whether something was given up, so that its rows move on.

    Args:
        heavy: stretches are stopped and unsent shards dropped, too, which writes to disk; a light poll only asks cancels.
    """
    due = [lane for lane, at in moments(visit.world, run, shards).items() if at <= visit.now()]
    waiting = [shard for shard in shards if shard.lane in due and shard.state in _WAITING]
    if not waiting or not _can_be_rescued(visit, run, waiting):
        return False
    return sum(_give_up(visit, shard, heavy=heavy) for shard in waiting) > 0


def _give_up(visit: Visit, shard: Shard, *, heavy: bool) -> bool:
    """Whether a shard was stopped or dropped.  A provider that cannot be reached is asked again at the next look.

    Until it has said its last word nobody knows what it is paid for: late is better than twice.
    """
    if shard.state in _UNSENT:
        if heavy:
            visit.give_up(shard, Event.DROPPED, Outcome.CANCELLED, "not sent in time for the deadline", retryable=True)
        return heavy
    if shard.state is not State.IN_PROGRESS or shard.provider in visit.blocked or not (heavy or shard.lane == Lane.BATCH):
        return False
    log.info("shard.escalated shard=%s run=%s lane=%s", shard.id, shard.run_id, shard.lane)
    try:
        cancel(visit, shard) if shard.lane == Lane.BATCH else stop(visit, shard)
    except (AccessRefused, ProviderUnreachable, ProviderRefused) as problem:
        visit.blocked.add(shard.provider)
        visit.problem = problem
        return False
    return True


def _can_be_rescued(visit: Visit, run: JobRun, waiting: Sequence[Shard]) -> bool:
    """Whether some fast lane has a price, and the ceiling leaves room for a row of it."""
    rows = np.concatenate([read_positions(visit.files.shard(shard.id).positions) for shard in waiting])
    found, _ = options(visit.world, ask_of(visit, run, rows), run.deadline_at, None)
    fast = [option for option in found if option.lane is not Lane.BATCH and option.obstacle is None]
    if run.ceiling_usd is None or not fast:
        return bool(fast)
    left = run.ceiling_usd - run.spent_usd - run.reserved_usd + sum(shard.worst_usd for shard in waiting if shard.state not in _UNSENT)
    return left > min(option.worst_usd or Decimal(0) for option in fast) / len(rows)
