"""Retention: the staged files of job runs that ended long ago, and their removal.

Beside the road: `environment` -> **`retention`** -> `staging`, `ledger`.  Staging holds prompts and answers, which should not be kept without
limit; but removed answers cannot be reused or written again, and a changed partition is then asked as a whole.  So only a person, or their
schedule, calls `keld gc`.  The ledger records the removal first, so that a crash leaves files behind, which the next `gc` removes.

In the directories that stay, incomplete files that were not modified for as long are removed, too: their writers are dead.

Directories that the ledger does not know are not touched: a wrong `KELD_LEDGER_URL` must not delete anybody's answers.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from keld.errors import UnknownJobRun
from keld.failpoint import failpoint
from keld.ledger import JobRun, Ledger
from keld.staging import Staging


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """The files of one job run that are or can be removed; `known` is False for a directory that is not in the ledger, which is never removed."""

    run_id: str
    job: str | None = None
    partition: str | None = None
    finished_at: datetime | None = None
    size_bytes: int
    known: bool = True
    leftover: bool = False  # not the files of the job run, but incomplete files of dead workers among them


def removable(ledger: Ledger, staging: Staging, before: datetime) -> Iterator[Removal]:
    """What may be removed: the staged files of job runs that ended before an instant and have nothing left to settle."""
    for run_id in staging.run_ids():
        files = staging.run(run_id)
        try:
            run = ledger.run(run_id)
        except UnknownJobRun:
            if files.dir.stat().st_mtime < before.timestamp():  # else it may still be in use
                yield Removal(run_id=run_id, size_bytes=_size(files.dir), known=False)
            continue
        whose: dict[str, Any] = {"run_id": run_id, "job": run.job, "partition": run.partition, "finished_at": run.finished_at}
        if _is_done_with(ledger, run, before):
            yield Removal(**whose, size_bytes=_size(files.dir))
        elif left := files.leftovers(before):
            yield Removal(**whose, size_bytes=sum(map(_size, left)), leftover=True)


def remove(ledger: Ledger, staging: Staging, removal: Removal, before: datetime, now: datetime) -> bool:
    """True if the files of a job run, or its incomplete files, were removed; False if it was opened again meanwhile, or is not in this ledger."""
    if removal.leftover:
        for path in staging.run(removal.run_id).leftovers(before):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        return True
    if not removal.known or not ledger.control.note_removed(removal.run_id, now):
        return False
    failpoint("gc.noted")
    staging.drop(removal.run_id)
    return True


def _is_done_with(ledger: Ledger, run: JobRun, before: datetime) -> bool:
    """True if nothing needs these files any more; a batch to be settled, or rows that must not be asked again, need them."""
    if not run.over or run.finished_at is None or run.finished_at >= before or run.quarantined:
        return False
    settled = [orphan.settled_at for orphan in ledger.orphans.of(run.id)] + [one.settled_at for one in ledger.candidates.of(run.id)]
    return all(at is not None for at in settled)


def _size(path: Path) -> int:
    return sum(one.stat().st_size for one in [path, *path.rglob("*")] if one.is_file())
