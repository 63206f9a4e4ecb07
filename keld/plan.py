"""Plan: requests + constraints + prices + turnaround -> which model in which lane, what it costs, when it is due.

On the road: `price`, `estimate`, `turnaround`, `deadline` -> **`plan`** -> `runner`.  Pure; the runner plans the rest of a job run again with it.
All acceptable models are compared in every lane that their provider sells.  The cheapest option, as expected, is chosen that keeps the
deadline with the wanted probability and whose worst case fits under the ceiling.  A batch is computed with its rescue: if a fast lane can
take over before the deadline is lost, the deadline counts as kept, and the rescue's cost is added in proportion to its probability.
If flex costs no more than the batch, waiting costs nothing, so the batch is tried first; rows that flex has no time for go to standard.
In the batch lane one row may go ahead of the others, to write the prompt cache (`cache`) or to find a wrong parameter (`Job.probe`): then the same
model and lane are evaluated with it and without it, and the better of both is the option.
`make decisions` compares what these rules keep and cost with a planner that knows the future.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from math import sqrt
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from keld.cache import UNMARKED, Cache, Ttl, without_mark
from keld.deadline import flex_escalation_time, standard_escalation_time
from keld.errors import CeilingTooLow, PriceUnknown
from keld.estimate import TOKENS_A_MESSAGE, WORST_BYTES_A_TOKEN, Estimate, prior
from keld.gpu_time import GpuTime
from keld.price import Lane, Rates, Usage
from keld.request import Question
from keld.schema import OutputSchema
from keld.speed import Speed
from keld.turnaround import Turnaround

if TYPE_CHECKING:
    from keld.size import Sizes


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """The size of what is to be asked: of a partition, or of one slice of it."""

    requests: int
    prompt_bytes: int  # of all rows together
    longest_bytes: int  # of the longest row
    shared_bytes: int  # system prompt, schema and tools, sent with each row
    output_kind: str
    max_output_tokens: int

    def usage(self, estimate: Estimate | None = None, cache: Cache = UNMARKED) -> Usage:
        """Expected tokens of all requests together; never more than in the worst case."""
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
        """Worst-case tokens of all requests together: every marked beginning is written to the cache, and none is read."""
        output, cache = 0 if self.output_kind == "embedding" else self.max_output_tokens, cache.of(self.requests)
        written = self.requests * (self.shared_bytes // WORST_BYTES_A_TOKEN + TOKENS_A_MESSAGE) if cache.ttl is not None else 0
        return Usage(
            input_tokens=self._input(WORST_BYTES_A_TOKEN),
            cache_write_tokens=written,
            cache_write_1h_tokens=written if cache.ttl is Ttl.HOUR else 0,
            output_tokens=self.requests * output,
        )

    def expected_usd(self, rates: Rates, estimate: Estimate | None = None, cache: Cache = UNMARKED) -> Decimal:
        """The expected cost: at the rates of a request of mean length."""
        usage = self.usage(estimate, cache)
        return rates.total(usage, usage.input_tokens // max(self.requests, 1))

    def worst_usd(self, rates: Rates, cache: Cache = UNMARKED) -> Decimal:
        """The worst-case cost, which is reserved under a ceiling: all requests at the rates that the longest one could reach."""
        longest = (self.longest_bytes + self.shared_bytes) // WORST_BYTES_A_TOKEN + TOKENS_A_MESSAGE
        return rates.total(self.worst(cache), longest)

    def of(self, requests: int, prompt_bytes: int) -> Work:
        """The work of one part of it; the worst cases of all parts never add up to more than that of the whole."""
        return replace(self, requests=requests, prompt_bytes=prompt_bytes)

    @property
    def text_bytes(self) -> int:
        """The bytes of all text that the model reads."""
        return self.prompt_bytes + self.requests * self.shared_bytes

    def _input(self, bytes_a_token: float) -> int:
        return int(self.text_bytes // bytes_a_token) + self.requests * TOKENS_A_MESSAGE


def work_of(question: Question, sizes: Sizes) -> Work:
    """The work of asking `question` of rows whose prompt fragments have these sizes."""
    return Work(
        requests=sizes.requests,
        prompt_bytes=sizes.total_bytes,
        longest_bytes=sizes.longest_bytes,
        shared_bytes=sum(len(text.encode()) for text in shared_texts(question)),
        output_kind=OutputSchema.from_json(question.output).kind,
        max_output_tokens=question.max_output_tokens,
    )


def shared_texts(question: Question) -> tuple[str, ...]:
    """The texts sent with every row and read by the model: the system prompt, the schema, and such fields of `params`."""
    schema = OutputSchema.from_json(question.output).json_schema
    own = {name: question.params[name] for name in _READ_PARAMS if name in question.params}
    return question.system or "", *(msgspec.json.encode(part).decode() for part in (schema, own) if part)


_READ_PARAMS = ("tools", "functions", "system", "instructions")


class Ahead(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a batch that is asked before the others, which wait for its end.

    Args:
        lane: batch (a batch of one) or standard.
        worst_rates: of that lane, if it is not that of the others.
    """

    lane: Lane
    worst_rates: Rates | None = None


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One acceptable model in one lane, with what is known about it."""

    provider: str
    model: str
    lane: Lane
    rates: Rates | None
    turnaround: Turnaround
    shards: int
    obstacle: str | None = None  # why it cannot be used, whatever it costs
    estimate: Estimate | None = None  # of its tokens; None: the prior
    speed: Speed | None = None  # of its account's fast lanes; None: that of the constraints
    worst_rates: Rates | None = None  # set if an answer may cost more than the lane's rate: flex may be served, and billed, as standard
    cache: Cache = UNMARKED  # how the shared beginning of its requests is cached
    least_requests: int = 1  # requests of one shard
    too_few: bool = False  # the obstacle is only that a shard would have fewer
    keeps_on_cancel: bool = True  # what a batch answered before it was cancelled is not lost
    gpu_time: GpuTime | None = None  # set if the time of the host is paid, and not tokens
    ahead: Ahead | None = None  # one row is asked before the others; `turnaround` is that of both together

    def expected_usd(self, work: Work) -> Decimal | None:
        if self.gpu_time is not None:
            return self.gpu_time.expected_usd(work.requests)
        # Without what one row ahead costs more in the standard lane: less than an estimate can tell, but enough to move all rows to flex, where
        # that costs as much as a batch.
        return work.expected_usd(self.rates, self.estimate, self.cache) if self.rates else None

    def worst_usd(self, work: Work) -> Decimal | None:
        if self.gpu_time is not None:
            return self.gpu_time.worst_usd(work.requests)
        if self.rates is None:
            return None
        rates = self.worst_rates or self.rates
        if self.ahead is None or self.ahead.worst_rates is None:
            return work.worst_usd(rates, self.cache)
        # Which row goes ahead is not known yet: it is counted as the longest one there, and as the shortest one here.
        one, others = work.of(1, work.longest_bytes), work.of(work.requests - 1, work.prompt_bytes)
        return one.worst_usd(self.ahead.worst_rates) + others.worst_usd(rates, self.cache)

    def affordable(self, work: Work, constraints: Constraints) -> Candidate:
        """The same candidate; without its cache mark if the ceiling has no room for every row writing to the cache."""
        return self if constraints.fits(self.worst_usd(work)) else replace(self, cache=without_mark(self.cache))

    @property
    def loses_on_rescue(self) -> bool:
        """True if a rescue by cancel would throw away answers that are paid."""
        return self.lane is Lane.BATCH and not self.keeps_on_cancel

    @property
    def name(self) -> str:
        return f"{self.provider}:{self.model} {self.lane.value}"


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate with its cost and time; costs are for all requests that are to be asked.

    `expected_usd` is the lane's own cost, `risk_usd` that of the rescue times the probability that it is needed; `chance` is the
    probability of keeping the deadline, None without one.  `ahead` is the lane of the one row that is asked before the others, if there is one, and
    `instead` the same model and lane in the next best way, with or without such a row.
    """

    provider: str
    model: str
    lane: Lane
    shards: int
    requests: int
    usage: Usage
    estimate: Estimate
    expected_usd: Decimal | None
    worst_usd: Decimal | None
    risk_usd: Decimal
    rates_source: str
    half_by: datetime  # when half of such submissions are answered
    most_by: datetime  # when nine in ten are
    chance: float | None
    rescued_by: str | None  # the fast lane that takes over if a batch is late
    obstacle: str | None
    cache: Cache = UNMARKED
    least_requests: int = 1  # requests of one shard
    too_few: bool = False  # the obstacle is only that a shard would have fewer
    by_the_hour: bool = False  # the time of the host is paid, and not tokens
    ahead: Lane | None = None
    unmarked_usd: Decimal | None = None  # the lane's expected cost with all rows at once and without the prompt cache
    marked_usd: Decimal | None = None  # the same with all rows marked for it, whether that pays or not; None: they cannot be
    instead: Option | None = None

    @property
    def total_usd(self) -> Decimal:
        """The expected cost, the risk of a rescue included."""
        return (self.expected_usd or Decimal(0)) + self.risk_usd


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """All options, the cheapest first, and which one is taken."""

    job: str
    partition: str
    rows: int
    unaskable: int
    reused: int
    identical: int  # rows that repeat another row's prompt, and take its answer
    work: Work
    options: tuple[Option, ...]
    chosen: Option | None  # None: nothing has to be asked
    due: datetime | None
    due_basis: str
    ceiling_usd: Decimal | None
    probability: float
    lane: Lane | None = None  # the one the user demands
    most_rows: int | None = None  # of one shard, if the worst case of all rows together might exceed the ceiling
    skipped: Mapping[str, int] = msgspec.field(default_factory=dict)  # why rows cannot be asked, and how many for each reason
    left_out: Mapping[str, str] = msgspec.field(default_factory=dict)  # acceptable models that cannot be asked this question, and why
    notes: Mapping[str, str] = msgspec.field(default_factory=dict)  # by model: a remark on how it is asked
    table_notes: tuple[str, ...] = ()  # how the table was read, if it does not say so itself
    reason: str = ""  # why the prompt cache is used as it is, and why a row goes ahead of the others, if one does

    def why_not(self, option: Option) -> str:
        """Why an option is not chosen, in words; "" for the chosen one."""
        chosen = self.chosen
        if chosen is None or option is chosen:
            return ""
        if option.obstacle is not None:
            return option.obstacle
        if self.lane not in (None, option.lane):
            return f"the job demands lane={self.lane}"
        if self.ceiling_usd is not None and (option.worst_usd is None or option.worst_usd > self.ceiling_usd):
            return "its worst case exceeds the ceiling"
        if option.chance is not None and option.chance < min(self.probability, chosen.chance or 0.0):
            return "less likely to meet the deadline"
        if option.total_usd > chosen.total_usd:
            return "costs more"
        return "same price, but occupies a worker"

    @property
    def standard_usd(self) -> Decimal | None:
        """What the chosen model would cost in the standard lane."""
        standard = self.in_lane(Lane.STANDARD)
        return standard.expected_usd if standard else None

    def in_lane(self, lane: Lane) -> Option | None:
        """The option of the chosen model in a lane; None if there is none."""
        if self.chosen is None:
            return None
        wanted = (self.chosen.provider, self.chosen.model, lane)
        return next((option for option in self.options if (option.provider, option.model, option.lane) == wanted), None)


