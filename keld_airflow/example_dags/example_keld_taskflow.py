"""Example: `@task.keld_batch`, whose rows are what the function below it returns; the next task reads what it cost."""

from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import dag, task
from pydantic import BaseModel

from keld import Job


class Summary(BaseModel):
    """One column of the result for each field."""

    title: str
    sentences: int


# A job may be declared once and used in several Dags, in Dagster and on the command line.
summaries = Job(
    name="article_summaries",
    key="id",
    prompt="Give this article a title, and say how many sentences a good summary has:\n\n{text}",
    output_type=Summary,
    models="openai:gpt-5-mini",
    deadline=timedelta(hours=24),
    ceiling_usd=1,
)


@dag(schedule=None, start_date=datetime(2026, 1, 1), is_paused_upon_creation=True, tags=["example", "keld"])
def example_keld_taskflow() -> None:
    """Sends the rows of a function."""

    @task.keld_batch(job=summaries)
    def summarise() -> list[dict[str, Any]]:
        """Runs on a worker, and only if something must be sent; the rows go to Keld's staging, not to Airflow."""
        return [{"id": n, "text": f"Article {n}. It says little. It says it well."} for n in range(3)]

    @task
    def report(done: Any) -> None:
        """The XCom of the task holds counts, cost and times; never a row."""
        print(f"{done['summary']} (job run {done['job_run']})")  # noqa: T201  to the task's log

    report(summarise())


example_keld_taskflow()
