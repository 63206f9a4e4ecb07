"""The ledger, on both databases: what may be written, by whom, and what the money adds up to."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from keld.errors import CeilingTooLow, LeaseLost, LedgerError, UnknownJobRun
from keld.job import RunTerms
from keld.ledger import JobRun, Lease, Ledger, Shard, ShardError, Unchanged, nonce
from keld.ledger.table import RUN, SHARD
from keld.state import Event, IllegalTransition, RunState, State

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def shared_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for the whole file: making one a test takes longer than the tests do."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path_factory.mktemp('ledger') / 'ledger.db'}"
    return request.getfixturevalue("postgres")()


@pytest.fixture
def ledger(shared_url: str) -> Iterator[Ledger]:
    """An empty ledger, in either database."""
    opened = Ledger(shared_url)
    engine = _engine(shared_url)
    with engine.begin() as db:
        for table in ("keld_attachment", "keld_event", "keld_intent", "keld_shard", "keld_job_run"):
            db.execute(sa.text(f"DELETE FROM {table}"))
    engine.dispose()
    yield opened
    opened.close()


def _engine(url: str) -> sa.Engine:
    parsed = sa.make_url(url)
    return sa.create_engine(parsed if parsed.get_backend_name() == "sqlite" else parsed.set(drivername="postgresql+psycopg"))


def _shard(run_id: str, ordinal: int = 0, *, worst: str = "1") -> Shard:
    return Shard(
        id=nonce(), run_id=run_id, ordinal=ordinal, round=0, state=State.PLANNED, provider="openai", host="https://api.openai.com",
        model="gpt-5-mini", lane="batch", requests=10, size_bytes=1_000, worst_usd=Decimal(worst), expected_usd=Decimal("0.1"),
    )  # fmt: skip


def _run(run_id: str, **terms: Any) -> dict[str, Any]:
    return {
        "id": run_id, "namespace": "default", "job": "labels", "partition": "2026-11-19", "generation": 1, "fingerprint": "f" * 64,
        "input_digest": "d" * 64, "rows": 10, "terms": RunTerms(models=("openai:m",)), "tags": {}, "plan": {}, "deadline_basis": "none", **terms,
    }  # fmt: skip


def _open(ledger: Ledger, shards: int = 1, *, worst: str = "1", **terms: Any) -> tuple[Lease, list[Shard]]:
    """A leased job run and its planned shards."""
    run_id = nonce() * 2
    made = ledger.open_run(_run(run_id, **terms), [_shard(run_id, n, worst=worst) for n in range(shards)], NOW)
    assert made is not None
    lease = ledger.leases.claim(run_id, "me", NOW)
    assert lease is not None
    return lease, ledger.shards(run_id)


def _pass(ledger: Ledger, lease: Lease, shard: Shard, events: Sequence[Event], **changes: Any) -> Shard:
    """The shard after `events`, each with what a runner would write beside it; `changes` come with the last one."""
    beside: dict[Event, dict[str, Any]] = {
        Event.STAGED: {"sha256": "a" * 64},
        Event.CREATED: {"batch_id": "batch_1", "submitted_at": NOW},
        Event.ADOPTED: {"batch_id": "batch_1", "submitted_at": NOW},
        Event.ENDED: {"ended": "completed", "ended_at": NOW + MINUTE},
    }
    for n, event in enumerate(events):
        if event is Event.SENDING:
            shard = ledger.record_intent(lease, shard, NOW)
        else:
            last = changes if n == len(events) - 1 else {}
            shard = ledger.record(lease, shard, event, NOW, **beside.get(event, {}) | last)
    return shard


SENT = [Event.STAGED, Event.SENDING]
CREATED = [*SENT, Event.CREATED]
ENDED = [*CREATED, Event.ENDED]


# --- who may write ----------------------------------------------------------------------------------------------------


def test_a_good_lease_keeps_others_out(ledger: Ledger) -> None:
    lease, _ = _open(ledger)
    assert ledger.leases.claim(lease.run_id, "another", NOW + MINUTE) is None


def test_a_lease_that_ran_out_is_taken_over_with_a_higher_epoch(ledger: Ledger) -> None:
    lease, _ = _open(ledger)
    taken = ledger.leases.claim(lease.run_id, "another", NOW + 3 * MINUTE)
    assert taken is not None
    assert taken.epoch == lease.epoch + 1


def test_the_lease_of_a_dead_owner_is_taken_at_once(ledger: Ledger) -> None:
    lease, _ = _open(ledger)
    assert ledger.leases.claim(lease.run_id, "another", NOW, dead_owner="me") is not None


def test_a_lease_is_not_taken_for_somebody_elses_death(ledger: Ledger) -> None:
    """The dead owner was read before; by now another, living one may hold the lease."""
    lease, _ = _open(ledger)
    assert ledger.leases.claim(lease.run_id, "another", NOW, dead_owner="one before me") is None


def test_renewing_prolongs_a_lease(ledger: Ledger) -> None:
    lease, _ = _open(ledger)
    ledger.leases.renew(lease, NOW + MINUTE)
    assert ledger.leases.claim(lease.run_id, "another", NOW + timedelta(seconds=121)) is None


def test_a_released_lease_is_free(ledger: Ledger) -> None:
    lease, _ = _open(ledger)
    ledger.leases.release(lease, NOW)
    assert ledger.leases.claim(lease.run_id, "another", NOW) is not None


def test_a_stale_release_leaves_the_new_holders_lease(ledger: Ledger) -> None:
    lease, _ = _open(ledger)
    ledger.leases.claim(lease.run_id, "another", NOW + 3 * MINUTE)
    ledger.leases.release(lease, NOW, {"kind": "x", "message": "y"})
    run = ledger.run(lease.run_id)
    assert (run.lease_owner, run.problem) == ("another", None)


def _writes() -> dict[str, Callable[[Ledger, Lease, Shard], object]]:
    return {
        "record": lambda ledger, lease, shard: ledger.record(lease, shard, Event.UPLOADED, NOW, input_ref="file-1"),
        "record_intent": lambda ledger, lease, shard: ledger.record_intent(lease, shard, NOW),
        "note_progress": lambda ledger, lease, shard: ledger.progress.note(lease, shard, 5, NOW),
        "add_shards": lambda ledger, lease, shard: ledger.add_shards(lease, [_shard(lease.run_id, 1)], 1, NOW),
        "record_run": lambda ledger, lease, shard: ledger.record_run(lease, NOW, "writing", state=RunState.WRITING),
        "renew": lambda ledger, lease, shard: ledger.leases.renew(lease, NOW),
    }


@pytest.mark.parametrize("write", _writes().values(), ids=_writes().keys())
def test_a_frozen_holders_write_is_refused_and_changes_nothing(ledger: Ledger, write: Callable[[Ledger, Lease, Shard], object]) -> None:
    """It slept past its lease and does not know it; the epoch does."""
    lease, [shard] = _open(ledger)
    shard = _pass(ledger, lease, shard, [Event.STAGED])
    ledger.leases.claim(lease.run_id, "another", NOW + 3 * MINUTE)
    before = (ledger.run(lease.run_id), ledger.shards(lease.run_id), ledger.events(lease.run_id), ledger.intents(shard.id))
    with pytest.raises(LeaseLost):
        write(ledger, lease, shard)
    assert (ledger.run(lease.run_id), ledger.shards(lease.run_id), ledger.events(lease.run_id), ledger.intents(shard.id)) == before


@pytest.mark.parametrize("event", [Event.UPLOADED, Event.SENDING, Event.STAGED])
def test_a_write_from_a_stale_picture_of_a_shard_is_refused(ledger: Ledger, event: Event) -> None:
    lease, [shard] = _open(ledger)
    stale = _pass(ledger, lease, shard, [Event.STAGED])
    _pass(ledger, lease, stale, [Event.SENDING, Event.CREATED])
    with pytest.raises(LeaseLost):
        _pass(ledger, lease, stale, [event])


@pytest.mark.parametrize("event", [Event.UPLOADED, Event.SENDING])
def test_a_shard_staged_again_is_not_the_one_that_was_read_before(ledger: Ledger, event: Event) -> None:
    """The state is the same, the attempt is not: a second intent of the same number would hide the first."""
    lease, [shard] = _open(ledger)
    stale = _pass(ledger, lease, shard, [Event.STAGED])
    _pass(ledger, lease, stale, [Event.SENDING, Event.UNSENT])
    with pytest.raises(LeaseLost):
        _pass(ledger, lease, stale, [event])


def test_what_the_table_does_not_allow_is_not_written(ledger: Ledger) -> None:
    lease, [shard] = _open(ledger)
    with pytest.raises(IllegalTransition):
        ledger.record(lease, shard, Event.COLLECTED, NOW)
    assert ledger.shards(lease.run_id) == [shard]


# --- opening ----------------------------------------------------------------------------------------------------------


def test_of_many_who_open_the_same_generation_one_succeeds(ledger: Ledger) -> None:
    def race(_: int) -> bool:
        run_id = nonce() * 2
        return ledger.open_run(_run(run_id), [_shard(run_id)], NOW) is not None

    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(race, range(8)))
    assert (sum(opened), len(ledger.catalog.runs("default"))) == (1, 1)


def test_who_lost_the_race_to_open_left_nothing_behind(ledger: Ledger) -> None:
    _open(ledger)
    late = nonce() * 2
    assert ledger.open_run(_run(late), [_shard(late)], NOW) is None
    assert (ledger.shards(late), ledger.events(late)) == ([], [])


def test_many_first_workers_make_one_ledger(ledger_url: str) -> None:
    """Each makes the tables when they are missing."""

    def first(_: int) -> int:
        opened = Ledger(ledger_url)
        runs = opened.catalog.runs("default")
        opened.close()
        return len(runs)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(first, range(8))) == [0] * 8


def test_the_latest_generation_is_found(ledger: Ledger) -> None:
    _open(ledger)
    lease, _ = _open(ledger, generation=2)
    found = ledger.catalog.latest("default", "labels", "2026-11-19")
    assert found is not None
    assert found.id == lease.run_id


def test_another_namespace_sees_nothing_of_it(ledger: Ledger) -> None:
    _open(ledger)
    assert ledger.catalog.latest("team-b", "labels", "2026-11-19") is None
    assert ledger.catalog.runs("team-b") == []


def test_an_unknown_job_run_is_said_to_be_unknown(ledger: Ledger) -> None:
    with pytest.raises(UnknownJobRun, match="nope"):
        ledger.run("nope")


def test_the_last_who_waits_for_a_job_run_cancels_it_by_going(ledger: Ledger) -> None:
    """A backfill and the day's own run may wait for the same partition."""
    lease, _ = _open(ledger)
    mine, other = ledger.control.attach(lease.run_id, "mine"), ledger.control.attach(lease.run_id, "other")
    assert not ledger.control.detach(lease.run_id, "mine", mine, NOW)
    assert ledger.run(lease.run_id).state is RunState.OPEN
    assert ledger.control.detach(lease.run_id, "other", other, NOW)
    assert ledger.run(lease.run_id).state is RunState.CANCELLING
    assert not ledger.control.detach(lease.run_id, "other", other, NOW), "once"


