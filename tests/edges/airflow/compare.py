"""Compare: Keld's operator beside Airflow's own `LLMBatchOperator`: the same rows, the same emulator, the same faults; prints a table.

    python -m venv .peer
    .peer/bin/pip install "apache-airflow-providers-common-ai[openai]" -e ".[airflow,emulator]"
    .peer/bin/python -m tests.edges.airflow.compare [--rows 1000] [--many 120000] [--only expired,cleared,...]

In a place of its own, since Keld needs nothing of that package; pytest does not collect it.  No scheduler: each operator is run as its
worker would run it (execute, defer, the event of its real trigger, resume), and a task that failed is tried once more (`retries=1`).  What
is paid stands on the emulator's bill, and what is answered in the files that the task has left; neither operator is believed.
The emulator's clock is turned, theirs is the real one.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import json
import logging
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, Protocol

import pyarrow.parquet as pq
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from keld import Job
from keld.emulator import BillEntry, Emulator
from tests.edges.airflow.airflow_worker import LATENCY_S, RunContext, Worker, supervised

HOME = Path(tempfile.mkdtemp(prefix="keld-compare-"))
# Read when Airflow is imported.
os.environ.update(AIRFLOW_HOME=str(HOME / "airflow"), AIRFLOW__CORE__LOAD_EXAMPLES="False", AIRFLOW__LOGGING__LOGGING_LEVEL="ERROR")

MODEL = "openai:gpt-5-mini"
SYSTEM = "You triage support tickets."
DAY: dict[str, Any] = {"partition_key": "2026-11-19", "partition_date": datetime(2026, 11, 19, tzinfo=UTC)}
FIRST, SECOND = DAY | {"run_id": "run-1"}, DAY | {"run_id": "run-2"}
MOST_IN_A_BATCH = 50_000  # OpenAI's limit


class Label(BaseModel):
    category: Literal["billing", "bug", "account", "other"]
    urgent: bool


def prompts(rows: range) -> list[str]:
    return [f"Classify: ticket {n}: the invoice is wrong" for n in rows]


# --- who is compared --------------------------------------------------------------------------------------------------


class Contestant(Protocol):
    name: str

    def tasks(self, folder: Path, rows: int) -> list[Any]:
        """The task, or its mapped instances."""

    def answers(self, folder: Path, run_id: str, map_index: int) -> Counter[str]:
        """How many rows of each outcome lie in the file that the task has left."""

    def asked(self, entry: BillEntry) -> str:
        """Which row was paid."""


class KeldOne:
    """Its default terms."""

    name = "KeldBatchOperator"

    def tasks(self, folder: Path, rows: int) -> list[Any]:
        from keld_airflow import KeldBatchOperator

        return [
            KeldBatchOperator(
                task_id="label",
                job=Job(name="labels", key="id", prompt="{prompt}", system=SYSTEM, models=MODEL, output_type=Label),
                source=lambda: ({"id": n, "prompt": text} for n, text in enumerate(prompts(range(rows)))),
                sink=f"{folder}/labels/{{partition}}.parquet",
            )
        ]

    def answers(self, folder: Path, run_id: str, map_index: int) -> Counter[str]:
        file = folder / "labels" / f"{DAY['partition_key']}.parquet"
        return Counter(pq.read_table(file).column("keld_outcome").to_pylist() if file.exists() else ())

    def asked(self, entry: BillEntry) -> str:
        assert entry.custom_id is not None
        return entry.custom_id.rpartition("-")[2]  # a row that is asked anew with a complaint has another body


@dataclass(frozen=True)
class PeerOne:
    """`LLMBatchOperator`, deferrable; else its default terms, but for what `terms` says."""

    name: str = "LLMBatchOperator"
    mapped: bool = False
    terms: dict[str, Any] = field(default_factory=dict)

    def tasks(self, folder: Path, rows: int) -> list[Any]:
        from airflow.providers.common.ai.operators.llm_batch import LLMBatchOperator

        starts = range(0, rows, MOST_IN_A_BATCH) if self.mapped else [0]
        ends = [min(start + MOST_IN_A_BATCH, rows) if self.mapped else rows for start in starts]
        return [
            LLMBatchOperator(
                task_id="label",
                requests=prompts(range(start, end)),
                result_path=f"file://{folder}/labels",
                llm_conn_id="llm",
                model_id=MODEL,
                system_prompt=SYSTEM,
                output_type=Label,
                deferrable=True,
                **self.terms,
            )
            for start, end in zip(starts, ends, strict=True)
        ]

    def answers(self, folder: Path, run_id: str, map_index: int) -> Counter[str]:
        from airflow.providers.common.ai.batch.state import compute_identity_key, key16

        key = compute_identity_key(dag_id="dag", task_id="label", run_id=run_id, map_index=map_index)
        file = folder / "labels" / f"{key16(key)}.jsonl"
        return Counter(json.loads(line)["status"] for line in file.read_text().splitlines()) if file.exists() else Counter()

    def asked(self, entry: BillEntry) -> str:
        return entry.body_sha256  # no two rows have the same prompt, and a row is always asked in the same words


KELD, PEER = KeldOne(), PeerOne()
STRICT = PeerOne("LLMBatchOperator, fail_on_partial_error=True", terms={"fail_on_partial_error": True})
LEFT = PeerOne("LLMBatchOperator, cancel_on_kill=False", terms={"cancel_on_kill": False})
MAPPED = PeerOne("LLMBatchOperator, mapped over slices of 50,000", mapped=True)

ANSWERED = frozenset(("answered", "success"))
LOST = frozenset(("expired", "cancelled", "lost", "missing"))  # nobody knows an answer; every other outcome has failed with a reason


# --- a play -----------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Play:
    """One operator in one scenario."""

    emulator: Emulator
    task: Any
    map_index: int = -1
    worker: Worker = field(default_factory=Worker)
    states: list[str] = field(default_factory=list)  # of each try, as Airflow would show them in the end
    error: str = ""  # the last one
    run_id: str = ""  # the last one

    def run(self, run: dict[str, Any], **how: Any) -> RunContext:
        self.run_id = run["run_id"]
        return self.worker.run(self.task, map_index=self.map_index, **how, **run)

    def through(self, run: dict[str, Any], visit: RunContext | None = None) -> None:
        """A task's visits until it has ended; one that failed, and may be tried again, is."""
        from airflow.providers.common.compat.sdk import AirflowFailException

        for _ in range(2):
            visit = self._to_the_end(run, visit or self.run(run))
            self.states.append(visit.state)
            if visit.state == "success":
                return
            self.error = f"{type(visit.error).__name__}: {visit.error}"
            if isinstance(visit.error, AirflowFailException):
                return
            visit = None

    def _to_the_end(self, run: dict[str, Any], visit: RunContext) -> RunContext:
        while visit.state == "deferred":
            self.emulator.advance(LATENCY_S)
            event = asyncio.run(_first_event(_trigger(visit)))
            visit = self.run(run, event=event, method=visit.message.next_method)
        return visit

    def clear(self, run: dict[str, Any], sent: RunContext) -> RunContext:
        """As Airflow 3.3 does it: the task runs anew, and the trigger that it had left behind is told of a kill, soon after or before."""
        again = self.run(run)
        trigger = _trigger(sent)
        trigger.task_instance = SimpleNamespace(dag_id="dag", task_id="label", run_id=run["run_id"], map_index=self.map_index)
        with supervised({"label": again.state}):
            asyncio.run(trigger.on_kill())
        return again


