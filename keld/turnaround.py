"""Turnaround: how long a lane takes.

On the road: `price`, **`turnaround`** -> `plan`.  Pure: what was observed comes in as an argument.
Before anything was observed the priors are used: heavy-tailed for batches (most within the hour, some only near the provider's
24 h limit); providers and public observations of Oct 2026 say no more than that.  Later, observations outweigh them.

A batch that is still running is information too: it takes longer than its age.  Without it only the quick batches would be learned from,
just when a provider stalls; so the estimate is that of Kaplan and Meier, over ended and running batches and the points of the prior.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import pairwise
from operator import itemgetter

from keld.price import Lane

_PRIOR = {
    Lane.BATCH: ((0.0, 60), (0.5, 3_600), (0.9, 8 * 3_600), (0.99, 24 * 3_600), (1.0, 24 * 3_600)),
    Lane.FLEX: ((0.0, 10), (0.5, 120), (0.9, 600), (0.99, 1_800), (1.0, 3_600)),
    Lane.STANDARD: ((0.0, 1), (0.5, 5), (0.9, 30), (0.99, 120), (1.0, 600)),
}
_PRIOR_WEIGHT = 5.0  # how many observations the prior is worth
_PRIOR_POINTS = 200
_SUMMED = 50  # points of each of two turnarounds that are added up


@dataclass(frozen=True, slots=True, kw_only=True)
class Turnaround:
    """Seconds from submission to results, by share, learned from one provider, model and lane.

    Args:
        observed: of those that ended, sorted.
        running: the ages of those that are still running, sorted.
    """

    lane: Lane
    observed: tuple[float, ...] = ()
    running: tuple[float, ...] = ()
    _curve: tuple[tuple[float, float], ...] = field(default=(), repr=False, compare=False)  # (seconds, share back by then), both ascending

    def quantile(self, q: float) -> timedelta:
        """The span within which a share `q` of submissions end."""
        if not self._curve:
            return timedelta(seconds=_interpolate(_PRIOR[self.lane], q))
        at = bisect_left(self._curve, q - 1e-9, key=itemgetter(1))
        return timedelta(seconds=self._curve[min(at, len(self._curve) - 1)][0])

    def after(self, first: Turnaround) -> Turnaround:
        """The time of one submission that is made when another one, `first`, has ended."""
        ends = sorted(a + b for a in first._points() for b in self._points())
        share = 1 / _SUMMED**2
        return replace(self, _curve=tuple((seconds, (n + 1) * share) for n, seconds in enumerate(ends)))

    def _points(self) -> list[float]:
        """The seconds at evenly spread shares, as far as so many are known to end."""
        shares = [(n + 0.5) / _SUMMED for n in range(_SUMMED)]
        most = self._curve[-1][1] if self._curve else 1.0
        return [self.quantile(share).total_seconds() for share in shares if share <= most + 1e-9]

    def total(self, age: timedelta, q: float) -> timedelta:
        """The span from submission to results within which a share `q` of those end that, as this one, have not ended at `age`."""
        before = self.chance(age)
        return max(self.quantile(before + q * (1 - before)), age)

    def chance(self, span: timedelta) -> float:
        """The share of submissions that end within `span`."""
        if not self._curve:
            return max((q / 100 for q in range(101) if self.quantile(q / 100) <= span), default=0.0)
        ended = bisect_right(self._curve, span.total_seconds(), key=itemgetter(0))
        return self._curve[ended - 1][1] if ended else 0.0


def turnaround(lane: Lane, seconds: Sequence[float] = (), running: Sequence[float] = ()) -> Turnaround:
    """`Turnaround` of a lane, given what was observed, in seconds, in any order."""
    observed, ages = tuple(sorted(seconds)), tuple(sorted(running))
    curve = _kaplan_meier(lane, observed, ages) if observed or ages else ()
    return Turnaround(lane=lane, observed=observed, running=ages, _curve=curve)


def _kaplan_meier(lane: Lane, observed: Sequence[float], running: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """(seconds, share ended by then), for each age at which a submission ended."""
    weight = _PRIOR_WEIGHT / _PRIOR_POINTS
    prior = [(_interpolate(_PRIOR[lane], (n + 0.5) / _PRIOR_POINTS), True, weight) for n in range(_PRIOR_POINTS)]
    seen = [(seconds, True, 1.0) for seconds in observed] + [(age, False, 1.0) for age in running]
    points = sorted(prior + seen, key=lambda point: (point[0], not point[1]))  # at equal ages, ended ones count before running ones
    at_risk, out, curve = sum(point[2] for point in points), 1.0, []
    for seconds, ended, weight in points:
        if ended:
            out *= max(0.0, 1 - weight / at_risk)
            curve.append((seconds, 1 - out))
        at_risk = max(at_risk - weight, 1e-12)
    return tuple(curve)


def _interpolate(points: Sequence[tuple[float, float]], q: float) -> float:
    for (q0, s0), (q1, s1) in pairwise(points):
        if q <= q1:
            return s0 + (s1 - s0) * (q - q0) / (q1 - q0)
    return points[-1][1]
