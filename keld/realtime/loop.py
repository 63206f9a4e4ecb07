"""Loop: when a request begins, and what its reply means; the event loop of one realtime run.

Beside the road, below `run`.  A request counts as in flight until its answer is on disk, so the cost of a SIGKILL is limited by the
number in flight, and is counted.  A request that was definitely not processed is tried again here.  One in doubt is not, since it may have been
paid: its line says so, and the next round decides whether it is asked again.  Where a repeated request costs nothing (`Traits.repeats_cost`),
one in doubt is tried again, too.  Requests in flight are always awaited.
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
from keld.providers.envelope import unanswered_line
from keld.providers.provider import Provider
from keld.realtime.ending import Ending
from keld.realtime.journal import Journal
from keld.realtime.options import Options, Time
from keld.realtime.throttle import Throttle
from keld.request import custom_id

log = logging.getLogger("keld")
_STOP_CHECK_S = 1.0  # between two looks at `should_stop` while nothing else happens


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
        should_stop: as of `run_realtime`.
    """

    def __init__(
        self,
        provider: Provider,
        encoder: Encoder,
        lane: Lane,
        nonce: str,
        fragments: Iterator[tuple[int, bytes]],
        journal: Journal,
        should_stop: Callable[[], bool],
        options: Options,
        clock: Time,
    ) -> None:
        self.ending = Ending(f"{provider.name} at {provider.host}", provider.name, options)
        self.lines = self.rejections = self.at_once = 0  # rows that got a line; rejected requests; the most requests in flight together
        self._provider, self._encoder, self._lane, self._nonce, self._fragments = provider, encoder, lane, nonce, fragments
        self._journal, self._should_stop, self._options, self._clock = journal, should_stop, options, clock
        self._throttle = Throttle(options.begin_with, options.most)
        self._again: deque[_Row] = deque()
        self._in_flight: dict[asyncio.Task[None], _Row] = {}
        self._tokens_in_flight = 0.0
        self._one_ended: asyncio.Event
        self._began_at = clock.now()
        self._ended = 0

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return self._clock.now() - self._began_at

    async def all(self) -> None:
        """Begins requests as the throttle allows until there is nothing to begin, and awaits what is in flight."""
        self._one_ended = asyncio.Event()
        async with self._provider.sender(self._encoder.path, self._options.timeout_in(self._lane), self._options.most) as send:
            while True:
                try:
                    wait = self._begin(send)
                except Exception as broken:  # noqa: BLE001  raised below, when the answers of the requests in flight, which are paid, are on disk
                    self.ending.break_off(broken)
                    wait = None
                if wait is None and not self._in_flight:
                    break
                await self._wait(wait)
        if self.ending.broken is not None:
            raise self.ending.broken

    # -- which request begins when -----------------------------------------------------------------------------

    def _begin(self, send: Sender) -> float | None:
        """Begins all requests that may begin now; the seconds until the next one may, or None: not before one in flight has ended."""
        while not self.ending.is_due(self._clock.now(), self._should_stop()):
            if self._in_flight and not self._ended and self.seconds < self._options.alone_s:
                return None
            row = self._again.popleft() if self._again else self._next()
            if row is None:
                return None
            now = self._clock.now()
            wait = self._throttle.wait(now, len(self._in_flight), row.tokens)
            if wait == 0:
                self._start(row, now, send)
                continue
            self._again.appendleft(row)
            if wait is None or wait <= self._options.patience_s:
                return wait
            if not self._in_flight:
                self.ending.too_long(wait)
            return None
        return None

    def _next(self) -> _Row | None:
        for position, fragment in self._fragments:
            body = self._encoder.body(fragment, self._lane)
            return _Row(position, body, len(body) / 4 + self._options.output_tokens)
        return None

    def _start(self, row: _Row, now: float, send: Sender) -> None:
        task = asyncio.create_task(self._ask(row, self._throttle.begin(now, row.tokens), send))
        self._in_flight[task] = row
        self._tokens_in_flight += row.tokens
        self.at_once = max(self.at_once, len(self._in_flight))
        task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._tokens_in_flight -= self._in_flight.pop(task).tokens
        self._ended += 1
        self._one_ended.set()

    async def _wait(self, wait: float | None) -> None:
        if wait is not None:
            await self._clock.sleep(min(max(wait, 0.001), _STOP_CHECK_S))
            return
        self._one_ended.clear()
        try:
            await asyncio.wait_for(self._one_ended.wait(), _STOP_CHECK_S)
        except TimeoutError:
            return

    # -- one request -------------------------------------------------------------------------------------------

    async def _ask(self, row: _Row, number: int, send: Sender) -> None:
        try:
            # Before the call, not after: if the process dies in between, the request may be paid.
            self._journal.sending(row.position)
            failpoint("realtime.send")
            outcome = await send(custom_id(self._nonce, row.position), row.body)
            failpoint("realtime.received")
            await self._take(row, number, outcome)
        except Exception as broken:  # noqa: BLE001  raised at the end: the other requests in flight are paid, and are awaited first
            self.ending.break_off(broken)

    async def _take(self, row: _Row, number: int, outcome: SendOutcome) -> None:
        match outcome:
            case Settled():
                await self._journal.keep(row.position, outcome.line, Outcome.ANSWERED if outcome.answered else Outcome.ERRORED)
                self._learn_quotas(row, outcome)
                self._throttle.on_success(len(self._in_flight))
                self.lines += 1
                self.ending.on_settled(outcome.answered, f"HTTP {outcome.status} {outcome.code}")
            case InDoubt() if not self._provider.traits.repeats_cost:
                await self._ask_again(row, number, outcome.why)
            case InDoubt():
                await self._journal.keep(row.position, outcome.line, Outcome.LOST)
                self._throttle.on_rejected(number, self._clock.now(), None)
                self.lines += 1
                log.warning("realtime.in_doubt shard=%s position=%d why=%s", self._nonce, row.position, outcome.why)
                self.ending.on_lost()
            case NotNow():
                self._journal.not_done(row.position)
                self._learn_quotas(row, outcome)
                self._try_again(row, number, outcome.why, outcome.retry_after_s)
            case Denied():
                self._journal.not_done(row.position)
                self.ending.on_denied(outcome)
            case _:
                assert_never(outcome)

    async def _ask_again(self, row: _Row, number: int, why: str) -> None:
        """Asks a row again that got no reply, after a pause, since the server may still be at work on it; after its last try, its line says so."""
        if row.tries + 1 < self._options.tries:
            self._journal.not_done(row.position)
            self._try_again(row, number, why, None)
            return
        line = unanswered_line(custom_id(self._nonce, row.position), f"asked {self._options.tries} times, each without a reply: {why}")
        await self._journal.keep(row.position, line, Outcome.ERRORED)
        self.lines += 1
        self._throttle.on_rejected(number, self._clock.now(), None)
        self.ending.on_lost()

    def _learn_quotas(self, row: _Row, outcome: Settled | NotNow) -> None:
        self._throttle.on_quotas(outcome.quotas, self._clock.now(), len(self._in_flight) - 1, self._tokens_in_flight - row.tokens)

    def _try_again(self, row: _Row, number: int, why: str, retry_after_s: float | None) -> None:
        now = self._clock.now()
        self.rejections += 1
        self._throttle.on_rejected(number, now, retry_after_s)
        self.ending.on_rejected(now)
        if row.tries + 1 < self._options.tries:
            self._again.append(_Row(row.position, row.body, row.tokens, row.tries + 1))
        log.info("realtime.rejected shard=%s why=%s retry_after=%s", self._nonce, why, retry_after_s)
