"""Prices: exact to the pico-dollar, known or said to be unknown, never guessed."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keld.errors import InvalidJob
from keld.price import Bracket, Lane, Rates, Usage, rates

DAY = datetime(2026, 11, 20, 12, tzinfo=UTC)
RATE = st.decimals(min_value=0, max_value=600, places=6)
COUNT = st.integers(0, 2_000_000)


def _bracket(above: int, *rate: Any) -> Bracket:
    names = ("input", "cached", "cache_write", "cache_write_1h", "output")
    return Bracket(above=above, **{name: Decimal(str(value)) for name, value in zip(names, rate, strict=True)})


def _by_hand(bracket: Bracket, usage: Usage) -> Decimal:
    """In USD, token by token, as a bill says it."""
    fresh = usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens
    five_minutes = usage.cache_write_tokens - usage.cache_write_1h_tokens
    return (
        fresh * bracket.input
        + usage.cached_tokens * bracket.cached
        + five_minutes * bracket.cache_write
        + usage.cache_write_1h_tokens * bracket.cache_write_1h
        + usage.output_tokens * bracket.output
    ) / Decimal(1_000_000)


@st.composite
def _usages(draw: st.DrawFn) -> Usage:
    cached, write, fresh = draw(COUNT), draw(COUNT), draw(COUNT)
    return Usage(
        input_tokens=cached + write + fresh,
        cached_tokens=cached,
        cache_write_tokens=write,
        cache_write_1h_tokens=draw(st.integers(0, write)),
        output_tokens=draw(COUNT),
    )


@given(rate=st.tuples(RATE, RATE, RATE, RATE, RATE), usage=_usages())
def test_a_cost_is_exact(rate: tuple[Decimal, ...], usage: Usage) -> None:
    bracket = _bracket(0, *rate)
    assert Rates(brackets=(bracket,), source="").cost(usage) == _by_hand(bracket, usage)


@given(
    low=st.tuples(RATE, RATE, RATE, RATE, RATE),
    high=st.tuples(RATE, RATE, RATE, RATE, RATE),
    usage=_usages(),
    above=st.integers(1, 300_000),
)
def test_a_request_is_priced_whole_in_the_bracket_it_reaches(
    low: tuple[Decimal, ...], high: tuple[Decimal, ...], usage: Usage, above: int
) -> None:
    first, second = _bracket(0, *low), _bracket(above, *high)
    expected = second if usage.input_tokens > above else first
    assert Rates(brackets=(first, second), source="").cost(usage) == _by_hand(expected, usage)


@given(usages=st.lists(_usages(), min_size=1, max_size=8))
def test_a_block_of_answers_costs_what_they_cost_one_by_one(usages: list[Usage]) -> None:
    found = Rates(brackets=(_bracket(0, 3, 0.3, 3.75, 6, 15), _bracket(200_000, 6, 0.6, 7.5, 12, 22.5)), source="")
    names = ("input_tokens", "cached_tokens", "cache_write_tokens", "cache_write_1h_tokens", "output_tokens")
    block = found.cost_pico(*(np.array([getattr(usage, name) for usage in usages], dtype=np.int64) for name in names))
    assert [Decimal(int(pico)) / 10**12 for pico in block] == [found.cost(usage) for usage in usages]


@pytest.mark.parametrize(("tokens", "usd"), [(200_000, "0.6"), (200_001, "1.200006")])
def test_a_bracket_begins_above_its_number(tokens: int, usd: str) -> None:
    found = Rates(brackets=(_bracket(0, 3, 3, 3, 3, 3), _bracket(200_000, 6, 6, 6, 6, 6)), source="")
    assert found.cost(Usage(input_tokens=tokens)) == Decimal(usd)


# --- who says what it costs -------------------------------------------------------------------------------------------

KNOWN: list[tuple[str, str, Lane, str, str]] = [
    ("openai", "gpt-5-mini", Lane.STANDARD, "0.25", "2"),
    ("openai", "gpt-5-mini", Lane.BATCH, "0.125", "1"),
    ("openai", "gpt-5-mini", Lane.FLEX, "0.125", "1"),
    ("openai", "gpt-5-mini-2025-08-07", Lane.BATCH, "0.125", "1"),
    ("openai", "text-embedding-3-small", Lane.BATCH, "0.01", "0"),
    ("anthropic", "claude-haiku-4-5", Lane.STANDARD, "1", "5"),
    ("anthropic", "claude-haiku-4-5", Lane.BATCH, "0.5", "2.5"),
]


@pytest.mark.parametrize(("provider", "model", "lane", "input_", "output"), KNOWN)
def test_a_list_price_is_the_lanes_own(provider: str, model: str, lane: Lane, input_: str, output: str) -> None:
    found = rates(provider, model, lane, DAY)
    assert found is not None
    assert (found.base.input, found.base.output) == (Decimal(input_), Decimal(output))
    assert found.source


@pytest.mark.parametrize(
    ("provider", "model", "lane"),
    [
        ("openai", "gpt-99", Lane.BATCH),
        ("openai", "ft:gpt-4o-mini:acme::x", Lane.BATCH),
        ("anthropic", "claude-haiku-4-5", Lane.FLEX),
        ("my-gateway", "gpt-5-mini", Lane.BATCH),
    ],
)
def test_an_unknown_price_is_none_not_a_guess(provider: str, model: str, lane: Lane) -> None:
    """The list answers with the standard price, silently, where it has none for a lane."""
    assert rates(provider, model, lane, DAY) is None


def test_long_requests_have_their_own_bracket() -> None:
    found = rates("anthropic", "claude-sonnet-4-5", Lane.BATCH, DAY)
    assert found is not None
    assert [(bracket.above, bracket.input) for bracket in found.brackets] == [(0, Decimal("1.5")), (200_000, Decimal(3))]


def test_every_listed_price_is_counted_in_whole_pico_dollars() -> None:
    """Some lists carry the noise of binary floats: it must not stop a plan."""
    from genai_prices.data_snapshot import get_snapshot

    listed = [(provider.id, model.id) for provider in get_snapshot().providers for model in provider.models]
    found = [price for provider, model in listed for lane in Lane if (price := rates(provider, model, lane, DAY))]
    assert found
    for price in found:
        price.cost(Usage(input_tokens=3, cached_tokens=1, cache_write_tokens=1, output_tokens=1))


def test_the_jobs_own_price_comes_first_in_every_lane() -> None:
    own = {"openai:gpt-5-mini": {"input": 0.1, "output": "0.4"}}
    for lane in Lane:
        found = rates("openai", "gpt-5-mini", lane, DAY, own)
        assert found is not None
        assert (found.base.input, found.base.output) == (Decimal("0.1"), Decimal("0.4"))


def test_what_an_own_price_leaves_out_costs_what_it_is_a_kind_of() -> None:
    found = rates("x", "m", Lane.BATCH, DAY, {"x:m": {"input": 2, "cache_write": 3}})
    assert found is not None
    assert found.base == _bracket(0, 2, 2, 3, 3, 0)


@pytest.mark.parametrize(
    "price",
    [
        {}, {"output": 1}, {"input": 1, "out": 2}, {"input": "cheap"}, {"input": None}, {"input": -1}, {"input": 1, "output": -1},
        {"input": float("inf")}, {"input": float("nan")}, {"input": "0.0000001"},
    ],
    ids=str,
)  # fmt: skip
def test_an_own_price_that_is_none_is_refused(price: dict[str, Any]) -> None:
    with pytest.raises(InvalidJob):
        rates("x", "m", Lane.BATCH, DAY, {"x:m": price})
