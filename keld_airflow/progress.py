"""Progress: what a person reads of a job run while its task is deferred: one line in the task's log each time that something has changed.

Few lines for any batch: a state, another round, an escalation or a deadline that has passed is news at once, and of the rows that are done each
tenth.  A thousand tasks that wait for hours write some ten lines each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keld import Keld, Status

News = tuple[object, ...]
"""What a line is about: a line whose news is that of the line before is not written."""


def news_of(status: Status) -> News:
    """What has happened, as far as it is worth a line."""
    tenths = 10 * status.settled // status.rows if status.rows else 10
    return status.stage, len(status.batches), status.late, status.escalates_at is None, tenths


def lines(keld: Keld, statuses: Sequence[Status], told: Mapping[str, News | None]) -> dict[str, tuple[News, str]]:
    """The line of each job run that has news, by its id.

    Args:
        told: the news of the last line of each.
    """
    fresh = [status for status in statuses if news_of(status) != told.get(status.id)]
    ends = keld.expected_ends(fresh)
    return {status.id: (news_of(status), line(status, ends.get(status.id))) for status in fresh}


def line(status: Status, expected_at: datetime | None) -> str:
    """How far a job run is, when it is expected to end, when its rows are escalated, and what it has cost."""
    count = len(status.batches)
    parts = [
        f"{status.stage[:1].upper()}{status.stage[1:]}: {status.settled:,} of {status.rows:,} rows done in {count:,} batch{'es' if count != 1 else ''}",
        f"${status.cost_usd:.4f} so far",
    ]
    if expected_at is not None:
        parts.append(f"expected by {_instant(expected_at)}")
    if status.escalates_at is not None:
        parts.append(f"unanswered rows move to a faster lane at {_instant(status.escalates_at)}")
    if status.late:
        parts.append("its deadline has passed")
    elif status.deadline_at is not None:
        parts.append(f"due at {_instant(status.deadline_at)}")
    return "; ".join(parts) + "."


def _instant(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
