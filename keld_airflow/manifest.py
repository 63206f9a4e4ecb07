"""Manifest: a job run's status -> what Airflow keeps of it: the task's XCom, the extra of its asset events.

Counts, money, time, ids; never a prompt, a row or an answer: XComs and events lie in the metadata database and are shown to everyone.
Under 2 KB, however many batches there were.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from keld import Status

_EVENT = ("partition", "job_run", "sink", "rows", "counts", "cost_usd", "saved_usd", "late", "deadline", "finished_at")


def manifest(status: Status, sink: str | None) -> dict[str, Any]:
    """What a task that has ended, or sent and gone, leaves behind."""
    return {
        "schema_version": 1,
        "job": status.job,
        "partition": status.partition,
        "job_run": status.id,
        "state": status.state.value,
        "sink": sink,
        "model": status.model,
        "rows": status.rows,
        "counts": {
            "answered": status.answered,
            "failed": status.failed,
            "quarantined": status.quarantined,
            "reused": status.reused,
            "unaskable": status.unaskable,
        },
        "outcomes": dict(status.outcomes),
        "batches": sum(batch.batch_id is not None for batch in status.batches),
        "cost_usd": _usd(status.cost_usd),
        "saved_usd": _usd(status.saved_usd),
        "ceiling_usd": _usd(status.ceiling_usd),
        "tokens": {"input": status.input_tokens, "cached": status.cached_tokens, "output": status.output_tokens},
        "submitted_at": status.created_at.isoformat(),
        "finished_at": status.finished_at.isoformat() if status.finished_at else None,
        "deadline": status.deadline_at.isoformat() if status.deadline_at else None,
        "deadline_basis": status.deadline_basis,
        "late": is_late(status),
        "outdated": status.outdated,
    }


def event_extra(facts: dict[str, Any]) -> dict[str, Any]:
    """What of a manifest the consumers of an asset are told."""
    return {name: facts[name] for name in _EVENT}


def is_late(status: Status) -> bool:
    """Whether the deadline has passed with rows still open, or had when the last one was settled."""
    due = status.deadline_at
    return due is not None and (status.finished_at or status.as_of) > due


def _usd(amount: Decimal | None) -> str | None:
    """Decimal text: a float would not add up to the bill."""
    return None if amount is None else format(amount.normalize(), "f")
