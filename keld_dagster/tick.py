"""Tick: one evaluation of the sensor: polls the providers, requests collect runs, ends hold runs.

Light and bounded: it polls (never uploads, downloads or pays), reads Dagster's runs, and requests runs.  It keeps no state: which partitions are
pending is in the tags of the hold runs, their state is in the ledger, and what a collect run has materialised is in the event log; so after a
tick that dies, or whose requests are lost, the next one does the same work.

For any number of pending partitions, one query reads all hold runs, and a few read all job runs.  Work that costs a query of its own is done
only for items with something due, a window of them at a time, until the time is over; every tick processes at least one item, however slow the
machine, and the cursor names the item with which the next tick begins.
"""

import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from keld import Keld, RunState, Status
from keld_dagster.collect_run import CollectRuns, collect_runs
from keld_dagster.follower import Siblings, carried
from keld_dagster.hold import Hold, hold_id, open_holds, release
from keld_dagster.pending import (
    ASSET_TAG,
    BACKFILL_TAG,
    COLLECT,
    JOB_RUN_TAG,
    PHASE_TAG,
    WAIT_TAG,
    PendingPartitions,
    given_tags,
    place_of,
)
from keld_dagster.progress import Wait, tell, tell_end, tell_unheld
from keld_dagster.resource import location_of
from keld_dagster.run_config import given_config, misfit
from keld_dagster.watch import Watched

REQUESTS_A_TICK = 50  # Dagster submits them one by one, up to a second each; the next tick requests the rest
TRIES = 5  # of a collect run that dies before it starts: a pod that finds no node, a launcher that is restarted
_WINDOW = 100  # items whose runs are read with one query
_CANCEL_BUDGET_S = 1.0
_PROBLEMS = 3  # in the reason of a tick, one line of the sensor's page
_ENDED_BADLY = (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED)


@dataclass(frozen=True, slots=True)
class _Alone:
    """An open job run without a hold run."""

    status: Status
    pending: None = None

    @property
    def id(self) -> str:
        return self.status.id


_Item = Hold | _Alone  # what a tick processes in one step; a hold is read once, and of thousands nothing is made at each tick


