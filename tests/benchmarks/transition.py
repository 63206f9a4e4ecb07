"""Transition: one durable change of a shard's state, by the ledger and by the database driver alone, in turns.

The driver does no more than what the change needs: a transaction that renews the lease by compare-and-swap, updates the shard, reads it back and
appends the event, with prepared statements and no conversion of values.  `python -m tests.benchmarks.transition URL SHARDS ROUNDS` prints the
milliseconds of each round as JSON.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from keld.job import RunTerms
from keld.ledger import Ledger, Shard
from keld.ledger.lease import Lease
from keld.ledger.record import nonce
from keld.state import Event, State

_NOW = datetime(2026, 11, 20, tzinfo=UTC)
_AT = 1_763_600_000_000_000  # microseconds


def measure(url: str, shards: int, rounds: int) -> list[dict[str, float]]:
    """Milliseconds a change of each method, by round."""
    ledger, (driver, mark) = Ledger(url), _connect(url)
    methods: dict[str, Callable[[Lease, list[Shard]], None]] = {
        "driver": lambda lease, planned: _by_driver(driver, mark, lease, planned),
        "keld": lambda lease, planned: _by_ledger(ledger, lease, planned),
    }
    times: list[dict[str, float]] = []
    for _ in range(rounds + 1):
        times.append({})
        for name, change in methods.items():
            lease, planned = _planned(ledger, shards)
            began = time.perf_counter()
            change(lease, planned)
            times[-1][name] = (time.perf_counter() - began) * 1000 / shards
    ledger.close()
    driver.close()
    return times[1:]  # the first round compiles the statements


def _by_ledger(ledger: Ledger, lease: Lease, planned: list[Shard]) -> None:
    for shard in planned:
        ledger.record(lease, shard, Event.STAGED, _NOW, sha256="a" * 64)


def _by_driver(driver: Any, mark: str, lease: Lease, planned: list[Shard]) -> None:
    renew = "UPDATE keld_job_run SET lease_until=? WHERE id=? AND lease_epoch=? AND lease_owner=?".replace("?", mark)
    move = "UPDATE keld_shard SET state=?, sha256=? WHERE id=? AND state=? AND attempt=? RETURNING *".replace("?", mark)
    append = "INSERT INTO keld_event (at, run_id, shard_id, kind, was, became, epoch, facts) VALUES (?,?,?,?,?,?,?,?)".replace("?", mark)
    for shard in planned:
        driver.execute("BEGIN IMMEDIATE" if mark == "?" else "BEGIN")
        assert driver.execute(renew, (_AT, lease.run_id, lease.epoch, lease.owner)).rowcount == 1
        assert driver.execute(move, ("staged", "a" * 64, shard.id, "planned", 0)).fetchone() is not None
        driver.execute(append, (_AT, shard.run_id, shard.id, "staged", "planned", "staged", lease.epoch, "{}"))
        driver.execute("COMMIT")


def _connect(url: str) -> tuple[Any, str]:
    """A connection with the ledger's own guarantees, and the mark of a parameter in its SQL."""
    if not url.startswith("sqlite"):
        import psycopg

        return psycopg.connect(url, autocommit=True), "%s"
    file = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    for setting in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        file.execute(f"PRAGMA {setting}")
    return file, "?"


def _planned(ledger: Ledger, shards: int) -> tuple[Lease, list[Shard]]:
    """A job run with so many planned shards, under a lease."""
    run_id = nonce() * 2
    run: dict[str, Any] = {
        "id": run_id, "namespace": "default", "job": "labels", "partition": run_id, "generation": 1, "fingerprint": "f" * 64, "input_digest": "d" * 64,
        "rows": 10, "terms": RunTerms(models=("openai:m",)), "tags": {}, "plan": {}, "deadline_basis": "none",
    }  # fmt: skip
    planned = [
        Shard(
            id=nonce(), run_id=run_id, ordinal=n, round=0, state=State.PLANNED, provider="openai", host="https://api.openai.com", model="gpt-5-mini",
            lane="batch", requests=10, size_bytes=1_000, worst_usd=Decimal(1), expected_usd=Decimal("0.1"),
        )
        for n in range(shards)
    ]  # fmt: skip
    ledger.open_run(run, planned, _NOW)
    lease = ledger.leases.claim(run_id, "benchmark", _NOW)
    assert lease is not None
    return lease, ledger.shards(run_id)


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
