"""Deadline: how long a batch may be waited for, and when its rows must move on.

On the road: `turnaround` -> **`deadline`** -> `plan`; `runner` asks it again at every look.  Pure.
A batch is allowed as long as a rescue still fits behind it: cancel it, wait for the provider's last word, harvest what was paid, ask the
rest in a fast lane.  The latest instant at which that still works is `escalate_at`; the fewer rows are left, the later it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast the fast lanes are, and what comes before and after them.

    Args:
        rows_per_s: answers a second in the standard lane, of one account.
        cancel: from asking a cancel to the provider's last word; OpenAI says up to 10 minutes (docs, Nov 2026).
        collect: from the last answer to the written output.
        safety: by how much a stretch may take longer than reckoned.
        flex_share: the flex lane's speed as a share of the standard lane's.
    """

    rows_per_s: float = 4.0
    cancel: timedelta = timedelta(minutes=10)
    collect: timedelta = timedelta(minutes=2)
    safety: float = 1.5
    flex_share: float = 0.25

    def stretch(self, rows: int, *, flex: bool = False) -> timedelta:
        """How long `rows` take in a fast lane, safely."""
        rate = self.rows_per_s * (self.flex_share if flex else 1.0)
        return timedelta(seconds=rows / rate * self.safety) + timedelta(seconds=30)

    def rescue(self, rows: int) -> timedelta:
        """How long it takes to bring `rows` that are in a batch home through the standard lane."""
        return self.cancel + self.stretch(rows) + self.collect


def escalate_at(due: datetime, rows_left: int, pace: Pace) -> datetime:
    """The latest instant at which a batch with `rows_left` unanswered can still be given up in time."""
    return due - pace.rescue(rows_left)
