"""The picture of a job run: what it says of itself, and what it leaves out."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from msgspec import structs
from rich.console import Console

from keld.job import RunTerms
from keld.ledger import JobRun, Shard
from keld.state import RunState, State
from keld.status import Status, status_of
from keld.view import status_view

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
RUN = JobRun(
    id="r" * 32, namespace="default", job="labels", partition="2026-11-19", generation=1, state=RunState.OPEN, fingerprint="f", input_digest="d",
    rows=20, reused=0, unaskable=0, terms=RunTerms(models=("openai:m",)), tags={"team": "support"}, plan={"model": "openai:m", "lane": "batch", "expected_usd": "0.10"},
    ceiling_usd=Decimal(1), reserved_usd=Decimal(0), spent_usd=Decimal("0.25"), standard_usd=Decimal("0.5"), answered=0, failed=0, quarantined=0,
    round=0, deadline_at=None, deadline_basis="none", sink=None, output=None, outcomes=None, problem=None, created_at=NOW, finished_at=None,
    removed_at=None, next_check_at=None, escalates_at=None, lease_owner=None, lease_epoch=0, lease_until=None,
)  # fmt: skip
SHARD = Shard(
    id="abcdefghij", run_id=RUN.id, ordinal=0, round=0, state=State.PLANNED, provider="openai", host="h", model="m", lane="batch", requests=10,
    size_bytes=1, worst_usd=Decimal(1), expected_usd=Decimal(1),
)  # fmt: skip


def _status(*states: State, **run: Any) -> Status:
    return status_of(
        structs.replace(RUN, **run),
        [structs.replace(SHARD, ordinal=n, state=state, not_before=NOW + HOUR) for n, state in enumerate(states)],
        NOW,
    )


@pytest.mark.parametrize(("state", "over"), [(state, state in (RunState.FINISHED, RunState.CANCELLED)) for state in RunState])
def test_when_nothing_is_left_to_do(state: RunState, over: bool) -> None:
    assert _status(state=state).over is over


BUSY = [State.PLANNED, State.STAGED, State.SUBMITTING]
AWAY = [State.IN_PROGRESS, State.CANCELLING, State.UNKNOWN, State.DEFERRED, State.ENDED]  # the last: results that could not be read yet
DONE = [State.COLLECTED, State.REJECTED, State.QUARANTINED, State.DROPPED]


def test_every_state_is_busy_away_or_done() -> None:
    assert set(BUSY) | set(AWAY) | set(DONE) == set(State)


@pytest.mark.parametrize("away", AWAY)
@pytest.mark.parametrize("other", State)
def test_there_is_only_waiting_to_do_when_something_is_away_and_nothing_busy(away: State, other: State) -> None:
    status = _status(away, other)
    assert (status.waiting, status.ready) == (other not in BUSY, other in BUSY)


@pytest.mark.parametrize("state", [State.UNKNOWN, State.DEFERRED])
def test_a_shard_that_was_put_off_is_work_to_do_once_its_time_has_come(state: State) -> None:
    """Else nobody would look for a lost create, or send again what the provider's queue had no room for."""
    shard = structs.replace(SHARD, state=state, not_before=NOW + HOUR)
    assert status_of(RUN, [shard], NOW).waiting
    assert status_of(RUN, [shard], NOW + HOUR).ready


@pytest.mark.parametrize("done", DONE)
def test_when_every_shard_is_done_there_is_work_to_do(done: State) -> None:
    """A next round, or the output."""
    assert _status(done, done).ready


@pytest.mark.parametrize("state", [RunState.FINISHED, RunState.CANCELLED])
def test_what_is_over_neither_waits_nor_is_ready(state: RunState) -> None:
    status = _status(State.COLLECTED, state=state)
    assert (status.waiting, status.ready) == (False, False)


MAY_BE_SENT = [State.SUBMITTING, State.UNKNOWN, State.QUARANTINED]


@pytest.mark.parametrize(("state", "sent"), [(state, state in MAY_BE_SENT) for state in State])
def test_whether_something_may_have_been_sent(state: State, sent: bool) -> None:
    assert _status(state).sent is sent


