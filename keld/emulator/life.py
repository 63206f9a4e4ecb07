"""Life: the statuses of a batch, and how long it stays in each.

The statuses are the emulator's own; a service shows them as its own.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]
ENDED: frozenset[Status] = frozenset(("failed", "completed", "expired", "cancelled"))
WINDOW_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How long a batch takes, in seconds of the emulator's clock."""

    latency_s: float = 0.0
    rows_per_s: float | None = None
    validate_s: float = 0.0
    finalize_s: float = 0.0
    cancel_s: float | None = None

    def duration_s(self, rows: int) -> float:
        return max(self.latency_s, rows / self.rows_per_s if self.rows_per_s else 0.0)

    def cancelling_s(self) -> float:
        # Requests in flight finish first: up to ten minutes at OpenAI, so a tenth of the latency, ten minutes at most.
        return min(self.latency_s / 10, 600.0) if self.cancel_s is None else self.cancel_s


class Phase(NamedTuple):
    """The state of a batch at one instant."""

    status: Status
    done: int
    """Rows finished so far."""
    ended_at: float | None = None
    finalizing_at: float | None = None

    @property
    def ended(self) -> bool:
        return self.status in ENDED
