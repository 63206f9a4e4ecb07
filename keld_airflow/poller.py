"""Poller: one look at the provider for all triggers of a connection in this triggerer process.

Ten thousand triggers that each ask for their own batch would be 170 calls a second; one that asks for all takes a list page for each
hundred batches, through `keld.Keld.poll`, which only looks and records.  It runs in a thread of its own, so that neither the event loop nor the
threads that all triggers share wait for a provider.  How often each job run is looked at, the older the batch the seldomer, is for `keld` to say.

No fault ends it: a provider or a ledger that does not answer now is asked again later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from keld_airflow.hook import KeldHook

if TYPE_CHECKING:
    from keld import Keld, Status

log = logging.getLogger(__name__)

Pause = Callable[[asyncio.Event, float], Awaitable[None]]

_TOGETHER = timedelta(seconds=5)  # what comes due this soon is looked at now, in the same list pages
_RETRY = timedelta(seconds=30)


def utcnow() -> datetime:
    """Now, aware, in UTC."""
    return datetime.now(UTC)


@dataclass(slots=True)
class _Wait:
    """The triggers that wait for one job run, and when it is looked at next."""

    look_at: datetime
    waiting: list[asyncio.Future[None]] = field(default_factory=list)


class Poller:
    """The waits of one event loop for the job runs of one connection.

    Args:
        open_keld: gives the environment; called in the poller's thread, and again after it failed, since a key may have been changed.
        clock: gives now.
        pause: waits for so many seconds, or until there is something new.
    """

    def __init__(self, open_keld: Callable[[], Keld], *, clock: Callable[[], datetime] = utcnow, pause: Pause | None = None) -> None:
        self._open_keld, self._clock, self._pause = open_keld, clock, pause or _pause
        self._keld: Keld | None = None
        self._waits: dict[str, _Wait] = {}
        self._news = asyncio.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="keld-poller")
        self._loop: asyncio.Task[None] | None = None

    async def due(self, job_run: str, look_at: datetime) -> None:
        """Returns when a job run is over or wants a worker.

        Args:
            look_at: not before.
        """
        wait = self._waits.setdefault(job_run, _Wait(look_at))
        wait.look_at = min(wait.look_at, look_at)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        wait.waiting.append(done)
        self._news.set()
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._run(), name="keld-poller")
        try:
            await done
        finally:
            self._forget(job_run, done)

    def _forget(self, job_run: str, done: asyncio.Future[None]) -> None:
        wait = self._waits.get(job_run)
        if wait is None:
            return
        wait.waiting = [other for other in wait.waiting if other is not done]
        if not wait.waiting:
            del self._waits[job_run]
        self._news.set()

    # -- the loop ---------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waits:
                self._news.clear()
                now = self._clock()
                first = min((wait.look_at for wait in self._waits.values()), default=now)
                if first > now:
                    await self._pause(self._news, (first - now).total_seconds())
                    continue
                soon = [job_run for job_run, wait in self._waits.items() if wait.look_at <= now + _TOGETHER]
                self._note(await loop.run_in_executor(self._thread, self._look, soon))
        finally:
            await asyncio.shield(loop.run_in_executor(self._thread, self._close))

    def _note(self, seen: Mapping[str, datetime | None]) -> None:
        """Wakes the triggers whose job run wants a worker; the others are looked at again when it says."""
        for job_run, look_at in seen.items():
            wait = self._waits.get(job_run)
            if wait is not None and look_at is not None:
                wait.look_at = look_at
            elif wait is not None:
                del self._waits[job_run]
                for done in wait.waiting:
                    if not done.done():
                        done.set_result(None)

    # -- in the thread ----------------------------------------------------------------------------------------

    def _look(self, job_runs: Sequence[str]) -> dict[str, datetime | None]:
        """When to look at each again, after a look; None: it wants a worker."""
        try:
            if self._keld is None:
                self._keld = self._open_keld()
            statuses = self._keld.poll(job_runs)
        except Exception as error:  # noqa: BLE001  see the module's header
            log.warning("poller.failed problem=%s", type(error).__name__)
            self._close()
            return self._after_failure(job_runs, error)
        if any(status.problem_kind == "AccessRefused" for status in statuses):
            self._close()
        return {status.id: None if _wants_a_worker(status) else status.next_check_at or self._clock() + _RETRY for status in statuses}

    def _after_failure(self, job_runs: Sequence[str], error: Exception) -> dict[str, datetime | None]:
        """As `_look`: all of them later; but one that the ledger does not know must not blind it for the others."""
        if type(error).__name__ != "UnknownJobRun":
            return dict.fromkeys(job_runs, self._clock() + _RETRY)
        if len(job_runs) == 1:
            return {job_runs[0]: None}  # the worker will say so to people
        return {job_run: look_at for one in job_runs for job_run, look_at in self._look([one]).items()}

    def _close(self) -> None:
        keld, self._keld = self._keld, None
        if keld is not None:
            keld.close()


def _wants_a_worker(status: Status) -> bool:
    """Results to fetch, a shard to send, an end; or a step that needs the files, which only workers have."""
    return status.over or status.ready or status.problem_kind == "StagingError"


async def _pause(news: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(news.wait(), seconds)
    except TimeoutError:
        return


# By event loop: a triggerer has one; in tests there are many, and a future is no use in another.
_POLLERS: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Poller]] = WeakKeyDictionary()


def shared_poller(keld_conn_id: str) -> Poller:
    """The poller of a connection in the running event loop."""
    pollers = _POLLERS.setdefault(asyncio.get_running_loop(), {})
    if keld_conn_id not in pollers:
        pollers[keld_conn_id] = Poller(KeldHook(keld_conn_id).open)
    return pollers[keld_conn_id]
