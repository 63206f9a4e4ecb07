"""Journal: the answers to one shard's realtime requests, on disk before anything else is decided.

Beside the road, below `loop`.  Two files.  The answers have the format of the provider's own result lines, so that
`answer.judge_results` reads them like a batch's; a line counts only when its fsync has returned, and many lines share one fsync.  The marks
(`<name>.sent`: `+7` row 7 is about to be sent, `-7` it was definitely not processed) reach the page cache only: this is enough against SIGKILL,
and marks lost in a power cut make a count too low, but lose no row.  A row that was sent, without a `-` and without an answer, is in doubt,
since it may have been paid.  An open journal is locked: a second worker with the same journal would pay for rows twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from keld.answer import BLOCK_BYTES, Outcome, Reply
from keld.errors import LeaseLost
from keld.failpoint import failpoint
from keld.request import position_of
from keld.staging import fsync_dir

_is_mark = re.compile(rb"[+-][0-9]{1,15}").fullmatch


class Journal:
    """One shard's journal, open for one realtime run.

    Args:
        read: a block of whole lines -> replies, as `Reader.journal`.

    Raises:
        LeaseLost: another process of this host has it open.
        OSError: disk full, no rights.
    """

    def __init__(self, path: Path, nonce: str, read: Callable[[bytes], list[Reply]]) -> None:
        self.settled: set[int] = set()  # the rows that have their line
        self.answered = self.refused = 0
        self._open: Counter[int] = Counter()  # how often each row was sent with an unknown outcome
        self._pending: list[bytes] = []
        self._taken = self._durable = 0
        self._lock = asyncio.Lock()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        marks = path.with_suffix(".sent")
        with contextlib.ExitStack() as opened:
            self._marks, self._answers = (_open(file, opened) for file in (marks, path))
            _lock_file(self._marks, path)
            _drop_torn_line(self._marks)
            self._size = _drop_torn_line(self._answers)
            fsync_dir(path.parent)
            self._read(marks, path, nonce, read)
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._opened.close()

    @property
    def in_doubt(self) -> int:
        """Requests that may have been paid and have no answer here, since the journal's beginning."""
        return sum(self._open.values())

    @property
    def left_open(self) -> list[int]:
        """The rows that an earlier run sent with an unknown outcome, ascending."""
        return sorted(self._open.keys() - self.settled)

    def sending(self, *positions: int) -> None:
        """Marks the rows of one request as about to be sent; SIGKILL does not undo it."""
        os.write(self._marks, b"".join(b"+%d\n" % position for position in positions))
        for position in positions:
            self._open[position] += 1

    def not_done(self, *positions: int) -> None:
        """Marks the latest request of these rows as definitely not processed."""
        os.write(self._marks, b"".join(b"-%d\n" % position for position in positions))
        for position in positions:
            self._close(position)

    def forget_open(self) -> None:
        """Marks the rows that an earlier run sent with an unknown outcome as not processed, so that they are asked again."""
        for position in self.left_open:
            for _ in range(self._open[position]):
                self.not_done(position)

    async def keep(self, position: int, line: bytes, outcome: Outcome) -> None:
        """Returns when the row's line is durable.

        Raises:
            OSError: it is not; what was durable before still is.
        """
        self._pending.append(line)
        self._taken += 1
        mine = self._taken
        async with self._lock:
            if self._durable < mine:  # else the fsync of an earlier line included this one
                group, upto = self._pending, self._taken
                self._pending = []
                try:
                    await asyncio.to_thread(self._append, b"".join(group))
                except BaseException:
                    self._pending = group + self._pending  # the next call tries again with all lines
                    raise
                self._durable = upto
        self._count(position, outcome)

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

    def _read(self, marks: Path, path: Path, nonce: str, read: Callable[[bytes], list[Reply]]) -> None:
        for block in _blocks(marks):
            for mark in block.split():
                if _is_mark(mark):
                    self._open[int(mark[1:])] += 1 if mark[:1] == b"+" else -1
        for block in _blocks(path):
            for reply in read(block):
                position = position_of(reply.custom_id, nonce)
                if position is not None and position not in self.settled:
                    self._count(position, reply.outcome)
        self._open = Counter({position: count for position, count in self._open.items() if count > 0})

    def _count(self, position: int, outcome: Outcome) -> None:
        self.settled.add(position)
        match outcome:
            case Outcome.LOST:
                return
            case Outcome.ERRORED:
                self.refused += 1
            case _:
                self.answered += 1
        self._close(position)

    def _close(self, position: int) -> None:
        self._open[position] -= 1
        if self._open[position] <= 0:
            del self._open[position]


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
