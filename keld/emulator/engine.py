"""Engine: how a server that serves models itself behaves when it is busy: slots, a queue, and answers that take the longer the more of them run.

A service of such a server holds one; it is data, so a test says `Emulator(engine=Engine(slots=4, queue=8))`.  An answer takes `step_s + slot_s * running`
real seconds a token, where `running` is the number of answers when it begins, as in engines with continuous batching.
"""

import asyncio
from dataclasses import dataclass, field

from .error import ApiError


@dataclass(frozen=True, kw_only=True)
class Engine:
    """The constants of an engine.

    Args:
        slots: answers at the same time.
        step_s, slot_s: seconds of one token, and how much longer it takes for each answer that runs.
        queue: requests that may wait, over which one is refused with 503; None: any number.
        metrics: it tells how busy it is at `/metrics`.
        models: the names it lists; None: those of the service.
        any_name: it answers whatever model is named, as llama.cpp does.
    """

    slots: int
    step_s: float = 0.0
    slot_s: float = 0.0
    queue: int | None = None
    metrics: bool = True
    models: tuple[str, ...] | None = None
    any_name: bool = False


@dataclass
class Room:
    """The requests in an engine now.  Used within one event loop."""

    engine: Engine
    running: int = 0
    waiting: int = 0
    most: int = 0  # at once, running and waiting
    _free: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def enter(self) -> None:
        """Returns when there is a slot for the request.

        Raises:
            ApiError: the queue is full.
        """
        engine = self.engine
        if self.running >= engine.slots and engine.queue is not None and self.waiting >= engine.queue:
            raise ApiError(status=503, message="The queue is full, please try again.", code="unavailable_error")
        self.waiting += 1
        self.most = max(self.most, self.running + self.waiting)
        try:
            async with self._free:
                await self._free.wait_for(lambda: self.running < engine.slots)
                self.running += 1
        finally:
            self.waiting -= 1

    async def work(self, tokens: int) -> None:
        """Returns when an answer of so many tokens is finished."""
        await asyncio.sleep(tokens * (self.engine.step_s + self.engine.slot_s * self.running))

    async def leave(self) -> None:
        """Gives the slot to the next request."""
        async with self._free:
            self.running -= 1
            self._free.notify()
