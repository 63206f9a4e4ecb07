"""Demo: one week of support tickets, triaged and embedded, through a real Dagster against an emulated provider.

`make demo` runs it.  It starts `dagster dev` (web server, daemon, code server) with two run slots, launches the backfill as the UI
does, over GraphQL, and shows how far it is; no run executes while the provider works.  Everything lies in `.demo`, which is made
anew each time; every process it starts ends with it.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from example_project.definitions import KELD_HOME, PLACE, TABLES
from example_project.jobs import embeddings, triage
from example_project.provider import emulated_provider
from example_project.report import rows, summary
from keld import Keld

ROOT = PLACE.parent
DAGSTER_HOME = PLACE / "dagster"
LOG = PLACE / "dagster.log"
WEEK = [f"2026-09-{day:02d}" for day in range(7, 14)]
ASSETS = ["tickets", "ticket_triage_batch", "ticket_triage", "triaged_tickets", "ticket_embeddings_batch", "ticket_embeddings"]
LATENCY_S = 20.0  # of the provider's batches
MOST_S = 290.0
SLOTS = 2

_LAUNCH = """
mutation ($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }
"""
_LOOK = """
query ($id: String!, $keys: [AssetKeyInput!]!) {
  partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } }
  assetNodes(assetKeys: $keys) { assetKey { path } partitionStats { numMaterialized } }
  runsOrError(filter: { statuses: [STARTING, STARTED] }) { ... on Runs { results { id } } }
}
"""


class DemoFailed(Exception):
    """It did not work; the message says what, the logs say why."""


class Dagster:
    """A running Dagster, spoken to as its UI speaks to it."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process, self.url = process, f"http://127.0.0.1:{port}"

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The data of a GraphQL answer."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as response:
            answer = json.load(response)
        if answer.get("errors"):
            raise DemoFailed(f"Dagster refused a query: {answer['errors'][0]['message']}")
        return answer["data"]

    def wait_until_up(self) -> None:
        """Returns when the code location is loaded."""
        loaded = "query { workspaceOrError { ... on Workspace { locationEntries { loadStatus locationOrLoadError { __typename } } } } }"
        until = time.monotonic() + 120
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise DemoFailed(f"dagster dev ended with {self.process.returncode}.")
            try:
                entries = self.ask(loaded)["workspaceOrError"]["locationEntries"]
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                entries = []
            if entries and all(entry["loadStatus"] == "LOADED" for entry in entries):
                if entries[0]["locationOrLoadError"]["__typename"] == "RepositoryLocation":
                    return
                raise DemoFailed("the code location does not load.")
            time.sleep(0.5)
        raise DemoFailed("dagster dev did not come up within two minutes.")

    def launch_backfill(self, partitions: list[str], assets: list[str]) -> str:
        """What "Launch backfill" does in the UI; gives its id."""
        params = {"partitionNames": partitions, "assetSelection": [{"path": [name]} for name in assets], "tags": []}
        launched = self.ask(_LAUNCH, params=params)["launchPartitionBackfill"]
        if launched["__typename"] != "LaunchBackfillSuccess":
            raise DemoFailed(f"the backfill was not launched: {launched.get('message', launched['__typename'])}")
        return str(launched["backfillId"])


def main() -> int:
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 120  # a file or a pipe says nothing of its width
    for number in (signal.SIGINT, signal.SIGTERM):  # a kill cleans up like Ctrl-C, which a shell's background job would ignore
        signal.signal(number, signal.default_int_handler)
    try:
        run_demo(console)
    except DemoFailed as problem:
        console.print(f"\n[bold red]The demo failed:[/] {problem}\nLogs: {LOG}, {DAGSTER_HOME / 'storage'}")
        return 1
    except KeyboardInterrupt:
        console.print(f"\nStopped. Logs: {LOG}")
        return 130
    return 0


def run_demo(console: Console) -> None:
    began = time.monotonic()
    prepare()
    with emulated_provider(LATENCY_S) as provider:
        console.print(f"An emulated OpenAI answers at {provider.openai_url}; its batches take {LATENCY_S:.0f} s. Starting Dagster ...")
        with running_dagster(provider.env()) as dagster:
            dagster.wait_until_up()
            backfill = dagster.launch_backfill(WEEK, ASSETS)
            console.print(f"Backfill of {len(WEEK)} days over {len(ASSETS)} assets; watch it at {dagster.url}/runs/b/{backfill}")
            console.print("Dagster's backfill daemon looks every 30 s, so the first runs may take that long to appear.\n")
            watch(console, dagster, backfill, began)
    show_result(console, backfill, time.monotonic() - began)


