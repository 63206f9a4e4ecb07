"""Probe: a row or two before all the others go into a batch.

A step of the runner, beside `round`.  Some providers check parameters only while they process a batch, so a wrong one shows after
hours, in every row; the probe shows it in one.  As a batch of one it also writes the prompt cache for the others (`cache`), at half the price;
in the standard lane it is answered within a minute.  It is a row like any other: asked once, and its answer is kept.
One row may be refused because of its own content, so a job run is stopped only after three refusals.  The second attempt goes to the standard lane if
the job allows that: one turnaround of waiting is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from keld import snapshot
from keld.answer import answer_schema, read_answers, same
from keld.ledger import JobRun, Shard
from keld.outcome import Outcome
from keld.price import Lane
from keld.row_set import RowSet
from keld.runner.context import RunContext
from keld.runner.option import PROBED, Ask
from keld.staging import disk_errors
from keld.table import ParquetSink


def probe_of(ask: Ask, model: str, lane: Lane, *, again: bool = False) -> Ask:
    """One row of about the median size, for one model in one lane; `again`: two other rows."""
    asked = ask.sizes.requests
    rows = {ask.sizes.ranked((asked // 2 + n) % asked) for n in range(PROBED[again])}
    probed = RowSet.of(ask.sizes.rows, np.array(sorted(rows), dtype=np.int64))
    return replace(ask, sizes=ask.sizes.only(probed), terms=replace(ask.terms, models=(model,), lane=lane.value))


def second_lane(context: RunContext, run: JobRun, first: Shard) -> Lane:
    """The lane of a second attempt: standard if that lane was taken before, or if the job allows every lane and the model is sold there."""
    if first.lane != Lane.BATCH:
        return Lane.STANDARD
    provider = context.provider(first)
    sold = (
        Lane.STANDARD in provider.traits.lanes and provider.rates(first.model, Lane.STANDARD, context.now(), run.terms.prices) is not None
    )
    takes = Lane.STANDARD not in provider.fit(context.question(), first.model).not_in
    return Lane.STANDARD if run.terms.any_lane and sold and takes else Lane.BATCH


def held_back(context: RunContext, answers: Sequence[Path]) -> RowSet:
    """The rows that wait for the probe's outcome."""
    sizes = snapshot.sizes(context.files.snapshot)
    held = RowSet(sizes.rows)
    for asked in sizes.asked():
        held.add(asked)
    if context.files.duplicates.exists():
        held.discard(np.load(context.files.duplicates)[0])
    for path in answers:
        for batch in read_answers(path, columns=["keld_position"]):
            held.discard(batch.column(0).to_numpy())
    return held


def refused(run: JobRun, shards: Sequence[Shard]) -> bool:
    """True if all rows that were asked until now were refused permanently."""
    mine = [shard for shard in shards if shard.run_id == run.id and shard.requests]
    return all(shard.outcomes == {Outcome.ERRORED.value: shard.requests} and not shard.retryable for shard in mine)


def is_enough(shards: Sequence[Shard]) -> bool:
    """True if so many rows were refused that their own content is not the reason."""
    return sum(shard.requests for shard in shards) >= sum(PROBED)


def fail_held_back(context: RunContext, shards: Sequence[Shard], held: RowSet) -> None:
    """Writes the probe's outcome for all rows that were held back; none of them is asked."""
    output = context.output()
    why = f"not asked: every row of the probe was refused: {next(iter(_errors(context, shards)), 'refused')}"
    with disk_errors(context.files.dir, "Nothing more was sent."), ParquetSink(context.files.stopped, answer_schema(output)) as sink:
        for positions in held.blocks():
            sink.write(same(positions.tolist(), Outcome.ERRORED, why, None, output))
    context.files.keep(context.files.stopped)


def _errors(context: RunContext, shards: Sequence[Shard]) -> list[str]:
    paths = [context.files.shard(shard.id).answers for shard in shards]
    return [
        error for path in paths for batch in read_answers(path, columns=["keld_error"]) for error in batch.column(0).to_pylist() if error
    ]
