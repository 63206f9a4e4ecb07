"""Rate: how many realtime calls and tokens a minute a service takes before it answers 429.

A bucket for the calls and one for the tokens of each model, as large as a minute's worth and filled without pause by the emulator's
clock, which is how both services describe theirs (platform.openai.com/docs/guides/rate-limits, platform.claude.com/docs/en/api/rate-limits,
Nov 2026).  A call that is refused takes nothing out.
"""

import math
from dataclasses import dataclass, field

from .clock import Clock


@dataclass(frozen=True, kw_only=True)
class Level:
    """How full a bucket is; `reset_s` until it is full, `wait_s` until the call would have fitted (0: it did)."""

    limit: int
    left: int
    reset_s: float
    wait_s: float = 0.0


@dataclass(kw_only=True)
class Bucket:
    limit: int
    left: float
    at: float

    def fill(self, now: float) -> None:
        self.left = min(self.limit, self.left + (now - self.at) * self.limit / 60)
        self.at = now

    def level(self, wanted: int) -> Level:
        # A call larger than a whole minute's worth never fits, and still gets a time to wait, as at the services.
        wait = max(0.0, (wanted - self.left) * 60 / self.limit)
        return Level(limit=self.limit, left=max(0, int(self.left)), reset_s=(self.limit - self.left) * 60 / self.limit, wait_s=wait)


@dataclass(frozen=True, kw_only=True)
class Rates:
    """The limits in force; used on the server's event loop only."""

    clock: Clock
    requests_per_minute: int | None
    tokens_per_minute: int | None
    buckets: dict[tuple[str, str, str], Bucket] = field(default_factory=dict)

    def admit(self, provider: str, model: str, tokens: int) -> dict[str, Level]:
        """The levels of `requests` and `tokens`, as far as they are limited, after this call; those with `wait_s` have refused it."""
        now = self.clock.time()
        asked = {"requests": (self.requests_per_minute, 1), "tokens": (self.tokens_per_minute, tokens)}
        found: dict[str, tuple[Bucket, int]] = {}
        for kind, (limit, wanted) in asked.items():
            if limit is not None:
                bucket = self.buckets.setdefault((provider, model, kind), Bucket(limit=limit, left=limit, at=now))
                bucket.fill(now)
                found[kind] = bucket, wanted
        levels = {kind: bucket.level(wanted) for kind, (bucket, wanted) in found.items()}
        if any(level.wait_s for level in levels.values()):
            return levels
        for bucket, wanted in found.values():
            bucket.left -= wanted
        return {kind: bucket.level(0) for kind, (bucket, _) in found.items()}


def span(seconds: float) -> str:
    """A span as OpenAI writes it: `6ms`, `1.5s`, `2m59.56s`, `1h0m0s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds, 3), 60)
    hours, minutes = divmod(int(minutes), 60)
    tail = f"{rest:.3f}".rstrip("0").rstrip(".") + "s"
    return (f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else "") + tail
