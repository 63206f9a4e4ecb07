"""Escalate: at the latest safe time before a deadline, rows in batches or in flex move to a faster lane.

A step of the runner, at every look.  Batches are cancelled, and their end is awaited; a realtime run in flex just stops.  Paid answers
are collected, and only the unpaid rows are asked again, in the lane that then meets the terms (`round.next_round`).  A batch that
finishes during its cancel is collected, and no row of it is paid twice.

Rows behind one that went ahead (`probe`) do not wait for the end of its cancel: they are in no other shard, so that nothing of them can be paid twice.
Where the job demands batches, they follow while the batches of their own are still likely to end in time.

Where a cancelled batch gives no answers back (`Traits.keeps_on_cancel`), a cancel would throw away what is paid, and all its rows would be paid
again.  So such a batch stays, even if it is late, unless the provider says that it has answered nothing yet.  With `hedge=True` its rows are asked
elsewhere, too, and both stay reserved.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from keld import deadline
from keld.errors import AccessRefused, ProviderRefused, ProviderUnreachable
from keld.ledger import JobRun, Shard
from keld.outcome import Outcome
from keld.plan import would_escalate
from keld.price import Lane
from keld.row_set import RowSet
from keld.runner.context import Environment, RunContext, log
from keld.runner.fast_lane import end_early
from keld.runner.find_lost import orphan_of
from keld.runner.observe import cancel
from keld.runner.option import flex_of, options, speed_of
from keld.runner.round import ask_of
from keld.staging import read_positions
from keld.state import AT_PROVIDER, Event, RunState, State
from keld.turnaround import turnaround

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNSENT = (State.PLANNED, State.STAGED, State.DEFERRED)
_WAITING = (*_UNSENT, State.SUBMITTING, State.UNKNOWN, State.IN_PROGRESS, State.CANCELLING)


def escalation_time(environment: Environment, run: JobRun, shards: Sequence[Shard]) -> datetime | None:
    """The time at which the first waiting rows must move to a faster lane; None without a deadline, or without rows to move."""
    return min(escalation_times(environment, run, shards).values(), default=None)


def escalation_times(environment: Environment, run: JobRun, shards: Sequence[Shard]) -> dict[Lane, datetime]:
    """The time at which the rows in batches, and those in flex, must move on, computed from all the rows that are left now."""
    due = run.deadline_at
    if due is None or run.state is not RunState.OPEN:
        return {}
    waiting = [shard for shard in shards if shard.lane != Lane.STANDARD and shard.state in _WAITING and not _stays(environment, run, shard)]
    if not waiting:
        return {}
    if not run.terms.any_lane:
        ahead = [shard for shard in waiting if _holds_back(run, shard)]
        return {Lane.BATCH: min(_release_at(environment, run, due, shard) for shard in ahead)} if ahead else {}
    in_batches = [shard for shard in waiting if shard.lane == Lane.BATCH]
    batch = not all(_loses_answers(environment, shard) for shard in in_batches)  # else none is cancelled: see `_hedge_at`
    # A job run whose rows are all in batches is not among those that share the fast lanes: what holds for one of its size holds for all.
    own = None if len(in_batches) == len(shards) else run.id
    flex, left = flex_of(environment, run.terms, waiting), _left(environment, run, waiting)
    lanes = [lane for lane, some in ((Lane.BATCH, in_batches), (Lane.FLEX, len(waiting) > len(in_batches))) if some]
    return {
        lane: due
        - _lead(environment, run.terms.models, left, own, batch=batch and lane is Lane.BATCH, flex=flex if lane is Lane.BATCH else None)
        for lane in lanes
    }


def _lead(environment: Environment, models: Sequence[str], left: int, run_id: str | None, *, batch: bool, flex: str | None) -> timedelta:
    """How long before its deadline a job run's rows must move on, if so many are left; computed once in a look at many job runs."""
    asked = (models, left, run_id, batch, flex)
    if environment.leads is not None and asked in environment.leads:
        return environment.leads[asked]
    speeds = {name: speed_of(environment, name, run_id) for name in models}
    to_flex = None if flex is None else speeds[flex]
    lead = _EPOCH - deadline.escalation_time(_EPOCH, left, list(speeds.values()), batch=batch, flex=to_flex)
    if environment.leads is not None:
        environment.leads[asked] = lead
    return lead


def holds_back_for_too_long(environment: Environment, run: JobRun, shards: Sequence[Shard]) -> bool:
    """True if rows wait for the end of one that went ahead, and have to be asked now to meet the deadline."""
    if not any(_holds_back(run, shard) for shard in shards):
        return False
    at = escalation_time(environment, run, shards)
    return at is not None and at <= environment.clock()


def _holds_back(run: JobRun, shard: Shard) -> bool:
    """True if a shard went ahead, and the others have not followed."""
    return bool(shard.ahead) and shard.round == run.round


def _release_at(environment: Environment, run: JobRun, due: datetime, ahead: Shard) -> datetime:
    """The time at which the rows behind one must follow in batches."""
    seen = environment.ledger.history.turnarounds(ahead.provider, ahead.host, ahead.model, Lane.BATCH, environment.clock())
    sent_at = ahead.submitted_at or ahead.intent_at or run.created_at
    return deadline.release_time(due, sent_at, turnaround(Lane.BATCH, *seen), run.terms.probability)


