"""A real Dagster: its backfill, queue and sensor daemons, turned by hand in this process; the provider is the emulator.

Launches, cancels and terminations go through GraphQL, as the UI's do.  Runs execute in this process when the queue daemon launches
them, so that between two turns no run may be executing.
"""

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory
from dagster._core.definitions.reconstruct import ReconstructableJob
from dagster._core.instance import DagsterInstance
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.storage.event_log.schema import SqlEventLogStorageMetadata
from dagster._core.storage.runs.schema import RunStorageSqlMetadata
from dagster._core.test_utils import InProcessTestWorkspaceLoadTarget, create_test_daemon_workspace_context, instance_for_test
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import PythonFileTarget, WorkspaceLoadTarget
from dagster._daemon.backfill import execute_backfill_iteration
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon
from dagster._daemon.sensor import execute_sensor_iteration
from dagster_graphql.test.utils import execute_dagster_graphql

from keld import Keld
from keld.emulator import Emulator
from keld_dagster import KeldResource
from tests.support.shared_statements import creating, sharing

LOG = logging.getLogger("tests.dagster")
LOCATION = Path(__file__).with_name("code_location.py")
SETTINGS = {
    "concurrency": {"runs": {"max_concurrent_runs": 2}},
    "run_launcher": {"module": "dagster._core.launcher.sync_in_memory_run_launcher", "class": "SyncInMemoryRunLauncher"},
}
LATENCY_S = 3600
LAUNCH_BACKFILL = """
mutation ($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
  __typename ... on LaunchBackfillSuccess { backfillId } } }
"""
CANCEL_BACKFILL = "mutation ($id: String!) { cancelPartitionBackfill(backfillId: $id) { __typename } }"
LAUNCH_RUN = (
    "mutation ($params: ExecutionParams!) { launchRun(executionParams: $params) { __typename ... on LaunchRunSuccess { run { id } } } }"
)
TERMINATE = "mutation ($id: String!) { terminateRun(runId: $id) { __typename } }"


def _share_revisions(patch: pytest.MonkeyPatch) -> None:
    """From now on Alembic's scripts are read once a process.

    Dagster stamps each of its databases with the newest of sixty revisions: some for an instance, one for a run, and four for each value
    that is loaded.  To read all scripts for each took a third of the time of these tests.
    """
    read, known = ScriptDirectory.from_config, dict[tuple[str | None, str | None], ScriptDirectory]()

    def read_once(config: Config) -> ScriptDirectory:
        place = (config.config_file_name, config.get_main_option("script_location"))
        if place not in known:
            known[place] = read(config)
        return known[place]

    patch.setattr(ScriptDirectory, "from_config", read_once)


def _share_engines(patch: pytest.MonkeyPatch) -> None:
    """From now on a database of Dagster's has one engine: Dagster makes one for each connection, and compiles each statement for each."""
    make, known = sharing(sa.create_engine), dict[str, sa.Engine]()

    def engine_of(url: str, **more: Any) -> sa.Engine:
        if url not in known:
            known[url] = make(url, **more)
        return known[url]

    for room in ("runs.in_memory", "runs.sqlite", "event_log.in_memory", "event_log.sqlite", "schedules.sqlite"):
        import_module(f"dagster._core.storage.{room}")
    for name, module in [*sys.modules.items()]:
        if name.startswith("dagster._core.storage.") and getattr(module, "create_engine", None) is sa.create_engine:
            patch.setattr(module, "create_engine", engine_of)


def _share_tables(patch: pytest.MonkeyPatch) -> None:
    """From now on the SQL that makes Dagster's tables in memory is compiled once a process: an instance, or a value that is loaded, has two of them."""
    for tables in (RunStorageSqlMetadata, SqlEventLogStorageMetadata):
        patch.setattr(tables, "create_all", creating(tables))


_share_revisions(pytest.MonkeyPatch())
_share_engines(pytest.MonkeyPatch())
_share_tables(pytest.MonkeyPatch())


