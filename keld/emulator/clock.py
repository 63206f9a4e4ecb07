"""Clock: the one clock of the emulator, which a test may advance.

Everything that happens by itself (a batch advancing, a file expiring, a late create) is computed from this
clock at each call; nothing sleeps.  Inside the emulator an instant is unix seconds, as on OpenAI's wire; what
leaves through the public API is an aware UTC `datetime`.
"""

import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache


class Clock:
    """Real time plus an offset; or, frozen, an instant that only `advance` moves."""

    def __init__(self, *, frozen: bool = False) -> None:
        self._frozen_at = time.time() if frozen else None
        self._offset_s = 0.0

    def __repr__(self) -> str:
        return f"<Clock {self.now().isoformat()}{' frozen' if self._frozen_at is not None else ''}>"

    def time(self) -> float:
        """Unix seconds."""
        return (time.time() if self._frozen_at is None else self._frozen_at) + self._offset_s

    def now(self) -> datetime:
        return instant(self.time())

    def advance(self, span: float | timedelta) -> datetime:
        """The instant after advancing the clock by `span` (seconds or a `timedelta`, not negative)."""
        seconds = span.total_seconds() if isinstance(span, timedelta) else float(span)
        if not seconds >= 0:
            raise ValueError(f"the clock only turns forward; got {seconds} s")
        self._offset_s += seconds
        return self.now()


@lru_cache(maxsize=1)  # the rows of a batch without latency all finish at one instant
def instant(unix_s: float) -> datetime:
    """The aware UTC datetime of unix seconds."""
    return datetime.fromtimestamp(unix_s, UTC)
