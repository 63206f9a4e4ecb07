"""Testing: Keld's tasks in the tests of your Dags, against the emulator, whose clock is turned where a task would wait.

For tests only; nothing of Keld imports it.  A batch of a day takes a second, and deadlines come when they are due.  All else is as in
production: the task, its trigger, what is sent over HTTP.  The ledger is the test's own, whatever Airflow's configuration and connections say:
an invented answer in the ledger of production would be taken there for a paid one.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from shutil import rmtree
from types import SimpleNamespace
from typing import Any, Protocol
from unittest.mock import patch
from weakref import WeakKeyDictionary, finalize

from airflow.providers.common.compat.sdk import TaskDeferred
from airflow.sdk.bases.operator import ExecutorSafeguard
from airflow.sdk.definitions.mappedoperator import MappedOperator
from airflow.sdk.definitions.param import process_params
from airflow.sdk.execution_time.context import OutletEventAccessors
from airflow.triggers.base import BaseTrigger

from keld import Keld, State, Status
from keld_airflow.hook import KeldHook
from keld_airflow.poller import Poller

__all__ = ["Clock", "emulated_time", "run_task"]


class Clock(Protocol):
    """A clock that a test turns: `keld.emulator.Emulator`, which the fixture `keld_emulator` gives."""

    def now(self) -> datetime: ...

    def advance(self, span: float | timedelta) -> datetime: ...

    def url_of(self, kind: str) -> str: ...


_homes: WeakKeyDictionary[Clock, str] = WeakKeyDictionary()


class _Wait:
    """Turns the clock by longer and longer pauses while nothing changes: a look every few minutes would make a day's batch slow."""

    def __init__(self, emulator: Clock) -> None:
        self._emulator, self._since = emulator, emulator.now()
        self._stops: list[datetime] = []  # at which Keld does something of its own accord, as known at the last look
        self._states: Sequence[object] = ()
        self._hurried = False

    def note(self, statuses: Sequence[Status]) -> None:
        """Keeps what a look has shown."""
        states = [(status.id, status.state, *(batch.state for batch in status.batches)) for status in statuses]
        if states != self._states:
            self._states, self._since = states, self._emulator.now()
        self._stops = [at for status in statuses for at in (status.escalates_at, status.deadline_at) if at is not None]
        # What is being cancelled for a deadline ends in minutes, and those that are left count.
        self._hurried = any(batch.state is State.CANCELLING for status in statuses for batch in status.batches)

    def turn(self, seconds: float) -> None:
        """Turns the clock by so many seconds, or by more."""
        now = self._emulator.now()
        ahead = [(at - now).total_seconds() for at in self._stops if at > now]
        longer = 0.0 if self._hurried else (now - self._since).total_seconds() / 2
        self._emulator.advance(max(seconds, min([longer, *ahead])))


@contextmanager
def emulated_time(emulator: Clock) -> Iterator[None]:
    """Within the block, the tasks and triggers of this process live in the emulator's time; for `dag.test()`, which runs both here.

    Their ledger is a file in `KELD_HOME`, or in a temporary directory of this emulator; an account with a base URL is led to the emulator.
    """
    wait = _Wait(emulator)
    home = os.path.abspath(os.path.expanduser(os.environ.get("KELD_HOME") or _home_of(emulator)))  # a test has one working directory

    class EmulatedKeld(Keld):
        """Goes by the emulator's clock, and turns it where a task without a trigger would wait."""

        def __init__(self, **given: Any) -> None:
            accounts = {
                name: account if account.base_url is None else replace(account, base_url=emulator.url_of(account.kind))
                for name, account in (given.get("accounts") or {}).items()
            }
            super().__init__(**given | {"home": home, "ledger_url": None, "accounts": accounts, "clock": emulator.now})

        def check_shared(self, elsewhere: Sequence[str], advice: str) -> None:
            """All tasks of a test run here, whatever the executor of production."""

        def poll(
            self, run_ids: Sequence[str] | None = None, *, jobs: Collection[str] | None = None, budget_s: float = 10.0
        ) -> list[Status]:
            found = super().poll(run_ids, jobs=jobs, budget_s=budget_s)
            wait.note(found)
            return found

        def finish(self, run_id: str, *, poll_s: float | None = None, progress: Callable[[Status], None] | None = None) -> Status:
            def step(status: Status) -> None:
                if progress is not None:
                    progress(status)
                wait.note([status])
                if not status.over and status.next_check_at is not None:
                    wait.turn(max((status.next_check_at - emulator.now()).total_seconds(), 0.0))

            return super().finish(run_id, poll_s=poll_s, progress=step)

    async def pause(news: asyncio.Event, seconds: float) -> None:
        wait.turn(seconds)
        await asyncio.sleep(0)

    def poller(keld_conn_id: str) -> Poller:
        return Poller(KeldHook(keld_conn_id).open, clock=emulator.now, pause=pause)

    with patch.dict(os.environ), patch("keld.Keld", EmulatedKeld), patch("keld_airflow.trigger.shared_poller", poller):
        for shared in ("KELD_LEDGER_URL", "KELD_STAGING"):
            os.environ.pop(shared, None)
        os.environ["KELD_HOME"] = home
        yield


