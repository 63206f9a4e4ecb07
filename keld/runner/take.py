"""Take: the rows of a partition as they are asked, on disk; and which of them need not be asked.

A step of opening a job run, before anything is planned.  The source is read once, here.  A row whose prompt was answered before takes that
answer; rows with the same prompt are asked once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from keld import snapshot
from keld.answer import Outcome
from keld.duplicate import find_duplicates, write_duplicates
from keld.enrich import KELD_COLUMNS
from keld.errors import InvalidJob
from keld.job import Job
from keld.namespace import Namespace
from keld.request import Question, fingerprint, marks_of
from keld.reuse import reuse
from keld.runner.context import Environment, answers_of
from keld.runner.submission import Submission, question_of_job
from keld.schema import OutputSchema
from keld.snapshot import Snapshot
from keld.staging import RunFiles, disk_errors, write_file
from keld.table import Table

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A partition whose rows lie in `files`, and what is asked of each."""

    job: Job
    key: str
    files: RunFiles
    snapshot: Snapshot
    question: Question
    fingerprint: str  # of the question and the models


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What of a partition is left to ask.

    Args:
        sizes: N fragment sizes in bytes; 0 for a row that is not asked.
        unanswered: the rows that no earlier answer stands for, those with the same prompt included.
        quarantined: the rows that must not be asked, since an earlier request for them may still be alive.
    """

    sizes: NDArray[np.int64]
    unanswered: int
    quarantined: int = 0


def take(environment: Environment, asked: Submission, table: Table, files: RunFiles) -> Taken:
    """The rows of a table and the question, written to `files`.

    Raises:
        InvalidJob, SchemaError, SourceError, StagingError: nothing was sent.
    """
    job = asked.job
    output, question = question_of_job(job)
    table = table.without(KELD_COLUMNS.names)  # an earlier job's, where jobs are chained; its own table keeps them
    _check_clash(job, table.schema.names, output)
    for name in job.acceptable:
        account, _, model = name.partition(":")
        environment.provider(account).check(question, model, job.name)
    with disk_errors(files.dir, "Nothing was sent."):
        rows = snapshot.take(job, table, files.snapshot, marks_cache(environment, job))
        write_file(files.question, [question.to_json()], "staging.question")
    return Taken(job=job, key=asked.key, files=files, snapshot=rows, question=question, fingerprint=fingerprint(question, job.acceptable))


def marks_cache(environment: Environment, job: Job) -> Callable[[bytes], bool]:
    """Whether a prompt, or the job's parameters, say by themselves what is to be cached, in the words of any of its models' providers."""
    accounts = {name.partition(":")[0] for name in job.acceptable}
    return marks_of(frozenset[str]().union(*(environment.provider(account).cache_fields() for account in accounts)))


def all_left(taken: Taken) -> Left:
    """What is to be asked where no earlier answer is used."""
    sizes = snapshot.sizes(taken.files.snapshot)
    return Left(sizes=_once(taken, sizes), unanswered=int((sizes > 0).sum()))


def left_of(environment: Environment, namespace: Namespace, taken: Taken) -> Left:
    """What is to be asked, without the rows that an earlier job run stands for."""
    sizes = snapshot.sizes(taken.files.snapshot)
    standing, quarantined = _standing(environment, namespace, taken, sizes > 0)
    sizes[standing] = 0
    return Left(sizes=_once(taken, sizes), unanswered=int((sizes > 0).sum()), quarantined=quarantined)


def _once(taken: Taken, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sizes with those of the rows at 0 that repeat an earlier row's prompt; whose, is kept."""
    if taken.job.reuse == "never":
        return sizes
    files = taken.files
    duplicates, leaders = find_duplicates(files.snapshot, sizes)
    with disk_errors(files.dir, "Nothing was sent."):
        write_duplicates(files.duplicates, duplicates, leaders)
    once = sizes.copy()
    once[duplicates] = 0
    return once


def _standing(environment: Environment, namespace: Namespace, taken: Taken, wanted: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], int]:
    """Which rows an earlier job run stands for, since they were paid for, and how many of them are quarantined."""
    job, files, output = taken.job, taken.files, OutputSchema.from_json(taken.question.output)
    ours = environment.ledger.catalog.runs_asking(namespace.name, taken.fingerprint, job=job.name, partition=taken.key)
    names = namespace.names if job.reuse == "namespace" else ()
    everybodys = [run for name in names for run in environment.ledger.catalog.runs_asking(name, taken.fingerprint)]
    standing, quarantined, n = wanted & False, 0, 0
    # What was answered comes first; then, of this partition only, what must not be asked again.
    for outcome, runs in ((Outcome.ANSWERED, [*ours, *everybodys]), (Outcome.QUARANTINED, ours)):
        for run in runs:
            old = environment.staging.run(run.id)
            if not old.snapshot.exists():
                continue
            answers = answers_of(old, environment.ledger.shards(run.id))
            hit = reuse(old.snapshot, answers, files.snapshot, wanted & ~standing, output, files.reused_from(n), outcome)
            standing, n = standing | hit, n + 1
            quarantined += int(hit.sum()) if outcome is Outcome.QUARANTINED else 0
    return standing, quarantined


def _check_clash(job: Job, table: Sequence[str], output: OutputSchema) -> None:
    """Passes if the answer's columns are neither the table's nor Keld's own."""
    own = [name for name in output.columns.names if name.lower().startswith("keld_")]
    if own:
        raise InvalidJob(
            f"{job.name}: the answer's columns {', '.join(map(repr, own))} begin as Keld's own do. Nothing was sent. "
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
