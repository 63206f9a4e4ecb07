"""Deadline: how long rows may be waited for where they are, and when they must move on.

On the road: `turnaround` -> **`deadline`** -> `plan`; `runner` asks it again at every look.  Pure.
A batch is allowed as long as a rescue still fits behind it: cancel it, wait for the provider's last word, harvest what was paid, ask the
rest in a fast lane.  The latest instant at which that still works is `escalate_at`; the fewer rows are left, the later it is.  Where flex is
sold for no more than the batch, moving there costs nothing, so that is tried first, early enough; what flex has not answered by its own
latest instant moves on to standard.  An account's fast lanes are shared: the rows of others count, each stretch's up to one's own number,
since stretches that run together get the same share each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast the fast lanes of one account are, and what comes before and after them.

    Args:
        rows_per_s: answers a second in the standard lane, of all stretches together.
        flex_rows_per_s: the same in the flex lane; None: nothing has shown it.
        others: the rows of each other job run that are in these lanes, or are expected there.
        cancel: from asking a cancel to the provider's last word; OpenAI says up to 10 minutes (docs, Nov 2026).
        collect: from the last answer to the written output.
        safety: by how much a stretch in the standard lane may take longer than reckoned.
    """

    rows_per_s: float = 4.0
    flex_rows_per_s: float | None = None
    others: tuple[float, ...] = ()
    cancel: timedelta = timedelta(minutes=10)
    collect: timedelta = timedelta(minutes=2)
    safety: float = 1.3

    def stretch(self, rows: int) -> timedelta:
        """How long `rows` take in the standard lane, safely."""
        return timedelta(seconds=self._served(rows) / self.rows_per_s * self.safety) + _BEGIN

    def bare(self, rows: int) -> timedelta:
        """How long `rows` take in the standard lane if nothing goes wrong: without any safety."""
        return timedelta(seconds=self._served(rows) / self.rows_per_s) + _BEGIN / 4

    def flex(self, rows: int) -> timedelta:
        """How long `rows` take in the flex lane; not safely: behind it is the standard lane."""
        rate = self.flex_rows_per_s or self.rows_per_s * _FLEX_SHARE
        return timedelta(seconds=self._served(rows) / rate) + _BEGIN

    def rescue(self, rows: int, *, batch: bool = True) -> timedelta:
        """How long it takes to bring `rows` home through the standard lane: those that are in a batch, or in a flex stretch."""
        return (self.cancel if batch else timedelta(0)) + self.stretch(rows) + self.collect

    def flex_part(self, rows: int, span: timedelta, behind: Pace) -> float | None:
        """The share of `rows` that flex answers within `span`, if what it leaves moves to standard in time; None: there is no time for that.

        Args:
            behind: the pace of the account whose standard lane stands behind it.
        """
        spare, slow = span - self.collect - behind.stretch(rows), self.flex(rows) - behind.stretch(rows)
        if spare < _BEGIN:
            return None
        return min(1.0, spare / slow) if slow > timedelta(0) else 1.0

    def _served(self, rows: int) -> float:
        return rows + sum(min(other, rows) for other in self.others)


_BEGIN = timedelta(minutes=2)  # until somebody looks, and the first answer is there
_FLEX_SHARE = 0.25  # the flex lane's speed as a share of the standard lane's, until it has shown its own


def escalate_at(due: datetime, rows_left: int, pace: Pace, *, batch: bool = True) -> datetime:
    """The latest instant at which `rows_left` unanswered can still be given up where they are, in time for the standard lane.

    Args:
        batch: they are in a batch, which has to be cancelled and awaited; else in a flex stretch, which just stops.
    """
    return due - pace.rescue(rows_left, batch=batch)


def flex_at(due: datetime, rows_left: int, pace: Pace) -> datetime:
    """The latest instant at which a batch can be given up so that flex answers all of `rows_left`."""
    return due - pace.cancel - max(pace.flex(rows_left) * pace.safety, pace.stretch(rows_left)) - pace.collect


def moves_at(due: datetime, rows_left: int, paces: Sequence[Pace], *, batch: bool = True, flex: Pace | None = None) -> datetime:
    """When rows must move on from where they are, at the latest: into standard at the account that has most room, or into flex.

    Args:
        paces: of the accounts whose standard lane may take them.
        batch: as in `escalate_at`.
        flex: the pace of the account that sells flex for no more than the batch costs, if one does: to go there early costs nothing.
    """
    at = max(escalate_at(due, rows_left, pace, batch=batch) for pace in paces)
    return min(at, flex_at(due, rows_left, flex)) if batch and flex else at


def speed(stretches: Sequence[tuple[float, float, float]]) -> float | None:
    """Rows a second of an account: of all stretches together, while each of these ran, the median; None where there are none.

    Args:
        stretches: (rows, begun, ended), instants in seconds of any clock.
    """
    seen = sorted(sum(_within(other, begun, ended) for other in stretches) / max(ended - begun, 0.001) for _, begun, ended in stretches)
    return seen[len(seen) // 2] if seen else None


def _within(stretch: tuple[float, float, float], since: float, until: float) -> float:
    """The rows of a stretch that were answered in a span of time, as if they came evenly."""
    rows, begun, ended = stretch
    return rows * max(0.0, min(until, ended) - max(since, begun)) / max(ended - begun, 0.001)
