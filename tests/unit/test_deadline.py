"""When rows must move on: as late as is safe, and earlier where others share the way."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keld.deadline import escalation_time, flex_escalation_time, release_time, standard_escalation_time
from keld.price import Lane
from keld.speed import Speed, measured
from keld.turnaround import turnaround

DUE = datetime(2026, 11, 20, 12, tzinfo=UTC)
SPEED = Speed(rows_per_s=10, flex_rows_per_s=5)


@given(few=st.integers(0, 10**5), more=st.integers(0, 10**5))
def test_the_fewer_rows_are_left_the_longer_they_may_wait(few: int, more: int) -> None:
    assert standard_escalation_time(DUE, few, SPEED) >= standard_escalation_time(DUE, few + more, SPEED)


def test_a_rescue_has_time_for_the_cancel_the_rows_and_the_collecting() -> None:
    assert DUE - standard_escalation_time(DUE, 6_000, SPEED) > SPEED.cancel_time + timedelta(minutes=10) + SPEED.finish_time


def test_a_stretch_stops_at_once_where_a_batch_has_to_be_awaited() -> None:
    assert standard_escalation_time(DUE, 100, SPEED, batch=False) == standard_escalation_time(DUE, 100, SPEED) + SPEED.cancel_time


def test_rows_of_others_count_up_to_ones_own_number() -> None:
    """Stretches that run together get the same share each: beside a giant a dwarf is served at half the speed, not after it."""
    giant = Speed(rows_per_s=10, others=(10**6,))
    assert giant.standard_time(600) - SPEED.standard_time(600) == timedelta(seconds=60) * SPEED.safety


def test_flex_is_gone_to_earlier_than_standard_and_by_the_most_roomy_account() -> None:
    crowded = Speed(rows_per_s=1)
    assert escalation_time(DUE, 6_000, [crowded, SPEED]) == standard_escalation_time(DUE, 6_000, SPEED)
    assert (
        escalation_time(DUE, 6_000, [crowded, SPEED], flex=SPEED)
        == flex_escalation_time(DUE, 6_000, SPEED)
        < standard_escalation_time(DUE, 6_000, SPEED)
    )


@pytest.mark.parametrize(("minutes", "least", "most"), [(60, 1.0, 1.0), (20, 0.3, 0.9)])
def test_flex_answers_what_it_can_before_standard_must_take_over(minutes: int, least: float, most: float) -> None:
    part = SPEED.flex_share(6_000, timedelta(minutes=minutes), SPEED)
    assert part is not None
    assert least <= part <= most


def test_where_not_even_standard_has_the_time_flex_is_no_choice() -> None:
    assert SPEED.flex_share(6_000, timedelta(minutes=10), SPEED) is None


def test_the_speed_of_an_account_is_that_of_all_its_stretches_together() -> None:
    """Each of two that ran side by side saw half of it."""
    assert measured([(1_000, 0.0, 100.0), (1_000, 0.0, 100.0)]) == pytest.approx(20)
    assert measured([(1_000, 0.0, 100.0), (1_000, 100.0, 200.0)]) == pytest.approx(10)
    assert measured([]) is None


def test_rows_behind_one_that_hangs_follow_while_their_own_batch_still_ends_in_time_but_not_before_the_middle() -> None:
    """By the prior 9 of 10 batches end within 8 hours."""
    behind = turnaround(Lane.BATCH)
    assert release_time(DUE, DUE - timedelta(hours=20), behind, 0.9) == DUE - timedelta(hours=8)
    assert release_time(DUE, DUE - timedelta(hours=10), behind, 0.9) == DUE - timedelta(hours=5)