def test_who_has_attached_anew_is_not_sent_away_by_what_is_told_late(ledger: Ledger) -> None:
    """A cleared task is back before it is said to have been killed."""
    lease, _ = _open(ledger)
    before = ledger.control.attach(lease.run_id, "mine")
    now = ledger.control.attach(lease.run_id, "mine")
    assert not ledger.control.detach(lease.run_id, "mine", before, NOW)
    assert ledger.control.detach(lease.run_id, "mine", now, NOW)


def test_a_job_run_is_overlooked_when_a_look_was_due_and_nobody_has_it_in_hand(ledger: Ledger) -> None:
    """Only then may it be asked whether anybody still waits for it."""

    def overlooked(at: datetime, namespace: str = "default") -> list[str]:
        return [run.id for run in ledger.catalog.overlooked(namespace, at)]

    lease, [shard] = _open(ledger)
    _pass(ledger, lease, shard, CREATED)
    assert overlooked(NOW + MINUTE) == [], "a worker has it"
    ledger.leases.release(lease, NOW + 10 * MINUTE, None, escalates_at=None)
    assert overlooked(NOW + 9 * MINUTE) == []
    assert overlooked(NOW + 11 * MINUTE) == [lease.run_id]
    assert overlooked(NOW + 11 * MINUTE, "another") == []
    again = ledger.leases.claim(lease.run_id, "me", NOW + 11 * MINUTE)
    assert again is not None
    _pass(ledger, again, ledger.shards(lease.run_id)[0], [Event.ENDED])
    ledger.leases.release(again, NOW + 11 * MINUTE, None, escalates_at=None)
    assert overlooked(NOW + 60 * MINUTE) == [], "nothing is at the provider"


