"""Collect run: those that there were of pending partitions, and which of them materialised the result."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, timedelta

import dagster as dg

from keld_dagster.pending import ASSET_TAG, COLLECT, PARTITION_TAG, PHASE_TAG, WAIT_TAG, formerly, tag_of

_SKEW = timedelta(days=1)  # between the clocks of the processes that write Dagster's events


@dataclass(frozen=True, slots=True)
class CollectRuns:
    """The collect runs of some submit runs, the youngest first, and which of them materialised the result."""

    found: Mapping[tuple[str, str, str], Sequence[dg.RunRecord]]  # by submit run, asset, partition
    materialized: frozenset[str]

    def of(self, submit_run: str, asset: dg.AssetKey, partition: str) -> Sequence[dg.RunRecord]:
        return self.found.get((submit_run, asset.to_user_string(), partition), ())


def collect_runs(instance: dg.DagsterInstance, submit_runs: Collection[str]) -> CollectRuns:
    """The collect runs, with two queries (one for an earlier version's), and what they materialised, with one query for each asset."""
    if not submit_runs:
        return CollectRuns({}, frozenset())
    found: dict[tuple[str, str, str], list[dg.RunRecord]] = {}
    for name in (WAIT_TAG, formerly(WAIT_TAG)):
        for record in instance.get_run_records(dg.RunsFilter(tags={PHASE_TAG: COLLECT, name: list(submit_runs)})):
            of = record.dagster_run.tags
            found.setdefault((of[name], tag_of(of, ASSET_TAG), of.get(PARTITION_TAG, "")), []).append(record)
    ended: dict[str, list[dg.RunRecord]] = {}
    for (_, asset, _), (latest, *_) in found.items():
        if latest.dagster_run.is_finished:  # one that failed may have materialised the result, and then failed over what follows it
            ended.setdefault(asset, []).append(latest)
    materialized = [_materialized(instance, dg.AssetKey.from_user_string(asset), records) for asset, records in ended.items()]
    return CollectRuns(found, frozenset().union(*materialized))


def _materialized(instance: dg.DagsterInstance, asset: dg.AssetKey, records: Sequence[dg.RunRecord]) -> set[str]:
    """The ids of those runs that materialised the result; a run that only sent another round did not."""
    partitions = [record.dagster_run.tags[PARTITION_TAG] for record in records if PARTITION_TAG in record.dagster_run.tags]
    since = min(record.create_timestamp for record in records).replace(tzinfo=UTC) - _SKEW
    filters = dg.AssetRecordsFilter(asset_key=asset, asset_partitions=partitions or None, after_timestamp=since.timestamp())
    materialized: set[str] = set()
    cursor = None
    while True:
        page = instance.fetch_materializations(filters, limit=1000, cursor=cursor)
        materialized |= {record.run_id for record in page.records}
        if not page.has_more:
            return materialized
        cursor = page.cursor
