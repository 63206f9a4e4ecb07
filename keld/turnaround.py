"""Turnaround: how long a lane takes.

On the road: `price`, **`turnaround`** -> `plan`.  Pure: what was observed comes in as an argument.
Before anything was observed the priors speak: heavy-tailed for batches (most within the hour, some only near the provider's
24 h limit), which is what providers and public observations of Oct 2026 say, and all they say.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise

from keld.price import Lane

_PRIOR = {
    Lane.BATCH: ((0.0, 60), (0.5, 3_600), (0.9, 8 * 3_600), (0.99, 24 * 3_600), (1.0, 24 * 3_600)),
    Lane.FLEX: ((0.0, 10), (0.5, 120), (0.9, 600), (0.99, 1_800), (1.0, 3_600)),
    Lane.STANDARD: ((0.0, 1), (0.5, 5), (0.9, 30), (0.99, 120), (1.0, 600)),
}
_PRIOR_WEIGHT = 5  # how many observations the prior is worth


@dataclass(frozen=True, slots=True, kw_only=True)
class Turnaround:
    """Seconds from submission to results, by quantile, learned from `observed` batches of one provider, model and lane."""

    lane: Lane
    observed: tuple[float, ...] = ()  # seconds, sorted

    def quantile(self, q: float) -> timedelta:
        """The span within which a share `q` of submissions come back: the prior's, drawn to the observed one as those grow."""
        prior = _interpolate(_PRIOR[self.lane], q)
        n = len(self.observed)
        if n == 0:
            return timedelta(seconds=prior)
        seen = self.observed[min(n - 1, int(q * n))]
        weight = n / (n + _PRIOR_WEIGHT)
        return timedelta(seconds=weight * seen + (1 - weight) * prior)

    def chance(self, span: timedelta) -> float:
        """The share of submissions that come back within `span`: the inverse of `quantile`, to a hundredth."""
        return max((q / 100 for q in range(101) if self.quantile(q / 100) <= span), default=0.0)


def turnaround(lane: Lane, seconds: Sequence[float] = ()) -> Turnaround:
    """`Turnaround` of a lane, given what was observed, in seconds, in any order."""
    return Turnaround(lane=lane, observed=tuple(sorted(seconds)))


def _interpolate(points: Sequence[tuple[float, float]], q: float) -> float:
    for (q0, s0), (q1, s1) in pairwise(points):
        if q <= q1:
            return s0 + (s1 - s0) * (q - q0) / (q1 - q0)
    return points[-1][1]