def _trigger(visit: RunContext) -> Any:
    """As a triggerer makes it of the database; Keld's looks at once, since the hour has passed on the emulator's clock only."""
    module, _, name = visit.message.classpath.rpartition(".")
    now = {"look_at": datetime.now(UTC).isoformat()} if "look_at" in visit.trigger else {}
    return getattr(import_module(module), name)(**visit.trigger | now)


async def _first_event(trigger: Any) -> dict[str, Any]:
    async for event in trigger.run():
        return event.payload
    raise AssertionError("no event")


# --- scenarios --------------------------------------------------------------------------------------------------------


def fault(emulator: Emulator, at: str, do: str, **more: Any) -> None:
    emulator.faults({"rules": [{"at": at, "do": do, **more}]})


def expired(play: Play) -> None:
    """The first batch expires with 60 % of it done."""
    fault(play.emulator, "life", "expire", done=0.6, after_s=LATENCY_S * 0.9)
    play.through(FIRST)


def cleared(play: Play) -> None:
    """Cleared while deferred, half of the batch done."""
    sent = play.run(FIRST)
    play.emulator.advance(LATENCY_S / 2)
    play.through(FIRST, play.clear(FIRST, sent))


def reprocessed(play: Play) -> None:
    """A finished partition in a second Dag run, as a backfill with reprocessing makes it."""
    play.through(FIRST)
    play.through(SECOND)


def cleared_late(play: Play) -> None:
    """A finished task is cleared: the same Dag run once more."""
    play.through(FIRST)
    play.through(FIRST)


def lost_reply(play: Play) -> None:
    """The batch is created, and the connection breaks before the reply."""
    fault(play.emulator, "create", "drop_after")
    play.through(FIRST)


def many(play: Play) -> None:
    """More rows than a batch may have."""
    play.through(FIRST)


def invalid(play: Play) -> None:
    """In every batch 2 % of the answers break the schema."""
    fault(play.emulator, "rows", "invalid", fraction=0.02, times=None)
    play.through(FIRST)