@dataclass(slots=True)
class Tick:
    """One tick.

    Args:
        watched: the result assets that this sensor collects.
        others: the result assets of the code location that other sensors collect.
        location: the code location's name; None in a test.
        until: `time.monotonic()` after which nothing more is begun.
    """

    context: dg.SensorEvaluationContext
    keld: Keld
    watched: Mapping[dg.AssetKey, Watched]
    until: float
    others: Collection[dg.AssetKey] = ()
    location: str | None = None
    statuses: dict[str, Status] = field(default_factory=dict)  # by job run
    due: set[str] = field(default_factory=set)  # the job runs for which a collect run has something to do
    pending: dict[tuple[dg.AssetKey, str | None, str], PendingPartitions] = field(default_factory=dict)  # by asset, backfill, partition
    every: list[PendingPartitions] = field(default_factory=list)
    submits: dict[tuple[dg.AssetKey, str], set[str]] = field(default_factory=dict)  # see `_submits_of`
    unheld: dict[tuple[str, str], Status] = field(default_factory=dict)  # open job runs without a hold run, by job and partition
    requests: list[dg.RunRequest] = field(default_factory=list)
    requested: set[tuple[str, dg.AssetKey, str]] = field(default_factory=set)  # by submit run, asset, partition
    failed: list[str] = field(default_factory=list)
    waiting: list[Hold] = field(default_factory=list)  # those processed whose hold run stays
    given_up: dict[str, str] = field(default_factory=dict)  # by job run: why its result is not collected, and what to do

    @property
    def log(self) -> logging.Logger:
        return self.context.log

    def result(self) -> dg.SensorResult | dg.SkipReason:
        budget_s = max(self.until - time.monotonic(), 0.0)
        items = self._items(max(1.0, budget_s / 2))
        if not items:
            return dg.SkipReason("Nothing is at a provider.")
        self.until = max(self.until, time.monotonic() + budget_s / 4)  # reading and polling thousands may take the whole budget
        begin = next((n for n, item in enumerate(items) if item.id == self.context.cursor), 0)
        items = items[begin:] + items[:begin]
        done = 0
        while done < len(items) and (done == 0 or not self._is_full()):
            done += self._process_window(items[done : done + _WINDOW])
        tell(self.context.instance, self.keld, map(self._wait_of, self.waiting), self.until, self.log)
        cursor = items[done].id if done < len(items) else ""
        said = f"{len(items)} waiting for a provider or a run. {' '.join([*self.failed, *self._problems()])}".strip()
        reason = None if self.requests else dg.SkipReason(said)
        return dg.SensorResult(run_requests=self.requests, skip_reason=reason, cursor=cursor)

    def _problems(self) -> list[str]:
        """What stands in the way of those that wait, each once: a key that the sensor's process lacks, though the runs have it, shows on its page."""
        held = (self.statuses[job_run] for hold in self.waiting if hold.pending is not None for job_run in hold.pending.job_runs.values())
        return list(dict.fromkeys(status.problem for status in held if status.problem is not None))[:_PROBLEMS]

    def _is_full(self) -> bool:
        return time.monotonic() > self.until or len(self.requests) >= REQUESTS_A_TICK

    # -- what there is ------------------------------------------------------------------------------------------

    def _items(self, budget_s: float) -> list[_Item]:
        """The pending partitions of these assets, the oldest first; then the open job runs that Dagster may have submitted, without a hold run.

        Their hold run could not be created or was ended by hand, or their run materialised the batch alone.  The providers are polled for all
        that are open; if there are none, for batches that were created late.
        """
        items: list[_Item] = list(self._held())
        held = {job_run for item in items if item.pending is not None for job_run in item.pending.job_runs.values()}
        polled = self.keld.poll(jobs={asset.job for asset in self.watched.values()}, budget_s=budget_s)
        self.statuses = {status.id: status for status in polled}
        rest = self.keld.statuses(ids=held - self.statuses.keys())  # they are over, or their asset is not watched any more
        self.statuses |= {status.id: status for status in rest}
        if elsewhere := [status.id for status in rest if not status.over]:
            self.statuses |= {status.id: status for status in self.keld.poll(elsewhere, budget_s=budget_s)}
        self.due = {status.id for status in self.statuses.values() if _is_due(status)}
        alone = [status for status in polled if status.id not in held]
        self.unheld = {(status.job, status.partition): status for status in alone}
        self.every = [item.pending for item in items if item.pending is not None]
        self.pending = {(one.asset, one.backfill, partition): one for one in self.every for partition in one.job_runs}
        return items + [_Alone(status) for status in alone]

    def _held(self) -> Iterator[Hold]:
        """The hold runs of these assets."""
        for hold in open_holds(self.context.instance):
            pending = hold.pending
            if pending is None:
                self.log.warning(f"Hold run {hold.id} has no readable tags; terminate it.")
            elif pending.asset in self.watched or (pending.asset not in self.others and location_of(hold.run) == self.location):
                yield hold  # else another sensor collects it

    # -- item by item -------------------------------------------------------------------------------------------

    def _process_window(self, window: Sequence[_Item]) -> int:
        """Processes these items one after the other; returns how many before the time was over, at least one."""
        collects = self._collects([item.pending for item in window if item.pending is not None and self._has_due(item.pending)])
        for n, item in enumerate(window):
            if n and self._is_full():
                return n
            try:
                self._process(item, collects)
            except Exception as error:  # noqa: BLE001  # an item that cannot be read must not stop the others
                self._skip(item, error)
        return len(window)

    def _process(self, item: _Item, collects: CollectRuns) -> None:
        """Requests collect runs for what is ready, and ends the hold run when all its partitions are settled."""
        pending = item.pending
        if isinstance(item, _Alone):
            pending = self._pending_of(item.status)
            collects = self._collects([] if pending is None else [pending])
        if pending is None:
            return  # the command line submitted it, or its submit run has not ended yet
        if pending.asset not in self.watched:
            self._end_orphan(item, pending)
            return
        settled = [self._settle(pending, status, collects, partition) for partition, status in self._statuses(pending).items()]
        if isinstance(item, _Alone):
            return
        if all(settled):
            self._release(self._wait_of(item))
        else:
            self.waiting.append(item)

    def _wait_of(self, hold: Hold) -> Wait:
        """A hold run of a watched asset, with what it waits for."""
        assert hold.pending is not None
        return Wait(hold=hold.run, batch=self.watched[hold.pending.asset].batch, statuses=self._statuses(hold.pending))

    def _statuses(self, pending: PendingPartitions) -> dict[str, Status]:
        """The status of each partition.

        Raises:
            ValueError: its job run was removed from the ledger, or is in another one.
        """
        unknown = [job_run for job_run in pending.job_runs.values() if job_run not in self.statuses]
        if unknown:
            raise ValueError(f"the ledger has no job run {unknown[0]}. Terminate the hold run, and materialize again.")
        return {partition: self.statuses[job_run] for partition, job_run in pending.job_runs.items()}

    def _skip(self, item: _Item, error: Exception) -> None:
        """Logs an item that cannot continue (a deleted partition, a job run that was removed); an exception would end the tick for all others."""
        what = f"Run {item.id}" if item.pending is None else f"{item.pending.asset.to_user_string()} of run {item.pending.id}"
        self.failed.append(f"{what}: {type(error).__name__}.")
        self.log.error(f"{what} cannot continue: {error}", exc_info=error)

    # -- job runs without a hold --------------------------------------------------------------------------------

    def _pending_of(self, status: Status) -> PendingPartitions | None:
        """The pending partition of an open job run without a hold run; None if Dagster did not submit it.

        None, too, if its hold run was ended by hand: then the job run is cancelled.
        """
        cancelling = status.state is RunState.CANCELLING
        for asset in self.watched.values():
            pending = self._submitted(asset, status) if asset.job == status.job else None
            if pending is None:
                continue
            hold = self.context.instance.get_run_by_id(hold_id(pending.id, pending.asset))
            if hold is not None and hold.status in _ENDED_BADLY and not self._is_failed(pending.backfill):
                self._cancel(asset, status, hold)
                return None
            if not cancelling:
                return pending
        if cancelling:
            self.keld.advance(status.id, budget_s=_CANCEL_BUDGET_S)
        return None

    def _submitted(self, asset: Watched, status: Status) -> PendingPartitions | None:
        """The pending partition of the run that last materialised this batch partition, if that was for this job run."""
        filters = dg.AssetRecordsFilter(asset_key=asset.batch, asset_partitions=[status.partition] if status.partition else None)
        for record in self.context.instance.fetch_materializations(filters, limit=1).records:
            event = record.asset_materialization
            submitted = self.context.instance.get_run_by_id(record.run_id)
            if event is not None and submitted is not None and _job_run_of(event) == status.id:
                planned = submitted.asset_selection or frozenset()  # empty for a job over all its assets, which nobody can tell from here
                return PendingPartitions(
                    id=record.run_id,
                    asset=asset.result,
                    job_runs={status.partition: status.id},
                    followers=tuple(sorted(asset.downstream & planned, key=lambda key: key.to_user_string())),
                    place=place_of(submitted.tags),
                )
        return None

    def _cancel(self, asset: Watched, status: Status, hold: dg.DagsterRun) -> None:
        """Cancels the job run of a terminated hold run, or of a cancelled backfill, at the provider; the partition's page says so, and how it ended."""
        begun = status.state is RunState.CANCELLING
        if not begun:
            self.log.info(f"{status.job}[{status.partition}] is cancelled at its provider: hold run {hold.run_id} is {hold.status.value}.")
            self.keld.cancel(status.id)
        now = self.keld.advance(status.id, budget_s=_CANCEL_BUDGET_S)
        if now.over or not begun:
            tell_unheld(self.context.instance, Wait(hold=hold, batch=asset.batch, statuses={status.partition: now}), self.log)

    # -- what is due --------------------------------------------------------------------------------------------

    def _has_due(self, pending: PendingPartitions) -> bool:
        """True if a collect run of some partition is due, or was."""
        return not self.due.isdisjoint(pending.job_runs.values())

    def _collects(self, all_pending: Sequence[PendingPartitions]) -> CollectRuns:
        """The collect runs of these, of what their followers need besides, and of the same partitions launched again."""
        siblings = self._siblings
        submits = {one.id for pending in all_pending for one in (pending, *siblings.of(pending))}
        again = (self._submits_of(pending.asset, partition) for pending in all_pending for partition in pending.job_runs)
        return collect_runs(self.context.instance, submits.union(*again))

    def _submits_of(self, asset: dg.AssetKey, partition: str) -> set[str]:
        """The runs that sent a partition: several, if it was launched again.  Found when something is due: at most ticks nothing is, of thousands."""
        if not self.submits:
            for one in self.every:
                for each in one.job_runs:
                    self.submits.setdefault((one.asset, each), set()).add(one.id)
        return self.submits.get((asset, partition), set())

    def _settle(self, pending: PendingPartitions, status: Status, known: CollectRuns, partition: str) -> bool:
        """True if a partition needs no further collect run; requests one if it is due."""
        if status.id not in self.due:
            return status.state is RunState.CANCELLED
        collects = known.of(pending.id, pending.asset, partition)
        if not self._has_partition(pending, status):
            return self._give_up(pending, status, "the asset has no such partition any more", "add the partition again, then")
        if collects:
            latest = collects[0].dagster_run
            if not latest.is_finished or latest.is_complete_and_waiting_to_retry:
                return False
            if latest.run_id in known.materialized:
                return True
            if latest.status is not dg.DagsterRunStatus.SUCCESS and not self._may_retry(pending, status, collects):
                # The failed run shows the error; endless retries would hide it.
                if latest.status is dg.DagsterRunStatus.CANCELED:
                    return self._give_up(pending, status, f"its collect run {latest.run_id} was terminated", "when it is wanted,")
                return self._give_up(pending, status, f"its collect run {latest.run_id} failed", "mend what its log says, then")
            if self._has_next_run(status):
                return True
        if len(self.requests) < REQUESTS_A_TICK and not self._is_being_collected(pending, partition, known):
            missing = self._siblings.missing(pending, partition, known, self.requested)
            if missing is not None:
                selection, config, problem = self._selection(pending, missing)
                if problem is not None:
                    why = f"Dagster makes no run of it with the config of run {pending.id} ({problem})"
                    return self._give_up(pending, status, why, "with the config that it wants,")
                self.requests.append(self._request(pending, status, len(collects), selection, config))
                self.requested.add((pending.id, pending.asset, partition))
        return False

    def _is_being_collected(self, pending: PendingPartitions, partition: str, known: CollectRuns) -> bool:
        """True while another run brings in the same partition, since a person launched it twice: most IO managers cannot write it twice at once."""
        for submit_run in self._submits_of(pending.asset, partition) - {pending.id}:
            if (submit_run, pending.asset, partition) in self.requested:
                return True
            latest = next((record.dagster_run for record in known.of(submit_run, pending.asset, partition)), None)
            if latest is not None and (not latest.is_finished or latest.is_complete_and_waiting_to_retry):
                return True
        return False

    @property
    def _siblings(self) -> Siblings:
        return Siblings(self.watched, self._pending_at, self._was_cancelled)

    def _pending_at(self, asset: Watched, backfill: str | None, partition: str) -> PendingPartitions | None:
        """The pending partition of a result, with a hold run or without."""
        found = self.pending.get((asset.result, backfill, partition))
        if found is None and (status := self.unheld.get((asset.job, partition))) is not None:
            found = self._submitted(asset, status)
        return found

    def _was_cancelled(self, asset: Watched, submit_run: str) -> bool:
        """True if the hold run of another result of the same submit run was terminated: it will not arrive."""
        hold = self.context.instance.get_run_by_id(hold_id(submit_run, asset.result))
        return hold is not None and hold.status in _ENDED_BADLY

    # -- requests -----------------------------------------------------------------------------------------------

    def _give_up(self, pending: PendingPartitions, status: Status, why: str, first: str) -> bool:
        """True: nothing more is requested for a partition; the end of its hold run says why, and what to do."""
        name = pending.asset.to_user_string() + (f"[{status.partition}]" if status.partition else "")
        self.given_up[status.id] = (
            f"{name} is not collected: {why}. Its answers are paid for: {first} materialize {name}. Nothing is sent again."
        )
        return True

    def _has_partition(self, pending: PendingPartitions, status: Status) -> bool:
        """True if the asset has the partition still; Dagster would end the whole tick for a request of one that it does not have."""
        partitions_def = self.watched[pending.asset].partitions_def
        if partitions_def is None or not status.partition:
            return partitions_def is None and not status.partition
        return partitions_def.has_partition_key(status.partition)

    def _has_next_run(self, status: Status) -> bool:
        """True if an outdated job run has a successor, which has a hold run of its own."""
        if not status.over or status.outdated is None:
            return False
        youngest = self.keld.find(status.job, status.partition)
        return youngest is not None and youngest.id != status.id

    def _may_retry(self, pending: PendingPartitions, status: Status, collects: Sequence[dg.RunRecord]) -> bool:
        """True if the latest collect run died before it began, and may be requested again: its step did not fail."""
        dead = 0
        while (
            dead < len(collects) and collects[dead].start_time is None and collects[dead].dagster_run.status is dg.DagsterRunStatus.FAILURE
        ):
            dead += 1
        if dead >= TRIES:
            self.log.error(f"{pending.asset.to_user_string()}[{status.partition}]: {dead} collect runs died before they began.")
        return 0 < dead < TRIES

    def _selection(self, pending: PendingPartitions, missing: set[dg.AssetKey]) -> tuple[list[dg.AssetKey], Mapping[str, Any], str | None]:
        """(the assets of a collect run, its config, why Dagster would not make it).

        The result, and those assets that the submit run skipped and that need no missing result; the result alone if Dagster makes no run of all:
        what is paid for is brought in, whatever follows it.
        """
        submitted, repository = self.context.instance.get_run_by_id(pending.id), self.context.repository_def
        result, downstream = pending.asset, lambda key: self.watched[key].downstream
        carries = carried(result, pending.followers, missing, downstream)
        if repository is None:
            return [result, *carries], {}, None
        config = {} if submitted is None else given_config(self.context.instance, repository, submitted)
        problem = misfit(repository, [result, *carries], config)
        if problem is not None and carries:
            names = ", ".join(key.to_user_string() for key in carries)
            self.log.error(
                f"{result.to_user_string()} is collected without {names}: materialize them with the config that they want. {problem}"
            )
            return [result], config, misfit(repository, [result], config)
        return [result, *carries], config, problem

    def _request(
        self, pending: PendingPartitions, status: Status, number: int, selection: list[dg.AssetKey], config: Mapping[str, Any]
    ) -> dg.RunRequest:
        """The request for a partition's collect run."""
        asset, partition = self.watched[pending.asset], status.partition or None
        submitted = self.context.instance.get_run_by_id(pending.id)
        tags = {} if submitted is None else given_tags(submitted.tags)
        tags |= {PHASE_TAG: COLLECT, WAIT_TAG: pending.id, ASSET_TAG: pending.asset.to_user_string(), JOB_RUN_TAG: status.id}
        if pending.backfill is not None and self._is_open(pending.backfill):
            tags[BACKFILL_TAG] = pending.backfill
        if not asset.downstream.intersection(pending.followers).issubset(selection):
            # A follower that is a Keld result itself, and is sent by this run, takes over what is left to a later one.
            tags |= pending.followers_tags()
        return dg.RunRequest(
            # The same key until its run is seen, so that a request made twice is one run.
            run_key=f"{pending.id}:{pending.asset.to_user_string()}:{status.id}:{number}",
            partition_key=partition,
            asset_selection=selection,
            run_config=dict(config),
            tags=tags,
        )

    def _is_failed(self, backfill_id: str | None) -> bool:
        """True if Dagster gave up a backfill by itself, and ended its runs: since one of its partitions was deleted, for example; nobody cancelled it."""
        backfill = None if backfill_id is None else self.context.instance.get_backfill(backfill_id)
        return backfill is not None and backfill.status.value in ("FAILING", "FAILED")

    def _is_open(self, backfill_id: str) -> bool:
        """True if a backfill still accepts runs: a later run is not part of it."""
        backfill = self.context.instance.get_backfill(backfill_id)
        return backfill is not None and backfill.status.value == "REQUESTED"

    # -- the end ------------------------------------------------------------------------------------------------

    def _end_orphan(self, item: _Item, pending: PendingPartitions) -> None:
        """Ends the hold run of an asset that was renamed or removed, when its batches have ended; it would keep its backfill open without end.

        Not as cancelled: what is paid for is kept, for the asset that has the job now.
        """
        statuses = [self.statuses[job_run] for job_run in pending.job_runs.values() if job_run in self.statuses]
        if isinstance(item, _Alone) or len(statuses) < len(pending.job_runs) or any(status.id not in self.due for status in statuses):
            return  # some are in another ledger, or still under way
        name = pending.asset.to_user_string()
        self.log.warning(f"{name} is not in this code location any more: hold run {item.id} is ended. Its answers are kept.")
        release(
            self.context.instance,
            item.run,
            f"{name} is not in this code location any more. The answers are paid, and kept: materialize the asset that has the job now.",
        )

    def _release(self, wait: Wait) -> None:
        cancelled = sum(status.state is RunState.CANCELLED for status in wait.statuses.values())
        count = len(wait.statuses)
        message = f"{count - cancelled} of {count} partitions are over at the provider; {cancelled} were cancelled."
        for status in wait.statuses.values():
            if status.id in self.given_up:
                self.log.error(self.given_up[status.id])
                message = f"{message} {self.given_up[status.id]}"
        tell_end(self.context.instance, self.keld, wait, self.given_up, self.log)
        release(self.context.instance, wait.hold, message, canceled=cancelled > 0)


def _is_due(status: Status) -> bool:
    """True if a collect run has something to do; a cancelled job run has no result to hand over."""
    return status.wants_worker and status.state is not RunState.CANCELLED


def _job_run_of(batch: dg.AssetMaterialization) -> Any:
    """The job run that a materialisation of a batch asset names."""
    named = batch.metadata.get("keld/job_run")
    return None if named is None else named.value
