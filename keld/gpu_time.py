"""Gpu_time: what the time of a machine costs, where answers are priced by the hour and not by the token.

On the road: `speed` -> **`gpu_time`** -> `plan`; `answer` splits the cost over the rows.  Pure.
A host of one's own is paid while it is busy, so a row is the cheaper the fuller the host is.  What rows will cost is known only once the speed of the
model there was measured; before that, it is at most the rate times the time until the latest end.  The worst case is exact at any time: money is
reserved for a span, and the run ends itself when the span is used up (`runner/meter`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise

import msgspec

LEAST = timedelta(minutes=5)  # a run with less time than this would mostly be its own beginning and end
_LONGEST = timedelta(days=1)  # of a run without a deadline
_SLOWER = 3  # times the expected time: beyond it, the money is reserved anew
_MORE = timedelta(minutes=10)
PICO_USD = Decimal("1e-12")

Share = tuple[float, float, float]
"""(from, to, share): the part of a host's time between two instants (seconds) that one run has paid."""


def usd_of(usd_an_hour: Decimal, span: timedelta | float) -> Decimal:
    """The cost of a span (or seconds) of the host's time, as the ledger stores it."""
    seconds = span.total_seconds() if isinstance(span, timedelta) else span
    return (usd_an_hour * Decimal(repr(seconds)) / 3600).quantize(PICO_USD)


class GpuTime(msgspec.Struct, frozen=True, kw_only=True):
    """The time of a host for some rows, and its price.

    Args:
        usd_an_hour: of the host.
        rows_per_s: as measured there with this model; None: it never ran.
        until: from now to the latest end; None: there is none.
        left_usd: what may still be spent; None: no ceiling.
    """

    usd_an_hour: Decimal
    rows_per_s: float | None
    until: timedelta | None = None
    left_usd: Decimal | None = None

    def expected_usd(self, rows: int) -> Decimal:
        """The expected cost; the worst case if the speed is not known."""
        return self.worst_usd(rows) if self.rows_per_s is None else usd_of(self.usd_an_hour, rows / self.rows_per_s)

    def worst_usd(self, rows: int) -> Decimal:
        """What is reserved: never less than for a run that is worth it, and else no more than may still be spent."""
        least, most = usd_of(self.usd_an_hour, LEAST), usd_of(self.usd_an_hour, self._most(rows))
        return most if self.left_usd is None else max(least, min(most, self.left_usd))

    def note(self, rows: int) -> str:
        """What a person should know about the cost of so many rows."""
        rate = f"${self.usd_an_hour.normalize():f} for each hour that the host is busy"
        if self.rows_per_s is None:
            return f"{rate}; unknown before its first run, at most ${self.worst_usd(rows):.2f}"
        return f"{rate}, at {self.rows_per_s:,.1f} rows/s as measured"

    def _most(self, rows: int) -> timedelta:
        """The longest that a run over these rows may last before its money is reserved anew."""
        until = max(LEAST, min(self.until or _LONGEST, _LONGEST))
        if self.rows_per_s is None:
            return until
        return timedelta(seconds=rows / self.rows_per_s) * _SLOWER + _MORE


def share(begun: float, ended: float, paid: Sequence[Share], beside: Sequence[tuple[float, float]]) -> list[Share]:
    """The part of the host's time that a run pays: together, all runs pay each instant once.

    Args:
        begun, ended: of the run, in seconds.
        paid: what other runs have paid already.
        beside: (begun, ended) of other runs that have not paid yet: at each instant, what is left is split evenly among them and this one.
    """
    edges = sorted({begun, ended, *(edge for since, until, *_ in (*paid, *beside) for edge in (since, until) if begun < edge < ended)})
    found = []
    for since, until in pairwise(edges):
        middle = (since + until) / 2
        left = 1.0 - sum(part for from_, to, part in paid if from_ <= middle < to)
        sharing = 1 + sum(from_ <= middle < to for from_, to in beside)
        if left > 1e-9:
            found.append((since, until, left / sharing))
    return found


class Split:
    """Divides the cost of a run among its answers by weight, exactly: the parts add up to the whole.

    Args:
        usd: the cost of all.
        weight: of all answers together.
    """

    def __init__(self, usd: Decimal, weight: int) -> None:
        self.usd = usd
        self._pico, self._weight = int(usd / PICO_USD), max(weight, 1)
        self._seen = self._given = 0

    def take(self, weights: Sequence[int]) -> list[int]:
        """The pico-dollars of the next answers."""
        found = []
        for weight in weights:
            self._seen += weight
            upto = self._pico * min(self._seen, self._weight) // self._weight
            found.append(upto - self._given)
            self._given = upto
        return found