def _home_of(emulator: Clock) -> str:
    """A directory that is there as long as the emulator: a second task finds what the first one sent, and the next test nothing."""
    if emulator not in _homes:
        _homes[emulator] = tempfile.mkdtemp(prefix="keld-test-")
        finalize(emulator, rmtree, _homes[emulator], ignore_errors=True)
    return _homes[emulator]


def run_task(task: Any, emulator: Clock, *, outputs: Mapping[str, Any] | None = None, **context: Any) -> Any:
    """What a task of Keld's returns, all its waits included; without Airflow's database, scheduler and triggerer.

    Args:
        task: an operator or sensor, `dag.get_task(...)`, or what a decorated function gave, which stays as it is; of a mapped one give `map_index` too.
        outputs: what other tasks have returned, by task id, where this one is given it (`job_run=label.output`, `expand(partition=regions())`).
        context: of the Dag run: `partition_key`, or `logical_date`, or `data_interval_start` and `data_interval_end`; `conf`; and whatever
            templates and functions of the task use.  `params` are the Dag's own, with those of `conf`, if they are not given.

    Raises:
        ValueError: the task is mapped, and no instance is named.
        The errors with which the task would fail.
    """
    task = getattr(task, "operator", task)
    if isinstance(task, MappedOperator) and "map_index" not in context:
        raise ValueError(f"{task.task_id} is mapped. Name the instance to run: run_task(..., map_index=0).")
    fresh = task.prepare_for_execution()  # else the next run of the same task would find what was rendered for this one
    with emulated_time(emulator):
        return contextvars.copy_context().run(_run, fresh, _context(fresh, emulator, outputs or {}, context))


def _run(task: Any, context: dict[str, Any]) -> Any:
    """Executes and resumes, as Airflow's worker and triggerer do by turns."""
    task.render_template_fields(context)
    task = context["ti"].task  # of a mapped task, the instance
    ExecutorSafeguard.tracker.set(task)
    step: Callable[[], Any] = partial(task.execute, context)
    while True:
        try:
            return step()
        except TaskDeferred as deferred:
            event = asyncio.run(_event_of(deferred.trigger))
            step = partial(task.resume_execution, deferred.method_name, {"event": event}, context)


async def _event_of(trigger: BaseTrigger) -> Any:
    return (await anext(trigger.run())).payload


def _context(task: Any, emulator: Clock, outputs: Mapping[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """As far as a task of Keld's looks into it."""
    now = emulator.now()
    run_id = f"test__{now.isoformat()}"
    ti = SimpleNamespace(
        dag_id=task.dag_id,
        run_id=run_id,
        task_id=task.task_id,
        map_index=given.pop("map_index", -1),
        try_number=1,
        task=task,
        xcom_pull=partial(_output, outputs),
    )
    if (day := given.get("logical_date")) is not None:
        given = {"ds": f"{day:%Y-%m-%d}", "ts": day.isoformat(), "data_interval_start": day, "data_interval_end": day, **given}
    if (key := given.get("partition_key")) is not None and "partition_date" not in given:
        given = {"partition_date": _date_of(key), **given}
    conf = given.pop("conf", {})
    if "params" not in given:
        given = {"params": process_params(task.dag, task, conf, suppress_exception=False), **given}
    run = SimpleNamespace(
        dag_id=task.dag_id, run_id=run_id, run_type="manual", run_after=now, conf=conf, **{name: given.get(name) for name in _OF_RUN}
    )
    of_dag = {"dag": task.dag, "dag_run": run, "run_id": run_id, "ti": ti, "task_instance": ti, "task": task}
    return {"partition_key": None, "outlet_events": OutletEventAccessors(), **of_dag, **given}


def _output(outputs: Mapping[str, Any], task_ids: str, key: str = "return_value", **_: Any) -> Any:
    """What a task has returned, or one fact of it, as Airflow's `xcom_pull` gives it.

    Raises:
        LookupError: the test does not say.
    """
    if task_ids not in outputs:
        raise LookupError(f"The task takes what {task_ids!r} returns. Give it: run_task(..., outputs={{{task_ids!r}: ...}}).")
    return outputs[task_ids] if key == "return_value" else outputs[task_ids][key]


_OF_RUN = ("partition_key", "partition_date", "logical_date", "data_interval_start", "data_interval_end")


def _date_of(key: str) -> datetime | None:
    """The beginning of a partition whose key begins with a date, as Airflow's timetables have it; None for another key."""
    try:
        return datetime.fromisoformat(key).replace(tzinfo=UTC)
    except ValueError:
        return None
