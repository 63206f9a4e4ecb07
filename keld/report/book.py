"""Book: what the ledger has of the job runs of a span of days, read once for everything that is made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from keld.ledger import CostLine, JobRun, Ledger, Timing
from keld.price import Lane, Rates
from keld.spend import days, was_superseded

RatesOf = Callable[[str, Lane, datetime, Mapping[str, Mapping[str, Any]] | None], Rates | None]
"""(`account:model`, lane, day, the job's own prices) -> the rates; None: unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """Job runs, with what they cost and when their shards were sent and ended.

    Args:
        since, until: the first and the last day of submission, in UTC; None: no bound.
        runs: by id, the youngest first; without those that were planned again before anything of them was sent.
        cost_lines, timings: of these job runs only.
    """

    namespace: str
    as_of: datetime
    since: date | None
    until: date | None
    runs: Mapping[str, JobRun]
    cost_lines: tuple[CostLine, ...]
    timings: tuple[Timing, ...]


def read(ledger: Ledger, namespace: str, as_of: datetime, since: date | None, until: date | None) -> Book:
    """The book of a namespace; its job runs are those submitted from the day `since` to the day `until`."""
    after, before = days(since, until)
    # The job runs last, so that each of the others has its own in it.
    cost_lines = ledger.costs.lines(namespace, since=after, until=before)
    timings = ledger.history.timings(namespace, since=after, until=before)
    runs = {run.id: run for run in ledger.catalog.runs(namespace, since=after, until=before) if not was_superseded(run)}
    return Book(
        namespace=namespace,
        as_of=as_of,
        since=since,
        until=until,
        runs=runs,
        cost_lines=tuple(line for line in cost_lines if line.run_id in runs),
        timings=tuple(timing for timing in timings if timing.run_id in runs),
    )
