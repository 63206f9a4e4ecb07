"""Keld in Dagster: one declaration becomes two assets, a backfill waits without a slot, a sensor brings the answers in.

Above the front door of `keld`, and importing nothing deeper: when a job run wants a worker, how long to advance it, whether it is late and
what people want to see of it, the core says, once for every orchestrator (docs/architecture.md, "What an orchestrator's package consists of").
Here are Dagster's own words only: assets, runs, tags, sensors, checks, metadata.  The files in order are the way of a partition.

    definitions  keld_definitions([...]): assets, checks, the sensor, the wait job; in as many modules as there are
    asset        build_batch_assets(job, source=...): one op with two outputs, `<name>_batch` and `<name>`
    translator   KeldTranslator: how the two assets look; the only thing to override
    source       where the rows of a partition come from: an upstream asset, loaded lazily, or a path
    frame        what the rows are handed over as: pandas, Polars, Arrow, a stream
    deadline     partition + freshness policy -> when it is due
    resource     KeldResource: ledger, staging and accounts, as Dagster configuration
    wait         what a run sent and nobody has brought in yet; the tags that say so
    hold         the run that stands for a wait and never executes; all that is written by Dagster's private API is in here
    watch        which assets of a code location a sensor brings in
    sensor       the one of a code location, whatever partitions its assets have
    tick         one evaluation: looks at the providers, asks for collect runs, ends waits
    check        completion_rate, deadline_met, cost_under_ceiling
    metadata     a job run's status -> what a person wants to see on an asset
    io_manager   KeldParquetIOManager: streams Parquet; a convenience, never required
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keld_dagster.asset import build_batch_assets
    from keld_dagster.definitions import keld_definitions
    from keld_dagster.io_manager import KeldParquetIOManager
    from keld_dagster.resource import KeldAccount, KeldResource
    from keld_dagster.sensor import build_keld_sensor
    from keld_dagster.translator import KeldTranslator

__all__ = [
    "KeldAccount",
    "KeldParquetIOManager",
    "KeldResource",
    "KeldTranslator",
    "build_batch_assets",
    "build_keld_sensor",
    "keld_definitions",
]

# Imported at their first use: every `dg` command imports this module.
_HOMES = {
    "KeldAccount": "resource",
    "KeldParquetIOManager": "io_manager",
    "KeldResource": "resource",
    "KeldTranslator": "translator",
    "build_batch_assets": "asset",
    "build_keld_sensor": "sensor",
    "keld_definitions": "definitions",
}


if not TYPE_CHECKING:  # a type checker that saw this function would take any misspelt name for an object of type Any

    def __getattr__(name: str) -> Any:
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module 'keld_dagster' has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(f"keld_dagster.{home}"), name)
