"""Witness object: the records of job runs as objects of a bucket, where workers share no disk.

Below `witness`.

    <bucket>/<job run id>/w/<writer>-<number>   lines of one writer; it puts the whole object again with each change, until that is large
             out/<job run id>.<mark of the ledger>   empty: a marked job run

An object cannot be appended to, and two writers must not replace each other's lines: so each process has objects of its own, and the lines of all are
put in the order of their writers' clocks.  What was never sent is not worth a request: it goes with the next line that is.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from keld.ledger.memory import Line, Memory, encoded, lines_in
from keld.stored import MARKS, RECORDS, SILENT_S, Store, bucket_errors

_FULL_BYTES = 256 << 10  # of one object
_CONSEQUENCE = "Nothing more was sent."


@dataclass(slots=True)
class _Own:
    """The object that this process writes now."""

    number: int = 0
    content: bytes = b""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def begin_next(self) -> None:
        self.number, self.content = self.number + 1, b""


class ObjectRecords:
    """`Records` in the bucket of a `Store`."""

    def __init__(self, store: Store) -> None:
        self._store, self._writer = store, secrets.token_hex(8)
        self._own: dict[str, _Own] = {}
        self._known: dict[str, tuple[dict[str, str], Memory]] = {}  # with the versions of the objects it was read from
        self._there: set[str] = set()
        self._marked: set[str] = set()

    def has(self, run_id: str) -> bool:
        if run_id not in self._there and self._versions(run_id):
            self._there.add(run_id)
        return run_id in self._there

    def is_here(self, run_id: str) -> bool:
        """True: where a job run's files are is told by the ledger, and a copy of another one's records does no harm."""
        return True

    def run_ids(self) -> list[str]:
        return sorted({run_id for run_id, _, _ in self._store.objects()})

    def append(self, run_id: str, lines: Sequence[Line], *, durable: bool) -> None:
        stamped = [msgspec.structs.replace(line, at_ns=time.time_ns()) for line in lines]
        own = self._own.setdefault(run_id, _Own())
        with own.lock:
            own.content += encoded(stamped)
            if durable or any(map(_was_sent, lines)):
                self._put(run_id, own)
        if (known := self._known.get(run_id)) is not None:
            for line in stamped:
                known[1].add(line)

    def memory(self, run_id: str) -> Memory:
        versions = self._versions(run_id)
        known = self._known.get(run_id)
        if known is None or known[0] != versions:
            with bucket_errors(_CONSEQUENCE):
                found = [line for name in versions for line in lines_in(self._store.bucket.read(name))]
            memory = Memory()
            for line in sorted(found, key=lambda line: line.at_ns):
                memory.add(line)
            self._known[run_id] = known = (versions, memory)
        return known[1]

    def forget(self, run_id: str) -> None:
        self._known.pop(run_id, None)
        own = self._own.setdefault(run_id, _Own())
        with own.lock:
            own.begin_next()

    def mark(self, name: str) -> None:
        if name not in self._marked:
            self._store.beat(SILENT_S)
            with bucket_errors(_CONSEQUENCE):
                self._store.bucket.put(f"{MARKS}/{name}", b"")
            self._marked.add(name)

    def unmark(self, name: str) -> None:
        self._store.beat(SILENT_S)
        with bucket_errors(_CONSEQUENCE):
            self._store.bucket.delete(f"{MARKS}/{name}")
        self._marked.discard(name)

    def marked(self) -> list[str]:
        self._store.beat(SILENT_S)
        with bucket_errors(_CONSEQUENCE):
            self._marked = {name.rpartition("/")[2] for name in self._store.bucket.names(MARKS)}
        return list(self._marked)

    def _put(self, run_id: str, own: _Own) -> None:
        name = f"{run_id}/{RECORDS}/{self._writer}-{own.number:04d}"
        self._store.beat(SILENT_S)
        with bucket_errors(_CONSEQUENCE):
            version = self._store.bucket.put(name, own.content)
        self._there.add(run_id)
        if (known := self._known.get(run_id)) is not None:
            known[0][name] = version
        if len(own.content) > _FULL_BYTES:
            own.begin_next()

    def _versions(self, run_id: str) -> dict[str, str]:
        self._store.beat(SILENT_S)
        with bucket_errors(_CONSEQUENCE):
            return {name: info.version for name, info in self._store.bucket.entries(f"{run_id}/{RECORDS}")}


def _was_sent(line: Line) -> bool:
    return line.names is None if line.shard is None else line.shard.attempt > 0
