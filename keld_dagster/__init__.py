"""Keld in Dagster: one declaration becomes two assets, a backfill waits without a slot, a sensor launches the runs that collect the answers.

Above the front door of `keld`; imports nothing deeper.  When a job run needs a worker, how long to advance it, whether it is late and which
facts people see: the core decides these once for every orchestrator (docs/architecture.md, "What an orchestrator's package consists of").
Here is only what is Dagster's: assets, runs, tags, sensors, checks, metadata.  The files, in the order in which a partition passes them:

    definitions  keld_definitions([...]): assets, checks, the sensor, the wait job; in as many modules as there are
    decorator    keld_assets(...): a function that gives prompts -> a job and its assets
    declaration  build_batch_assets(job, source=...): a job and its source -> the specs of two assets
    option       the keywords of both, for type checkers
    asset        the op behind them, with two outputs: `<name>_batch` and `<name>`
    component    KeldBatchComponent: the same from YAML, for projects of `dg`
    prompt       the text of a prompt in YAML -> a template
    scaffold     the files that `dg scaffold defs` writes
    translator   KeldTranslator: how the two assets look; the only thing to override
    source       where the rows of a partition come from: an upstream asset, loaded lazily, or a path
    mapping      which partitions of the source hold the rows of a partition
    frame        the form in which rows are loaded and handed over: pandas, Polars, Arrow, a stream
    deadline     partition + freshness policy -> when it is due
    resource     KeldResource: ledger, staging and accounts, as Dagster configuration
    launcher     what starts runs or steps on other hosts: there a ledger that is a file is refused
    pending      the partitions that a run submitted and whose results are not collected yet; their tags
    hold         the run that represents pending partitions and never executes; all writes by Dagster's private API are in here
    collector    what must be there, and on, so that the answers are collected; told before a run ends without them
    partition_expr  what an IO manager of a database must be told about partitions; asked for before anything is sent
    watch        which assets of a code location a sensor collects results for
    sensor       one for a code location, for assets with any partitions
    tick         one evaluation: polls the providers, requests collect runs, ends hold runs
    collect_run  those that there were of pending partitions, and what they materialised
    run_config   what the run that sent was configured with -> the config of the runs that collect
    follower     what a collect run materialises beside its result, and which other results that needs
    progress     what a person sees of partitions while they are at a provider
    check        completion_rate, valid_rate, deadline_met, cost_under_ceiling
    metadata     a job and a job run's status -> what a person wants to see on an asset
    column       the columns of a result: schema and lineage
    code_reference  the line of the user's file that declares a pair of assets
    report       build_report_asset(...): a page about all job runs, written each day
    testing      materialize(...): assets to their end in one call, for users' unit tests
    io_manager   KeldParquetIOManager: streams Parquet; a convenience, never required
    duckdb       KeldDuckDBIOManager: streams into tables of DuckDB; imported by users only
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keld_dagster.component import KeldBatchComponent
    from keld_dagster.declaration import build_batch_assets
    from keld_dagster.decorator import keld_assets
    from keld_dagster.definitions import keld_definitions
    from keld_dagster.io_manager import KeldParquetIOManager
    from keld_dagster.report import build_report_asset
    from keld_dagster.resource import KeldAccount, KeldResource
    from keld_dagster.sensor import build_keld_sensor
    from keld_dagster.translator import KeldTranslator

__all__ = [
    "KeldAccount",
    "KeldBatchComponent",
    "KeldParquetIOManager",
    "KeldResource",
    "KeldTranslator",
    "build_batch_assets",
    "build_keld_sensor",
    "build_report_asset",
    "keld_assets",
    "keld_definitions",
]

# Imported at their first use: every `dg` command imports this module.
_HOMES = {
    "KeldAccount": "resource",
    "KeldBatchComponent": "component",
    "KeldParquetIOManager": "io_manager",
    "KeldResource": "resource",
    "KeldTranslator": "translator",
    "build_batch_assets": "declaration",
    "build_keld_sensor": "sensor",
    "build_report_asset": "report",
    "keld_assets": "decorator",
    "keld_definitions": "definitions",
}


if not TYPE_CHECKING:  # a type checker that saw this function would take any misspelt name for an object of type Any

    def __getattr__(name: str) -> Any:
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module 'keld_dagster' has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(f"keld_dagster.{home}"), name)

    def __dir__() -> list[str]:
        # `dg` imports every name it finds here, to see whether it is a component; a package that one of the others needs may be broken.
        return [*globals(), "KeldBatchComponent"]
