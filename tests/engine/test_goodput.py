"""The goodput rule: it finds the number at once that keeps an engine full, and backs off; all in simulated time."""

import pytest

from keld.providers.base import Load
from keld.realtime.goodput import Goodput
from tests.benchmarks.saturating import ENGINES, Fixed, lengths, played


def answered(pacer: Goodput, count: int, *, seconds: float, latency: float, now: float = 0.0, work: float = 10) -> float:
    """The instant after `count` answers within `seconds`, each `latency` after its request, with all that is allowed in flight."""
    for n in range(count):
        at = now + seconds * (n + 1) / count
        pacer.on_success(pacer.begin(at - latency, 1), at, work, int(pacer.at_once))
    return now + seconds


@pytest.mark.parametrize("name", ENGINES)
def test_it_gets_nearly_the_goodput_of_the_best_fixed_number(name: str) -> None:
    """The best fixed number of these engines is that of their slots (`make bench` tries the others); the ramp is within the run."""
    engine, rows = ENGINES[name]
    answers = lengths(rows)
    best = played(engine, Fixed(engine.slots), answers)
    found = played(engine, Goodput(4, 512), answers)
    assert found.tokens == best.tokens
    assert found.tokens_per_s >= 0.85 * best.tokens_per_s
    assert found.refused <= 30


@pytest.mark.parametrize("name", ["4 slots", "64 slots"])
def test_the_queue_it_makes_is_bounded(name: str) -> None:
    """More at once than that only makes every answer later."""
    engine, rows = ENGINES[name]
    assert max(played(engine, Goodput(4, 512), lengths(rows)).at_once) <= 10 * engine.slots


def test_much_more_goodput_doubles_it_and_some_more_adds_a_quarter() -> None:
    pacer = Goodput(8, 512)
    now = answered(pacer, 20, seconds=2, latency=0.5)
    assert pacer.at_once == 16, "the first window has nothing to compare with"
    now = answered(pacer, 40, seconds=2, latency=0.5, now=now)
    assert pacer.at_once == 32
    answered(pacer, 48, seconds=2, latency=0.6, now=now)
    assert pacer.at_once == 40


def test_a_step_that_only_made_answers_slower_is_taken_back() -> None:
    pacer = Goodput(8, 512)
    now = answered(pacer, 20, seconds=2, latency=0.1)
    answered(pacer, 21, seconds=2.1, latency=0.2, now=now)
    assert pacer.at_once == 8


def test_a_refusal_lowers_it_once_for_all_that_met_the_same_full_queue() -> None:
    pacer = Goodput(100, 512)
    numbers = [pacer.begin(0.0, 1) for _ in range(10)]
    for number in numbers:
        pacer.on_rejected(number, 1.0, None)
    assert pacer.at_once == pytest.approx(70)
    assert pacer.wait(1.0, 0, 1) == 1.0
    pacer.on_rejected(pacer.begin(2.0, 1), 2.0, 7.0)
    assert pacer.at_once == pytest.approx(49)
    assert pacer.wait(2.0, 0, 1) == 7.0


def test_the_waits_without_one_named_double_to_half_a_minute() -> None:
    pacer, now, waits = Goodput(8, 512), 0.0, []
    for _ in range(7):
        pacer.on_rejected(pacer.begin(now, 1), now, None)
        waits.append(pacer.wait(now, 0, 1) or 0.0)
        now += waits[-1]
    assert waits == [1, 2, 4, 8, 16, 30, 30]
    assert pacer.at_once >= 1


def test_an_engine_that_says_that_nothing_waits_gets_more() -> None:
    pacer = Goodput(8, 512)
    now = answered(pacer, 20, seconds=2, latency=0.5)
    pacer.on_load(Load(running=16, waiting=0))
    answered(pacer, 20, seconds=2, latency=0.5, now=now)
    assert pacer.at_once == 20


@pytest.mark.parametrize(
    ("load", "becomes"), [(Load(running=8, waiting=40), 10), (Load(running=8, waiting=0, cache_use=0.97), 16 * 0.7)], ids=str
)
def test_an_engine_with_a_long_queue_or_a_full_cache_gets_less(load: Load, becomes: float) -> None:
    pacer = Goodput(8, 512)
    now = answered(pacer, 20, seconds=2, latency=0.5)
    pacer.on_load(load)
    answered(pacer, 40, seconds=2, latency=0.5, now=now)
    assert pacer.at_once == pytest.approx(becomes)


def test_the_time_limit_includes_the_queue() -> None:
    """Else a saturated engine would turn into requests without a reply."""
    pacer = Goodput(8, 512)
    assert pacer.timeout_s(600) == 600, "a model may still load"
    now = answered(pacer, 20, seconds=2, latency=0.5)
    assert pacer.timeout_s(600) == 120
    answered(pacer, 400, seconds=100, latency=40, now=now + 40)
    assert pacer.timeout_s(600) == pytest.approx(400)


def test_the_end_of_the_rows_changes_nothing() -> None:
    """With few left in flight, less is answered, and the engine is not at fault."""
    pacer = Goodput(8, 512)
    now = answered(pacer, 20, seconds=2, latency=0.5)
    for n in range(40):
        pacer.on_success(pacer.begin(now + n, 1), now + n + 0.5, 10, 1)
    assert pacer.at_once == 16
