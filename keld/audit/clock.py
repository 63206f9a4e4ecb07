"""Clock: when the calls of a group come: its runs, whether they keep a time of the day or the hour, and whether a program waits for each answer.

Pure, over sorted arrays.  All instants are microseconds since 1970 in UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from zoneinfo import ZoneInfo

import numpy as np

from keld.audit.record import NONE, Floats, Ints

SECOND = 1_000_000
MINUTE, HOUR, DAY = 60 * SECOND, 3_600 * SECOND, 86_400 * SECOND
_SILENCE = 20 * MINUTE  # between two runs
_RUN_CALLS = 20  # fewer are no run
_RUN_SHARE = 0.9  # of the calls must be in runs
_RUNS = {
    DAY: 4,
    HOUR: 8,
}  # fewer starts say nothing about a clock: three of four fall within 2 minutes of the hour once in eighty by chance
_SHORT = 5 * MINUTE
_SLICES = 200  # of runs together: with fewer, what comes at random may look even
_LENGTH_MOST = 0.25  # of the time between two starts: what goes on for longer may be the hours in which a service is open
_SAME = 2 * MINUTE
_CLOSE = SECOND // 10  # a program that waits for an answer asks again within this
_AROUND = 30 * SECOND  # on each side of a call, for the rate at which chance would bring an end just before a start
_COARSE = 5 * MINUTE  # the start of a run is not known from wider buckets, nor where instants were rounded to more


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """The runs of a group: clusters of calls after a silence.

    Args:
        starts, lengths: of each run, in microseconds.
        usd: of each run, at list prices.
        calls: of each run.
        share: of the calls that are in runs.
        same: the share of the runs that start within the same two minutes of `period`.
        period: `day` or `hour`; None: there are too few runs.
    """

    starts: Ints
    lengths: Ints
    usd: Floats
    calls: Ints
    share: float
    same: float
    period: str | None

    @property
    def every(self) -> timedelta | None:
        """The usual span from the start of a run to that of the next."""
        return timedelta(microseconds=int(np.median(np.diff(self.starts)))) if len(self.starts) > 1 else None

    @property
    def usual_length(self) -> timedelta:
        return timedelta(microseconds=int(np.median(self.lengths))) if len(self.lengths) else timedelta()


def runs(at: Ints, end: Ints, usd: Floats, width: int, zone: ZoneInfo) -> Runs:
    """The runs of sorted calls; of wide buckets there are none."""
    begins = np.flatnonzero(np.diff(at, prepend=at[0] - DAY) > max(_SILENCE, width * 3 // 2)) if len(at) else np.zeros(0, np.int64)
    sizes = np.diff(begins, append=len(at))
    last = np.maximum(np.where(end == NONE, at + width, end), at)
    kept = np.flatnonzero(sizes >= (1 if width else _RUN_CALLS))
    starts = at[begins][kept] if len(at) else at
    sums = np.add.reduceat(usd, begins)[kept] if len(at) else usd
    lengths = (np.maximum.reduceat(last, begins)[kept] - starts) if len(at) else at
    share = float(sizes[kept].sum() / len(at)) if len(at) else 0.0
    same, period = (0.0, None) if (width or rounding(at)) > _COARSE else _regular(starts, zone)
    return Runs(starts=starts, lengths=lengths, usd=sums, calls=sizes[kept], share=share, same=same, period=period)


def by_clock(found: Runs) -> bool:
    """True if the runs keep a time, hold nearly all calls, and are short beside the time between them.

    A service that is closed at night, or that is maintained at 3:00, has runs that begin on time, too: these last for most of the day.
    """
    if found.period is None or found.every is None or found.share < _RUN_SHARE or found.same < 0.6:
        return False
    return found.usual_length <= found.every * _LENGTH_MOST


def is_short(found: Runs) -> bool:
    """True if the calls of a run come at once: no people do that day by day."""
    return bool(len(found.lengths)) and float(np.median(found.lengths)) <= _SHORT


def dispersion(at: Ints, found: Runs) -> float | None:
    """How evenly the calls of runs are spread over them: 0 evenly, as a program asks; 1 at random, as people come; None: the log cannot tell.

    The variance of the calls in a slice of a run over their mean, from neighbouring slices, so that a rate that drifts does no harm.
    """
    total, weight = 0.0, 0
    for start, length, calls in zip(found.starts.tolist(), found.lengths.tolist(), found.calls.tolist(), strict=True):
        slices = min(calls // 4, 50)
        if slices < 2 or not length:
            continue
        begin = np.searchsorted(at, start)
        inside = at[begin : begin + calls]
        counts, _ = np.histogram(inside, bins=slices, range=(start, int(inside[-1]) + 1))
        total += float((np.diff(counts) ** 2).sum()) / 2 / (calls / slices)
        weight += slices - 1
    return total / weight if weight >= _SLICES else None


def rounding(at: Ints) -> int:
    """The microseconds to which instants were rounded, of those that hide a clock or make one up; 0: to less than 5 minutes."""
    return next((step for step in (DAY, HOUR, 15 * MINUTE, 10 * MINUTE) if len(at) and not (at % step).any()), 0)


def _regular(starts: Ints, zone: ZoneInfo) -> tuple[float, str | None]:
    local = starts + _offset(starts, zone)
    spans = [(span, name) for span, name in ((DAY, "day"), (HOUR, "hour")) if len(starts) >= _RUNS[span]]
    found = [(_same(local % span, span), name) for span, name in spans]
    return max(found, key=lambda one: one[0], default=(0.0, None))  # at a tie, the day


def _same(phase: Ints, span: int) -> float:
    """The largest share of instants on a circle that lie within two minutes."""
    phase = np.sort(phase)
    around = np.concatenate([phase, phase + span])
    within = np.searchsorted(around, phase + _SAME, side="right") - np.arange(len(phase))
    return float(within.max() / len(phase))


def _offset(at: Ints, zone: ZoneInfo) -> Ints:
    """What a zone is ahead of UTC at each instant; looked up once a day."""
    from datetime import UTC, datetime

    days, inverse = np.unique(at // DAY, return_inverse=True)
    ahead = [datetime.fromtimestamp(day * 86_400 + 43_200, UTC).astimezone(zone).utcoffset() or timedelta() for day in days.tolist()]
    return np.array([int(one.total_seconds()) * SECOND for one in ahead], dtype=np.int64)[inverse]


def at_night(at: Ints, zone: ZoneInfo) -> float:
    """The share of calls between 22 and 6 h local time."""
    hour = (at + _offset(at, zone)) % DAY // HOUR
    return float(((hour >= 22) | (hour < 6)).mean()) if len(at) else 0.0


def days_active(at: Ints, zone: ZoneInfo) -> int:
    return len(np.unique((at + _offset(at, zone)) // DAY)) if len(at) else 0


def closed_loop(at: Ints, end: Ints) -> float | None:
    """How much more often than chance would have it a call starts within 100 ms after another ended, from 0 to 1; None: the log cannot tell.

    The chance is that of the rate around the call, so that a busy minute proves nothing.
    """
    if len(at) < _RUN_CALLS or (end == NONE).mean() > 0.1 or not (at % SECOND).any():
        return None  # too few calls, no ends, or instants of whole seconds
    ends = np.sort(end[end != NONE])
    just = np.searchsorted(ends, at, side="right") - np.searchsorted(ends, at - _CLOSE, side="left") > 0
    around = np.searchsorted(ends, at + _AROUND, side="right") - np.searchsorted(ends, at - _AROUND, side="left")
    chance = float((1 - np.exp(-around * (_CLOSE / (2 * _AROUND)))).mean())
    if chance > 0.95:
        return None
    return float((just.mean() - chance) / (1 - chance))


def pause(at: Ints, end: Ints, session: Ints) -> tuple[float, int] | None:
    """(the median pause between an answer and the next call of its session in seconds, how many pauses); None: there are no sessions."""
    order = np.lexsort((at, session))
    at, end, session = at[order], end[order], session[order]
    same = (session[1:] == session[:-1]) & (session[1:] != 0) & (end[:-1] != NONE)
    between = (at[1:] - end[:-1])[same]
    between = between[(between >= 0) & (between < HOUR)]
    return (float(np.median(between)) / SECOND, len(between)) if len(between) >= _RUN_CALLS else None


def chain(at: Ints, end: Ints, trace: Ints) -> tuple[float, float]:
    """(the share of the calls that are rounds of a chain, the median number of rounds).

    A chain is a trace of 2 to 50 calls, each begun after the one before had ended.  A longer one is a run of many rows.
    """
    known = (trace != 0) & (end != NONE)
    if not known.any():
        return 0.0, 0.0
    order = np.lexsort((at[known], trace[known]))
    at_, end_, trace_ = at[known][order], end[known][order], trace[known][order]
    begins = np.flatnonzero(np.diff(trace_, prepend=trace_[0] - 1) != 0)
    sizes = np.diff(begins, append=len(trace_))
    overlaps = np.concatenate([[0], (at_[1:] < end_[:-1]) & (trace_[1:] == trace_[:-1])]).astype(np.int64)
    chained = (sizes >= 2) & (sizes <= 50) & (np.add.reduceat(overlaps, begins) == 0)
    return float(sizes[chained].sum() / len(at)), float(np.median(sizes[chained])) if chained.any() else 0.0
