"""Airflow worker: the real task runner of Airflow in this process, without a database.  The test says in which kind of Dag run it is.

It answers in place of Airflow's API server, where the SDK's own supervisor for tests makes its client.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psutil
import pytest
import structlog
from packaging.version import Version

from keld import Job
from keld.emulator import Emulator

if TYPE_CHECKING:
    import httpx

LATENCY_S = 3600
NOW = datetime(2026, 11, 20, 6, tzinfo=UTC)
ROWS = [{"id": n, "body": f"CANARY-ROW ticket {n}"} for n in range(5)]


def job(**terms: Any) -> Job:
    """The job of most tests."""
    asked: dict[str, Any] = {"name": "labels", "key": "id", "prompt": "Classify: {body}", "models": "openai:gpt-5-mini"}
    return Job(**{**asked, **terms})


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """What one visit of a task to a worker left behind."""

    state: str
    message: Any  # what the worker told Airflow in the end
    error: BaseException | None
    xcoms: dict[str, Any]
    rendered: dict[str, Any]
    shown: dict[str, Any]  # in the task state store
    task: Any = None  # the copy that was executed

    @property
    def manifest(self) -> dict[str, Any]:
        return self.xcoms["return_value"]

    @property
    def trigger(self) -> dict[str, Any]:
        """The fields of the trigger that the task has deferred to."""
        assert self.state == "deferred", (self.state, self.error)
        if not importlib.util.find_spec("airflow.sdk.serde"):  # Airflow 3.1 has them as they are
            return self.message.trigger_kwargs
        from airflow.sdk.serde import deserialize

        return deserialize(self.message.trigger_kwargs)

    @property
    def event(self) -> dict[str, Any]:
        """What that trigger says when it fires."""
        return {"job_run": self.trigger["job_run"], "found": self.trigger["found"], "reason": "due"}

    @property
    def assets(self) -> list[dict[str, Any]]:
        """The asset events of a task that succeeded."""
        assert self.state == "success", (self.state, self.error)
        return self.message.outlet_events

    @property
    def kept(self) -> str:
        """All that reaches Airflow's database."""
        return json.dumps(
            [self.xcoms, self.rendered, self.shown, self.message.model_dump(mode="json") if self.message else None], default=str
        )


@dataclass(kw_only=True)
class Worker:
    """Runs tasks as Airflow's worker does, each visit in a Dag run of the test's choice."""

    states: dict[str, str] = field(default_factory=dict)  # of task instances, as Airflow's database has them
    gave: dict[str, Any] = field(default_factory=dict)  # what other tasks returned, by their ids
    database_is_away: bool = False  # Airflow's: its API server knows no connection then, and says that it is its own fault

    def run(
        self, task: Any, *, event: dict[str, Any] | None = None, method: str = "resume", failed: str | None = None, **run: Any
    ) -> RunContext:
        """One visit.

        Args:
            event: a trigger fired.
            method: what the task is resumed by, then.
            failed: no trigger did; why.
            run: of the Dag run: run_id, run_type, run_after, partition_key, partition_date, logical_date, data_interval_start, data_interval_end;
                and map_index.
        """
        from airflow.sdk import DAG
        from airflow.sdk.api.client import Client
        from airflow.sdk.api.datamodels._generated import TaskInstance
        from airflow.sdk.execution_time.supervisor import InProcessTestSupervisor
        from httpx import MockTransport

        seen = RunContext(state="", message=None, error=None, xcoms={}, rendered={}, shown={})
        map_index = run.pop("map_index", -1)
        resumed = {"next_method": method, "next_kwargs": _stored({"event": event})} if event else {}
        if failed:
            resumed = {"next_method": "__fail__", "next_kwargs": _stored({"error": failed})}
        api = MockTransport(self._api(seen, run, resumed))
        client = InProcessTestSupervisor._Client(base_url=None, token="", dry_run=True, transport=api)  # asks once
        client.base_url = "http://in-process.invalid./"
        if not task.has_dag():
            task.dag = DAG("dag", schedule=None)
        run_id = run.get("run_id", "run-1")
        ti = TaskInstance(
            id=uuid4(), task_id=task.task_id, dag_id=task.dag_id, run_id=run_id, try_number=1, map_index=map_index, dag_version_id=uuid4()
        )

        class InProcess(InProcessTestSupervisor):
            """As `run_task_in_process(client=)`, which only Airflow 3.3 has."""

            @staticmethod
            def _api_client(dag: Any = None) -> Client:
                return client

        result = InProcess.start(what=ti, task=task)
        return replace(seen, state=result.state.value, message=result.msg, error=result.error, task=result.ti.task)

    def until_sent(self, task: Any, **run: Any) -> RunContext:
        visit = self.run(task, **run)
        assert visit.state == "deferred", visit.error
        return visit

    def through(self, task: Any, emulator: Emulator, *, most: int = 6, **run: Any) -> RunContext:
        """All visits of a task, the provider's time passing in between."""
        visit = self.run(task, **run)
        for _ in range(most):
            if visit.state != "deferred":
                break
            emulator.advance(LATENCY_S)
            visit = self.run(task, event=visit.event, **run)
        return visit

    def _api(self, seen: RunContext, run: dict[str, Any], resumed: dict[str, Any]) -> Callable[[httpx.Request], httpx.Response]:
        """Airflow's Execution API, as far as a task asks it."""
        from httpx import Response

        def answer(request: httpx.Request) -> httpx.Response:
            path, body = request.url.path, request.content
            if path.endswith("/run"):
                return Response(200, json=_run_context(run) | resumed)
            if path.endswith("/rtif"):
                seen.rendered.update(json.loads(body))
                return Response(201, json={"message": "ok"})
            if "/xcoms/" in path and request.method == "POST":
                seen.xcoms[path.rpartition("/")[2]] = json.loads(body) if body else None
                return Response(201, json={"message": "ok"})
            if "/xcoms/" in path and (task_id := path.split("/")[-2]) in self.gave:
                return Response(200, json={"key": "return_value", "value": self.gave[task_id]})
            if "/store/" in path and request.method == "PUT":
                seen.shown[path.rpartition("/")[2]] = json.loads(body)["value"]
                return Response(204)
            if path.endswith("/states"):
                return Response(200, json={"task_states": {run.get("run_id", "run-1"): self.states}})
            if path.endswith("/assets/by-name") and request.url.params["name"] == "labels":
                return Response(200, json={"name": "labels", "uri": "s3://lake/labels", "group": "asset", "extra": {}})
            if "/assets/" in path:
                return Response(404, json={"detail": {"reason": "not_found", "message": "no such asset"}})
            if "/connections/" in path and self.database_is_away:
                return Response(500, json={"detail": "(psycopg.OperationalError) connection refused"})
            if "/connections/" in path:
                return Response(404, json={"detail": {"reason": "not_found", "message": ""}})
            return Response(200, json={"message": "ok"})

        return answer