def test_who_leaves_waits_for_nothing_and_cancels_nothing(ledger: Ledger) -> None:
    """A task that fails by itself is cleared later, and finds what was sent."""
    lease, _ = _open(ledger)
    epoch = ledger.control.attach(lease.run_id, "mine")
    assert [(one.holder, one.epoch) for one in ledger.control.holders([lease.run_id])] == [("mine", epoch)]
    ledger.control.leave("mine")
    assert ledger.control.holders([lease.run_id]) == []
    assert not ledger.control.detach(lease.run_id, "mine", epoch, NOW)
    assert ledger.run(lease.run_id).state is RunState.OPEN


def test_what_was_opened_is_read_back_as_it_was(ledger: Ledger) -> None:
    terms = {
        "terms": RunTerms(models=("openai:gpt-5-mini",), priority="雪", prices={"openai:gpt-5-mini": {"input": "0.1"}}), "tags": {"team": "support"}, "ceiling_usd": Decimal("12.345678901234"),
        "deadline_at": NOW + timedelta(microseconds=1), "deadline_basis": "partition-end", "sink": "out/{partition}.parquet", "rows": 10**10,
    }  # fmt: skip
    lease, _ = _open(ledger, **terms)
    run = ledger.run(lease.run_id)
    assert {name: getattr(run, name) for name in terms} == terms
    assert (run.state, run.reserved_usd, run.created_at) == (RunState.OPEN, 0, NOW)


# --- what happened, in order ------------------------------------------------------------------------------------------


def test_events_stand_in_the_order_they_happened_and_say_what_became(ledger: Ledger) -> None:
    lease, [shard] = _open(ledger)
    _pass(ledger, lease, shard, CREATED)
    found = [(event.kind, event.was, event.became) for event in ledger.events(lease.run_id)]
    assert found == [
        ("opened", None, "open"),
        ("staged", "planned", "staged"),
        ("sending", "staged", "submitting"),
        ("created", "submitting", "in_progress"),
    ]


