"""Prices: exact to the pico-dollar, known or said to be unknown, never guessed."""

import doctest
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from keld import price
from keld.cli import app
from keld.errors import InvalidJob
from keld.price import Bracket, Lane, Rates, Usage
from keld.pricing import Listed, quotes, rates, sold_in_batches

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
    ("azure", "gpt-5.4-mini", Lane.FLEX, "0.375", "2.25"),
    ("azure", "text-embedding-3-small", Lane.STANDARD, "0.022", "0"),
    ("bedrock", "us.anthropic.claude-haiku-4-5-20251001-v1:0", Lane.BATCH, "0.55", "2.75"),
    ("bedrock", "global.anthropic.claude-haiku-4-5-20251001-v1:0", Lane.BATCH, "0.5", "2.5"),
    ("bedrock", "meta.llama3-3-70b-instruct-v1:0", Lane.BATCH, "0.36", "0.36"),
    ("gemini", "gemini-3.8-flash", Lane.FLEX, "0.375", "1.875"),
    ("gemini", "gemini-embedding-001", Lane.BATCH, "0.075", "0"),
    ("vertex", "gemini-embedding-001", Lane.BATCH, "0.12", "0"),
    ("vertex", "gemini-3.8-flash", Lane.BATCH, "0.375", "1.875"),
    ("vertex", "claude-sonnet-5-5", Lane.BATCH, "1", "5"),
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


# --- what our own list and genai-prices say together ----------------------------------------------------------------


def test_where_two_lists_differ_the_higher_rate_holds_and_both_are_told() -> None:
    """In a region Claude costs a tenth more on Bedrock than by its global profile; a list that leaves this out would let a ceiling be passed."""
    found = rates("bedrock", "anthropic.claude-haiku-4-5-20251001-v1:0", Lane.STANDARD, DAY)
    assert found is not None
    assert (found.base.input, found.base.output) == (Decimal("1.1"), Decimal("5.5"))
    assert found.conflict is not None
    assert "litellm" in found.conflict and "input 1," in found.conflict
    assert "genai-prices" in found.conflict and "input 1.1," in found.conflict


def test_lists_that_agree_are_both_named_and_no_conflict() -> None:
    found = rates("gemini", "gemini-3.8-flash", Lane.BATCH, DAY)
    assert found is not None
    assert found.conflict is None
    assert "litellm" in found.source and "genai-prices" in found.source


def test_one_regions_rate_comes_before_that_of_its_profile_and_of_the_plain_name() -> None:
    plain = "amazon.nova-lite-v1:0"

    def found(*names: str) -> Decimal | None:
        known = rates("bedrock", plain, Lane.STANDARD, DAY, listed=Listed(names=(*names, plain)))
        return known.base.input if known else None

    assert found("us-gov-west-1/amazon.nova-lite-v1:0", "us-gov.amazon.nova-lite-v1:0") == Decimal("0.072")
    assert found("eu-west-1/amazon.nova-lite-v1:0", "eu.amazon.nova-lite-v1:0") == Decimal("0.078")
    assert found() == Decimal("0.06")


def test_an_account_pays_its_factor_of_every_rate_and_the_source_says_so() -> None:
    zone = rates("azure", "gpt-5.4-mini", Lane.BATCH, DAY, listed=Listed(names=("gpt-5.4-mini",), factor=Decimal("1.1")))
    assert zone is not None
    assert (zone.base.input, zone.base.cached, zone.base.output) == (Decimal("0.4125"), Decimal("0.04125"), Decimal("2.475"))
    assert zone.source.endswith("times 1.1")


@pytest.mark.parametrize(("model", "factor"), [("claude-haiku-5-5", "1.1"), ("claude-sonnet-4-6", "1.1"), ("gemini-embedding-001", "1")])
def test_one_region_of_vertex_costs_what_the_models_uplift_says(model: str, factor: str) -> None:
    one, everywhere = (
        rates("vertex", model, Lane.BATCH, DAY, listed=Listed(names=(model,), regional=regional)) for regional in (True, False)
    )
    assert one is not None and everywhere is not None
    assert one.base.input == everywhere.base.input * Decimal(factor)


def test_a_model_that_our_list_lacks_costs_the_highest_uplift_in_one_region() -> None:
    """It may cost more there, and nobody says; a ceiling must hold."""
    one, everywhere = (
        rates("vertex", "claude-fable-5-2", Lane.STANDARD, DAY, listed=Listed(names=("claude-fable-5-2",), regional=regional))
        for regional in (True, False)
    )
    assert one is not None and everywhere is not None
    assert one.base.input == everywhere.base.input * Decimal("1.1")


@pytest.mark.parametrize("prices", ["bedrock", "vertex"])
def test_a_cached_token_in_a_batch_costs_no_less_than_any_if_the_list_has_no_rate_for_it(prices: str) -> None:
    """The two discounts do not add up there: what is paid is never above this."""
    model = {"bedrock": "us.anthropic.claude-haiku-4-5-20251001-v1:0", "vertex": "claude-sonnet-5"}[prices]
    found = rates(prices, model, Lane.BATCH, DAY)
    assert found is not None
    assert found.base.cached == found.base.input


