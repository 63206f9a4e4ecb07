"""Overlap: the slow half of a step, begun for the next shards while this one's step goes on.

Beside the steps.  Sending and fetching wait for a network, writing lines and judging answers take a processor: so the input file of the next shard is
written while one is sent, and the results of the next three are fetched while one's are judged, since one connection seldom fills a line.  Each kind of work
has its limit, and goes through files in pieces, so that memory is bounded.  It records nothing, and costs nothing at a provider; the step that the next
shard's state requires takes it over, or it is dropped.  An upload is not begun early: an input that nobody takes over would have to be removed at the
provider, and in a bucket another worker may meanwhile have put its own in that place.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from types import TracebackType
from typing import Any, Generic, NamedTuple, Self, TypeVar

T = TypeVar("T")


class _Begun(NamedTuple):
    step: object
    shard_id: str
    under_way: Future[Any]
    drop: Callable[[Any], object]


class Step(Generic[T]):
    """A kind of work that can be begun early, and what it gives.

    Args:
        at_once: for so many shards at most, those that wait to be taken included.
    """

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once


class Overlap:
    """Does work in threads of its own; after a `with` block, what nobody has taken is dropped."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._begun: list[_Begun] = []

    def begin(self, step: Step[T], shard_id: str, work: Callable[[], T], drop: Callable[[T], object] = lambda _: None) -> None:
        """Begins `work`, unless it is begun, or as much of this step as there may be.

        Args:
            drop: undoes what `work` has given, if nobody takes it.
        """
        others = [begun.shard_id for begun in self._begun if begun.step is step]
        if shard_id not in others and len(others) < step.at_once:
            self._pool = self._pool or ThreadPoolExecutor(thread_name_prefix="keld-overlap")
            # Limits of time, and whom progress is reported to, are those of the caller.
            self._begun.append(_Begun(step, shard_id, self._pool.submit(copy_context().run, work), drop))

    def take(self, step: Step[T], shard_id: str) -> Future[T] | None:
        """The work that was begun for this step of a shard, which is the caller's from now on; None if there is none."""
        for begun in self._begun:
            if begun[:2] == (step, shard_id):
                self._begun.remove(begun)
                return begun.under_way
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        left, self._begun = self._begun, []
        for begun in left:
            with suppress(Exception):  # whoever does the step meets it again
                begun.drop(begun.under_way.result())
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