def test_an_event_names_the_epoch_it_was_written_in(ledger: Ledger) -> None:
    lease, [shard] = _open(ledger)
    _pass(ledger, lease, shard, [Event.STAGED])
    assert ledger.events(lease.run_id)[-1].epoch == lease.epoch


def test_every_create_has_its_intent_with_what_became_of_it(ledger: Ledger) -> None:
    lease, [shard] = _open(ledger)
    _pass(ledger, lease, shard, [*SENT, Event.UNSENT, Event.SENDING, Event.OUTCOME_LOST, Event.ADOPTED])
    found = [(intent.attempt, intent.outcome, intent.batch_id) for intent in ledger.intents(shard.id)]
    assert found == [(1, "unsent", None), (2, "adopted", "batch_1")]


def test_an_intent_is_there_before_any_outcome(ledger: Ledger) -> None:
    """Dying in between, the next worker must find it."""
    lease, [shard] = _open(ledger)
    sent = _pass(ledger, lease, shard, SENT)
    assert [intent.outcome for intent in ledger.intents(shard.id)] == ["sending"]
    assert (sent.state, sent.attempt, sent.intent_at) == (State.SUBMITTING, 1, NOW)


def test_a_batch_is_known_once_an_intent_led_to_it(ledger: Ledger) -> None:
    lease, [shard] = _open(ledger)
    sent = _pass(ledger, lease, shard, SENT)
    assert not ledger.accounts.knows_batch("batch_1")
    _pass(ledger, lease, sent, [Event.CREATED])
    assert ledger.accounts.knows_batch("batch_1")


def test_a_shards_error_and_outcomes_are_read_back(ledger: Ledger) -> None:
    lease, [shard] = _open(ledger)
    became = _pass(ledger, lease, shard, [*CREATED, Event.REJECTED], error=ShardError(code="x", message="雪"), outcomes={"rejected": 10})
    assert ledger.shards(lease.run_id) == [became]
    assert (became.error, became.outcomes) == (ShardError(code="x", message="雪"), {"rejected": 10})


def test_shards_come_by_ordinal(ledger: Ledger) -> None:
    lease, _ = _open(ledger, shards=3)
    ledger.add_shards(lease, [_shard(lease.run_id, 4), _shard(lease.run_id, 3)], 1, NOW)
    assert [shard.ordinal for shard in ledger.shards(lease.run_id)] == [0, 1, 2, 3, 4]
    assert ledger.run(lease.run_id).round == 1


def test_turnarounds_are_those_of_batches_that_completed_and_apart_from_them_the_ages_of_the_others(ledger: Ledger) -> None:
    """A batch that runs on, or was given up, says that it takes longer than this."""
    lease, [first, second, third, _] = _open(ledger, shards=4)
    _pass(ledger, lease, first, ENDED)
    _pass(ledger, lease, second, ENDED, ended="expired", ended_at=NOW + 2 * MINUTE)
    _pass(ledger, lease, third, CREATED)
    completed, others = ledger.history.turnarounds("openai", "https://api.openai.com", "gpt-5-mini", "batch", NOW + 3 * MINUTE)
    assert (completed, sorted(others)) == ([60.0], [120.0, 180.0])


def test_who_else_is_in_an_accounts_fast_lanes(ledger: Ledger) -> None:
    """Rows without an answer, by lane; not one's own, and not those that nobody advances any more."""
    account = ("openai", "https://api.openai.com", "gpt-5-mini")
    lease, [shard, batch] = _open(ledger, shards=2)
    with ledger._db.write() as db:
        db.execute(sa.update(SHARD).where(SHARD.c.id == shard.id).values(lane="standard", done=4))
    assert batch.lane == "batch"
    [rival] = ledger.queue.in_fast_lanes(*account, NOW, other_than="")
    assert (rival.run_id, rival.lane, rival.rows) == (lease.run_id, "standard", shard.requests - 4)
    assert ledger.queue.in_fast_lanes(*account, NOW, other_than=lease.run_id) == []
    assert ledger.queue.in_fast_lanes(*account, NOW + timedelta(hours=1), other_than="") == []


# --- the money --------------------------------------------------------------------------------------------------------

