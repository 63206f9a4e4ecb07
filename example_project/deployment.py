"""Deployment: a real Dagster on this machine, started and ended: code server, web server, daemon, as `dagster dev` starts them.

For the demo and for the tests.  It binds to loopback, keeps everything in one directory, and every process that it starts ends with it.
The daemon is started by itself: it looks at the backfills when it starts and every 30 s from then on, which no setting changes, so that a
backfill launched just before it need not wait.
"""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from example_project.process import Patience, computed_s, end, free_port, is_open

ROOT = Path(__file__).resolve().parents[1]
SLOTS = 2
# How much processor time Dagster may use without progress: while it starts, and then in multiples of what it used to start, since on a slow
# machine both take longer.  An idle one uses so much in some minutes.
_START_S = 600.0
_PATIENCE = 10
# Queued runs are looked for each second, so that a short demo does not wait for Dagster's looks; and they are started side by side, since
# each start takes as long as the imports of the code location.
_SETTINGS = f"""
concurrency:
  runs:
    max_concurrent_runs: {SLOTS}
run_queue:
  dequeue_interval_seconds: 1
  dequeue_use_threads: true
  dequeue_num_workers: {SLOTS}
telemetry:
  enabled: false
nux:
  enabled: false
"""
_LOADED = "query { workspaceOrError { ... on Workspace { locationEntries { loadStatus locationOrLoadError { __typename } } } } }"
_LAUNCH = """
mutation ($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }
"""


class DagsterFailed(Exception):
    """Dagster did not start or did not do what was requested; the message says what, the logs say why."""


class Dagster:
    """A running Dagster, spoken to as its UI speaks to it."""

    def __init__(self, home: Path, code: tuple[str, ...], settings: Mapping[str, str]) -> None:
        self.home, self._code = home, code
        self._code_port, self._port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self._environment = {**os.environ, "DAGSTER_HOME": str(home), "PYTHONPATH": path, "PYTHONWARNINGS": "ignore", **settings}
        self._environment.pop("KELD_HOME", None)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._started_s = 0.0  # seconds of processor time that starting took

    # -- processes

    def start(self) -> None:
        """The code server and the web server."""
        where = f"grpc_server: {{host: 127.0.0.1, port: {self._code_port}, location_name: {Path(self._code[1]).name}}}"
        (self.home / "dagster.yaml").write_text(_SETTINGS)
        (self.home / "workspace.yaml").write_text(f"load_from:\n  - {where}\n")
        self._run("code", "dagster", "api", "grpc", *self._code, "--lazy-load-user-code", "-h", "127.0.0.1", "-p", str(self._code_port))
        self._until(lambda: is_open(self._code_port), "its code server listens")  # else the web server notes that there is none
        self._run("web", "dagster_webserver", "-w", str(self.home / "workspace.yaml"), "-h", "127.0.0.1", "-p", str(self._port))

    def start_daemon(self) -> None:
        """The daemon: schedules, sensors, backfills, the queue of runs."""
        self._run("daemon", "dagster._daemon", "run", "-w", str(self.home / "workspace.yaml"))

    def stop_daemon(self) -> None:
        """As when its host is restarted; what is queued stays queued."""
        end([self._processes.pop("daemon")])

    def end(self) -> None:
        end(self._processes.values())

    def _run(self, name: str, *module: str) -> None:
        with (self.home / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", *module],
                cwd=ROOT,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def check_alive(self) -> None:
        """Passes if no process has ended by itself.

        Raises:
            DagsterFailed: names it.
        """
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise DagsterFailed(f"Dagster's process {name!r} has ended with {process.returncode}; see {self.home / f'{name}.log'}.")

    def patience(self) -> Patience:
        """How long to wait for what it does: by how long it took to start."""
        return Patience(self._computed_s, max(60.0, _PATIENCE * self._started_s))

    def _computed_s(self) -> float:
        return computed_s(self._processes.values())

    # -- GraphQL

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The data of a GraphQL answer."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as response:
            answer = json.load(response)
        if answer.get("errors"):
            raise DagsterFailed(f"Dagster refused a query: {answer['errors'][0]['message']}")
        return answer["data"]

    def wait_until_up(self) -> None:
        """Returns when the code location is loaded.

        Raises:
            DagsterFailed: a process has ended by itself, or nothing comes of it.
        """
        self._until(lambda: bool(entries := self._entries()) and all(entry["loadStatus"] == "LOADED" for entry in entries), "it is up")
        if self._entries()[0]["locationOrLoadError"]["__typename"] != "RepositoryLocation":
            raise DagsterFailed(f"the code location does not load; see {self.home / 'code.log'}.")
        self._started_s = self._computed_s()

    def _until(self, done: Callable[[], bool], what: str) -> None:
        """Returns when something is so.

        Raises:
            DagsterFailed: a process has ended by itself, or has used much time without it.
        """
        patience = Patience(self._computed_s, _START_S)
        while not done():
            self.check_alive()
            if not patience.note(None):
                raise DagsterFailed(f"It does not come about: {what}. See the logs in {self.home}.")
            time.sleep(0.2)

    def _entries(self) -> list[dict[str, Any]]:
        """The code locations; none while the web server does not answer."""
        try:
            return list(self.ask(_LOADED)["workspaceOrError"]["locationEntries"])
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return []

    def launch_backfill(self, partitions: list[str], assets: list[str]) -> str:
        """What "Launch backfill" does in the UI; gives its id."""
        params = {"partitionNames": partitions, "assetSelection": [{"path": [name]} for name in assets], "tags": []}
        launched = self.ask(_LAUNCH, params=params)["launchPartitionBackfill"]
        if launched["__typename"] != "LaunchBackfillSuccess":
            raise DagsterFailed(f"the backfill was not launched: {launched.get('message', launched['__typename'])}")
        return str(launched["backfillId"])


@contextmanager
def running_dagster(home: Path, code: tuple[str, ...], settings: Mapping[str, str]) -> Iterator[Dagster]:
    """A Dagster with two run slots on the code that `code` names, as its command line does, until the block ends; without a daemon yet.

    `settings` are environment variables of all its processes; their logs are in `home`.
    """
    home.mkdir(parents=True, exist_ok=True)
    dagster = Dagster(home, code, settings)
    try:
        dagster.start()
        yield dagster
    finally:
        dagster.end()
