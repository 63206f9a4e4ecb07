"""Throttle: how many requests at once, and how fast, so that a provider rarely has to reject one.

Beside the road, below `loop`.  Pure: instants come in as seconds of any clock that does not go backwards.
Two limits.  The number at once grows with each answer and is halved by a rejection, like TCP's window: once for all requests that were
in flight, since they met the same limit.  And each reply's rate-limit headers set a token bucket that is filled at the rate they report; requests
in flight are subtracted first, as the provider may not have counted them yet.  Replies come in another order than the provider counted in, so
a report does not replace what was known: it only says between which two levels the bucket is.  Without headers, only the first limit applies.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

from keld.providers.base import Load, Quota

_BACKOFF_S = (1.0, 60.0)  # the first wait after a rejection that names no wait, and the longest


class _Sum(NamedTuple):
    """So many requests, of so many tokens together."""

    requests: int
    tokens: float

    def plus(self, other: _Sum, sign: int = 1) -> _Sum:
        return _Sum(self.requests + sign * other.requests, self.tokens + sign * other.tokens)

    def of(self, kind: str) -> float:
        return self.tokens if kind == "tokens" else self.requests


class _Begun(NamedTuple):
    """A request in flight, and what had ended when it began."""

    size: _Sum
    ended: _Sum


@dataclass(slots=True)
class _Bucket:
    limit: float
    left: float
    per_s: float
    at: float

    def wait(self, wanted: float, now: float) -> float:
        """Seconds until `wanted` fits; if it is larger than the bucket, until the bucket is full."""
        missing = min(wanted, self.limit) - self.filled(now)
        return 0.0 if missing <= 0 else missing / self.per_s if self.per_s else inf

    def take(self, wanted: float, now: float) -> None:
        self.left, self.at = self.filled(now) - wanted, now

    def filled(self, now: float) -> float:
        return min(self.limit, self.left + (now - self.at) * self.per_s)


class Throttle:
    """The throttle of one realtime run.

    Args:
        begin_with, most: requests at once.
    """

    def __init__(self, begin_with: int, most: int) -> None:
        self.at_once = float(min(begin_with, most))
        self._most = most
        self._buckets: dict[str, _Bucket] = {}
        self._resume_at = -inf
        self._number = self._cut_at = 0
        self._begun = self._ended = _Sum(0, 0)  # all of them
        self._in_flight: dict[int, _Begun] = {}
        self._rejections = 0  # consecutive ones; one for all requests that were in flight together

    def wait(self, now: float, in_flight: int, tokens: float) -> float | None:
        """Seconds until one more request of `tokens` may begin; None: not before one in flight has ended."""
        if in_flight >= int(self.at_once):
            return None
        one = _Sum(1, tokens)
        return max(0.0, self._resume_at - now, *(bucket.wait(one.of(kind), now) for kind, bucket in self._buckets.items()))

    def begin(self, now: float, tokens: float) -> int:
        """The serial number of a request that begins now, after it was counted against the limits."""
        one = _Sum(1, tokens)
        for kind, bucket in self._buckets.items():
            bucket.take(one.of(kind), now)
        self._number += 1
        self._begun = self._begun.plus(one)
        self._in_flight[self._number] = _Begun(one, self._ended)
        return self._number

    def on_quotas(self, number: int, quotas: Mapping[str, Quota], now: float) -> None:
        """Takes note of the limits that the reply to request `number`, still in flight, reported.

        The provider counted this request at an unknown moment of its flight.  At least what is still in flight beside it may be missing in
        what is left; at most all that was in flight beside it at any time.
        """
        asked = self._in_flight[number]
        others = self._begun.plus(asked.size, -1)
        least, most = others.plus(self._ended, -1), others.plus(asked.ended, -1)
        for kind, quota in quotas.items():
            per_s = (quota.limit - quota.left) / quota.reset_s if quota.reset_s else inf
            # A full bucket gives no rate; the limits are per minute, so the bucket is filled once a minute.
            per_s = per_s if 0 < per_s < inf else quota.limit / 60
            highest, lowest = quota.left - least.of(kind), quota.left - most.of(kind)
            known = self._buckets.get(kind)
            left = highest if known is None else max(lowest, min(highest, known.filled(now)))
            self._buckets[kind] = _Bucket(quota.limit, left, per_s, now)

    def on_success(self, number: int, now: float, work: float, in_flight: int) -> None:
        """Raises the number at once after an answer: by 0.25 until the first rejection, then by 1 / number.

        Args:
            in_flight: requests in flight, this one included.
        """
        self._end(number)
        self._rejections = 0
        if in_flight + 1 >= int(self.at_once) // 2:  # else something other than this number limits the run
            self.at_once = min(self._most, self.at_once + (1 / self.at_once if self._cut_at else 0.25))

    def on_rejected(self, number: int, now: float, retry_after_s: float | None) -> None:
        """Halves the number at once after request `number` was rejected; the next begins after the wait that the provider names.

        A provider that names a wait and rejects the next request all the same is not believed: the wait then grows as if it had named none.
        """
        self._end(number)
        if number > self._cut_at:
            self.at_once = max(1.0, self.at_once / 2)
            self._cut_at = self._number
            self._rejections += 1
        first, longest = _BACKOFF_S
        backoff = min(longest, first * 2 ** (self._rejections - 1)) * random.uniform(1, 1.25)  # noqa: S311  to spread workers, no secret
        named = retry_after_s or backoff
        self._resume_at = max(self._resume_at, now + (named if self._rejections <= 1 else max(named, backoff)))

    def on_load(self, load: Load) -> None:
        """Nothing: a provider does not show how busy it is."""

    def timeout_s(self, usual_s: float) -> float:
        """Seconds that one request may take."""
        return usual_s

    def _end(self, number: int) -> None:
        asked = self._in_flight.pop(number, None)
        if asked is not None:
            self._ended = self._ended.plus(asked.size)
