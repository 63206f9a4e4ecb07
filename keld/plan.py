"""Plan: requests + terms + prices + turnaround -> which model in which lane, what it costs, when it is due.

On the road: `snapshot`, `price`, `turnaround` -> **`plan`** -> `runner`.  Pure.
All acceptable models are compared in every lane; what is chosen is the cheapest, in expectation, that fits under the ceiling in
the worst case and that this version can run: the batch lane.  The other lanes are priced beside it, for comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec

from keld.errors import CeilingTooLow, PriceUnknown
from keld.price import Lane, Rates, Usage
from keld.request import Question
from keld.schema import OutputSchema
from keld.shard import Slice
from keld.turnaround import Turnaround

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# A token is about 4 UTF-8 bytes of text in most languages; never much less than 2 but for base64 (facts, Nov 2026).
_EXPECTED_BYTES_A_TOKEN = 4
_WORST_BYTES_A_TOKEN = 2
_TOKENS_A_MESSAGE = 8  # the envelope around a message
_EXPECTED_OUTPUT = {"object": 60, "text": 150, "embedding": 0}  # tokens a row, until actual usage is known


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is to be asked, in numbers: of a partition, or of one slice of it."""

    requests: int
    prompt_bytes: int  # of all rows together
    longest_bytes: int  # of the longest row
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

    def expected_usd(self, rates: Rates) -> Decimal:
        """What is expected to be paid: the rates of a request of mean length."""
        mean = self._input(_EXPECTED_BYTES_A_TOKEN) // max(self.requests, 1)
        return rates.total(self.usage(), mean)

    def worst_usd(self, rates: Rates) -> Decimal:
        """What is reserved under a ceiling: the rates that the longest request could reach, for all of them."""
        longest = (self.longest_bytes + self.shared_bytes) // _WORST_BYTES_A_TOKEN + _TOKENS_A_MESSAGE
        return rates.total(self.worst(), longest)

    def of(self, part: Slice, overhead_bytes: int) -> Work:
        """The same for one slice; the worst cases of all slices never add up to more than that of the whole."""
        return replace(self, requests=part.requests, prompt_bytes=part.size_bytes - part.requests * overhead_bytes)

    def _input(self, bytes_a_token: int) -> int:
        return (self.prompt_bytes + self.requests * self.shared_bytes) // bytes_a_token + self.requests * _TOKENS_A_MESSAGE


def work_of(question: Question, sizes: NDArray[np.int64]) -> Work:
    """The work of asking `question` of rows whose prompt fragments have these sizes in bytes (0: the row is not asked)."""
    output = OutputSchema.from_json(question.output)
    schema = msgspec.json.encode(output.json_schema) if output.json_schema else b""
    return Work(
        requests=int((sizes > 0).sum()),
        prompt_bytes=int(sizes.sum()),
        longest_bytes=int(sizes.max(initial=0)),
        shared_bytes=len((question.system or "").encode()) + len(schema),
        output_kind=output.kind,
        max_output_tokens=question.max_output_tokens,
    )


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


@dataclass(frozen=True, slots=True)
class Worth:
    """What a slice costs at worst, which is reserved, and as expected."""

    worst_usd: Decimal
    expected_usd: Decimal


def reckoner(work: Work, overhead_bytes: int, rates: Rates) -> Callable[[Slice], Worth]:
    """A function that gives a slice's worth, by its own bytes.

    Args:
        work: that of all slices together.
        overhead_bytes: what a request line adds to a prompt fragment; slices count it in.
    """

    def worth(part: Slice) -> Worth:
        portion = work.of(part, overhead_bytes)
        return Worth(portion.worst_usd(rates), portion.expected_usd(rates))

    return worth


def reckon(candidate: Candidate, work: Work, now: datetime, due: datetime | None) -> Option:
    """What a candidate would cost and when it would be back."""
    rates = candidate.rates
    return Option(
        provider=candidate.provider,
        model=candidate.model,
        lane=candidate.lane,
        shards=candidate.shards,
        usage=work.usage(),
        expected_usd=work.expected_usd(rates) if rates else None,
        worst_usd=work.worst_usd(rates) if rates else None,
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
