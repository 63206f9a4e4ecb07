"""Option: what every acceptable model and lane could do for the rows that are left, by what is known now.

A step of the runner, and of the environment before it: the first plan of a job run and every later plan are made here.
`plan` decides; this file gathers its inputs: limits, prices, turnarounds, speeds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from msgspec.structs import replace

from keld import sample, snapshot
from keld.cache import LEARN_FOR, UNMARKED, Cache, mark_of, prefix_of, unmarked
from keld.errors import AccessRefused, InvalidJob
from keld.estimate import Estimate, counted, learned, prior
from keld.gpu_time import PICO_USD, GpuTime
from keld.job import AUTO, Probe, RunTerms
from keld.ledger import Shard, nonce
from keld.plan import NO_RATE, Ahead, Candidate, Constraints, Option, Work, evaluate, shared_texts, work_of
from keld.price import Lane, Rates
from keld.providers.provider import Provider
from keld.request import Question
from keld.runner.context import Environment, FastLanes
from keld.shard import Limits, Slice, cut, cut_evenly, fitting
from keld.size import Sizes
from keld.speed import Speed, measured
from keld.staging import RunFiles, disk_errors, write_positions
from keld.state import State
from keld.turnaround import turnaround
from keld.vocabulary import Count, tokens_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PIECES = 200  # shards at most, if the rows do not all fit under the ceiling
REALTIME_ROWS = (
    2_000  # of a shard in a fast lane: small, so that little is reserved at once and as many rows as the ceiling allows are sent
)
# Of a shard at an engine of one's own, where money is reserved by the hour: the engine is not full while the last rows of a shard are answered.
ENGINE_ROWS = 20_000
PROBED = (1, 2)  # rows that go ahead of the others, and of a second attempt if the first was refused


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """The rows to ask, and the models that may be asked.

    Args:
        sizes: of the rows to ask; 0 for all other rows of the partition.
        terms: of the job run.
        job: its own earlier answers are the best evidence of how many tokens a row takes.
    """

    question: Question
    sizes: Sizes
    terms: RunTerms
    job: tuple[str, str]  # (namespace, name)
    snapshot: Path  # with the prompts

    run_id: str | None = None  # the job run of the rows; None: there is none yet
    most_rows: int | None = None  # in one shard, if no more fit under the ceiling

    def limited(self, most_rows: int) -> Ask:
        """The same in shards of so many rows, or of some more if there would be too many shards."""
        return replace(self, most_rows=max(most_rows, min(-(-self.work.requests // _PIECES), 8 * most_rows)))

    @property
    def work(self) -> Work:
        return work_of(self.question, self.sizes)

    def limits(self, provider: Provider, lane: Lane) -> Limits:
        rows = [most for most in (self.terms.max_shard_rows, self.most_rows) if most is not None]
        if lane is Lane.BATCH:
            # So that any number of rows can be cut into batches that are large enough.
            rows = [max(most, 2 * provider.traits.least_requests - 1) for most in rows]
        else:
            rows.append(ENGINE_ROWS if provider.traits.by_goodput else REALTIME_ROWS)
        return provider.traits.limits.lowered(min(rows, default=None), self.terms.max_shard_bytes)

    def cut(self, sizes: Sizes, overhead_bytes: int, provider: Provider, lane: Lane) -> list[Slice]:
        """The slices of these rows that become a shard each; a batch has no fewer requests than the provider takes, if that is possible."""
        limits, least = self.limits(provider, lane), provider.traits.least_requests
        evenly = lane is Lane.BATCH and least > 1
        return cut_evenly(sizes, overhead_bytes, limits, least) if evenly else cut(sizes, overhead_bytes, limits)


def options(
    environment: Environment, ask: Ask, due: datetime | None, ceiling_usd: Decimal | None, *, rows: int | None = None, probe: Probe = False
) -> tuple[list[Option], Constraints]:
    """All options, the usable ones first, by total cost; and the constraints by which they were evaluated.

    Args:
        ceiling_usd: what may still be spent.
        rows: how many of these have no answer yet, if some may have one that is not collected; None: all of them.
        probe: whether one row may go ahead of the others; never but in a first round.
    """
    candidates = list(_candidates(environment, ask, due, ceiling_usd, probe))
    terms = Constraints(
        now=environment.clock(),
        due=due,
        ceiling_usd=ceiling_usd,
        probability=ask.terms.probability,
        hedge=ask.terms.hedge,
        lane=None if ask.terms.any_lane else Lane(ask.terms.lane),
    )
    work = ask.work
    if rows is not None and rows < work.requests:
        work = work.of(rows, work.prompt_bytes * rows // work.requests)
    return evaluate(candidates, work, terms), terms


def _candidates(environment: Environment, ask: Ask, due: datetime | None, ceiling_usd: Decimal | None, probe: Probe) -> Iterator[Candidate]:
    now, without_key = environment.clock(), keyless(environment, ask.terms.models)
    for name in ask.terms.models:
        account, _, model = name.partition(":")
        provider = environment.provider(account)
        estimate, fit = estimate_of(environment, ask, provider, model), provider.fit(ask.question, model)
        priced = any(provider.rates(model, lane, now, ask.terms.prices) is not None for lane in provider.traits.lanes)
        speed = speed_of(environment, name, ask.run_id)  # of all fast lanes together: three queries, not three a lane
        for lane in sorted({*provider.traits.lanes, Lane.BATCH}):
            shards, obstacle, too_few = 0, without_key.get(account) or fit.not_in.get(lane), False
            if lane not in provider.traits.lanes:
                obstacle = f"{account} has no batches, only the fast lanes"
            try:
                slices = ask.cut(ask.sizes, overhead(provider, ask.question, model), provider, lane)
                shards, fewest = len(slices), min((part.requests for part in slices), default=0)
                if lane is Lane.BATCH and obstacle is None and 0 < fewest < provider.traits.least_requests:
                    too_few = True
                    obstacle = (
                        f"a batch at {account} has {provider.traits.least_requests:,} requests or more, and one would have {fewest:,}"
                    )
            except InvalidJob as problem:
                obstacle = str(problem)
            seen = environment.ledger.history.turnarounds(account, provider.host, model, lane, now) if lane is Lane.BATCH else ([], [])
            known = provider.rates(model, lane, now, ask.terms.prices)
            if known is None and obstacle is None and not priced:
                obstacle = _unpriced(provider, model, now)
            worst = worst_rates(environment, ask, provider, model, lane)
            candidate = Candidate(
                provider=account,
                model=model,
                lane=lane,
                rates=known,
                turnaround=turnaround(lane, *seen),
                shards=shards,
                obstacle=obstacle,
                estimate=estimate,
                speed=speed,
                worst_rates=worst,
                cache=cache_of(environment, ask, provider, model, lane, estimate, known, ahead=False),
                least_requests=provider.traits.least_requests if lane is Lane.BATCH else 1,
                too_few=too_few,
                keeps_on_cancel=provider.traits.keeps_on_cancel,
                gpu_time=None
                if known is None or known.gpu_hour_usd is None
                else gpu_time(environment, name, known.gpu_hour_usd, None if due is None else due - now, ceiling_usd),
            )
            if probe is False or obstacle is not None or known is None or lane is not Lane.BATCH:
                yield candidate
            else:
                yield from _ways(environment, ask, candidate, probe, timed=due is not None, standard=Lane.STANDARD not in fit.not_in)


def _ways(environment: Environment, ask: Ask, candidate: Candidate, probe: Probe, *, timed: bool, standard: bool) -> Iterator[Candidate]:
    """The ways to ask in the batch lane: all rows at once, and with one row ahead in a lane where that is wanted, or may pay.

    Args:
        timed: there is a deadline.
        standard: the standard lane takes the question.
    """
    provider, rows, now = environment.provider(candidate.provider), ask.work.requests, environment.clock()
    cache = candidate.cache
    if provider.caching(ask.question, candidate.model).ttl:
        cache = cache_of(environment, ask, provider, candidate.model, Lane.BATCH, candidate.estimate, candidate.rates, ahead=True)
    enough = rows - sum(PROBED) >= provider.traits.least_requests  # else the rest would be too few for a batch
    lanes = []
    # A batch whose cancel loses answers is not cancelled for a deadline: one row that is late would make all the others late.
    if provider.traits.least_requests == 1 and rows > 1 and (candidate.keeps_on_cancel or not timed):
        lanes.append(Lane.BATCH)
    served = Lane.STANDARD in provider.traits.lanes and provider.rates(candidate.model, Lane.STANDARD, now, ask.terms.prices) is not None
    if standard and served:
        lanes.append(Lane.STANDARD)
    match probe:
        case None:
            primes = Lane.BATCH in lanes and not cache.warm and cache.of(rows).ttl is not None
            lanes = [Lane.BATCH] if primes else []
        case Lane.BATCH if enough:
            lanes = lanes[:1]
        case Lane.STANDARD if enough:
            lanes = [lane for lane in lanes if lane is Lane.STANDARD]
        case _:
            lanes = lanes if enough else []
    if probe is None or not lanes:
        yield candidate
    for lane in lanes:
        yield _behind(environment, ask, candidate, lane, cache)


def _behind(environment: Environment, ask: Ask, candidate: Candidate, lane: Lane, cache: Cache) -> Candidate:
    """The candidate with all rows but one behind that one, which is asked in `lane`; in a batch it writes `cache`, which the others read."""
    provider, model, now = environment.provider(candidate.provider), candidate.model, environment.clock()
    if lane is Lane.BATCH:
        seen = environment.ledger.history.turnarounds(candidate.provider, provider.host, model, lane, now, ahead=True)
        first, ahead = turnaround(lane, *seen) if any(seen) else candidate.turnaround, Ahead(lane=lane)
    else:
        first, ahead, cache = (
            turnaround(lane),
            Ahead(lane=lane, worst_rates=worst_rates(environment, ask, provider, model, lane)),
            candidate.cache,
        )
    return replace(candidate, ahead=ahead, turnaround=candidate.turnaround.after(first), cache=cache)


def _unpriced(provider: Provider, model: str, at: datetime) -> str:
    """The obstacle of a model that has no price in any lane: most often its name is misspelled."""
    near = provider.models_like(model, at)
    return NO_RATE + (f" (names like it: {', '.join(near)})" if near else "")


def gpu_time(environment: Environment, name: str, usd_an_hour: Decimal, until: timedelta | None, left_usd: Decimal | None) -> GpuTime:
    """The time of a host that is paid by the hour, as its realtime runs have shown it; the arguments as of `GpuTime`."""
    rows_per_s = _fast_lanes(environment, name).standard
    return GpuTime(usd_an_hour=usd_an_hour, rows_per_s=rows_per_s, until=until, left_usd=left_usd)


def keyless(environment: Environment, models: Sequence[str]) -> dict[str, str]:
    """The accounts of `models` that are left out because they have no key, with the reason; none if no account has a key."""
    accounts = {name.partition(":")[0] for name in models}
    found = _without_key(environment, models)
    return found if len(found) < len(accounts) else {}


def key_notes(environment: Environment, models: Sequence[str]) -> dict[str, str]:
    """A note for each of `models` if none of them has a key: none is left out then, a plan is made, but a run would be refused."""
    if not (why := _without_key(environment, models)) or keyless(environment, models):
        return {}
    return {name: f"not usable yet: {why[name.partition(':')[0]]}. A run is refused until there is a key" for name in models}


def price_notes(environment: Environment, terms: RunTerms) -> dict[str, str]:
    """A note for each of the job's models of which two price lists say different rates, in any lane."""
    found: dict[str, str] = {}
    for name in terms.models:
        known = (environment.rates(name, lane, environment.clock(), terms.prices) for lane in Lane)
        if conflict := next((rates.conflict for rates in known if rates is not None and rates.conflict is not None), None):
            found[name] = f"priced by two lists that differ, and the higher rates are used: {conflict}"
    return found


