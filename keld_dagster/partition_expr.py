"""Partition expression: what an IO manager of a database must be told, so that it can write one partition of a table.

Asked for before anything is sent.  Without it the run that collects would fail: nothing is lost by that, but the rows are paid for by then, and
somebody has to come.

The class of such IO managers is in no public module of Dagster's: it is known by its name, and where that changes, the run that collects says it.
"""

from __future__ import annotations

import dagster as dg

_KEY = "partition_expr"
_OF_DATABASES = "DbIOManager"  # Dagster's base class of those of DuckDB, Snowflake, BigQuery, Delta, Iceberg


def require_partition_expr(context: dg.AssetExecutionContext, spec: dg.AssetSpec) -> None:
    """Passes if the IO manager of the result can tell its partitions apart.

    Raises:
        Failure: it writes them into one table, and nothing says by which column; a retry would not help.
    """
    if spec.partitions_def is None or _KEY in spec.metadata:
        return
    key = io_manager_key_of(spec)
    manager = getattr(context.resources, key, None)
    if any(base.__name__ == _OF_DATABASES for base in type(manager).__mro__):
        raise dg.Failure(
            f"{spec.key.to_user_string()}: its IO manager {key} writes all partitions into one table, and nothing says which column has the partition. "
            f'Nothing was sent. Give metadata={{"{_KEY}": "<column>"}}, as on the source; the result has the columns of the source.',
            allow_retries=False,
        )


def io_manager_key_of(spec: dg.AssetSpec) -> str:
    """The resource key of the IO manager that an asset is written by."""
    return str(spec.metadata.get("dagster/io_manager_key", "io_manager"))
