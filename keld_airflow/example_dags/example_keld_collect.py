"""Example: one task sends, a sensor collects, and what does not need the answers runs in between.

One operator does both, and is simpler; use two where a Dag has something else to do while the provider works.
"""

from datetime import datetime
from typing import Any

from airflow.sdk import DAG, task

from keld_airflow import KeldBatchOperator, KeldJobSensor


def rows() -> list[dict[str, Any]]:
    """The rows, read when they are sent."""
    return [{"id": n, "word": word} for n, word in enumerate(["Haus", "Baum", "Fluss"])]


with DAG("example_keld_collect", schedule=None, start_date=datetime(2026, 1, 1), is_paused_upon_creation=True, tags=["example", "keld"]):
    sent = KeldBatchOperator(
        task_id="send",
        name="translations",
        key="id",
        source=rows,
        prompt="Translate into English, with one word: {word}",
        models="openai:gpt-5-mini",
        wait=False,  # the task ends when everything is sent
    )

    @task
    def prepare() -> None:
        """Whatever can be done meanwhile."""

    # Deferred until the answers are there; the task's XCom is that of an operator that waits.
    collected = KeldJobSensor(task_id="collect", job_run=sent.output)

    sent >> prepare()
