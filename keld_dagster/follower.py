"""Follower: which assets a collect run materialises beside its result: those downstream of it, that its submit run planned and had to skip.

One that also needs the result of another job that is at its provider rides with the last of them: earlier it would fail, or read an older
partition.  The rule is here once, for the sensor's `tick` and for `testing`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import dagster as dg

from keld_dagster.collect_run import CollectRuns
from keld_dagster.pending import PendingPartitions
from keld_dagster.watch import Watched


def carried(
    result: dg.AssetKey,
    followers: Collection[dg.AssetKey],
    missing: Collection[dg.AssetKey],
    downstream: Callable[[dg.AssetKey], AbstractSet[dg.AssetKey]],
) -> Sequence[dg.AssetKey]:
    """Those of the followers that a result's collect run carries.

    Args:
        missing: the results that are not materialised; one downstream of `result` is sent by the same run, and skips what follows it by itself.
        downstream: all assets that depend on an asset, directly or indirectly.
    """
    below = downstream(result)
    others = set(missing) - below - {result}
    blocked = frozenset[dg.AssetKey]().union(*(downstream(other) for other in others))
    return sorted((set(followers) & below) - blocked, key=lambda key: key.to_user_string())


@dataclass(frozen=True, slots=True)
class Siblings:
    """Other results whose followers are followers of a pending one, too.

    Args:
        watched: the results that may be.
        pending_at: the pending partition of a result, by its backfill and partition, or None.
        was_cancelled: True if the wait for a result, by the run that submitted it, was ended by hand: it will not arrive.
    """

    watched: Mapping[dg.AssetKey, Watched]
    pending_at: Callable[[Watched, str | None, str], PendingPartitions | None]
    was_cancelled: Callable[[Watched, str], bool]

    def of(self, pending: PendingPartitions) -> Iterator[PendingPartitions]:
        """The pending partitions of other results whose collect runs, too, could carry a follower of these."""
        if pending.asset not in self.watched:
            return
        for other in self._others(pending):
            for partition in pending.job_runs:
                sibling = self._sibling(other, pending, partition)
                if sibling is not None:
                    yield sibling

    def missing(
        self, pending: PendingPartitions, partition: str, known: CollectRuns, requested: Collection[tuple[str, dg.AssetKey, str]]
    ) -> set[dg.AssetKey] | None:
        """The other results that a follower needs and that are not there yet; None while a run collects one of them.

        Then the request waits for it: what follows both is carried by the run that begins when all others have ended, and two that
        run at once would each leave it to the other.

        Args:
            requested: collect runs that this tick has requested, by submit run, asset, partition.
        """
        missing = set()
        for other in self._others(pending):
            sibling = self._sibling(other, pending, partition)
            submit_run = pending.id if sibling is None else sibling.id
            latest = next((record.dagster_run for record in known.of(submit_run, other.result, partition)), None)
            if (submit_run, other.result, partition) in requested:
                return None
            if latest is not None and (not latest.is_finished or latest.is_complete_and_waiting_to_retry):
                return None
            if latest is not None and latest.run_id in known.materialized:
                continue
            if sibling is not None or latest is not None or self.was_cancelled(other, pending.id):
                missing.add(other.result)
        return missing

    def _others(self, pending: PendingPartitions) -> Iterator[Watched]:
        """The other results that have a follower in common with this one, and do not follow it themselves."""
        asset = self.watched[pending.asset]
        followers = asset.downstream.intersection(pending.followers)
        for other in self.watched.values():
            if other.result != asset.result and other.result not in asset.downstream and followers & other.downstream:
                yield other

    def _sibling(self, other: Watched, pending: PendingPartitions, partition: str) -> PendingPartitions | None:
        sibling = self.pending_at(other, pending.backfill, partition)
        if sibling is None or sibling.backfill != pending.backfill or not set(sibling.followers) & set(pending.followers):
            return None
        return sibling