COLLECTED = {"cost_usd": Decimal("0.25"), "standard_usd": Decimal("0.5"), "answered": 9}
QUEUED = [*SENT, Event.REFUSED, Event.DEFERRED]
PATHS: dict[str, list[Event]] = {
    "collected": [*ENDED, Event.COLLECTED],
    "collected after being adopted": [*SENT, Event.OUTCOME_LOST, Event.LOOKED, Event.ADOPTED, Event.ENDED, Event.COLLECTED],
    "collected after there was no connection": [*SENT, Event.UNSENT, Event.SENDING, Event.CREATED, Event.ENDED, Event.COLLECTED],
    "collected after being refused": [*SENT, Event.REFUSED, Event.ABSENT, Event.SENDING, Event.CREATED, Event.ENDED, Event.COLLECTED],
    "collected after being absent": [*SENT, Event.OUTCOME_LOST, Event.ABSENT, Event.SENDING, Event.CREATED, Event.ENDED, Event.COLLECTED],
    "collected after a full queue": [*QUEUED, Event.RETRY_DUE, Event.SENDING, Event.CREATED, Event.ENDED, Event.COLLECTED],
    "collected after a full queue found late": [*CREATED, Event.DEFERRED, Event.RETRY_DUE, *CREATED[1:], Event.ENDED, Event.COLLECTED],
    "collected after a cancel": [*CREATED, Event.CANCEL_ASKED, Event.CANCEL_ASKED, Event.ENDED, Event.COLLECTED],
    "rejected at once": [*SENT, Event.REFUSED, Event.REJECTED],
    "rejected after it was created": [*CREATED, Event.REJECTED],
    "rejected while it was cancelled": [*CREATED, Event.CANCEL_ASKED, Event.REJECTED],
    "dropped before it was staged": [Event.DROPPED],
    "dropped before it was sent": [Event.STAGED, Event.DROPPED],
    "dropped after it was refused": [*SENT, Event.REFUSED, Event.ABSENT, Event.DROPPED],
    "dropped from a full queue": [*QUEUED, Event.DROPPED],
    "dropped from a full queue found late": [*CREATED, Event.CANCEL_ASKED, Event.DEFERRED, Event.DROPPED],
}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
def test_at_the_end_of_every_path_nothing_is_reserved_any_more(ledger: Ledger, path: list[Event]) -> None:
    lease, [shard] = _open(ledger, ceiling_usd=Decimal(1))
    _pass(ledger, lease, shard, path, **COLLECTED if path[-1] is Event.COLLECTED else {})
    run = ledger.run(lease.run_id)
    paid = Decimal("0.25") if path[-1] is Event.COLLECTED else Decimal(0)
    assert (run.reserved_usd, run.spent_usd, run.standard_usd) == (0, paid, 2 * paid)


@pytest.mark.parametrize("path", [[*SENT, Event.OUTCOME_LOST, Event.LOST_TRACK], [*ENDED, Event.LOST_TRACK]])
def test_what_is_quarantined_stays_reserved(ledger: Ledger, path: list[Event]) -> None:
    """It may have cost its worst case; nobody can prove that it did not."""
    lease, [shard] = _open(ledger)
    _pass(ledger, lease, shard, path)
    assert ledger.run(lease.run_id).reserved_usd == 1


def test_what_turns_up_from_quarantine_is_settled_once(ledger: Ledger) -> None:
    lease, [shard] = _open(ledger)
    path = [*SENT, Event.OUTCOME_LOST, Event.LOST_TRACK, Event.ADOPTED, Event.ENDED, Event.COLLECTED]
    _pass(ledger, lease, shard, path, **COLLECTED)
    run = ledger.run(lease.run_id)
    assert (run.reserved_usd, run.spent_usd, run.answered) == (0, Decimal("0.25"), 9)


@pytest.mark.parametrize(
    "path",
    [SENT, CREATED, [*SENT, Event.OUTCOME_LOST], [*SENT, Event.REFUSED], [*CREATED, Event.CANCEL_ASKED], ENDED],
    ids=lambda path: str(path[-1]),
)
def test_what_may_still_be_billed_is_reserved(ledger: Ledger, path: list[Event]) -> None:
    lease, [shard] = _open(ledger)
    _pass(ledger, lease, shard, path)
    assert ledger.run(lease.run_id).reserved_usd == 1


def test_an_intent_that_does_not_fit_under_the_ceiling_is_not_written(ledger: Ledger) -> None:
    lease, [first, second] = _open(ledger, shards=2, worst="0.6", ceiling_usd=Decimal(1))
    _pass(ledger, lease, first, SENT)
    second = _pass(ledger, lease, second, [Event.STAGED])
    with pytest.raises(CeilingTooLow, match=r"\$1\.2000"):
        ledger.record_intent(lease, second, NOW)
    assert (ledger.run(lease.run_id).reserved_usd, ledger.intents(second.id)) == (Decimal("0.6"), [])


def test_a_worst_case_that_just_reaches_the_ceiling_is_sent(ledger: Ledger) -> None:
    lease, shards = _open(ledger, shards=2, worst="0.5", ceiling_usd=Decimal(1))
    for shard in shards:
        _pass(ledger, lease, shard, SENT)
    assert ledger.run(lease.run_id).reserved_usd == 1


def test_one_pico_dollar_above_the_ceiling_is_above(ledger: Ledger) -> None:
    lease, [shard] = _open(ledger, worst="1.000000000001", ceiling_usd=Decimal(1))
    with pytest.raises(CeilingTooLow):
        _pass(ledger, lease, shard, SENT)


