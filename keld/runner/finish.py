"""Finish: every shard has its outcome -> a next round for what may be asked again, or the enriched partition.

A step of the runner, the last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keld import snapshot
from keld.answer import Outcome
from keld.enrich import enrich, enriched_schema, final_outcomes, retryable_positions, source_schema
from keld.failpoint import failpoint
from keld.plan import Worth, reckoner, work_of
from keld.record import JobRun, Shard, nonce
from keld.runner.visit import Visit, sent_of
from keld.shard import Slice, cut
from keld.staging import RunFiles, disk_errors, write_positions
from keld.state import RunState, State
from keld.table import write_table

if TYPE_CHECKING:
    from numpy.typing import NDArray


def next_round(visit: Visit, run: JobRun, shards: Sequence[Shard]) -> None:
    """Plans batches for what may be asked again, or goes on to write."""
    last = run.round + 1 >= int(run.terms["max_attempts"])
    again = None if last or run.state is RunState.CANCELLING else retryable_positions(_answers(visit, shards), run.rows)
    if again is None or not len(again):
        cancelled = run.state is RunState.CANCELLING
        visit.ledger.record_run(visit.lease, visit.now(), "writing", state=RunState.WRITING, facts={"cancelled": cancelled})
        return
    planned = _plan_round(visit, run, shards, again)
    visit.ledger.add_shards(visit.lease, planned, run.round + 1, visit.now())


def _plan_round(visit: Visit, run: JobRun, shards: Sequence[Shard], again: NDArray[np.int64]) -> list[Shard]:
    like = shards[-1]
    provider, question = visit.provider(like), visit.question()
    encoder = provider.encoder(question, like.model, like.id)
    mask = np.zeros(run.rows, dtype=bool)
    mask[again] = True
    asked = np.where(mask, np.concatenate(list(snapshot.sizes(visit.files.snapshot))), 0)
    limits = provider.capabilities.limits.lowered(run.terms.get("max_shard_rows"), run.terms.get("max_shard_bytes"))
    slices = cut([asked], encoder.overhead_bytes, limits)
    worth = reckoner(work_of(question, asked), encoder.overhead_bytes, sent_of(run, visit.files, like).rates)
    return plan_shards(visit.files, slices, mask, first=len(shards), round_=run.round + 1, like=like, reckon=worth)


def plan_shards(
    files: RunFiles,
    slices: Sequence[Slice],
    asked: NDArray[np.bool_],
    *,
    first: int,
    round_: int,
    like: Shard,
    reckon: Callable[[Slice], Worth],
) -> list[Shard]:
    """Planned shards of a round, their positions on disk already.

    Args:
        asked: N booleans, which rows this round asks.
        like: gives the job run, provider, host, model and lane.
        reckon: gives what a slice costs.
    """
    planned = []
    for n, part in enumerate(slices):
        shard_id, worth = nonce(), reckon(part)
        positions = np.flatnonzero(asked[part.start : part.stop]) + part.start
        with disk_errors(files.dir, "Nothing of this round was sent."):
            write_positions(files.shard(shard_id).positions, positions)
        planned.append(
            Shard(
                id=shard_id,
                run_id=like.run_id,
                ordinal=first + n,
                round=round_,
                state=State.PLANNED,
                provider=like.provider,
                host=like.host,
                model=like.model,
                lane=like.lane,
                requests=part.requests,
                size_bytes=part.size_bytes,
                worst_usd=worth.worst_usd,
                expected_usd=worth.expected_usd,
            )
        )
    return planned


def write(visit: Visit, run: JobRun) -> None:
    """Writes the enriched partition, if a sink was asked for, and closes the job run."""
    shards = visit.ledger.shards(run.id)
    answers = _answers(visit, shards)
    written = None if run.sink is None else _write_output(visit, run, run.sink, answers)
    found = final_outcomes(answers, run.rows, run.unaskable)
    answered, quarantined = found[Outcome.ANSWERED], found[Outcome.QUARANTINED]
    cancelled = found[Outcome.UNASKED] + found[Outcome.CANCELLED] > 0
    visit.ledger.record_run(
        visit.lease,
        visit.now(),
        "finished",
        state=RunState.CANCELLED if cancelled else RunState.FINISHED,
        outcomes={outcome.value: n for outcome, n in found.items()},
        answered=answered,
        quarantined=quarantined,
        failed=run.rows - answered - quarantined,
        output=written,
        finished_at=run.finished_at or visit.now(),  # written again, it was no less in time
        problem=None,
    )
    for shard in shards:
        for path in visit.files.shard(shard.id).dir.glob("result-*.jsonl"):
            path.unlink(missing_ok=True)  # every answer in it stands in answers.parquet


def _write_output(visit: Visit, run: JobRun, sink: str, answers: Sequence[Path]) -> dict[str, object]:
    output = visit.output()
    schema = enriched_schema(source_schema(visit.files.snapshot), output)
    failpoint("sink.write")
    visit.ledger.renew(visit.lease, visit.now())  # else a younger job run's output may stand there
    written = write_table(sink, schema, enrich(visit.files.snapshot, answers, output), partition=run.partition or None)
    failpoint("sink.written")
    return {"uri": written.uri, "rows": written.rows, "size_bytes": written.size_bytes, "sha256": written.sha256}


def _answers(visit: Visit, shards: Sequence[Shard]) -> list[Path]:
    ordered = [visit.files.shard(shard.id).answers for shard in sorted(shards, key=lambda shard: (shard.round, shard.ordinal))]
    return [path for path in [visit.files.reused, visit.files.unsent, *ordered] if path.exists()]
