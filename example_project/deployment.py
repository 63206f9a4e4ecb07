"""Deployment: a real Dagster on this machine, started and ended: `dagster dev`, which is web server, daemon and code server.

For the demo and for the tests.  It binds to loopback, keeps everything in one directory, and every process that it starts ends with it.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from example_project.stack import free_port

ROOT = Path(__file__).resolve().parents[1]
SLOTS = 2
_STILL_S = 120.0  # without any change, on a machine that starts Dagster in a few seconds; a slower one is given more
_STARTS = 10  # in multiples of the time that it took to start
_SETTINGS = f"concurrency:\n  runs:\n    max_concurrent_runs: {SLOTS}\ntelemetry:\n  enabled: false\nnux:\n  enabled: false\n"
_LOADED = "query { workspaceOrError { ... on Workspace { locationEntries { loadStatus locationOrLoadError { __typename } } } } }"
_LAUNCH = """
mutation ($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }
"""


class DagsterFailed(Exception):
    """Dagster did not start or did not do what was requested; the message says what, the logs say why."""


class Stall:
    """Detects that nothing changes any more: slow progress is no failure.

    Args:
        still_s: so long without any change is a stall.
    """

    def __init__(self, still_s: float) -> None:
        self.still_s = still_s
        self._seen: object = None
        self._since = time.monotonic()

    def look(self, seen: object) -> bool:
        """True if what is seen now has been the same for too long."""
        if seen != self._seen:
            self._seen, self._since = seen, time.monotonic()
        return time.monotonic() - self._since > self.still_s


class Dagster:
    """A running Dagster, spoken to as its UI speaks to it."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process, self.url = process, f"http://127.0.0.1:{port}"
        self.began = time.monotonic()
        self.still_s = _STILL_S

    def stall(self) -> Stall:
        """For what this Dagster does: the slower the machine was to start it, the longer it may show nothing new."""
        return Stall(self.still_s)

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
        """Returns when the code location is loaded."""
        stall = self.stall()
        while not stall.look(self._worked_s()):
            if self.process.poll() is not None:
                raise DagsterFailed(f"dagster dev ended with {self.process.returncode}.")
            try:
                entries = self.ask(_LOADED)["workspaceOrError"]["locationEntries"]
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                entries = []
            if entries and all(entry["loadStatus"] == "LOADED" for entry in entries):
                if entries[0]["locationOrLoadError"]["__typename"] == "RepositoryLocation":
                    self.still_s = max(_STILL_S, _STARTS * (time.monotonic() - self.began))
                    return
                raise DagsterFailed("the code location does not load.")
            time.sleep(0.5)
        raise DagsterFailed(f"dagster dev did not come up: its processes have done nothing for {stall.still_s:.0f} s.")

    def _worked_s(self) -> int:
        """Seconds of processor time that it has taken, with all its processes."""
        worked = 0.0
        with suppress(psutil.Error):
            parent = psutil.Process(self.process.pid)
            for process in [parent, *parent.children(recursive=True)]:
                with suppress(psutil.Error):
                    worked += sum(process.cpu_times()[:2])
        return int(worked)

    def launch_backfill(self, partitions: list[str], assets: list[str]) -> str:
        """What "Launch backfill" does in the UI; gives its id."""
        params = {"partitionNames": partitions, "assetSelection": [{"path": [name]} for name in assets], "tags": []}
        launched = self.ask(_LAUNCH, params=params)["launchPartitionBackfill"]
        if launched["__typename"] != "LaunchBackfillSuccess":
            raise DagsterFailed(f"the backfill was not launched: {launched.get('message', launched['__typename'])}")
        return str(launched["backfillId"])


@contextmanager
def running_dagster(home: Path, code: tuple[str, ...], settings: Mapping[str, str]) -> Iterator[Dagster]:
    """`dagster dev` with two run slots on the code that `code` names, as its command line does, with all its processes, until the block ends.

    `settings` are environment variables of all of them; the log is `dagster.log` in `home`.
    """
    home.mkdir(parents=True, exist_ok=True)
    (home / "dagster.yaml").write_text(_SETTINGS)
    port = free_port()
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "DAGSTER_HOME": str(home), "PYTHONPATH": path, "PYTHONWARNINGS": "ignore", **settings}
    environment.pop("KELD_HOME", None)
    command = [sys.executable, "-m", "dagster", "dev", *code, "-h", "127.0.0.1", "-p", str(port)]
    with (home / "dagster.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            yield Dagster(process, port)
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and all it started: asked first, then made to."""
    process.send_signal(signal.SIGINT)
    try:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what is left of its session
        process.wait()
