"""Spend: ledger -> what was paid, and what it saved, by whatever people ask.

On the road's end, beside `status`.  Counts only what providers reported as used, at the rates it was planned with; the standard price
is of the same tokens.  What is in flight is told apart, at its worst case, and never added in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from keld.status import Status

DIMENSIONS: dict[str, Callable[[Status], str]] = {
    "job": lambda status: status.job,
    "partition": lambda status: status.partition,
    "model": lambda status: status.model or "-",
    "provider": lambda status: (status.model or "-").partition(":")[0],
    "lane": lambda status: status.lane or "-",
    "day": lambda status: f"{status.created_at:%Y-%m-%d}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spend:
    """One line of the report; `saved_usd` is negative where it cost more than the standard price."""

    group: str
    job_runs: int
    rows: int
    answered: int
    failed: int
    input_tokens: int
    output_tokens: int
    paid_usd: Decimal
    in_flight_usd: Decimal
    standard_usd: Decimal

    @property
    def saved_usd(self) -> Decimal:
        return self.standard_usd - self.paid_usd


def spend(statuses: Sequence[Status], by: str) -> list[Spend]:
    """A line a group, the dearest first.

    Args:
        by: a key of `DIMENSIONS`, or `tag:<name>` for one of the jobs' tags.
    """
    group_of = DIMENSIONS[by] if by in DIMENSIONS else lambda status: status.tags.get(by.removeprefix("tag:"), "-")
    groups: dict[str, list[Status]] = {}
    for status in statuses:
        groups.setdefault(group_of(status), []).append(status)
    return sorted((_line(group, members) for group, members in groups.items()), key=lambda line: (-line.paid_usd, line.group))


def _line(group: str, members: Sequence[Status]) -> Spend:
    return Spend(
        group=group,
        job_runs=len(members),
        rows=sum(status.rows for status in members),
        answered=sum(status.answered for status in members),
        failed=sum(status.failed for status in members),
        input_tokens=sum(status.input_tokens for status in members),
        output_tokens=sum(status.output_tokens for status in members),
        paid_usd=sum((status.cost_usd for status in members), Decimal(0)),
        in_flight_usd=sum((status.reserved_usd for status in members), Decimal(0)),
        standard_usd=sum((status.standard_usd for status in members), Decimal(0)),
    )