def escalate(context: RunContext, run: JobRun, shards: Sequence[Shard], *, heavy: bool) -> bool:
    """True if a shard was stopped so that its unpaid rows can be escalated.

    Args:
        heavy: realtime runs are stopped and unsent shards dropped, too, which writes to disk; a light poll only asks for cancels.
    """
    due = [lane for lane, at in escalation_times(context.environment, run, shards).items() if at <= context.now()]
    waiting = [shard for shard in shards if shard.lane in due and shard.state in _WAITING and not _stays(context.environment, run, shard)]
    if not waiting or run.deadline_at is None or context.now() >= run.deadline_at or not _would_escalate(context, run, waiting):
        return False  # the deadline cannot be met, or nothing faster is possible: a late answer is better than none
    if heavy and run.terms.hedge and context.now() >= _hedge_at(context.environment, run, waiting):
        return _hedge(context, waiting)
    moved = False
    for shard in waiting:
        if shard.lane == Lane.BATCH and (shard.provider in context.blocked or _loses_answers(context.environment, shard)):
            continue
        if shard.state is State.IN_PROGRESS and (heavy or shard.lane == Lane.BATCH):
            log.info("shard.escalated shard=%s run=%s due=%s", shard.id, run.id, run.deadline_at.isoformat())
            moved |= _ask_cancel(context, shard) if shard.lane == Lane.BATCH else bool(end_early(context, shard))
        elif heavy and shard.state in _UNSENT:
            context.give_up(shard, Event.DROPPED, Outcome.CANCELLED, "not sent in time for the deadline", retryable=True)
            moved = True
    return moved


def _stays(environment: Environment, run: JobRun, shard: Shard) -> bool:
    """True if a shard is not moved for the deadline, since its answers until then would be lost, and its rows paid twice."""
    return not run.terms.hedge and _loses_answers(environment, shard)


def _loses_answers(environment: Environment, shard: Shard) -> bool:
    """True if the cancel of a shard's batch would throw away answers that are paid, or may be."""
    at_risk = shard.done != 0 and shard.lane == Lane.BATCH and shard.state in (State.SUBMITTING, State.UNKNOWN, State.IN_PROGRESS)
    return at_risk and not environment.provider(shard.provider).traits.keeps_on_cancel


def _ask_cancel(context: RunContext, shard: Shard) -> bool:
    """True if the provider accepted the cancel; if not, it is asked again at the next look."""
    try:
        cancel(context, shard)
    except (AccessRefused, ProviderUnreachable, ProviderRefused) as problem:
        context.blocked.add(shard.provider)
        context.problem = problem
        return False
    return True


def _hedge_at(environment: Environment, run: JobRun, waiting: Sequence[Shard]) -> datetime:
    """The time after which the end of a batch cannot be awaited: all the time that is left is needed to ask its rows elsewhere."""
    assert run.deadline_at is not None
    speeds = [speed_of(environment, name, run.id) for name in run.terms.models]
    return deadline.escalation_time(run.deadline_at, _left(environment, run, waiting), speeds, batch=False)


def _hedge(context: RunContext, shards: Sequence[Shard]) -> bool:
    """True if a batch that has not ended was left to the sweep, which counts its cost; its rows move on now, and may be paid twice."""
    out = [shard for shard in shards if shard.lane == Lane.BATCH and shard.state in AT_PROVIDER and shard.batch_id is not None]
    for shard in out:
        log.warning("shard.hedged shard=%s batch_id=%s rows=%d", shard.id, shard.batch_id, shard.requests)
        left = [orphan_of(shard, shard.require_batch_id(), context.now())]
        why = "its batch did not end in time for the deadline; asked elsewhere, since hedge=True"
        context.give_up(shard, Event.HEDGED, Outcome.CANCELLED, why, retryable=True, orphans=left)
    return bool(out)


def _would_escalate(context: RunContext, run: JobRun, waiting: Sequence[Shard]) -> bool:
    """True if the rows that are left would go to a faster lane, given the time and the ceiling now; or if others wait behind them."""
    if any(_holds_back(run, shard) for shard in waiting):
        return True  # whatever lane the others then go to: to wait on gains nothing for them
    rows = RowSet(run.rows)
    for shard in waiting:
        rows.add(read_positions(context.files.shard(shard.id).positions))
    free = None
    if run.ceiling_usd is not None:
        freed = (s.worst_usd for s in waiting if s.state not in _UNSENT and not _loses_answers(context.environment, s))
        free = run.ceiling_usd - run.spent_usd - run.reserved_usd + sum(freed)
    found, terms = options(
        context.environment, ask_of(context, run, rows), run.deadline_at, free, rows=_left(context.environment, run, waiting)
    )
    return would_escalate(found, terms, Lane.BATCH if any(shard.lane == Lane.BATCH for shard in waiting) else Lane.FLEX)


def _left(environment: Environment, run: JobRun, waiting: Sequence[Shard]) -> int:
    """The rows that are to be asked if these shards are moved: those that are not answered, those whose answers would be lost, those behind them."""
    if any(_holds_back(run, shard) for shard in waiting):
        return int(run.plan["requests"])
    return sum(
        shard.requests - (0 if _loses_answers(environment, shard) else min(shard.done or 0, shard.requests)) for shard in waiting
    )  # fmt: skip
