"""Kinds location: a code location with an asset for every kind of partitions and every backfill policy, its sources files of two rows.

What it is like can be changed while it is loaded: TEST_WITHOUT names what it lacks (`resource`: only its assets have one), TEST_DAYS the day on which its days begin; a file `broken`
under TEST_HOME breaks its IO manager.
"""

import os
from pathlib import Path
from typing import Any

import dagster as dg

from keld import Job
from keld_dagster import KeldParquetIOManager, KeldResource, build_batch_assets, build_keld_sensor, keld_definitions
from keld_dagster.io_manager import _ParquetIOManager

WITHOUT = os.environ.get("TEST_WITHOUT", "").split()
PARIS, NEW_YORK = "Europe/Paris", "America/New_York"
DAYS = dg.DailyPartitionsDefinition(os.environ.get("TEST_DAYS", "2026-11-01"), end_date="2027-01-10")
KINDS: dict[str, dg.PartitionsDefinition[Any] | None] = {
    "hourly_spring": dg.HourlyPartitionsDefinition("2026-03-29-00:00", end_date="2026-03-29-05:00", timezone=PARIS),
    "hourly_autumn": dg.HourlyPartitionsDefinition("2026-10-25-00:00", end_date="2026-10-25-05:00", timezone=PARIS),
    "daily_spring": dg.DailyPartitionsDefinition("2026-03-28", end_date="2026-03-31", timezone=PARIS),
    "daily_autumn": dg.DailyPartitionsDefinition("2026-10-24", end_date="2026-10-27", timezone=PARIS),
    "weekly": dg.WeeklyPartitionsDefinition("2026-10-18", end_date="2026-11-08", timezone=NEW_YORK),
    "monthly": dg.MonthlyPartitionsDefinition("2026-03-01", end_date="2026-05-01", timezone=PARIS),
    "static": dg.StaticPartitionsDefinition(["eu", "north america", "A/Ö"]),
    "dynamic": dg.DynamicPartitionsDefinition(name="customers"),
    "multi": dg.MultiPartitionsDefinition(
        {"day": dg.DailyPartitionsDefinition("2026-11-01", end_date="2026-11-03"), "region": dg.StaticPartitionsDefinition(["eu", "us"])}
    ),
    "plain": None,
    "days": DAYS,
    "single": DAYS,
    "threes": DAYS,
}
POLICIES = {"single": dg.BackfillPolicy.single_run(), "threes": dg.BackfillPolicy.multi_run(3)}


class Breakable(KeldParquetIOManager):
    """Fails to write while the file `broken` is there."""

    def create_io_manager(self, context: dg.InitResourceContext) -> "_Breakable":
        return _Breakable(super().create_io_manager(context)._base_path)


class _Breakable(_ParquetIOManager):
    def dump_to_path(self, context: dg.OutputContext, obj: Any, path: Any) -> None:
        if Path(os.environ["TEST_HOME"], "broken").exists():
            raise PermissionError("the warehouse is read-only")
        super().dump_to_path(context, obj, path)


def source(kind: str) -> str:
    return f"{os.environ.get('TEST_TABLES', '')}/{kind}.csv"


assets = [
    build_batch_assets(
        Job(name=kind, key="id", prompt="Classify: {body}", models="openai:gpt-5-mini"),
        source=source(kind),
        partitions_def=partitions_def,
        backfill_policy=POLICIES.get(kind),
    )
    for kind, partitions_def in KINDS.items()
    if kind not in WITHOUT
]


@dg.asset(partitions_def=DAYS)
def report(days: Any) -> None: ...


sensors = [] if "sensor" in WITHOUT else [build_keld_sensor(minimum_interval_seconds=1)]
resource = KeldResource(home=dg.EnvVar("TEST_HOME"), hold="none" if "hold" in WITHOUT else "queued")
common = dg.Definitions(
    assets=[] if "days" in WITHOUT else [report],
    resources={"io_manager": Breakable(base_dir=dg.EnvVar("TEST_TABLES"))},
    executor=dg.in_process_executor,
)
if "resource" in WITHOUT:
    alone = keld_definitions([*dg.with_resources(assets, {"keld": resource})], sensor=sensors[0])
    defs = dg.Definitions.merge(dg.Definitions(executor=dg.in_process_executor), alone)
elif "keld_definitions" in WITHOUT:
    defs = dg.Definitions.merge(common, dg.Definitions(assets=assets, sensors=sensors, resources={"keld": resource}))
else:
    defs = dg.Definitions.merge(common, keld_definitions(assets, resource=resource, sensor=sensors[0]))
