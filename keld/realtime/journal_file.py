"""Journal file: a journal in two files of a directory that all workers share.

Beside the road, below `run`.  A line counts when its fsync has returned.  The marks (`<name>.sent`) reach the page cache only: this is enough against SIGKILL,
and marks lost in a power cut make a count too low, but lose no row.  An open journal is locked.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from keld.answer import BLOCK_BYTES
from keld.errors import LeaseLost
from keld.failpoint import failpoint
from keld.realtime.journal import Journal
from keld.reply import Reply
from keld.staging import fsync_dir


class JournalFile(Journal):
    """A journal at a path.

    Raises:
        LeaseLost: another process of this host has it open.
        OSError: disk full, no rights.
    """

    def __init__(self, path: Path, nonce: str, read: Callable[[bytes], list[Reply]]) -> None:
        super().__init__(nonce, read)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        marks = path.with_suffix(".sent")
        with contextlib.ExitStack() as opened:
            self._marks, self._answers = (_open(file, opened) for file in (marks, path))
            _lock_file(self._marks, path)
            _drop_torn_line(self._marks)
            self._size = _drop_torn_line(self._answers)
            fsync_dir(path.parent)
            for block in _blocks(marks):
                self._replay_marks(block.split())
            for block in _blocks(path):
                self._replay_answers(block)
            self._end_replay()
            self._opened = opened.pop_all()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._opened.close()

    async def _mark_sent(self, marks: bytes) -> None:
        os.write(self._marks, marks)

    def _mark_not_done(self, marks: bytes) -> None:
        os.write(self._marks, marks)

    def _append(self, lines: bytes) -> None:
        try:
            left = memoryview(lines)
            while left:
                left = left[os.write(self._answers, left) :]
            failpoint("realtime.journal")
            os.fsync(self._answers)
        except BaseException:
            os.ftruncate(self._answers, self._size)  # half a line would make the next one unreadable
            raise
        self._size += len(lines)


def _open(path: Path, opened: contextlib.ExitStack) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    opened.callback(os.close, descriptor)
    return descriptor


def _drop_torn_line(descriptor: int) -> int:
    """The size of a file in bytes, without the torn line that a crash may have left at its end."""
    end = os.fstat(descriptor).st_size
    while end:
        start = max(0, end - BLOCK_BYTES)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    os.ftruncate(descriptor, end)
    return end


def _lock_file(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise LeaseLost(
            f"Another worker is still sending the requests of {path.parent.name}, and each would be paid twice. This one has sent nothing. "
            "It continues when that worker has ended; a worker that hangs may be killed, its answers are kept."
        ) from None


def _blocks(path: Path) -> Iterator[bytes]:
    """Blocks of whole lines."""
    with path.open("rb") as file:
        while block := file.readlines(BLOCK_BYTES):
            yield b"".join(block)
