"""Witness: a copy in staging of the ledger's records, so that a lost ledger is noticed before anything is paid twice, and can be rebuilt.

Below `recovery`, which passes every commit to it.  A ledger may be deleted, emptied, or restored from an old backup
while batches are at providers; then, by the ledger alone, the partition was never asked.  So staging has, for each job run,
a line for each change (`memory`): in files where its workers share a disk (`witness_file`), else in objects of the bucket (`witness_object`).  After a crash
the latest line may be missing, which only means that the provider is looked at once more; but the line of an intent is durable before its create is sent.

A job run with batches at a provider, or with rows that must not be asked again, is marked: few names to compare
with the ledger when it is opened.  The names include a mark of the ledger's address: one staging root may serve several ledgers, and a job run
of another ledger is not lost, unless this one is empty, or has others of its job runs: then the ledger was moved.  One ledger may have several
roots: job runs that it has and this root has not are ignored.
"""

from __future__ import annotations

import hashlib
import platform
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from keld.failpoint import failpoint
from keld.ledger.memory import UNSETTLED, Line, Memory
from keld.ledger.record import Intent, JobRun, Orphan, Shard
from keld.ledger.witness_file import FileRecords
from keld.ledger.witness_object import ObjectRecords
from keld.staging import Staging
from keld.stored import StoredName


class Records(Protocol):
    """Where the lines and the marks of one staging root are kept; every call may raise `StagingError`."""

    def has(self, run_id: str) -> bool:
        """True if it has lines of a job run."""
        ...

    def is_here(self, run_id: str) -> bool:
        """True if the job run's files are under this root."""
        ...

    def run_ids(self) -> list[str]:
        """The ids of all job runs that it may have lines of."""
        ...

    def append(self, run_id: str, lines: Sequence[Line], *, durable: bool) -> None:
        """Adds lines; if `durable` a crash after it loses none of them."""
        ...

    def memory(self, run_id: str) -> Memory:
        """All lines of a job run, put together; empty if there are none."""
        ...

    def forget(self, run_id: str) -> None:
        """Frees what is held in this process; the lines stay."""
        ...

    def mark(self, name: str) -> None:
        """Keeps a name, durably."""
        ...

    def unmark(self, name: str) -> None:
        """Removes a name."""
        ...

    def marked(self) -> list[str]:
        """The names that are kept."""
        ...


class Witness:
    """The memory of one staging root, for the ledger at one address (without user, password or options)."""

    def __init__(self, staging: Staging, address: str) -> None:
        self._records: Records = FileRecords(staging) if staging.store is None else ObjectRecords(staging.store)
        if staging.store is not None and address.startswith("sqlite:"):
            address += f" on {platform.node()}"  # the same path on another machine is another file
        self._mark = hashlib.sha256(address.encode()).hexdigest()[:12]

    # -- remembering ------------------------------------------------------------------------------------------

    def has(self, run_id: str) -> bool:
        """True if staging has records of a job run."""
        return self._records.has(run_id)

    def is_here(self, run_id: str) -> bool:
        """True if the job run's files are under this root."""
        return self._records.is_here(run_id)

    def note(
        self,
        run_id: str,
        *,
        run: JobRun | None = None,
        shards: Sequence[Shard] = (),
        intents: Sequence[Intent] = (),
        orphans: Sequence[Orphan] = (),
        names: Mapping[str, StoredName] | None = None,
        answered_before: int | None = None,
        durable: bool = False,
    ) -> None:
        """Adds changes of a job run.

        Args:
            names: the objects that some of its files are now.
            durable: written durably before this returns; else a crash may lose it.

        Raises:
            StagingError: it cannot be written.
        """
        lines = [Line(self._mark, names=dict(names))] if names else []
        lines += [Line(self._mark, run=run, answered_before=answered_before)] if run is not None else []
        lines += [Line(self._mark, shard=shard) for shard in shards]
        lines += [Line(self._mark, intent=intent) for intent in intents]
        lines += [Line(self._mark, orphan=orphan) for orphan in orphans]
        if intents or any(shard.state in UNSETTLED for shard in shards):
            self._records.mark(self._marker(run_id))
        failpoint("witness.note")
        self._records.append(run_id, lines, durable=durable)
        failpoint("witness.noted")
        if run is not None and run.over and self.memory(run_id).settled:
            self._records.unmark(self._marker(run_id))
            self._records.forget(run_id)

    def memory(self, run_id: str) -> Memory:
        """The records of a job run; empty if there are none."""
        return self._records.memory(run_id)

    def memories(self, *, moved: bool = False) -> Iterator[Memory]:
        """The records of this ledger's job runs in this root; with `moved` also those of ledgers at other addresses."""
        for run_id in self._records.run_ids():
            memory = self.memory(run_id)
            if memory.run is not None and (moved or memory.ledger == self._mark):
                yield memory

    def out(self) -> list[str]:
        """The job runs of this ledger that are not settled, by id."""
        return sorted(name.partition(".")[0] for name in self._records.marked() if name.endswith(f".{self._mark}"))

    def out_elsewhere(self) -> dict[str, set[str]]:
        """The job runs that are not settled, of ledgers at other addresses: their ids by the mark of the address."""
        found: dict[str, set[str]] = defaultdict(set)
        for name in self._records.marked():
            run_id, _, mark = name.partition(".")
            if mark != self._mark:
                found[mark].add(run_id)
        return found

    def take_over(self, run: JobRun, shards: Sequence[Shard]) -> None:
        """Makes a job run that a ledger at another address had one of this ledger.

        Raises:
            StagingError: it cannot be written.
        """
        if (was := self.memory(run.id).ledger) != self._mark:
            self.note(run.id, run=run, shards=shards, durable=True)
            self._records.unmark(f"{run.id}.{was}")

    def _marker(self, run_id: str) -> str:
        return f"{run_id}.{self._mark}"
