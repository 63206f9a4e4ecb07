"""Deadline: how long rows may be waited for where they are, and when they must move on.

On the road: `speed` -> **`deadline`** -> `plan`; `runner` asks it again at every look.  Pure.
A batch is allowed as long as a rescue still fits behind it: cancel it, wait for the provider's last word, harvest what was paid, ask the
rest in a fast lane.  The latest instant at which that still works is `standard_escalation_time`; the fewer rows are left, the later it is.  Where flex is
sold for no more than the batch, moving there costs nothing, so that is tried first, early enough; what flex has not answered by its own
latest instant moves on to standard.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from keld.speed import Speed


def standard_escalation_time(due: datetime, rows_left: int, speed: Speed, *, batch: bool = True) -> datetime:
    """The latest instant at which `rows_left` unanswered can still be given up where they are, in time for the standard lane.

    Args:
        batch: they are in a batch, which has to be cancelled and awaited; else in a flex stretch, which just stops.
    """
    return due - speed.rescue_time(rows_left, batch=batch)


def flex_escalation_time(due: datetime, rows_left: int, speed: Speed) -> datetime:
    """The latest instant at which a batch can be given up so that flex answers all of `rows_left`."""
    return due - speed.cancel_time - max(speed.flex_time(rows_left) * speed.safety, speed.standard_time(rows_left)) - speed.finish_time


def escalation_time(due: datetime, rows_left: int, speeds: Sequence[Speed], *, batch: bool = True, flex: Speed | None = None) -> datetime:
    """When rows must move on from where they are, at the latest: into standard at the account that has most room, or into flex.

    Args:
        speeds: of the accounts whose standard lane may take them.
        batch: as in `standard_escalation_time`.
        flex: the speed of the account that sells flex for no more than the batch costs, if one does: to go there early costs nothing.
    """
    at = max(standard_escalation_time(due, rows_left, speed, batch=batch) for speed in speeds)
    return min(at, flex_escalation_time(due, rows_left, flex)) if batch and flex else at