def _without_key(environment: Environment, models: Sequence[str]) -> dict[str, str]:
    """The accounts of `models` that have no key, with the reason."""
    accounts = dict.fromkeys(name.partition(":")[0] for name in models)
    found: dict[str, str] = {}
    for account in accounts:
        try:
            environment.provider(account).ready()
        except AccessRefused as problem:
            found[account], _, _ = str(problem).partition(". ")
    return found


def estimate_of(environment: Environment, ask: Ask, provider: Provider, model: str) -> Estimate:
    """The tokens of a row: from the prior, the model's answers to all jobs, a token count of these rows, and its answers to this job.

    In this order, each weighted by its evidence: only the answers to this job show how many tokens the provider adds for the schema and the messages.
    """
    work, ledger = ask.work, environment.ledger
    envelope = overhead(provider, ask.question, model) - work.shared_bytes
    found = learned(prior(work.output_kind), ledger.history.observed(provider.name, provider.host, model), envelope)
    count = provider.counter(ask.question, model)
    if count is not None and work.requests:
        found = _counted(found, ask, work, count)
    return learned(found, ledger.history.observed(provider.name, provider.host, model, ask.job), envelope)


def _counted(before: Estimate, ask: Ask, work: Work, count: Count) -> Estimate:
    """`before`, with the input counted in these rows, or in a sample of them if there are many; `before` itself if prompts hold more than text."""
    runs = sample.drawn(ask.sizes)
    positions = np.concatenate(runs)
    tokens = tokens_of((fragment for _, fragment in snapshot.fragments(ask.snapshot, positions)), count)
    if tokens is None:
        return before
    ends = np.cumsum([len(run) for run in runs])
    run_tokens = [sum(part.tolist()) for part in np.split(np.asarray(tokens, dtype=np.int64), ends[:-1])]
    run_bytes = [int(part.sum()) for part in np.split(ask.sizes.at(positions), ends[:-1])]
    of_prompts = sum(run_tokens) * work.prompt_bytes / sum(run_bytes)
    of_all = of_prompts + work.requests * sum(map(count, shared_texts(ask.question)))
    error = sample.error(run_bytes, run_tokens, len(positions) / work.requests) * of_prompts / max(of_all, 1.0)
    return counted(before, work.text_bytes, round(of_all), len(positions), error)


