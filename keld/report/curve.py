"""Curve: how long each model took in each lane, with what is planned with and the prior beside; pure."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime

from keld.ledger import Timing
from keld.price import Lane
from keld.report.book import Book
from keld.state import AT_PROVIDER
from keld.turnaround import Turnaround, turnaround

COMPLETED = "completed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The turnaround of one model in one lane.

    Args:
        completed_s: seconds from submission to end of the shards that completed, sorted.
        others: how many expired, failed, were cancelled, or are still running.
        learned: the estimate from all of them and the prior; a plan uses that of the latest 200 at its host.
    """

    provider: str
    model: str
    lane: Lane
    completed_s: tuple[float, ...]
    others: int
    learned: Turnaround

    @property
    def name(self) -> str:
        return f"{self.provider}:{self.model}"

    @property
    def median_s(self) -> float | None:
        """The observed median; None if none completed."""
        return self.completed_s[(len(self.completed_s) - 1) // 2] if self.completed_s else None


def curves_of(book: Book) -> tuple[Curve, ...]:
    """One curve for each model and lane in which something was sent, those with most shards first within a lane."""
    spans: defaultdict[tuple[Lane, str, str], tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for timing in book.timings:
        if timing.submitted_at is not None and (timing.ended is not None or timing.state in AT_PROVIDER):
            completed, others = spans[Lane(timing.lane), timing.provider, timing.model]
            (completed if timing.ended == COMPLETED else others).append(_seconds(timing, timing.submitted_at, book.as_of))
    found = [
        Curve(
            provider=provider,
            model=model,
            lane=lane,
            completed_s=tuple(sorted(completed)),
            others=len(others),
            learned=turnaround(lane, completed, others),
        )
        for (lane, provider, model), (completed, others) in spans.items()
    ]
    lanes = list(Lane)
    found.sort(key=lambda one: (lanes.index(one.lane), -len(one.completed_s), one.name))
    return tuple(found)


def _seconds(timing: Timing, submitted_at: datetime, as_of: datetime) -> float:
    return max(0.0, ((timing.ended_at or as_of) - submitted_at).total_seconds())
