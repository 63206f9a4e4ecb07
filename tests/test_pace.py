"""The pace: it grows while answers come, halves at a no, and slows down before the wall it is told of."""

from typing import Any

import pytest

from keld.pace import Pace
from keld.providers.base import Quota


def begun(pace: Pace, count: int, now: float = 0.0) -> list[int]:
    return [pace.begin(now, 100) for _ in range(count)]


def told(left: float, *, limit: float = 60, reset_s: float = 30, kind: str = "requests") -> dict[str, Quota]:
    return {kind: Quota(limit=limit, left=left, reset_s=reset_s)}


def test_no_more_at_once_than_at_the_beginning() -> None:
    pace = Pace(8, 256)
    assert pace.wait(0, 7, 100) == 0
    assert pace.wait(0, 8, 100) is None


def test_it_grows_by_a_quarter_a_round_to_its_most() -> None:
    pace = Pace(8, 12)
    for _ in range(8):
        pace.yes(7)
    assert int(pace.at_once) == 10
    for _ in range(100):
        pace.yes(9)
    assert pace.at_once == 12


def test_it_does_not_grow_where_something_else_holds_it() -> None:
    """Else a slow beginning would end in a burst."""
    pace = Pace(8, 256)
    for _ in range(100):
        pace.yes(1)
    assert pace.at_once == 8


def test_those_that_met_the_same_wall_halve_it_once() -> None:
    pace = Pace(16, 256)
    for number in begun(pace, 16):
        pace.no(number, 0, 5)
    assert pace.at_once == 8
    (later,) = begun(pace, 1)
    pace.no(later, 0, 5)
    assert pace.at_once == 4


def test_after_a_no_it_grows_by_one_a_round() -> None:
    pace = Pace(16, 256)
    pace.no(begun(pace, 1)[0], 0, 1)
    for _ in range(8):
        pace.yes(7)
    assert pace.at_once == pytest.approx(9, abs=0.1)


def test_the_time_the_provider_names_is_waited_for() -> None:
    pace = Pace(8, 256)
    pace.no(begun(pace, 1)[0], 100, 30)
    assert pace.wait(100, 0, 100) == 30
    assert pace.wait(130, 0, 100) == 0


def test_without_one_the_waits_double_to_a_minute() -> None:
    pace, now, waits = Pace(8, 256), 0.0, []
    for _ in range(9):
        pace.no(begun(pace, 1)[0], now, None)
        waits.append(pace.wait(now, 0, 100) or 0)
        now += waits[-1]
    assert 1 <= waits[0] <= 1.25
    assert all(60 <= wait <= 75 for wait in waits[-2:])
    assert pace.at_once == 1


def test_it_slows_down_before_the_wall() -> None:
    """3 left, refilled 1 a second: three now, and then one a second."""
    pace = Pace(100, 256)
    pace.told(told(3, reset_s=57), 0, 0, 0)
    begun(pace, 3)
    assert pace.wait(0, 3, 100) == pytest.approx(1)
    assert pace.wait(1.01, 3, 100) == 0


def test_what_is_in_flight_is_taken_off_what_is_left() -> None:
    """Nobody knows whether the provider has counted it yet."""
    pace = Pace(100, 256)
    pace.told(told(3, reset_s=57), 0, 3, 300)
    assert pace.wait(0, 3, 100) == pytest.approx(1)


def test_tokens_are_paced_as_requests_are() -> None:
    pace = Pace(100, 256)
    pace.told(told(100, limit=6_000, reset_s=59, kind="tokens"), 0, 0, 0)
    assert pace.wait(0, 0, 100) == 0
    assert pace.wait(0, 0, 200) == pytest.approx(1)


def test_a_request_larger_than_the_limit_waits_for_all_of_it() -> None:
    """It can only be tried; for ever would be too long."""
    pace = Pace(100, 256)
    pace.told(told(0, limit=6_000, reset_s=60, kind="tokens"), 0, 0, 0)
    assert pace.wait(0, 0, 1_000_000) == pytest.approx(60)


@pytest.mark.parametrize("quota", [told(60, reset_s=0), told(60, reset_s=30), told(59, reset_s=0)], ids=str)
def test_a_full_limit_holds_nobody(quota: dict[str, Any]) -> None:
    pace = Pace(100, 256)
    pace.told(quota, 0, 0, 0)
    assert pace.wait(0, 0, 100) == 0
