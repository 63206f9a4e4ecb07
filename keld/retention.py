"""Retention: the staged files of job runs that ended long ago, and their removal.

Beside the road: `environment` -> **`retention`** -> `staging`, `ledger`.  Staging holds prompts and answers, which should not be kept without
limit; but removed answers cannot be reused or written again, and a changed partition is then asked as a whole.  So only a person, or their
schedule, calls `keld gc`.  The ledger records the removal first, so that a crash leaves files behind, which the next `gc` removes.

In the directories that stay, incomplete files that were not modified for as long are removed, too: their writers are dead.

In a bucket, where each file is an object that the ledger names (`stored`), incomplete is what it has not named for a day.

Directories that the ledger does not know are not touched: a wrong `KELD_LEDGER_URL` must not delete anybody's answers.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import msgspec

from keld.errors import UnknownJobRun
from keld.failpoint import failpoint
from keld.ledger import JobRun, Ledger
from keld.staging import Staging
from keld.stored import Store, is_unnamed

_UNNAMED_FOR = timedelta(days=1)  # a step uploads and records within hours


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
    leftovers: tuple[str, ...] = ()  # their paths, or their objects' names


def removable(ledger: Ledger, staging: Staging, before: datetime, now: datetime) -> Iterator[Removal]:
    """What may be removed: the staged files of job runs that ended before an instant and have nothing left to settle."""
    for held in _held_in_bucket(staging.store, ledger, now) if staging.store is not None else _held_on_disk(staging, before):
        try:
            run = ledger.run(held.run_id)
        except UnknownJobRun:
            if held.modified_at < before:  # else it may still be in use
                yield Removal(run_id=held.run_id, size_bytes=held.size_bytes, known=False)
            continue
        whose: dict[str, Any] = {"run_id": run.id, "job": run.job, "partition": run.partition, "finished_at": run.finished_at}
        if _is_done_with(ledger, run, before):
            yield Removal(**whose, size_bytes=held.size_bytes)
        elif held.leftovers:
            yield Removal(**whose, size_bytes=held.leftover_bytes, leftover=True, leftovers=held.leftovers)


def remove(ledger: Ledger, staging: Staging, removal: Removal, now: datetime) -> bool:
    """True if the files of a job run, or its incomplete files, were removed; False if it was opened again meanwhile, or is not in this ledger."""
    if removal.leftover:
        for name in removal.leftovers:
            # A second look, just before: a writer that was paused for a day, and still holds its lease, may have recorded its object since the list was read.
            if name not in {one.object for one in ledger.objects.of(removal.run_id).values()}:
                _remove_leftover(staging, name)
        return True
    if not removal.known or not ledger.control.note_removed(removal.run_id, now):
        return False
    failpoint("gc.noted")
    staging.drop(removal.run_id)
    ledger.objects.forget(removal.run_id)
    return True


class _Held(msgspec.Struct, frozen=True, kw_only=True):
    """What staging has of one job run; `leftovers` are what dead workers left, as paths or as objects' names."""

    run_id: str
    size_bytes: int
    modified_at: datetime
    leftovers: tuple[str, ...]
    leftover_bytes: int


def _held_on_disk(staging: Staging, before: datetime) -> Iterator[_Held]:
    for run_id in staging.run_ids():
        files = staging.run(run_id)
        left = files.leftovers(before)
        yield _Held(
            run_id=run_id,
            size_bytes=_size(files.dir),
            modified_at=datetime.fromtimestamp(files.dir.stat().st_mtime, UTC),
            leftovers=tuple(map(str, left)),
            leftover_bytes=sum(map(_size, left)),
        )


def _held_in_bucket(store: Store, ledger: Ledger, now: datetime) -> Iterator[_Held]:
    """What the ledger does not name for a day was never recorded: its writer is dead, or has lost its lease.  A journal is not named, and stays."""
    for run_id, found in groupby(store.objects(), key=itemgetter(0)):
        objects = {f"{run_id}/{name}": info for _, name, info in found}
        named = {one.object for one in ledger.objects.of(run_id).values()}
        old = [name for name, info in objects.items() if name not in named and info.modified_at < now - _UNNAMED_FOR]
        left = [name for name in old if not is_unnamed(name.removeprefix(f"{run_id}/"))]
        yield _Held(
            run_id=run_id,
            size_bytes=sum(info.size_bytes for info in objects.values()),
            modified_at=max(info.modified_at for info in objects.values()),
            leftovers=tuple(left),
            leftover_bytes=sum(objects[name].size_bytes for name in left),
        )


def _remove_leftover(staging: Staging, name: str) -> None:
    if staging.store is not None:
        staging.store.remove([name])
        return
    path = Path(name)
    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _is_done_with(ledger: Ledger, run: JobRun, before: datetime) -> bool:
    """True if nothing needs these files any more; a batch to be settled, or rows that must not be asked again, need them."""
    if not run.over or run.finished_at is None or run.finished_at >= before or run.quarantined:
        return False
    settled = [orphan.settled_at for orphan in ledger.orphans.of(run.id)] + [one.settled_at for one in ledger.candidates.of(run.id)]
    return all(at is not None for at in settled)


def _size(path: Path) -> int:
    return sum(one.stat().st_size for one in [path, *path.rglob("*")] if one.is_file())