def worst_rates(environment: Environment, ask: Ask, provider: Provider, model: str, lane: Lane) -> Rates | None:
    """The highest rates that an answer in a lane may cost: a flex request may be served and billed as a standard one, and cache writes may cost more."""
    served, now, own = Lane.STANDARD if lane is Lane.FLEX else lane, environment.clock(), ask.terms.prices
    found = provider.rates(model, served, now, own) or provider.rates(model, lane, now, own)
    return found.worst_case(unmarked=provider.caching(ask.question, model).by_itself, hour=ask.terms.cache == "own") if found else None


def cache_of(
    environment: Environment,
    ask: Ask,
    provider: Provider,
    model: str,
    lane: Lane,
    estimate: Estimate | None,
    known: Rates | None,
    *,
    ahead: bool,
) -> Cache:
    """How the provider's cache treats the beginning that all rows share: from the prior, from recent shards, from this job's rows.

    Args:
        ahead: one of the rows is asked before the others, and writes what they read.
    """
    caching, work, history, now = provider.caching(ask.question, model), ask.work, environment.ledger.history, environment.clock()
    of = (provider.name, provider.host, model)
    if not caching.ttl:
        seen = history.observed(*of, ask.job, lane=lane)
        bytes_a_token = (estimate or prior(work.output_kind)).bytes_a_token
        return unmarked(caching, seen.cached_tokens, seen.rows * work.shared_bytes / bytes_a_token, seen.rows)
    ttl = caching.ttl.get(lane)
    if ttl is None or known is None or ask.question.system is None or ask.terms.cache != AUTO:
        return UNMARKED
    warm = lane is Lane.BATCH and history.is_warm(*of, lane, prefix_of(shared_texts(ask.question)), now - ttl.span)
    read = history.read_from_cache(*of, lane, now - LEARN_FOR, warm=lane is Lane.BATCH and (warm or ahead))
    return mark_of(caching, lane, known, work.shared_bytes, read, ahead=ahead, warm=warm)


