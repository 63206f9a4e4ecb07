"""The plan: the cheapest that fits, reckoned to the pico-dollar, or a refusal that says what would fit."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keld.errors import CeilingTooLow, PriceUnknown
from keld.plan import Candidate, Option, Plan, Work, choose, ordered, reckon, reckoner
from keld.price import Bracket, Lane, Rates
from keld.shard import Slice
from keld.turnaround import turnaround

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
WORK = Work(requests=1_000, prompt_bytes=400_000, longest_bytes=0, shared_bytes=200, output_kind="object", max_output_tokens=100)


def _rates(usd: Any = 1, output: Any = 2) -> Rates:
    flat = Decimal(str(usd))
    bracket = Bracket(above=0, input=flat, cached=flat, cache_write=flat, cache_write_1h=flat, output=Decimal(str(output)))
    return Rates(brackets=(bracket,), source="a list")


def _option(
    model: str = "m", lane: Lane = Lane.BATCH, *, found: Rates | None = None, work: Work = WORK, obstacle: str | None = None
) -> Option:
    candidate = Candidate(
        provider="openai", model=model, lane=lane, rates=found, turnaround=turnaround(lane), shards=1, obstacle=obstacle
    )  # fmt: skip
    return reckon(candidate, work, NOW, None)


def _choose(options: list[Option], ceiling: Any = None) -> Option:
    return choose("labels", "2026-11-19", options, None if ceiling is None else Decimal(str(ceiling)))


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
    kind=st.sampled_from(["object", "text", "embedding"]),
)  # fmt: skip
def test_the_worst_is_never_better_than_what_is_expected(requests: int, prompt: int, shared: int, most: int, kind: str) -> None:
    work = Work(requests=requests, prompt_bytes=prompt, longest_bytes=0, shared_bytes=shared, output_kind=kind, max_output_tokens=most)
    option = _option(found=_rates(), work=work)
    assert option.worst_usd is not None
    assert option.expected_usd is not None
    assert option.worst_usd >= option.expected_usd


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


def test_the_chance_is_only_known_with_a_deadline() -> None:
    candidate = Candidate(provider="openai", model="m", lane=Lane.BATCH, rates=None, turnaround=turnaround(Lane.BATCH), shards=1)
    assert reckon(candidate, WORK, NOW, None).chance is None
    assert reckon(candidate, WORK, NOW, NOW + timedelta(hours=1)).chance == 0.5


# --- which is taken ---------------------------------------------------------------------------------------------------


def test_the_cheapest_of_the_batch_lane_is_taken() -> None:
    cheap, dear = _option("cheap", found=_rates(1)), _option("dear", found=_rates(2))
    standard = _option("free", Lane.STANDARD, found=_rates(0, 0))
    assert _choose([dear, standard, cheap]) is cheap


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
    with pytest.raises(PriceUnknown, match=r"openai:a: no rate known; openai:b: makes no embeddings.*Nothing was sent.*prices="):
        _choose([_option("a"), _option("b", found=_rates(), obstacle="makes no embeddings"), _option("c", Lane.STANDARD, found=_rates())])


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
    barred, dear, cheap = _option("barred"), _option("dear", found=_rates(2)), _option("cheap", found=_rates(1))
    assert [option.model for option in ordered([barred, dear, cheap])] == ["cheap", "dear", "barred"]


def test_the_standard_price_is_that_of_the_chosen_model() -> None:
    chosen, same, other = (
        _option("a", found=_rates(1)),
        _option("a", Lane.STANDARD, found=_rates(2)),
        _option("b", Lane.STANDARD, found=_rates(9)),
    )
    plan = Plan(
        job="labels", partition="", rows=1, unaskable=0, reused=0, work=WORK, options=(chosen, other, same), chosen=chosen, due=None,
        due_basis="none", ceiling_usd=None,
    )  # fmt: skip
    assert plan.standard_usd == same.expected_usd


# --- slices -----------------------------------------------------------------------------------------------------------


@given(parts=st.lists(st.tuples(st.integers(1, 50_000), st.integers(0, 10**7)), min_size=1, max_size=40), overhead=st.integers(0, 5_000))
def test_the_worst_cases_of_all_slices_never_add_up_to_more_than_that_of_the_plan(parts: list[tuple[int, int]], overhead: int) -> None:
    """Else a ceiling that the plan just fits under would refuse its last shard."""
    work = replace(WORK, requests=sum(requests for requests, _ in parts), prompt_bytes=sum(size for _, size in parts))
    worth = reckoner(work, overhead, _rates("0.1", "0.4"))
    slices = [Slice(start=0, stop=1, requests=requests, size_bytes=size + requests * overhead) for requests, size in parts]
    assert sum(worth(part).worst_usd for part in slices) <= work.worst_usd(_rates("0.1", "0.4"))


def test_a_heavy_slice_is_worth_more_than_a_light_one() -> None:
    """A retry round may hold just the long rows; its reservation must hold what they can cost."""
    worth = reckoner(WORK, 100, _rates())
    light, heavy = (Slice(start=0, stop=10, requests=10, size_bytes=size) for size in (2_000, 90_000))
    assert worth(heavy).worst_usd > worth(light).worst_usd


def test_the_worst_case_is_at_the_rates_that_the_longest_row_can_reach() -> None:
    low, high = _rates(1).base, replace(_rates(2).base, above=1_000)
    tiered = Rates(brackets=(low, high), source="a list")
    assert replace(WORK, longest_bytes=100).worst_usd(tiered) == WORK.worst_usd(_rates(1))
    assert replace(WORK, longest_bytes=10_000).worst_usd(tiered) == WORK.worst_usd(_rates(2))
