"""Overview: all figures of the report, from what the ledger has; pure but for the rates it is given.

The money is grouped by `spend` alone, so that every figure here adds up to what `keld spend` says.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from keld.report.alternative import Alternative, alternatives_of
from keld.report.audited import Audited
from keld.report.book import Book, RatesOf
from keld.report.curve import Curve, curves_of
from keld.report.day import Days, days_of
from keld.report.deadline import Deadlines, deadlines_of
from keld.spend import Report, Spend, report
from keld.state import RunState
from keld.status import to_json_value

DIMENSIONS = ("team", "project", "job", "category", "model", "provider", "lane")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRun:
    """A job run that is not over, and what it may still cost at worst."""

    job: str
    partition: str
    state: RunState
    rows: int
    created_at: datetime
    deadline_at: datetime | None
    escalates_at: datetime | None
    spent_usd: Decimal
    reserved_usd: Decimal
    ceiling_usd: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """What the report shows.

    Args:
        by: the dimension that divides the days, and of the first of `groups`.
        groups: one spend report for each dimension.
        outcomes: of the rows of job runs that are over, the most frequent first.
        quarantined: rows that are not asked again, since they may be on the bill.
        open_runs: the one that may cost most first.
        audited: what an audit of other tools' logs found, to be shown beside; None: none was given.
    """

    namespace: str
    as_of: datetime
    since: date | None
    until: date | None
    by: str
    total: Spend
    days: Days
    groups: tuple[Report, ...]
    deadlines: Deadlines
    curves: tuple[Curve, ...]
    outcomes: dict[str, int]
    quarantined: int
    open_runs: tuple[OpenRun, ...]
    alternatives: tuple[Alternative, ...]
    audited: Audited | None = None

    def group(self, by: str) -> Report:
        """The spend report of a dimension that the overview has."""
        return next(one for one in self.groups if one.by == by)

    def to_json(self) -> dict[str, Any]:
        """The same, as JSON values: money as decimal text, instants in ISO 8601."""
        same = ("namespace", "as_of", "since", "until", "by", "outcomes", "quarantined")
        return (
            {name: to_json_value(getattr(self, name)) for name in same}
            | {
                "total": self.total.to_json(),
                "days": to_json_value(asdict(self.days)),
                "groups": {one.by: [line.to_json() for line in one.lines] for one in self.groups},
                "deadlines": to_json_value(asdict(self.deadlines)),
                "turnaround": [_curve_json(curve) for curve in self.curves],
                "open_job_runs": [to_json_value(asdict(one)) for one in self.open_runs],
                "alternatives": [_alternative_json(one) for one in self.alternatives],
            }
            | ({} if self.audited is None else {"audit": to_json_value(asdict(self.audited))})
        )


def overview_of(book: Book, by: str, rates_of: RatesOf, audited: Audited | None = None) -> Overview:
    """The overview of a book.

    Args:
        by: a dimension of `keld.spend`, or `tag:NAME`.

    Raises:
        InvalidJob: `by` is none of these.
    """
    dimensions = dict.fromkeys((by, *DIMENSIONS))
    groups = tuple(report(book.runs.values(), book.cost_lines, one) for one in dimensions)
    outcomes = Counter[str]()
    for run in book.runs.values():
        outcomes.update(run.outcomes or {})
    return Overview(
        namespace=book.namespace,
        as_of=book.as_of,
        since=book.since,
        until=book.until,
        by=by,
        total=groups[0].total,
        days=days_of(book, by),
        groups=groups,
        deadlines=deadlines_of(book),
        curves=curves_of(book),
        outcomes={outcome: count for outcome, count in outcomes.most_common() if count},
        quarantined=sum(run.quarantined for run in book.runs.values()),
        open_runs=_open_runs(book),
        alternatives=alternatives_of(book, rates_of),
        audited=audited,
    )


def _open_runs(book: Book) -> tuple[OpenRun, ...]:
    found = [
        OpenRun(
            job=run.job,
            partition=run.partition,
            state=run.state,
            rows=run.rows,
            created_at=run.created_at,
            deadline_at=run.deadline_at,
            escalates_at=run.escalates_at,
            spent_usd=run.spent_usd,
            reserved_usd=run.reserved_usd,
            ceiling_usd=run.ceiling_usd,
        )
        for run in book.runs.values()
        if not run.over
    ]
    return tuple(sorted(found, key=lambda one: (-one.reserved_usd, one.job, one.partition)))


def _curve_json(curve: Curve) -> dict[str, Any]:
    planned = {f"planned_p{share}_s": curve.learned.quantile(share / 100).total_seconds() for share in (50, 90)}
    same = {name: getattr(curve, name) for name in ("provider", "model", "completed_s", "others", "median_s")}
    return {name: to_json_value(value) for name, value in {**same, "lane": curve.lane.value, **planned}.items()}


def _alternative_json(one: Alternative) -> dict[str, Any]:
    same = ("job", "way", "other", "other_usd", "change", "needs")
    return {name: to_json_value(getattr(one, name)) for name in same} | {"paid_usd": str(one.spend.paid_usd)}