class Deployment:
    """A Dagster deployment with one code location, whose daemons work when they are told to."""

    def __init__(self, instance: DagsterInstance, workspace: WorkspaceProcessContext, emulator: Emulator, keld: Keld, module: str) -> None:
        self.instance, self.workspace, self.emulator, self.keld, self._module = instance, workspace, emulator, keld, module
        self._queue = QueuedRunCoordinatorDaemon(interval_seconds=5)

    # -- what a person does in the UI

    def backfill(self, days: Sequence[str], *assets: str) -> str:
        params = {"partitionNames": list(days), "assetSelection": [{"path": [name]} for name in assets]}
        return self._ask(LAUNCH_BACKFILL, "launchPartitionBackfill", params=params)["backfillId"]

    def backfill_by_asset(self, ranges: Mapping[str, tuple[str, str]]) -> str:
        """A backfill over assets with different partitions: the first and the last of each."""
        chosen = [
            {"assetKey": {"path": [name]}, "partitions": {"ranges": [{"start": first, "end": last}]}}
            for name, (first, last) in ranges.items()
        ]
        return self._ask(LAUNCH_BACKFILL, "launchPartitionBackfill", params={"partitionsByAssets": chosen})["backfillId"]

    def cancel(self, backfill_id: str) -> None:
        self._ask(CANCEL_BACKFILL, "cancelPartitionBackfill", id=backfill_id)

    def launch(self, day: str | None, *assets: str, config: Mapping[str, Any] | None = None, **tags: str) -> str:
        """Materialises one partition, or an asset without partitions, which is a plain run; gives its id."""
        selector = {
            "repositoryLocationName": "location",
            "repositoryName": "__repository__",
            "jobName": "__ASSET_JOB",
            "assetSelection": [{"path": [name]} for name in assets],
            "assetCheckSelection": None,
        }
        tags = tags if day is None else {"dagster/partition": day, **tags}
        params = {
            "selector": selector,
            "mode": "default",
            "runConfigData": config or {},
            "executionMetadata": {"tags": [{"key": name, "value": value} for name, value in tags.items()]},
        }
        return self._ask(LAUNCH_RUN, "launchRun", params=params)["run"]["id"]

    def terminate(self, run_id: str) -> None:
        self._ask(TERMINATE, "terminateRun", id=run_id)

    def reload(self) -> None:
        """Loads the code location anew, as after a deployment of changed code."""
        forget(self._module)
        self.workspace.reload_workspace()

    def _ask(self, query: str, field: str, **variables: Any) -> dict[str, Any]:
        answer = execute_dagster_graphql(self.workspace.create_request_context(), query, variables).data[field]
        assert answer["__typename"].endswith("Success"), answer
        return answer

    # -- time

    def turn(self) -> None:
        """One iteration of each daemon; no run may execute between two."""
        list(execute_backfill_iteration(self.workspace, LOG))
        list(self._queue.run_iteration(self.workspace))
        list(execute_sensor_iteration(self.workspace, LOG, threadpool_executor=None, submit_threadpool_executor=None))
        assert not self.runs(statuses=[dg.DagsterRunStatus.STARTED])

    def turn_until(self, done: Callable[[], bool], most: int = 400) -> None:
        """Turns until something is so; many of the turns are too soon for the sensor's interval, and cost nothing."""
        for _ in range(most):
            if done():
                return
            self.turn()
        runs = "\n".join(f"{run.job_name} {run.status.value} {run.tags}" for run in self.runs())
        raise AssertionError(f"not within {most} turns:\n{runs}\n{self.ticks()[:1]}")

    def provider_ends(self) -> None:
        self.emulator.advance(LATENCY_S)

    # -- what there is to see

    def runs(self, **filters: Any) -> Sequence[dg.DagsterRun]:
        return self.instance.get_runs(dg.RunsFilter(**filters))

    def holds(self) -> list[str]:
        return [run.status.value for run in self.runs(job_name="keld_provider_wait")]

    def ticks(self) -> list[Any]:
        return [
            tick
            for state in self.instance.all_instigator_state()
            for tick in self.instance.get_ticks(state.instigator_origin_id, state.selector_id)
        ]

    def status(self, backfill_id: str) -> str:
        backfill = self.instance.get_backfill(backfill_id)
        assert backfill is not None
        return backfill.status.value

    def told(self, batch: str, partition: str) -> str:
        """What the page of a batch's partition says of its state."""
        filters = dg.AssetRecordsFilter(asset_key=dg.AssetKey(batch), asset_partitions=[partition])
        [latest] = self.instance.fetch_observations(filters, limit=1).records
        assert latest.asset_observation is not None
        return str(latest.asset_observation.metadata["keld/state"].value)

    def materialized(self, asset: str) -> set[str]:
        return self.instance.get_materialized_partitions(dg.AssetKey(asset))


