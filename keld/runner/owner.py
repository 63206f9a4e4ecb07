"""Owner: who owns a job, by the ledger, and the job run of a partition that exists already.

A step of opening a job run, before the source is read.  The rule is `identity`'s; this applies it to the ledger's job runs.
"""

from __future__ import annotations

from keld.errors import InvalidJob
from keld.ledger import JobRun
from keld.namespace import Namespace
from keld.runner.context import Environment
from keld.runner.submission import Submission


def claim(environment: Environment, namespace: Namespace, asked: Submission) -> JobRun | None:
    """The youngest job run of a partition, after the caller was recorded as its owner.

    Raises:
        InvalidJob: the job belongs to another owner.
    """
    ledger, job, mine = environment.ledger, asked.job, asked.mine
    before, owners = check_owner(environment, namespace, asked)
    if before is not None and before.namespace != namespace.name:
        ledger.catalog.move(before.namespace, job.name, asked.key, namespace.name, environment.clock())
        before = ledger.catalog.latest(namespace.name, job.name, asked.key)
    if owners - {mine.owner}:
        ledger.catalog.hand_over(namespace.name, job.name, mine.owner)
    return before


def check_owner(environment: Environment, namespace: Namespace, asked: Submission) -> tuple[JobRun | None, set[str | None]]:
    """The youngest job run of a partition, and the owners of the job so far; passes if it does not belong to another owner.

    Raises:
        InvalidJob: it is.
    """
    ledger, job, mine = environment.ledger, asked.job, asked.mine
    before = ledger.catalog.latest(namespace.name, job.name, asked.key)
    latest = ledger.catalog.latest_of(namespace.name, job.name)
    known = [run for run in (latest, before) if run is not None]
    if known and all(mine.belongs_to_another(run.owner, run.fingerprint, run.declared, run.source) for run in known):
        raise _anothers(asked, known[0])
    earlier = namespace.latest(ledger, job.name, asked.key) if before is None else None
    if earlier is not None and earlier.fingerprint == mine.fingerprint and earlier.owner in (None, mine.owner):
        return earlier, {earlier.owner}
    return before, {run.owner for run in known}


def _anothers(asked: Submission, theirs: JobRun) -> InvalidJob:
    name, mine = asked.job.name, asked.mine
    changed = mine.changed_since(theirs.fingerprint, theirs.declared, theirs.source) or "the source, as far as it has a name"
    return InvalidJob(
        f"{name}: {theirs.owner} declares a job of this name in the namespace {theirs.namespace!r}, and {mine.owner} declares it differently "
        f"({changed}). Nothing was sent. Give one of them another name=, or another namespace; or if it is the same job, renamed and changed at the same time, "
        f"say so once in Python: keld.Keld().hand_over({name!r}, {mine.owner!r}).",
        job=name,
    )
