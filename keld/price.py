"""Price: what tokens cost, by price list, model, lane and day.

On the road: `request` -> **`price`** -> `plan`.  Pure; the numbers come from genai-prices and `prices.toml`.
Money is USD in `Decimal`, never `float`, and nothing is rounded here: inside a shard it is counted in whole pico-dollars
(10^-12 USD), in which every list price per token is a whole number.  An unknown price is `None`, never a guess: genai-prices
answers with the standard price, without saying so, if it has no rate for a lane, so each of its answers is checked against the
variants it was made from.

A model without a known rate is not run, with or without a ceiling: the output table has each row's cost, and with an unknown cost the
reservation, the spend report and the choice between models would be guesses.  The user can give a rate with `prices=`; 0 is a rate.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from keld.errors import InvalidJob

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PICO = Decimal(10) ** 12
_PER_MTOK = 10**6  # one USD per million tokens is 10^6 pico-dollars a token


class Lane(StrEnum):
    """The same request at another speed and price."""

    BATCH = "batch"
    FLEX = "flex"
    STANDARD = "standard"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one answer used.  `input_tokens` holds the cached and the cache-written ones, `output_tokens` the reasoning ones."""

    input_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0  # all of them; those with the 1 h ttl are also counted below
    cache_write_1h_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bracket:
    """Rates in USD per million tokens for requests of more than `above` input tokens."""

    above: int
    input: Decimal
    cached: Decimal
    cache_write: Decimal
    cache_write_1h: Decimal
    output: Decimal

    def worst_case(self, unmarked: bool, hour: bool) -> Bracket:
        """See `Rates.worst_case`."""
        write, write_1h = max(self.input, self.cache_write), max(self.input, self.cache_write_1h)
        every = max(write, write_1h) if hour else write if unmarked else self.input
        return replace(self, input=every, cache_write=max(write, every), cache_write_1h=max(write_1h, every))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What a model costs in a lane on a day.  A request is priced whole in the highest bracket it reaches."""

    brackets: tuple[Bracket, ...]  # by `above`, the first at 0
    source: str
    dated: date | None = (
        None  # when our own table was read from the vendor's page, or since when the price list has it; None: it does not say
    )

    @property
    def base(self) -> Bracket:
        return self.brackets[0]

    def cost(self, usage: Usage) -> Decimal:
        """USD for one answer, exact.

        >>> rates = Rates(brackets=(_bracket({"input": 0.5, "cached": 0.05, "cache_write": 0.625, "cache_write_1h": 1, "output": 2.5}),), source="")
        >>> rates.cost(Usage(input_tokens=10_050, cached_tokens=8_000, cache_write_tokens=2_000, cache_write_1h_tokens=2_000, output_tokens=300))
        Decimal('0.003175')
        """
        import numpy as np

        one = [np.array([n], dtype=np.int64) for n in _counts(usage)]
        return Decimal(int(self.cost_pico(*one)[0])) / PICO

    def total(self, usage: Usage, request_tokens: int) -> Decimal:
        """USD for many answers that used `usage` together, all in the bracket of a request of `request_tokens` input tokens; exact."""
        bracket = [bracket for bracket in self.brackets if not bracket.above or request_tokens > bracket.above][-1]
        fresh = usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens
        usd_a_million = (
            fresh * bracket.input
            + usage.cached_tokens * bracket.cached
            + (usage.cache_write_tokens - usage.cache_write_1h_tokens) * bracket.cache_write
            + usage.cache_write_1h_tokens * bracket.cache_write_1h
            + usage.output_tokens * bracket.output
        )
        return usd_a_million / 10**6

    def worst_case(self, *, unmarked: bool = True, hour: bool = False) -> Rates:
        """The rates of the worst case: a cache write costs at least plain input, which is what a beginning that is too short is billed as.

        Args:
            unmarked: every input token may be written, for minutes: from gpt-5.6 on OpenAI's lists have a rate for it above the plain one
                (genai-prices, Nov 2026), and it needs no mark in the request.
            hour: every input token may be written for an hour: the user sets the marks.
        """
        return replace(self, brackets=tuple(bracket.worst_case(unmarked, hour) for bracket in self.brackets))

    def cost_pico(
        self,
        input_tokens: NDArray[np.int64],
        cached: NDArray[np.int64],
        cache_write: NDArray[np.int64],
        cache_write_1h: NDArray[np.int64],
        output: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """N pico-dollars for N answers, exact; the arguments as the fields of `Usage`."""
        import numpy as np

        total = np.zeros(len(input_tokens), dtype=np.int64)
        for bracket in self.brackets:  # a later, higher bracket overwrites the result of an earlier one
            cost = (
                (input_tokens - cached - cache_write) * _pico(bracket.input)
                + cached * _pico(bracket.cached)
                + (cache_write - cache_write_1h) * _pico(bracket.cache_write)
                + cache_write_1h * _pico(bracket.cache_write_1h)
                + output * _pico(bracket.output)
            )
            total = np.where(input_tokens > bracket.above, cost, total) if bracket.above else cost
        return total


def rates(
    prices: str | None,
    model: str,
    lane: Lane,
    at: datetime,
    own: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    account: str | None = None,
) -> Rates | None:
    """What `model` costs in `lane` on the day of `at`; None if no list says.

    Args:
        prices: the price list, as genai-prices and `prices.toml` name them; None: there is none.
        own: the job's `prices`, by `account:model`; they have precedence and hold for every lane.
        account: the account name used there; None: the name of the price list.

    Raises:
        InvalidJob: an own price that is not a number.
    """
    name = f"{account or prices}:{model}"
    own_rates = (own or {}).get(name)
    if own_rates is not None:
        return Rates(brackets=(_own(name, own_rates),), source="the job's own prices")
    if prices is None:
        return None
    return _override(prices, model, lane) or _genai(prices, model, lane, at)


def has_list(name: str) -> bool:
    """True if there is a price list of that name."""
    from genai_prices.data_snapshot import get_snapshot

    return name in _overrides() or any(source.id == name for source in get_snapshot().providers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """One model in one lane; rates None: no list says what it costs there.  `provider` is the account's name."""

    provider: str
    model: str
    lane: Lane
    rates: Rates | None