class Constraints(msgspec.Struct, frozen=True, kw_only=True):
    """The constraints that the options must meet.

    Args:
        due: the deadline; None: there is none.
        ceiling_usd: what may still be spent; None: no ceiling.
        probability: the wanted probability of keeping the deadline.
        lane: the one the user demands; None: any.
        hedge: rows of a batch may be asked elsewhere before it has ended, and so be paid twice.
    """

    now: datetime
    due: datetime | None = None
    ceiling_usd: Decimal | None = None
    probability: float = 0.99
    lane: Lane | None = None
    hedge: bool = False
    speed: Speed = msgspec.field(default_factory=Speed)

    def fits(self, worst_usd: Decimal | None) -> bool:
        return self.ceiling_usd is None or (worst_usd is not None and worst_usd <= self.ceiling_usd)


def evaluate(candidates: Sequence[Candidate], work: Work, constraints: Constraints) -> list[Option]:
    """What each candidate costs, when it is answered, and whether it keeps the deadline; the usable ones first, by total cost."""
    candidates = [candidate.affordable(work, constraints) for candidate in candidates]
    ways: dict[tuple[str, str, Lane], list[Option]] = {}
    for candidate in candidates:
        option = _option(candidate, _rescuers(candidates, candidate, work, constraints), work, constraints)
        ways.setdefault((candidate.provider, candidate.model, candidate.lane), []).append(option)
    options = [_best(of_one, constraints) for of_one in ways.values()]
    return sorted(options, key=lambda option: (option.obstacle is not None, option.total_usd, _LANES.index(option.lane)))


