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
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import assert_never

import msgspec
from msgspec.structs import replace

from keld.failpoint import failpoint
from keld.outcome import Outcome
from keld.price import Lane
from keld.providers.base import Denied, InDoubt, NotNow, Sender, SendOutcome, Settled
from keld.providers.encoder import Encoder, Reader
from keld.providers.envelope import doubt, in_doubt_line, unanswered_line
from keld.providers.pack import Row, packed
from keld.providers.provider import Provider
from keld.providers.word import reply_words
from keld.realtime.ending import Ending
from keld.realtime.journal import Journal
from keld.realtime.options import Options, Time
from keld.realtime.pacer import pacer
from keld.request import custom_id

log = logging.getLogger("keld")
_STOP_CHECK_S = 1.0  # between two looks at `should_stop` while nothing else happens
_REPEATS = 3  # of a request without a reply, within one run: each time the engine gets less to do, for the sake of a row that may break it
# A refusal with one of these may be for one row of many: its text, or the length of all together.  Any other is for what they share.
_OF_A_ROW = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY})
_LOAD_EVERY_S = 2.0  # between two looks at how busy the engine is


class _Request(msgspec.Struct, frozen=True):
    """One request: the rows that are asked together, and its body."""

    rows: tuple[Row, ...]
    body: bytes
    tokens: float
    tries: int = 0

    @property
    def positions(self) -> list[int]:
        return [position for position, _ in self.rows]


