"""Example: one task for each region, each with a partition of its own, so that a region that fails does not hold up the others.

Map over partitions, never over the slices of one: Keld cuts a large table into batches itself.
"""

from datetime import datetime
from typing import Any

from airflow.sdk import DAG, Asset

from keld_airflow import KeldBatchOperator

reviews = Asset("review_sentiments", uri="keld://examples/review_sentiments")


def rows_of(region: str) -> list[dict[str, Any]]:
    """The rows of a region."""
    return [{"review_id": f"{region}-{n}", "text": text} for n, text in enumerate(["Great!", "Broke after a week.", "It is a table."])]


with DAG("example_keld_regions", schedule=None, start_date=datetime(2026, 1, 1), is_paused_upon_creation=True, tags=["example", "keld"]):
    KeldBatchOperator.partial(
        task_id="sentiment",
        name="review_sentiments",
        key="review_id",
        prompt="Is this review positive, negative or neutral? Answer with one word.\n\n{text}",
        models="openai:gpt-5-mini",
        # The list of the mapped tasks shows eu, us and apac, not 0, 1 and 2.
        map_index_template="{{ task.partition }}",
        # A pool whose slots include deferred tasks would limit how many batches are open at once: pool="keld_batches".
        outlets=[reviews],
    ).expand_kwargs(
        [
            {"partition": "eu", "source": lambda: rows_of("eu")},
            {"partition": "us", "source": lambda: rows_of("us")},
            {"partition": "apac", "source": lambda: rows_of("apac")},
        ]
    )
