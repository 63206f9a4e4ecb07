"""The throttle: it grows while answers come, halves at a rejection, and slows down before the limit that a reply reports."""

from typing import Any

import pytest

from keld.providers.base import Quota
from keld.realtime.throttle import Throttle


def begun(throttle: Throttle, count: int, now: float = 0.0) -> list[int]:
    return [throttle.begin(now, 100) for _ in range(count)]


def quotas(left: float, *, limit: float = 60, reset_s: float = 30, kind: str = "requests") -> dict[str, Quota]:
    return {kind: Quota(limit=limit, left=left, reset_s=reset_s)}


def told(throttle: Throttle, left: dict[str, Quota], now: float = 0.0) -> None:
    """The limits come with the reply to a request that is the only one in flight."""
    number = throttle.begin(now, 0)
    throttle.on_quotas(number, left, now)
    throttle.on_success(number, now, 1, 1)


def test_no_more_at_once_than_at_the_beginning() -> None:
    throttle = Throttle(8, 256)
    assert throttle.wait(0, 7, 100) == 0
    assert throttle.wait(0, 8, 100) is None


def test_it_grows_by_a_quarter_a_round_to_its_most() -> None:
    throttle = Throttle(8, 12)
    for _ in range(8):
        throttle.on_success(1, 0.0, 1, 7)
    assert int(throttle.at_once) == 10
    for _ in range(100):
        throttle.on_success(1, 0.0, 1, 9)
    assert throttle.at_once == 12


def test_it_does_not_grow_where_something_else_holds_it() -> None:
    """Else a slow beginning would end in a burst."""
    throttle = Throttle(8, 256)
    for _ in range(100):
        throttle.on_success(1, 0.0, 1, 1)
    assert throttle.at_once == 8


def test_those_that_met_the_same_wall_halve_it_once() -> None:
    throttle = Throttle(16, 256)
    for number in begun(throttle, 16):
        throttle.on_rejected(number, 0, 5)
    assert throttle.at_once == 8
    (later,) = begun(throttle, 1)
    throttle.on_rejected(later, 0, 5)
    assert throttle.at_once == 4


def test_after_a_no_it_grows_by_one_a_round() -> None:
    throttle = Throttle(16, 256)
    throttle.on_rejected(begun(throttle, 1)[0], 0, 1)
    for _ in range(8):
        throttle.on_success(1, 0.0, 1, 7)
    assert throttle.at_once == pytest.approx(9, abs=0.1)


def test_the_time_the_provider_names_is_waited_for() -> None:
    throttle = Throttle(8, 256)
    throttle.on_rejected(begun(throttle, 1)[0], 100, 30)
    assert throttle.wait(100, 0, 100) == 30
    assert throttle.wait(130, 0, 100) == 0


def test_without_one_the_waits_double_to_a_minute() -> None:
    throttle, now, waits = Throttle(8, 256), 0.0, []
    for _ in range(9):
        throttle.on_rejected(begun(throttle, 1)[0], now, None)
        waits.append(throttle.wait(now, 0, 100) or 0)
        now += waits[-1]
    assert 1 <= waits[0] <= 1.25
    assert all(60 <= wait <= 75 for wait in waits[-2:])
    assert throttle.at_once == 1


def test_who_names_a_wait_that_is_too_short_again_and_again_is_not_believed() -> None:
    throttle, now, waits = Throttle(8, 256), 0.0, []
    for _ in range(9):
        throttle.on_rejected(begun(throttle, 1)[0], now, 1)
        waits.append(throttle.wait(now, 0, 100) or 0)
        now += waits[-1]
    assert waits[0] == 1
    assert all(60 <= wait <= 75 for wait in waits[-2:])


def test_it_slows_down_before_the_wall() -> None:
    """3 left, refilled 1 a second: three now, and then one a second."""
    throttle = Throttle(100, 256)
    told(throttle, quotas(3, reset_s=57))
    begun(throttle, 3)
    assert throttle.wait(0, 3, 100) == pytest.approx(1)
    assert throttle.wait(1.01, 3, 100) == 0


def test_what_is_in_flight_is_taken_off_what_is_left() -> None:
    """Nobody knows whether the provider has counted it yet."""
    throttle = Throttle(100, 256)
    first, *_ = begun(throttle, 4)
    throttle.on_quotas(first, quotas(3, reset_s=57), 0)
    assert throttle.wait(0, 3, 100) == pytest.approx(1)


def test_a_reply_that_is_read_late_gives_back_nothing() -> None:
    """Of two that were counted one after the other, the first to be counted comes second: it does not know of the other."""
    throttle = Throttle(100, 256)
    first, second = begun(throttle, 2)
    throttle.on_quotas(second, quotas(1, reset_s=59), 0)
    throttle.on_success(second, 0, 1, 2)
    throttle.on_quotas(first, quotas(2, reset_s=58), 0)
    throttle.on_success(first, 0, 1, 1)
    assert throttle.wait(0, 0, 100) == 0
    begun(throttle, 1)
    assert throttle.wait(0, 1, 100) == pytest.approx(1)


def test_a_report_of_more_than_was_thought_is_believed_when_nothing_else_was_in_flight() -> None:
    throttle = Throttle(100, 256)
    told(throttle, quotas(0, reset_s=60))
    assert throttle.wait(0, 0, 100) == pytest.approx(1)
    told(throttle, quotas(5, reset_s=55))
    assert throttle.wait(0, 0, 100) == 0


def test_tokens_are_paced_as_requests_are() -> None:
    throttle = Throttle(100, 256)
    told(throttle, quotas(100, limit=6_000, reset_s=59, kind="tokens"))
    assert throttle.wait(0, 0, 100) == 0
    assert throttle.wait(0, 0, 200) == pytest.approx(1)


def test_a_request_larger_than_the_limit_waits_for_all_of_it() -> None:
    """It can only be tried; for ever would be too long."""
    throttle = Throttle(100, 256)
    told(throttle, quotas(0, limit=6_000, reset_s=60, kind="tokens"))
    assert throttle.wait(0, 0, 1_000_000) == pytest.approx(60)


@pytest.mark.parametrize("quota", [quotas(60, reset_s=0), quotas(60, reset_s=30), quotas(59, reset_s=0)], ids=str)
def test_a_full_limit_holds_nobody(quota: dict[str, Any]) -> None:
    throttle = Throttle(100, 256)
    told(throttle, quota)
    assert throttle.wait(0, 0, 100) == 0
