"""Trigger: waits in the triggerer until a job run needs a worker, or its deadline has come.

Its fields are stored in the metadata database, and Airflow logs its event: both hold only ids and instants.  `run` only polls
and sends nothing, since a triggerer that was lost and the one that took over may run it at the same time; the deadline is an instant, since a
duration would start again with each of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from keld_airflow.kill import detach_and_cancel, is_over
from keld_airflow.poller import in_thread, shared_poller

# Airflow before 3.3 ends the coroutine of a task that was killed, and says no more; so it does when the triggerer is shut down.
_CALLS_ON_KILL = hasattr(BaseTrigger, "on_kill")
_ENDING = set[asyncio.Future[None]]()  # an event loop itself forgets a task that nobody holds


class KeldTrigger(BaseTrigger):
    """Fires when `job_run` is over or needs a worker, and at `wake_at`.

    Args:
        keld_conn_id: the connection to poll with.
        job_run: its id.
        holder, epoch: the task's attachment to it.
        look_at: the first poll is not before this; ISO 8601.
        wake_at: the deadline, ISO 8601; None: there is none.
        found: passed on to `resume`.
        cancels: False: the job run is left as it is when the task is killed.
    """

    def __init__(
        self,
        *,
        keld_conn_id: str,
        job_run: str,
        holder: str,
        epoch: int,
        look_at: str,
        wake_at: str | None,
        found: str,
        cancels: bool = True,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's
        self.keld_conn_id, self.job_run = keld_conn_id, job_run
        self.holder, self.epoch = holder, epoch
        self.look_at, self.wake_at, self.found, self.cancels = look_at, wake_at, found, cancels

    def serialize(self) -> tuple[str, dict[str, Any]]:
        fields = ("keld_conn_id", "job_run", "holder", "epoch", "look_at", "wake_at", "found", "cancels")
        return f"{type(self).__module__}.{type(self).__qualname__}", {name: getattr(self, name) for name in fields}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        due = shared_poller(self.keld_conn_id).due(self.job_run, datetime.fromisoformat(self.look_at), self._log_message)
        try:
            await asyncio.wait_for(due, self._timeout_s())
            reason = "due"
        except TimeoutError:
            reason = "deadline"
        except asyncio.CancelledError:
            if not _CALLS_ON_KILL:
                await self.on_kill()
            raise
        yield TriggerEvent({"job_run": self.job_run, "found": self.found, "reason": reason})  # type: ignore[no-untyped-call]  # Airflow's

    def _log_message(self, level: int, words: str) -> None:
        """Logs a message of Keld's, which holds no key and no prompt, in the log of the task."""
        self.log.log(level, "%s (connection %s, job run %s)", words, self.keld_conn_id, self.job_run)

    def _timeout_s(self) -> float | None:
        """Seconds until the deadline; None: there is none."""
        if self.wake_at is None:
            return None
        return max(0.0, (datetime.fromisoformat(self.wake_at) - datetime.now(UTC)).total_seconds())

    async def on_kill(self) -> None:
        """Cancels at the provider if the task instance has ended and is to cancel then, and no other task waits for the job run.

        It is finished though Airflow cuts it off: 3.3 after 30 seconds (`[triggerer] on_kill_timeout`), 3.1 and 3.2 with their next heartbeat.
        """
        ending = asyncio.ensure_future(self._end())
        _ENDING.add(ending)
        ending.add_done_callback(_ENDING.discard)
        await asyncio.shield(ending)

    async def _end(self) -> None:
        if not self.cancels:
            self.log.info("job_run %s is not cancelled: its task has on_kill='leave'.", self.job_run)
            return
        if not await in_thread(is_over, self.task_instance):
            self.log.info("job_run %s is not cancelled: its task instance continues.", self.job_run)
            return
        cancelled = await in_thread(detach_and_cancel, self.keld_conn_id, self.job_run, self.holder, self.epoch)
        self.log.info(
            "job_run %s is %s.", self.job_run, "cancelled" if cancelled else "not cancelled: another task waits for it, or it is over"
        )
