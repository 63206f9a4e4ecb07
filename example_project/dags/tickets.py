"""Dags: the two jobs of `jobs.py` in Airflow, one partition a day.

    ticket_triage:      tickets -> triage
    ticket_embeddings:  answered -> embed                     for each day that was triaged

Tables and ledger are in `.airflow-demo`, next to the project.
"""

from datetime import date, datetime
from pathlib import Path

import pandas as pd
from airflow.sdk import DAG, Asset, CronPartitionTimetable, PartitionedAssetTimetable, task

from example_project.jobs import embeddings, triage
from example_project.tickets import tickets_of
from keld_airflow import KeldBatchOperator

TABLES = Path(__file__).resolve().parents[2] / ".airflow-demo" / "tables"
# The day that has just ended; Airflow's plain "@daily" would name the day that begins.
DAILY = CronPartitionTimetable("0 0 * * *", timezone="UTC", run_offset=-1, key_format="%Y-%m-%d")
triaged = Asset("ticket_triage", uri=f"file://{TABLES}/ticket_triage")

common = {"start_date": datetime(2026, 9, 1), "catchup": False, "max_active_runs": 16, "default_args": {"retries": 2}, "tags": ["support"]}

with DAG("ticket_triage", schedule=DAILY, **common):

    @task
    def tickets(partition_key: str | None = None) -> None:
        """The support tickets of a day."""
        path = TABLES / "tickets" / f"{partition_key}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        tickets_of(date.fromisoformat(str(partition_key))).to_parquet(path)

    tickets() >> KeldBatchOperator(
        task_id="triage",
        job=triage,
        source=f"{TABLES}/tickets/{{partition}}.parquet",
        sink=f"{TABLES}/ticket_triage/{{partition}}.parquet",
        outlets=[triaged],
    )

with DAG("ticket_embeddings", schedule=PartitionedAssetTimetable(assets=triaged), **common):

    @task.keld_batch(job=embeddings, sink=f"{TABLES}/ticket_embeddings/{{partition}}.parquet")
    def embed(partition_key: str | None = None) -> pd.DataFrame:
        """The answered tickets, without Keld's own columns."""
        rows = pd.read_parquet(TABLES / "ticket_triage" / f"{partition_key}.parquet")
        answered = rows[rows["keld_outcome"] == "answered"]
        return answered.loc[:, ~answered.columns.str.startswith("keld_")]

    embed()
