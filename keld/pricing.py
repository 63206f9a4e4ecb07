"""Pricing: who says what a model costs: the job itself, our own list `prices.toml`, the library genai-prices.

On the road: `request` -> **`pricing`** -> `plan`; beside the nouns of `price`.  Both lists are in the package: nothing is fetched.

An unknown price is `None`, never a guess: genai-prices answers with the standard price, without saying so, if it has no rate for a lane, so
each of its answers is checked against the variants it was made from.  A model without a known rate is not run, with or without a ceiling:
the output table has each row's cost, and with an unknown cost the reservation, the spend report and the choice between models would be
guesses.  The user can give a rate with `prices=`; 0 is a rate.

If both lists know a rate and differ, the higher one holds, since a ceiling must hold, and `Rates.conflict` says what each has.
`prices.toml` is written by `make prices`.  Where it has a model's lane but not what long requests or cache writes cost in it, the standard
lane's rate is taken: no lane costs more than that.  Cached input without a rate of the lane costs as much as other input: at Vertex and
Bedrock the two discounts do not add up.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from difflib import get_close_matches
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import msgspec

from keld.errors import InvalidJob
from keld.price import FINEST, KINDS, Bracket, Lane, Quote, Rates, bracket_of, pico

_Brackets = dict[int, dict[str, Decimal]]  # by the number of input tokens they begin above, then by kind of token; the first at 0


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """Under which names a price list has an account's model, and what the account pays of its rates.

    Attributes:
        names: the first that `prices.toml` has is used.  The last is the plain one, by which genai-prices is asked, too.
        factor: what the account pays for one dollar of the list.
        regional: it is asked in one region, for which some models cost more (`regional` in `prices.toml`).
    """

    names: tuple[str, ...]
    factor: Decimal = Decimal(1)
    regional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """What one list says of a model in a lane."""

    model: str  # as that list names it
    brackets: _Brackets
    source: str
    dated: date | None


def rates(
    prices: str | None,
    model: str,
    lane: Lane,
    at: datetime,
    own: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    account: str | None = None,
    listed: Listed | None = None,
) -> Rates | None:
    """What `model` costs in `lane` on the day of `at`; None if no list says.

    Args:
        prices: the price list, as `prices.toml` or genai-prices name it; None: there is none.
        own: the job's `prices`, by `account:model`; they have precedence and hold for every lane.
        account: the account name used there; None: the name of the price list.
        listed: None: under its own name, at the list price.

    Raises:
        InvalidJob: an own price that is not a number.
    """
    name = f"{account or prices}:{model}"
    own_rates = (own or {}).get(name)
    if own_rates is not None:
        return Rates(brackets=(_own(name, own_rates),), source="the job's own prices")
    if prices is None:
        return None
    day = at.replace(hour=12, minute=0, second=0, microsecond=0)  # a list price holds for the day; one look-up each
    return _rates(prices, listed or Listed(names=(model,)), lane, day)


def has_list(name: str) -> bool:
    """True if there is a price list of that name."""
    from genai_prices.data_snapshot import get_snapshot

    return name in _sections() or any(source.id == name for source in get_snapshot().providers)


PriceOf = Callable[[str, str, Lane, datetime], Rates | None]  # account, model, lane, day -> rates


def quotes(account: str, model: str, at: datetime, price_of: PriceOf) -> list[Quote]:
    """The lanes in which the rate of an account's model is known, and in any case the batch lane."""
    found = [Quote(provider=account, model=model, lane=lane, rates=price_of(account, model, lane, at)) for lane in Lane]
    return [quote for quote in found if quote.rates or quote.lane is Lane.BATCH]


def quotes_of(names: Sequence[str], at: datetime, price_of: PriceOf) -> list[Quote]:
    """What models cost, lane by lane; a model that is in no list has one quote, without rates.

    Args:
        names: `account:model`.

    Raises:
        InvalidJob: a name without a provider.
    """
    found: list[Quote] = []
    for name in names:
        account, _, model = name.partition(":")
        if not account or not model:
            raise InvalidJob(f"{name!r}: say whose model it is, e.g. openai:{name or 'gpt-5-mini'}.")
        found += quotes(account, model, at, price_of)
    return found