def quotes(account: str, prices: str | None, model: str, at: datetime) -> list[Quote]:
    """The lanes in which the rate of an account's model is known, and in any case the batch lane."""
    found = [Quote(provider=account, model=model, lane=lane, rates=rates(prices, model, lane, at)) for lane in Lane]
    return [quote for quote in found if quote.rates or quote.lane is Lane.BATCH]


def quotes_of(names: Sequence[str], price_list: Callable[[str], str | None], at: datetime) -> list[Quote]:
    """What models cost, lane by lane; a model that is in no list has one quote, without rates.

    Args:
        names: `account:model`.
        price_list: the name of an account -> the price list of its models.

    Raises:
        InvalidJob: a name without a provider.
    """
    found: list[Quote] = []
    for name in names:
        account, _, model = name.partition(":")
        if not account or not model:
            raise InvalidJob(f"{name!r}: say whose model it is, e.g. openai:{name or 'gpt-5-mini'}.")
        found += quotes(account, price_list(account), model, at)
    return found


def sold_in_batches(account: str, prices: str | None, at: datetime) -> list[Quote]:
    """The batch-lane quote of every model of an account that has a known rate there, the cheapest first."""
    from genai_prices.data_snapshot import get_snapshot

    listed = {model.id for source in get_snapshot().providers if source.id == prices for model in source.models}
    names = listed | set(_overrides().get(prices or "", {}))
    found = (
        (name, rates(prices, name, Lane.BATCH, at)) for name in names if not name.endswith("-")
    )  # the others are only prefixes of model names
    known = [Quote(provider=account, model=name, lane=Lane.BATCH, rates=rate) for name, rate in found if rate]
    return sorted(known, key=lambda quote: (quote.rates.base.input if quote.rates else 0, quote.model))


def _counts(usage: Usage) -> tuple[int, int, int, int, int]:
    return (usage.input_tokens, usage.cached_tokens, usage.cache_write_tokens, usage.cache_write_1h_tokens, usage.output_tokens)


def _pico(usd_per_mtok: Decimal) -> int:
    pico = usd_per_mtok * _PER_MTOK
    if not pico.is_finite() or pico < 0:
        raise InvalidJob(f"A price of {usd_per_mtok} USD per million tokens is not valid; give a number of at least 0.")
    if pico != pico.to_integral_value():
        raise InvalidJob(f"A price of {usd_per_mtok} USD per million tokens is finer than Keld counts (10^-6). Give it with 6 decimals.")
    return int(pico)