def _best(ways: Sequence[Option], constraints: Constraints) -> Option:
    """The better of the ways to ask the same model in the same lane, by the rules of `choose`."""

    def rank(option: Option) -> tuple[bool, bool, float, Decimal, bool]:
        late = option.chance is not None and option.chance < constraints.probability
        fits = constraints.fits(option.worst_usd)
        return option.obstacle is not None, not fits, -(option.chance or 0.0) if late else -1.0, option.total_usd, option.ahead is not None

    best, *others = sorted(ways, key=rank)
    return replace(best, instead=others[0]) if others else best


_LANES = (Lane.BATCH, Lane.FLEX, Lane.STANDARD)  # at the same cost, the one that needs no worker comes first
_BATCH_LEAST = timedelta(hours=1)  # with less time than this too few batches end to be worth a try
NO_RATE = "no rate known"
_SURE = 0.999  # nothing on a network is more certain
_FLEX_OPEN = 0.95  # the probability that flex has capacity all the time
_WAIT_LEAST = timedelta(minutes=30)  # a batch that would have to be cancelled sooner is not created
_WORTH = (
    0.1  # the least probability that a batch ends before its rescue: below it, waiting only adds to the rows that wait for the fast lanes
)


def _rescuers(candidates: Sequence[Candidate], of: Candidate, work: Work, constraints: Constraints) -> list[Candidate]:
    """The faster lanes that could rescue all rows within the ceiling."""
    if constraints.lane is not None or (of.loses_on_rescue and not constraints.hedge):
        return []
    # What such a batch has answered is paid and lost, so both must fit.
    paid_too = (of.worst_usd(work) or Decimal(0)) if of.loses_on_rescue else Decimal(0)
    return [
        candidate
        for candidate in candidates
        if _LANES.index(candidate.lane) > _LANES.index(of.lane)
        and candidate.obstacle is None
        and candidate.rates
        and constraints.fits(
            paid_too + (candidate.expected_usd(work) or Decimal(0)) * _ERROR
        )  # shard by shard (`choose_rest`), and so never above it
    ]


