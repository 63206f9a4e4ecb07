"""Journal segments: a journal in a bucket, for workers that share no disk: numbered objects, each created once.

Beside the road, below `run`.  A segment is `{"writer": ..., "n": 7}` and then lines as in a file, marks and answers mixed.  There is no append and no lock in a
bucket, and a create-only PUT is both:

- To open it is to create the next number, empty: the fence.  A worker that had it open before finds its own next number taken, at its next write,
  and stops; it has not sent the request that it was about to mark.
- Marks and answers gather while one PUT is on its way, and go with the next one, at most one PUT each 20 ms.
- A mark `+7` is durable before the request is sent: no page cache outlives this machine.  A `-7` goes with the next PUT, or the last one.
- If a number is taken, its first line says by whom: by us, since the reply to an earlier try was lost, or by another worker.

What a fence cannot do: requests that the earlier worker had marked and sent are in doubt, as after a crash.
"""

from __future__ import annotations

import io
import json
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from keld.errors import LeaseLost, StagingError
from keld.failpoint import failpoint
from keld.realtime.journal import Journal
from keld.reply import Reply
from keld.stored import Segments

_LEAST_S = 0.02  # from one PUT to the next: 50 a second at most, which S3 bills at about a dollar an hour
_FENCES_MOST = 100  # numbers that others take while we open it


class JournalSegments(Journal):
    """A journal of numbered objects.

    Raises:
        LeaseLost: other workers keep taking it over.
        StagingError: the bucket cannot be read or written.
    """

    def __init__(self, segments: Segments, nonce: str, read: Callable[[bytes], list[Reply]]) -> None:
        super().__init__(nonce, read)
        self._segments, self._writer = segments, secrets.token_hex(8)
        self._n, self._put_at = 0, 0.0
        self._lost: LeaseLost | None = None
        for body in segments.all():
            self._replay(body)
        failpoint("segment.fence.send")
        for _ in range(_FENCES_MOST):
            head = self._head(self._n + 1)
            if segments.create(self._n + 1, head):
                break
            self._replay(segments.read(self._n + 1) or b"")
        else:
            raise self._taken_over()
        self._n += 1
        failpoint("segment.fence.received")
        self._end_replay()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._pending and self._lost is None:
            with suppress(StagingError, LeaseLost):  # marks "not done": without them, rows count as in doubt that are not
                self._append(b"".join(self._pending))

    async def _mark_sent(self, marks: bytes) -> None:
        await self._commit(marks)

    def _mark_not_done(self, marks: bytes) -> None:
        self._pending.append(marks)

    def _append(self, lines: bytes) -> None:
        """As told above.  Called by one thread at a time."""
        if self._lost is not None:
            raise self._lost
        time.sleep(max(0.0, self._put_at + _LEAST_S - time.monotonic()))
        self._put_at = time.monotonic()
        head = self._head(self._n + 1)
        failpoint("segment.put.send")
        if self._segments.create(self._n + 1, head + lines):
            self._n += 1
            failpoint("segment.put.received")
            return
        there = self._segments.read(self._n + 1) or b""
        if not there.startswith(head):
            self._lost = self._taken_over()
            raise self._lost
        self._n += 1  # an earlier try, whose reply was lost; what came since then follows
        if rest := lines.removeprefix(there.removeprefix(head)):
            self._append(rest)

    def _replay(self, body: bytes) -> None:
        self._n += 1
        marks, answers = split(body)
        self._replay_marks(marks)
        self._replay_answers(b"".join(answers))

    def _head(self, n: int) -> bytes:
        return json.dumps({"writer": self._writer, "n": n}).encode() + b"\n"

    def _taken_over(self) -> LeaseLost:
        return LeaseLost(
            f"Another worker has taken over the requests of shard {self._nonce}; each that is sent here as well would be paid twice. This one sends no "
            "more. Its answers until then are kept."
        )


def split(body: bytes) -> tuple[list[bytes], list[bytes]]:
    """The marks of a segment, and its other lines, which are whole."""
    lines = io.BytesIO(body).readlines()[1:]
    return [line.rstrip() for line in lines if line[:1] in b"+-"], [line for line in lines if line[:1] not in b"+-"]


def answers_in(journal: Path | Segments) -> Path:
    """The answers of a journal as one file, which need not exist; of a bucket's journal, in the local folder."""
    if isinstance(journal, Path):
        return journal
    journal.local.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with journal.local.open("wb") as file:
        for body in journal.all():
            file.writelines(split(body)[1])
    return journal.local
