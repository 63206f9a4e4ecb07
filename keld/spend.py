"""Spend: ledger -> what was paid, what was saved and how good the estimate was, in groups.

On the road's end, below `environment`.  Counts only what providers reported as used, at the list prices of the plan; the standard
price is of the same tokens.  What is in flight is shown separately, at its worst case, and never added.  The sum is the same for every
grouping: the shards of one job run may differ in model and lane, so each is counted where it ran.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from keld.errors import InvalidJob
from keld.ledger import CostLine, JobRun
from keld.state import RunState
from keld.status import to_json_value

_OF_RUN: dict[str, Callable[[JobRun], str]] = {
    "job": lambda run: run.job,
    "partition": lambda run: run.partition or "-",
    "day": lambda run: f"{run.created_at:%Y-%m-%d}",
}
_OF_COST_LINE: dict[str, Callable[[CostLine], str]] = {
    "model": lambda cost_line: f"{cost_line.provider}:{cost_line.model}" if cost_line.model else "-",
    "provider": lambda cost_line: cost_line.provider or "-",
    "lane": lambda cost_line: cost_line.lane or "-",
}
_TAGS = ("team", "project", "category")
DIMENSIONS = (*_TAGS, *_OF_RUN, *_OF_COST_LINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spend:
    """One line of the report.

    Args:
        job_runs: how many have a part in it; by model, provider or lane one may be in several lines.
        rows, failed: of the tables, and those that ended without an answer; None by model, provider or lane, as rows move between them.
        asked, answered: requests; a row that was asked again counts again.
        estimated_usd: the expected cost of the shards that have ended; `estimate_paid_usd` is what they did cost.
        twice_usd: the part of `paid_usd` for rows that were paid a second time.
        in_flight_usd: reserved, the worst case; `unknown_usd` of it for `unknown_rows` that may be on the bill without a report.
    """

    group: str
    job_runs: int
    rows: int | None
    failed: int | None
    asked: int
    answered: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    paid_usd: Decimal
    standard_usd: Decimal
    estimated_usd: Decimal
    estimate_paid_usd: Decimal
    twice_usd: Decimal
    in_flight_usd: Decimal
    unknown_usd: Decimal
    unknown_rows: int

    @property
    def saved_usd(self) -> Decimal:
        """Negative if it cost more than the standard price: rows paid twice have no standard price the second time."""
        return self.standard_usd - self.paid_usd

    @property
    def estimate_error(self) -> float | None:
        """0.1: it cost a tenth more than expected; None if no shard has ended."""
        return float(self.estimate_paid_usd / self.estimated_usd - 1) if self.estimated_usd else None

    def to_json(self) -> dict[str, Any]:
        """The same, as JSON values: money as decimal text."""
        derived = {"saved_usd": self.saved_usd, "estimate_error": self.estimate_error}
        return {name: to_json_value(value) for name, value in (asdict(self) | derived).items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The lines, the most expensive first (days in order), and their total."""

    by: str
    lines: tuple[Spend, ...]
    total: Spend

    def to_json(self) -> dict[str, Any]:
        return {"by": self.by, "lines": [line.to_json() for line in self.lines], "total": self.total.to_json()}


def report(runs: Iterable[JobRun], cost_lines: Iterable[CostLine], by: str) -> Report:
    """What job runs spent, one line for each group.

    Args:
        runs: job runs; one that was planned again before anything of it was sent is left out.
        cost_lines: of these job runs; those of others are ignored.
        by: one of `DIMENSIONS`, or `tag:NAME` for any other tag of the jobs; a job without it is in the group "-".

    Raises:
        InvalidJob: `by` is none of these.
    """
    counted = {run.id: run for run in runs if not was_superseded(run)}
    parts: dict[str, list[CostLine]] = {run_id: [] for run_id in counted}
    for cost_line in cost_lines:
        if cost_line.run_id in parts:
            parts[cost_line.run_id].append(cost_line)
    nothing = ((run_id, CostLine(run_id=run_id, provider="", model="", lane="")) for run_id, found in parts.items() if not found)
    all_parts = [*nothing, *((run_id, cost_line) for run_id, found in parts.items() for cost_line in found)]
    group_of = grouping(by)
    groups: dict[str, list[tuple[JobRun, CostLine]]] = {}
    for run_id, cost_line in all_parts:
        groups.setdefault(group_of(counted[run_id], cost_line), []).append((counted[run_id], cost_line))
    lines = [_line(group, members, by not in _OF_COST_LINE) for group, members in groups.items()]
    lines.sort(key=lambda line: line.group if by == "day" else (-line.paid_usd, line.group))
    total = _line("total", [(counted[run_id], cost_line) for run_id, cost_line in all_parts], True)
    return Report(by=by, lines=tuple(lines), total=total)


def days(since: date | None, until: date | None) -> tuple[datetime | None, datetime | None]:
    """The instants at which the first day begins and the last one ends, in UTC; None: no bound."""
    after = None if since is None else datetime.combine(since, time(), UTC)
    before = None if until is None else datetime.combine(until, time(), UTC) + timedelta(days=1)
    return after, before


def is_dimension(by: str) -> bool:
    """True if `by` is a dimension of the report."""
    return by in DIMENSIONS or (by.startswith("tag:") and by != "tag:")


def grouping(by: str) -> Callable[[JobRun, CostLine], str]:
    """A function that gives the group of a cost line and its job run; see `report`.

    Raises:
        InvalidJob: `by` is no dimension.
    """
    if by in _OF_RUN:
        return lambda run, _: _OF_RUN[by](run)
    if by in _OF_COST_LINE:
        return lambda _, cost_line: _OF_COST_LINE[by](cost_line)
    if not is_dimension(by):
        raise InvalidJob(f"Spend by {by!r}: choose one of {', '.join(DIMENSIONS)}, or tag:NAME.", field="by")
    return lambda run, _: str(run.tags.get(by.removeprefix("tag:"), "-"))


def was_superseded(run: JobRun) -> bool:
    """True if a job run was planned again before anything of it was sent: its successor has its rows."""
    return run.state is RunState.CANCELLED and run.outcomes is None


def _line(group: str, members: Sequence[tuple[JobRun, CostLine]], of_runs: bool) -> Spend:
    runs = {run.id: run for run, _ in members}.values()
    cost_lines = [cost_line for _, cost_line in members]
    usd = {
        name: sum((getattr(cost_line, name) for cost_line in cost_lines), Decimal(0))
        for name in ("paid_usd", "standard_usd", "estimated_usd", "estimate_paid_usd", "twice_usd", "unknown_usd")
    }
    return Spend(
        group=group,
        job_runs=len(runs),
        rows=sum(run.rows for run in runs) if of_runs else None,
        failed=sum(run.failed + run.quarantined for run in runs) if of_runs else None,
        asked=sum(cost_line.asked for cost_line in cost_lines),
        answered=sum(cost_line.answered for cost_line in cost_lines),
        input_tokens=sum(cost_line.input_tokens for cost_line in cost_lines),
        cached_tokens=sum(cost_line.cached_tokens for cost_line in cost_lines),
        output_tokens=sum(cost_line.output_tokens for cost_line in cost_lines),
        in_flight_usd=sum((cost_line.reserved_usd for cost_line in cost_lines), Decimal(0)),
        unknown_rows=sum(cost_line.unknown_rows for cost_line in cost_lines),
        **usd,
    )
