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
from keld.deadline import escalate_at
from keld.price import Lane
from keld.record import JobRun, Shard
from keld.runner.finish import ask_of
from keld.runner.observe import cancel
from keld.runner.option import options, pace_of
from keld.runner.visit import Visit, World, log
from keld.staging import read_positions
from keld.state import Event, RunState, State

_UNSENT = (State.PLANNED, State.STAGED, State.DEFERRED)
_WAITING = (*_UNSENT, State.SUBMITTING, State.UNKNOWN, State.IN_PROGRESS, State.CANCELLING)


def moment(world: World, run: JobRun, shards: Sequence[Shard]) -> datetime | None:
    """When what is in batches must move on, by what is left of it now; None where there is no deadline to keep, or nothing to move."""
    waiting = [shard for shard in shards if shard.lane == Lane.BATCH and shard.state in _WAITING]
    if run.deadline_at is None or run.state is not RunState.OPEN or not waiting or run.terms.get("lane", "auto") != "auto":
        return None
    left = sum(shard.requests - min(shard.done or 0, shard.requests) for shard in waiting)
    return escalate_at(run.deadline_at, left, pace_of(world, run.terms["models"]))


def escalate(visit: Visit, run: JobRun, shards: Sequence[Shard], *, heavy: bool) -> bool:
    """Whether something was given up, so that its rows move on.

    Args:
        heavy: unsent shards are dropped, too, which writes to disk; a light poll only asks cancels.
    """
    at = moment(visit.world, run, shards)
    if at is None or visit.now() < at or run.deadline_at is None or visit.now() >= run.deadline_at:
        return False
    if not _can_be_rescued(visit, run, shards):
        return False  # late is better than never
    moved = False
    for shard in shards:
        if shard.lane != Lane.BATCH or shard.provider in visit.blocked:
            continue
        if shard.state is State.IN_PROGRESS:
            log.info("shard.escalated shard=%s run=%s due=%s", shard.id, run.id, run.deadline_at.isoformat())
            cancel(visit, shard)
            moved = True
        elif heavy and shard.state in _UNSENT:
            visit.give_up(shard, Event.DROPPED, Outcome.CANCELLED, "not sent in time for the deadline", retryable=True)
            moved = True
    return moved


def _can_be_rescued(visit: Visit, run: JobRun, shards: Sequence[Shard]) -> bool:
    """Whether some fast lane has a price, and the ceiling leaves room for a row of it."""
    waiting = [shard for shard in shards if shard.lane == Lane.BATCH and shard.state in _WAITING]
    rows = np.concatenate([read_positions(visit.files.shard(shard.id).positions) for shard in waiting])
    found, _ = options(visit.world, ask_of(visit, run, rows), run.deadline_at, None)
    fast = [option for option in found if option.lane is not Lane.BATCH and option.obstacle is None]
    if run.ceiling_usd is None or not fast:
        return bool(fast)
    left = run.ceiling_usd - run.spent_usd - run.reserved_usd + sum(shard.worst_usd for shard in waiting if shard.state not in _UNSENT)
    return left > min(option.worst_usd or Decimal(0) for option in fast) / len(rows)
