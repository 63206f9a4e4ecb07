"""Plan: requests + terms + prices + turnaround -> which model in which lane, what it costs, when it is due.

On the road: `snapshot`, `price`, `turnaround` -> **`plan`** -> `runner`.  Pure.
All acceptable models are compared in every lane; what is chosen is the cheapest, in expectation, that fits under the ceiling in
the worst case and that this version can run: the batch lane.  The other lanes are priced beside it, for comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from keld.errors import CeilingTooLow, PriceUnknown
from keld.price import Lane, Rates, Usage
from keld.turnaround import Turnaround

# A token is about 4 UTF-8 bytes of text in most languages; never much less than 2 but for base64 (facts, Nov 2026).
_EXPECTED_BYTES_A_TOKEN = 4
_WORST_BYTES_A_TOKEN = 2
_TOKENS_A_MESSAGE = 8  # the envelope around a message
_EXPECTED_OUTPUT = {"object": 60, "text": 150, "embedding": 0}  # tokens a row, until actual usage is known


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is to be asked, in numbers."""

    requests: int
    prompt_bytes: int  # of all rows together
    shared_bytes: int  # system prompt and schema, sent with each row
    output_kind: str
    max_output_tokens: int

    def usage(self) -> Usage:
        """Tokens of all requests together, as expected."""
        return Usage(
            input_tokens=self._input(_EXPECTED_BYTES_A_TOKEN),
            output_tokens=self.requests * min(self.max_output_tokens, _EXPECTED_OUTPUT[self.output_kind]),
        )

    def worst(self) -> Usage:
        """Tokens of all requests together, at worst."""
        output = 0 if self.output_kind == "embedding" else self.max_output_tokens
        return Usage(input_tokens=self._input(_WORST_BYTES_A_TOKEN), output_tokens=self.requests * output)

    def _input(self, bytes_a_token: int) -> int:
        return (self.prompt_bytes + self.requests * self.shared_bytes) // bytes_a_token + self.requests * _TOKENS_A_MESSAGE


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One acceptable model in one lane, with what is known of it."""

    provider: str
    model: str
    lane: Lane
    rates: Rates | None
    turnaround: Turnaround
    shards: int
    obstacle: str | None = None  # why it cannot be used, whatever it costs


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A candidate, reckoned; costs are for all requests of the partition."""

    provider: str
    model: str
    lane: Lane
    shards: int
    usage: Usage
    expected_usd: Decimal | None
    worst_usd: Decimal | None
    rates_source: str
    half_by: datetime  # when half of such submissions are back
    most_by: datetime  # when nine in ten are
    chance: float | None  # of being back before the deadline; None without one
    obstacle: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All options, the cheapest first, and which one is taken."""

    job: str
    partition: str
    rows: int
    unaskable: int
    reused: int
    work: Work
    options: tuple[Option, ...]
    chosen: Option | None  # None: nothing has to be asked
    due: datetime | None
    due_basis: str
    ceiling_usd: Decimal | None

    @property
    def standard_usd(self) -> Decimal | None:
        """What the chosen model would cost in the standard lane."""
        if self.chosen is None:
            return None
        same = (o for o in self.options if (o.provider, o.model, o.lane) == (self.chosen.provider, self.chosen.model, Lane.STANDARD))
        return next((option.expected_usd for option in same), None)


def reckon(candidate: Candidate, work: Work, now: datetime, due: datetime | None) -> Option:
    """What a candidate would cost and when it would be back."""
    usage, worst = work.usage(), work.worst()
    rates = candidate.rates
    return Option(
        provider=candidate.provider,
        model=candidate.model,
        lane=candidate.lane,
        shards=candidate.shards,
        usage=usage,
        expected_usd=_flat_cost(rates, usage, work.requests),
        worst_usd=_flat_cost(rates, worst, work.requests),
        rates_source=rates.source if rates else "no rate known",
        half_by=now + candidate.turnaround.quantile(0.5),
        most_by=now + candidate.turnaround.quantile(0.9),
        chance=None if due is None else candidate.turnaround.chance(due - now),
        obstacle=candidate.obstacle or (None if rates else "no rate known"),
    )


def choose(job: str, partition: str, options: Sequence[Option], ceiling: Decimal | None) -> Option:
    """The cheapest option of the batch lane whose worst case fits under the ceiling.

    Raises:
        PriceUnknown: no acceptable model has a known rate in the batch lane.
        CeilingTooLow: none fits; the message names the cheapest that would.
    """
    usable = [option for option in ordered(options) if option.lane is Lane.BATCH and option.obstacle is None]
    if not usable:
        reasons = "; ".join(f"{o.provider}:{o.model}: {o.obstacle}" for o in options if o.lane is Lane.BATCH)
        raise PriceUnknown(
            f"{job}[{partition}]: none of models can be used: {reasons}. Nothing was sent. "
            "Correct models=, or give a rate: prices={'provider:model': {'input': USD per million tokens, 'output': ...}}."
        )
    for option in usable:
        if ceiling is None or (option.worst_usd is not None and option.worst_usd <= ceiling):
            return option
    cheapest = min(usable, key=lambda option: option.worst_usd or Decimal(0))
    worst = (cheapest.worst_usd or Decimal(0)).quantize(Decimal("0.0001"), rounding="ROUND_CEILING")  # what is advised must be enough
    raise CeilingTooLow(
        f"The cheapest plan for {job}[{partition}] ({cheapest.provider}:{cheapest.model}, {cheapest.lane}) costs ${worst} at worst, "
        f"${cheapest.expected_usd:.4f} as expected; the ceiling is ${ceiling:f}. Nothing was sent. "
        f"Raise ceiling_usd to ${worst}, or lower max_output_tokens, which the worst case counts for every row."
    )


def ordered(options: Sequence[Option]) -> list[Option]:
    """The usable ones first, each kind by expected cost."""
    return sorted(options, key=lambda option: (option.obstacle is not None, option.expected_usd or Decimal(0), option.lane.value))


def share(total: Decimal, part: int, whole: int) -> Decimal:
    """`part` of `whole` of an amount, rounded up to the pico-dollar: shares of a worst case never add up to less than it."""
    if not whole:
        return Decimal(0)
    pico = Decimal(10) ** -12
    return (total * part / whole).quantize(pico, rounding="ROUND_CEILING")


def _flat_cost(rates: Rates | None, usage: Usage, requests: int) -> Decimal | None:
    """All requests at the rates of their mean length: brackets of very long requests count only where the mean is in them."""
    if rates is None:
        return None
    if not requests:
        return Decimal(0)
    one = Usage(input_tokens=-(-usage.input_tokens // requests), output_tokens=-(-usage.output_tokens // requests))
    return rates.cost(one) * requests
