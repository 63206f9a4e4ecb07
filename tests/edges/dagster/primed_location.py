"""Code location: a job whose rows begin with so long a text that one of them goes ahead, to write the prompt cache for the others."""

import dagster as dg
import pandas as pd

from keld import Job
from keld_dagster import build_batch_assets
from tests.edges.dagster.located import located

DAYS = dg.DailyPartitionsDefinition("2026-11-01", end_date="2026-11-05")
ROWS_A_DAY = 20
HANDBOOK = "You triage support tickets by the handbook. " * 500


@dg.asset(partitions_def=DAYS)
def tickets(context: dg.AssetExecutionContext) -> pd.DataFrame:
    return pd.DataFrame({"ticket_id": range(ROWS_A_DAY), "body": [f"ticket {n} of {context.partition_key}" for n in range(ROWS_A_DAY)]})


labels = build_batch_assets(
    Job(name="labels", key="ticket_id", system=HANDBOOK, prompt="{body}", models="anthropic:claude-haiku-4-5"), source=tickets
)
defs = located([tickets], [labels])
