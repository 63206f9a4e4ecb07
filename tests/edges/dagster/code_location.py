"""Code location: one as a user would write it, loaded by the daemons of the tests.  Its directories are given by the environment."""

from typing import Literal

import dagster as dg
import pandas as pd
from pydantic import BaseModel

from keld import Job
from keld_dagster import KeldParquetIOManager, KeldResource, build_batch_assets, build_keld_sensor, keld_definitions

CANARY = "canary-4711"
DAYS = dg.DailyPartitionsDefinition("2026-11-01", end_date="2026-11-23")
ROWS_A_DAY = 5


class Label(BaseModel):
    category: Literal["billing", "bug", "other"]


@dg.asset(partitions_def=DAYS)
def tickets(context: dg.AssetExecutionContext) -> pd.DataFrame:
    day = context.partition_key
    return pd.DataFrame(
        {
            "ticket_id": [f"{day}-{n}" for n in range(ROWS_A_DAY)],
            "body": [f"{CANARY} ticket {n} of {day}" for n in range(ROWS_A_DAY)],
        }
    )


labels = build_batch_assets(
    Job(
        name="labels",
        key="ticket_id",
        prompt="Classify: {body}",
        output_type=Label,
        models="openai:gpt-5-mini",
    ),
    source=tickets,
    io_manager_key="parquet",
)


@dg.asset(partitions_def=DAYS, io_manager_key="parquet")
def report(labels: pd.DataFrame) -> pd.DataFrame:
    return labels.groupby("keld_outcome", as_index=False).size()


defs = dg.Definitions.merge(
    dg.Definitions(
        assets=[tickets, report],
        resources={
            "io_manager": KeldParquetIOManager(base_dir=dg.EnvVar("TEST_TABLES")),
            "parquet": KeldParquetIOManager(base_dir=dg.EnvVar("TEST_TABLES")),
        },
        executor=dg.in_process_executor,
    ),
    keld_definitions(
        [labels],
        resource=KeldResource(home=dg.EnvVar("TEST_HOME")),
        sensor=build_keld_sensor([labels], minimum_interval_seconds=1),
    ),
)
