"""Round: the rows that may be asked (again) -> planned shards, in the lane that meets the terms now.

A step of the runner, when every shard has its outcome; or earlier, for rows whose batch has ended while another one hangs.  Rows that a probe
held back, rows that failed, rows whose answer did not satisfy a cascade: all of them are planned here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from keld import snapshot
from keld.cascade import levels
from keld.enrich import invalid, retryable
from keld.ledger import JobRun, Shard, ShardFault
from keld.plan import PART, Option, choose_rest, held
from keld.request import REPAIR_BYTES
from keld.row_set import RowSet
from keld.runner.context import RunContext, answers_of, log
from keld.runner.option import Ask, options, plan_shards
from keld.runner.probe import fail_held_back, held_back, is_enough, probe_of, refused, second_lane
from keld.size import Sizes
from keld.staging import read_positions
from keld.state import TERMINAL, RunEvent, RunState

_MOVES_MOST = 8  # rounds beyond `max_attempts`, for rows that were cancelled and move on


def next_round(context: RunContext, run: JobRun, shards: Sequence[Shard]) -> bool:
    """True, after the rows that may be asked again were planned; or, if there are none, after the job run began to write."""
    attempts = run.terms.max_attempts
    ended = run.state is RunState.CANCELLING or run.round + 1 >= _rounds_most(run)
    answers = answers_of(context.files, shards)
    planned = [] if ended else list(_plan_round(context, run, shards, answers, attempts))
    if planned:
        _add(context, run, planned)
    else:
        cancelled = run.state is RunState.CANCELLING
        facts = {"cancelled": cancelled}
        with context.files.naming() as objects:
            context.ledger.record_run(context.lease, context.now(), RunEvent.WRITING, state=RunState.WRITING, facts=facts, objects=objects)
    return True


def early_round(context: RunContext, run: JobRun, *, follow: bool) -> bool:
    """True if rows were planned whose batch has ended, while another batch has not.

    A batch that hangs must not make all the other rows miss the deadline.

    Args:
        follow: the rows behind one that went ahead do not wait for it any longer.
    """
    if due_of(run, context.now()) is None or run.state is not RunState.OPEN or run.round + 1 >= _rounds_most(run):
        return False
    shards = context.ledger.shards(run.id)
    free = _freed(context, run, shards)
    answers = answers_of(context.files, [shard for shard in shards if shard.state in TERMINAL])
    behind = _behind(context, shards, answers) if follow else RowSet(run.rows)
    if not len(free) and not len(behind):
        return False
    planned = list(_plan_round(context, run, shards, answers, run.terms.max_attempts, free, behind))
    if planned:
        _add(context, run, planned)
    return bool(planned)


def _add(context: RunContext, run: JobRun, planned: Sequence[Shard]) -> None:
    with context.files.naming() as objects:
        context.ledger.add_shards(context.lease, planned, run.round + 1, context.now(), objects=objects)


def _freed(context: RunContext, run: JobRun, shards: Sequence[Shard]) -> RowSet:
    """The rows that were cancelled for the deadline, are collected, and are in no later or open shard."""
    free = RowSet(run.rows)
    given_up = [
        shard for shard in shards if shard.state in TERMINAL and (shard.ended == "cancelled" or "cancelled" in (shard.outcomes or {}))
    ]
    if given_up and len(given_up) < len(shards):
        for shard in sorted(shards, key=lambda shard: shard.round):
            positions = read_positions(context.files.shard(shard.id).positions)
            if shard in given_up:
                free.add(positions)
            else:
                free.discard(positions)
    return free


def _behind(context: RunContext, shards: Sequence[Shard], answers: Sequence[Path]) -> RowSet:
    """The rows that a probe held back and that are in no shard."""
    held = held_back(context, answers)
    for shard in shards:
        held.discard(read_positions(context.files.shard(shard.id).positions))
    return held


def _rounds_most(run: JobRun) -> int:
    return run.terms.max_attempts + _MOVES_MOST


def _plan_round(
    context: RunContext,
    run: JobRun,
    shards: Sequence[Shard],
    answers: Sequence[Path],
    attempts: int,
    free: RowSet | None = None,
    behind: RowSet | None = None,
) -> Iterator[Shard]:
    """The planned shards of the rows that a probe held back, that failed, or whose answer did not satisfy.

    Args:
        free: the only rows (of N) that may be asked again now; None: all.
        behind: rows to ask for the first time, although the probe has not ended.
    """
    models, left = run.terms.models, None if run.ceiling_usd is None else run.ceiling_usd - run.spent_usd - run.reserved_usd
    accept, first = run.terms.accept, len(shards)
    again = retryable(answers, run.rows, attempts + (len(models) - 1 if accept else 0))
    again = again if free is None else again & free
    again = again if behind is None else again | behind
    asks: list[tuple[Ask, bool, bool]] = []
    if free is None and run.terms.probe and len(held := held_back(context, answers)):
        if not refused(run, shards):
            again = again | held
        elif is_enough(shards):
            fail_held_back(context, shards, held)
        else:
            lane = second_lane(context, run, shards[0])
            asks.append((probe_of(ask_of(context, run, held), f"{shards[0].provider}:{shards[0].model}", lane, again=True), False, True))
    found = _by_level(context, run, shards, again) if accept else [(ask_of(context, run, again), False)]
    asks += [(ask, answered, False) for ask, answered in found]
    for ask, answered, ahead in asks:
        if ask.work.requests and ask.work.output_kind != "embedding":
            ask = replace(ask, sizes=ask.sizes.longer(invalid(answers, run.rows), REPAIR_BYTES))
        planned = _plan_part(context, run, ask, first, left, answered=answered, ahead=ahead)
        left = None if left is None else left - sum((shard.worst_usd for shard in planned), Decimal(0))
        first += len(planned)
        yield from planned


def _by_level(context: RunContext, run: JobRun, shards: Sequence[Shard], again: RowSet) -> Iterator[tuple[Ask, bool]]:
    """For each model of a cascade: the rows to ask it or a later one, and True if all of them have an answer that can be used."""
    models = run.terms.models
    asked = [(context.files.shard(shard.id).answers, models.index(f"{shard.provider}:{shard.model}")) for shard in shards]
    for n, level in enumerate(levels([(path, model) for path, model in asked if path.exists()], run.rows, len(models) - 1)):
        if len(here := again & level):
            ask = ask_of(context, run, here)
            yield replace(ask, terms=replace(run.terms, models=models[n:])), n > 0


def _plan_part(context: RunContext, run: JobRun, ask: Ask, first: int, left: Decimal | None, *, answered: bool, ahead: bool) -> list[Shard]:
    """Planned shards; none if there is nothing to ask, or if the rows are answered and a better answer would come too late.

    None also if the rows are too few for a batch and may go nowhere else: they are planned again with those of the next round, if there is one.
    """
    due = due_of(run, context.now())
    if not ask.work.requests or (answered and run.deadline_at is not None and due is None):
        return []
    found, terms = options(context.environment, ask, due, left)
    found = found if due is None else _able(found, unable(context, context.ledger.shards(run.id)))
    if held(found, terms):
        log.warning("round.held run=%s rows=%d too few for a batch, and no fast lane may take them", run.id, ask.work.requests)
        return []
    chosen, most_rows = choose_rest(run.job, run.partition, found, terms, part=PART)  # the most valuable rows first
    if answered and chosen.chance is not None and chosen.chance < terms.probability:
        return []
    ask = ask if most_rows is None else ask.limited(most_rows)
    priority = snapshot.priorities(context.files.snapshot, run.terms.priority)
    return plan_shards(
        context.environment, context.files, ask, chosen, run_id=run.id, first=first, round_=run.round + 1, priority=priority, ahead=ahead
    )


def _able(found: list[Option], unable: set[str]) -> list[Option]:
    """The options without those of `unable` providers, unless there are no others."""
    able = [option for option in found if option.provider not in unable]
    return able if any(option.obstacle is None for option in able) else found


def unable(context: RunContext, shards: Sequence[Shard]) -> set[str]:
    """The providers that rejected this job run's realtime runs, or that failed under this lease."""
    failed = context.blocked | {provider for provider, _ in context.failed}
    return failed | {shard.provider for shard in shards if shard.fault is ShardFault.NO_CAPACITY}


def can_go_elsewhere(context: RunContext, run: JobRun, shard: Shard) -> bool:
    """True if there is a deadline, and another acceptable provider has not rejected this job run yet."""
    if due_of(run, context.now()) is None or not run.terms.any_lane:
        return False
    others = {name.partition(":")[0] for name in run.terms.models} - {shard.provider}
    return bool(others - unable(context, context.ledger.shards(run.id)))


def ask_of(context: RunContext, run: JobRun, rows: RowSet) -> Ask:
    """The `Ask` of only these rows."""
    sizes = snapshot.sizes(context.files.snapshot).only(rows) if len(rows) else Sizes.of(np.zeros(0, dtype=np.int64))
    return Ask(
        question=context.question(), sizes=sizes, terms=run.terms, job=(run.namespace, run.job), snapshot=context.files.snapshot,
        run_id=run.id,
    )  # fmt: skip


def due_of(run: JobRun, now: datetime) -> datetime | None:
    """The deadline, if it is not over; after it, the remaining rows are asked as cheaply as possible."""
    return run.deadline_at if run.deadline_at is not None and run.deadline_at > now else None