def _option(candidate: Candidate, rescuers: Sequence[Candidate], work: Work, constraints: Constraints) -> Option:
    rates, lane = candidate.rates, candidate.lane
    chance, risk, rescued_by = None, Decimal(0), None
    if constraints.due is not None:
        span = constraints.due - constraints.now
        chance = _chance(candidate, work, constraints, span)
        rescues = [rescue for rescuer in rescuers if (rescue := _rescue(candidate, rescuer, work, constraints, span)) is not None]
        if rescues:
            best = min(rescues, key=lambda rescue: (rescue.usd, -rescue.back))
            chance, risk, rescued_by = best.back + (1 - best.back) * _SURE, best.usd, best.name
    half, most = (constraints.now + _time_to_answer(candidate, work, constraints, share) for share in (0.5, 0.9))
    return Option(
        provider=candidate.provider,
        model=candidate.model,
        lane=lane,
        shards=candidate.shards,
        requests=work.requests,
        usage=work.usage(candidate.estimate, candidate.cache),
        estimate=candidate.estimate or prior(work.output_kind),
        expected_usd=candidate.expected_usd(work),
        worst_usd=candidate.worst_usd(work),
        risk_usd=risk,
        rates_source=_rates_source(candidate, work),
        half_by=half,
        most_by=most,
        chance=chance,
        rescued_by=rescued_by,
        obstacle=candidate.obstacle or (None if rates else NO_RATE),
        least_requests=candidate.least_requests,
        too_few=candidate.too_few,
        cache=candidate.cache.of(work.requests),
        by_the_hour=candidate.gpu_time is not None,
        ahead=None if candidate.ahead is None else candidate.ahead.lane,
        unmarked_usd=replace(candidate, cache=UNMARKED, ahead=None).expected_usd(work),
        marked_usd=replace(candidate, cache=candidate.cache.forced).expected_usd(work) if candidate.cache.ttl is not None else None,
    )


