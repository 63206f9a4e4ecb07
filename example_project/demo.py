"""Demo: four days of support tickets, triaged and embedded, through a real Dagster against an emulated provider.

`make demo` runs it.  It starts Dagster with two run slots, launches the backfill as the UI does, over GraphQL, and shows the progress; no
run executes while the provider works.  Everything is in `.demo`, which is created new each time; every process that it starts ends with it.
"""

import shutil
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from example_project.definitions import KELD_HOME, PLACE, TABLES
from example_project.deployment import SLOTS, Dagster, DagsterFailed, running_dagster
from example_project.jobs import embeddings, triage
from example_project.models import ASKED
from example_project.provider import emulated_provider
from example_project.report import course, rows, summary
from keld import Keld

ROOT = PLACE.parent
DAGSTER_HOME = PLACE / "dagster"
PICTURE = PLACE / "result.svg"
DAYS = ["2026-09-07", "2026-09-08", "2026-09-09", "2026-09-10"]
ASSETS = ["tickets", "ticket_triage_batch", "ticket_triage", "triaged_tickets", "ticket_embeddings_batch", "ticket_embeddings"]
LOCATION = "example_project.definitions"  # the code location; its job runs are kept under its name
LATENCY_S = 8.0  # of the provider's batches

_LOOK = """
query ($id: String!, $keys: [AssetKeyInput!]!) {
  partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } }
  assetNodes(assetKeys: $keys) { assetKey { path } partitionStats { numMaterialized } }
  runsOrError { ... on Runs { results { id status jobName stats { ... on RunStatsSnapshot { stepsSucceeded } } } } }
}
"""


def main() -> int:
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 120  # a file or a pipe has no width
    for number in (signal.SIGINT, signal.SIGTERM):  # a kill cleans up like Ctrl-C, which a shell's background job would ignore
        signal.signal(number, signal.default_int_handler)
    try:
        run_demo(console)
    except DagsterFailed as problem:
        console.print(f"\n[bold red]The demo failed:[/] {problem}\nLogs: {DAGSTER_HOME}")
        return 1
    except KeyboardInterrupt:
        console.print(f"\nStopped. Logs: {DAGSTER_HOME}")
        return 130
    return 0


def run_demo(console: Console) -> None:
    began = time.monotonic()
    shutil.rmtree(PLACE, ignore_errors=True)
    with emulated_provider(LATENCY_S) as provider:
        console.print(
            f"An emulated provider answers as {ASKED} at {provider.url}; its batches take {LATENCY_S:.0f} s. Starting Dagster ..."
        )
        with running_dagster(DAGSTER_HOME, ("-m", LOCATION), provider.env()) as dagster:
            dagster.wait_until_up()
            backfill = dagster.launch_backfill(DAYS, ASSETS)
            console.print(f"Backfill of {len(DAYS)} days over {len(ASSETS)} assets; watch it at {dagster.url}/runs/b/{backfill}")
            dagster.start_daemon()
            seen = watch(console, dagster, backfill, began)
    result = Console(record=True, highlight=False, soft_wrap=True, width=console.width)
    show_result(result, backfill, seen, time.monotonic() - began)
    result.save_svg(str(PICTURE), title="make demo")
    show_way_in(console, backfill)


def watch(console: Console, dagster: Dagster, backfill: str, began: float) -> list[tuple[int, int]]:
    """Prints a line at each progress, until the backfill is over; gives what was at the provider and in a run slot, second by second."""
    seconds: list[tuple[int, int]] = []
    keys = [{"path": [name]} for name in ASSETS]
    printed = None
    hurried = False
    patience = dagster.patience()
    while True:
        seen = dagster.ask(_LOOK, id=backfill, keys=keys)
        now = progress(seen)
        if not now.complete:
            seconds += [(now.waiting, now.executing)] * max(1, round(time.monotonic() - began) - len(seconds))
        if (now.counts, now.idle) != printed:
            console.print(f"[dim]{time.monotonic() - began:4.0f} s[/]  {now}")
            printed = (now.counts, now.idle)
        if now.complete and not now.queued and not hurried:
            console.print(
                "        Every day is there. Dagster's daemon looks at backfills when it starts and every 30 s: it is started again."
            )
            dagster.stop_daemon()
            dagster.start_daemon()
            hurried = True
        status = seen["partitionBackfillOrError"]["status"]
        if status == "COMPLETED_SUCCESS":
            return seconds
        if status not in ("REQUESTED", "COMPLETING"):
            raise DagsterFailed(f"the backfill ended {status}.")
        dagster.check_alive()
        if not patience.note(seen):
            raise DagsterFailed("the backfill is not over, and nothing changes any more.")
        time.sleep(1)


