"""Code location: a result with what follows it, which is configured at launch, or made by an op with an asset that does not follow it.

A deployment may add a config that nobody gave.
"""

import os

import dagster as dg
import pandas as pd

from keld import Job
from keld_dagster import build_batch_assets
from tests.edges.dagster.located import located

DAYS = dg.DailyPartitionsDefinition("2026-11-01", end_date="2026-11-05")
ROWS = 3


@dg.asset(partitions_def=DAYS)
def tickets() -> pd.DataFrame:
    return pd.DataFrame({"ticket_id": range(ROWS), "body": ["red", "green", "blue"]})


labels, moods = (
    build_batch_assets(Job(name=name, key="ticket_id", prompt=f"{name}: {{body}}", models="openai:gpt-5-mini"), source=tickets)
    for name in ("labels", "moods")
)


class Wanted(dg.Config):
    rows: int


class Usual(dg.Config):
    rows: int = ROWS


@dg.asset(partitions_def=DAYS)
def excerpt(context: dg.AssetExecutionContext, config: Wanted, labels: pd.DataFrame) -> pd.DataFrame:
    context.add_output_metadata({"rows": config.rows})
    return labels.head(config.rows)


@dg.asset(partitions_def=DAYS)
def summary(context: dg.AssetExecutionContext, config: Usual, labels: pd.DataFrame) -> pd.DataFrame:
    context.add_output_metadata({"rows": config.rows})
    return labels.head(config.rows)


@dg.asset(partitions_def=DAYS)
def page(
    context: dg.AssetExecutionContext, config: Wanted if os.environ.get("TEST_WANTED") else Usual, labels: pd.DataFrame
) -> pd.DataFrame:
    return labels.head(config.rows)


@dg.multi_asset(specs=[dg.AssetSpec(name, deps=[dep], partitions_def=DAYS) for name, dep in (("chart", "labels"), ("stock", "tickets"))])
def chart_and_stock() -> tuple[dg.MaterializeResult[None], dg.MaterializeResult[None]]:
    return dg.MaterializeResult(asset_key="chart"), dg.MaterializeResult(asset_key="stock")


@dg.asset(partitions_def=DAYS, deps=["stock"])
def order(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
    return dg.MaterializeResult()


defs = located([tickets, excerpt, summary, page, chart_and_stock, order], [labels, moods])
