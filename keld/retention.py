"""Retention: the staged files of job runs that ended long ago, and their removal.

Beside the road: `environment` -> **`retention`** -> `staging`, `ledger`.  Staging holds prompts and answers, so nobody keeps it for ever; but what
is removed cannot be reused or written again, and a changed partition is then asked whole.  So it is a person, or their schedule, who says
`keld gc`, and the ledger remembers that it was done: it is told first, so that a crash leaves files too many, which the next `gc` takes.

What the ledger does not know is left alone: a wrong `KELD_LEDGER_URL` must not cost anybody their answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from keld.errors import UnknownJobRun
from keld.failpoint import failpoint
from keld.ledger import Ledger
from keld.record import JobRun
from keld.staging import Staging


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """The files of one job run that are removed, or could be; `known` is False for a directory that is not in the ledger, and left."""

    run_id: str
    job: str | None = None
    partition: str | None = None
    finished_at: datetime | None = None
    size_bytes: int
    known: bool = True


def outdated(ledger: Ledger, staging: Staging, before: datetime) -> Iterator[Removal]:
    """What may be removed: all that is staged of job runs that ended before an instant, and owe nobody anything."""
    for run_id in staging.run_ids():
        files = staging.run(run_id)
        try:
            run = ledger.run(run_id)
        except UnknownJobRun:
            if files.dir.stat().st_mtime < before.timestamp():  # else it may be under way
                yield Removal(run_id=run_id, size_bytes=_size(files.dir), known=False)
            continue
        if _is_done_with(ledger, run, before):
            yield Removal(run_id=run_id, job=run.job, partition=run.partition, finished_at=run.finished_at, size_bytes=_size(files.dir))


def remove(ledger: Ledger, staging: Staging, removal: Removal, now: datetime) -> bool:
    """Removes the files of a job run; False if it was opened again meanwhile, or is none of this ledger's."""
    if not removal.known or not ledger.note_removed(removal.run_id, now):
        return False
    failpoint("gc.noted")
    staging.drop(removal.run_id)
    return True


def _is_done_with(ledger: Ledger, run: JobRun, before: datetime) -> bool:
    """Whether nothing is asked of these files any more: a batch to be settled, or rows that must not be asked again, need them."""
    if not run.over or run.finished_at is None or run.finished_at >= before or run.quarantined:
        return False
    settled = [stray.settled_at for stray in ledger.strays_of(run.id)] + [one.settled_at for one in ledger.candidates_of(run.id)]
    return all(at is not None for at in settled)


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