def speed_of(environment: Environment, name: str, run_id: str | None) -> Speed:
    """The speed of a model's fast lanes, as its realtime runs have shown or else by the prior; and who else uses them."""
    standard, flex, rivals = _fast_lanes(environment, name)
    return Speed(
        rows_per_s=standard or max(environment.settings.rows_per_s, flex or 0.0),  # standard is no slower than flex
        flex_rows_per_s=flex,
        # Rows in flex, the slower lane, count half.
        others=tuple(rival.rows / (2 if rival.lane == Lane.FLEX else 1) for rival in rivals if rival.run_id != run_id),
    )


def _fast_lanes(environment: Environment, name: str) -> FastLanes:
    """The model's fast lanes; read once for one look at many job runs."""
    if environment.lanes is not None and name in environment.lanes:
        return environment.lanes[name]
    account, _, model = name.partition(":")
    host, ledger = environment.provider(account).host, environment.ledger
    standard, flex = (measured(ledger.history.realtime_runs(account, host, model, lane)) for lane in (Lane.STANDARD, Lane.FLEX))
    found = FastLanes(standard, flex, ledger.queue.in_fast_lanes(account, host, model, environment.clock()))
    if environment.lanes is not None:
        environment.lanes[name] = found
    return found


def flex_of(environment: Environment, terms: RunTerms, shards: Sequence[Shard]) -> str | None:
    """A model whose flex price is no higher than the batch price of each of these shards; None if there is none; found once for one look."""
    sold = frozenset((shard.provider, shard.model) for shard in shards)
    if environment.flex is None or terms.prices:
        return _cheap_flex(environment, terms, sold)
    if (asked := (terms.models, sold)) not in environment.flex:
        environment.flex[asked] = _cheap_flex(environment, terms, sold)
    return environment.flex[asked]


