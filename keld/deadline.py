"""Deadline: how long to wait for rows where they are, and when they must be escalated.

On the road: `speed` -> **`deadline`** -> `plan`; `runner` computes it again at every look.  Pure.
A batch may run as long as there is still time for a rescue: cancel it, wait until the provider has ended it, fetch what was paid, ask the
rest in a fast lane.  The latest instant for that is `standard_escalation_time`; the fewer rows are left, the later it is.  If flex costs
no more than the batch, an escalation to flex costs nothing, so it is tried first, early enough; what flex has not answered by its own
latest instant is escalated to standard.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from keld.speed import Speed
from keld.turnaround import Turnaround


def standard_escalation_time(due: datetime, rows_left: int, speed: Speed, *, batch: bool = True) -> datetime:
    """The latest instant at which `rows_left` unanswered rows can be given up where they are, in time for the standard lane.

    Args:
        batch: they are in a batch, whose cancellation takes time; else in a realtime run in flex, which stops at once.
    """
    return due - speed.rescue_time(rows_left, batch=batch)


def flex_escalation_time(due: datetime, rows_left: int, speed: Speed) -> datetime:
    """The latest instant at which a batch can be given up so that flex answers all of `rows_left`."""
    return due - speed.cancel_time - max(speed.flex_time(rows_left) * speed.safety, speed.standard_time(rows_left)) - speed.finish_time


def escalation_time(due: datetime, rows_left: int, speeds: Sequence[Speed], *, batch: bool = True, flex: Speed | None = None) -> datetime:
    """The latest instant at which rows must be escalated: into standard at the account with most room, or into flex.

    Args:
        speeds: of the accounts whose standard lane may take them.
        batch: as in `standard_escalation_time`.
        flex: the speed of the account that sells flex for no more than the batch costs, if one does: escalating early to it costs nothing.
    """
    at = max(standard_escalation_time(due, rows_left, speed, batch=batch) for speed in speeds)
    return min(at, flex_escalation_time(due, rows_left, flex)) if batch and flex else at


def release_time(due: datetime, sent_at: datetime, behind: Turnaround, probability: float) -> datetime:
    """The latest instant at which the rows behind one that went ahead can follow, if all of them must be in batches.

    It is not before the middle: a deadline that is too near for two batches leaves the first one half of the time.

    Args:
        sent_at: when that row was sent.
        behind: of the batches that follow.
        probability: with which they end in time.
    """
    return max(due - behind.quantile(probability), sent_at + (due - sent_at) / 2)
