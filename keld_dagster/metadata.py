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

_OURS = {
    "keld_outcome": "answered, or in a word why not",
    "keld_error": "what went wrong, where there is no answer",
    "keld_model": "the model that was asked",
    "keld_lane": "how it was asked: batch, flex or standard",
    "keld_cost_usd": "what the row has cost, all attempts together",
}


def batch_metadata(status: Status) -> dict[str, Any]:
    """What was sent, for how much, until when."""
    return _known(
        {
            "keld/rows": status.rows,
            "keld/requests": status.requests,
            "keld/reused": status.reused,
            "keld/expected_cost_usd": _usd(status.expected_usd),
            "keld/ceiling_usd": _usd(status.ceiling_usd),
        }
        | _deadline(status)
        | {"keld/model": status.model, "keld/lane": status.lane, "keld/outdated": status.outdated}
        | _ids(status)
    )


def result_metadata(status: Status, schema: pa.Schema) -> dict[str, Any]:
    """How it ended: rows, money, time, models, and the columns of the partition."""
    return _known(
        {
            "dagster/partition_row_count" if status.partition else "dagster/row_count": status.rows,
            "dagster/column_schema": dg.TableSchema(columns=[_column(field) for field in schema]),
            "keld/answered": status.answered,
            "keld/failed": status.failed,
            "keld/quarantined": status.quarantined,
            "keld/reused": status.reused,
            "keld/outcomes": dict(status.outcomes),
            "keld/cost_usd": _usd(status.cost_usd),
            "keld/saved_usd": _usd(status.saved_usd),
            "keld/ceiling_usd": _usd(status.ceiling_usd),
            "keld/deadline_met": status.deadline_met,
        }
        | _deadline(status)
        | {
            "keld/input_tokens": status.input_tokens,
            "keld/cached_tokens": status.cached_tokens,
            "keld/output_tokens": status.output_tokens,
            "keld/turnaround_s": None if status.turnaround_s is None else round(status.turnaround_s, 1),
            "keld/model": status.model,
            "keld/models": dict(_requests_by_model(status)),
        }
        | _ids(status)
    )


def _deadline(status: Status) -> dict[str, Any]:
    """By when, and counted from what; nothing where there is none."""
    if status.deadline_at is None:
        return {}
    return {"keld/deadline": dg.MetadataValue.timestamp(status.deadline_at), "keld/deadline_basis": status.deadline_basis}


def _ids(status: Status) -> dict[str, Any]:
    """What to look for elsewhere; last, since Dagster shows metadata in this order, and people look for the money."""
    ids = [batch.batch_id for batch in status.batches if batch.batch_id]
    return {"keld/job_run": status.id, "keld/batch_url": _page(status), "keld/batch_ids": ids}


def _column(field: pa.Field) -> dg.TableColumn:
    return dg.TableColumn(field.name, str(field.type), description=_OURS.get(field.name))


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
