"""Take: the rows of a partition as they are asked, on disk; and those that need no request.

A step of opening a job run, before anything is planned.  The source is read once, here.  A row whose prompt was answered before gets that
answer; rows with the same prompt are asked once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from keld import http, snapshot
from keld.duplicate import find_duplicates, write_duplicates
from keld.enrich import KELD_COLUMNS
from keld.errors import InvalidJob
from keld.identity import question_of_job
from keld.job import Job
from keld.namespace import Namespace
from keld.outcome import Outcome
from keld.request import Question, fingerprint, marks_of
from keld.reuse import reuse
from keld.row_set import RowSet
from keld.runner.context import Environment, answers_of
from keld.runner.submission import Submission
from keld.schema import OutputSchema
from keld.size import Sizes
from keld.snapshot import Snapshot
from keld.staging import RunFiles, disk_errors, write_file
from keld.table import Table

_MANY_ROWS = 10_000  # to keep them takes longer than to read the certificates


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """A partition whose rows are in `files`, and the question about each."""

    job: Job
    key: str
    files: RunFiles
    snapshot: Snapshot
    question: Question
    fingerprint: str  # of the question and the models

    def keep(self) -> None:
        """Puts everything that was written until now where every worker can read it."""
        written = (self.files.snapshot, self.files.question, self.files.duplicates, *sorted(self.files.dir.glob("reused-*.parquet")))
        self.files.keep(*written)


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of a partition that are left to ask.

    Args:
        unanswered: the number of rows without an earlier answer, including those with the same prompt.
        quarantined: the number of rows that must not be asked, since an earlier request for them may still be answered and paid.
    """

    sizes: Sizes
    unanswered: int
    quarantined: int = 0


def take(environment: Environment, asked: Submission, table: Table, files: RunFiles) -> Taken:
    """The rows of a table and the question, written to `files`.

    Raises:
        InvalidJob, SchemaError, SourceError, StagingError: nothing was sent.
    """
    job = asked.job
    output, question = question_of_job(job)
    table = table.without(KELD_COLUMNS.names)  # columns of an earlier job, if jobs are chained
    _check_clash(job, table.schema.names, output)
    for name in job.acceptable:
        account, _, model = name.partition(":")
        environment.provider(account).check(question, model, job.name)
    if table.rows is None or table.rows > _MANY_ROWS:
        http.begin_to_trust()
    with disk_errors(files.dir, "Nothing was sent."):
        rows = snapshot.take(job, table, files.snapshot, marks_cache(environment, job))
        write_file(files.question, [question.to_json()], "staging.question")
    return Taken(job=job, key=asked.key, files=files, snapshot=rows, question=question, fingerprint=fingerprint(question, job.acceptable))


def marks_cache(environment: Environment, job: Job) -> Callable[[bytes], bool]:
    """A test that is True if a prompt, or the job's parameters, already have cache marks of any of its models' providers."""
    accounts = {name.partition(":")[0] for name in job.acceptable}
    return marks_of(frozenset[str]().union(*(environment.provider(account).cache_fields() for account in accounts)))


def all_left(taken: Taken) -> Left:
    """The rows to ask if no earlier answer is used."""
    return _left(taken, RowSet(taken.snapshot.rows))


def left_of(environment: Environment, namespace: Namespace, taken: Taken) -> Left:
    """The rows to ask, without those that an earlier job run answered or quarantined."""
    settled, quarantined = _settled_before(environment, namespace, taken)
    return _left(taken, settled, quarantined)


def _left(taken: Taken, settled: RowSet, quarantined: int = 0) -> Left:
    """The rows without the `settled` ones, and without those that repeat an earlier row's prompt; which row that is, is written to the files."""
    sizes = snapshot.sizes(taken.files.snapshot)
    sizes = sizes.without(settled) if len(settled) else sizes
    files, unanswered = taken.files, sizes.requests
    if taken.job.reuse != "never":
        with disk_errors(files.dir, "Nothing was sent."):
            duplicates, leaders = find_duplicates(files.snapshot, settled)
            write_duplicates(files.duplicates, duplicates, leaders)
        sizes = sizes.without(RowSet.of(settled.rows, duplicates)) if len(duplicates) else sizes
    return Left(sizes=sizes, unanswered=unanswered, quarantined=quarantined)


def _settled_before(environment: Environment, namespace: Namespace, taken: Taken) -> tuple[RowSet, int]:
    """The rows that earlier job runs answered or quarantined, and the number of the quarantined ones."""
    job, files, output = taken.job, taken.files, OutputSchema.from_json(taken.question.output)
    ours = environment.ledger.catalog.runs_asking(namespace.name, taken.fingerprint, job=job.name, partition=taken.key)
    names = namespace.names if job.reuse == "namespace" else ()
    everybodys = [run for name in names for run in environment.ledger.catalog.runs_asking(name, taken.fingerprint)]
    settled, quarantined, n = RowSet(taken.snapshot.rows), 0, 0
    # Answered rows first; then, of this partition only, the rows that must not be asked again.
    for outcome, runs in ((Outcome.ANSWERED, [*ours, *everybodys]), (Outcome.QUARANTINED, ours)):
        for run in runs:
            old = environment.staging.run(run.id)
            if not old.snapshot.exists():
                continue
            answers = answers_of(old, environment.ledger.shards(run.id))
            hit = reuse(old.snapshot, answers, files.snapshot, settled, output, files.reused_from(n), outcome)
            settled, n = settled | hit, n + 1
            quarantined += len(hit) if outcome is Outcome.QUARANTINED else 0
    return settled, quarantined


def _check_clash(job: Job, table: Sequence[str], output: OutputSchema) -> None:
    """Passes if no column of the answer has the name of a column of the table, or one reserved for Keld."""
    own = [name for name in output.columns.names if name.lower().startswith("keld_")]
    if own:
        raise InvalidJob(
            f"{job.name}: the answer's columns {', '.join(map(repr, own))} begin with keld_, as only Keld's own columns do. Nothing was sent. "
            "Rename the fields of output_type, or give output_prefix, e.g. output_prefix='llm_'.",
            job=job.name,
        )
    taken = [name for name in output.columns.names if name in table]
    if taken:
        raise InvalidJob(
            f"{job.name}: the answer's columns {', '.join(map(repr, taken))} are columns of the table already. Nothing was sent. "
            "Give output_prefix, e.g. output_prefix='llm_', or rename one of them.",
            job=job.name,
        )
