"""The plan: the cheapest that fits, reckoned to the pico-dollar, or a refusal that says what would fit."""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from keld.cache import UNMARKED, Cache, Ttl
from keld.errors import CeilingTooLow, PriceUnknown
from keld.estimate import Estimate
from keld.plan import Candidate, Constraints, Option, Plan, Work, choose, evaluate
from keld.price import Bracket, Lane, Rates
from keld.speed import Speed
from keld.turnaround import turnaround

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
WORK = Work(requests=1_000, prompt_bytes=400_000, longest_bytes=0, shared_bytes=200, output_kind="object", max_output_tokens=100)


def _rates(usd: Any = 1, output: Any = 2) -> Rates:
    flat = Decimal(str(usd))
    bracket = Bracket(above=0, input=flat, cached=flat, cache_write=flat, cache_write_1h=flat, output=Decimal(str(output)))
    return Rates(brackets=(bracket,), source="a list")


def _option(
    model: str = "m",
    lane: Lane = Lane.BATCH,
    *,
    found: Rates | None = None,
    work: Work = WORK,
    obstacle: str | None = None,
    estimate: Estimate | None = None,
) -> Option:
    candidate = Candidate(
        provider="openai", model=model, lane=lane, rates=found, turnaround=turnaround(lane), shards=1, obstacle=obstacle, estimate=estimate
    )  # fmt: skip
    return evaluate([candidate], work, Constraints(now=NOW))[0]


def _choose(options: list[Option], ceiling: Any = None) -> Option:
    return choose("labels", "2026-11-19", options, Constraints(now=NOW, ceiling_usd=None if ceiling is None else Decimal(str(ceiling))))


# --- what it would use ------------------------------------------------------------------------------------------------


def test_a_token_is_four_bytes_as_expected_and_two_at_worst() -> None:
    assert WORK.usage().input_tokens == (400_000 + 1_000 * 200) // 4 + 1_000 * 8
    assert WORK.worst().input_tokens == (400_000 + 1_000 * 200) // 2 + 1_000 * 8


@pytest.mark.parametrize(
    ("kind", "most", "expected", "worst"),
    [("object", 1024, 60, 1024), ("object", 10, 10, 10), ("text", 1024, 150, 1024), ("embedding", 1024, 0, 0)],
)
def test_how_much_a_row_answers(kind: str, most: int, expected: int, worst: int) -> None:
    work = Work(requests=2, prompt_bytes=10, longest_bytes=0, shared_bytes=0, output_kind=kind, max_output_tokens=most)
    assert (work.usage().output_tokens, work.worst().output_tokens) == (2 * expected, 2 * worst)


@given(
    requests=st.integers(1, 10**6), prompt=st.integers(1, 10**9), shared=st.integers(0, 10**4), most=st.integers(1, 10**5),
    kind=st.sampled_from(["object", "text", "embedding"]), bytes_a_token=st.floats(0.1, 50), output=st.floats(0, 10**6),
)  # fmt: skip
def test_the_worst_is_never_better_than_what_is_expected(
    requests: int, prompt: int, shared: int, most: int, kind: str, bytes_a_token: float, output: float
) -> None:
    """Whatever was learned."""
    work = Work(requests=requests, prompt_bytes=prompt, longest_bytes=0, shared_bytes=shared, output_kind=kind, max_output_tokens=most)
    learned = Estimate(bytes_a_token=bytes_a_token, output_tokens_a_row=output)
    for option in (_option(found=_rates(), work=work), _option(found=_rates(), work=work, estimate=learned)):
        assert option.worst_usd is not None
        assert option.expected_usd is not None
        assert option.worst_usd >= option.expected_usd


