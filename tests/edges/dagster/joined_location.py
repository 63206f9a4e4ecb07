"""Code location: two jobs over one source, of two providers, and an asset that joins both results."""

import os

import dagster as dg
import pandas as pd

from keld import Job
from keld_dagster import build_batch_assets
from tests.edges.dagster.located import located

DAYS = dg.DailyPartitionsDefinition("2026-11-01", end_date="2026-11-05")


@dg.asset(partitions_def=DAYS)
def tickets() -> pd.DataFrame:
    return pd.DataFrame({"ticket_id": range(2), "body": ["red", "green"]})


labels, moods = (
    build_batch_assets(Job(name=name, key="ticket_id", prompt=f"{name}: {{body}}", models="openai:gpt-5-mini"), source=tickets)
    for name in ("labels", "moods")
)


@dg.asset(partitions_def=DAYS)
def joined(labels: pd.DataFrame, moods: pd.DataFrame) -> pd.DataFrame:
    return labels.merge(moods, on="ticket_id")


defs = located([tickets, joined], [labels, moods], hold="none" if os.environ.get("TEST_HOLD") == "none" else "queued")
