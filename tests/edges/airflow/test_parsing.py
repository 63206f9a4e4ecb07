"""Parsing: what a Dag file that uses Keld costs, each time that Airflow reads it: in the Dag processor, and in the process of every task."""

import subprocess
import sys
from pathlib import Path

import keld_airflow
from tests.edges.airflow.airflow_worker import since

HEAVY = (
    "pyarrow",
    "pandas",
    "numpy",
    "openai",
    "anthropic",
    "httpx2",
    "genai_prices",
    "starlette",
    "uvicorn",
    "obstore",
    "keld.environment",
)
MOST_MB = 30

DAG_FILE = f"""
import sys
from datetime import datetime, timedelta

import psutil
from airflow.sdk import DAG, AsyncCallback, BaseOperator, BaseSensorOperator, DeadlineAlert, task
from pydantic import BaseModel

before, began = set(sys.modules), psutil.Process().memory_info().rss
from keld import Embedding, Job
from keld_airflow import {", ".join(keld_airflow.__all__)}


class Label(BaseModel):
    category: str


late = DeadlineAlert(reference=PartitionEnd(), interval=timedelta(hours=9), callback=AsyncCallback(KeldLateNotifier))
terms = dict(key="id", prompt="Label {{body}}", models=["anthropic:claude-haiku-4-5", "openai:gpt-5-mini"], ceiling_usd=40)
with DAG("labels", schedule=None, deadline=late):
    label = KeldBatchOperator(
        task_id="label", source="in/{{partition}}.parquet", sink="out/{{partition}}/", output_type=Label, types={{"id": "int64"}}, **terms
    )
    sent = KeldBatchOperator.partial(task_id="sent", name="vectors", source="in/", wait=False, output_type=Embedding(256), **terms).expand(
        partition=["eu", "us"]
    )
    KeldJobSensor.partial(task_id="collect").expand(job_run=sent.output)

    @task.keld_batch(job=Job(name="rows", output_type=Label, deadline=timedelta(hours=9), **terms))
    def rows(partition_key=None):
        return []

    label >> rows()

grown_mb = (psutil.Process().memory_info().rss - began) / 2**20
print([name for name in {HEAVY!r} if name in sys.modules and name not in before], grown_mb < {MOST_MB} or grown_mb)
"""


@since("3.2")
def test_a_dag_that_is_only_read_loads_no_table_library_no_sdk_and_no_database(tmp_path: Path) -> None:
    """Measured 2026-11-30 above `airflow.sdk`: 0.05 s and 2 MB, where loading all of Keld took 0.9 s and 115 MB."""
    file = tmp_path / "dag.py"
    file.write_text(DAG_FILE)
    ended = subprocess.run([sys.executable, file], capture_output=True, text=True, check=False)
    assert ended.stdout.splitlines()[-1:] == ["[] True"], ended.stderr[-3_000:]
