"""Code location: a job whose partitions are days, over a source whose partitions are halves of days."""

import dagster as dg
import pandas as pd

from keld import Job
from keld_dagster import KeldParquetIOManager, KeldResource, build_batch_assets, build_keld_sensor, keld_definitions

DAYS = dg.DailyPartitionsDefinition("2026-11-01", end_date="2026-11-05")
HALVES = dg.TimeWindowPartitionsDefinition(
    cron_schedule="0 */12 * * *", start="2026-11-01-00:00", end="2026-11-05-00:00", fmt="%Y-%m-%d-%H:%M"
)


@dg.asset(partitions_def=HALVES)
def tickets(context: dg.AssetExecutionContext) -> pd.DataFrame:
    key = context.partition_key
    return pd.DataFrame({"ticket_id": [f"{key}-{n}" for n in range(2)], "body": [f"ticket {n} of {key}" for n in range(2)]})


labels = build_batch_assets(
    Job(name="labels", key="ticket_id", prompt="Classify: {body}", models="openai:gpt-5-mini"),
    source=tickets,
    partitions_def=DAYS,
    partition_mapping=dg.TimeWindowPartitionMapping(),
)


@dg.asset(partitions_def=DAYS)
def report(labels: pd.DataFrame) -> pd.DataFrame:
    return labels.groupby("keld_outcome", as_index=False).size()


defs = dg.Definitions.merge(
    dg.Definitions(
        assets=[tickets, report],
        resources={"io_manager": KeldParquetIOManager(base_dir=dg.EnvVar("TEST_TABLES"))},
        executor=dg.in_process_executor,
    ),
    keld_definitions(
        [labels], resource=KeldResource(home=dg.EnvVar("TEST_HOME")), sensor=build_keld_sensor([labels], minimum_interval_seconds=1)
    ),
)
