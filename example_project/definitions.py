"""Definitions: the Dagster code location.  Open it with `dagster dev -m example_project.definitions`.

    tickets -> ticket_triage_batch, ticket_triage -> triaged_tickets -> ticket_embeddings_batch, ticket_embeddings

Tables, ledger and staging are in `.demo`, next to the project.
"""

from datetime import date
from pathlib import Path

import dagster as dg
import pandas as pd

from example_project.jobs import embeddings, triage
from example_project.tickets import tickets_of
from keld_dagster import KeldParquetIOManager, KeldResource, build_batch_assets, build_keld_sensor, keld_definitions

PLACE = Path(__file__).resolve().parents[1] / ".demo"
TABLES, KELD_HOME = PLACE / "tables", PLACE / "keld"
DAYS = dg.DailyPartitionsDefinition(start_date="2026-09-01", end_date="2026-11-01")


@dg.asset(partitions_def=DAYS, group_name="support")
def tickets(context: dg.AssetExecutionContext) -> pd.DataFrame:
    """The support tickets of a day."""
    return tickets_of(date.fromisoformat(context.partition_key))


ticket_triage = build_batch_assets(triage, source=tickets, group_name="support")


@dg.asset(partitions_def=DAYS, group_name="support")
def triaged_tickets(ticket_triage: pd.DataFrame) -> pd.DataFrame:
    """The answered tickets, without Keld's own columns."""
    answered = ticket_triage[ticket_triage["keld_outcome"] == "answered"]
    return answered.loc[:, ~answered.columns.str.startswith("keld_")]


ticket_embeddings = build_batch_assets(embeddings, source=triaged_tickets, group_name="support", frame="pyarrow")

batch_assets = [ticket_triage, ticket_embeddings]
defs = dg.Definitions.merge(
    dg.Definitions(
        assets=[tickets, triaged_tickets],
        resources={"io_manager": KeldParquetIOManager(base_dir=str(TABLES))},
        executor=dg.in_process_executor,  # the steps are short: a process for each would take longer than the step
    ),
    keld_definitions(
        batch_assets,
        resource=KeldResource(home=str(KELD_HOME)),
        # The demo's provider takes seconds; else leave it at 30.  The daemon comes by every 5 s, and at 5 it would often be a moment too early.
        sensor=build_keld_sensor(minimum_interval_seconds=4),
    ),
)
