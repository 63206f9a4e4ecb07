"""Witness: a copy in staging of the ledger's records, so that a lost ledger is noticed before anything is paid twice, and can be rebuilt.

Below `recovery`, which passes every commit to it.  A ledger may be deleted, emptied, or restored from an old backup
while batches are at providers; then, by the ledger alone, the partition was never asked.  So a job run's directory in staging has
`ledger.jsonl`: a line for each change, of which the latest counts.  After a crash its last line may be missing, which only means that
the provider is looked at once more; but the line of an intent is durable before its create is sent.

`out/` has an empty file for each job run with batches at a provider, or with rows that must not be asked again: few names to compare
with the ledger when it is opened.  The names include a mark of the ledger's address: one staging root may serve several ledgers, and a job run
of another ledger is not lost.  One ledger may have several roots: job runs that it has and this root has not are ignored.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from keld.failpoint import failpoint
from keld.ledger.record import Intent, JobRun, Orphan, Shard
from keld.staging import Staging, disk_errors, fsync_dir
from keld.state import State

_UNSETTLED = (State.SUBMITTING, State.UNKNOWN, State.IN_PROGRESS, State.CANCELLING, State.ENDED, State.QUARANTINED)


class Line(msgspec.Struct, omit_defaults=True):
    """One change of a job run, as the ledger committed it."""

    ledger: str  # the mark of its address
    run: JobRun | None = None
    shard: Shard | None = None
    intent: Intent | None = None
    orphan: Orphan | None = msgspec.field(default=None, name="stray")
    answered_before: int | None = None  # rows that were answered without any shard of this job run


@dataclass(slots=True)
class Memory:
    """The records of one job run, as read from staging."""

    run: JobRun | None = None
    ledger: str = ""
    answered_before: int = 0
    shards: dict[str, Shard] = field(default_factory=dict)
    intents: dict[tuple[str, int], Intent] = field(default_factory=dict)
    orphans: dict[str, Orphan] = field(default_factory=dict)

    def add(self, line: Line) -> None:
        """Adds a later line."""
        self.ledger = line.ledger
        self.run = line.run or self.run
        if line.answered_before is not None:
            self.answered_before = line.answered_before
        if line.shard is not None and line.shard.attempt >= self._attempt(
            line.shard.id
        ):  # else an older ledger, from a backup, has written it
            self.shards[line.shard.id] = line.shard
        if line.intent is not None:
            self.intents[line.intent.shard_id, line.intent.attempt] = line.intent
        if line.orphan is not None:
            self.orphans[line.orphan.batch_id] = line.orphan

    def _attempt(self, shard_id: str) -> int:
        return self.shards[shard_id].attempt if shard_id in self.shards else 0

    @property
    def settled(self) -> bool:
        """True if it has no batch at a provider, and no row that must not be asked again."""
        over = self.run is not None and self.run.over and not self.run.quarantined
        return over and not any(shard.state in _UNSETTLED for shard in self.shards.values())

    def is_ahead_of(self, shards: Iterable[Shard]) -> list[Shard]:
        """The shards that were sent more often than in `shards`, those of a ledger."""
        known = {shard.id: shard.attempt for shard in shards}
        return [shard for shard in self.shards.values() if shard.attempt > known.get(shard.id, 0)]


class Witness:
    """The memory of one staging root, for the ledger at one address (without user, password or options)."""

    def __init__(self, staging: Staging, address: str) -> None:
        self._staging = staging
        self._mark = hashlib.sha256(address.encode()).hexdigest()[:12]
        self._out = staging.root / "out"
        self._known: dict[str, tuple[int, Memory]] = {}  # with the size of the file it was read from

    # -- remembering ------------------------------------------------------------------------------------------

    def has(self, run_id: str) -> bool:
        """True if staging has records of a job run."""
        return self._path(run_id).exists()

    def is_here(self, run_id: str) -> bool:
        """True if the job run's files are under this root."""
        return self._path(run_id).parent.is_dir()

    def note(
        self,
        run_id: str,
        *,
        run: JobRun | None = None,
        shards: Sequence[Shard] = (),
        intents: Sequence[Intent] = (),
        orphans: Sequence[Orphan] = (),
        answered_before: int | None = None,
        durable: bool = False,
    ) -> None:
        """Adds changes of a job run.

        Args:
            durable: written durably before this returns; else a crash may lose it.

        Raises:
            StagingError: it cannot be written.
        """
        lines = [Line(self._mark, run=run, answered_before=answered_before)] if run is not None else []
        lines += [Line(self._mark, shard=shard) for shard in shards]
        lines += [Line(self._mark, intent=intent) for intent in intents]
        lines += [Line(self._mark, orphan=orphan) for orphan in orphans]
        with disk_errors(self._path(run_id).parent, "Nothing more was sent."):
            if intents or any(shard.state in _UNSETTLED for shard in shards):
                self._put_out(run_id)
            self._append(run_id, lines, durable=durable)
        if run is not None and run.over and self.memory(run_id).settled:
            self._marker(run_id).unlink(missing_ok=True)
            self._known.pop(run_id, None)

    def memory(self, run_id: str) -> Memory:
        """The records of a job run; empty if there are none."""
        path = self._path(run_id)
        with suppress(FileNotFoundError):
            size = path.stat().st_size
            known = self._known.get(run_id)
            if known is None or known[0] != size:
                memory = Memory()
                for line in _lines(path.read_bytes()):
                    memory.add(line)
                self._known[run_id] = known = (size, memory)
            return known[1]
        return Memory()

    def memories(self) -> Iterator[Memory]:
        """The records of this ledger's job runs in this root."""
        for run_id in self._staging.run_ids():
            memory = self.memory(run_id)
            if memory.run is not None and memory.ledger == self._mark:
                yield memory

    def out(self) -> list[str]:
        """The job runs of this ledger that are not settled, by id."""
        with suppress(FileNotFoundError), os.scandir(self._out) as entries:
            return sorted(entry.name.partition(".")[0] for entry in entries if entry.name.endswith(f".{self._mark}"))
        return []

    def _append(self, run_id: str, lines: Sequence[Line], *, durable: bool) -> None:
        failpoint("witness.note")
        path, new = self._path(run_id), not self.has(run_id)
        # A line that a crash cut off must not damage the next one: each begins on a new line, and empty lines are ignored.
        encoded = b"".join(b"\n" + msgspec.json.encode(line) for line in lines) + b"\n"
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            _write(descriptor, encoded)
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if durable and new:
            fsync_dir(path.parent)
        known = self._known.get(run_id)
        if known is not None and path.stat().st_size == known[0] + len(encoded):  # nobody else has written meanwhile
            for line in lines:
                known[1].add(line)
            self._known[run_id] = (known[0] + len(encoded), known[1])
        failpoint("witness.noted")

    def _put_out(self, run_id: str) -> None:
        marker = self._marker(run_id)
        if not marker.exists():
            self._out.mkdir(mode=0o700, exist_ok=True)
            marker.touch()
            fsync_dir(self._out)

    def _marker(self, run_id: str) -> Path:
        return self._out / f"{run_id}.{self._mark}"

    def _path(self, run_id: str) -> Path:
        return self._staging.run(run_id).record


def _write(descriptor: int, data: bytes) -> None:
    """Writes all of `data`: on a nearly full disk, a single call may write only a part, and report it only by its result."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


_decode = msgspec.json.Decoder(Line).decode


def _lines(content: bytes) -> Iterator[Line]:
    for line in content.split(b"\n"):
        if line:
            with suppress(msgspec.DecodeError, ValueError):  # one that a crash cut off
                yield _decode(line)
