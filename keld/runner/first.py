"""First: the first round of a job run: its model and lane, and the shards that its rows are cut into.

A step of opening a job run, after `take`; every later round is `round`'s.  Nothing is sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace

from keld.answer import answer_schema, same
from keld.cascade import serialize_accept
from keld.errors import SchemaError
from keld.job import AUTO, Job, RunTerms, due, partition_end
from keld.ledger import Shard
from keld.outcome import Outcome
from keld.plan import Option, Plan, choose_first
from keld.price import Lane
from keld.providers.base import Fit
from keld.reason import reason
from keld.request import Question, one_line
from keld.runner.context import Environment, log
from keld.runner.option import Ask, key_notes, keyless, options, overhead, plan_shards, price_notes
from keld.runner.probe import probe_of
from keld.runner.take import Left, Taken, marks_cache
from keld.schema import OutputSchema, output_schema
from keld.shard import Limits, fitting
from keld.size import Sizes
from keld.staging import RunFiles
from keld.table import ParquetSink


class First(msgspec.Struct, frozen=True, kw_only=True):
    """What the first round may ask, and which models.

    Args:
        ask: with the job's terms, for the models that can be asked its question; for all models if there are none.
        fits: whether each of the acceptable models can be asked this question.
    """

    taken: Taken
    left: Left
    ask: Ask
    fits: Mapping[str, Fit]


def first_of(environment: Environment, namespace: str, taken: Taken, left: Left) -> First:
    """What the first round of a partition may ask."""
    job, question = taken.job, taken.question
    names = {name: name.partition(":") for name in job.acceptable}
    fits = {name: environment.provider(account).fit(question, model) for name, (account, _, model) in names.items()}
    able = [name for name, fit in fits.items() if fit.obstacle is None] or job.acceptable
    marked = taken.snapshot.marks_cache or marks_cache(environment, job)(one_line(dict(job.params)))
    terms = _terms(job, able, marked=marked)
    ask = Ask(question=question, sizes=left.sizes, terms=terms, job=(namespace, job.name), snapshot=taken.files.snapshot)
    return First(taken=taken, left=left, ask=ask, fits=fits)


def plan_first(environment: Environment, first: First, ends_at: datetime | None = None) -> Plan:
    """What a run of this partition would do, cost and take.

    Args:
        ends_at: the partition's end, where its key does not say it.

    Raises:
        SchemaError, PriceUnknown, CeilingTooLow, DeadlinePassed, InvalidJob: nothing was sent.
    """
    job, key, rows = first.taken.job, first.taken.key, first.taken.snapshot
    due_at, basis = due(job, ends_at or partition_end(key), environment.clock())
    work, fits, unanswered = first.ask.work, first.fits, first.left.unanswered
    if work.requests and all(fit.obstacle for fit in fits.values()):
        raise SchemaError(
            f"{job.name}[{key}]: none of the models can be asked for this output_type. Nothing was sent. "
            + " ".join(f"{name}: {fit.obstacle}" for name, fit in fits.items()),
            job=job.name,
            partition=key,
        )
    found, terms = options(environment, first.ask, due_at, job.ceiling, probe=job.probe)
    chosen, most_rows = choose_first(job.name, key, found, terms) if work.requests else (None, None)
    return Plan(
        job=job.name, partition=key, rows=rows.rows, unaskable=rows.unaskable, reused=rows.rows - rows.unaskable - unanswered,
        identical=unanswered - work.requests, work=work, options=tuple(found),
        chosen=chosen, most_rows=most_rows, due=due_at, due_basis=basis, ceiling_usd=job.ceiling,
        probability=job.probability, lane=terms.lane, skipped=dict(rows.skipped),
        left_out={name: fit.obstacle for name, fit in fits.items() if fit.obstacle},
        notes=_notes(
            fits, key_notes(environment, job.acceptable), _trait_notes(environment, first.ask.terms), price_notes(environment, first.ask.terms),
            _hour_notes(found),
        ),
        reason=reason(chosen, found),
    )  # fmt: skip


def _notes(fits: Mapping[str, Fit], *more: Mapping[str, str]) -> dict[str, str]:
    """A note on each model that needs one, in words."""
    said = {name: filter(None, (fit.note, *(of.get(name) for of in more))) for name, fit in fits.items()}
    notes = {name: ". ".join(note.rstrip(".") for note in found) for name, found in said.items()}
    return {name: note for name, note in notes.items() if note}


def _trait_notes(environment: Environment, terms: RunTerms) -> dict[str, str]:
    """A note on each model whose provider's batches are other than people expect."""
    notes = {}
    for name in terms.models:
        traits, said = environment.provider(name.partition(":")[0]).traits, []
        if traits.by_goodput:
            notes[name] = (
                "a server of your own, asked in the standard lane; if it has /v1/batches, an account of kind openai with its base URL uses them"
            )
        if Lane.BATCH not in traits.lanes or terms.lane not in (AUTO, Lane.BATCH):
            continue
        if traits.least_requests > 1:
            fewer = "go to a fast lane" if terms.any_lane else "are not asked again, since the job demands lane='batch'"
            said.append(f"a batch there has {traits.least_requests:,} requests or more; fewer rows, such as those of a retry, {fewer}")
        if ends := [end for end, keeps in (("is cancelled", traits.keeps_on_cancel), ("expires", traits.keeps_on_expiry)) if not keeps]:
            said.append(f"a batch there that {' or '.join(ends)} gives no answers back, and what it answered may be paid")
        if terms.any_lane and not traits.keeps_on_cancel:
            hedged = "its rows are asked elsewhere, too, if it is late (hedge=True)"
            said.append(hedged if terms.hedge else "it is not cancelled for the deadline; hedge=True would ask its rows elsewhere, too")
        notes[name] = "; ".join(said)
    return notes


