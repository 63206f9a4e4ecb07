"""Give up: the instant at which a shard without progress is given up, in whatever state it is.

A step of the runner, the last one before the lease is given back.  A provider that does not work can keep a shard in any state without end: looks
fail, the list cannot be read, results are unreadable, a cancel has no effect.  One rule ends all of these: the later of the deadline and the
provider's window after the last progress, plus `Settings.last_word_after`; if the user cancelled, `Settings.cancel_within` after the cancel.

A shard that was sent, or may have been, is then quarantined: its worst case stays reserved, it is not sent again, and the sweep or `keld reconcile`
adopts its batch if it is found.  A shard that was never sent is not asked.  Only a shard that was tried under this lease without progress is given
up: a job run that was not advanced for a week is looked at first.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import assert_never

from keld.errors import ProviderRefused
from keld.ledger import EventRecord, JobRun, Shard, ShardError, ShardFault
from keld.outcome import Outcome
from keld.price import Lane
from keld.runner.context import RunContext, log
from keld.runner.fast_lane import abandon
from keld.runner.settings import Settings
from keld.state import Event, RunEvent, RunState, State

# Events that show that the provider works and the shard makes progress; not attempts, looks and refusals.
_PROGRESS = frozenset({Event.STAGED, Event.DEFERRED, Event.CREATED, Event.ADOPTED, Event.CANCEL_ASKED, Event.ENDED})
_DAY = timedelta(days=1)


def give_up(context: RunContext, run: JobRun, shards: Sequence[Shard]) -> bool:
    """True if a shard was given up: it was tried under this lease without progress, and its time is over."""
    tried = [shard for shard in shards if shard.id in context.stuck]
    if not tried:
        return False
    events, given_up = context.ledger.events(run.id), False
    for shard in tried:
        last = give_up_time(context, run, shard, events)
        if last is not None and context.now() >= last:
            log.warning("shard.given_up shard=%s run=%s state=%s batch_id=%s", shard.id, run.id, shard.state.value, shard.batch_id)
            _give_up(context, shard, last, context.stuck[shard.id])
            given_up = True
    return given_up


def give_up_time(context: RunContext, run: JobRun, shard: Shard, events: Sequence[EventRecord] | None = None) -> datetime | None:
    """`give_up_time_of` a shard, by its events in the ledger and its provider's window."""
    events = context.ledger.events(run.id) if events is None else events
    asked = [event.at for event in events if event.kind == RunEvent.CANCEL_ASKED]
    cancelled_at = asked[-1] if asked and run.state is RunState.CANCELLING else None
    return give_up_time_of(shard, run.deadline_at, _progress_at(run, shard, events), context.window(shard), context.settings, cancelled_at)


def give_up_time_of(
    shard: Shard,
    deadline_at: datetime | None,
    progress_at: datetime,
    window: timedelta | None,
    settings: Settings,
    cancelled_at: datetime | None = None,
) -> datetime | None:
    """The instant at which a shard is given up if it makes no progress; None if it no longer depends on a provider.

    Args:
        progress_at: its last progress.
        window: the time after which a batch expires at the provider; None: a day.
        cancelled_at: when the user cancelled its job run, if so.
    """
    match shard.state:
        case State.COLLECTED | State.REJECTED | State.QUARANTINED | State.DROPPED:
            return None
        case State.ENDED if shard.lane != Lane.BATCH:
            return None  # its answers are in our own journal
        case (
            State.PLANNED | State.STAGED | State.DEFERRED | State.SUBMITTING | State.UNKNOWN
            | State.IN_PROGRESS | State.CANCELLING | State.ENDED
        ):  # fmt: skip
            usual = max(progress_at + (window or _DAY), deadline_at or progress_at) + settings.last_word_after
            return usual if cancelled_at is None else min(usual, cancelled_at + settings.cancel_within)
        case _:
            assert_never(shard.state)


def _progress_at(run: JobRun, shard: Shard, events: Sequence[EventRecord]) -> datetime:
    """The time of a shard's last progress; if it had none, when it was planned."""
    found: list[datetime] = [run.created_at]
    for event in events:
        if event.kind == RunEvent.ROUND and event.facts.get("round") == shard.round:
            found.append(event.at)
        if event.shard_id == shard.id and event.kind in _PROGRESS:
            found.append(event.at)
    return max(found)


def _give_up(context: RunContext, shard: Shard, last: datetime, problem: str) -> None:
    until = f"until {last:%Y-%m-%d %H:%M} UTC ({problem})"
    if shard.state in (State.PLANNED, State.STAGED, State.DEFERRED):
        why = f"not asked, and not paid: it could not be sent {until}"
        context.give_up(shard, Event.DROPPED, Outcome.UNASKED, why, error=ShardError(code=ShardFault.NO_LAST_WORD, message=why))
        return
    if shard.lane != Lane.BATCH:
        _give_up_fast_lane(context, shard, until)
        return
    paid = "it may have been paid for; `keld reconcile` collects its answers if the batch is found"
    fault = ShardFault.RESULTS_UNREADABLE if shard.state is State.ENDED else ShardFault.NO_LAST_WORD
    why = f"{_stuck(shard)} {until}; {paid}"
    context.give_up(shard, Event.LOST_TRACK, Outcome.QUARANTINED, why, error=ShardError(code=fault, message=why))


def _give_up_fast_lane(context: RunContext, shard: Shard, until: str) -> None:
    """The rows that were answered keep their answers, unless these cannot be read because the shard's account is not configured here."""
    try:
        abandon(context, shard, f"{shard.provider} at {shard.host} accepted no requests {until}")
    except ProviderRefused:
        journal = context.files.shard(shard.id).journal
        why = f"its account {shard.provider!r} was not configured {until}; it may have been paid for, and its answer may be in {journal}"
        context.give_up(shard, Event.LOST_TRACK, Outcome.QUARANTINED, why, error=ShardError(code=ShardFault.NO_LAST_WORD, message=why))


def _stuck(shard: Shard) -> str:
    match shard.state:
        case State.ENDED:
            return f"the results of batch {shard.batch_id} could not be read"
        case State.CANCELLING:
            return f"the batch {shard.batch_id} has not ended after its cancel"
        case State.IN_PROGRESS:
            return f"the state of batch {shard.batch_id} could not be read"
        case _:
            return "the reply to its create was lost, and it could not be looked for"