@dataclass(frozen=True)
class Progress:
    """How many days each asset has, how many wait for the provider, and how many runs execute or are queued."""

    counts: tuple[int, ...]
    executing: int
    queued: int

    @property
    def waiting(self) -> int:
        return self.counts[-1]

    @property
    def complete(self) -> bool:
        """True if each asset has every day, and nothing runs."""
        return self.idle and all(count == len(DAYS) for count in self.counts[:-1])

    @property
    def idle(self) -> bool:
        return self.executing == 0

    def __str__(self) -> str:
        tickets, triage_sent, triaged, _, embeddings_sent, embedded, _ = self.counts
        return (
            f"tickets {tickets}/{len(DAYS)} | triage: sent {triage_sent}, done {triaged} | embeddings: sent {embeddings_sent}, done {embedded} | "
            f"at the provider {self.waiting}, run slots in use {self.executing} of {SLOTS}"
        )


def progress(seen: dict[str, Any]) -> Progress:
    days = {node["assetKey"]["path"][-1]: node["partitionStats"]["numMaterialized"] for node in seen["assetNodes"]}
    with Keld(home=KELD_HOME, namespace=LOCATION) as keld:
        waiting = sum(status.waiting for status in keld.statuses(open_only=True))
    runs = Counter(run["status"] for run in seen["runsOrError"]["results"])
    # A run that waited is "started" for the moment in which its end is reported; no process of it ever runs.
    ending = Counter(run["status"] for run in seen["runsOrError"]["results"] if run["jobName"] == "keld_provider_wait")
    executing = (runs - ending)["STARTING"] + (runs - ending)["STARTED"]
    return Progress((*(days.get(name, 0) for name in ASSETS), waiting), executing, runs["QUEUED"])


def show_result(console: Console, backfill: str, seen: list[tuple[int, int]], took_s: float) -> None:
    """Prints how it went, what it cost, where the tables are, some rows."""
    with Keld(home=KELD_HOME, namespace=LOCATION) as keld:
        statuses = {job.name: keld.statuses(job=job.name) for job in (triage, embeddings)}
    console.print(f"\n[bold]Done in {took_s:.0f} s.[/] The answers are an emulator's, at the prices of its models; nothing was paid.\n")
    console.print(
        course({f"at the provider, of {len(DAYS)} days": [at for at, _ in seen], f"run slots in use, of {SLOTS}": [use for _, use in seen]})
    )
    console.print(summary(statuses))
    console.print(f"Enriched Parquet, a file a day:\n  {TABLES / 'ticket_triage'}\n  {TABLES / 'ticket_embeddings'}")
    console.print(rows(TABLES / "ticket_embeddings"))


def show_way_in(console: Console, backfill: str) -> None:
    """Prints where the picture is, and how to open the rest in Dagster."""
    webserver = Path(sys.executable).with_name("dagster-webserver")
    console.print(f"This as a picture: {PICTURE}")
    console.print(f"See it in Dagster:\n  DAGSTER_HOME={DAGSTER_HOME} {webserver} -d {ROOT} -m {LOCATION} -p 3000")
    console.print(f"and open\n  http://127.0.0.1:3000/runs/b/{backfill}\n  http://127.0.0.1:3000/assets/ticket_triage")


if __name__ == "__main__":
    sys.exit(main())
