"""Metadata: a job run's status -> what a person wants to see on an asset.

Counts, money, time, ids, links; never a prompt, a row or an answer: Dagster keeps metadata for ever and shows it to everyone.
"""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import dagster as dg

from keld import Status

if TYPE_CHECKING:
    import pyarrow as pa


def batch_metadata(status: Status) -> dict[str, Any]:
    """What was sent, for how much, until when."""
    return _known(
        {
            "keld/job_run": status.id,
            "keld/batch_ids": [batch.batch_id for batch in status.batches if batch.batch_id],
            "keld/batch_url": _page(status),
            "keld/model": status.model,
            "keld/lane": status.lane,
            "keld/rows": status.rows,
            "keld/requests": status.requests,
            "keld/reused": status.reused,
            "keld/expected_cost_usd": _usd(status.expected_usd),
            "keld/ceiling_usd": _usd(status.ceiling_usd),
        }
        | _deadline(status)
    )


def result_metadata(status: Status, schema: pa.Schema) -> dict[str, Any]:
    """How it ended: rows, money, time, models, and the columns of the partition."""
    return _known(
        {
            "dagster/partition_row_count" if status.partition else "dagster/row_count": status.rows,
            "dagster/column_schema": dg.TableSchema(columns=[dg.TableColumn(field.name, str(field.type)) for field in schema]),
            "keld/job_run": status.id,
            "keld/batch_ids": [batch.batch_id for batch in status.batches if batch.batch_id],
            "keld/batch_url": _page(status),
            "keld/answered": status.answered,
            "keld/failed": status.failed,
            "keld/quarantined": status.quarantined,
            "keld/reused": status.reused,
            "keld/outcomes": dict(status.outcomes),
            "keld/cost_usd": _usd(status.cost_usd),
            "keld/saved_usd": _usd(status.saved_usd),
            "keld/ceiling_usd": _usd(status.ceiling_usd),
            "keld/input_tokens": status.input_tokens,
            "keld/cached_tokens": status.cached_tokens,
            "keld/output_tokens": status.output_tokens,
            "keld/turnaround_s": None if status.turnaround_s is None else round(status.turnaround_s, 1),
            "keld/model": status.model,
            "keld/models": dict(_requests_by_model(status)),
            "keld/deadline_met": status.deadline_met,
        }
        | _deadline(status)
    )


def _deadline(status: Status) -> dict[str, Any]:
    due = status.deadline_at
    return {"keld/deadline": None if due is None else dg.MetadataValue.timestamp(due), "keld/deadline_basis": status.deadline_basis}


def _requests_by_model(status: Status) -> Counter[str]:
    counts: Counter[str] = Counter()
    for batch in status.batches:
        counts[f"{batch.provider}:{batch.model} {batch.lane}"] += batch.requests
    return counts


def _page(status: Status) -> dg.UrlMetadataValue | None:
    """The first batch's page in its provider's dashboard, where there is one a batch."""
    page = next((batch.page for batch in status.batches if batch.page), None)
    return None if page is None else dg.MetadataValue.url(page)


def _usd(amount: Decimal | None) -> float | None:
    """A float, because only numbers are plotted; micro-dollars, because Dagster prints every digit of a float."""
    return None if amount is None else round(float(amount), 6)


def _known(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value is not None}
