"""Finish: every row has its outcome -> the enriched partition.

A step of the runner, the last.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from keld.duplicate import fan_out
from keld.enrich import enrich, enriched_schema, final_outcomes, source_schema
from keld.failpoint import failpoint
from keld.ledger import JobRun
from keld.outcome import Outcome
from keld.runner.context import RunContext, answers_of
from keld.state import RunEvent, RunState
from keld.table import write_table

if TYPE_CHECKING:
    import pyarrow as pa


def write(context: RunContext, run: JobRun) -> None:
    """Writes the enriched partition, if a sink was asked for, and closes the job run."""
    shards = context.ledger.shards(run.id)
    answers = fan_out(context.files.duplicates, answers_of(context.files, shards), context.output())
    written = None if run.sink is None else _write_output(context, run, run.sink, answers)
    found = final_outcomes(answers, run.rows, run.unaskable)
    answered, quarantined = found[Outcome.ANSWERED], found[Outcome.QUARANTINED]
    cancelled = found[Outcome.UNASKED] + found[Outcome.CANCELLED] > 0
    context.ledger.record_run(
        context.lease,
        context.now(),
        RunEvent.FINISHED,
        state=RunState.CANCELLED if cancelled else RunState.FINISHED,
        outcomes={outcome.value: n for outcome, n in found.items()},
        answered=answered,
        quarantined=quarantined,
        failed=run.rows - answered - quarantined,
        output=written,
        finished_at=run.finished_at or context.now(),  # when it is written again, the first time counts
        problem=None,
    )
    for shard in shards:
        context.files.shard(shard.id).drop_read()
    context.files.forget_local()


def _write_output(context: RunContext, run: JobRun, sink: str, answers: Sequence[Path]) -> dict[str, object]:
    output = context.output()
    schema = enriched_schema(source_schema(context.files.snapshot), output)
    failpoint("sink.write")
    context.ledger.leases.renew(context.lease, context.now())  # else it could overwrite the output of a younger job run
    rows = _with_pulse(context, enrich(context.files.snapshot, answers, output))
    written = write_table(sink, schema, rows, partition=run.partition or None)
    failpoint("sink.written")
    return {"uri": written.uri, "rows": written.rows, "size_bytes": written.size_bytes, "sha256": written.sha256}


def _with_pulse(context: RunContext, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        context.pulse()
        yield batch