def sold_in_batches(account: str, prices: str | None, at: datetime, price_of: PriceOf) -> list[Quote]:
    """The batch-lane quote of every model of an account that has a known rate there, the cheapest first."""
    from genai_prices.data_snapshot import get_snapshot

    section = _section(prices or "")
    genai = section.get("genai_prices", prices)
    names = {model.id for source in get_snapshot().providers if source.id == genai for model in source.models}
    names |= {name for name in section.get("models", {}) if "/" not in name}  # the others are a model in one region
    found = (
        (name, price_of(account, name, Lane.BATCH, at)) for name in names if not name.endswith("-")
    )  # the others are only prefixes of model names
    known = [Quote(provider=account, model=name, lane=Lane.BATCH, rates=rate) for name, rate in found if rate]
    return sorted(known, key=lambda quote: (quote.rates.base.input if quote.rates else 0, quote.model))


def like(model: str, names: Sequence[str]) -> list[str]:
    """The names that hold the text of a model's name, else those that are spelled like it; a few at most."""
    held = sorted((name for name in names if model.lower() in name.lower()), key=len)
    return held[:5] or get_close_matches(model, names, 3)


# -- a job's own prices ---------------------------------------------------------------------------------------


def _own(name: str, given: Mapping[str, Any]) -> Bracket:
    known = set(KINDS)
    if "input" not in given or set(given) - known:
        raise InvalidJob(
            f"prices['{name}'] has {sorted(given)}; it needs 'input' and may have {sorted(known - {'input'})}.", field="prices"
        )
    try:
        bracket = bracket_of(given)
        _ = [pico(getattr(bracket, kind)) for kind in KINDS]
    except InvalidOperation:
        raise InvalidJob(f"prices['{name}'] = {dict(given)}: every rate is USD per million tokens, a number.", field="prices") from None
    return bracket


# -- both lists -----------------------------------------------------------------------------------------------


@cache
def _rates(prices: str, listed: Listed, lane: Lane, at: datetime) -> Rates | None:
    name, ours, theirs = _entries(prices, listed, lane, at)
    entries = [entry for entry in (ours, theirs) if entry is not None]
    if not entries:
        return None
    brackets = _highest([entry.brackets for entry in entries])
    if ours is not None and lane is not Lane.STANDARD:
        _, *standard = _entries(prices, listed, Lane.STANDARD, at)
        brackets = _bounded(brackets, _highest([entry.brackets for entry in standard if entry is not None]))
    found = Rates(
        brackets=tuple(bracket_of(brackets[above], above) for above in sorted(brackets)),
        source="; ".join(entry.source for entry in entries),
        dated=entries[0].dated,
        conflict=_conflict(*entries) if len(entries) > 1 else None,
    )
    return found.times(listed.factor * (_uplift(prices, name) if listed.regional else 1))


def _entries(prices: str, listed: Listed, lane: Lane, at: datetime) -> tuple[str | None, _Entry | None, _Entry | None]:
    """The name of the model in our own list, and what that list and genai-prices say of it in the lane."""
    section, plain = _section(prices), listed.names[-1]
    name = next((name for name in listed.names if name in section.get("models", {})), None)
    ours = _ours(section, name, lane) if name is not None else None
    # A more special name is of one region: the plain one may rightly cost less.
    theirs = _genai(section.get("genai_prices", prices), plain, lane, at) if name in (None, plain) else None
    return name, ours, theirs if ours is None or theirs is None or not _of_more(plain, theirs.model) else None


def _of_more(name: str, listed: str) -> bool:
    """True if a list has `name` only under a less special one: eu.amazon.nova-lite-v1:0 as amazon.nova-lite-v1:0."""
    return name.partition(":")[0].endswith(f".{listed.partition(':')[0]}")


def _highest(lists: Sequence[_Brackets]) -> _Brackets:
    """The highest rate of each kind of token in each bracket; a list without a bracket has there what it has for shorter requests."""
    found: _Brackets = {}
    for above in sorted({above for brackets in lists for above in brackets}):
        given = [brackets[max(start for start in brackets if start <= above)] for brackets in lists]
        found[above] = {
            kind: max(rates[kind] for rates in given if kind in rates) for kind in KINDS if any(kind in rates for rates in given)
        }
    return found


