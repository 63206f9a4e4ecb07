"""Poller: one poll of the provider for all triggers of a connection in this triggerer process.

If ten thousand triggers each asked for their own batch, that would be 170 calls a second; one poll for all reads a list page for each
hundred batches, through `keld.Keld.poll`, which only reads and records.  It runs in a thread of its own, so that neither the event loop nor the
threads that all triggers share wait for a provider.  `keld` decides how often each job run is polled: the older the batch, the less often.

No error ends it: a provider or a ledger that does not answer now is asked again later.  The task's log gets one message each time the problem
changes, and one each time there is news (see `progress`); the trigger itself logs them, because Airflow writes a line to the log of the task in
whose coroutine it is logged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from airflow.providers.common.compat.sdk import AirflowException
from asgiref.sync import sync_to_async

from keld import KeldError, UnknownJobRun
from keld_airflow.abandoned import cancel_abandoned
from keld_airflow.hook import KeldHook
from keld_airflow.progress import News, lines

if TYPE_CHECKING:
    from keld import Keld, Status

log = logging.getLogger(__name__)

T = TypeVar("T")
Pause = Callable[[asyncio.Event, float], Awaitable[None]]
Log = Callable[[int, str], None]
"""Logs a message for people, at a level of `logging`."""

_TOGETHER = timedelta(seconds=5)  # a job run that is due this soon is polled now, with the same list pages
_LEAST = timedelta(seconds=5)  # between two looks; while another worker holds a job run, its look stays due
_RETRY = timedelta(seconds=30)
_WOKEN_EVERY = timedelta(seconds=30)  # how often the ledger is asked whether a provider's webhook has made a look due
_ABANDONED_EVERY = timedelta(minutes=1)


def utcnow() -> datetime:
    """Now, aware, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What a poll has shown of one job run.

    Args:
        look_at: when to poll again; None: it needs a worker.
        obstacle: (kind, message) of the problem; the log gets it when the kind changes.
        progress: (news, line) if there is news.
    """

    look_at: datetime | None
    obstacle: tuple[str, str] | None = None
    progress: tuple[News, str] | None = None


@dataclass(slots=True)
class _PolledRun:
    """One job run: the triggers that wait for it, when it is polled next, its problem, and the last news of it."""

    look_at: datetime
    obstacle: tuple[str, str] | None = None
    told: News | None = None
    subscribers: list[asyncio.Queue[tuple[int, str] | None]] = field(default_factory=list)  # their messages; None: the job run is due

    def note(self, obstacle: tuple[str, str] | None) -> None:
        """Sends the problem to all subscribers if its kind has changed: a provider that answers sometimes 502, sometimes 503 has one problem."""
        before, self.obstacle = self.obstacle, obstacle
        if obstacle is not None and (before is None or before[0] != obstacle[0]):
            self.send(_obstacle_message(obstacle))
        elif obstacle is None and before is not None:
            self.send((logging.INFO, "The problem is gone."))

    def tell(self, progress: tuple[News, str] | None) -> None:
        """Sends the line to all subscribers, unless there is a problem, which says more."""
        if progress is not None and self.obstacle is None:
            self.told = progress[0]
            self.send((logging.INFO, progress[1]))

    def send(self, news: tuple[int, str] | None) -> None:
        for one in self.subscribers:
            one.put_nowait(news)


async def in_thread(function: Callable[..., T], *given: Any, thread: ThreadPoolExecutor | None = None) -> T:
    """What a function returns that blocks and may ask Airflow's API: for a connection, or the state of tasks.

    In a thread that asgiref knows.  Before Airflow 3.3 whatever is asked from another one is answered on another event loop, and the triggerer dies
    of it, with the triggers of all Dags: "Response read out of order".
    """
    return await sync_to_async(function, thread_sensitive=False, executor=thread)(*given)


class Poller:
    """Polls for one event loop the job runs of one connection.

    Args:
        open_keld: returns the environment; called in the poller's thread, and again after a failure, since a key may have changed.
        clock: returns now.
        pause: waits for so many seconds, or until there is something new.
    """

    def __init__(self, open_keld: Callable[[], Keld], *, clock: Callable[[], datetime] = utcnow, pause: Pause | None = None) -> None:
        self._open_keld, self._clock, self._pause = open_keld, clock, pause or _pause
        self._keld: Keld | None = None
        self._polled: dict[str, _PolledRun] = {}
        self._abandoned_at = clock()  # when those are looked for next that no trigger waits for
        self._news = asyncio.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="keld-poller")
        self._loop: asyncio.Task[None] | None = None

    async def due(self, job_run: str, look_at: datetime, log_message: Log) -> None:
        """Returns when a job run is over or needs a worker.

        Args:
            look_at: the first poll is not before this.
            log_message: called, in the caller's own task, with each new problem.
        """
        polled = self._polled.setdefault(job_run, _PolledRun(look_at))
        polled.look_at = min(polled.look_at, look_at)
        messages: asyncio.Queue[tuple[int, str] | None] = asyncio.Queue()
        polled.subscribers.append(messages)
        if polled.obstacle is not None:
            messages.put_nowait(_obstacle_message(polled.obstacle))
        self._news.set()
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._run(), name="keld-poller")
        try:
            while (news := await messages.get()) is not None:
                log_message(*news)
        finally:
            self._forget(job_run, messages)

    def _forget(self, job_run: str, messages: asyncio.Queue[tuple[int, str] | None]) -> None:
        polled = self._polled.get(job_run)
        if polled is None:
            return
        polled.subscribers = [other for other in polled.subscribers if other is not messages]
        if not polled.subscribers:
            del self._polled[job_run]
        self._news.set()

    # -- the loop ---------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._polled:
                self._news.clear()
                now = self._clock()
                first = min((polled.look_at for polled in self._polled.values()), default=now)
                if first > now:
                    await self._pause(self._news, min(first - now, _WOKEN_EVERY).total_seconds())
                    if first - now > _WOKEN_EVERY:
                        self._hurry(await in_thread(self._woken, self._unobstructed(), thread=self._thread))
                    continue
                soon = {job_run: polled.told for job_run, polled in self._polled.items() if polled.look_at <= now + _TOGETHER}
                self._note(await in_thread(self._look, soon, thread=self._thread))
        finally:
            await asyncio.shield(loop.run_in_executor(self._thread, self._close))

    def _unobstructed(self) -> list[str]:
        """The job runs without a problem: with one, they wait for their next try."""
        return [job_run for job_run, polled in self._polled.items() if polled.obstacle is None]

    def _hurry(self, job_runs: Collection[str]) -> None:
        for job_run in job_runs:
            if (polled := self._polled.get(job_run)) is not None:
                polled.look_at = min(polled.look_at, self._clock())

    def _note(self, seen: Mapping[str, _Seen]) -> None:
        """Wakes the triggers whose job run needs a worker; the others are polled again at their `look_at`."""
        for job_run, found in seen.items():
            polled = self._polled.get(job_run)
            if polled is None:
                continue
            if found.look_at is None:
                del self._polled[job_run]
                polled.send(None)
            else:
                polled.look_at = found.look_at
                polled.note(found.obstacle)
                polled.tell(found.progress)

    # -- in the thread ----------------------------------------------------------------------------------------

    def _look(self, told: Mapping[str, News | None]) -> dict[str, _Seen]:
        """What a poll shows of each job run, by the last news of it."""
        try:
            if self._keld is None:
                self._keld = self._open_keld()
            statuses = self._keld.poll(list(told))
            self._cancel_abandoned(self._keld)
            progress = lines(self._keld, [status for status in statuses if not status.wants_worker], told)
        except Exception as error:  # noqa: BLE001  see the module's header
            log.warning("poller.failed problem=%s", type(error).__name__)
            self._close()
            return self._after_failure(told, error)
        if any(status.problem_permanent for status in statuses):
            self._close()  # reopened by the next poll: a key may have changed
        return {status.id: self._seen(status, progress.get(status.id)) for status in statuses}

    def _woken(self, job_runs: Collection[str]) -> list[str]:
        """The job runs at which a look is due by the ledger: one was asked for since they were polled (see `keld.Keld.wake`)."""
        if self._keld is None:
            return []  # the next poll opens it, and says what is wrong
        try:
            return self._keld.due(job_runs)
        except Exception as error:  # noqa: BLE001  see the module's header
            log.warning("poller.failed problem=%s", type(error).__name__)
            return []

    def _cancel_abandoned(self, keld: Keld) -> None:
        """Cancels, now and then, what tasks that were killed have left at the provider; a failure stops no poll."""
        if self._clock() < self._abandoned_at:
            return
        self._abandoned_at = self._clock() + _ABANDONED_EVERY
        try:
            cancel_abandoned(keld)
        except Exception as error:  # noqa: BLE001  see the module's header
            log.warning("poller.abandoned problem=%s", type(error).__name__)

    def _seen(self, status: Status, progress: tuple[News, str] | None) -> _Seen:
        obstacle = None if status.obstacle is None else (status.problem_kind or "", status.obstacle)
        look_at = max(status.next_check_at or self._clock() + _RETRY, self._clock() + _LEAST)
        return _Seen(look_at=None if status.wants_worker else look_at, obstacle=obstacle, progress=progress)

    def _after_failure(self, told: Mapping[str, News | None], error: Exception) -> dict[str, _Seen]:
        """As `_look`: all are polled again later; but one that the ledger does not know must not stop the others."""
        if not isinstance(error, UnknownJobRun):
            return dict.fromkeys(told, _Seen(look_at=self._clock() + _RETRY, obstacle=(type(error).__name__, _words(error))))
        if len(told) == 1:
            return dict.fromkeys(told, _Seen(look_at=None))  # the worker will report it
        return {job_run: seen for one, news in told.items() for job_run, seen in self._look({one: news}).items()}

    def _close(self) -> None:
        keld, self._keld = self._keld, None
        if keld is not None:
            keld.close()


def _obstacle_message(obstacle: tuple[str, str]) -> tuple[int, str]:
    return logging.WARNING, f"Waiting continues. {obstacle[1]}"


def _words(error: Exception) -> str:
    """The message for people; for an error that may hold secrets, only its class."""
    said = str(error) if isinstance(error, KeldError | AirflowException) else f"The poll of the job run failed: {type(error).__name__}."
    return f"{said} Keld tries again."


async def _pause(news: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(news.wait(), seconds)
    except TimeoutError:
        return


# By event loop: a triggerer has one, tests have many, and a future belongs to one loop.
_POLLERS: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Poller]] = WeakKeyDictionary()


def shared_poller(keld_conn_id: str) -> Poller:
    """The poller of a connection in the running event loop."""
    pollers = _POLLERS.setdefault(asyncio.get_running_loop(), {})
    if keld_conn_id not in pollers:
        pollers[keld_conn_id] = Poller(KeldHook(keld_conn_id).open)
    return pollers[keld_conn_id]
