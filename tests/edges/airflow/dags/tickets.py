"""Dags as a user would write them, for the tests with a real Airflow; where they work is in the environment."""

import os
from datetime import datetime, timedelta

from airflow.sdk import (
    DAG,
    Asset,
    CronDataIntervalTimetable,
    CronPartitionTimetable,
    DeadlineAlert,
    PartitionedAssetTimetable,
    SyncCallback,
    task,
)

from keld_airflow import KeldBatchOperator, PartitionEnd
from tests.edges.airflow.dag_job import HELD, JOB, SHORT, arm, note_late, rows_of

TABLES = os.environ["TEST_TABLES"]
START = datetime(2026, 1, 1)
labelled = Asset("labelled", uri=f"file://{TABLES}/labelled")
daily = CronPartitionTimetable("0 0 * * *", timezone="UTC", run_offset=-1, key_format="%Y-%m-%d")
late = DeadlineAlert(reference=PartitionEnd(), interval=timedelta(seconds=1), callback=SyncCallback(note_late))
common = {"start_date": START, "catchup": False, "max_active_runs": 16, "default_args": {"retries": 2, "retry_delay": timedelta(seconds=1)}}

with DAG("label", schedule=daily, deadline=late, **common):
    KeldBatchOperator(task_id="label", job=JOB, source=rows_of, sink=f"{TABLES}/{{partition}}.parquet", outlets=[labelled], pre_execute=arm)

with DAG("report", schedule=PartitionedAssetTimetable(assets=labelled), **common):

    @task
    def report(partition_key=None):
        return partition_key

    report()

with DAG("interval", schedule=CronDataIntervalTimetable("0 0 * * *", timezone="UTC"), **common):
    KeldBatchOperator(task_id="label", job=JOB, source=rows_of)

with DAG("quick", schedule=None, **common):

    @task
    def quick():
        return "done"

    quick()

with DAG("hurried", schedule=daily, **common):

    @task.keld_batch(job=SHORT)
    def label(partition_key=None):
        return rows_of(partition_key)

    label()

with DAG("held", schedule=None, **common):
    KeldBatchOperator(task_id="label", job=HELD, source=rows_of, partition="{{ run_id }}", deferrable=False)
