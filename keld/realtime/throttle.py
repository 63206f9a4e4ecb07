"""Throttle: how many requests at once, and how fast, so that a provider rarely has to reject one.

Beside the road, below `loop`.  Pure: instants come in as seconds of any clock that does not go backwards.
Two limits.  The number at once grows with each answer and is halved by a rejection, like TCP's window: once for all requests that were
in flight, since they met the same limit.  And each reply's rate-limit headers set a token bucket that is filled at the rate they report; requests
in flight are subtracted first, as the provider may not have counted them yet.  Without headers, only the first limit applies.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from keld.providers.base import Load, Quota

_BACKOFF_S = (1.0, 60.0)  # the first wait after a rejection that names no wait, and the longest


@dataclass(slots=True)
class _Bucket:
    limit: float
    left: float
    per_s: float
    at: float

    def wait(self, wanted: float, now: float) -> float:
        """Seconds until `wanted` fits; if it is larger than the bucket, until the bucket is full."""
        missing = min(wanted, self.limit) - self._filled(now)
        return 0.0 if missing <= 0 else missing / self.per_s if self.per_s else inf

    def take(self, wanted: float, now: float) -> None:
        self.left, self.at = self._filled(now) - wanted, now

    def _filled(self, now: float) -> float:
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
        self._begun = self._cut_at = 0
        self._rejections = 0  # consecutive ones; one for all requests that were in flight together

    def wait(self, now: float, in_flight: int, tokens: float) -> float | None:
        """Seconds until one more request of `tokens` may begin; None: not before one in flight has ended."""
        if in_flight >= int(self.at_once):
            return None
        waits = [bucket.wait(_wanted(kind, 1, tokens), now) for kind, bucket in self._buckets.items()]
        return max(0.0, self._resume_at - now, *waits)

    def begin(self, now: float, tokens: float) -> int:
        """The serial number of a request that begins now, after it was counted against the limits."""
        for kind, bucket in self._buckets.items():
            bucket.take(_wanted(kind, 1, tokens), now)
        self._begun += 1
        return self._begun

    def on_quotas(self, quotas: Mapping[str, Quota], now: float, in_flight: int, tokens: float) -> None:
        """Sets the limits that a reply reported, less `in_flight` other requests of `tokens` together."""
        for kind, quota in quotas.items():
            per_s = (quota.limit - quota.left) / quota.reset_s if quota.reset_s else inf
            # A full bucket gives no rate; the limits are per minute, so the bucket is filled once a minute.
            per_s = per_s if 0 < per_s < inf else quota.limit / 60
            self._buckets[kind] = _Bucket(quota.limit, quota.left - _wanted(kind, in_flight, tokens), per_s, now)

    def on_success(self, number: int, now: float, work: float, in_flight: int) -> None:
        """Raises the number at once after an answer: by 0.25 until the first rejection, then by 1 / number.

        Args:
            in_flight: requests in flight, this one included.
        """
        self._rejections = 0
        if in_flight + 1 >= int(self.at_once) // 2:  # else something other than this number limits the run
            self.at_once = min(self._most, self.at_once + (1 / self.at_once if self._cut_at else 0.25))

    def on_rejected(self, number: int, now: float, retry_after_s: float | None) -> None:
        """Halves the number at once after request `number` was rejected; the next begins after the wait that the provider names."""
        if number > self._cut_at:
            self.at_once = max(1.0, self.at_once / 2)
            self._cut_at = self._begun
            self._rejections += 1
        first, longest = _BACKOFF_S
        backoff = min(longest, first * 2 ** (self._rejections - 1)) * random.uniform(1, 1.25)  # noqa: S311  to spread workers, no secret
        self._resume_at = max(self._resume_at, now + (retry_after_s or backoff))

    def on_load(self, load: Load) -> None:
        """Nothing: a provider does not show how busy it is."""

    def timeout_s(self, usual_s: float) -> float:
        """Seconds that one request may take."""
        return usual_s


def _wanted(kind: str, requests: int, tokens: float) -> float:
    return tokens if kind == "tokens" else requests