Scenario = Callable[[Play], None]
SCENARIOS: dict[str, tuple[str, Scenario, list[Contestant]]] = {
    "expired": ("expired, 60 % done", expired, [KELD, PEER, STRICT]),
    "cleared": ("cleared while deferred, 50 % done", cleared, [KELD, PEER, LEFT]),
    "cleared_late": ("cleared when finished", cleared_late, [KELD, PEER]),
    "reprocessed": ("finished partition, new Dag run", reprocessed, [KELD, PEER]),
    "lost_reply": ("lost reply on create", lost_reply, [KELD, PEER]),
    "many": ("{rows:,} rows", many, [KELD, PEER, MAPPED]),
    "invalid": ("2 % invalid answers", invalid, [KELD, PEER, STRICT]),
}


# --- the table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Line:
    """What one operator did in one scenario."""

    scenario: str
    operator: str
    state: str
    answered: int
    failed: int
    lost: int  # no answer, and no reason but that it was not done
    creates: int
    paid: int
    paid_again: int
    error: str


def played(scenario: str, contestant: Contestant, rows: int) -> Line:
    """One line of the table, on an emulator and in a folder of its own."""
    title, act, _ = SCENARIOS[scenario]
    folder = Path(tempfile.mkdtemp(dir=HOME))
    with Emulator(latency_s=LATENCY_S, frozen=False) as emulator, _environment(emulator, folder):
        tasks = contestant.tasks(folder, rows)
        plays = [Play(emulator=emulator, task=task, map_index=n if len(tasks) > 1 else -1) for n, task in enumerate(tasks)]
        for play in plays:
            act(play)
        outcomes = sum((contestant.answers(folder, play.run_id, play.map_index) for play in plays), Counter[str]())
        bill = [contestant.asked(entry) for entry in emulator.bill()]
        creates = sum(call.method == "POST" and call.path == "/v1/batches" for call in emulator.requests())
    answered = sum(count for outcome, count in outcomes.items() if outcome in ANSWERED)
    lost = rows - outcomes.total() + sum(count for outcome, count in outcomes.items() if outcome in LOST)
    return Line(
        scenario=title.format(rows=rows),
        operator=contestant.name,
        state="; ".join(" → ".join(play.states) for play in plays),
        answered=answered,
        failed=rows - answered - lost,
        lost=lost,
        creates=creates,
        paid=len(bill),
        paid_again=len(bill) - len(set(bill)),
        error=next((play.error for play in plays if play.error), ""),
    )


@contextmanager
def _environment(emulator: Emulator, folder: Path) -> Iterator[None]:
    """Both operators led to the emulator, Keld's ledger in the folder; Airflow's log out of the table's way."""
    llm = {"conn_type": "pydanticai", "host": emulator.openai_url, "password": emulator.api_key}
    os.environ.update(emulator.env() | {"KELD_HOME": str(folder / "keld"), "AIRFLOW_CONN_LLM": json.dumps(llm)})
    with (folder / "log.txt").open("w") as log, redirect_stdout(log), redirect_stderr(log):
        yield


def table(lines: list[Line]) -> Table:
    packages = ("apache-airflow", "apache-airflow-providers-common-ai", "openai", "keld")
    caption = "task: the state of each try and run. lost: no answer, and no reason. paid again: bought more than once; of invalid answers, asked anew."
    shown = Table(title=", ".join(f"{package} {version(package)}" for package in packages), caption=caption)
    for name in ("scenario", "operator", "task"):
        shown.add_column(name)
    for name in ("answered", "failed", "lost", "creates", "rows paid", "paid again"):
        shown.add_column(name, justify="right")
    for n, line in enumerate(lines):
        first = n == 0 or lines[n - 1].scenario != line.scenario
        counts = (line.answered, line.failed, line.lost, line.creates, line.paid, line.paid_again)
        last = n + 1 == len(lines) or lines[n + 1].scenario != line.scenario
        shown.add_row(line.scenario if first else "", line.operator, line.state, *(f"{count:,}" for count in counts), end_section=last)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000)
    parser.add_argument("--many", type=int, default=120_000)
    parser.add_argument("--only", default=",".join(SCENARIOS))
    given = parser.parse_args()
    logging.disable(logging.ERROR)
    atexit.register(shutil.rmtree, HOME, ignore_errors=True)
    console = Console(width=170)
    lines = []
    for scenario in given.only.split(","):
        for contestant in SCENARIOS[scenario][2]:
            lines.append(played(scenario, contestant, given.many if scenario == "many" else given.rows))
            print(f"{scenario}: {contestant.name}: {lines[-1].state}", file=sys.stderr, flush=True)
    console.print(table(lines))
    for line in lines:
        if line.error:
            console.print(f"{line.scenario}, {line.operator}: {line.error}", highlight=False)


if __name__ == "__main__":
    main()