def _rates_source(candidate: Candidate, work: Work) -> str:
    if candidate.gpu_time is not None:
        return candidate.gpu_time.note(work.requests)
    return candidate.rates.source if candidate.rates else NO_RATE


def _time_to_answer(candidate: Candidate, work: Work, constraints: Constraints, share: float) -> timedelta:
    """The span within which a share of such submissions is answered."""
    one, speed = candidate.turnaround.quantile(share), candidate.speed or constraints.speed
    match candidate.lane:
        case Lane.BATCH:
            return one
        case Lane.FLEX:
            return one + speed.flex_time(work.requests)
        case Lane.STANDARD:
            return one + speed.standard_time_without_safety(work.requests)


def _chance(candidate: Candidate, work: Work, constraints: Constraints, span: timedelta) -> float:
    """The probability of being answered within `span`, without a rescue."""
    speed = candidate.speed or constraints.speed
    left = span - speed.finish_time
    match candidate.lane:
        case Lane.BATCH:
            return candidate.turnaround.chance(left)
        case Lane.FLEX:
            return _FLEX_OPEN if left >= speed.flex_time(work.requests) * speed.safety else 0.0
        case Lane.STANDARD:
            bare = speed.standard_time_without_safety(work.requests)
            part = (left - bare) / (speed.standard_time(work.requests) - bare)  # the part of the safety margin that there is time for
            return sqrt(min(1.0, max(0.0, part))) * _SURE


class _Rescue(msgspec.Struct, frozen=True, kw_only=True):
    """A faster lane as the rescue of a slower one."""

    usd: Decimal  # its expected extra cost
    back: float  # the chance that it is not needed
    name: str


def _rescue(candidate: Candidate, rescuer: Candidate, work: Work, constraints: Constraints, span: timedelta) -> _Rescue | None:
    """The rescue of a candidate by a faster lane; None if there is no time for it, or waiting is not worth it."""
    speed = rescuer.speed or constraints.speed
    if candidate.lane is Lane.FLEX:
        part = (candidate.speed or constraints.speed).flex_share(work.requests, span, speed)
        if not part:
            return None
        back, needed = _SURE if part == 1.0 else 0.0, 1 - part
    else:
        due = constraints.now + span
        at = (
            flex_escalation_time(due, work.requests, speed)
            if rescuer.lane is Lane.FLEX
            else standard_escalation_time(due, work.requests, speed)
        )
        back = candidate.turnaround.chance(at - constraints.now)
        needed = 1 - back
        if at - constraints.now < _WAIT_LEAST or span < _BATCH_LEAST or back < _WORTH:
            return None
    # Rows that a batch, or flex, has not answered are not paid there; unless those that it has answered are lost with its cancel.
    unpaid = Decimal(0) if candidate.loses_on_rescue else candidate.expected_usd(work) or Decimal(0)
    costlier = (rescuer.expected_usd(work) or Decimal(0)) - unpaid
    return _Rescue(usd=max(costlier, Decimal(0)) * Decimal(str(round(needed, 6))), back=back, name=rescuer.name)


