"""Airflow demo: four days of support tickets, triaged and embedded, through a real Airflow against an emulated provider.

`make airflow-demo` runs it.  It starts Airflow (API server, scheduler, Dag processor, triggerer; SQLite, two worker slots), launches a
backfill of three days as the UI does, over REST, while the schedule runs for yesterday, and shows the progress; no slot is taken while the
provider works.  Everything is in `.airflow-demo`, which is created new each time; every process that it starts ends with it.
"""

import shutil
import signal
import sys
import time
import urllib.error
from collections import Counter
from pathlib import Path

from rich.console import Console

from example_project.jobs import embeddings, triage
from example_project.models import ASKED
from example_project.provider import emulated_provider
from example_project.report import course, rows, summary
from example_project.stack import SLOTS, Airflow, StackFailed, running_airflow
from keld import Keld

ROOT = Path(__file__).resolve().parents[1]
PLACE = ROOT / ".airflow-demo"
HOME, KELD_HOME, TABLES, PICTURE = PLACE / "airflow", PLACE / "keld", PLACE / "tables", PLACE / "result.svg"
DAYS = 4  # three of the backfill, and yesterday by the schedule
LATENCY_S = 5.0  # of the provider's batches; Keld looks for the first time after 10 s


def main() -> int:
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 120  # a file or a pipe has no width
    for number in (signal.SIGINT, signal.SIGTERM):  # a kill cleans up like Ctrl-C, which a shell's background job would ignore
        signal.signal(number, signal.default_int_handler)
    try:
        run_demo(console)
    except (StackFailed, urllib.error.URLError) as problem:
        console.print(f"\n[bold red]The demo failed:[/] {problem}\nLogs: {HOME}")
        return 1
    except KeyboardInterrupt:
        console.print(f"\nStopped. Logs: {HOME}")
        return 130
    return 0


def run_demo(console: Console) -> None:
    began = time.monotonic()
    shutil.rmtree(PLACE, ignore_errors=True)
    with emulated_provider(LATENCY_S) as provider:
        console.print(
            f"An emulated provider answers as {ASKED} at {provider.url}; its batches take {LATENCY_S:.0f} s. Starting Airflow ..."
        )
        settings = {**provider.env(), "KELD_HOME": str(KELD_HOME)}
        with running_airflow(HOME, Path(__file__).with_name("dags"), settings) as airflow:
            airflow.wait_until_up("ticket_embeddings")
            airflow.wait_until_up("ticket_triage")  # last: once it is active, its schedule also runs for yesterday
            backfill = airflow.backfill("ticket_triage", "2026-09-07T00:00:00Z", "2026-09-09T00:00:00Z")
            console.print(
                f"Backfill {backfill} of {DAYS - 1} days; the schedule runs for yesterday; watch it at {airflow.url}/dags/ticket_triage\n"
            )
            seen = watch(console, airflow, began)
            result = Console(record=True, highlight=False, soft_wrap=True, width=console.width)
            show_result(result, seen, time.monotonic() - began)
            result.save_svg(str(PICTURE), title="make airflow-demo")
            console.print("Airflow is ended ...\n")
    show_way_in(console)


def watch(console: Console, airflow: Airflow, began: float) -> list[tuple[int, int]]:
    """Prints a line at each progress, until both Dags have finished every day; gives what was deferred and in a slot, second by second."""
    seconds: list[tuple[int, int]] = []
    printed, patience = "", airflow.patience()
    while True:
        now = Counter(airflow.states("ticket_triage", "triage")), Counter(airflow.states("ticket_embeddings", "embed"))
        both = now[0] + now[1]
        seconds += [(both["deferred"], both["running"])] * max(1, round(time.monotonic() - began) - len(seconds))
        line = f"triage: {_line(now[0])} | embeddings: {_line(now[1])}"
        if line != printed:
            printed = line
            console.print(f"[dim]{time.monotonic() - began:4.0f} s[/]  {line}")
        if all(_is_through(states) for states in now):
            return seconds
        if any(states["failed"] for states in now):
            raise StackFailed("a task has failed.")
        airflow.check_alive()
        if not patience.note(line):
            raise StackFailed("nothing moves any more.")
        time.sleep(1)


def _is_through(states: Counter[str]) -> bool:
    return states["success"] >= DAYS and states["success"] == states.total()


def _line(states: Counter[str]) -> str:
    """How many days are at the provider (deferred, without a slot), in a slot, or done; and wait for their next try, if any do."""
    inside = states["running"] + states["queued"] + states["scheduled"]
    again = f"to be tried again {states['up_for_retry']}, " if states["up_for_retry"] else ""
    return f"at the provider {states['deferred']}, in a slot or queued {inside}, {again}done {states['success']} of {states.total()}"


def show_result(console: Console, seen: list[tuple[int, int]], took_s: float) -> None:
    """Prints how it went, what it cost, where the tables are, some rows."""
    with Keld(home=KELD_HOME) as keld:
        statuses = {job.name: keld.statuses(job=job.name) for job in (triage, embeddings)}
    console.print(f"\n[bold]Done in {took_s:.0f} s.[/] The answers are an emulator's, at the prices of its models; nothing was paid.\n")
    console.print(course({"tasks at the provider": [at for at, _ in seen], f"slots in use, of {SLOTS}": [use for _, use in seen]}))
    console.print(summary(statuses))
    console.print(f"Enriched Parquet, a file a day:\n  {TABLES / 'ticket_triage'}\n  {TABLES / 'ticket_embeddings'}")
    console.print(rows(TABLES / "ticket_embeddings"))


def show_way_in(console: Console) -> None:
    """Prints where the picture is, and how to open the rest in Airflow."""
    console.print(f"This as a picture: {PICTURE}")
    folder = Path(__file__).with_name("dags")
    where = f"PATH={Path(sys.executable).parent}:$PATH PYTHONPATH={ROOT} AIRFLOW_HOME={HOME}"
    where += f" AIRFLOW__CORE__DAGS_FOLDER={folder} AIRFLOW__CORE__LOAD_EXAMPLES=False"
    console.print(f"See it in Airflow:\n  {where} airflow standalone")


if __name__ == "__main__":
    sys.exit(main())
