"""Whose shard goes next where a provider's queue is full: the rule alone, then two job runs on the wire."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from keld import Keld, Settings, Status
from keld.emulator import Emulator
from keld.ledger import QueuedShard
from keld.runner.queue import waits_until
from tests.support.ticket_job import anthropic, check_promise, creates, fault, openai, outcomes, tickets, triage

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
AGAIN = timedelta(seconds=30)


def waiting(
    name: str, *, deadline_h: float | None = None, due_s: float | None = 0, tried_s: float | None = -600, **more: Any
) -> QueuedShard:
    """A shard; times from now."""
    at = {name: None if of is None else NOW + timedelta(seconds=of) for name, of in (("not_before", due_s), ("tried_at", tried_s))}
    deadline = None if deadline_h is None else NOW + timedelta(hours=deadline_h)
    return QueuedShard(shard_id=name, ordinal=0, run_id=name, deadline_at=deadline, created_at=NOW, next_check_at=None, **{**at, **more})


def next_turn(me: QueuedShard, *others: QueuedShard, fresh: bool = False) -> datetime | None:
    return waits_until(me, others, NOW, fresh=fresh, ask_again=AGAIN)


def test_where_nobody_waits_everybody_goes() -> None:
    assert next_turn(waiting("a"), fresh=True) is None


def test_of_those_that_are_due_the_earliest_deadline_goes_first() -> None:
    soon, late, never = waiting("soon", deadline_h=1), waiting("late", deadline_h=9), waiting("never")
    assert next_turn(soon, late, never) is None
    assert next_turn(late, soon, never) == NOW + AGAIN
    assert next_turn(never, soon, late) == NOW + AGAIN


def test_a_newcomer_does_not_pass_those_that_were_turned_away() -> None:
    """It would be turned away itself, and uses up a create."""
    assert next_turn(waiting("new", tried_s=None), waiting("old", due_s=45), fresh=True) == NOW + timedelta(seconds=45)


def test_a_newcomer_with_the_earliest_deadline_goes_when_the_queue_is_tried_again() -> None:
    assert next_turn(waiting("new", deadline_h=1, tried_s=None), waiting("old", deadline_h=5), fresh=True) is None


def test_nobody_tries_right_after_somebody_was_turned_away() -> None:
    """However urgent: the queue was full a moment ago."""
    just = waiting("just", due_s=120, tried_s=-10)
    assert next_turn(waiting("me", deadline_h=1), just) == NOW + timedelta(seconds=50)


def test_one_that_waits_for_its_own_time_holds_nobody_up() -> None:
    assert next_turn(waiting("me"), waiting("told to wait", deadline_h=1, due_s=900)) is None


# --- on the wire ------------------------------------------------------------------------------------------------------


def test_two_job_runs_share_a_full_queue_the_earlier_deadline_first(keld: Keld, emulator: Emulator) -> None:
    """Enqueued tokens are the account's, not the job run's."""
    fault(emulator, "life", "token_limit", times=2)
    late = keld.submit(triage(openai, name="late", deadline=timedelta(hours=20)), tickets())
    keld.advance(late.id)
    soon = keld.submit(triage(openai, name="soon", deadline=timedelta(hours=2)), tickets())
    keld.advance(soon.id)
    accepted: list[str] = []
    for _ in range(40):
        emulator.advance(30)
        for status in (late, soon):
            before = len(creates(emulator, openai))
            now = keld.advance(status.id)
            if len(creates(emulator, openai)) > before and now.batches[0].state == "in_progress":
                accepted.append(now.job)
    assert accepted[-2:] == ["soon", "late"]
    for status in (late, soon):
        assert outcomes(keld, status) == ["answered"] * 6


def test_a_batch_that_ends_makes_room_at_once(open_emulator: Callable[..., Emulator], open_keld: Callable[..., Keld]) -> None:
    """What waits for its tokens need not sleep out its time: three batches one after the other, and hardly anything between them."""
    emulator = open_emulator(latency_s=300, enqueued_token_limit=600)
    keld = open_keld(clock=emulator.now, settings=Settings(retry_queue_full=timedelta(minutes=20)))
    began = emulator.now()
    status = keld.submit(triage(openai, max_shard_rows=2), tickets(6))
    while not (status := keld.advance(status.id)).over:
        emulator.advance(10)
    assert emulator.now() - began < timedelta(seconds=3 * 300 + 60)
    check_promise(keld, emulator, status, tickets(6))


@pytest.mark.parametrize("jobs", [3])
def test_nothing_starves(open_emulator: Callable[..., Emulator], open_keld: Callable[..., Keld], jobs: int) -> None:
    """More than the queue takes at once, some without a deadline: all of them are answered."""
    emulator = open_emulator(latency_s=60, enqueued_token_limit=600)
    keld = open_keld(clock=emulator.now)
    deadlines = [None, timedelta(hours=3), None]
    runs = [keld.submit(triage(openai, name=f"job_{n}", deadline=deadlines[n % 3], max_shard_rows=2), tickets(6)) for n in range(jobs)]
    for _ in range(200):
        if sum(keld.advance(run.id).over for run in runs) == jobs:
            break
        emulator.advance(20)
    assert [outcomes(keld, run) for run in runs] == [["answered"] * 6] * jobs


# --- in the fast lanes ------------------------------------------------------------------------------------------------


def in_standard(keld: Keld, name: str, deadline: timedelta | None) -> Status:
    return keld.submit(triage(anthropic, name=name, lane="standard", deadline=deadline), tickets())


def look_alive(keld: Keld, status: Status) -> None:
    """Somebody has the job run in hand, and does not get on."""
    lease = keld.ledger.leases.claim(status.id, "somebody", keld.clock())
    assert lease is not None
    keld.ledger.leases.release(lease, keld.clock(), None)


def test_in_the_fast_lanes_the_earlier_deadline_goes_first(keld: Keld, emulator: Emulator) -> None:
    """Shared alike, both would be late."""
    late, soon = in_standard(keld, "late", timedelta(hours=5)), in_standard(keld, "soon", timedelta(minutes=30))
    assert not keld.advance(late.id).over
    assert not emulator.bill()
    assert keld.advance(soon.id).over
    emulator.advance(timedelta(minutes=1))
    assert keld.advance(late.id).over
    assert len(emulator.bill()) == 12


@pytest.mark.share(2)
@pytest.mark.parametrize(("mine", "theirs", "waits"), [(1.5, 1.4, 1.4), (None, 9.0, 0.9)])
def test_who_gives_way_does_so_only_while_there_is_time(
    keld: Keld, emulator: Emulator, mine: float | None, theirs: float, waits: float
) -> None:
    """Up to the last moment for its own rows; without a deadline for an hour."""
    late = in_standard(keld, "late", None if mine is None else timedelta(hours=mine))
    soon = in_standard(keld, "soon", timedelta(hours=theirs))
    began = emulator.now()
    while not keld.advance(late.id).over:
        emulator.advance(timedelta(minutes=1))
        look_alive(keld, soon)
    assert len(emulator.bill()) == 6
    assert timedelta(hours=waits) < emulator.now() - began < timedelta(hours=mine or 1.1)


def test_a_job_run_that_nobody_advances_is_not_waited_for(keld: Keld, emulator: Emulator) -> None:
    late = in_standard(keld, "late", timedelta(hours=5))
    in_standard(keld, "soon", timedelta(minutes=30))
    emulator.advance(timedelta(minutes=10))
    assert keld.advance(late.id).over