class Loop:
    """One realtime run under way.

    Args:
        reader: of the answers; counts what an answer is worth to a pacer.
        packs: the rows to ask, those of one request together; read as requests begin.
        should_stop: as of `run_realtime`.
    """

    def __init__(
        self,
        provider: Provider,
        encoder: Encoder,
        reader: Reader,
        lane: Lane,
        nonce: str,
        packs: Iterator[list[Row]],
        journal: Journal,
        should_stop: Callable[[], bool],
        options: Options,
        clock: Time,
    ) -> None:
        self.ending = Ending(f"{provider.name} at {provider.host}", provider.name, options)
        self.lines = self.rejections = self.at_once = 0  # rows that got a line; rejected requests; the most requests in flight together
        self._provider, self._encoder, self._reader, self._lane, self._nonce = provider, encoder, reader, lane, nonce
        self._packs = packs
        self._journal, self._should_stop, self._options, self._clock = journal, should_stop, options, clock
        self._by_goodput = provider.traits.by_goodput
        self._pacer = pacer(self._by_goodput, options.begin_with, options.most)
        self._again: deque[_Request] = deque()
        self._in_flight: dict[asyncio.Task[None], _Request] = {}
        self._one_ended: asyncio.Event
        self._began_at = clock.now()
        self._ended = 0

    @property
    def settled_at(self) -> int:
        """How many requests at once the run found to be right."""
        return int(self._pacer.at_once)

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return self._clock.now() - self._began_at

    async def all(self) -> None:
        """Begins requests as the throttle allows until there is nothing to begin, and awaits what is in flight."""
        self._one_ended = asyncio.Event()
        encoder, most, headers = self._encoder, self._options.most, self._encoder.headers(self._lane)
        async with self._provider.sender(encoder.path, self._timeout_s, most, headers) as send, self._watched():
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
            request = self._again.popleft() if self._again else self._next()
            if request is None:
                return None
            now = self._clock.now()
            wait = self._pacer.wait(now, len(self._in_flight), request.tokens)
            if wait == 0:
                self._start(request, now, send)
                continue
            self._again.appendleft(request)
            if wait is None or wait <= self._options.patience_s:
                return wait
            if not self._in_flight:
                self.ending.too_long(wait)
            return None
        return None

    def _next(self) -> _Request | None:
        rows = next(self._packs, None)
        return None if rows is None else self._request(rows)

    def _request(self, rows: Sequence[Row], tries: int = 0) -> _Request:
        body = self._encoder.body(packed(rows), self._lane)
        return _Request(tuple(rows), body, len(body) / 4 + self._options.output_tokens, tries)

    def _start(self, request: _Request, now: float, send: Sender) -> None:
        task = asyncio.create_task(self._ask(request, self._pacer.begin(now, request.tokens), send))
        self._in_flight[task] = request
        self.at_once = max(self.at_once, len(self._in_flight))
        task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[None]) -> None:
        del self._in_flight[task]
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

    def _timeout_s(self) -> float:
        usual_s, ends_in_s = self._options.timeout_s or self._pacer.timeout_s(self._options.timeout_in(self._lane)), self._options.ends_in_s
        return usual_s if ends_in_s is None else max(1.0, min(usual_s, ends_in_s - self.seconds))

    @asynccontextmanager
    async def _watched(self) -> AsyncIterator[None]:
        """Within the block, the pacer hears how busy the engine is, if it says so."""
        if not self._by_goodput:
            yield
            return
        watch = asyncio.create_task(self._watch_load())
        try:
            yield
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    async def _watch_load(self) -> None:
        async with self._provider.load_reader() as read_load:
            # None: it does not say, and the goodput alone decides.
            while (load := await read_load()) is not None:
                self._pacer.on_load(load)
                await asyncio.sleep(_LOAD_EVERY_S)

    # -- one request -------------------------------------------------------------------------------------------

    async def _ask(self, request: _Request, number: int, send: Sender) -> None:
        try:
            # Before the call, not after: if the process dies in between, the request may be paid.
            await self._journal.sending(*request.positions)
            failpoint("realtime.send")
            outcome = await send(custom_id(self._nonce, request.positions[0]), request.body)
            failpoint("realtime.received")
            await self._take(request, number, outcome)
        except Exception as broken:  # noqa: BLE001  raised at the end: the other requests in flight are paid, and are awaited first
            self.ending.break_off(broken)

    async def _take(self, request: _Request, number: int, outcome: SendOutcome) -> None:
        if isinstance(outcome, Settled | NotNow):
            self._pacer.on_quotas(number, outcome.quotas, self._clock.now())
        match outcome:
            case Settled(answered=False, status=status) if len(request.rows) > 1 and status in _OF_A_ROW:
                self._halve(request, number)
            case Settled():
                await self._settle(request, number, outcome)
            case InDoubt() if not self._provider.traits.repeats_cost and request.tries + 1 < _REPEATS:
                self._journal.not_done(*request.positions)
                self._try_again(request, number, outcome.why, None)  # after a pause: the server may still be at work on it
            case InDoubt():
                await self._lose(request, number, outcome.why)
            case NotNow():
                self._journal.not_done(*request.positions)
                self._try_again(request, number, outcome.why, outcome.retry_after_s)
            case Denied():
                self._journal.not_done(*request.positions)
                self.ending.on_denied(outcome)
            case _:
                assert_never(outcome)

    async def _settle(self, request: _Request, number: int, outcome: Settled) -> None:
        """Keeps a line for each row of a request that was answered, or refused for what all of its rows share."""
        ids = [custom_id(self._nonce, position) for position in request.positions]
        if len(ids) == 1:
            lines: list[bytes] | None = [outcome.line]
        elif outcome.answered:
            lines = self._encoder.unpacked(outcome.line, ids, [len(part) for _, part in request.rows])
        else:
            lines = self._encoder.repeated(outcome.line, ids)
        if lines is None and self._provider.traits.repeats_cost:
            await self._lose(request, number, f"an answer without one part for each of its {len(ids):,} rows")
            return
        if lines is None:
            self._halve(request, number)
            return
        kept = Outcome.ANSWERED if outcome.answered else Outcome.ERRORED
        await self._keep(request, lines, kept)
        self._pacer.on_success(number, self._clock.now(), self._work(lines) if self._by_goodput else 1, len(self._in_flight))
        for _ in lines:
            self.ending.on_settled(outcome.answered, reply_words(outcome.status, outcome.code))

    async def _lose(self, request: _Request, number: int, why: str) -> None:
        """Keeps a line for each row of a request that has no readable reply: it may have been paid, unless a request costs nothing here."""
        ids = [custom_id(self._nonce, position) for position in request.positions]
        if self._provider.traits.repeats_cost:
            await self._keep(request, [in_doubt_line(one, doubt(why)) for one in ids], Outcome.LOST)
        else:
            await self._keep(
                request, [unanswered_line(one, f"asked {request.tries + 1} times, without a reply: {why}") for one in ids], Outcome.ERRORED
            )
        self._pacer.on_rejected(number, self._clock.now(), None)
        log.warning("realtime.in_doubt shard=%s position=%d rows=%d why=%s", self._nonce, request.positions[0], len(ids), why)
        self.ending.on_lost(why)

    async def _keep(self, request: _Request, lines: Sequence[bytes], outcome: Outcome) -> None:
        await self._journal.keep(dict(zip(request.positions, lines, strict=True)), outcome)
        self.lines += len(lines)

    def _work(self, lines: Sequence[bytes]) -> int:
        """What the answers are worth: their tokens; a row whose answer has none counts as one."""
        return sum(max(reply.output_tokens, 1) for line in lines for reply in self._reader.journal(line))

    def _halve(self, request: _Request, number: int) -> None:
        """Asks the rows of a refused request again in two halves, so that in the end only the bad row is refused."""
        self._journal.not_done(*request.positions)
        self._pacer.on_success(number, self._clock.now(), 0, len(self._in_flight))
        half = len(request.rows) // 2
        # Before all others: the bad row is soon alone, and a fault that all rows have soon shows as one.
        self._again.extendleft(self._request(rows, request.tries) for rows in (request.rows[half:], request.rows[:half]))

    def _try_again(self, request: _Request, number: int, why: str, retry_after_s: float | None) -> None:
        now = self._clock.now()
        self.rejections += 1
        self._pacer.on_rejected(number, now, retry_after_s)
        self.ending.on_rejected(now, why)
        if request.tries + 1 < self._options.tries:
            self._again.append(replace(request, tries=request.tries + 1))
        log.info("realtime.rejected shard=%s why=%s retry_after=%s", self._nonce, why, retry_after_s)