def choose(job: str, partition: str, options: Sequence[Option], constraints: Constraints) -> Option:
    """The option with the least total cost that keeps the deadline with the wanted probability and whose worst case fits under the ceiling.

    If none keeps the deadline, the most likely of those that fit: a late answer is better than none, and the check reports it.

    Raises:
        PriceUnknown: no acceptable model has a known rate in a lane that may be taken.
        CeilingTooLow: none fits; the message names the cheapest that would.
    """
    allowed = [option for option in options if constraints.lane is None or option.lane is constraints.lane]
    usable = [option for option in allowed if option.obstacle is None]
    if not usable:
        held: dict[tuple[str, str | None], list[str]] = {}
        for option in allowed:
            held.setdefault((f"{option.provider}:{option.model}", option.obstacle), []).append(option.lane.value)
        said = "; ".join(f"{name} {', '.join(lanes)}: {obstacle}" for (name, obstacle), lanes in held.items())
        reasons = said or f"no provider of these models sells the lane {constraints.lane}"
        unpriced = any(option.rates_source == NO_RATE for option in allowed)
        rate = ", or give a rate: prices={'provider:model': {'input': USD per million tokens, 'output': ...}}" if unpriced else ""
        raise PriceUnknown(
            f"{job}[{partition}]: none of the models can be used: {reasons}. Nothing was sent. Correct models= or lane={rate}.",
            models=list(dict.fromkeys(f"{option.provider}:{option.model}" for option in allowed)),
            job=job,
            partition=partition or None,
        )
    fitting = [option for option in usable if constraints.fits(option.worst_usd)]
    if not fitting:
        raise _too_low(job, partition, usable, constraints)
    keeping = [option for option in fitting if option.chance is None or option.chance >= constraints.probability]
    if keeping:
        return min(keeping, key=lambda option: (option.total_usd, _LANES.index(option.lane)))
    return max(fitting, key=lambda option: (option.chance or 0.0, -option.total_usd))


def choose_first(job: str, partition: str, options: Sequence[Option], constraints: Constraints) -> tuple[Option, int | None]:
    """As `choose`; but if no option whose worst case fits keeps the deadline, one that keeps it and is expected to fit, as in `choose_rest`.

    Raises:
        PriceUnknown, CeilingTooLow: as `choose`.
    """
    chosen = choose(job, partition, options, constraints)
    if chosen.chance is None or chosen.chance >= constraints.probability or constraints.lane is not None:
        return chosen, None
    likely, most_rows = choose_rest(job, partition, options, constraints)
    return (likely, most_rows) if (likely.chance or 0.0) > chosen.chance else (chosen, None)


