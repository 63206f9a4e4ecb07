"""Background: works on each item in a thread of its own, while its caller makes the next one.

Beside the road, below everything that writes large files: compressing, hashing and writing need no lock of Python's, so they take the second core.
Order is kept, and one item at most is under way, so that memory is bounded by two of them.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Background(Generic[T]):
    """Calls `work` with each item, one after the other; after the `with` block all calls are over.

    The first item is worked on at once, by the caller: most files are of one piece, and need no thread.
    """

    def __init__(self, work: Callable[[T], object]) -> None:
        self._work = work
        self._pool: ThreadPoolExecutor | None = None
        self._under_way: Future[object] | None = None
        self._begun = False

    def put(self, item: T) -> None:
        """Hands over an item, as soon as the one before it is done.

        Raises:
            what `work` raised for the item before, or for the first one.
        """
        if not self._begun:
            self._begun = True
            self._work(item)
            return
        self.wait()
        self._pool = self._pool or ThreadPoolExecutor(1, thread_name_prefix="keld-background")
        self._under_way = self._pool.submit(self._work, item)

    def wait(self) -> None:
        """Returns when everything that was handed over is done.

        Raises:
            what `work` raised.
        """
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            if self._pool is not None:
                self._pool.shutdown()
