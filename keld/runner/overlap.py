"""Overlap: the slow half of a step, begun for the next shard while this one's step goes on.

Beside the steps.  Sending and fetching wait for a network, writing lines and judging answers take a processor: so the input file of the next shard is
written while one is sent, and the results of the next one are fetched while one's are judged.  One piece of work at most is under way, so that memory
is bounded by two shards.  It records nothing, and costs nothing at a provider; the step that the next shard's state requires takes it over, or it is dropped.
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
    """A kind of work that can be begun early, and what it gives."""


class Overlap:
    """Does one piece of work in a thread of its own; after a `with` block, what nobody has taken is dropped."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._begun: _Begun | None = None

    def begin(self, step: Step[T], shard_id: str, work: Callable[[], T], drop: Callable[[T], object] = lambda _: None) -> None:
        """Begins `work`, unless some is under way, or waits to be taken.

        Args:
            drop: undoes what `work` has given, if nobody takes it.
        """
        if self._begun is None:
            self._pool = self._pool or ThreadPoolExecutor(1, thread_name_prefix="keld-overlap")
            # Limits of time, and whom progress is reported to, are those of the caller.
            self._begun = _Begun(step, shard_id, self._pool.submit(copy_context().run, work), drop)

    def take(self, step: Step[T], shard_id: str) -> Future[T] | None:
        """The work that was begun for this step of a shard, which is the caller's from now on; None if there is none."""
        begun = self._begun
        if begun is None or begun[:2] != (step, shard_id):
            return None
        self._begun = None
        return begun.under_way

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        begun, self._begun = self._begun, None
        if begun is not None:
            with suppress(Exception):  # whoever does the step meets it again
                begun.drop(begun.under_way.result())
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