def _cheap_flex(environment: Environment, terms: RunTerms, sold: Collection[tuple[str, str]]) -> str | None:
    now, own = environment.clock(), terms.prices
    known = [environment.rates(f"{provider}:{model}", Lane.BATCH, now, own) for provider, model in sold]
    for name in terms.models:
        account, _, model = name.partition(":")
        provider = environment.provider(account)
        flex = provider.rates(model, Lane.FLEX, now, own) if Lane.FLEX in provider.traits.lanes else None
        if flex and all(batch and flex.base.input <= batch.base.input and flex.base.output <= batch.base.output for batch in known):
            return name
    return None


def overhead(provider: Provider, question: Question, model: str) -> int:
    """The bytes that a request line adds to a prompt fragment at most, with a cache mark if it may have one."""
    mark = next(iter(provider.caching(question, model).ttl.values()), None)
    return provider.encoder(question, model, "0" * 10, mark).overhead_bytes


def plan_shards(
    environment: Environment,
    files: RunFiles,
    ask: Ask,
    option: Option,
    *,
    run_id: str,
    first: int,
    round_: int,
    priority: NDArray[np.float64] | None = None,
    ahead: bool = False,
) -> list[Shard]:
    """The planned shards of a round, with their positions already on disk; rows that are too large for any shard are left out.

    Args:
        first: the ordinal of the first of them.
        priority: N numbers; the rows with the largest come into the first shards.  None: in the order of the table.
        ahead: all other rows wait for the end of these.
    """
    provider = environment.provider(option.provider)
    more = overhead(provider, ask.question, option.model)
    known = provider.rates(option.model, option.lane, environment.clock(), ask.terms.prices)
    worst = worst_rates(environment, ask, provider, option.model, option.lane)
    assert known is not None and worst is not None, "an option without rates is not chosen"
    work, planned, by_the_hour = ask.work, [], known.gpu_hour_usd is not None
    for n, (positions, size) in enumerate(_groups(ask, more, provider, option.lane, priority)):
        shard_id = nonce()
        part, cache = work.of(len(positions), size - len(positions) * more), option.cache
        cache = (cache.forced if ahead and option.lane is Lane.BATCH else cache).of(len(positions))
        with disk_errors(files.dir, "Nothing of this round was sent."):
            path = files.shard(shard_id).positions
            write_positions(path, positions)
        files.keep(path)
        planned.append(
            Shard(
                id=shard_id,
                run_id=run_id,
                ordinal=first + n,
                round=round_,
                state=State.PLANNED,
                provider=option.provider,
                host=provider.host,
                model=option.model,
                lane=option.lane.value,
                requests=len(positions),
                size_bytes=size,
                worst_usd=_part_of(option, option.worst_usd, part) if by_the_hour else part.worst_usd(worst, cache),
                expected_usd=_part_of(option, option.expected_usd, part)
                if by_the_hour
                else part.expected_usd(known, option.estimate, cache),
                cache_ttl=None if cache.ttl is None else cache.ttl.value,
                cache_prefix=None if cache.ttl is None else prefix_of(shared_texts(ask.question)),
                cache_warm=cache.warm,
                ahead=ahead,
            )
        )
    return planned


def _part_of(option: Option, usd: Decimal | None, part: Work) -> Decimal:
    """The part of an option's cost that some of its rows have; where time is paid, it is reserved anew when a shard begins (`meter`)."""
    return ((usd or Decimal(0)) * part.requests / max(option.requests, 1)).quantize(PICO_USD)


def _groups(
    ask: Ask, more: int, provider: Provider, lane: Lane, priority: NDArray[np.float64] | None
) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Of each shard: the positions of its rows, ascending, and the bytes of its lines."""
    limits = ask.limits(provider, lane)
    if priority is None:
        left = np.empty(0, dtype=np.int64)
        asked = (start + np.flatnonzero(fitting(block, more, limits)) for start, block in ask.sizes.numbered())
        for part in ask.cut(ask.sizes, more, provider, lane):
            while len(left) < part.requests:
                left = np.concatenate([left, next(asked)])
            yield left[: part.requests], part.size_bytes
            left = left[part.requests :]
        return
    sizes = np.concatenate([np.empty(0, dtype=np.int64), *ask.sizes.blocks()])
    rows = np.flatnonzero(fitting(sizes, more, limits))
    order = rows[np.argsort(-priority[rows], kind="stable")]  # the most valuable first
    for part in ask.cut(Sizes.of(sizes[order]), more, provider, lane):
        yield np.sort(order[part.start : part.stop]), part.size_bytes