def test_what_was_really_paid_makes_room_for_the_next(ledger: Ledger) -> None:
    lease, [first, second] = _open(ledger, shards=2, worst="0.75", ceiling_usd=Decimal(1))
    _pass(ledger, lease, first, [*ENDED, Event.COLLECTED], **COLLECTED)
    _pass(ledger, lease, second, SENT)
    assert ledger.run(lease.run_id).reserved_usd == Decimal("0.75")


def test_eight_threads_together_never_reserve_above_the_ceiling(ledger: Ledger) -> None:
    """The check and the reservation are one transaction."""
    lease, planned = _open(ledger, shards=24, worst="0.3", ceiling_usd=Decimal(2))
    shards = [_pass(ledger, lease, shard, [Event.STAGED]) for shard in planned]

    def send(shard: Shard) -> bool:
        try:
            ledger.record_intent(lease, shard, NOW)
        except CeilingTooLow:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        sent = list(pool.map(send, shards))
    assert (sum(sent), ledger.run(lease.run_id).reserved_usd) == (6, Decimal("1.8"))


def test_of_eight_threads_that_send_one_shard_one_does(ledger: Ledger) -> None:
    lease, [shard] = _open(ledger)
    staged = _pass(ledger, lease, shard, [Event.STAGED])

    def send(_: int) -> bool:
        try:
            ledger.record_intent(lease, staged, NOW)
        except LeaseLost:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        sent = list(pool.map(send, range(8)))
    assert (sum(sent), len(ledger.intents(shard.id)), ledger.run(lease.run_id).reserved_usd) == (1, 1, 1)


def test_eight_workers_that_claim_one_job_run_are_one(ledger: Ledger) -> None:
    lease, _ = _open(ledger)
    ledger.leases.release(lease, None)
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda n: ledger.leases.claim(lease.run_id, f"worker-{n}", NOW), range(8)))
    assert sum(claim is not None for claim in claims) == 1


# --- the job run as a whole -------------------------------------------------------------------------------------------


def test_a_cancel_needs_no_lease_and_is_asked_once(ledger: Ledger) -> None:
    lease, _ = _open(ledger)
    ledger.control.ask_cancel(lease.run_id, NOW)
    ledger.control.ask_cancel(lease.run_id, NOW)
    assert ledger.run(lease.run_id).state is RunState.CANCELLING
    assert [event.kind for event in ledger.events(lease.run_id)] == ["opened", "cancel_asked"]


@pytest.mark.parametrize("state", [RunState.WRITING, RunState.FINISHED, RunState.CANCELLED])
def test_what_is_past_being_cancelled_is_not(ledger: Ledger, state: RunState) -> None:
    lease, _ = _open(ledger)
    ledger.record_run(lease, NOW, "x", state=state)
    ledger.control.ask_cancel(lease.run_id, NOW)
    assert ledger.run(lease.run_id).state is state


@pytest.mark.parametrize("state", [RunState.FINISHED, RunState.CANCELLED])
def test_what_is_over_can_be_written_again_elsewhere(ledger: Ledger, state: RunState) -> None:
    lease, _ = _open(ledger)
    ledger.record_run(lease, NOW, "x", state=state)
    ledger.control.write_again(lease.run_id, "elsewhere.parquet", NOW)
    run = ledger.run(lease.run_id)
    assert (run.state, run.sink, run.over) == (RunState.WRITING, "elsewhere.parquet", False)


def test_what_is_open_is_not_written_again(ledger: Ledger) -> None:
    lease, _ = _open(ledger)
    ledger.control.write_again(lease.run_id, "elsewhere.parquet", NOW)
    assert ledger.run(lease.run_id).state is RunState.OPEN


def test_open_job_runs_are_those_that_are_not_over(ledger: Ledger) -> None:
    first, _ = _open(ledger)
    second, _ = _open(ledger, partition="2026-11-20")
    ledger.record_run(second, NOW, "finished", state=RunState.FINISHED)
    assert [run.id for run in ledger.catalog.runs("default", open_only=True)] == [first.run_id]


def _waiting(ledger: Ledger) -> JobRun:
    """A job run that no worker holds, whose next look is due now."""
    lease, _ = _open(ledger, partition=nonce())
    ledger.leases.release(lease, NOW)
    return ledger.run(lease.run_id)


def _unchanged(run: JobRun) -> Unchanged:
    return Unchanged(
        run_id=run.id, epoch=run.lease_epoch, due_at=run.next_check_at, next_check_at=NOW + MINUTE, escalates_at=NOW + 9 * MINUTE,
        progress={}, confirmed={},
    )  # fmt: skip


