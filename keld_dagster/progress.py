"""Progress: what a person sees of partitions while they are at a provider.

On the hold run, as a tag, since its page hides its log while it is queued, and the list of runs shows tags; on the partition's page of the batch
asset, as observations: Dagster shows the latest value of each key beside those of the materialisation, so each observation has all keys.

Dagster's event log never forgets, so a wait is told of at once only if something happened, else after pauses that grow by a quarter: some 25
times in a day, then four.  One that has news without end (a provider that is reached at every second look) is told of at these pauses, too,
after the first few.  When it was last told is in a tag of the hold run, which a tick knows anyway: most waits cost a tick no query.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import dagster as dg

from keld import Keld, Status
from keld_dagster.hold import note
from keld_dagster.metadata import Ends, clock, expected_ends, money, waiting_metadata

PROGRESS_TAG = "keld"  # short, as is what it says first: the list of runs shows some forty characters of both
_TOLD_TAG = ".dagster/keld_told"
_PAUSE = timedelta(minutes=2)
_GROWTH = 1.25
_LONGEST = timedelta(hours=6)
MOST = 30  # times that one wait's news is told at once
_MOST_A_TICK = 15  # each is seven statements and 9 ms of CPU in SQLite (1.13.27), and Dagster has no call for many
_MOST_PARTITIONS = 50  # of one hold run, that are observed each by itself; the run's tag sums up any number


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """A hold run and the job runs that it stands for."""

    hold: dg.DagsterRun
    batch: dg.AssetKey
    statuses: Mapping[str, Status]  # by partition


@dataclass(frozen=True, slots=True)
class _Told:
    """What a wait was last told of."""

    times: int
    at: datetime
    news: str

    def is_due(self, now: datetime, news: str) -> bool:
        if news != self.news and self.times < MOST:
            return True
        return now - self.at >= min(_PAUSE * _GROWTH ** min(self.times, MOST), _LONGEST)

    def to_tag(self) -> str:
        return f"{self.times} {self.at.isoformat()} {self.news}"

    @staticmethod
    def from_tag(text: str) -> _Told:
        times, at, news = text.split(" ", 2)
        return _Told(int(times), datetime.fromisoformat(at), news)


def first_tags(keld: Keld, statuses: Sequence[Status]) -> dict[str, str]:
    """The tags of a new hold run."""
    return {PROGRESS_TAG: _line(statuses, expected_ends(keld, statuses)), _TOLD_TAG: _Told(0, keld.clock(), _news(statuses)).to_tag()}


def tell(instance: dg.DagsterInstance, keld: Keld, waits: Iterable[Wait], until: float, log: logging.Logger) -> None:
    """Tells of those waits that are due, the longest untold first; at least one, then until `time.monotonic()` is `until`.

    A failure is a warning: what is told is for people only.
    """
    now = keld.clock()
    due: list[tuple[_Told, Wait]] = []
    for wait in waits:
        told, news = _told(wait.hold, now), _news(wait.statuses.values())
        if told.is_due(now, news):
            due.append((_Told(told.times + 1, now, news), wait))
    if not due:
        return
    due.sort(key=lambda one: _told(one[1].hold, now).at)
    due = due[:_MOST_A_TICK]
    ends = expected_ends(keld, [status for _, wait in due for status in wait.statuses.values()])
    for n, (told, wait) in enumerate(due):
        if n and time.monotonic() > until:
            return
        _tell(instance, wait, ends, told, log)


def tell_end(instance: dg.DagsterInstance, keld: Keld, wait: Wait, given_up: Mapping[str, str], log: logging.Logger) -> None:
    """Tells how a wait ended, so that the page of its partition does not stay at what was so before.

    Args:
        given_up: by job run, why its result is not collected, and what to do.
    """
    _tell(instance, wait, {}, _Told(MOST, keld.clock(), "end"), log, given_up)


def _tell(
    instance: dg.DagsterInstance, wait: Wait, ends: Ends, told: _Told, log: logging.Logger, given_up: Mapping[str, str] | None = None
) -> None:
    try:
        _write(instance, wait, ends, told, given_up or {})
    except Exception as error:  # noqa: BLE001  # nothing of the wait itself depends on it
        log.warning(f"The progress of hold run {wait.hold.run_id} is not shown ({type(error).__name__}: {error}).")


def tell_unheld(instance: dg.DagsterInstance, wait: Wait, log: logging.Logger) -> None:
    """Tells, on the pages of its partitions, of a wait whose hold run Dagster or a person has ended: they would stay at what was so before."""
    try:
        _observe(instance, wait, {}, {})
    except Exception as error:  # noqa: BLE001  # nothing of the wait itself depends on it
        log.warning(f"How {wait.batch.to_user_string()} ended is not shown ({type(error).__name__}: {error}).")


def _write(instance: dg.DagsterInstance, wait: Wait, ends: Ends, told: _Told, given_up: Mapping[str, str]) -> None:
    if len(wait.statuses) <= _MOST_PARTITIONS:
        _observe(instance, wait, ends, given_up)
    line = _line(list(wait.statuses.values()), ends)
    note(instance, wait.hold, {PROGRESS_TAG: line, _TOLD_TAG: told.to_tag()})


def _observe(instance: dg.DagsterInstance, wait: Wait, ends: Ends, given_up: Mapping[str, str]) -> None:
    for partition, status in wait.statuses.items():
        metadata: dict[str, Any] = {**waiting_metadata(status, ends), "keld/hold_run": dg.MetadataValue.dagster_run(wait.hold.run_id)}
        if status.id in given_up:
            metadata["keld/obstacle"] = given_up[status.id]
        # Without a run: on SQLite a run's events are a file of their own, and opening it takes longer than all the rest.
        instance.report_runless_asset_event(dg.AssetObservation(wait.batch, partition=partition or None, metadata=metadata))


def _told(hold: dg.DagsterRun, now: datetime) -> _Told:
    """What a hold run's tag says; of one without (an earlier version's) that it was never told of."""
    try:
        return _Told.from_tag(hold.tags[_TOLD_TAG])
    except (KeyError, ValueError):
        return _Told(0, now - timedelta(days=1), "")


def _news(statuses: Sequence[Status] | Any) -> str:
    """What is told at once when it changes: a state, another round or lane, a deadline that has passed."""
    return " ".join(sorted({f"{status.stage.replace(' ', '_')}:{len(status.batches)}:{status.late}" for status in statuses}))


def _line(statuses: Sequence[Status], ends: Ends) -> str:
    """The state of the job runs of a hold run, in one line."""
    rows, settled = sum(status.rows for status in statuses), sum(status.settled for status in statuses)
    over = sum(status.over for status in statuses)
    stages = sorted({status.stage for status in statuses if not status.over}) or ["over"]
    paid_usd = sum((status.cost_usd for status in statuses), Decimal(0))
    parts = [" and ".join(stages), f"{settled:,} of {rows:,} rows done"]
    if len(statuses) > 1:
        parts.insert(1, f"{over:,} of {len(statuses):,} partitions over")
    if paid_usd or over == len(statuses):  # what a row costs is known when it is collected: until then, $0.00 would be no news, and wrong
        parts.append(f"{money(paid_usd)} paid")
    probable = [ends[status.id][0] for status in statuses if status.id in ends]
    if probable:
        parts.append(f"expected by {clock(max(probable))}")
    if any(status.late for status in statuses):
        parts.append("late")
    return ", ".join(parts)
