"""Waits: what a look at very many open batches costs: a poll of Keld's, and a tick of the Dagster sensor, whose holds it reads besides.

`python -m tests.benchmarks.waits COUNT` prints, as JSON, of each of them the worker's own processor time, the statements to its databases and the calls to
the provider.  Nothing has happened to the batches, as at nearly every look.  One job run is submitted through the front door, and the others are copies of
its rows; the host is in a process of its own.  `OPENAI_BASE_URL` leads to it (`tests.benchmarks.host waiting`).
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import dagster as dg
import httpx2
import sqlalchemy as sa

from keld import Job, Keld
from keld_dagster import KeldResource, build_batch_assets, build_keld_sensor, keld_definitions
from tests.edges.dagster.pending_partitions import submit_many

_BUDGET_S = 600.0  # never reached: what is measured is a whole look


def measure(count: int, rounds: int = 3) -> dict[str, dict[str, float]]:
    """The figures of a poll and of a tick over so many job runs, each the median of some rounds by processor time."""
    logging.disable(logging.CRITICAL)
    partitions = [f"day{n}" for n in range(count)]
    job = Job(
        name="labels", key="id", prompt="Classify: {body}", models="openai:gpt-5-mini", deadline=timedelta(hours=20), ceiling_usd=5
    )  # fmt: skip
    asset = build_batch_assets(job, source="t/{partition}.csv", partitions_def=dg.StaticPartitionsDefinition(partitions))
    with TemporaryDirectory() as home, dg.DagsterInstance.ephemeral() as instance, Keld(home=Path(home)) as keld:
        submit_many(os.environ["OPENAI_BASE_URL"], keld, instance, job, dg.AssetKey("labels"), partitions)
        resource = KeldResource(home=home)
        repository = keld_definitions([asset], resource=resource).get_repository_def()
        sensor = build_keld_sensor([asset], budget_s=_BUDGET_S)

        def tick() -> None:
            with dg.build_sensor_context(instance, repository_def=repository, resources={"keld": resource}) as context:
                sensor.evaluate_tick(context)

        tick()  # the first look also checks the creates, and reads each hold
        return {
            "poll": _median([_costs(lambda: keld.poll(budget_s=_BUDGET_S)) for _ in range(rounds)]),
            "tick": _median([_costs(tick) for _ in range(rounds)]),
        }


def _median(runs: list[dict[str, float]]) -> dict[str, float]:
    return sorted(runs, key=lambda run: run["cpu_s"])[len(runs) // 2]


def _costs(act: Callable[[], object]) -> dict[str, float]:
    statements = 0

    def note(_c: object, _u: object, text: str, *_: object) -> None:
        nonlocal statements
        statements += not text.startswith(("PRAGMA", "BEGIN", "SAVEPOINT", "RELEASE"))

    before = _calls()
    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    began = time.thread_time()
    act()
    spent = time.thread_time() - began
    sa.event.remove(sa.Engine, "before_cursor_execute", note)
    return {"cpu_s": spent, "statements": statements, "calls": _calls() - before - 1}


def _calls() -> int:
    """How many calls the host has had, this one with them."""
    return int(httpx2.get(f"{os.environ['OPENAI_BASE_URL']}/calls").json()["calls"])


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
