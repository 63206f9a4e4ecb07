"""Metadata: a job run's status -> the metadata that people see on an asset.

Counts, money, time, ids, links; never a prompt, a row or an answer: Dagster never deletes metadata and shows it to everyone.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import dagster as dg

from keld import Status

if TYPE_CHECKING:
    import pyarrow as pa

_OURS = {
    "keld_outcome": "answered, or the reason why not, in a word",
    "keld_error": "the error, if there is no answer",
    "keld_model": "the model that was asked",
    "keld_lane": "the lane in which it was asked: batch, flex or standard",
    "keld_cost_usd": "the cost of the row, all attempts together",
}


# In the order of the UI: what people look for first.
_DEADLINE = ("keld/deadline", "keld/deadline_basis")
_IDS = ("keld/job_run", "keld/batch_url", "keld/batch_ids")
_BATCH = (
    "keld/rows",
    "keld/requests",
    "keld/reused",
    "keld/expected_cost_usd",
    "keld/ceiling_usd",
    *_DEADLINE,
    "keld/model",
    "keld/lane",
    "keld/outdated",
    *_IDS,
)
_RESULT = (
    "keld/answered", "keld/failed", "keld/quarantined", "keld/reused", "keld/outcomes", "keld/cost_usd", "keld/saved_usd",
    "keld/ceiling_usd", "keld/deadline_met", *_DEADLINE,
    "keld/input_tokens", "keld/cached_tokens", "keld/output_tokens", "keld/turnaround_s", "keld/model", "keld/models", *_IDS,
)  # fmt: skip


def batch_metadata(status: Status) -> dict[str, Any]:
    """The metadata of a batch asset: what was sent, its expected cost, its deadline."""
    return _shown(status, _BATCH)


def result_metadata(status: Status, schema: pa.Schema) -> dict[str, Any]:
    """The metadata of a result asset: rows, cost, time, models, and the columns of the partition."""
    return {
        "dagster/partition_row_count" if status.partition else "dagster/row_count": status.rows,
        "dagster/column_schema": dg.TableSchema(columns=[_column(field) for field in schema]),
    } | _shown(status, _RESULT)


def _shown(status: Status, names: Sequence[str]) -> dict[str, Any]:
    """These facts of a job run, without those that are not known; the basis of a deadline only if there is one."""
    facts = {f"keld/{name}": value for name, value in status.facts().items()}
    known = [name for name in names if facts[name] is not None and (name != "keld/deadline_basis" or status.deadline_at is not None)]
    return {name: _value(name, facts[name]) for name in known}


def _value(name: str, value: Any) -> Any:
    """A fact as Dagster's UI shows it."""
    match value:
        case Decimal():
            return round(float(value), 6)  # a float, because only numbers are plotted; rounded, because Dagster prints every digit of it
        case datetime():
            return dg.MetadataValue.timestamp(value)
        case float():
            return round(value, 1)
        case str() if name.endswith("_url"):
            return dg.MetadataValue.url(value)
        case _:
            return value


def _column(field: pa.Field) -> dg.TableColumn:
    return dg.TableColumn(field.name, str(field.type), description=_OURS.get(field.name))