def test_what_was_learned_changes_what_is_expected_and_never_the_worst() -> None:
    """The worst is what is reserved under the ceiling: cheap rows so far promise nothing."""
    before, after = (
        _option(found=_rates(), estimate=estimate) for estimate in (None, Estimate(bytes_a_token=5.0, output_tokens_a_row=12.5))
    )
    assert (after.usage.input_tokens, after.usage.output_tokens) == (600_000 // 5 + 1_000 * 8, 12_500)
    assert after.expected_usd == (after.usage.input_tokens + after.usage.output_tokens * Decimal(2)) / 10**6
    assert before.worst_usd == after.worst_usd


def test_a_cost_is_that_of_all_requests() -> None:
    option = _option(found=_rates())
    assert option.worst_usd == (WORK.worst().input_tokens * Decimal(1) + WORK.worst().output_tokens * Decimal(2)) / 10**6


def test_nothing_to_ask_costs_nothing() -> None:
    empty = Work(requests=0, prompt_bytes=0, longest_bytes=0, shared_bytes=200, output_kind="object", max_output_tokens=100)
    option = _option(found=_rates(), work=empty)
    assert (option.expected_usd, option.worst_usd) == (0, 0)


def test_an_unknown_rate_is_an_obstacle_and_no_price() -> None:
    option = _option()
    assert (option.expected_usd, option.worst_usd, option.obstacle) == (None, None, "no rate known")


@pytest.mark.parametrize(("hits", "cheaper"), [(0.98, Lane.STANDARD), (0.9, Lane.STANDARD), (0.4, Lane.BATCH)])
def test_the_standard_lane_with_a_warm_cache_is_chosen_where_it_is_cheaper_than_a_batch_without_hits(hits: float, cheaper: Lane) -> None:
    """A tenth of the price for what is read from the cache is less than half the price for everything, if prompts share enough."""
    work = replace(WORK, prompt_bytes=100_000, shared_bytes=40_000, max_output_tokens=20)
    full = Bracket(
        above=0, input=Decimal(1), cached=Decimal("0.1"), cache_write=Decimal("1.25"), cache_write_1h=Decimal(2), output=Decimal(5)
    )
    half = full.times(Decimal("0.5"))
    warm = Cache(ttl=Ttl.MINUTES, hits=hits, least_tokens=1_024)
    offered = [
        Candidate(
            provider="anthropic",
            model="m",
            lane=lane,
            rates=Rates(brackets=(bracket,), source=""),
            turnaround=turnaround(lane),
            shards=1,
            cache=cache,
        )
        for lane, bracket, cache in ((Lane.BATCH, half, UNMARKED), (Lane.STANDARD, full, warm))
    ]
    assert _choose(evaluate(offered, work, Constraints(now=NOW))).lane is cheaper


def test_the_chance_is_only_known_with_a_deadline() -> None:
    candidate = Candidate(provider="openai", model="m", lane=Lane.BATCH, rates=None, turnaround=turnaround(Lane.BATCH), shards=1)
    assert evaluate([candidate], WORK, Constraints(now=NOW))[0].chance is None
    assert evaluate([candidate], WORK, Constraints(now=NOW, due=NOW + timedelta(hours=1, minutes=3)))[0].chance == 0.5


# --- which is taken ---------------------------------------------------------------------------------------------------


def test_without_a_deadline_the_cheapest_is_taken_and_of_two_the_one_that_needs_no_worker() -> None:
    cheap, dear = _option("cheap", found=_rates(1)), _option("dear", found=_rates(2))
    flex, standard = _option("cheap", Lane.FLEX, found=_rates(1)), _option("cheap", Lane.STANDARD, found=_rates(2))
    assert _choose([dear, standard, flex, cheap]) is cheap


def test_a_dearer_one_is_taken_if_only_its_worst_case_fits() -> None:
    """Dear to write, and a row may write more than it is expected to."""
    work = replace(WORK, max_output_tokens=1_000)
    chatty, terse = _option("chatty", found=_rates("0.1", 3), work=work), _option("terse", found=_rates(1, 1), work=work)
    assert _choose([chatty, terse]) is chatty
    assert _choose([chatty, terse], terse.worst_usd) is terse


def test_what_cannot_be_used_is_not_taken_however_cheap() -> None:
    barred, good = _option("barred", found=_rates(0, 0), obstacle="makes no embeddings"), _option("good", found=_rates())
    assert _choose([barred, good]) is good


def test_a_ceiling_that_is_just_reached_is_enough() -> None:
    option = _option(found=_rates())
    assert _choose([option], option.worst_usd) is option


def test_without_any_known_rate_each_models_obstacle_is_named() -> None:
    with pytest.raises(
        PriceUnknown, match=r"openai:a batch: no rate known; openai:b batch: makes no embeddings.*Nothing was sent.*prices="
    ):
        _choose([_option("a"), _option("b", found=_rates(), obstacle="makes no embeddings")])


@given(usd=st.decimals("0.000001", 100, places=6), requests=st.integers(1, 10**5))
def test_the_ceiling_that_a_refusal_advises_is_enough(usd: Decimal, requests: int) -> None:
    """Rounded down, the advice would be refused in its turn."""
    work = Work(requests=requests, prompt_bytes=requests * 77, longest_bytes=0, shared_bytes=3, output_kind="text", max_output_tokens=33)
    option = _option(found=_rates(usd, usd), work=work)
    with pytest.raises(CeilingTooLow) as caught:
        _choose([option], "0.000000000001")
    advised = re.search(r"Raise ceiling_usd to \$([0-9.]+\d)", str(caught.value))
    assert advised is not None
    assert _choose([option], advised[1]) is option


def test_usable_options_come_first_then_the_cheaper() -> None:
    candidates = [
        Candidate(provider="openai", model=model, lane=Lane.BATCH, rates=found, turnaround=turnaround(Lane.BATCH), shards=1)
        for model, found in (("barred", None), ("dear", _rates(2)), ("cheap", _rates(1)))
    ]
    assert [option.model for option in evaluate(candidates, WORK, Constraints(now=NOW))] == ["cheap", "dear", "barred"]


# --- by when ----------------------------------------------------------------------------------------------------------


def _lanes(*, flex: bool = True, seen: tuple[float, ...] = (), stalled: tuple[float, ...] = ()) -> list[Candidate]:
    """One model in the lanes it is sold in: batch and flex at half the standard price."""
    sold = [(Lane.BATCH, _rates(1, 2)), (Lane.STANDARD, _rates(2, 4))] + ([(Lane.FLEX, _rates(1, 2))] if flex else [])
    return [
        Candidate(
            provider="openai", model="m", lane=lane, rates=found, shards=1,
            turnaround=turnaround(lane, seen, stalled) if lane is Lane.BATCH else turnaround(lane),
        )
        for lane, found in sold
    ]  # fmt: skip


def _chosen(
    hours: float, candidates: list[Candidate], *, ceiling: Decimal | None = None, work: Work = WORK, lane: Lane | None = None
) -> Option:
    terms = Constraints(now=NOW, due=NOW + timedelta(hours=hours), ceiling_usd=ceiling, lane=lane)
    return choose("labels", "", evaluate(candidates, work, terms), terms)


@pytest.mark.parametrize(("hours", "lane"), [(24, Lane.BATCH), (9, Lane.BATCH), (0.5, Lane.STANDARD)])
def test_hours_are_a_batch_and_half_an_hour_is_none(hours: float, lane: Lane) -> None:
    """The rule of thumb, without any data."""
    assert _chosen(hours, _lanes(flex=False)).lane is lane


def test_where_flex_stands_behind_a_batch_waiting_for_it_risks_no_money() -> None:
    """Flex costs no more, and takes the account's capacity from others: it is gone to when the batch has had its time."""
    batch = _chosen(2, _lanes())
    assert (batch.lane, batch.rescued_by, batch.risk_usd) == (Lane.BATCH, "openai:m flex", 0)


def test_where_flex_cannot_answer_all_in_time_standard_takes_what_it_leaves() -> None:
    """A row that flex has answered is a row at half the price."""
    speed = Speed(rows_per_s=1, flex_rows_per_s=0.5)
    flex = _chosen(0.5, [replace(candidate, speed=speed) for candidate in _lanes()])
    assert (flex.lane, flex.rescued_by) == (Lane.FLEX, "openai:m standard")
    assert 0 < flex.risk_usd < (flex.expected_usd or 0)


def test_a_batch_is_reckoned_with_the_rescue_that_makes_it_safe() -> None:
    batch = _chosen(9, _lanes(flex=False))
    assert batch.rescued_by == "openai:m standard"
    assert batch.chance is not None
    assert batch.chance > 0.99
    assert 0 < batch.risk_usd < (batch.expected_usd or 0)


def test_a_provider_that_stalls_is_not_waited_for() -> None:
    """Its batches that have not come back say so."""
    quick = _chosen(3, _lanes(flex=False, seen=(900.0,) * 50))
    stalled = _chosen(3, _lanes(flex=False, seen=(900.0,) * 5, stalled=(8 * 3_600.0,) * 200))
    assert (quick.lane, stalled.lane) == (Lane.BATCH, Lane.STANDARD)


def test_under_a_ceiling_that_leaves_no_room_for_the_rescue_the_likeliest_that_fits_is_taken() -> None:
    """Late is better than never, and never above the ceiling."""
    worst = WORK.worst_usd(_rates(1, 2))
    batch = _chosen(4, _lanes(flex=False), ceiling=worst)
    assert (batch.lane, batch.rescued_by) == (Lane.BATCH, None)
    assert batch.chance is not None
    assert batch.chance < 0.99


@pytest.mark.parametrize("lane", Lane)
def test_the_lane_the_user_insists_on_is_taken(lane: Lane) -> None:
    assert _chosen(24, _lanes(), lane=lane).lane is lane


def test_more_rows_than_the_fast_lanes_can_take_in_time_make_the_best_of_it() -> None:
    """No lane keeps the deadline as wished: the batch, which may be back, is likelier than lanes that cannot be."""
    many = replace(WORK, requests=500_000, prompt_bytes=500_000 * 400)
    chosen = _chosen(0.5, _lanes(), work=many)
    assert (chosen.lane, chosen.rescued_by) == (Lane.BATCH, None)
    assert chosen.chance == pytest.approx(0.22, abs=0.02)


def test_the_standard_price_is_that_of_the_chosen_model() -> None:
    chosen, same, other = (
        _option("a", found=_rates(1)),
        _option("a", Lane.STANDARD, found=_rates(2)),
        _option("b", Lane.STANDARD, found=_rates(9)),
    )
    plan = Plan(
        job="labels", partition="", rows=1, unaskable=0, reused=0, identical=0, work=WORK, options=(chosen, other, same), chosen=chosen, due=None,
        due_basis="none", ceiling_usd=None, probability=0.99,
    )  # fmt: skip
    assert plan.standard_usd == same.expected_usd


# --- slices -----------------------------------------------------------------------------------------------------------


@given(parts=st.lists(st.tuples(st.integers(1, 50_000), st.integers(0, 10**7)), min_size=1, max_size=40))
def test_the_worst_cases_of_all_slices_never_add_up_to_more_than_that_of_the_plan(parts: list[tuple[int, int]]) -> None:
    """Else a ceiling that the plan just fits under would refuse its last shard."""
    work = replace(WORK, requests=sum(requests for requests, _ in parts), prompt_bytes=sum(size for _, size in parts))
    rates = _rates("0.1", "0.4")
    assert sum(work.of(requests, size).worst_usd(rates) for requests, size in parts) <= work.worst_usd(rates)


def test_a_heavy_slice_is_worth_more_than_a_light_one() -> None:
    """A retry round may hold just the long rows; its reservation must hold what they can cost."""
    light, heavy = (WORK.of(10, size) for size in (2_000, 90_000))
    assert heavy.worst_usd(_rates()) > light.worst_usd(_rates())


def test_the_worst_case_is_at_the_rates_that_the_longest_row_can_reach() -> None:
    low, high = _rates(1).base, replace(_rates(2).base, above=1_000)
    tiered = Rates(brackets=(low, high), source="a list")
    assert replace(WORK, longest_bytes=100).worst_usd(tiered) == WORK.worst_usd(_rates(1))
    assert replace(WORK, longest_bytes=10_000).worst_usd(tiered) == WORK.worst_usd(_rates(2))