def test_the_next_look_is_noted_only_where_nothing_has_happened_since(ledger: Ledger) -> None:
    """It needs no lease, so what another worker or a person did meanwhile must not be put off."""
    still, taken, cancelled, woken = (_waiting(ledger) for _ in range(4))
    seen = [_unchanged(run) for run in (still, taken, cancelled, woken)]
    lease = ledger.leases.claim(taken.id, "another", NOW)
    assert lease is not None
    ledger.leases.release(lease, NOW)
    ledger.control.ask_cancel(cancelled.id, NOW)
    with _engine(ledger.url).begin() as db:
        db.execute(sa.update(RUN).where(RUN.c.id == woken.id).values(next_check_at=NOW - MINUTE))
    ledger.progress.note_unchanged(seen)
    found = [ledger.run(run.id) for run in (still, taken, cancelled, woken)]
    assert [run.next_check_at for run in found] == [NOW + MINUTE, NOW, found[2].next_check_at, NOW - MINUTE]
    assert [run.escalates_at for run in found] == [NOW + 9 * MINUTE, None, None, None]
    assert found[2].next_check_at is not None
    assert found[2].next_check_at <= NOW


def test_a_look_that_was_never_due_is_noted_too(ledger: Ledger) -> None:
    run = _waiting(ledger)
    with _engine(ledger.url).begin() as db:
        db.execute(sa.update(RUN).where(RUN.c.id == run.id).values(next_check_at=None))
    ledger.progress.note_unchanged([structs.replace(_unchanged(ledger.run(run.id)), escalates_at=None)])
    assert (ledger.run(run.id).next_check_at, ledger.run(run.id).escalates_at) == (NOW + MINUTE, None)


def test_any_number_of_ids_is_asked_for_at_once(ledger: Ledger) -> None:
    """SQLite takes 32,766 parameters."""
    run = _waiting(ledger)
    ids = [*(f"{n:020}" for n in range(40_000)), run.id, 'it\'s 100 % "quoted" \\ é']
    assert ledger.catalog.by_ids(ids) == [run]
    assert ledger.catalog.due(ids, NOW) == [run.id]
    assert [shard.run_id for shard in ledger.catalog.open_shards_of(ids)[run.id]] == [run.id]
    assert ledger.catalog.by_ids([]) == []


def test_releasing_notes_the_problem_the_next_look_and_when_it_moves_on(ledger: Ledger) -> None:
    lease, _ = _open(ledger)
    ledger.leases.release(lease, NOW + MINUTE, {"kind": "AccessRefused", "message": "no"}, escalates_at=NOW + 5 * MINUTE)
    run = ledger.run(lease.run_id)
    assert (run.next_check_at, run.escalates_at) == (NOW + MINUTE, NOW + 5 * MINUTE)
    assert run.problem == {"kind": "AccessRefused", "message": "no"}


def test_the_sink_of_another_partition_is_found(ledger: Ledger) -> None:
    _open(ledger, sink="all.parquet")
    assert ledger.catalog.partition_at("default", "labels", "all.parquet", "2026-11-20") == "2026-11-19"
    assert ledger.catalog.partition_at("default", "labels", "all.parquet", "2026-11-19") is None


# --- exact values, in both databases ----------------------------------------------------------------------------------

MONEY = st.decimals(min_value=0, max_value=9_000_000, places=12)
INSTANTS = st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(9000, 1, 1), timezones=st.just(UTC))


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(usd=MONEY, instant=INSTANTS)
def test_money_and_instants_come_back_to_the_last_digit(ledger: Ledger, usd: Decimal, instant: datetime) -> None:
    """No float in between, on either database."""
    lease, _ = _open(ledger, partition=nonce(), ceiling_usd=usd, deadline_at=instant)
    run = ledger.run(lease.run_id)
    assert (run.ceiling_usd, run.deadline_at) == (usd, instant)


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(costs=st.lists(st.decimals(min_value=0, max_value=1, places=12), min_size=1, max_size=4))
def test_what_is_spent_is_the_exact_sum(ledger: Ledger, costs: list[Decimal]) -> None:
    lease, shards = _open(ledger, shards=len(costs), partition=nonce())
    for shard, cost in zip(shards, costs, strict=True):
        _pass(ledger, lease, shard, [*ENDED, Event.COLLECTED], cost_usd=cost, standard_usd=2 * cost)
    run = ledger.run(lease.run_id)
    assert (run.spent_usd, run.standard_usd, run.reserved_usd) == (sum(costs), 2 * sum(costs), 0)


# --- a Postgres as others run it ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", ["", "&prepare_threshold=0", "&prepare_threshold=3"])
def test_no_statement_is_prepared_since_a_pooler_lends_one_connection_to_many_clients(postgres: Callable[[], str], options: str) -> None:
    """Behind PgBouncer's transaction pooling: `prepared statement "_pg3_17" already exists`, or does not exist (psycopg/psycopg#1151)."""
    opened = Ledger(postgres() + options)
    for _ in range(10):
        opened.check_writable()
    with opened._db.read() as db:
        assert db.execute(sa.text("SELECT statement FROM pg_prepared_statements")).all() == []
    opened.close()


