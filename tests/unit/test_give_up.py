"""The last instant: every state has one, or needs nobody's word."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from keld import Settings
from keld.ledger import Shard
from keld.runner.give_up import give_up_time_of
from keld.state import TERMINAL, TRANSITIONS, Event, State

NOW = datetime(2026, 11, 29, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
OPEN = sorted(set(State) - TERMINAL)


def shard(state: State, lane: str = "batch") -> Shard:
    return Shard(
        id="a" * 10, run_id="r", ordinal=0, round=0, state=state, provider="openai", host="h", model="m", lane=lane, requests=1, size_bytes=1,
        worst_usd=Decimal(1), expected_usd=Decimal(1), cache_ttl=None,
    )  # fmt: skip


@pytest.mark.parametrize("state", State)
def test_every_state_is_over_or_has_a_last_instant(state: State) -> None:
    """What has none can be open for ever: a dead provider, or one that lies, is enough."""
    last = give_up_time_of(shard(state), None, NOW, DAY, Settings())
    assert (last is None) == (state in TERMINAL)
    assert last is None or last == NOW + 2 * DAY


@pytest.mark.parametrize("state", OPEN)
def test_from_every_open_state_a_shard_can_be_given_up(state: State) -> None:
    """What may have been paid is quarantined; only what never was sent is dropped."""
    unsent = state in (State.PLANNED, State.STAGED, State.DEFERRED)
    assert TRANSITIONS[state, Event.DROPPED if unsent else Event.LOST_TRACK] is (State.DROPPED if unsent else State.QUARANTINED)


@pytest.mark.parametrize("state", OPEN)
def test_a_later_deadline_is_waited_for_and_a_cancel_is_not(state: State) -> None:
    settings = Settings(last_word_after=5 * HOUR, cancel_within=HOUR)
    assert give_up_time_of(shard(state), NOW + 9 * DAY, NOW, DAY, settings) == NOW + 9 * DAY + 5 * HOUR
    assert give_up_time_of(shard(state), NOW + 9 * DAY, NOW, DAY, settings, cancelled_at=NOW) == NOW + HOUR
    assert give_up_time_of(shard(state), None, NOW, None, settings) == NOW + DAY + 5 * HOUR


def test_what_the_fast_lanes_answered_waits_for_nobody() -> None:
    """It is in our own journal: a fault there is for a person to mend, and gives nothing up."""
    assert give_up_time_of(shard(State.ENDED, "standard"), None, NOW, DAY, Settings()) is None
    assert give_up_time_of(shard(State.IN_PROGRESS, "standard"), None, NOW, DAY, Settings()) is not None
