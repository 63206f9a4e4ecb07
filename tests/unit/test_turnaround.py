"""How long a lane takes: priors first, then what was seen."""

from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keld.price import Lane
from keld.turnaround import turnaround

SECONDS = st.lists(st.floats(0, 90_000), max_size=30)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(("q", "span"), [(0.0, timedelta(minutes=1)), (0.5, HOUR), (0.9, 8 * HOUR), (0.99, 24 * HOUR), (1.0, 24 * HOUR)])
def test_before_anything_was_seen_the_prior_speaks(q: float, span: timedelta) -> None:
    assert turnaround(Lane.BATCH).quantile(q) == span


@given(lane=st.sampled_from(Lane), seconds=SECONDS)
def test_a_larger_share_never_takes_less_time(lane: Lane, seconds: list[float]) -> None:
    found = [turnaround(lane, seconds).quantile(q / 20) for q in range(21)]
    assert all(before <= after for before, after in pairwise(found))


@given(seconds=st.lists(st.floats(0, 90_000), min_size=1), order=st.randoms())
def test_the_order_of_what_was_seen_does_not_matter(seconds: list[float], order: object) -> None:
    shuffled = list(seconds)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    assert turnaround(Lane.BATCH, shuffled) == turnaround(Lane.BATCH, seconds)


def test_what_was_seen_often_outweighs_the_prior() -> None:
    assert abs(turnaround(Lane.BATCH, [100.0] * 10_000).quantile(0.5) - timedelta(seconds=100)) < timedelta(seconds=5)


def test_a_single_batch_only_draws_the_prior_a_little() -> None:
    assert timedelta(minutes=45) < turnaround(Lane.BATCH, [60.0]).quantile(0.5) < HOUR


@pytest.mark.parametrize(
    ("span", "chance"), [(timedelta(0), 0.0), (-HOUR, 0.0), (HOUR, 0.5), (8 * HOUR, 0.9), (24 * HOUR, 1.0), (99 * HOUR, 1.0)]
)
def test_the_chance_of_being_back_in_time(span: timedelta, chance: float) -> None:
    assert turnaround(Lane.BATCH).chance(span) == chance


@given(lane=st.sampled_from(Lane), seconds=SECONDS, running=SECONDS, q=st.floats(0, 1))
def test_the_chance_is_the_inverse_of_the_quantile(lane: Lane, seconds: list[float], running: list[float], q: float) -> None:
    """What is back by the time in which a share comes back is at least that share, as far as anything comes back at all."""
    found = turnaround(lane, seconds, running)
    most = found.chance(timedelta(days=10_000))
    assert found.chance(found.quantile(q) + timedelta(seconds=1)) >= min(q, most) - 0.011


def test_what_runs_on_makes_the_rest_look_slower() -> None:
    """A provider that stalls shows in what has not come back, long before anything does."""
    quick = turnaround(Lane.BATCH, [600.0] * 50)
    stalled = turnaround(Lane.BATCH, [600.0] * 50, [4 * 3_600.0] * 50)
    assert quick.chance(HOUR) > 0.9
    assert stalled.chance(HOUR) < 0.6


def test_what_has_only_just_begun_says_nothing() -> None:
    seen = [float(600 + n) for n in range(50)]
    assert turnaround(Lane.BATCH, seen, [1.0] * 50).quantile(0.5) == turnaround(Lane.BATCH, seen).quantile(0.5)


def test_without_anything_running_it_is_the_plain_share() -> None:
    """Of a thousand that ended, the prior's five hardly count."""
    seen = [float(n) for n in range(1, 1_001)]
    assert abs(turnaround(Lane.BATCH, seen).chance(timedelta(seconds=250)) - 0.25) < 0.01


@given(seconds=SECONDS, age_s=st.floats(0, 200_000), q=st.floats(0, 1))
def test_a_batch_that_still_runs_is_not_expected_to_have_ended_earlier(seconds: list[float], age_s: float, q: float) -> None:
    age = timedelta(seconds=age_s)
    assert turnaround(Lane.BATCH, seconds).total(age, q) >= age


def test_the_longer_a_batch_runs_the_later_it_is_expected() -> None:
    """At its start half of all batches end within the hour; of those that ran eight hours, half take much longer than that."""
    prior = turnaround(Lane.BATCH)
    assert prior.total(timedelta(0), 0.5) == HOUR
    assert 8 * HOUR < prior.total(8 * HOUR, 0.5) < 24 * HOUR
