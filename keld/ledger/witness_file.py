"""Witness file: the records of job runs as files of staging on a disk.

Below `witness`.  A job run's directory has `ledger.jsonl`, to which every worker appends; `out/` has an empty file for each marked one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from keld.ledger.memory import Line, Memory, encoded, lines_in
from keld.staging import Staging, disk_errors, fsync_dir


class FileRecords:
    """`Records` under a root that all workers share."""

    def __init__(self, staging: Staging) -> None:
        self._staging, self._out = staging, staging.root / "out"
        self._known: dict[str, tuple[int, Memory]] = {}  # with the size of the file it was read from

    def has(self, run_id: str) -> bool:
        return self._path(run_id).exists()

    def is_here(self, run_id: str) -> bool:
        return self._path(run_id).parent.is_dir()

    def run_ids(self) -> list[str]:
        return self._staging.run_ids()

    def append(self, run_id: str, lines: Sequence[Line], *, durable: bool) -> None:
        path, new, content = self._path(run_id), not self.has(run_id), encoded(lines)
        with disk_errors(path.parent, "Nothing more was sent."):
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                _write(descriptor, content)
                if durable:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if durable and new:
                fsync_dir(path.parent)
        known = self._known.get(run_id)
        if known is not None and path.stat().st_size == known[0] + len(content):  # nobody else has written meanwhile
            for line in lines:
                known[1].add(line)
            self._known[run_id] = (known[0] + len(content), known[1])

    def memory(self, run_id: str) -> Memory:
        path = self._path(run_id)
        with suppress(FileNotFoundError):
            size = path.stat().st_size
            known = self._known.get(run_id)
            if known is None or known[0] != size:
                memory = Memory()
                for line in lines_in(path.read_bytes()):
                    memory.add(line)
                self._known[run_id] = known = (size, memory)
            return known[1]
        return Memory()

    def forget(self, run_id: str) -> None:
        self._known.pop(run_id, None)

    def mark(self, name: str) -> None:
        marker = self._out / name
        if not marker.exists():
            with disk_errors(self._out, "Nothing more was sent."):
                self._out.mkdir(mode=0o700, exist_ok=True)
                marker.touch()
                fsync_dir(self._out)

    def unmark(self, name: str) -> None:
        with disk_errors(self._out, "Nothing more was sent."):
            (self._out / name).unlink(missing_ok=True)

    def marked(self) -> list[str]:
        with suppress(FileNotFoundError), os.scandir(self._out) as entries:
            return [entry.name for entry in entries]
        return []

    def _path(self, run_id: str) -> Path:
        return self._staging.run(run_id).record


def _write(descriptor: int, data: bytes) -> None:
    """Writes all of `data`: on a nearly full disk, a single call may write only a part, and report it only by its result."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