def test_a_shard_with_a_batch_was_sent() -> None:
    assert status_of(RUN, [structs.replace(SHARD, state=State.DEFERRED, batch_id="batch_1")], NOW).sent


@pytest.mark.parametrize(
    ("deadline", "finished", "met"),
    [(None, NOW, None), (NOW, None, None), (NOW, NOW, True), (NOW, NOW - HOUR, True), (NOW, NOW + timedelta(microseconds=1), False)],
)
def test_whether_the_deadline_was_met(deadline: datetime | None, finished: datetime | None, met: bool | None) -> None:
    assert _status(deadline_at=deadline, finished_at=finished).deadline_met is met


def test_a_turnaround_is_from_the_first_submission_to_the_last_end() -> None:
    first = structs.replace(SHARD, submitted_at=NOW, ended_at=NOW + HOUR)
    second = structs.replace(SHARD, submitted_at=NOW + HOUR, ended_at=NOW + 3 * HOUR)
    assert status_of(RUN, [first, second], NOW).turnaround_s == 3 * 3600


def test_before_anything_ended_there_is_no_turnaround() -> None:
    assert status_of(RUN, [structs.replace(SHARD, submitted_at=NOW)], NOW).turnaround_s is None


def test_what_was_saved_is_the_standard_price_less_what_was_paid() -> None:
    assert _status().saved_usd == Decimal("0.25")


def test_requests_are_those_of_the_first_round() -> None:
    """A retry asks the same rows again."""
    assert status_of(RUN, [SHARD, structs.replace(SHARD, round=1, requests=3)], NOW).requests == 10


def test_tokens_and_outcomes_are_summed_over_the_shards() -> None:
    shards = [structs.replace(SHARD, input_tokens=5, cached_tokens=1, output_tokens=2, outcomes={"answered": 9, "lost": 1})] * 2
    status = status_of(RUN, shards, NOW)
    assert (status.input_tokens, status.cached_tokens, status.output_tokens) == (10, 2, 4)
    assert status.outcomes == {"answered": 18, "lost": 2}


def test_the_final_outcomes_are_the_job_runs_own() -> None:
    """A row that was asked twice ended once."""
    assert status_of(structs.replace(RUN, outcomes={"answered": 20}), [structs.replace(SHARD, outcomes={"lost": 10})], NOW).outcomes == {
        "answered": 20
    }


def test_a_problem_is_told_with_its_kind() -> None:
    status = _status(problem={"kind": "AccessRefused", "message": "no key", "at": "now"})
    assert (status.problem_kind, status.problem) == ("AccessRefused", "no key")


def test_as_json_money_is_decimal_text_and_instants_are_iso() -> None:
    made = _status(State.IN_PROGRESS, deadline_at=NOW).to_json()
    assert json.loads(json.dumps(made)) == made
    assert (made["cost_usd"], made["deadline_at"], made["state"]) == ("0.25", "2026-11-20T12:00:00+00:00", "open")
    assert (made["batches"][0]["state"], made["saved_usd"], made["over"]) == ("in_progress", "0.25", False)


def test_a_tiny_cost_is_not_written_with_an_exponent() -> None:
    assert _status(spent_usd=Decimal("0.000000000001")).to_json()["cost_usd"] == "0.000000000001"


def test_it_shows_its_state_and_progress() -> None:
    assert repr(_status(answered=12)) == "<Status labels[2026-11-19] open 12/20 answered $0.2500>"


@pytest.mark.parametrize(
    ("state", "due", "unseen"),
    [
        (State.IN_PROGRESS, NOW - HOUR, True),
        (State.IN_PROGRESS, NOW + HOUR, False),
        (State.ENDED, NOW - HOUR, False),
        (State.IN_PROGRESS, None, False),
    ],
)
def test_a_batch_that_nobody_looks_at_any_more_is_told_with_what_to_do(state: State, due: datetime | None, unseen: bool) -> None:
    """The task that waited for it was killed while nobody could hear of it."""
    status = _status(state, next_check_at=due)
    assert status.unseen_since == (due if unseen else None)
    console = Console(width=400)
    with console.capture() as told:
        console.print(status_view(status))
    assert ("nobody has looked since" in told.get()) is ("`keld cancel`" in told.get()) is unseen
