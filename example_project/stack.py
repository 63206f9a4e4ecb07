"""Stack: a real Airflow on this machine, started and ended: database, API server, scheduler, Dag processor, triggerer.

For the demo and for the tests.  It binds to loopback, asks for no password, keeps everything in one directory, and every process that
it starts ends with it.
"""

import json
import os
import resource
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from example_project.process import Patience, computed_s, end, free_port, kill

AIRFLOW = (sys.executable, "-m", "airflow")
SLOTS = 2
COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer")
# How much processor time Airflow may use without progress, in multiples of what it used to create its database: on a slow machine both take
# longer.  An idle Airflow uses so much in 5 minutes.
_PATIENCE = 20
_REPLY_S = 300.0
_LOCKED_TRIES = 20  # Airflow gives up on a locked SQLite after seconds, and answers with a 500


class StackFailed(Exception):
    """Airflow did not start or did not do what was requested; the message says what, the logs say why."""


class Airflow:
    """A running Airflow, used through its REST API as its UI does."""

    def __init__(self, home: Path, dags: Path, settings: Mapping[str, str]) -> None:
        self.home, self.port = home, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {**os.environ, **_settings(home, dags, self.port), **settings}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.migrated_s = 0.0  # seconds of processor time that making the database took
        self._token = ""

    # -- processes

    def start(self, component: str, name: str | None = None) -> subprocess.Popen[bytes]:
        """A component, in a session of its own; `name` for a second one of a kind."""
        more = ["--workers", "1", "--host", "127.0.0.1", "--port", str(self.port)] if component == "api-server" else []
        return self.run(name or component, *AIRFLOW, component, *more)

    def run(self, name: str, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        """A process of this Airflow's, in a session and with a log of its own; it works in its `AIRFLOW_HOME`."""
        own = {**self._own_ports(), **environment}
        with (self.home / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command, env=own, cwd=own["AIRFLOW_HOME"], stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        self.processes[name] = process
        return process

    def _own_ports(self) -> dict[str, str]:
        """The environment of one process: two of a kind must not serve their logs at one port."""
        ports = {
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": free_port(),
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": free_port(),
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": free_port(),
        }
        return {**self.environment, **{name: str(port) for name, port in ports.items()}}

    def migrate(self) -> None:
        """Makes the database."""
        before = _children_computed_s()
        with (self.home / "migrate.log").open("wb") as log:
            ended = subprocess.run([*AIRFLOW, "db", "migrate"], env=self.environment, stdout=log, stderr=subprocess.STDOUT, check=False)
        if ended.returncode:
            raise StackFailed(f"Airflow's database cannot be made; see {self.home / 'migrate.log'}.")
        self.migrated_s = _children_computed_s() - before

    def end(self) -> None:
        """Ends every process and what it started."""
        end(self.processes.values())
        self.processes.clear()

    def stop(self, name: str) -> None:
        """Ends a process when it is through with what it does."""
        self.processes[name].terminate()
        self.processes[name].wait()
        self.kill(name)

    def kill(self, name: str) -> None:
        """Ends a process and what it started at once, as if their host had lost its power."""
        kill(self.processes.pop(name))

    def say(self, *words: str) -> str:
        """What a command of Airflow's command line prints.

        Raises:
            StackFailed: it ended with an error.
        """
        ended = subprocess.run([*AIRFLOW, *words], env=self.environment, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise StackFailed(f"`airflow {' '.join(words)}` ended with {ended.returncode}: {ended.stderr[-1_000:]}")
        return ended.stdout

    # -- REST

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of an answer of the public API; asked again while SQLite is locked, unless that might do a thing twice.

        Raises:
            urllib.error.HTTPError: it was refused.
        """
        for left in reversed(range(1 if method == "POST" else _LOCKED_TRIES)):
            try:
                return self._ask(method, path, body)
            except urllib.error.HTTPError as refused:
                if refused.code < 500 or not left:
                    raise
                time.sleep(1)

    def _ask(self, method: str, path: str, body: Any) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._token}"}
        request = urllib.request.Request(f"{self.url}{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=_REPLY_S) as response:
            text = response.read()
        return json.loads(text) if text else None

    def wait_until_up(self, *dag_ids: str) -> None:
        """Returns when all components are healthy and these Dags are there, unpaused."""
        self.until(self._is_healthy, "Airflow is up")
        self._token = self.ask("GET", "/auth/token")["access_token"]
        for dag_id in dag_ids:
            self.until(lambda dag_id=dag_id: self._unpaused(dag_id), f"the Dag {dag_id} is read")  # type: ignore[misc]

    def _is_healthy(self) -> bool:
        try:
            health = self.ask("GET", "/api/v2/monitor/health")
            self.ask("GET", "/execution/health")  # the tasks' side is made at the first request to it, which takes seconds
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False
        wanted = {"scheduler", "dag_processor"} | ({"triggerer"} if "triggerer" in self.processes else set())
        return all(health[part]["status"] == "healthy" for part in wanted)

    def _unpaused(self, dag_id: str) -> bool:
        try:
            return not self.ask("PATCH", f"/api/v2/dags/{dag_id}", {"is_paused": False})["is_paused"]
        except urllib.error.HTTPError as refused:
            if refused.code != 404:
                raise
            return False

    def until(self, done: Callable[[], bool], what: str, patience_s: float | None = None) -> float:
        """The seconds it took until something was so.

        Args:
            patience_s: seconds of processor time that Airflow may use before it is so; None: a multiple of what its database took.

        Raises:
            StackFailed: it is not so by then, or a process has ended by itself.
        """
        patience = self.patience(patience_s)
        while not done():
            self.check_alive()
            if not patience.note(None):
                raise StackFailed(f"It does not come about: {what}. See the logs in {self.home}.")
            time.sleep(0.5)
        return patience.seconds

    def check_alive(self) -> None:
        """Passes if no process has ended by itself.

        Raises:
            StackFailed: names it.
        """
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise StackFailed(f"Airflow's {name} has ended; see {self.home / f'{name}.log'}.")

    def computed_s(self) -> float:
        """The seconds that its processes, and what they have started, have computed so far."""
        return computed_s(self.processes.values())

    def patience(self, patience_s: float | None = None) -> Patience:
        """How long to wait for it: by default a multiple of what its database took."""
        return Patience(self.computed_s, _PATIENCE * self.migrated_s if patience_s is None else patience_s)

    # -- Dags

    def backfill(self, dag_id: str, first: str, last: str, **more: Any) -> int:
        """Launches a backfill as the UI's form does; gives its id."""
        body = {
            "dag_id": dag_id,
            "from_date": first,
            "to_date": last,
            "max_active_runs": 16,
            "run_backwards": False,
            "dag_run_conf": {},
            **more,
        }
        patience = self.patience()
        while True:
            try:
                return int(self.ask("POST", "/api/v2/backfills", body)["id"])
            except urllib.error.HTTPError as refused:
                # SQLite may be locked briefly; Airflow marks an earlier backfill as over only every 30 s.
                if refused.code not in (409, 503) or not patience.note(None):
                    raise StackFailed(f"The backfill was refused: HTTP {refused.code} {refused.read().decode()[:300]}") from None
                time.sleep(1)

    def trigger(self, dag_id: str, **more: Any) -> str:
        """Starts one Dag run; gives its id."""
        # A 500 by SQLite's lock does not say whether the run was made.  The same id again does: 409, it was.
        run_id = f"manual__{uuid4()}"
        for left in reversed(range(_LOCKED_TRIES)):
            try:
                self.ask("POST", f"/api/v2/dags/{dag_id}/dagRuns", {"logical_date": None, "dag_run_id": run_id, **more})
                break
            except urllib.error.HTTPError as refused:
                if refused.code == 409:
                    break
                if refused.code < 500 or not left:
                    raise
                time.sleep(1)
        return run_id

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        return list(self.ask("GET", f"/api/v2/dags/{dag_id}/dagRuns?limit=100")["dag_runs"])

    def tasks(self, dag_id: str, run_id: str = "~") -> list[dict[str, Any]]:
        """The task instances of a run, or of all runs."""
        quoted = urllib.parse.quote(run_id, safe="~")
        return list(self.ask("GET", f"/api/v2/dags/{dag_id}/dagRuns/{quoted}/taskInstances?limit=100")["task_instances"])

    def states(self, dag_id: str, task_id: str, of: str = "") -> list[str]:
        """The states of one task in all runs of its Dag whose ids begin with `of`."""
        tasks = [task for task in self.tasks(dag_id) if task["task_id"] == task_id]
        return [str(task["state"]) for task in tasks if task["dag_run_id"].startswith(of)]


def _settings(home: Path, dags: Path, port: int) -> dict[str, str]:
    url = f"http://127.0.0.1:{port}"
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": str(SLOTS),
        "AIRFLOW__CORE__FERNET_KEY": urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
        # Airflow fails a task, or leaves a Dag out, that a busy machine took longer for than its defaults of 5, 30 and 50 seconds;
        # it tries the task again 5 minutes later.
        "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "120",
        "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "300",
        "AIRFLOW__DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": "600",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "5",
        "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK": "False",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH")])),
        "PYTHONWARNINGS": "ignore",
        "no_proxy": "127.0.0.1,localhost",
    }


def _children_computed_s() -> float:
    """The seconds of processor time that the processes this one started have used, of those that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def running_airflow(home: Path, dags: Path, settings: Mapping[str, str], components: tuple[str, ...] = COMPONENTS) -> Iterator[Airflow]:
    """An Airflow with its processes, until the block ends."""
    home.mkdir(parents=True, exist_ok=True)
    airflow = Airflow(home, dags, settings)
    airflow.migrate()
    try:
        for component in components:
            airflow.start(component)
        yield airflow
    finally:
        airflow.end()
