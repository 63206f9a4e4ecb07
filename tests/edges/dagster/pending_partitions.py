"""Pending partitions: thousands of partitions that wait for the provider, each with a hold run, made cheaply.

One is submitted through the front door; the others are copies of its rows in the ledger, each with a batch of its own at the provider and a
hold run of its own in Dagster, so that a tick finds them as it finds any other.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import dagster as dg
import httpx2
import sqlalchemy as sa
from dagster._core.storage.runs.schema import RunsTable, RunTagsTable

from keld import Job, Keld
from keld.emulator import Emulator
from keld.ledger.table import INTENT, RUN, SHARD
from keld_dagster.pending import PendingPartitions
from keld_dagster.progress import first_tags


def submit_many(base_url: str, keld: Keld, instance: dg.DagsterInstance, job: Job, asset: dg.AssetKey, partitions: list[str]) -> None:
    """Each of these partitions of a job at the provider, of OpenAI's shape at `base_url`, under a hold run."""
    first = keld.advance(keld.submit(job, [{"id": 1, "body": "text"}], partition=partitions[0]).id)
    row, shard, intent, engine = _rows(keld, first.id)
    runs, shards, intents = [], [], []
    ids = {partitions[0]: first.id}
    with httpx2.Client(base_url=base_url, headers={"Authorization": "Bearer any"}, timeout=None) as client:
        asked = {"input_file_id": shard["input_ref"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        for n, partition in enumerate(partitions[1:], start=1):
            ids[partition] = secrets.token_hex(16)
            batch = client.post("batches", json=asked).raise_for_status().json()
            runs.append({**row, "id": ids[partition], "partition": partition})
            at = shard["submitted_at"] + timedelta(microseconds=n)  # in the order of the list
            shards.append({**shard, "id": secrets.token_hex(5), "run_id": ids[partition], "batch_id": batch["id"], "submitted_at": at})
            intents.append({**intent, "shard_id": shards[-1]["id"], "batch_id": batch["id"]})
    with engine.begin() as db:
        db.execute(sa.insert(RUN), runs)
        db.execute(sa.insert(SHARD), shards)
        db.execute(sa.insert(INTENT), intents)
    engine.dispose()
    waits = [
        PendingPartitions(id=f"submitted-{partition}", asset=asset, job_runs={partition: job_run}) for partition, job_run in ids.items()
    ]
    told = first_tags(keld, [first])
    _add_runs(
        instance,
        [
            dg.DagsterRun("keld_provider_wait", run_id=str(uuid4()), status=dg.DagsterRunStatus.NOT_STARTED, tags=wait.to_tags() | told)
            for wait in waits
        ],
    )


def _add_runs(instance: dg.DagsterInstance, runs: list[dg.DagsterRun]) -> None:
    """Runs in Dagster's storage, as it writes them, but all at once."""
    storage: Any = instance.run_storage
    now = datetime.now(UTC)
    with storage.connect() as db:
        db.execute(RunsTable.insert(), [storage._get_run_insertion_values(run, now) for run in runs])
        tags = [{"run_id": run.run_id, "key": key, "value": value} for run in runs for key, value in run.tags_for_storage().items()]
        db.execute(RunTagsTable.insert(), tags)


def _rows(keld: Keld, run_id: str) -> tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any], sa.Engine]:
    engine = sa.create_engine(keld.ledger_url)
    with engine.connect() as db:
        run = db.execute(sa.select(RUN).where(RUN.c.id == run_id)).one()._asdict()
        shard = db.execute(sa.select(SHARD).where(SHARD.c.run_id == run_id)).one()._asdict()
        intent = db.execute(sa.select(INTENT).where(INTENT.c.shard_id == shard["id"])).one()._asdict()
    return run, shard, intent, engine


@dataclass
class Asked:
    """What a tick asked of each database, statement by statement, and of the provider."""

    statements: Counter[str] = field(default_factory=Counter)  # by what they begin with and the table
    calls: Counter[str] = field(default_factory=Counter)  # "list" and what else

    @property
    def total(self) -> int:
        return sum(self.statements.values())


@contextmanager
def counted(emulator: Emulator) -> Iterator[Asked]:
    """Counts what is asked until the block ends; executing one statement with many rows is one."""
    asked = Asked()
    before = len(emulator.requests())

    def note(_c: Any, _u: Any, statement: str, *_: Any) -> None:
        if not statement.startswith(("PRAGMA", "BEGIN", "SAVEPOINT", "RELEASE")):
            asked.statements[" ".join(statement.split())[:60]] += 1

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
        for call in emulator.requests()[before:]:
            asked.calls["list" if call.method == "GET" and call.path.rstrip("/").endswith("batches") else "other"] += 1