def since(airflow: str) -> pytest.MarkDecorator:
    """For a test of what only this version of Airflow and later ones have."""
    lacks = Version(version("apache-airflow-core")) < Version(airflow)
    return pytest.mark.skipif(lacks, reason=f"of Airflow {airflow}")


def _stored(value: dict[str, Any]) -> Any:
    """What wakes a task, as Airflow's database has it: before 3.2 in a form of its own."""
    if importlib.util.find_spec("airflow.sdk.serde"):
        return value
    from airflow.serialization.serialized_objects import BaseSerialization

    return BaseSerialization.serialize(value)


def serialised(dag: Any) -> dict[str, Any]:
    """A Dag as Airflow stores it."""
    from airflow.serialization import serialized_objects

    return _serialisation(serialized_objects).to_dict(dag)


def deserialised(stored: dict[str, Any]) -> Any:
    """A stored Dag as the scheduler has it."""
    from airflow.serialization import serialized_objects

    return _serialisation(serialized_objects).from_dict(stored)


def _serialisation(home: Any) -> Any:
    return getattr(home, "DagSerialization", None) or home.SerializedDAG  # the second before Airflow 3.2


def _run_context(run: dict[str, Any]) -> dict[str, Any]:
    from airflow.sdk.api.datamodels._generated import DagRun

    instants = ("partition_date", "logical_date", "data_interval_start", "data_interval_end")
    if "partition_key" not in DagRun.model_fields and run.get("partition_key"):  # Airflow 3.1, where a day is an interval
        day = run.get("partition_date") or datetime.fromisoformat(run["partition_key"]).replace(tzinfo=UTC)
        run = run | {"logical_date": day, "data_interval_start": day, "data_interval_end": day + timedelta(days=1)}
    dag_run = {
        "dag_id": "dag",
        "run_id": run.get("run_id", "run-1"),
        "start_date": NOW.isoformat(),
        "end_date": None,
        "run_after": run.get("run_after", NOW).isoformat(),
        "run_type": run.get("run_type", "manual"),
        "state": "running",
        "conf": {},
        "consumed_asset_events": [],
        "partition_key": run.get("partition_key"),
        **{name: run[name].isoformat() if run.get(name) else None for name in instants},
    }
    return {
        "dag_run": {name: value for name, value in dag_run.items() if name in DagRun.model_fields},  # an older API takes no later field
        "task_reschedule_count": 0,
        "max_tries": 1,
        "should_retry": False,
        "variables": [],
        "connections": [],
        "upstream_map_indexes": None,
        "xcom_keys_to_clear": [],
    }


@contextmanager
def supervised(states: dict[str, str]) -> Iterator[None]:
    """A place to ask Airflow's API for the states of the task instances of `run-1`, as a triggerer and a killed worker do."""
    from airflow.sdk.api.client import Client
    from airflow.sdk.execution_time import task_runner
    from airflow.sdk.execution_time.supervisor import InProcessSupervisorComms, InProcessTestSupervisor, set_supervisor_comms
    from httpx import MockTransport, Response

    absent = {"detail": {"reason": "not_found", "message": ""}}
    api = MockTransport(
        lambda asked: (
            Response(404, json=absent) if "/connections/" in asked.url.path else Response(200, json={"task_states": {"run-1": states}})
        )
    )
    client = Client(base_url=None, token="", dry_run=True, transport=api)
    client.base_url = "http://in-process.invalid./"
    process = InProcessTestSupervisor(
        id=uuid4(), pid=os.getpid(), process=psutil.Process(), process_log=structlog.get_logger(), client=client
    )
    process.comms = InProcessSupervisorComms(supervisor=process)
    assert task_runner
    with set_supervisor_comms(process.comms):
        yield
