"""Follow: advances a job run repeatedly, until there is nothing to do but wait, or to its end.

Beside the road, above `runner`: what a worker of an orchestrator does in one run, and what a command line does until the end.  No state is
kept here: after an interruption at any instant, call it again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime

from keld.errors import AccessRefused, ProviderUnreachable
from keld.status import Status

Advance = Callable[[float], Status]
"""Does what is due for about so many seconds; returns the status after it."""

_STEP_S = 2.0  # so that progress is shown
_BUSY_S = 0.5  # between two tries while another worker, or a sensor's look, may hold the job run
_QUICK_TRIES = 3  # while nothing was accepted: an error now is better than a night of tries


def advance_until_waiting(advance: Advance, budget_s: float) -> Status:
    """The status when there is nothing to do but wait, when there is a problem, or after `budget_s`."""
    until, pause = time.monotonic() + budget_s, threading.Event()
    while True:
        status = advance(budget_s)
        if not status.ready or status.problem is not None or time.monotonic() > until:
            return status
        pause.wait(_BUSY_S)


def finish(
    advance: Advance, clock: Callable[[], datetime], *, poll_s: float | None = None, progress: Callable[[Status], None] | None = None
) -> Status:
    """The status at the end.

    Args:
        poll_s, progress: as of `Keld.run`.

    Raises:
        AccessRefused, ProviderUnreachable: the provider cannot be used and nothing has been accepted yet.
    """
    pause, failures, before = threading.Event(), 0, None
    while True:
        status = advance(_STEP_S)
        if progress is not None:
            progress(status)
        if status.over:
            return status
        if status.problem is None:
            failures = 0
        elif not status.accepted:
            failures += 1
            _give_up_early(status, failures)
        idle = before is not None and before.batches == status.batches  # another worker may hold it
        pause.wait(max(_wait_s(status, clock, poll_s, failures), _BUSY_S if idle else 0.0))
        before = status


def _give_up_early(status: Status, failures: int) -> None:
    """Passes if another quick try may help.

    Raises:
        AccessRefused, ProviderUnreachable: it would not, or there were enough.
    """
    job, partition = status.job, status.partition or None
    if status.problem is not None and status.problem_type is AccessRefused:
        raise AccessRefused(status.problem, job=job, partition=partition)
    if failures >= _QUICK_TRIES:
        said = "Nothing was accepted" if status.sent else "Nothing was sent"
        when = "when the provider is back" if status.problem_type is ProviderUnreachable else "when this is corrected"
        words = f"{status.problem} {said} so far; run the same command again {when}."
        raise ProviderUnreachable(words, job=job, partition=partition)


def _wait_s(status: Status, clock: Callable[[], datetime], poll_s: float | None, failures: int) -> float:
    if status.ready and status.problem is None:
        return 0.0
    if failures:
        return float(2**failures)  # nothing is under way yet: a few quick tries, then give up
    until = (status.next_check_at - clock()).total_seconds() if status.next_check_at else 1.0
    return max(0.05, min(until, poll_s) if poll_s is not None else until)