def _bracket(given: Mapping[str, Any], above: int = 0) -> Bracket:
    """The rates of `given`; a missing rate is that of the more general kind (cached input: input)."""
    full = Decimal(str(given["input"]))
    write = Decimal(str(given.get("cache_write", full)))
    return Bracket(
        above=above,
        input=full,
        cached=Decimal(str(given.get("cached", full))),
        cache_write=write,
        cache_write_1h=Decimal(str(given.get("cache_write_1h", write))),
        output=Decimal(str(given.get("output", 0))),
    )


def _own(name: str, given: Mapping[str, Any]) -> Bracket:
    known = {"input", "cached", "cache_write", "cache_write_1h", "output"}
    if "input" not in given or set(given) - known:
        raise InvalidJob(
            f"prices['{name}'] has {sorted(given)}; it needs 'input' and may have {sorted(known - {'input'})}.", field="prices"
        )
    try:
        bracket = _bracket(given)
        _ = [_pico(rate) for rate in (bracket.input, bracket.cached, bracket.cache_write, bracket.cache_write_1h, bracket.output)]
    except InvalidOperation:
        raise InvalidJob(f"prices['{name}'] = {dict(given)}: every rate is USD per million tokens, a number.", field="prices") from None
    return bracket


@cache
def _overrides() -> dict[str, Any]:
    return tomllib.loads((files("keld") / "prices.toml").read_text())


def _override(provider: str, model: str, lane: Lane) -> Rates | None:
    table = _overrides().get(provider, {}).get(model, {}).get(lane.value)
    if table is None:
        return None
    return Rates(brackets=(_bracket(table),), source=table["source"], dated=table["read"])


_CONTEXT: dict[Lane, dict[str, str] | None] = {
    Lane.BATCH: {"processing": "batch"},
    Lane.FLEX: {"service_tier": "flex"},
    Lane.STANDARD: None,
}


@cache
def _genai_cached(provider: str, model: str, lane: Lane, at: datetime) -> Rates | None:
    import genai_prices

    context = _CONTEXT[lane]
    try:
        found = genai_prices.calc_price(
            genai_prices.Usage(input_tokens=0, output_tokens=0),
            model,
            provider_id=provider,
            genai_request_timestamp=at,
            price_context=context,
        )
    except (LookupError, ValueError):
        return None
    if context is None:
        return _from_model_price(found, None)
    variant = _variant(found, context, at)
    return None if variant is None else _from_model_price(found, getattr(variant.constraint, "start_date", None))


def _genai(provider: str, model: str, lane: Lane, at: datetime) -> Rates | None:
    day = at.replace(hour=12, minute=0, second=0, microsecond=0)  # a list price holds for the day; one look-up each
    return _genai_cached(provider, model, lane, day)


def _variant(found: Any, context: Mapping[str, str], at: datetime) -> Any:
    """The rate that genai-prices really has for the lane; None if it used the standard price instead."""
    if not any(found.model is model for model in found.provider.models):
        return None  # reached through another provider's list: the context was ignored
    fitting = (
        variant
        for variant in found.model.price_variants or ()
        if variant.when and all(context.get(key) == value for key, value in variant.when.items())
        and (variant.constraint is None or variant.constraint.active(at))
    )  # fmt: skip
    return next(fitting, None)


def _from_model_price(found: Any, dated: date | None) -> Rates | None:
    names = {"input": "input_mtok", "cached": "cache_read_mtok", "cache_write": "cache_write_mtok",
             "cache_write_1h": "cache_write_1h_mtok", "output": "output_mtok"}  # fmt: skip
    listed = {name: getattr(found.model_price, attribute) for name, attribute in names.items()}
    if listed["input"] is None:
        return None  # priced by the image, the second or the request: not a model for rows of text
    starts = sorted({0} | {tier.start for value in listed.values() for tier in getattr(value, "tiers", ())})
    brackets = [
        _bracket({name: _rate_above(value, start) for name, value in listed.items() if value is not None}, start) for start in starts
    ]
    return Rates(brackets=tuple(brackets), source=f"genai-prices {_genai_version()}, {found.provider.id} {found.model.id}", dated=dated)


@cache
def _genai_version() -> str:
    return version("genai-prices")


def _rate_above(value: Any, start: int) -> Decimal:
    """The rate of a flat or tiered price for requests of just more than `start` input tokens."""
    rate = getattr(value, "base", value)
    for tier in getattr(value, "tiers", ()):
        if tier.start <= start and start:
            rate = tier.price
    # Some lists hold rounding errors of binary floats (0.18000000000000002); rounded up, so that a ceiling holds.
    return Decimal(rate).quantize(Decimal("0.000001"), rounding="ROUND_CEILING").normalize()