def test_what_a_list_leaves_out_of_a_lane_costs_as_in_the_standard_lane() -> None:
    """Long requests and cache writes: no lane costs more than that."""
    batch, standard = (rates("vertex", "claude-haiku-5-5", lane, DAY) for lane in (Lane.BATCH, Lane.STANDARD))
    assert batch is not None and standard is not None
    assert [bracket.above for bracket in batch.brackets] == [0, 100_000]
    assert batch.brackets[1] == standard.brackets[1]
    assert (batch.base.input, batch.base.cache_write) == (Decimal("0.05"), Decimal("0.0625"))
    assert batch.base.cache_write_1h == standard.base.cache_write_1h


# --- a bill of each provider's, worked by hand ---------------------------------------------------------------------------

M = Decimal(10) ** -6
LONG = Usage(input_tokens=1_000_000, cached_tokens=200_000, output_tokens=100_000)
CHAT = Usage(input_tokens=10_050, cached_tokens=8_000, cache_write_tokens=2_000, cache_write_1h_tokens=2_000, output_tokens=300)
FIVE_MINUTES = Usage(input_tokens=10_050, cached_tokens=8_000, cache_write_tokens=2_000, output_tokens=300)
BILLS: list[tuple[str, str, Lane, Usage, Decimal]] = [
    # Above 272,000 input tokens every token of the request costs more, the cached and the output ones, too.
    ("openai", "gpt-5.4", Lane.STANDARD, LONG, (800_000 * 5 + 200_000 * Decimal("0.5") + 100_000 * Decimal("22.5")) * M),
    ("openai", "gpt-5.4", Lane.BATCH, LONG, (800_000 * Decimal("2.5") + 200_000 * Decimal("0.25") + 100_000 * Decimal("11.25")) * M),
    ("openai", "gpt-5.4", Lane.FLEX, LONG, (800_000 * Decimal("2.5") + 200_000 * Decimal("0.25") + 100_000 * Decimal("11.25")) * M),
    # Written into a cache, a token costs a quarter more.
    ("openai", "gpt-6.1-sol", Lane.BATCH, FIVE_MINUTES, (50 + 8_000 * Decimal("0.05") + 2_000 * Decimal("1.25") + 300 * 5) * M),
    ("anthropic", "claude-sonnet-5", Lane.BATCH, LONG, (800_000 + 200_000 * Decimal("0.1") + 100_000 * 5) * M),
    ("anthropic", "claude-sonnet-5", Lane.BATCH, CHAT, (50 + 8_000 * Decimal("0.1") + 2_000 * 2 + 300 * 5) * M),
    ("anthropic", "claude-sonnet-5", Lane.BATCH, FIVE_MINUTES, (50 + 8_000 * Decimal("0.1") + 2_000 * Decimal("1.25") + 300 * 5) * M),
    ("anthropic", "claude-sonnet-5", Lane.STANDARD, CHAT, (50 * 2 + 8_000 * Decimal("0.2") + 2_000 * 4 + 300 * 10) * M),
    ("google", "gemini-3.8-flash", Lane.BATCH, LONG, (800_000 * Decimal("0.375") + 200_000 * Decimal("0.0375") + 100_000 * Decimal("1.875")) * M),
    # No further discount on what is cached: half of everything would be wrong.
    ("google", "gemini-2.5-flash", Lane.BATCH, LONG, (800_000 * Decimal("0.15") + 200_000 * Decimal("0.03") + 100_000 * Decimal("1.25")) * M),
    # A fifth off, not half.
    ("x-ai", "grok-4.3", Lane.BATCH, LONG, (800_000 * 2 + 200_000 * Decimal("0.32") + 100_000 * 4) * M),
    ("groq", "openai/gpt-oss-120b", Lane.BATCH, LONG, (1_000_000 * Decimal("0.075") + 100_000 * Decimal("0.3")) * M),
    ("azure", "gpt-5-mini", Lane.BATCH, LONG, (800_000 * Decimal("0.125") + 200_000 * Decimal("0.0125") + 100_000) * M),
    ("bedrock", "anthropic.claude-haiku-4-5-20251001-v1:0", Lane.BATCH, LONG, (1_000_000 * Decimal("0.5") + 100_000 * Decimal("2.5")) * M),
    ("mistral", "mistral-small-latest", Lane.BATCH, LONG, (800_000 * Decimal("0.075") + 200_000 * Decimal("0.0075") + 100_000 * Decimal("0.3")) * M),
]  # fmt: skip


@pytest.mark.parametrize(("provider", "model", "lane", "usage", "bill"), BILLS)
def test_a_bill_is_what_it_is_by_hand(provider: str, model: str, lane: Lane, usage: Usage, bill: Decimal) -> None:
    found = rates(provider, model, lane, DAY)
    assert found is not None
    assert found.cost(usage) == bill
    assert found.total(usage, usage.input_tokens) == bill


def test_what_the_docstrings_reckon_is_so() -> None:
    assert doctest.testmod(price).failed == 0


