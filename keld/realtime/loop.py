"""Loop: which request begins when, and what its reply means; the event loop of one realtime run.

Beside the road, below `run`.  A request keeps its place among those at once until its answer is on disk: what a SIGKILL can cost is
bounded by their number, and counted.  What was definitely not done is tried again here; what is in doubt is not, as it may have been paid:
its line says so, and whether it is asked again is for the next round to decide.  Requests in flight are always awaited.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import assert_never

from keld.answer import Outcome
from keld.failpoint import failpoint
from keld.price import Lane
from keld.providers.base import Denied, InDoubt, NotNow, Sender, SendOutcome, Settled
from keld.providers.encoder import Encoder
from keld.providers.provider import Provider
from keld.realtime.ending import Ending
from keld.realtime.journal import Journal
from keld.realtime.options import Options, Time
from keld.realtime.throttle import Throttle
from keld.request import custom_id

log = logging.getLogger("keld")
_GLANCE_S = 1.0  # between two looks at `stop` while nothing else happens


@dataclass(frozen=True, slots=True)
class _Row:
    position: int
    body: bytes
    tokens: float
    tries: int = 0


class Loop:
    """One realtime run under way.

    Args:
        fragments: (position, prompt fragment) of the rows to ask; read as requests begin.
        stop: as of `stretch`.
    """

    def __init__(
        self,
        provider: Provider,
        encoder: Encoder,
        lane: Lane,
        nonce: str,
        fragments: Iterator[tuple[int, bytes]],
        journal: Journal,
        stop: Callable[[], bool],
        manner: Options,
        clock: Time,
    ) -> None:
        self.ending = Ending(f"{provider.name} at {provider.host}", provider.name, manner)
        self.lines = self.rejections = self.at_once = 0  # rows that got a line; requests that were rejected; the most in flight together
        self._provider, self._encoder, self._lane, self._nonce, self._fragments = provider, encoder, lane, nonce, fragments
        self._journal, self._stop, self._manner, self._clock = journal, stop, manner, clock
        self._throttle = Throttle(manner.begin_with, manner.most)
        self._again: deque[_Row] = deque()
        self._flying: dict[asyncio.Task[None], _Row] = {}
        self._tokens_flying = 0.0
        self._came_back: asyncio.Event
        self._began_at = clock.now()
        self._landed = 0

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return self._clock.now() - self._began_at

    async def all(self) -> None:
        """Begins requests as the throttle allows until there is nothing to begin, and awaits what is in flight."""
        self._came_back = asyncio.Event()
        async with self._provider.sender(self._encoder.path, self._manner.timeout_in(self._lane), self._manner.most) as send:
            while True:
                try:
                    wait = self._begin(send)
                except Exception as broken:  # noqa: BLE001  raised below, once those in flight, which are paid, are safe
                    self.ending.break_off(broken)
                    wait = None
                if wait is None and not self._flying:
                    break
                await self._rest(wait)
        if self.ending.broken is not None:
            raise self.ending.broken

    # -- which request begins when -----------------------------------------------------------------------------

    def _begin(self, send: Sender) -> float | None:
        """Begins all that may begin now; seconds until the next may, None: not before something comes back."""
        while not self.ending.is_due(self._clock.now(), self._stop()):
            if self._flying and not self._landed and self.seconds < self._manner.alone_s:
                return None
            row = self._again.popleft() if self._again else self._next()
            if row is None:
                return None
            now = self._clock.now()
            wait = self._throttle.wait(now, len(self._flying), row.tokens)
            if wait == 0:
                self._fly(row, now, send)
                continue
            self._again.appendleft(row)
            if wait is None or wait <= self._manner.patience_s:
                return wait
            if not self._flying:
                self.ending.too_long(wait)
            return None
        return None

    def _next(self) -> _Row | None:
        for position, fragment in self._fragments:
            body = self._encoder.body(fragment, self._lane)
            return _Row(position, body, len(body) / 4 + self._manner.output_tokens)
        return None

    def _fly(self, row: _Row, now: float, send: Sender) -> None:
        task = asyncio.create_task(self._ask(row, self._throttle.begin(now, row.tokens), send))
        self._flying[task] = row
        self._tokens_flying += row.tokens
        self.at_once = max(self.at_once, len(self._flying))
        task.add_done_callback(self._land)

    def _land(self, task: asyncio.Task[None]) -> None:
        self._tokens_flying -= self._flying.pop(task).tokens
        self._landed += 1
        self._came_back.set()

    async def _rest(self, wait: float | None) -> None:
        if wait is not None:
            await self._clock.sleep(min(max(wait, 0.001), _GLANCE_S))
            return
        self._came_back.clear()
        try:
            await asyncio.wait_for(self._came_back.wait(), _GLANCE_S)
        except TimeoutError:
            return

    # -- one request -------------------------------------------------------------------------------------------

    async def _ask(self, row: _Row, number: int, send: Sender) -> None:
        try:
            # Before the call, not after: if we die in between, it may be paid.
            self._journal.sending(row.position)
            failpoint("realtime.send")
            outcome = await send(custom_id(self._nonce, row.position), row.body)
            failpoint("realtime.received")
            await self._take(row, number, outcome)
        except Exception as broken:  # noqa: BLE001  raised at the end: the others in flight are paid, and are awaited first
            self.ending.break_off(broken)

    async def _take(self, row: _Row, number: int, outcome: SendOutcome) -> None:
        match outcome:
            case Settled():
                await self._journal.keep(row.position, outcome.line, Outcome.ANSWERED if outcome.answered else Outcome.ERRORED)
                self._learn_quotas(row, outcome)
                self._throttle.on_success(len(self._flying))
                self.lines += 1
                self.ending.on_settled(outcome.answered, f"HTTP {outcome.status} {outcome.code}")
            case InDoubt():
                await self._journal.keep(row.position, outcome.line, Outcome.LOST)
                self._throttle.on_rejected(number, self._clock.now(), None)
                self.lines += 1
                log.warning("stretch.in_doubt shard=%s position=%d why=%s", self._nonce, row.position, outcome.why)
                self.ending.on_lost()
            case NotNow():
                self._journal.not_done(row.position)
                self._learn_quotas(row, outcome)
                self._try_again(row, number, outcome)
            case Denied():
                self._journal.not_done(row.position)
                self.ending.on_denied(outcome)
            case _:
                assert_never(outcome)

    def _learn_quotas(self, row: _Row, outcome: Settled | NotNow) -> None:
        self._throttle.on_quotas(outcome.quotas, self._clock.now(), len(self._flying) - 1, self._tokens_flying - row.tokens)

    def _try_again(self, row: _Row, number: int, outcome: NotNow) -> None:
        now = self._clock.now()
        self.rejections += 1
        self._throttle.on_rejected(number, now, outcome.retry_after_s)
        self.ending.on_rejected(now)
        if row.tries + 1 < self._manner.tries:
            self._again.append(_Row(row.position, row.body, row.tokens, row.tries + 1))
        log.info("stretch.turned_away shard=%s why=%s retry_after=%s", self._nonce, outcome.why, outcome.retry_after_s)
