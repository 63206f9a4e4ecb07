"""Partition: the run of a Dag -> the partition's key, which with the job's name is its identity, and the partition's end.

Never the run's id: a backfill that reprocesses a partitioned Dag creates a new run, and would pay for the same rows again.  A run
without a date (triggered by hand without one, or by an asset) is for the job's one table without partitions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from croniter import croniter

from keld import utc

_DAY = timedelta(days=1)
# What only some Dag runs have, used without an alternative for the others (`{{ partition_key or ds }}`).
_WANTS = re.compile(
    r"{{-?\s*(?:dag_run\.)?(partition_key|partition_date|logical_date|data_interval_\w+|ds|ts|ds_nodash|ts_nodash)\s*(?:-?}}|[.[|])"
)
_OTHERWISE = re.compile(r"\|\s*(?:default|d)\s*\(([^()]*)\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """The key, None for a table without partitions; its end, None if at most the key says it."""

    key: str | None
    ends_at: datetime | None


def partition_of(context: Mapping[str, Any], *, key: str | None = None, window: timedelta | None = None) -> Partition:
    """The partition of a task instance, in any kind of Dag run.

    Args:
        context: Airflow's.
        key: as the user gave it; None: the Dag run's own.
        window: how long a partition is, if a partitioned Dag has no cron expression that says it.
    """
    found = _of_run(context, window)
    return found if key is None else Partition(key=key or None, ends_at=found.ends_at)


def add_partition(context: Any) -> None:
    """Gives templates and functions the partition of the Dag run by the names of Airflow 3.3; 3.2 has its key in the Dag run alone, 3.1 has none."""
    for name in ("partition_key", "partition_date"):
        context.setdefault(name, getattr(context["dag_run"], name, None))


def absent_in(template: Any, context: Mapping[str, Any]) -> str | None:
    """The name in a template, or in one of a list or a mapping of templates, that this Dag run has no value for; None if it has all."""
    if isinstance(template, Mapping | list | tuple):
        parts = template.values() if isinstance(template, Mapping) else template
        return next((name for part in parts if (name := absent_in(part, context))), None)
    text = template if isinstance(template, str) or hasattr(template, "protocol") else ""
    for wanted in _WANTS.finditer(str(text)):
        if context.get(wanted[1]) is None:
            otherwise = _OTHERWISE.match(str(text), wanted.end() - 1)
            # A name whose value is None is not undefined: Jinja uses the default for it only with `default('all', true)`.
            if otherwise is None or (wanted[1] in context and "true" not in otherwise[1].lower()):
                return wanted[1]
    return None


def no_partition(context: Mapping[str, Any]) -> str:
    """The end of an error message: the Dag run has no partition, and how to give it one."""
    if context.get("partition_key"):
        return (
            "this Dag run has a partition key, and no dates. Nothing was sent. Write {{ partition_key }}, or {{ partition_key or ds }} "
            "for a Dag that is also run by `dag.test`."
        )
    if context.get("data_interval_end"):
        return "this Dag run has dates, and no partition key. Nothing was sent. Write {{ ds }}, or {{ partition_key or ds }}."
    if getattr(context["dag_run"], "run_type", None) == "asset_triggered":
        return (
            "this Dag run has none: an asset started it, and the Dag has no partitions. Nothing was sent. Schedule the Dag by "
            "PartitionedAssetTimetable(assets=...), or give the task a partition=."
        )
    return (
        "this Dag run has none: it was started without one. Nothing was sent. A Dag that is scheduled by partitions is triggered with a partition key "
        "(in its trigger form under Advanced Options, or partition_key over REST), any other with a logical date; or give the task a partition=."
    )


def _of_run(context: Mapping[str, Any], window: timedelta | None) -> Partition:
    if context.get("partition_key"):
        return Partition(key=context["partition_key"], ends_at=_end(context.get("partition_date"), context, window))
    start, end = context.get("data_interval_start"), context.get("data_interval_end")
    if start is not None and end is not None:
        start, end = utc(start, "data_interval_start"), utc(end, "data_interval_end")
        # Also by the clock of the timetable's zone: the day on which summer time begins has 23 hours, and counts as a day.
        local = start.astimezone(zone := _zone(context)).replace(tzinfo=None), end.astimezone(zone).replace(tzinfo=None)
        return Partition(key=_key(start, max(end - start, local[1] - local[0])), ends_at=end)
    return Partition(key=None, ends_at=utc(context["dag_run"].run_after, "run_after"))


def _end(starts_at: datetime | None, context: Mapping[str, Any], window: timedelta | None) -> datetime | None:
    """The end of a partition that starts at `starts_at`: after `window`, or at the next tick of the Dag's cron; None if neither is known."""
    if starts_at is None:
        return None
    starts_at = utc(starts_at, "partition_date")
    if window is not None:
        return starts_at + window
    cron, zone = _of_timetable(context, "expression"), _zone(context)
    if not isinstance(cron, str):
        return None
    local = starts_at.astimezone(zone).replace(tzinfo=None)  # croniter computes in local time
    following: datetime = croniter(cron, local).get_next(datetime)
    return following.replace(tzinfo=zone).astimezone(UTC)


def _of_timetable(context: Mapping[str, Any], name: str) -> Any:
    """A property of the timetable of the Dag; before Airflow 3.2 it has an underscore; None if there is none."""
    timetable = getattr(context.get("dag"), "timetable", None)
    return getattr(timetable, name, getattr(timetable, f"_{name}", None))


def _zone(context: Mapping[str, Any]) -> tzinfo:
    """The time zone of the Dag's timetable; UTC if it has none."""
    zone = _of_timetable(context, "timezone") or UTC
    return ZoneInfo(zone) if isinstance(zone, str) else zone


def _key(start: datetime, span: timedelta) -> str:
    """The key of an interval: a date like Airflow's `{{ ds }}` for whole days and for an empty one at midnight, else the minute, else the instant."""
    if span >= _DAY or (not span and start.time() == time(0)):
        return f"{start:%Y-%m-%d}"
    return f"{start:%Y-%m-%d-%H:%M}" if not start.second and not start.microsecond else start.isoformat()
