"""Manifest: a job run's status -> what Airflow stores of it: the task's XCom, the extra of its asset events.

Counts, money, time, ids; never a prompt, a row or an answer: XComs and events are stored in the metadata database and shown to everyone.
Less than 2 KB for any number of batches.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any

from keld_airflow.progress import line

if TYPE_CHECKING:
    from keld import Status

_EVENT = ("partition", "job_run", "sink", "rows", "counts", "cost_usd", "saved_usd", "late", "deadline", "finished_at")


def manifest(status: Status, sink: str | None) -> dict[str, Any]:
    """The XCom of a task that has ended, or has sent and does not wait."""
    facts = {name: _as_json(value) for name, value in status.facts().items()}
    return {
        "schema_version": 1,
        "summary": summary(status),
        **{name: facts[name] for name in ("job", "partition", "job_run", "state")},
        "sink": sink,
        **{name: facts[name] for name in ("model", "rows")},
        "counts": {name: facts[name] for name in ("answered", "failed", "quarantined", "reused", "unaskable")},
        "outcomes": facts["outcomes"],
        "batches": len(facts["batch_ids"]),
        **{name: facts[name] for name in ("cost_usd", "saved_usd", "ceiling_usd")},
        "tokens": {name: facts[f"{name}_tokens"] for name in ("input", "cached", "output")},
        **{name: facts[name] for name in ("submitted_at", "finished_at", "deadline", "deadline_basis", "late", "outdated")},
    }


def summary(status: Status) -> str:
    """Rows, cost and what was saved, in one sentence; for the list of a task's XComs."""
    cost = f"{status.answered:,} of {status.rows:,} rows answered for ${status.cost_usd:.4f}"
    return f"{cost}, ${status.saved_usd:.4f} less than in the standard lane" if status.saved_usd > 0 else cost


def waiting(status: Status, expected_at: datetime | None) -> dict[str, Any]:
    """What people see beside the manifest while a job run is open."""
    if status.over:
        return {}
    facts = {"escalates_at": status.escalates_at, "expected_at": expected_at, "progress": line(status, expected_at)}
    return {name: _as_json(value) for name, value in facts.items()}


def event_extra(facts: dict[str, Any]) -> dict[str, Any]:
    """The part of a manifest that the consumers of an asset get."""
    return {name: facts[name] for name in _EVENT}


def _as_json(value: Any) -> Any:
    """A fact as a JSON value: money as decimal text, since sums of floats would differ from the bill."""
    match value:
        case Decimal():
            return format(value.normalize(), "f")
        case datetime():
            return value.isoformat()
        case Enum():
            return value.value
        case _:
            return value
