"""Plan: requests + terms + prices + turnaround -> which model in which lane, what it costs, when it is due.

On the road: `price`, `estimate`, `turnaround`, `deadline` -> **`plan`** -> `runner`.  Pure; the runner plans the rest of a job run anew with it.
All acceptable models are compared in every lane that their provider sells.  What is chosen is the cheapest, in expectation, that keeps the
deadline with the wished probability and fits under the ceiling in the worst case.  A batch is reckoned with its rescue: where a
fast lane can take over before the deadline is lost, the deadline is as good as kept, and the chance that it must costs what it costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec

from keld.cache import UNMARKED, Cache, Ttl, without_mark
from keld.deadline import Pace
from keld.errors import CeilingTooLow, PriceUnknown
from keld.estimate import TOKENS_A_MESSAGE, WORST_BYTES_A_TOKEN, Estimate, prior
from keld.price import Lane, Rates, Usage
from keld.request import Question
from keld.schema import OutputSchema
from keld.turnaround import Turnaround

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Flex costs what a batch does, and holds a worker all the while: without a worth of its time no small job would ever be a batch.
_WORKER_USD_AN_HOUR = Decimal("0.10")


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is to be asked, in numbers: of a partition, or of one slice of it."""

    requests: int
    prompt_bytes: int  # of all rows together
    longest_bytes: int  # of the longest row
    shared_bytes: int  # system prompt, schema and tools, sent with each row
    output_kind: str
    max_output_tokens: int

    def usage(self, estimate: Estimate | None = None, cache: Cache = UNMARKED) -> Usage:
        """Tokens of all requests together, as expected; never more than at worst."""
        estimate, cache = estimate or prior(self.output_kind), cache.of(self.requests)
        row = min(float(self.max_output_tokens), estimate.output_tokens_a_row) if self.output_kind != "embedding" else 0.0
        bytes_a_token = max(estimate.bytes_a_token, WORST_BYTES_A_TOKEN)
        shared = int(self.requests * self.shared_bytes // bytes_a_token)
        kept, read = shared >= self.requests * cache.least_tokens, cache.read(shared, self.requests)
        written = shared - read if kept and cache.ttl is not None else 0
        return Usage(
            input_tokens=self._input(bytes_a_token),
            cached_tokens=read,
            cache_write_tokens=written,
            cache_write_1h_tokens=written if cache.ttl is Ttl.HOUR else 0,
            output_tokens=int(self.requests * row),
        )

    def worst(self, cache: Cache = UNMARKED) -> Usage:
        """Tokens of all requests together, at worst: every marked beginning is written, and none is read."""
        output, cache = 0 if self.output_kind == "embedding" else self.max_output_tokens, cache.of(self.requests)
        written = self.requests * (self.shared_bytes // WORST_BYTES_A_TOKEN + TOKENS_A_MESSAGE) if cache.ttl is not None else 0
        return Usage(
            input_tokens=self._input(WORST_BYTES_A_TOKEN),
            cache_write_tokens=written,
            cache_write_1h_tokens=written if cache.ttl is Ttl.HOUR else 0,
            output_tokens=self.requests * output,
        )

    def expected_usd(self, rates: Rates, estimate: Estimate | None = None, cache: Cache = UNMARKED) -> Decimal:
        """What is expected to be paid: the rates of a request of mean length."""
        usage = self.usage(estimate, cache)
        return rates.total(usage, usage.input_tokens // max(self.requests, 1))

    def worst_usd(self, rates: Rates, cache: Cache = UNMARKED) -> Decimal:
        """What is reserved under a ceiling: the rates that the longest request could reach, for all of them."""
        longest = (self.longest_bytes + self.shared_bytes) // WORST_BYTES_A_TOKEN + TOKENS_A_MESSAGE
        return rates.total(self.worst(cache), longest)

    def of(self, requests: int, prompt_bytes: int) -> Work:
        """The same for one part of it; the worst cases of all parts never add up to more than that of the whole."""
        return replace(self, requests=requests, prompt_bytes=prompt_bytes)

    @property
    def text_bytes(self) -> int:
        """All that the model reads."""
        return self.prompt_bytes + self.requests * self.shared_bytes

    def _input(self, bytes_a_token: float) -> int:
        return int(self.text_bytes // bytes_a_token) + self.requests * TOKENS_A_MESSAGE


def work_of(question: Question, sizes: NDArray[np.int64]) -> Work:
    """The work of asking `question` of rows whose prompt fragments have these sizes in bytes (0: the row is not asked)."""
    return Work(
        requests=int((sizes > 0).sum()),
        prompt_bytes=int(sizes.sum()),
        longest_bytes=int(sizes.max(initial=0)),
        shared_bytes=sum(len(text.encode()) for text in shared_texts(question)),
        output_kind=OutputSchema.from_json(question.output).kind,
        max_output_tokens=question.max_output_tokens,
    )


def shared_texts(question: Question) -> tuple[str, ...]:
    """What is sent with every row, and read by the model: the system prompt, the schema, and what `params` has of the kind."""
    schema = OutputSchema.from_json(question.output).json_schema
    own = {name: question.params[name] for name in _READ_PARAMS if name in question.params}
    return question.system or "", *(msgspec.json.encode(part).decode() for part in (schema, own) if part)


_READ_PARAMS = ("tools", "functions", "system", "instructions")


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
    estimate: Estimate | None = None  # of its tokens; None: by the prior
    worst_rates: Rates | None = None  # where an answer may cost more than the lane's rate: flex may be served, and billed, as standard
    cache: Cache = UNMARKED  # what becomes of the shared beginning of its requests

    def expected_usd(self, work: Work) -> Decimal | None:
        return work.expected_usd(self.rates, self.estimate, self.cache) if self.rates else None

    def worst_usd(self, work: Work) -> Decimal | None:
        return work.worst_usd(self.worst_rates or self.rates, self.cache) if self.rates else None

    def affordable(self, work: Work, terms: Terms) -> Candidate:
        """The same, without its mark where the ceiling has no room for a cache that every row writes."""
        return self if terms.fits(self.worst_usd(work)) else replace(self, cache=without_mark(self.cache))

    @property
    def name(self) -> str:
        return f"{self.provider}:{self.model} {self.lane.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A candidate, reckoned; costs are for all requests that are to be asked.

    `expected_usd` is the lane's own cost, `risk_usd` that of the rescue times the chance that it is needed; `chance` is that of keeping
    the deadline, None without one.
    """

    provider: str
    model: str
    lane: Lane
    shards: int
    usage: Usage
    estimate: Estimate
    expected_usd: Decimal | None
    worst_usd: Decimal | None
    risk_usd: Decimal
    rates_source: str
    half_by: datetime  # when half of such submissions are back
    most_by: datetime  # when nine in ten are
    chance: float | None
    rescued_by: str | None  # the fast lane that takes over where a batch is late
    held: timedelta  # how long a worker is expected to be held; a batch holds none
    obstacle: str | None
    cache: Cache = UNMARKED

    @property
    def total_usd(self) -> Decimal:
        """What it is expected to cost in the end."""
        return (self.expected_usd or Decimal(0)) + self.risk_usd

    @property
    def burden(self) -> Decimal:
        """What options are ordered by: the cost, and the worth of the worker's time that it takes."""
        return self.total_usd + Decimal(str(self.held.total_seconds())) * _WORKER_USD_AN_HOUR / 3_600


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All options, the cheapest first, and which one is taken."""

    job: str
    partition: str
    rows: int
    unaskable: int
    reused: int
    identical: int  # rows that repeat another one's prompt, and take its answer
    work: Work
    options: tuple[Option, ...]
    chosen: Option | None  # None: nothing has to be asked
    due: datetime | None
    due_basis: str
    ceiling_usd: Decimal | None
    probability: float

    @property
    def standard_usd(self) -> Decimal | None:
        """What the chosen model would cost in the standard lane."""
        if self.chosen is None:
            return None
        same = (o for o in self.options if (o.provider, o.model, o.lane) == (self.chosen.provider, self.chosen.model, Lane.STANDARD))
        return next((option.expected_usd for option in same), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the options are held against.

    Args:
        due: the deadline; None: there is none.
        ceiling_usd: what may still be spent; None: no ceiling.
        probability: of keeping the deadline, that is wished.
        lane: the one the user insists on; None: any.
    """

    now: datetime
    due: datetime | None = None
    ceiling_usd: Decimal | None = None
    probability: float = 0.99
    lane: Lane | None = None
    pace: Pace = field(default_factory=Pace)

    def fits(self, worst_usd: Decimal | None) -> bool:
        return self.ceiling_usd is None or (worst_usd is not None and worst_usd <= self.ceiling_usd)


def reckon(candidates: Sequence[Candidate], work: Work, terms: Terms) -> list[Option]:
    """What each candidate would cost, when it would be back, and whether the deadline would be kept; the usable ones first, by total cost."""
    candidates = [candidate.affordable(work, terms) for candidate in candidates]
    rescue = _rescue(candidates, work, terms)
    options = [_option(candidate, rescue, work, terms) for candidate in candidates]
    return sorted(options, key=lambda option: (option.obstacle is not None, option.burden, _LANES.index(option.lane)))


_LANES = (Lane.BATCH, Lane.FLEX, Lane.STANDARD)  # at the same cost: the one that needs no worker first
_BATCH_LEAST = timedelta(hours=1)  # somebody waits: nobody's batches come back that soon often enough to be worth a try
_SURE = 0.999  # nothing on a network is surer


def _rescue(candidates: Sequence[Candidate], work: Work, terms: Terms) -> Candidate | None:
    """The cheapest standard lane that all rows could be rescued through without breaking the ceiling."""
    able = [
        (candidate.expected_usd(work), candidate)
        for candidate in candidates
        if candidate.lane is Lane.STANDARD and candidate.obstacle is None and candidate.rates and terms.fits(candidate.worst_usd(work))
    ]
    return min(able, key=lambda pair: pair[0] or Decimal(0))[1] if able and terms.lane is None else None


def _option(candidate: Candidate, rescue: Candidate | None, work: Work, terms: Terms) -> Option:
    rates, lane = candidate.rates, candidate.lane
    chance, risk, rescued_by = None, Decimal(0), None
    held = timedelta(0) if lane is Lane.BATCH else terms.pace.stretch(work.requests, flex=lane is Lane.FLEX) / terms.pace.safety
    if terms.due is not None:
        chance = _chance(candidate, work, terms, terms.due - terms.now)
        if rescue is not None and rescue.rates is not None and lane is not Lane.STANDARD:
            back = _chance_before_rescue(candidate, work, terms, terms.due - terms.now)
            if back is not None:
                chance, rescued_by = back + (1 - back) * _SURE, rescue.name
                dearer = (rescue.expected_usd(work) or Decimal(0)) - (candidate.expected_usd(work) or Decimal(0))
                held += (1 - back) * terms.pace.stretch(work.requests)
                risk = max(dearer, Decimal(0)) * Decimal(str(round(1 - back, 6)))  # what a batch has not answered is not paid
    half, most = (terms.now + _takes(candidate, work, terms, share) for share in (0.5, 0.9))
    return Option(
        provider=candidate.provider,
        model=candidate.model,
        lane=lane,
        shards=candidate.shards,
        usage=work.usage(candidate.estimate, candidate.cache),
        estimate=candidate.estimate or prior(work.output_kind),
        expected_usd=candidate.expected_usd(work),
        worst_usd=candidate.worst_usd(work),
        risk_usd=risk,
        rates_source=rates.source if rates else "no rate known",
        half_by=half,
        most_by=most,
        chance=chance,
        rescued_by=rescued_by,
        held=held,
        obstacle=candidate.obstacle or (None if rates else "no rate known"),
        cache=candidate.cache.of(work.requests),
    )


def _takes(candidate: Candidate, work: Work, terms: Terms, share: float) -> timedelta:
    """Within which span a share of such submissions comes back."""
    one = candidate.turnaround.quantile(share)
    if candidate.lane is Lane.BATCH:
        return one
    return one + terms.pace.stretch(work.requests, flex=candidate.lane is Lane.FLEX) / terms.pace.safety


def _chance(candidate: Candidate, work: Work, terms: Terms, span: timedelta) -> float:
    """Of being back within `span` by itself."""
    if candidate.lane is Lane.BATCH:
        return candidate.turnaround.chance(span - terms.pace.collect)
    left = span - terms.pace.collect - terms.pace.stretch(work.requests, flex=candidate.lane is Lane.FLEX)
    return min(_SURE, candidate.turnaround.chance(left))


def _chance_before_rescue(candidate: Candidate, work: Work, terms: Terms, span: timedelta) -> float | None:
    """Of being back before it must be given up; None where it cannot be waited for at all."""
    wait = span - terms.pace.rescue(work.requests)
    if wait <= timedelta(0) or (candidate.lane is Lane.BATCH and span < _BATCH_LEAST):
        return None
    if candidate.lane is Lane.BATCH:
        return candidate.turnaround.chance(wait)
    return _SURE if terms.pace.stretch(work.requests, flex=True) <= wait else None


def choose(job: str, partition: str, options: Sequence[Option], terms: Terms) -> Option:
    """The cheapest option, in the end, that keeps the deadline with the wished probability and whose worst case fits under the ceiling.

    Where none keeps it, the likeliest of those that fit: late is better than never, and the check says so.

    Raises:
        PriceUnknown: no acceptable model has a known rate in a lane that may be taken.
        CeilingTooLow: none fits; the message names the cheapest that would.
    """
    allowed = [option for option in options if terms.lane is None or option.lane is terms.lane]
    usable = [option for option in allowed if option.obstacle is None]
    if not usable:
        reasons = (
            "; ".join(f"{o.provider}:{o.model} {o.lane.value}: {o.obstacle}" for o in allowed) or f"nobody sells the lane {terms.lane}"
        )
        raise PriceUnknown(
            f"{job}[{partition}]: none of models can be used: {reasons}. Nothing was sent. "
            "Correct models= or lane=, or give a rate: prices={'provider:model': {'input': USD per million tokens, 'output': ...}}."
        )
    fitting = [option for option in usable if terms.fits(option.worst_usd)]
    if not fitting:
        raise CeilingTooLow(_too_low(job, partition, usable, terms))
    keeping = [option for option in fitting if option.chance is None or option.chance >= terms.probability]
    if keeping:
        return min(keeping, key=lambda option: (option.burden, _LANES.index(option.lane)))
    return max(fitting, key=lambda option: (option.chance or 0.0, -option.burden))


def _too_low(job: str, partition: str, usable: Sequence[Option], terms: Terms) -> str:
    cheapest = min(usable, key=lambda option: option.worst_usd or Decimal(0))
    worst = (cheapest.worst_usd or Decimal(0)).quantize(Decimal("0.0001"), rounding="ROUND_CEILING")  # what is advised must be enough
    late = cheapest.chance is not None and cheapest.chance < terms.probability
    return (
        f"The cheapest plan for {job}[{partition}] ({cheapest.provider}:{cheapest.model}, {cheapest.lane}) costs ${worst} at worst, "
        f"${cheapest.expected_usd:.4f} as expected; the ceiling is ${terms.ceiling_usd:f}. Nothing was sent. "
        f"Raise ceiling_usd to ${worst}, or lower max_output_tokens, which the worst case counts for every row."
        + (" It would miss the deadline more often than wished, too." if late else "")
    )
