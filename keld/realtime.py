"""Realtime: the fast lanes: many concurrent requests under rate limits, every paid answer durable at once.

Beside the road, above `providers`, below `runner`; the only file with an event loop.  One stretch asks the rows of one shard that its
journal has no line of, each by one HTTP attempt at a time, and is over when all have one, when it is told to stop, or when going on
would help nobody; those in flight are always awaited.  A request keeps its place among those at once until its answer is on disk: what
a SIGKILL can cost is bounded by their number, and counted.  What was definitely not done is tried again here; what is in doubt is not,
as it may have been paid: its line says so, and whether it is asked again is for the next round to decide.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, assert_never

import numpy as np

from keld.answer import Outcome
from keld.errors import AccessRefused, InvalidJob, KeldError, ProviderRefused, ProviderUnreachable
from keld.failpoint import failpoint
from keld.journal import Journal
from keld.pace import Pace
from keld.price import Lane
from keld.providers.base import Denied, InDoubt, NotNow, Sender, SendOutcome, Settled
from keld.providers.encoder import Encoder, Reader
from keld.providers.envelope import doubtful
from keld.providers.provider import Provider
from keld.request import custom_id

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger("keld")
# platform.openai.com/docs/guides/flex-processing, 20 Nov 2026: 15 minutes; the official SDKs wait 10 for any other answer.
_TIMEOUT_S = {Lane.FLEX: 900.0, Lane.STANDARD: 600.0}
_GLANCE_S = 1.0  # between two looks at `stop` while nothing else happens
_T = TypeVar("_T")


class Stopped(StrEnum):
    """Why a stretch ended."""

    DONE = "done"  # every row has its line
    TOLD = "told"  # `stop` said so
    ACCESS = "access"  # the key, the project or the billing is refused
    SAME_FAULT = "same_fault"  # one row after the other met the same fault
    NO_CAPACITY = "no_capacity"  # turned away for longer than `patience_s`, or some rows too often


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How a stretch goes about it.

    Args:
        begin_with, most: requests at once, at the beginning and ever.
        timeout_s: of one request; None: 600, in the flex lane 900.
        patience_s: how long to be turned away without one answer.
        tries: how often one row may be turned away.
        same_fault: after so many rows in a row with the same fault, no more are tried.
        output_tokens: what an answer is reckoned at against a rate limit of tokens.
        alone_s: how long the others wait for the first answer at most: what it writes into a prompt cache they can read.
    """

    begin_with: int = 8
    most: int = 256
    timeout_s: float | None = None
    patience_s: float = 300.0
    tries: int = 10
    same_fault: int = 20
    output_tokens: int = 256
    alone_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Time:
    """Seconds that do not go backwards, and how to let some pass."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """What a stretch left behind.  Rows are counted over the whole journal, whichever stretches wrote it; the rest is of this one."""

    answered: int  # paid
    refused: int  # for good, by the provider; not paid
    in_doubt: int  # requests that may have been paid and have no answer: without a reply, or in flight at a kill
    undone: NDArray[np.int64]  # the positions without a line, ascending: not paid
    stopped: Stopped
    problem: KeldError | None  # what a person has to mend
    retry_after_s: float | None  # where there is no capacity and the provider says for how long
    seconds: float
    rows_per_s: float  # that got a line
    turned_away: int  # requests that met a rate limit, an overload or no connection
    at_once: int  # the most requests in flight together


def stretch(
    provider: Provider,
    encoder: Encoder,
    reader: Reader,
    lane: Lane,
    nonce: str,
    positions: NDArray[np.int64],
    fragments: Callable[[NDArray[np.int64]], Iterator[tuple[int, bytes]]],
    journal: Path,
    *,
    stop: Callable[[], bool] = lambda: False,
    manner: Manner | None = None,
    clock: Time | None = None,
) -> Stretch:
    """Asks those of the rows that the journal has no line of.

    Args:
        encoder, reader, nonce: of the shard; the lines' custom_ids are made of the nonce.
        positions: ascending, unique.
        fragments: (position, prompt fragment) of the positions it is given, in order; read as requests begin.
        journal: `answer.collect` reads it, with `reader.journal`, when all is over.
        stop: True: no new request is begun.  Called before each and about every second to the very end, so it must be cheap; what it raises
            ends the stretch likewise, and is raised.

    Raises:
        InvalidJob: the provider does not sell this lane.
        LeaseLost: another worker holds the journal.
        OSError: the journal cannot be written.  What was durable still is; the rows whose answers could not be kept are in doubt.
    """
    if lane not in provider.traits.lanes - {Lane.BATCH}:
        raise InvalidJob(f"{provider.name} has no {lane.value} lane for single requests. Nothing was sent.")
    with Journal(journal, nonce, reader.journal) as kept:
        _run(lambda: _settle_doubts(nonce, kept))
        left = _without(positions, kept.settled)
        asking = _Asking(provider, encoder, lane, nonce, fragments(left), kept, stop, manner or Manner(), clock or Time())
        log.info("stretch.begun shard=%s lane=%s rows=%d in_doubt=%d", nonce, lane.value, len(left), kept.in_doubt)
        _run(asking.all)
        return asking.result(_without(positions, kept.settled))


def settle_doubts(reader: Reader, nonce: str, journal: Path) -> int:
    """Gives the rows that were in flight when their worker died a line that says so; how many requests of the journal are in doubt."""
    with Journal(journal, nonce, reader.journal) as kept:
        _run(lambda: _settle_doubts(nonce, kept))
        return kept.in_doubt


async def _settle_doubts(nonce: str, kept: Journal) -> None:
    # They may have been paid, or still be answered: as with a lost reply, to ask again is for a round that has the money for it.
    for position in kept.left_open:
        line = doubtful(custom_id(nonce, position), "in flight when its worker died: it may have been paid")
        await kept.keep(position, line, Outcome.LOST)


@dataclass(frozen=True, slots=True)
class _Row:
    position: int
    body: bytes
    tokens: float
    tries: int = 0


class _Asking:
    """One stretch under way."""

    def __init__(
        self,
        provider: Provider,
        encoder: Encoder,
        lane: Lane,
        nonce: str,
        fragments: Iterator[tuple[int, bytes]],
        journal: Journal,
        stop: Callable[[], bool],
        manner: Manner,
        clock: Time,
    ) -> None:
        self._provider, self._encoder, self._lane, self._nonce, self._fragments = provider, encoder, lane, nonce, fragments
        self._journal, self._stop, self._manner, self._clock = journal, stop, manner, clock
        self._pace = Pace(manner.begin_with, manner.most)
        self._again: deque[_Row] = deque()
        self._flying: dict[asyncio.Task[None], _Row] = {}
        self._tokens_flying = 0.0
        self._turned: asyncio.Event  # something came back
        self._began_at = clock.now()
        self._turned_away_at: float | None = None  # the first no since the last answer
        self._streak: tuple[str, int] = ("", 0)  # the fault that the last so many rows met
        self._stopped: Stopped | None = None
        self._problem: KeldError | None = None
        self._retry_after_s: float | None = None
        self._broken: BaseException | None = None
        self._lines = self._answers = self._noes = self._at_once = self._landed = 0

    # -- the loop ----------------------------------------------------------------------------------------------

    async def all(self) -> None:
        """Begins requests as the pace allows until there is nothing to begin, and awaits what is in flight."""
        self._turned = asyncio.Event()
        timeout_s = self._manner.timeout_s or _TIMEOUT_S[self._lane]
        async with self._provider.sender(self._encoder.path, timeout_s, self._manner.most) as send:
            while True:
                try:
                    wait = self._begin(send)
                except Exception as broken:  # noqa: BLE001  raised below, once those in flight, which are paid, are safe
                    self._break(broken)
                    wait = None
                if wait is None and not self._flying:
                    break
                await self._rest(wait)
        if self._broken is not None:
            raise self._broken

    def _begin(self, send: Sender) -> float | None:
        """Begins all that may begin now; seconds until the next may, None: not before something comes back."""
        while not self._ends():
            if self._flying and not self._landed and self._clock.now() - self._began_at < self._manner.alone_s:
                return None
            row = self._again.popleft() if self._again else self._next()
            if row is None:
                return None
            now = self._clock.now()
            wait = self._pace.wait(now, len(self._flying), row.tokens)
            if wait == 0:
                self._fly(row, now, send)
                continue
            self._again.appendleft(row)
            if wait is None or wait <= self._manner.patience_s:
                return wait
            if not self._flying:
                self._end(Stopped.NO_CAPACITY)
                self._retry_after_s = wait
            return None
        return None

    def _ends(self) -> bool:
        if self._stop():
            self._end(Stopped.TOLD)
        if self._turned_away_at is not None and self._clock.now() - self._turned_away_at > self._manner.patience_s:
            self._end(Stopped.NO_CAPACITY)
        return self._stopped is not None

    def _next(self) -> _Row | None:
        for position, fragment in self._fragments:
            body = self._encoder.body(fragment, self._lane)
            return _Row(position, body, len(body) / 4 + self._manner.output_tokens)
        return None

    def _fly(self, row: _Row, now: float, send: Sender) -> None:
        task = asyncio.create_task(self._ask(row, self._pace.begin(now, row.tokens), send))
        self._flying[task] = row
        self._tokens_flying += row.tokens
        self._at_once = max(self._at_once, len(self._flying))
        task.add_done_callback(self._land)

    def _land(self, task: asyncio.Task[None]) -> None:
        self._tokens_flying -= self._flying.pop(task).tokens
        self._landed += 1
        self._turned.set()

    async def _rest(self, wait: float | None) -> None:
        if wait is not None:
            await self._clock.sleep(min(max(wait, 0.001), _GLANCE_S))
            return
        self._turned.clear()
        try:
            await asyncio.wait_for(self._turned.wait(), _GLANCE_S)
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
            self._break(broken)

    async def _take(self, row: _Row, number: int, outcome: SendOutcome) -> None:
        match outcome:
            case Settled():
                await self._journal.keep(row.position, outcome.line, Outcome.ANSWERED if outcome.answered else Outcome.ERRORED)
                self._told(row, outcome)
                self._pace.yes(len(self._flying))
                self._turned_away_at = None
                self._lines += 1
                self._answers += outcome.answered
                self._met("" if outcome.answered else f"HTTP {outcome.status} {outcome.code}", only_first=True)
            case InDoubt():
                await self._journal.keep(row.position, outcome.line, Outcome.LOST)
                self._pace.no(number, self._clock.now(), None)
                self._lines += 1
                log.warning("stretch.in_doubt shard=%s position=%d why=%s", self._nonce, row.position, outcome.why)
                self._met("no reply, which may have been paid", only_first=False)
            case NotNow():
                self._journal.not_done(row.position)
                self._told(row, outcome)
                self._turn_away(row, number, outcome)
            case Denied():
                self._journal.not_done(row.position)
                self._end(Stopped.ACCESS, self._refused(outcome))
            case _:
                assert_never(outcome)

    def _told(self, row: _Row, outcome: Settled | NotNow) -> None:
        self._pace.told(outcome.quotas, self._clock.now(), len(self._flying) - 1, self._tokens_flying - row.tokens)

    def _turn_away(self, row: _Row, number: int, outcome: NotNow) -> None:
        now = self._clock.now()
        self._noes += 1
        self._pace.no(number, now, outcome.retry_after_s)
        if self._turned_away_at is None:
            self._turned_away_at = now
        if row.tries + 1 < self._manner.tries:
            self._again.append(_Row(row.position, row.body, row.tokens, row.tries + 1))
        log.info("stretch.turned_away shard=%s why=%s retry_after=%s", self._nonce, outcome.why, outcome.retry_after_s)

    def _met(self, fault: str, *, only_first: bool) -> None:
        """Counts rows in a row with the same fault, to spare the others; `only_first`: unless one of this stretch was answered."""
        self._streak = (fault, self._streak[1] + 1 if fault == self._streak[0] else 1)
        count = self._streak[1]
        if fault and count >= self._manner.same_fault and not (only_first and self._answers):
            said = f"{self._provider.name} at {self._provider.host}: {count:,} rows one after the other met {fault}. No more are sent. "
            refused = ProviderRefused(said + "None of these is paid. Check the model, the lane and the parameters.")
            self._end(Stopped.SAME_FAULT, refused if only_first else ProviderUnreachable(said + "They are asked again later."))

    # -- the end -----------------------------------------------------------------------------------------------

    def _end(self, why: Stopped, problem: KeldError | None = None) -> None:
        if self._stopped is None:
            self._stopped, self._problem = why, problem

    def _break(self, broken: BaseException) -> None:
        self._broken = self._broken or broken
        self._end(Stopped.TOLD)

    def _refused(self, outcome: Denied) -> AccessRefused:
        return AccessRefused(
            f"{self._provider.name} at {self._provider.host} refused a request with HTTP {outcome.status} {outcome.code}; it is not paid, and no "
            f"more are sent. The answers until then are kept. Check the key, the project, the billing and the base URL of {self._provider.name}."
        )

    def result(self, undone: NDArray[np.int64]) -> Stretch:
        seconds = self._clock.now() - self._began_at
        stopped = self._stopped or (Stopped.NO_CAPACITY if len(undone) else Stopped.DONE)
        log.info("stretch.ended shard=%s why=%s lines=%d undone=%d s=%.1f", self._nonce, stopped.value, self._lines, len(undone), seconds)
        return Stretch(
            answered=self._journal.answered,
            refused=self._journal.refused,
            in_doubt=self._journal.in_doubt,
            undone=undone,
            stopped=stopped,
            problem=self._problem,
            retry_after_s=self._retry_after_s,
            seconds=seconds,
            rows_per_s=self._lines / seconds if seconds else 0.0,
            turned_away=self._noes,
            at_once=self._at_once,
        )


def _without(positions: NDArray[np.int64], settled: set[int]) -> NDArray[np.int64]:
    if not settled:
        return positions
    return positions[~np.isin(positions, np.fromiter(settled, dtype=np.int64, count=len(settled)))]


def _run(work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """What `work` gives, from a loop of its own; in a thread of its own where this one has a loop already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work())
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(lambda: asyncio.run(work())).result()
