"""Code location: a job whose partitions are days, over a source whose partitions are halves of days."""

import dagster as dg
import pandas as pd

from keld import Job
from keld_dagster import build_batch_assets
from tests.edges.dagster.located import located

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


defs = located([tickets, report], [labels])