def _hour_notes(options: Sequence[Option]) -> dict[str, str]:
    """A note on each model whose host is paid by the hour: what is known of its cost."""
    usable = (option for option in options if option.by_the_hour and option.obstacle is None)
    return {f"{option.provider}:{option.model}": option.rates_source for option in usable}


def cut_first(environment: Environment, first: First, plan: Plan, run_id: str) -> list[Shard]:
    """The planned shards of the first round; none if no row is to be asked.

    Raises:
        AccessRefused, StagingError: nothing was sent.
    """
    chosen, files, question = plan.chosen, first.taken.files, first.taken.question
    if chosen is None:
        return []
    provider = environment.provider(chosen.provider)
    provider.ready()
    ask = first.ask if plan.most_rows is None else first.ask.limited(plan.most_rows)
    _set_aside(files, question, ask.sizes, overhead(provider, question, chosen.model), ask.limits(provider, chosen.lane))
    if chosen.ahead is None:
        return plan_shards(environment, files, ask, chosen, run_id=run_id, first=0, round_=0)
    ask, there = probe_of(ask, f"{chosen.provider}:{chosen.model}", chosen.ahead), chosen
    if chosen.ahead is not chosen.lane:
        found = plan.in_lane(chosen.ahead)
        assert found is not None, "a row goes ahead only in a lane in which the model can be asked"
        there = found
    return plan_shards(environment, files, ask, there, run_id=run_id, first=0, round_=0, ahead=True)


def terms_of(environment: Environment, first: First, plan: Plan) -> RunTerms:
    """The terms that a job run keeps.

    A model whose account has no key is left out, as long as there are others; a cascade then has fewer models.
    """
    terms, taken = first.ask.terms, first.taken
    without_key = keyless(environment, terms.models)
    for account, why in without_key.items():
        log.warning("account.left_out job=%s partition=%s account=%s %s", taken.job.name, taken.key, account, why)
    ahead = plan.chosen is not None and plan.chosen.ahead is not None
    return replace(terms, probe=ahead, models=tuple(model for model in terms.models if model.partition(":")[0] not in without_key))


def facts_of(plan: Plan) -> dict[str, Any]:
    """The part of a plan that a job run keeps, as JSON values."""
    chosen = plan.chosen
    if chosen is None:
        return {"model": None}
    return {
        "model": f"{chosen.provider}:{chosen.model}",
        "lane": chosen.lane.value,
        "requests": chosen.requests,
        "ahead": None if chosen.ahead is None else chosen.ahead.value,
        "expected_usd": str(chosen.expected_usd),
        "worst_usd": str(chosen.worst_usd),
        "rates": chosen.rates_source,
        "input_tokens": chosen.usage.input_tokens,
        "output_tokens": chosen.usage.output_tokens,
    }


def _terms(job: Job, models: Sequence[str], *, marked: bool) -> RunTerms:
    return RunTerms(
        models=tuple(models),
        max_attempts=job.max_attempts,
        max_shard_rows=job.max_shard_rows,
        max_shard_bytes=job.max_shard_bytes,
        lane=job.lane,
        cache="own" if marked else job.cache,
        probability=job.probability,
        priority=job.priority,
        accept=serialize_accept(job.name, job.accept, output_schema(job.output_type, prefix=job.output_prefix)),
        hedge=job.hedge,
        prices={name: {rate: str(value) for rate, value in given.items()} for name, given in job.prices.items()},
    )


def _set_aside(files: RunFiles, question: Question, sizes: Sizes, overhead_bytes: int, limits: Limits) -> None:
    """Writes the outcome of the rows that are too large for any batch, if there are any."""
    if sizes.longest_bytes + overhead_bytes <= limits.max_line_bytes:
        return
    output = OutputSchema.from_json(question.output)
    with ParquetSink(files.unsent, answer_schema(output)) as sink:
        for start, block in sizes.numbered():
            positions = start + np.flatnonzero((block > 0) & ~fitting(block, overhead_bytes, limits))
            if len(positions):
                sink.write(same(positions.tolist(), Outcome.UNASKABLE, "the request is larger than a batch may be", None, output))
    files.keep(files.unsent)
