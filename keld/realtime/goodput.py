"""Goodput: how many requests at once keep an engine of the user's own full, learned from how much it answers.

Beside `throttle`, below `loop`.  Pure: instants come in as seconds of any clock that does not go backwards.
A server that serves itself (vLLM, SGLang, llama.cpp) rarely says "too much": by default it queues without bound, and only its latency grows.  So
there is nothing to learn from refusals, and the number at once is steered by the goodput: the tokens answered a second, or the rows a second
where answers have no tokens.  More at once is kept only while more is answered.

The rule works in windows: each lasts until 2 seconds are over and as many answers have come as requests are in flight, at least 20, so that a
window holds answers that began under its own number at once.  `make bench` compares it with the best fixed number on simulated engines.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf, sqrt
from statistics import median

import msgspec

from keld.providers.base import Load, Quota

_WINDOW_S = 2.0
_WINDOW_ANSWERS = 20
_RAMP_ANSWERS = 8  # until the first window that gains little: a rough figure is enough to double
_MUCH, _SOME = 0.3, 0.05  # so much more goodput than before: twice as many at once; a quarter more
_NOISE = 0.5  # by the square root of a window's answers: what answers of different lengths alone may change
_SLOWER = 1.15  # a step that made the answers this much slower and gained nothing is taken back
_TRY_EVERY = 6  # windows without a change, before a quarter more is tried: the engine may have room again
_TRY_BELOW = 3.0  # times the least latency seen: beyond it, the queue is long enough
_CUT = 0.7  # of the number at once, after a refusal or a timeout
_BACKOFF_S = (1.0, 30.0)  # the first wait after a refusal that names no wait, and the longest
_LATENCIES = 400  # of the latest answers, for the time limit
_LIMIT, _LIMIT_LEAST_S = 10, 120.0  # times the 95th percentile of the latency, which includes the wait in the engine's queue
_QUEUE = 0.25  # waiting requests, as a share of the running ones, that keep every slot full
_FULL_CACHE = 0.95  # of the key-value cache: beyond it engines begin to evict, and compute answers twice


@dataclass(slots=True)
class _Window:
    """What was answered since an instant, at one number at once."""

    begun: float
    answers: int = 0
    work: float = 0.0
    latencies: list[float] = field(default_factory=list)


class _Seen(msgspec.Struct, frozen=True):
    """What a finished window showed."""

    at_once: float
    goodput: float
    latency: float  # the median, seconds
    answers: int

    def gain(self, before: _Seen) -> float:
        """0.1: a tenth more goodput than in the window before."""
        return self.goodput / before.goodput - 1 if before.goodput else inf


class Goodput:
    """The number at once of one realtime run, by goodput.

    Args:
        begin_with, most: requests at once.
    """

    def __init__(self, begin_with: int, most: int) -> None:
        self.at_once = float(max(1, min(begin_with, most)))
        self._most = most
        self._begun_at: dict[int, float] = {}
        self._begun = self._cut_at = 0
        self._refusals = 0  # consecutive ones; one for all requests that were in flight together
        self._resume_at = -inf
        self._window: _Window | None = None
        self._before: _Seen | None = None
        self._ramping = True
        self._steady = 0  # windows without a change
        self._least_latency = inf
        self._latencies: deque[float] = deque(maxlen=_LATENCIES)
        self._load: Load | None = None

    def wait(self, now: float, in_flight: int, tokens: float) -> float | None:
        """Seconds until one more request may begin; None: not before one in flight has ended."""
        return None if in_flight >= int(self.at_once) else max(0.0, self._resume_at - now)

    def begin(self, now: float, tokens: float) -> int:
        """The serial number of a request that begins now."""
        self._begun += 1
        self._begun_at[self._begun] = now
        if self._window is None:
            self._window = _Window(now)
        return self._begun

    def on_quotas(self, number: int, quotas: Mapping[str, Quota], now: float) -> None:
        """Nothing: an engine of one's own has no quotas."""

    def on_success(self, number: int, now: float, work: float, in_flight: int) -> None:
        """Counts an answer of `work` tokens or rows; at the end of a window, changes the number at once.

        Args:
            in_flight: requests in flight, this one included.
        """
        latency = now - self._begun_at.pop(number, now)
        self._latencies.append(latency)
        self._refusals = 0
        window = self._window
        if window is None:
            return
        window.answers, window.work = window.answers + 1, window.work + work
        window.latencies.append(latency)
        if now - window.begun >= _WINDOW_S and window.answers >= max(_RAMP_ANSWERS if self._ramping else _WINDOW_ANSWERS, in_flight):
            self._window = _Window(now)
            if in_flight >= int(self.at_once) // 2:  # else something other than this number limits the run
                self._judge(_Seen(self.at_once, window.work / (now - window.begun), median(window.latencies), window.answers))

    def on_rejected(self, number: int, now: float, retry_after_s: float | None) -> None:
        """Lowers the number at once after request `number` was refused or got no reply; the next begins after the wait that the reply names."""
        self._begun_at.pop(number, None)
        self._ramping = False
        if number > self._cut_at:  # else it met the same full queue as the one before
            self.at_once = max(1.0, self.at_once * _CUT)
            self._cut_at, self._window, self._before, self._steady = self._begun, None, None, 0
            self._refusals += 1
        first, longest = _BACKOFF_S
        self._resume_at = max(self._resume_at, now + (retry_after_s or min(longest, first * 2 ** (self._refusals - 1))))

    def on_load(self, load: Load) -> None:
        """Takes note of what the engine says of its own queue; the next window uses it."""
        self._load = load

    def timeout_s(self, usual_s: float) -> float:
        """Seconds that one request may take, its wait in the engine's queue included; `usual_s` before the first answer: a model may still load."""
        if not self._latencies:
            return usual_s
        ordered = sorted(self._latencies)
        return max(_LIMIT_LEAST_S, _LIMIT * ordered[int(0.95 * (len(ordered) - 1))])

    # -- one window -------------------------------------------------------------------------------------------

    def _judge(self, seen: _Seen) -> None:
        """Changes the number at once by what a window showed, compared with the window before."""
        before, self._before = self._before, seen
        self._least_latency = min(self._least_latency, seen.latency)
        load, self._load = self._load, None
        gain = inf if before is None else seen.gain(before)
        self._ramping = self._ramping and gain >= _MUCH
        if load is not None and (load.cache_use or 0.0) > _FULL_CACHE:
            self._change(seen, self.at_once * _CUT)
        elif load is not None and load.waiting > max(1.0, load.running) * 2:
            self._change(seen, min(self.at_once, load.running * (1 + _QUEUE)))
        elif before is None or gain >= _MUCH:
            self._change(seen, self.at_once * 2)
        elif gain >= max(_SOME, _NOISE / sqrt(seen.answers)) or (load is not None and load.waiting == 0):
            self._change(seen, self.at_once * 1.25)
        elif before.at_once < seen.at_once and seen.latency >= before.latency * _SLOWER:
            self._change(before, before.at_once)
        else:
            self._hold(seen, load)

    def _hold(self, seen: _Seen, load: Load | None) -> None:
        self._steady += 1
        queued = load is not None and load.waiting >= load.running * _QUEUE
        if self._steady % _TRY_EVERY == 0 and seen.latency < self._least_latency * _TRY_BELOW and not queued:
            self._change(seen, self.at_once * 1.25)

    def _change(self, base: _Seen, to: float) -> None:
        """Sets the number at once; the next window is compared with `base`."""
        self._before, self._steady = base, 0
        self.at_once = max(1.0, min(float(self._most), max(to, self.at_once + 1) if to > self.at_once else to))
