"""Asset: a job run that is over -> the asset events of its task.

Airflow 3.3 queues Dags that are scheduled on partitions only for an event with a key, and all others only for one without
(`AssetManager._queue_dagruns`).  A Dag run that has a key gives it to the events itself; in one that has none there are two of each.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from airflow.sdk import Asset
from airflow.sdk.definitions.asset import AssetRef

from keld_airflow.manifest import event_extra

log = logging.getLogger(__name__)


class _KeyedFirst(set[str | None]):
    """Partition keys, in the order in which Airflow must write their events: the one without a key last.

    The event without a key starts a Dag run, which gets all events up to then; an event written after it would go to the next run,
    which is for another day.
    """

    def __iter__(self) -> Iterator[str | None]:
        return iter(sorted(super().__iter__(), key=lambda key: (key is None, key or "")))


def emit_asset_events(outlets: Iterable[Any], context: Mapping[str, Any], facts: dict[str, Any]) -> None:
    """Puts cost, outcome and the job run's own partition key into the task's asset events, in any kind of Dag run."""
    run_key, own_key = context.get("partition_key"), facts["partition"]
    for outlet in outlets:
        if not isinstance(outlet, Asset | AssetRef):  # an alias is a name for assets that the task does not list
            continue
        try:
            accessor = context["outlet_events"][outlet]
        except Exception as error:  # noqa: BLE001  a reference to an asset that no Dag has: Airflow makes no event; the rows are written
            log.warning("There is no event of %r: %s.", outlet, type(error).__name__)
            continue
        accessor.extra = event_extra(facts)
        if own_key.strip() and own_key != run_key and hasattr(accessor, "add_partitions"):  # before Airflow 3.3 only a Dag run gives a key
            accessor.add_partitions(own_key)
            if not run_key:
                accessor.partition_keys = _KeyedFirst({*accessor.partition_keys, None})
