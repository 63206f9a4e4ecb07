"""Dags in which a Keld task meets what else Airflow has: limits, timeouts, trigger rules, setup and teardown, callbacks, mapping."""

import os
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from airflow.sdk import DAG, CronDataIntervalTimetable, CronPartitionTimetable, task

from keld_airflow import KeldBatchOperator
from tests.edges.airflow.dag_job import note, rows_of

PLACE = os.environ["TEST_TABLES"]
if not Path(PLACE, "prompt.md").exists():  # a test edits it
    Path(PLACE, "prompt.md").write_text("before: {body}")
daily = CronPartitionTimetable("0 0 * * *", timezone="UTC", run_offset=-1, key_format="%Y-%m-%d")
retries = {"retries": 2, "retry_delay": timedelta(seconds=1)}
common = {"start_date": datetime(2026, 1, 1), "catchup": False, "max_active_runs": 16, "default_args": retries}
past = {**common, "end_date": datetime(2026, 6, 1)}  # filled by backfills only
asked = {"task_id": "label", "key": "id", "prompt": "{body}", "model": "openai:gpt-5-mini", "source": rows_of}


def keld(dag_id, **more):
    return KeldBatchOperator(**{**asked, "name": dag_id, "partition": "{{ run_id }}", **more})


@task
def leave_word(what, run_id=None):
    note(what, {"run_id": run_id})


def words(what, **more):
    return leave_word.override(task_id=what, **more)(what)


with DAG("ten", schedule=daily, **past):
    KeldBatchOperator(**asked, name="ten")

in_turn = {**past, "default_args": {**retries, "depends_on_past": True}}

with DAG("chained", schedule=CronDataIntervalTimetable("0 0 * * *", timezone="UTC"), **in_turn):
    KeldBatchOperator(**asked, name="chained")

with DAG("unchained", schedule=daily, **in_turn):
    KeldBatchOperator(**asked, name="unchained")

with DAG("pooled", schedule=None, **common):
    KeldBatchOperator.partial(**asked, name="pooled", pool="open_batches", map_index_template="{{ task.partition }}").expand(
        partition=["us", "eu", "apac", "latam"]
    )

with DAG("capped", schedule=None, **common):
    KeldBatchOperator.partial(**asked, name="capped", max_active_tis_per_dag=2).expand(partition=["us", "eu", "apac", "latam"])

with DAG("tables", schedule=None, **common):
    KeldBatchOperator.partial(**{name: value for name, value in asked.items() if name != "source"}, name="tables").expand_kwargs(
        [{"source": f"{PLACE}/in-{name}.csv", "sink": f"{PLACE}/out-{name}.parquet", "partition": name} for name in ("eu", "us")]
    )

with DAG("brief", schedule=None, **common):
    keld("brief", execution_timeout=timedelta(hours=1))

with DAG("primed", schedule=None, **common):
    keld(
        "primed",
        source=lambda: [{"id": n, "body": f"ticket {n}"} for n in range(20)],
        model="anthropic:claude-haiku-4-5",
        system="You triage support tickets by the handbook. " * 500,
    )

with DAG("edited", schedule=None, template_searchpath=PLACE, **common):
    keld("edited", prompt="prompt.md", sink=f"{PLACE}/edited.parquet")

with DAG("ruled", schedule=None, **common, on_failure_callback=partial(note, "dag failed")):
    label = keld("ruled", on_failure_callback=partial(note, "task failed"), on_success_callback=partial(note, "task succeeded"))
    label >> [words("after"), words("alarm", trigger_rule="one_failed"), words("always", trigger_rule="all_done")]

with DAG("prepared", schedule=None, **common):
    words("set_up").as_setup() >> keld("prepared") >> words("tear_down").as_teardown()