def prepare() -> None:
    """A fresh `.demo` with a Dagster of two run slots."""
    shutil.rmtree(PLACE, ignore_errors=True)
    DAGSTER_HOME.mkdir(parents=True)
    settings = f"concurrency:\n  runs:\n    max_concurrent_runs: {SLOTS}\ntelemetry:\n  enabled: false\nnux:\n  enabled: false\n"
    (DAGSTER_HOME / "dagster.yaml").write_text(settings)


@contextmanager
def running_dagster(provider: dict[str, str]) -> Iterator[Dagster]:
    """`dagster dev` on the example project, with all its processes, until the block ends."""
    port = free_port()
    environment = {**os.environ, **provider, "DAGSTER_HOME": str(DAGSTER_HOME), "PYTHONWARNINGS": "ignore"}
    environment.pop("KELD_HOME", None)
    command = [sys.executable, "-m", "dagster", "dev", "-m", "example_project.definitions", "-h", "127.0.0.1", "-p", str(port)]
    with LOG.open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            yield Dagster(process, port)
        finally:
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and all it started: asked first, then made to."""
    process.send_signal(signal.SIGINT)
    try:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what is left of its session
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def watch(console: Console, dagster: Dagster, backfill: str, began: float) -> None:
    """Prints a line whenever something has come further, until the backfill is over."""
    keys = [{"path": [name]} for name in ASSETS]
    told = None
    while True:
        seen = dagster.ask(_LOOK, id=backfill, keys=keys)
        now = progress(seen)
        if (now.counts, now.idle) != told:
            console.print(f"[dim]{time.monotonic() - began:4.0f} s[/]  {now}")
            told = (now.counts, now.idle)
        status = seen["partitionBackfillOrError"]["status"]
        if status == "COMPLETED_SUCCESS":
            return
        if status not in ("REQUESTED", "COMPLETING"):
            raise DemoFailed(f"the backfill ended {status}.")
        if time.monotonic() - began > MOST_S:
            raise DemoFailed(f"the backfill is not over after {MOST_S:.0f} s.")
        time.sleep(1)


@dataclass(frozen=True)
class Progress:
    """How many days each asset has, how many wait for the provider, and how many runs execute."""

    counts: tuple[int, ...]
    executing: int

    @property
    def idle(self) -> bool:
        return self.executing == 0

    def __str__(self) -> str:
        tickets, triage_sent, triaged, _, embeddings_sent, embedded, waiting = self.counts
        return (
            f"tickets {tickets}/{len(WEEK)} | triage: sent {triage_sent}, done {triaged} | embeddings: sent {embeddings_sent}, done {embedded} | "
            f"at the provider {waiting}, run slots in use {self.executing} of {SLOTS}"
        )


def progress(seen: dict[str, Any]) -> Progress:
    days = {node["assetKey"]["path"][-1]: node["partitionStats"]["numMaterialized"] for node in seen["assetNodes"]}
    with Keld(home=KELD_HOME) as keld:
        waiting = sum(status.waiting for status in keld.statuses(open_only=True))
    return Progress((*(days.get(name, 0) for name in ASSETS), waiting), len(seen["runsOrError"]["results"]))


def show_result(console: Console, backfill: str, took_s: float) -> None:
    """What it cost, where it is, what it looks like, and how to see it in Dagster."""
    with Keld(home=KELD_HOME) as keld:
        statuses = {job.name: keld.statuses(job=job.name) for job in (triage, embeddings)}
    console.print(f"\n[bold]Done in {took_s:.0f} s.[/] The answers are an emulator's, at the prices of its models; nothing was paid.")
    console.print(summary(statuses))
    console.print(f"Enriched Parquet, a file a day:\n  {TABLES / 'ticket_triage'}\n  {TABLES / 'ticket_embeddings'}")
    console.print(rows(TABLES / "ticket_embeddings"))
    webserver = Path(sys.executable).with_name("dagster-webserver")
    console.print(f"See it in Dagster:\n  DAGSTER_HOME={DAGSTER_HOME} {webserver} -d {ROOT} -m example_project.definitions -p 3000")
    console.print(f"and open\n  http://127.0.0.1:3000/runs/b/{backfill}\n  http://127.0.0.1:3000/assets/ticket_triage")


if __name__ == "__main__":
    sys.exit(main())
