"""Day: what was paid, day by day, divided into groups; pure.

Each group is a spend report of its own by day, so that the sums are those of `keld spend`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal

from keld.ledger import CostLine
from keld.report.book import Book
from keld.spend import grouping, report

OTHERS = "others"
_GROUPS = 3  # with a colour of their own; the others share one
_COLUMNS = 92  # bars in a figure at most: longer spans are shown by week, then by month


@dataclass(frozen=True, slots=True, kw_only=True)
class Days:
    """What was paid in each period.

    Args:
        unit: `day`, `week` or `month`, by the length of the whole span.
        starts: the first day of each period, without gaps.
        paid_usd: by group, the dearest first, one amount a period.
        standard_usd: the standard price of all groups together, one amount a period.
    """

    unit: str
    starts: tuple[date, ...]
    paid_usd: dict[str, tuple[Decimal, ...]]
    standard_usd: tuple[Decimal, ...]


def days_of(book: Book, by: str) -> Days:
    """What was paid day by day, divided by a dimension of the spend report.

    Raises:
        InvalidJob: `by` is no dimension.
    """
    whole = report(book.runs.values(), book.cost_lines, "day").lines
    seen = [date.fromisoformat(line.group) for line in whole]
    unit, start_of = _unit(seen)
    starts = _starts(seen, start_of)
    groups = _groups(book, by)
    return Days(
        unit=unit,
        starts=starts,
        paid_usd={
            name: _sums(starts, start_of, [(line.group, line.paid_usd) for line in report(book.runs.values(), lines, "day").lines])
            for name, lines in groups.items()
        },
        standard_usd=_sums(starts, start_of, [(line.group, line.standard_usd) for line in whole]),
    )


def _groups(book: Book, by: str) -> dict[str, list[CostLine]]:
    """The cost lines of the dearest groups, and of the others together."""
    group_of = grouping(by)
    found: defaultdict[str, list[CostLine]] = defaultdict(list)
    for line in book.cost_lines:
        found[group_of(book.runs[line.run_id], line)].append(line)
    dearest = sorted(found, key=lambda name: (-sum(line.paid_usd for line in found[name]), name))
    groups = {name: found[name] for name in dearest[:_GROUPS]}
    if rest := [line for name in dearest[_GROUPS:] for line in found[name]]:
        groups[OTHERS] = [*groups.pop(OTHERS, []), *rest]  # a group may have that name itself
    return groups


def _unit(seen: Sequence[date]) -> tuple[str, Callable[[date], date]]:
    """The period of one bar, and the function from a day to its period's first day."""
    length = (max(seen) - min(seen)).days + 1 if seen else 0
    if length <= _COLUMNS:
        return "day", lambda day: day
    if length <= _COLUMNS * 7:
        return "week", lambda day: day - timedelta(days=day.weekday())
    return "month", lambda day: day.replace(day=1)


def _starts(seen: Sequence[date], start_of: Callable[[date], date]) -> tuple[date, ...]:
    if not seen:
        return ()
    first, last = min(seen), max(seen)
    return tuple(dict.fromkeys(start_of(first + timedelta(days=n)) for n in range((last - first).days + 1)))


def _sums(starts: Sequence[date], start_of: Callable[[date], date], amounts: Sequence[tuple[str, Decimal]]) -> tuple[Decimal, ...]:
    sums = dict.fromkeys(starts, Decimal(0))
    for day, amount in amounts:
        sums[start_of(date.fromisoformat(day))] += amount
    return tuple(sums.values())
