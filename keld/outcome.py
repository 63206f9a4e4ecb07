"""Outcome: what became of one row, in one word.

On the road: `providers` and `answer` say it; the runner decides by it; `enrich` and `status` show it.  Light: a status loads no table library.
"""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """What became of one row."""

    ANSWERED = "answered"
    INVALID = "invalid"  # paid, but the answer breaks the schema or was cut off
    REFUSED = "refused"  # the model or a content filter declined
    ERRORED = "errored"  # the provider refused this request, or failed at it
    EXPIRED = "expired"  # not done when the batch expired; not paid
    CANCELLED = "cancelled"  # not done when the batch was cancelled; not paid
    LOST = "lost"  # in no result file
    REJECTED = "rejected"  # the whole batch was refused; not paid
    QUARANTINED = "quarantined"  # nothing proves that asking again would not pay twice
    UNASKABLE = "unaskable"  # the row has no valid prompt; never sent
    OVER_CEILING = "over_ceiling"  # not asked: it could have exceeded the ceiling
    UNASKED = "unasked"  # the job run was cancelled before the row was sent


# For what is done with each answer: Python 3.11 takes 80 ns to find a member of an enumeration by its name.
ANSWERED, ERRORED = Outcome.ANSWERED, Outcome.ERRORED