def test_a_database_that_is_serializable_by_default_refuses_no_worker(postgres: Callable[[], str]) -> None:
    """`could not serialize access due to read/write dependencies among transactions` ended one of two workers."""
    url = postgres()
    with _engine(url).connect().execution_options(isolation_level="AUTOCOMMIT") as db:
        db.execute(sa.text(f"ALTER DATABASE {sa.make_url(url).database} SET default_transaction_isolation = 'serializable'"))
    workers = [Ledger(url) for _ in range(2)]
    for ledger in workers:
        with ledger._db.write() as writing, ledger._db.read() as reading:
            assert {db.execute(sa.text("SHOW transaction_isolation")).scalar_one() for db in (writing, reading)} == {"read committed"}
        ledger.close()


# --- a ledger that does not open --------------------------------------------------------------------------------------

SECRET_URLS = [
    "postgresql://keld:hunter2@127.0.0.1:1/db",
    "postgresql://keld:hun@ter2@127.0.0.1:1/db",
    "postgresql://keld:hun/ter2@127.0.0.1:1/db",
    "postgresql://keld:hunter2@127.0.0.1:1/db?sslmode=nonsense",
    "postgresql://127.0.0.1:1/db?user=keld&password=hunter2",
    "postgresql://hunter2@127.0.0.1:1/db",
    "host=127.0.0.1 port=1 password=hunter2",
    "mysql://keld:hunter2@127.0.0.1/db",
]


@pytest.mark.parametrize("url", SECRET_URLS)
def test_a_ledger_that_does_not_open_never_shows_its_password(url: str) -> None:
    with pytest.raises(LedgerError) as caught:
        Ledger(url)
    assert not any(part in str(caught.value) for part in ("hunter2", "hun", "ter2"))
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("/var/keld/ledger.db", "sqlite:///PATH"),
        ("postgresql://keld@db-1:5432,db-2:5432/keld?target_session_attrs=read-write", "?host=db-1:5432&host=db-2:5432"),
        ("postgres://keld@db-1/keld", "postgresql://"),
    ],
)
def test_a_ledger_whose_url_cannot_be_read_says_how_it_is_written(url: str, said: str) -> None:
    """It was `cannot be opened: ArgumentError`, or `ValueError`; several hosts are as libpq writes them."""
    with pytest.raises(LedgerError) as caught:
        Ledger(url)
    assert said in str(caught.value)
    assert "Error" not in str(caught.value)


def test_a_ledger_where_no_directory_can_be_is_said_to_be_unwritable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LedgerError, match="cannot be opened"):
        Ledger(f"sqlite:///{tmp_path}/file/ledger.db")


def test_a_ledger_that_is_broken_says_what_to_do_and_claims_nothing(tmp_path: Path) -> None:
    """Cut off in the middle, another file in its place, a table gone: what it held may be lost."""
    path = tmp_path / "ledger.db"
    whole = Ledger(f"sqlite:///{path}")
    _open(whole)
    whole.close()
    content = path.read_bytes()
    for broken in (
        content[: len(content) // 2],
        b"no database, but long enough to be read as one" * 99,
        content[:100] + b"\xff" * (len(content) - 100),
    ):
        path.write_bytes(broken)
        for beside in tmp_path.glob("ledger.db-*"):
            beside.unlink()
        with pytest.raises(LedgerError, match=r"(is damaged|is incomplete).*from-staging") as caught:
            ledger = Ledger(f"sqlite:///{path}")
            ledger.catalog.runs("default")
        assert "stands" not in str(caught.value)


def test_a_ledger_of_another_version_is_left_alone(ledger_url: str) -> None:
    Ledger(ledger_url).close()
    engine = _engine(ledger_url)
    with engine.begin() as db:
        db.execute(sa.text("UPDATE keld_version SET version = 99"))
    engine.dispose()
    with pytest.raises(LedgerError, match="version 99"):
        Ledger(ledger_url)


def test_what_was_written_is_there_for_the_next_process(ledger_url: str) -> None:
    ledger = Ledger(ledger_url)
    lease, [shard] = _open(ledger)
    _pass(ledger, lease, shard, SENT)
    ledger.close()
    again = Ledger(ledger_url)
    assert [found.state for found in again.shards(lease.run_id)] == [State.SUBMITTING]
    again.close()


# --- what people see --------------------------------------------------------------------------------------------------


def test_a_shard_shows_its_state_and_count() -> None:
    shard = structs.replace(_shard("r" * 20, 3), state=State.IN_PROGRESS, batch_id="batch_abc", requests=50_000, done=41_200)
    assert repr(shard) == "<Shard 3 openai in_progress batch_abc 41,200/50,000>"


def test_nonces_are_ten_of_a_to_z_and_digits() -> None:
    made = {nonce() for _ in range(1_000)}
    assert len(made) == 1_000
    assert all(len(one) == 10 and one.isascii() and one.isalnum() and one.lower() == one for one in made)