def one_event_log(directory: Path) -> dict[str, Any]:
    """One SQLite file for all events: making one a run, as Dagster does, takes a third of a test's time."""
    storage = {
        "module": "dagster._core.storage.event_log",
        "class": "ConsolidatedSqliteEventLogStorage",
        "config": {"base_dir": str(directory)},
    }
    return {"event_log_storage": storage}


@contextmanager
def standing_still(home: Path, monkeypatch: pytest.MonkeyPatch, latency_s: float) -> Iterator[tuple[Emulator, dg.DagsterInstance, Keld]]:
    """A provider whose clock only a test turns, a Dagster instance in memory, and a Keld that goes by that clock."""
    with Emulator(latency_s=latency_s, frozen=True) as emulator:
        for name, value in emulator.env().items():
            monkeypatch.setenv(name, value)
        with dg.DagsterInstance.ephemeral() as instance, Keld(home=home, clock=emulator.now) as keld:
            yield emulator, instance, keld


def resource_of(keld: Keld) -> KeldResource:
    """A resource that opens the same environment, by the same clock."""

    class Turned(KeldResource):
        def open(self) -> Keld:
            return Keld(home=self.home, clock=keld.clock)

    return Turned(home=str(keld.home))


def forget(module: str) -> None:
    """Makes the next run of this process, where the runs execute, load the code location anew."""
    for kept in (ReconstructableJob.get_definition, ReconstructableJob.get_repository_definition):
        kept.cache_clear()
    sys.modules.pop(module, None)


def loading(location: Path, in_server: bool) -> WorkspaceLoadTarget:
    """How a code location is loaded: by a code server, which is a process of its own and takes seconds to start, or in this process."""
    where = {"python_file": str(location), "attribute": "defs", "working_directory": str(location.parent)}
    if in_server:
        return PythonFileTarget(**where, location_name="location")
    origin = LoadableTargetOrigin(executable_path=sys.executable, **where)
    return InProcessTestWorkspaceLoadTarget(InProcessCodeLocationOrigin(origin, location_name="location"))


@contextmanager
def deployed(
    location: Path,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: Mapping[str, Any] = SETTINGS,
) -> Iterator[Deployment]:
    """A fresh deployment of a code location; its provider takes an hour, on a clock that the test turns.

    A slow test, and one that is marked `code_server`, has it in a code server, as a user has.
    """
    in_server = any(request.node.get_closest_marker(name) for name in ("slow", "code_server"))
    with Emulator(latency_s=LATENCY_S) as emulator:
        for name, value in {**emulator.env(), "TEST_HOME": str(tmp_path / "keld"), "TEST_TABLES": str(tmp_path / "tables")}.items():
            monkeypatch.setenv(name, value)
        forget(location.stem)
        with (
            instance_for_test(overrides={**settings, **one_event_log(tmp_path)}) as instance,
            create_test_daemon_workspace_context(loading(location, in_server), instance=instance) as workspace,
            Keld(home=tmp_path / "keld", namespace="location") as keld,
        ):
            yield Deployment(instance, workspace, emulator, keld, location.stem)


@pytest.fixture
def deployment(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    with deployed(LOCATION, request, tmp_path, monkeypatch) as deployment:
        yield deployment
