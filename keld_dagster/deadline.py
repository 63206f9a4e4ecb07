"""Deadline: when a partition is due, by its own end and the asset's freshness policy.

Dagster evaluates a freshness policy for an asset as a whole, by its latest materialisation of any partition; a deadline belongs
to one partition.  The job's own `deadline` takes precedence.  The rule for old partitions (a duration whose end has passed counts from the
submission) is in `keld`; an old partition under a cron policy has no deadline, since its tick has passed.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import dagster as dg

from keld import Job


def partition_end(partitions_def: dg.PartitionsDefinition[Any] | None, partition: str | None) -> datetime | None:
    """The end of a partition's time window, aware; None if it has none."""
    if partition is None:
        return None
    match partitions_def:
        case dg.MultiPartitionsDefinition() if partitions_def.has_time_window_dimension:
            return partitions_def.time_window_for_partition_key(partition).end
        case dg.TimeWindowPartitionsDefinition():
            return partitions_def.time_window_for_partition_key(partition).end
        case _:
            return None


def with_deadline(job: Job, policy: dg.FreshnessPolicy | None, ends_at: datetime | None, now: datetime) -> Job:
    """The job with the deadline of its freshness policy, if it has none of its own."""
    if job.deadline is not None or policy is None:
        return job
    window = getattr(policy, "fail_window", None)
    if window is not None:
        return replace(job, deadline=window.to_timedelta())
    cron = getattr(policy, "deadline_cron", None)
    if cron is None:
        return job
    due = _next_tick(cron, getattr(policy, "timezone", "UTC"), ends_at or now)
    return replace(job, deadline=due) if due > now else job


def _next_tick(cron: str, timezone: str, after: datetime) -> datetime:
    """The first tick of a cron string strictly after an instant."""
    # Dagster has no public function for it; the windows of a partition begin at the ticks.
    ticks = dg.TimeWindowPartitionsDefinition(start=after, cron_schedule=cron, timezone=timezone, fmt="%Y-%m-%dT%H:%M")
    window = ticks.get_next_partition_window(after, respect_bounds=False)
    assert window is not None
    return window.start if window.start > after else window.end
