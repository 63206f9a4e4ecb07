"""Journal: the answers to one shard's realtime requests, durable before anything else is decided.

Beside the road, below `loop`.  What all journals have in common is here; `journal_file` keeps one in files, `journal_segments` in a bucket.

An answer has the format of the provider's own result lines, so that `answer.judge_results` reads it like a batch's; a line counts only when it is
durable, and many lines share one write (group commit: while one write is on its way, the next lines gather).  The marks say what is under way: `+7` row 7
is about to be sent, `-7` it was definitely not processed.  A row that was sent, without a `-` and without an answer, is in doubt, since it may
have been paid.  A journal has one writer at a time: a second one would pay for rows twice.
"""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Self

from keld.outcome import Outcome
from keld.reply import Reply
from keld.request import position_of

_is_mark = re.compile(rb"[+-][0-9]{1,15}").fullmatch


class Journal(ABC):
    """One shard's journal, open for one realtime run.

    Args:
        nonce: of the shard.
        read: a block of whole lines -> replies, as `Reader.journal`.
    """

    def __init__(self, nonce: str, read: Callable[[bytes], list[Reply]]) -> None:
        self.settled: set[int] = set()  # the rows that have their line
        self.answered = self.refused = 0
        self._open: Counter[int] = Counter()  # how often each row was sent with an unknown outcome
        self._nonce, self._read = nonce, read
        self._pending: list[bytes] = []
        self._taken = self._durable = 0
        self._lock = asyncio.Lock()

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    @abstractmethod
    async def _mark_sent(self, marks: bytes) -> None:
        """Returns when SIGKILL cannot undo the marks."""

    @abstractmethod
    def _mark_not_done(self, marks: bytes) -> None:
        """Keeps the marks, soon: one that is lost makes a count of doubts too high, and no row is lost."""

    @abstractmethod
    def _append(self, lines: bytes) -> None:
        """Returns when the lines are durable; raises, with none of them in the journal, if they are not."""

    @property
    def in_doubt(self) -> int:
        """Requests that may have been paid and have no answer here, since the journal's beginning."""
        return sum(self._open.values())

    @property
    def left_open(self) -> list[int]:
        """The rows that an earlier run sent with an unknown outcome, ascending."""
        return sorted(self._open.keys() - self.settled)

    async def sending(self, *positions: int) -> None:
        """Returns when the rows of one request are marked as about to be sent; SIGKILL does not undo it."""
        await self._mark_sent(b"".join(b"+%d\n" % position for position in positions))
        for position in positions:
            self._open[position] += 1

    def not_done(self, *positions: int) -> None:
        """Marks the latest request of these rows as definitely not processed."""
        self._mark_not_done(b"".join(b"-%d\n" % position for position in positions))
        for position in positions:
            self._close(position)

    def forget_open(self) -> None:
        """Marks the rows that an earlier run sent with an unknown outcome as not processed, so that they are asked again."""
        for position in self.left_open:
            for _ in range(self._open[position]):
                self.not_done(position)

    async def keep(self, lines: Mapping[int, bytes], outcome: Outcome) -> None:
        """Returns when the lines of one request, by the positions of its rows, are durable; they are so together.

        Raises:
            OSError, StagingError: they are not; what was durable before still is.
            LeaseLost: another worker has taken the journal over.
        """
        await self._commit(b"".join(lines.values()))
        for position in lines:
            self._count(position, outcome)

    async def _commit(self, lines: bytes) -> None:
        self._pending.append(lines)
        self._taken += 1
        mine = self._taken
        async with self._lock:
            if self._durable < mine:  # else the write of an earlier line included this one
                group, upto = self._pending, self._taken
                self._pending = []
                try:
                    await asyncio.to_thread(self._append, b"".join(group))
                except BaseException:
                    self._pending = group + self._pending  # the next call tries again with all lines
                    raise
                self._durable = upto

    # -- what was there before ---------------------------------------------------------------------------------

    def _replay_marks(self, lines: Iterable[bytes]) -> None:
        for mark in lines:
            if _is_mark(mark):
                self._open[int(mark[1:])] += 1 if mark[:1] == b"+" else -1

    def _replay_answers(self, block: bytes) -> None:
        for reply in self._read(block):
            position = position_of(reply.custom_id, self._nonce)
            if position is not None and position not in self.settled:
                self._count(position, reply.outcome)

    def _end_replay(self) -> None:
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