@pytest.mark.parametrize(
    ("provider", "model"), [("azure", "gpt-5.5-pro"), ("aws", "anthropic.claude-haiku-4-5"), ("mistral", "mistral-large-latest")]
)
def test_where_no_list_has_a_batch_rate_half_of_the_standard_one_is_not_taken_for_it(provider: str, model: str) -> None:
    [batch] = [quote for quote in quotes(provider, model, DAY, rates) if quote.lane is Lane.BATCH]
    assert batch.rates is None


def test_before_a_lane_was_listed_its_rate_is_unknown() -> None:
    """The list answers with the standard price."""
    assert rates("openai", "gpt-5-mini", Lane.BATCH, datetime(2026, 10, 1, tzinfo=UTC)) is None


def test_a_rate_says_since_when_it_is_listed_or_when_we_read_it() -> None:
    listed, ours = rates("openai", "gpt-5-mini", Lane.BATCH, DAY), rates("openai", "text-embedding-3-small", Lane.BATCH, DAY)
    assert listed is not None
    assert ours is not None
    assert (listed.dated, ours.dated) == (date(2026, 10, 14), date(2026, 11, 21))


def test_at_worst_every_input_token_is_written_into_a_cache() -> None:
    """From gpt-5.6 on that is dearer than to read it, and the provider may do it unasked: a reservation without it could be passed."""
    found = rates("openai", "gpt-6.1-sol", Lane.BATCH, DAY)
    assert found is not None
    assert [bracket.input for bracket in found.worst_case().brackets] == [Decimal("1.25"), Decimal("2.5")]


@given(rate=st.tuples(RATE, RATE, RATE, RATE, RATE), usage=_usages())
def test_no_bill_without_a_cache_of_an_hour_is_above_the_worst(rate: tuple[Decimal, ...], usage: Usage) -> None:
    full, cached, write, _, output = rate
    found = Rates(brackets=(_bracket(0, full, min(cached, full), write, write, output),), source="")
    assert found.cost(usage) <= found.worst_case().cost(Usage(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens))


# --- long requests, own prices ------------------------------------------------------------------------------------------


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


# --- keld prices ------------------------------------------------------------------------------------------------------


@pytest.fixture
def prices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Calls `keld prices`."""
    monkeypatch.setenv("KELD_HOME", str(tmp_path))

    def call(*words: str) -> Result:
        return CliRunner().invoke(app, ["prices", *words])

    return call


def test_prices_tells_every_lane_with_its_source_and_date(prices: Any) -> None:
    told = prices("openai:gpt-5-mini")
    lines = [line.split() for line in told.stdout.splitlines() if line.startswith("openai:gpt-5-mini")]
    assert told.exit_code == 0
    assert [(line[1], line[2], line[-1]) for line in lines] == [
        ("batch", "0.125", "2026-10-14"),
        ("flex", "0.125", "2026-10-12"),
        ("standard", "0.25", "-"),
    ]
    assert all("genai-prices" in line for line in lines)


def test_prices_tells_what_long_requests_cost(prices: Any) -> None:
    assert "> 200,000 tokens" in prices("anthropic:claude-sonnet-4-5").stdout


def test_prices_as_json_has_money_as_decimal_text(prices: Any) -> None:
    batch, *_ = json.loads(prices("--json", "anthropic:claude-haiku-4-5").stdout)
    assert batch["rates"]["brackets"] == [
        {"above": 0, "input": "0.5", "cached": "0.05", "cache_write": "0.625", "cache_write_1h": "1", "output": "2.5"}
    ]
    assert (batch["lane"], batch["rates"]["dated"]) == ("batch", "2026-10-14")


def test_prices_of_an_unknown_model_is_refused_and_the_known_ones_are_told(prices: Any) -> None:
    told = prices("openai:gpt-5-mini", "openai:gpt-99")
    assert told.exit_code == 2
    assert "0.125" in told.stdout
    assert "No rate is known for openai:gpt-99" in told.stderr


def test_prices_of_an_unknown_model_tells_names_like_it(prices: Any) -> None:
    """Bedrock's names are long, and differ by region."""
    told = prices("bedrock:claude-haiku-4-5").stderr
    assert "bedrock:us.anthropic.claude-haiku-4-5-20251001-v1:0" in told.replace("\n", " ")


def test_prices_of_a_model_without_a_provider_is_refused(prices: Any) -> None:
    told = prices("gpt-5-mini")
    assert (told.exit_code, "openai:gpt-5-mini" in told.stderr) == (2, True)


def test_prices_without_a_model_lists_what_the_accounts_sell_in_batches(prices: Any) -> None:
    told = json.loads(prices("--json").stdout)
    assert {quote["lane"] for quote in told} == {"batch"}
    assert {"openai:gpt-5-mini", "openai:text-embedding-3-small", "anthropic:claude-haiku-4-5"} <= {
        f"{quote['provider']}:{quote['model']}" for quote in told
    }


def test_what_is_listed_is_the_cheapest_first() -> None:
    inputs = [quote.rates.base.input for quote in sold_in_batches("openai", "openai", DAY, rates) if quote.rates]
    assert inputs == sorted(inputs)
