"""Output: the enriched rows of a job run that has all its outcomes, and the sink they go to.

Beside `finish`, which writes them to a sink that any worker can reach.  This file reads them for a caller, and checks a sink before anything is sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keld.duplicate import fan_out
from keld.enrich import enrich, enriched_schema, source_schema
from keld.errors import InvalidJob, StagingError, UnknownJobRun
from keld.ledger import JobRun
from keld.namespace import Namespace
from keld.runner.context import Environment, answers_of, question_of
from keld.runner.submission import Submission
from keld.schema import OutputSchema
from keld.staging import RunFiles
from keld.state import RunState
from keld.table import sink_is_file, try_sink

if TYPE_CHECKING:
    import pyarrow as pa


def read(environment: Environment, run: JobRun) -> pa.RecordBatchReader:
    """The enriched rows, streamed, in the order of the table.

    Raises:
        UnknownJobRun: some of its rows have no outcome yet.
        StagingError: its answers were removed, or are not here.
    """
    import pyarrow as pa

    if not run.over and run.state is not RunState.WRITING:
        raise UnknownJobRun(
            f"{run.job}[{run.partition}] is {run.state.value}: its rows do not all have an outcome yet. Advance it first.",
            run_id=run.id,
            job=run.job,
            partition=run.partition or None,
        )
    check_kept(run)
    files = environment.staging.run(run.id)
    output = OutputSchema.from_json(question_of(files).output)
    answers = fan_out(files.duplicates, answers_of(files, environment.ledger.shards(run.id)), output)
    return pa.RecordBatchReader.from_batches(schema_of(files, output), enrich(files.snapshot, answers, output))


def schema_of(files: RunFiles, output: OutputSchema) -> pa.Schema:
    """The columns of the enriched rows: those of the source, the answer's, and Keld's own."""
    return enriched_schema(source_schema(files.snapshot), output)


def check_kept(run: JobRun) -> None:
    """Passes if the answers of a job run were not removed."""
    if run.removed_at is None:
        return
    output = (run.output or {}).get("uri")
    raise StagingError(
        f"The answers of {run.job}[{run.partition}] were removed by `keld gc` on {run.removed_at:%Y-%m-%d}. Nothing was sent. "
        + (f"They were written to {output}. " if output else "")
        + "To ask every row again, and to pay for it again, give force=True.",
        job=run.job,
        partition=run.partition or None,
    )


def check_sink(environment: Environment, namespace: Namespace, asked: Submission) -> None:
    """Passes unless the sink is a file to which another partition of the job was written, as far as the ledger knows.

    Raises:
        InvalidJob: it would be overwritten.
    """
    job, sink, partition = asked.job.name, asked.sink, asked.key
    if sink is None or not sink_is_file(sink, partition or None) or not isinstance(sink, str):
        return
    other = environment.ledger.catalog.partition_at(namespace.name, job, sink, partition)
    if other is not None:
        raise InvalidJob(
            f"{job}[{partition}]: the sink {sink} is also the sink of the partition {other!r}, whose output would be overwritten. Nothing was sent. "
            "Name one file a partition, e.g. sink='out/{partition}.parquet', or a directory.",
            field="sink",
            job=job,
            partition=partition or None,
        )


def try_sink_of(environment: Environment, run: JobRun, sink: str) -> None:
    """Passes if the enriched rows of a job run can be written to `sink`, as far as this worker can tell.

    Raises:
        SinkError, SinkRefused.
    """
    files = environment.staging.run(run.id)
    if files.question.exists() and files.snapshot.exists():  # else another worker has them
        output = OutputSchema.from_json(question_of(files).output)
        try_sink(sink, schema_of(files, output), partition=run.partition or None)
