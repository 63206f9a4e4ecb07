"""One row ahead, or all at once: reckoned by hand, to the pico-dollar, and chosen by money within the deadline and the ceiling.

The list of these tests is, per million tokens in a batch: input 1, read from the cache 0.1, written for an hour 2, output 5; twice that in the
standard lane, where a write for minutes costs 1.25 times the input.  A thousand rows of 100 tokens behind 5,500 that all of them share.
"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from msgspec.structs import replace

from keld.cache import UNMARKED, Cache, Ttl
from keld.plan import Ahead, Candidate, Constraints, Option, Work, choose, evaluate
from keld.price import Bracket, Lane, Rates
from keld.reason import reason
from keld.turnaround import turnaround

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
WORK = Work(requests=1_000, prompt_bytes=400_000, longest_bytes=400, shared_bytes=22_000, output_kind="object", max_output_tokens=100)
PRIMED = Cache(ttl=Ttl.HOUR, hits=0.64, least_tokens=1_024, least_requests=6)


def rates(times: int) -> Rates:
    one = {"input": 1, "cached": "0.1", "cache_write": "1.25", "cache_write_1h": 2, "output": 5}
    bracket = Bracket(above=0, **{kind: times * Decimal(usd) for kind, usd in one.items()})
    return Rates(brackets=(bracket,), source="a list")


def batch(cache: Cache = UNMARKED, ahead: Ahead | None = None) -> Candidate:
    time = turnaround(Lane.BATCH)
    if ahead is not None:
        time = time.after(turnaround(ahead.lane))
    return Candidate(provider="p", model="m", lane=Lane.BATCH, rates=rates(1), turnaround=time, shards=1, cache=cache, ahead=ahead)


def standard(hits: float) -> Candidate:
    cache = Cache(ttl=Ttl.MINUTES, hits=hits, least_tokens=1_024)
    return Candidate(
        provider="p", model="m", lane=Lane.STANDARD, rates=rates(2), turnaround=turnaround(Lane.STANDARD), shards=1, cache=cache
    )


COLD = batch(replace(PRIMED, hits=0.0, least_requests=None))
BEHIND_ONE = batch(PRIMED, Ahead(lane=Lane.BATCH))


def chosen(*candidates: Candidate, ceiling: str | None = None, within: timedelta | None = None, lane: Lane | None = None) -> Option:
    terms = Constraints(
        now=NOW,
        due=None if within is None else NOW + within,
        ceiling_usd=None if ceiling is None else Decimal(ceiling),
        lane=lane,
        probability=0.5,
    )
    return choose("labels", "2026-11-19", evaluate(candidates, WORK, terms), terms)


@pytest.mark.parametrize(
    ("candidate", "usd"),
    [
        (COLD, "5.908"),  # 5,608,000 tokens in, 60,000 out at 5
        (batch(COLD.cache.forced), "11.408"),  # 108,000 at 1; 5,500,000 written at 2; what a marked cold batch costs
        (BEHIND_ONE, "4.726688"),  # 108,000 at 1; 3,516,480 read; 1,983,520 written: one row, and 36 % of 999
        (batch(replace(PRIMED, warm=True)), "4.72"),  # 3,520,000 read, 1,980,000 written
        (standard(0.64), "6.478096"),  # 108,000 at 2; 3,516,480 at 0.2; 1,983,520 at 2.5; 60,000 at 10
        (standard(0.98), "2.181397"),  # 5,384,610 read, 115,390 written
    ],
    ids=["cold", "cold, but marked", "behind one", "warm", "standard, hoped", "standard, seen"],
)  # fmt: skip
def test_what_each_way_costs(candidate: Candidate, usd: str) -> None:
    assert candidate.expected_usd(WORK) == Decimal(usd)


def test_a_row_goes_ahead_where_that_is_cheaper() -> None:
    found = chosen(COLD, BEHIND_ONE)
    assert (found.ahead, found.expected_usd) == (Lane.BATCH, Decimal("4.726688"))
    assert found.instead is not None
    assert found.instead.expected_usd == found.unmarked_usd == Decimal("5.908")
    assert reason(found, [found]) == (
        "One row goes ahead as a batch of one, and the others follow when it has ended. What all prompts begin with is marked for the prompt cache "
        "(1h): 64% of the rows after the first are expected to read it, $4.7267 instead of $5.9080 without marks."
    )


def test_no_row_goes_ahead_where_it_has_shown_to_be_dearer() -> None:
    """Below 53 % of hits a write at twice the input is not earned back."""
    few = batch(replace(PRIMED, hits=0.5), Ahead(lane=Lane.BATCH))
    assert chosen(COLD, few).ahead is None


def test_the_deadline_decides_before_the_money() -> None:
    """Half of all batches end within the hour; two of them, one behind the other, need more than twice as long."""
    late = chosen(COLD, BEHIND_ONE, within=timedelta(hours=2), lane=Lane.BATCH)
    assert (late.ahead, late.expected_usd) == (None, Decimal("5.908"))
    assert "not marked for the prompt cache" in (said := reason(late, [late]))
    assert (
        "with marks they would cost $11.4080 instead of $5.9080; with one row ahead they would cost $4.7267 and keep the deadline with"
        in said
    )
    assert chosen(COLD, BEHIND_ONE, within=timedelta(hours=12), lane=Lane.BATCH).ahead is Lane.BATCH


def test_a_ceiling_without_room_for_all_writes_is_kept_by_all_at_once() -> None:
    """22,000 bytes are 11,000 tokens at worst, and 8 around them: each row may write all of them, at 1 more than plain input."""
    plain, marked = (candidate.worst_usd(WORK) for candidate in (COLD, BEHIND_ONE))
    assert plain is not None
    assert marked == plain + Decimal("11.008")
    assert chosen(COLD, BEHIND_ONE, ceiling=str(plain)).ahead is None
    assert chosen(COLD, BEHIND_ONE, ceiling=str(marked)).ahead is Lane.BATCH


def test_the_worst_case_of_a_row_in_the_standard_lane_covers_whichever_row_it_is() -> None:
    ahead = batch(ahead=Ahead(lane=Lane.STANDARD, worst_rates=rates(2))).worst_usd(WORK)
    one, others = WORK.of(1, WORK.longest_bytes), WORK.of(999, WORK.prompt_bytes)
    assert ahead == one.worst_usd(rates(2)) + others.worst_usd(rates(1))


@pytest.mark.parametrize(("hits", "lane"), [(0.64, Lane.BATCH), (0.98, Lane.STANDARD)], ids=["hoped", "seen"])
def test_the_standard_lane_with_a_warm_cache_is_chosen_where_it_is_cheaper_than_a_batch(hits: float, lane: Lane) -> None:
    """Half the price of an input that is not cached is more than a fifth of it that is: 2.18 against 4.73 and 5.91."""
    found = chosen(COLD, BEHIND_ONE, standard(hits))
    assert found.lane is lane
    ceiling = COLD.worst_usd(WORK)
    assert chosen(COLD, BEHIND_ONE, standard(hits), ceiling=str(ceiling)).lane is Lane.BATCH, "the ceiling has no room for that lane"


def test_the_plan_says_what_a_batch_would_have_cost() -> None:
    terms = Constraints(now=NOW)
    found = evaluate([COLD, BEHIND_ONE, standard(0.98)], WORK, terms)
    said = reason(choose("labels", "", found, terms), found)
    assert "98% of the rows after the first are expected to read it, $2.1814" in said
    assert said.endswith("A batch would cost $4.7267, since 63% of its input is expected from the cache.")


def test_two_turnarounds_take_what_both_take() -> None:
    """Half of all batches end within the hour, evenly spread: a quarter of all pairs has two of these, and half of those are done in the hour."""
    one = turnaround(Lane.BATCH)
    assert one.after(one).chance(timedelta(hours=1)) == pytest.approx(0.125, abs=0.01)
    certain = turnaround(Lane.BATCH, [600.0] * 2_000)
    assert certain.after(certain).quantile(0.5) == timedelta(minutes=20)


def test_what_may_never_end_is_no_better_behind_another_one() -> None:
    stuck = turnaround(Lane.BATCH, [60.0], [90_000.0] * 99)
    assert stuck.after(stuck).chance(timedelta(days=9)) < stuck.chance(timedelta(days=9))
