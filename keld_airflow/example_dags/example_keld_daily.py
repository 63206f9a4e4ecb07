"""Example: the tickets of each day are labelled by the next morning, for at most two dollars a day.

The task is deferred while the provider works: it takes no slot.  A retry, a clear or a backfill of the same day buys nothing twice.
The `DeadlineAlert`, which tells people, needs Airflow 3.2; without it the file is right for 3.1, too.
"""

import tempfile
from datetime import datetime, timedelta
from typing import Any, Literal

from airflow.sdk import DAG, Asset, AsyncCallback, CronDataIntervalTimetable, DeadlineAlert  # type: ignore[attr-defined]  # Airflow's stub omits two
from pydantic import BaseModel

from keld_airflow import KeldBatchOperator, KeldLateNotifier, PartitionEnd

# Where the results go; in production a bucket, such as s3://lake/ticket_labels.
LABELS = f"{tempfile.gettempdir()}/keld_examples/ticket_labels"


class Label(BaseModel):
    """One column of the result for each field."""

    category: Literal["billing", "bug", "account", "other"]
    urgent: bool


def tickets(data_interval_start: datetime) -> list[dict[str, Any]]:
    """The rows of a day.  In production a path with {partition} in it, or a query; called only if something must be sent."""
    texts = ["I was charged twice.", "The export button does nothing.", "Please close my account.", "Thank you!"]
    return [{"ticket_id": f"{data_interval_start:%Y%m%d}-{n}", "body": body} for n, body in enumerate(texts)]


with DAG(
    "example_keld_daily",
    # Each run is for the day that has just ended: its date is the partition's key.  The plain "@daily" would name the day that begins.
    schedule=CronDataIntervalTimetable("0 0 * * *", timezone="UTC"),
    start_date=datetime(2026, 1, 1),
    catchup=False,
    # A backfill sends this many days at once; the rows of all of them are at the provider together.
    max_active_runs=16,
    # People are told if a day is not there nine hours after its end.  Keld itself makes for the task's own deadline, below.
    deadline=DeadlineAlert(reference=PartitionEnd(), interval=timedelta(hours=9), callback=AsyncCallback(KeldLateNotifier)),
    is_paused_upon_creation=True,
    tags=["example", "keld"],
):
    KeldBatchOperator(
        task_id="label",
        name="ticket_labels",
        key="ticket_id",
        source=tickets,
        sink=f"{LABELS}/{{partition}}.parquet",
        prompt="Classify this support ticket:\n\n{body}",
        output_type=Label,
        # All are acceptable; Keld takes the cheapest that meets deadline and ceiling.
        models=["openai:gpt-5-mini", "anthropic:claude-haiku-4-5"],
        deadline=timedelta(hours=8),
        ceiling_usd=2,
        outlets=[Asset("ticket_labels", uri=f"file://{LABELS}")],
        retries=2,
    )
