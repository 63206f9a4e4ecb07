"""Finish: every row has its outcome -> the enriched partition.

A step of the runner, the last.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from keld.answer import Outcome
from keld.enrich import enrich, enriched_schema, final_outcomes, source_schema
from keld.failpoint import failpoint
from keld.ledger import JobRun
from keld.runner.visit import Visit, answers_of
from keld.state import RunEvent, RunState
from keld.table import write_table
from keld.twin import fan_out

if TYPE_CHECKING:
    import pyarrow as pa


def write(visit: Visit, run: JobRun) -> None:
    """Writes the enriched partition, if a sink was asked for, and closes the job run."""
    shards = visit.ledger.shards(run.id)
    answers = fan_out(visit.files.twins, answers_of(visit.files, shards), visit.output())
    written = None if run.sink is None else _write_output(visit, run, run.sink, answers)
    found = final_outcomes(answers, run.rows, run.unaskable)
    answered, quarantined = found[Outcome.ANSWERED], found[Outcome.QUARANTINED]
    cancelled = found[Outcome.UNASKED] + found[Outcome.CANCELLED] > 0
    visit.ledger.record_run(
        visit.lease,
        visit.now(),
        RunEvent.FINISHED,
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
        for path in [*visit.files.shard(shard.id).dir.glob("result-*.jsonl"), *visit.files.shard(shard.id).dir.glob("journal.*")]:
            path.unlink(missing_ok=True)  # every answer in it stands in answers.parquet


def _write_output(visit: Visit, run: JobRun, sink: str, answers: Sequence[Path]) -> dict[str, object]:
    output = visit.output()
    schema = enriched_schema(source_schema(visit.files.snapshot), output)
    failpoint("sink.write")
    visit.ledger.leases.renew(visit.lease, visit.now())  # else a younger job run's output may stand there
    rows = _heard(visit, enrich(visit.files.snapshot, answers, output))
    written = write_table(sink, schema, rows, partition=run.partition or None)
    failpoint("sink.written")
    return {"uri": written.uri, "rows": written.rows, "size_bytes": written.size_bytes, "sha256": written.sha256}


def _heard(visit: Visit, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        visit.pulse()
        yield batch
