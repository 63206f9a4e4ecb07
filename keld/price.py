"""Price: what tokens cost, as nouns and sums.

On the road: `request` -> **`price`** -> `plan`.  Pure; who says what a model costs is `pricing`.
Money is USD in `Decimal`, never `float`, and nothing is rounded here: inside a shard it is counted in whole pico-dollars
(10^-12 USD), in which every list price per token is a whole number.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import ROUND_CEILING, Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from keld.errors import InvalidJob

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PICO = Decimal(10) ** 12
KINDS = ("input", "cached", "cache_write", "cache_write_1h", "output")  # of tokens, as a price list's rates and the fields of `Bracket`
FINEST = Decimal("0.000001")  # USD per million tokens: one pico-dollar a token
_PER_MTOK = 10**6  # one USD per million tokens is 10^6 pico-dollars a token


class Lane(StrEnum):
    """The same request at another speed and price."""

    BATCH = "batch"
    FLEX = "flex"
    STANDARD = "standard"


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What one answer used.  `input_tokens` holds the cached and the cache-written ones, `output_tokens` the reasoning ones."""

    input_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0  # all of them; those with the 1 h ttl are also counted below
    cache_write_1h_tokens: int = 0
    output_tokens: int = 0


class Bracket(msgspec.Struct, frozen=True, kw_only=True):
    """Rates in USD per million tokens for requests of more than `above` input tokens."""

    above: int
    input: Decimal
    cached: Decimal
    cache_write: Decimal
    cache_write_1h: Decimal
    output: Decimal

    def times(self, factor: Decimal) -> Bracket:
        """Every rate times `factor`, rounded up to what Keld counts, so that a ceiling holds."""
        rates = {name: (getattr(self, name) * factor).quantize(FINEST, ROUND_CEILING).normalize() for name in KINDS}
        return replace(self, **rates)

    def worst_case(self, unmarked: bool, hour: bool) -> Bracket:
        """See `Rates.worst_case`."""
        write, write_1h = max(self.input, self.cache_write), max(self.input, self.cache_write_1h)
        every = max(write, write_1h) if hour else write if unmarked else self.input
        return replace(self, input=every, cache_write=max(write, every), cache_write_1h=max(write_1h, every))


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """What a model costs in a lane on a day.  A request is priced whole in the highest bracket it reaches."""

    brackets: tuple[Bracket, ...]  # by `above`, the first at 0
    source: str
    dated: date | None = None  # of our own table the day of its snapshot, of genai-prices since when it has the rate; None: it does not say
    conflict: str | None = None  # what each list says, if two lists differ; the rates are then the higher ones
    gpu_hour_usd: Decimal | None = None  # the time of the host is paid (`gpu_time`), and its tokens cost nothing

    @property
    def base(self) -> Bracket:
        return self.brackets[0]

    def times(self, factor: Decimal) -> Rates:
        """The rates of an account that pays `factor` times the list price, e.g. Decimal("1.1") for a data zone."""
        if factor == 1:
            return self
        return replace(self, brackets=tuple(bracket.times(factor) for bracket in self.brackets), source=f"{self.source}, times {factor}")

    def cost(self, usage: Usage) -> Decimal:
        """USD for one answer, exact.

        >>> rates = Rates(brackets=(bracket_of({"input": 0.5, "cached": 0.05, "cache_write": 0.625, "cache_write_1h": 1, "output": 2.5}),), source="")
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
                (input_tokens - cached - cache_write) * pico(bracket.input)
                + cached * pico(bracket.cached)
                + (cache_write - cache_write_1h) * pico(bracket.cache_write)
                + cache_write_1h * pico(bracket.cache_write_1h)
                + output * pico(bracket.output)
            )
            total = np.where(input_tokens > bracket.above, cost, total) if bracket.above else cost
        return total


class Quote(msgspec.Struct, frozen=True, kw_only=True):
    """One model in one lane; rates None: no list says what it costs there.  `provider` is the account's name."""

    provider: str
    model: str
    lane: Lane
    rates: Rates | None


def _counts(usage: Usage) -> tuple[int, int, int, int, int]:
    return (usage.input_tokens, usage.cached_tokens, usage.cache_write_tokens, usage.cache_write_1h_tokens, usage.output_tokens)


def pico(usd_per_mtok: Decimal) -> int:
    """Pico-dollars a token.

    Raises:
        InvalidJob: it is no price, or finer than Keld counts.
    """
    exact = usd_per_mtok * _PER_MTOK
    if not exact.is_finite() or exact < 0:
        raise InvalidJob(f"A price of {usd_per_mtok} USD per million tokens is not valid; give a number of at least 0.")
    if exact != exact.to_integral_value():
        raise InvalidJob(f"A price of {usd_per_mtok} USD per million tokens is finer than Keld counts (10^-6). Give it with 6 decimals.")
    return int(exact)


def bracket_of(given: Mapping[str, Any], above: int = 0) -> Bracket:
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


def by_the_hour(gpu_hour_usd: Decimal) -> Rates:
    """The rates of a host whose time is paid, and not its tokens."""
    source = f"${gpu_hour_usd.normalize():f} an hour of the host"
    return Rates(brackets=(bracket_of({"input": 0}),), source=source, gpu_hour_usd=gpu_hour_usd)
