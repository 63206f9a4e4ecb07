"""Speed: how fast the fast lanes of an account are, and so how long rows take through them.

On the road: `price` -> **`speed`** -> `deadline` -> `plan`; measured by `realtime`.  Pure.
The fast lanes of an account are shared: the rows of other job runs count, of each at most as many as one's own, since parallel runs
get equal shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import msgspec


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """How fast the fast lanes of one account are, and the times before and after them.

    Args:
        rows_per_s: answers a second in the standard lane, of all realtime runs together.
        flex_rows_per_s: the same in the flex lane; None: not measured yet.
        others: the rows of each other job run that are in these lanes, or are expected there.
        cancel_time: from the cancel call to the end of the batch; OpenAI says up to 10 minutes (docs/notes/providers.md).
        finish_time: from the last answer to the written output.
        safety: the factor by which a run in the standard lane may take longer than computed.
    """

    rows_per_s: float = 4.0
    flex_rows_per_s: float | None = None
    others: tuple[float, ...] = ()
    cancel_time: timedelta = timedelta(minutes=10)
    finish_time: timedelta = timedelta(minutes=2)
    safety: float = 1.3

    def standard_time(self, rows: int) -> timedelta:
        """The time for `rows` in the standard lane, with the safety factor."""
        return timedelta(seconds=self._served(rows) / self.rows_per_s * self.safety) + _BEGIN

    def standard_time_without_safety(self, rows: int) -> timedelta:
        """The time for `rows` in the standard lane if nothing goes wrong."""
        return timedelta(seconds=self._served(rows) / self.rows_per_s) + _BEGIN / 4

    def flex_time(self, rows: int) -> timedelta:
        """The time for `rows` in the flex lane; without the safety factor, since the standard lane can take over."""
        rate = self.flex_rows_per_s or self.rows_per_s * _FLEX_SHARE
        return timedelta(seconds=self._served(rows) / rate) + _BEGIN

    def rescue_time(self, rows: int, *, batch: bool = True) -> timedelta:
        """The time until `rows` that are now in a batch, or in the flex lane, are answered by the standard lane."""
        return (self.cancel_time if batch else timedelta(0)) + self.standard_time(rows) + self.finish_time

    def flex_share(self, rows: int, span: timedelta, behind: Speed) -> float | None:
        """The share of `rows` that flex answers within `span`, if the others move to standard in time; None: there is no time for that.

        Args:
            behind: the speed of the account whose standard lane takes the others.
        """
        spare, slow = span - self.finish_time - behind.standard_time(rows), self.flex_time(rows) - behind.standard_time(rows)
        if spare < _BEGIN:
            return None
        return min(1.0, spare / slow) if slow > timedelta(0) else 1.0

    def _served(self, rows: int) -> float:
        return rows + sum(min(other, rows) for other in self.others)


_BEGIN = timedelta(minutes=2)  # until a worker starts and has the first answer
_FLEX_SHARE = 0.25  # the flex lane's speed as a share of the standard lane's, until it is measured


def measured(runs: Sequence[tuple[float, float, float]]) -> float | None:
    """The median rows a second of an account, all realtime runs together, over the time of each of these runs; None without runs.

    Args:
        runs: (rows, begun, ended), instants in seconds of any clock.
    """
    seen = sorted(sum(_within(other, begun, ended) for other in runs) / max(ended - begun, 0.001) for _, begun, ended in runs)
    return seen[len(seen) // 2] if seen else None


def _within(run: tuple[float, float, float], since: float, until: float) -> float:
    """The rows of a run that were answered in a span of time, as if they came evenly."""
    rows, begun, ended = run
    return rows * max(0.0, min(until, ended) - max(since, begun)) / max(ended - begun, 0.001)