def _bounded(lane: _Brackets, standard: _Brackets) -> _Brackets:
    """`lane`, with the standard lane's rates of long requests and of cache writes where the lane has none of its own."""
    if not standard:
        return lane
    found = {above: dict(rates) for above, rates in lane.items()} | {
        above: dict(rates) for above, rates in standard.items() if above not in lane
    }
    for above, rates in found.items():
        usual = standard[max(start for start in standard if start <= above)]
        for kind in ("cache_write", "cache_write_1h"):
            if kind in usual:
                rates.setdefault(kind, usual[kind])
    return found


def _conflict(ours: _Entry, theirs: _Entry) -> str | None:
    """What each of two lists says where they differ; None if they agree on all that both have."""
    differing = [
        (above, kind)
        for above in sorted(ours.brackets.keys() & theirs.brackets.keys())
        for kind in KINDS
        if kind in ours.brackets[above] and kind in theirs.brackets[above] and ours.brackets[above][kind] != theirs.brackets[above][kind]
    ]
    if not differing:
        return None

    def says(entry: _Entry) -> str:
        told = (
            f"{kind.replace('_', ' ')}{f' above {above:,}' if above else ''} {entry.brackets[above][kind]:f}" for above, kind in differing
        )
        return f"{entry.source}: {', '.join(told)}"

    return f"{says(ours)}; {says(theirs)}"


# -- our own list ---------------------------------------------------------------------------------------------


@cache
def _sections() -> dict[str, str]:
    """The text of each price list: the whole file takes the parser twenty times as long as the one list that is asked for."""
    parts = re.split(r"^(?=\[\w+\]$)", (files("keld") / "prices.toml").read_text(), flags=re.MULTILINE)
    return {part[1 : part.index("]")]: part for part in parts[1:]}


@cache
def _section(prices: str) -> dict[str, Any]:
    """Of a price list: `genai_prices`, `source`, `read`, and by model and lane the rates in USD per million tokens; empty if there is none."""
    text = _sections().get(prices)
    found: dict[str, Any] = {} if text is None else tomllib.loads(text, parse_float=Decimal)[prices]
    return found


def _ours(section: Mapping[str, Any], name: str, lane: Lane) -> _Entry | None:
    given = section["models"][name].get(lane.value)
    if given is None:
        return None
    brackets = {0: given} | {long["above"]: long for long in given.get("long", ())}
    return _Entry(
        model=name,
        brackets={above: {kind: Decimal(rates[kind]) for kind in KINDS if kind in rates} for above, rates in brackets.items()},
        source=section["source"],
        dated=section["read"],
    )


def _uplift(prices: str, name: str | None) -> Decimal:
    """How much more a model costs in one region; for a model that our list does not have, as much as for any that it has."""
    section = _section(prices)
    models = section.get("models", {})
    if name is not None:
        return Decimal(models[name].get("regional", 1))
    return max((Decimal(model.get("regional", 1)) for model in models.values()), default=Decimal(1))


# -- genai-prices ---------------------------------------------------------------------------------------------

_CONTEXT: dict[Lane, dict[str, str] | None] = {
    Lane.BATCH: {"processing": "batch"},
    Lane.FLEX: {"service_tier": "flex"},
    Lane.STANDARD: None,
}
_FIELDS = {"input": "input_mtok", "cached": "cache_read_mtok", "cache_write": "cache_write_mtok",
           "cache_write_1h": "cache_write_1h_mtok", "output": "output_mtok"}  # fmt: skip


def _genai(provider: str, model: str, lane: Lane, at: datetime) -> _Entry | None:
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
        return _entry(found, None)
    variant = _variant(found, context, at)
    return None if variant is None else _entry(found, getattr(variant.constraint, "start_date", None))


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


def _entry(found: Any, dated: date | None) -> _Entry | None:
    listed = {kind: value for kind, field in _FIELDS.items() if (value := getattr(found.model_price, field)) is not None}
    if "input" not in listed:
        return None  # priced by the image, the second or the request: not a model for rows of text
    starts = sorted({0} | {tier.start for value in listed.values() for tier in getattr(value, "tiers", ())})
    return _Entry(
        model=found.model.id,
        brackets={start: {kind: _rate_above(value, start) for kind, value in listed.items()} for start in starts},
        source=f"genai-prices {_genai_version()}, {found.provider.id} {found.model.id}",
        dated=dated,
    )


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
    return Decimal(rate).quantize(FINEST, ROUND_CEILING).normalize()