def choose_rest(
    job: str, partition: str, options: Sequence[Option], constraints: Constraints, *, part: Decimal = Decimal(1)
) -> tuple[Option, int | None]:
    """The option for what is left of a job run, and how many rows one shard of it may have at most; None: as many as the lane takes.

    If the ceiling has room for the expected cost of what keeps the deadline, but not for its worst case, the rows are asked in shards so
    small that what one shard reserved and did not cost makes room for the next.  If it has no room for all rows, as many as fit are asked.

    Args:
        part: the share of the rows that must be expected to fit: to keep the deadline for these, the others are not asked.

    Raises:
        PriceUnknown: as `choose`.
    """
    free = replace(constraints, ceiling_usd=None)
    options = [option for option in options if constraints.lane in (None, option.lane)]
    likely = [
        option
        for option in options
        if constraints.fits(option.worst_usd)
        or (
            constraints.fits((option.expected_usd or Decimal(0)) * _ERROR * part)
            and _fitting_rows(option, constraints) >= option.least_requests
        )
    ]
    usable = any(option.obstacle is None for option in likely)
    chosen = _chosen_rest(job, partition, likely if usable else options, free)
    if constraints.fits(chosen.worst_usd) or chosen.by_the_hour:  # time is reserved as it fits, and fewer rows do not need less of it
        return chosen, None
    most = _fitting_rows(chosen, constraints)
    return chosen, max(1, most if chosen.lane is Lane.BATCH else most // _PARTS)


def _chosen_rest(job: str, partition: str, options: Sequence[Option], constraints: Constraints) -> Option:
    """As `choose`; but rows that were in a batch before go to a fast lane if that costs no more, or if nothing keeps the deadline safely."""
    chosen = choose(job, partition, options, constraints)
    if chosen.lane is not Lane.BATCH or chosen.chance is None:
        return chosen
    fast = [option for option in options if option.lane is not Lane.BATCH and option.obstacle is None]
    if chosen.chance >= constraints.probability:
        fast = [option for option in fast if (option.chance or 0.0) >= constraints.probability and option.total_usd <= chosen.total_usd]
    else:
        fast = [option for option in fast if (option.chance or 0.0) >= _TRY]  # a little late there is earlier than by another batch
    return max(fast, key=lambda option: (option.chance or 0.0, -option.total_usd), default=chosen)


_TRY = 0.1  # below this probability that a fast lane keeps the deadline, a batch is as good
_ERROR = Decimal("1.2")  # rows may cost this factor more than expected
PART = Decimal("0.5")  # this share of the rows in time, without the others, is worth more than all of them late
_PARTS = 8  # shards to cut what fits in the worst case into: rows cost less than that, so nearly the whole ceiling can be used


def _fitting_rows(option: Option, constraints: Constraints) -> int:
    """How many rows fit under the ceiling in the worst case."""
    share = (constraints.ceiling_usd or Decimal(0)) / option.worst_usd if option.worst_usd else Decimal(1)
    return int(option.requests * min(share, Decimal(1)))


def held(options: Sequence[Option], constraints: Constraints) -> bool:
    """True if nothing can be asked now only because the rows are too few for a batch, and no fast lane may take them."""
    allowed = [option for option in options if constraints.lane in (None, option.lane)]
    return any(option.too_few for option in allowed) and all(option.obstacle is not None for option in allowed)


def would_escalate(options: Sequence[Option], constraints: Constraints, lane: Lane) -> bool:
    """True if the rows that are left would go to a faster lane than `lane`, where they are now.

    If not, they stay: to cancel a batch only to wait again in another one gains nothing, and a late answer is better than none.
    """
    try:
        chosen, _ = choose_rest("", "", options, constraints, part=PART)
    except PriceUnknown:
        return False
    return _LANES.index(chosen.lane) > _LANES.index(lane)


def _too_low(job: str, partition: str, usable: Sequence[Option], constraints: Constraints) -> CeilingTooLow:
    """The error, with the least ceiling that is enough.  Without a ceiling every option fits, so there is one here."""
    assert constraints.ceiling_usd is not None
    cheapest = min(usable, key=lambda option: option.worst_usd or Decimal(0))
    worst = (cheapest.worst_usd or Decimal(0)).quantize(
        Decimal("0.0001"), rounding="ROUND_CEILING"
    )  # rounded up: the advised ceiling must be enough
    late = cheapest.chance is not None and cheapest.chance < constraints.probability
    return CeilingTooLow(
        f"The cheapest plan for {job}[{partition}] ({cheapest.provider}:{cheapest.model}, {cheapest.lane}) costs ${worst} in the worst case, "
        f"${cheapest.expected_usd:.4f} expected; the ceiling is ${constraints.ceiling_usd:f}. Nothing was sent. "
        f"Raise ceiling_usd to ${worst}, or lower max_output_tokens, which the worst case counts for every row."
        + (" Even then the deadline would be missed more often than the job's `probability` allows." if late else ""),
        needed_usd=worst,
        ceiling_usd=constraints.ceiling_usd,
        job=job,
        partition=partition or None,
    )
