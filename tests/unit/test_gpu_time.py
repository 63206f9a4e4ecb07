"""The price of a host's time: each busy instant is paid once, the parts add up, and the worst case is never more than what may be spent."""

from datetime import timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from keld.gpu_time import LEAST, GpuTime, Share, Split, share, usd_of

HOUR = Decimal("2.49")
spans = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), min_size=1, max_size=6)


@given(spans, st.randoms(use_true_random=False))
def test_each_busy_instant_is_paid_once_in_whatever_order_the_runs_end(drawn: list[tuple[int, int]], draw: object) -> None:
    """Two jobs side by side share one machine's clock; neither pays for what the other has paid."""
    runs = sorted(((float(begun), float(begun + length)) for begun, length in drawn), key=lambda run: run[1])
    paid: list[Share] = []
    for n, (begun, ended) in enumerate(runs):
        beside = [(other, float("inf")) for other, _ in runs[n + 1 :] if other < ended]
        paid += share(begun, ended, paid, beside)
    busy = sum(any(begun <= at + 0.5 < ended for begun, ended in runs) for at in range(100))
    assert abs(sum((until - since) * part for since, until, part in paid) - busy) < 1e-6


def test_two_runs_at_the_same_time_pay_half_each() -> None:
    first = share(0, 10, [], [(0, float("inf"))])
    assert sum((until - since) * part for since, until, part in first) == 5
    second = share(0, 10, first, [])
    assert sum((until - since) * part for since, until, part in second) == 5


@given(st.integers(0, 10**12), st.lists(st.integers(0, 10**6), min_size=1, max_size=50))
def test_the_parts_of_a_cost_add_up_to_it(pico: int, weights: list[int]) -> None:
    usd = Decimal(pico) / 10**12
    split = Split(usd, sum(weights))
    parts = [*split.take(weights[:3]), *split.take(weights[3:])]
    assert sum(parts) == (pico if sum(weights) else 0)
    assert min(parts) >= 0


def test_before_the_first_run_the_cost_is_at_most_the_time_until_the_latest_end() -> None:
    time = GpuTime(usd_an_hour=HOUR, rows_per_s=None, until=timedelta(hours=4))
    assert time.worst_usd(1_000) == time.expected_usd(1_000) == usd_of(HOUR, timedelta(hours=4)) == 4 * HOUR
    assert "unknown before its first run, at most $9.96" in time.note(1_000)


def test_with_a_measured_speed_the_cost_is_expected_and_the_worst_case_is_some_times_it() -> None:
    time = GpuTime(usd_an_hour=HOUR, rows_per_s=10.0, until=timedelta(hours=4))
    assert time.expected_usd(36_000) == HOUR
    assert time.worst_usd(36_000) == usd_of(HOUR, timedelta(hours=3, minutes=10))
    assert "at 10.0 rows/s as measured" in time.note(36_000)


def test_no_more_is_reserved_than_may_be_spent_and_no_less_than_a_run_is_worth() -> None:
    time = GpuTime(usd_an_hour=HOUR, rows_per_s=None, until=timedelta(hours=4), left_usd=Decimal(3))
    assert time.worst_usd(1_000) == 3
    poor = GpuTime(usd_an_hour=HOUR, rows_per_s=None, until=timedelta(hours=4), left_usd=Decimal("0.01"))
    assert poor.worst_usd(1_000) == usd_of(HOUR, LEAST) > Decimal("0.01"), "so it does not fit, and is refused"
