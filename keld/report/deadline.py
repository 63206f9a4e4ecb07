"""Deadline: deadlines kept and missed, each missed one with what took the time; pure.

The reason is read from the times of the shards: the longest part of the time from submission to the end.  It says where the time went, not
who is to blame: a batch that took 20 hours was perhaps given only 10.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from keld.ledger import JobRun, Timing
from keld.price import Lane
from keld.report.book import Book
from keld.state import RunState
from keld.view import span

_NONE = timedelta(0)


class Kept(StrEnum):
    """What became of a deadline."""

    KEPT = "kept"
    MOVED = "kept after rows moved to a faster lane"
    MISSED = "missed"
    OVERDUE = "overdue"  # missed, and still open
    AHEAD = "not due yet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Missed:
    """A deadline that was missed; `finished_at` is None as long as the job run is open."""

    job: str
    partition: str
    deadline_at: datetime
    finished_at: datetime | None
    late_s: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDeadlines:
    """The deadlines of one job's runs.

    Args:
        counts: by what became of them.
        margins_s: seconds from the end of each job run that is over to its deadline; negative: it was late.
    """

    job: str
    counts: dict[Kept, int]
    margins_s: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """Those of all jobs, the job with most missed ones first, and each missed one, the latest first."""

    jobs: tuple[JobDeadlines, ...]
    missed: tuple[Missed, ...]

    def count(self, *kept: Kept) -> int:
        """How many of all deadlines became one of these."""
        return sum(job.counts.get(one, 0) for job in self.jobs for one in kept)


def deadlines_of(book: Book) -> Deadlines:
    """The deadlines of the job runs that have one; those that a person cancelled have none any more."""
    timings: defaultdict[str, list[Timing]] = defaultdict(list)
    for timing in book.timings:
        timings[timing.run_id].append(timing)
    by_job: defaultdict[str, list[tuple[Kept, float | None]]] = defaultdict(list)
    missed = []
    for run in book.runs.values():
        if run.deadline_at is None or run.state in (RunState.CANCELLED, RunState.CANCELLING):
            continue
        kept = kept_of(run, timings[run.id], book.as_of)
        margin = (run.deadline_at - run.finished_at).total_seconds() if run.finished_at else None
        by_job[run.job].append((kept, margin))
        if kept in (Kept.MISSED, Kept.OVERDUE):
            missed.append(_missed(run, run.deadline_at, timings[run.id], book.as_of))
    jobs = [_job(job, found) for job, found in by_job.items()]
    jobs.sort(key=lambda one: (-one.counts.get(Kept.MISSED, 0) - one.counts.get(Kept.OVERDUE, 0), one.job))
    missed.sort(key=lambda one: one.deadline_at, reverse=True)
    return Deadlines(jobs=tuple(jobs), missed=tuple(missed))


def kept_of(run: JobRun, timings: Sequence[Timing], as_of: datetime) -> Kept:
    """What became of the deadline of a job run that has one."""
    assert run.deadline_at is not None
    if run.finished_at is None:
        return Kept.OVERDUE if as_of > run.deadline_at else Kept.AHEAD
    if run.finished_at > run.deadline_at:
        return Kept.MISSED
    return Kept.MOVED if _moved(timings) else Kept.KEPT


def _moved(timings: Sequence[Timing]) -> bool:
    """True if something was sent in a fast lane after a batch; what is sent before is a probe."""
    batches = [one.submitted_at for one in timings if one.lane == Lane.BATCH and one.submitted_at]
    fast = [one.submitted_at for one in timings if one.lane != Lane.BATCH and one.submitted_at]
    return bool(batches and fast) and max(fast) > min(batches)


def _job(job: str, found: Sequence[tuple[Kept, float | None]]) -> JobDeadlines:
    counts = {kept: sum(one is kept for one, _ in found) for kept in Kept}
    return JobDeadlines(
        job=job,
        counts={kept: count for kept, count in counts.items() if count},
        margins_s=tuple(margin for _, margin in found if margin is not None),
    )


def _missed(run: JobRun, deadline_at: datetime, timings: Sequence[Timing], as_of: datetime) -> Missed:
    late = (run.finished_at or as_of) - deadline_at
    return Missed(
        job=run.job,
        partition=run.partition,
        deadline_at=deadline_at,
        finished_at=run.finished_at,
        late_s=late.total_seconds(),
        reason=_reason(run, deadline_at, timings, run.finished_at or as_of),
    )


def _reason(run: JobRun, deadline_at: datetime, timings: Sequence[Timing], end: datetime) -> str:
    """Where most of the time from submission to `end` went, in words."""
    if run.created_at >= deadline_at:
        return "submitted after it was due"
    sent = sorted((one for one in timings if one.submitted_at), key=lambda one: one.submitted_at or end)
    if not sent or sent[0].submitted_at is None:
        return f"nothing was sent for {_words(end - run.created_at)}"
    collected = [one.collected_at for one in sent if one.collected_at]
    all_collected = len(collected) == len(sent)
    parts = {
        "{} passed before the first request was sent": sent[0].submitted_at - run.created_at,
        f"{_lanes(sent)} took {{}}": _covered([(one.submitted_at, one.ended_at or end) for one in sent if one.submitted_at]),
        "results waited {} before they were collected": _covered([(one.ended_at, one.collected_at or end) for one in sent if one.ended_at]),
        "the output was written {} after the last answer": end - max(collected) if all_collected else _NONE,
    }
    words, length = max(parts.items(), key=lambda part: part[1])
    return words.format(_words(length))


def _lanes(sent: Sequence[Timing]) -> str:
    """What was waited for longest: the lane and the provider of the longest shard."""
    longest = max(sent, key=lambda one: (one.ended_at - one.submitted_at) if one.ended_at and one.submitted_at else timedelta.max)
    return f"{longest.provider}'s {longest.lane} lane"


def _covered(spans: Sequence[tuple[datetime, datetime]]) -> timedelta:
    """The length of the union of spans."""
    total, reached = _NONE, None
    for begun, ended in sorted(spans):
        begun = begun if reached is None else max(begun, reached)
        if ended > begun:
            total, reached = total + (ended - begun), ended
    return total


def _words(length: timedelta) -> str:
    return span(length.total_seconds())
