"""A Dag that every version of Airflow can read which Keld supports."""

from datetime import datetime, timedelta

from airflow.sdk import DAG

from keld_airflow import KeldBatchOperator
from tests.edges.airflow.dag_job import arm, rows_of

with DAG("plain", schedule=None, start_date=datetime(2026, 1, 1), default_args={"retries": 2, "retry_delay": timedelta(seconds=1)}):
    KeldBatchOperator(
        task_id="label", name="plain", key="id", prompt="{body}", model="openai:gpt-5-mini", source=rows_of, partition="{{ run_id }}", pre_execute=arm,
    )  # fmt: skip
