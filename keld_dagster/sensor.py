"""Sensor: looks at the providers, asks for collect runs, ends waits.  One a code location, for all its Keld assets.

A tick is light and bounded: it polls (never uploads, downloads or pays), reads Dagster's runs, and asks.  It keeps nothing: which
partitions wait is in the hold runs' tags, where each stands is in the ledger, and what a collect run has brought is in the event log;
so a tick that dies half-way, or whose requests are lost, is simply followed by the next.  The cursor is where the next tick begins
when the time was not enough for all.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import dagster as dg

from keld import Keld, Status
from keld_dagster.asset import BATCH_METADATA, JOB_METADATA
from keld_dagster.hold import hold_id, open_holds, release
from keld_dagster.resource import KeldResource
from keld_dagster.wait import ASSET_TAG, BACKFILL_TAG, COLLECT, JOB_RUN_TAG, PARTITION_TAG, PHASE_TAG, WAIT_TAG, Wait, place_of

REQUESTS_A_TICK = 50  # Dagster submits them one by one, up to a second each; the rest comes with the next tick
_CANCEL_BUDGET_S = 1.0
_ENDED_BADLY = (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED)


def build_keld_sensor(
    assets: Sequence[dg.AssetsDefinition],
    *,
    name: str = "keld_sensor",
    resource_key: str = "keld",
    minimum_interval_seconds: int = 30,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.RUNNING,
    budget_s: float = 10.0,
) -> dg.SensorDefinition:
    """The sensor for these assets; others than `build_batch_assets` made are passed over.

    Args:
        default_status: RUNNING, since without it nothing ever arrives; a stop in the UI is respected.
        budget_s: of one tick.  Dagster runs all sensors of a deployment one after the other and ends a tick at 60 s.
    """
    watched = _watched(assets)

    @dg.sensor(
        name=name,
        target=dg.AssetSelection.assets(*watched),
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=default_status,
        required_resource_keys={resource_key},
        description="Brings the answers of LLM batches in: polls the providers and launches a collect run for each finished partition.",
    )
    def keld_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        resource: KeldResource = getattr(context.resources, resource_key)
        with dg.partition_loading_context(dynamic_partitions_store=context.instance):
            return _Tick(context, resource.get(), watched, time.monotonic() + budget_s).result()

    return keld_sensor


@dataclass(frozen=True, slots=True, kw_only=True)
class _Watched:
    """A result asset, its batch asset and its job's name."""

    result: dg.AssetKey
    batch: dg.AssetKey
    job: str
    partitions_def: dg.PartitionsDefinition | None


def _watched(assets: Iterable[dg.AssetsDefinition]) -> dict[dg.AssetKey, _Watched]:
    found: dict[dg.AssetKey, _Watched] = {}
    for definition in assets:
        for spec in definition.specs:
            if JOB_METADATA in spec.metadata:
                batch = dg.AssetKey.from_user_string(spec.metadata[BATCH_METADATA])
                found[spec.key] = _Watched(
                    result=spec.key, batch=batch, job=spec.metadata[JOB_METADATA], partitions_def=definition.partitions_def
                )
    return found


@dataclass(slots=True)
class _Tick:
    """One tick."""

    context: dg.SensorEvaluationContext
    keld: Keld
    watched: Mapping[dg.AssetKey, _Watched]
    until: float  # time.monotonic()
    requests: list[dg.RunRequest] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def log(self) -> logging.Logger:
        return self.context.log

    def result(self) -> dg.SensorResult | dg.SkipReason:
        still_open = self.keld.statuses(open_only=True)
        waits = self._waits(still_open)
        if not waits:
            self.keld.poll([])  # a create that landed late may be all there is
            return dg.SkipReason("Nothing is at a provider.")
        begin = int(self.context.cursor or 0) % len(waits)
        waits = waits[begin:] + waits[:begin]
        self._poll([wait for wait, _ in waits], {status.id for status in still_open})
        seen = 0
        for wait, run in waits:
            if time.monotonic() > self.until or len(self.requests) >= REQUESTS_A_TICK:
                break
            self._go_on(wait, run)
            seen += 1
        at = 0 if seen == len(waits) else begin + seen
        reason = None if self.requests else dg.SkipReason(f"{len(waits)} waiting for a provider or a run. {' '.join(self.failed)}".strip())
        return dg.SensorResult(run_requests=self.requests, skip_reason=reason, cursor=str(at))

    def _poll(self, waits: Sequence[Wait], still_open: set[str]) -> None:
        """Looks at the providers for what these waits have there; a tag may name a job run that the ledger does not know."""
        job_runs = dict.fromkeys(job_run for wait in waits for job_run in wait.job_runs.values() if job_run in still_open)
        self.keld.poll(list(job_runs), budget_s=max(1.0, (self.until - time.monotonic()) / 2))

    # -- what waits ---------------------------------------------------------------------------------------------

    def _waits(self, still_open: Sequence[Status]) -> list[tuple[Wait, dg.DagsterRun | None]]:
        """All waits of this code location, each with its hold run if it has one."""
        waits = self._held()
        held = {job_run for wait, _ in waits for job_run in wait.job_runs.values()}
        return waits + [(wait, None) for wait in self._without_hold(still_open, held)]

    def _held(self) -> list[tuple[Wait, dg.DagsterRun | None]]:
        """The waits of this code location that have a hold run."""
        held: list[tuple[Wait, dg.DagsterRun | None]] = []
        for run in open_holds(self.context.instance):
            try:
                wait = Wait.from_tags(run.tags)
            except (KeyError, ValueError):
                self.log.warning(f"Hold run {run.run_id} has no readable tags; terminate it.")
                continue
            if wait.asset in self.watched:  # else it is another code location's
                held.append((wait, run))
        return held

    def _without_hold(self, still_open: Iterable[Status], held: set[str]) -> Iterator[Wait]:
        """Waits for open job runs that Dagster submitted and no hold run stands for."""
        by_job = {watched.job: watched for watched in self.watched.values()}
        for status in still_open:
            watched = by_job.get(status.job)
            if watched is None or status.id in held:
                continue
            if time.monotonic() > self.until:
                return
            try:
                wait = self._alone(watched, status)
            except Exception as error:  # noqa: BLE001  # see _pass_over
                self._pass_over(f"{status.job}[{status.partition}]", error)
                continue
            if wait is not None:
                yield wait

    def _alone(self, watched: _Watched, status: Status) -> Wait | None:
        """The wait for an open job run without a hold run; None where its hold was ended by hand, and it is cancelled."""
        if status.state == "cancelling":
            self.keld.advance(status.id, budget_s=_CANCEL_BUDGET_S)
            return None
        wait = self._submitted(watched, status)
        if wait is None:
            return None  # a command line's, or its submit run is not through yet
        hold = self.context.instance.get_run_by_id(hold_id(wait.id, wait.asset))
        if hold is None or hold.status not in _ENDED_BADLY:
            return wait
        self._cancel(status, hold)
        return None

    def _submitted(self, watched: _Watched, status: Status) -> Wait | None:
        """The wait of the run that last materialised this partition's batch, if it was for this job run."""
        filters = dg.AssetRecordsFilter(asset_key=watched.batch, asset_partitions=[status.partition] if status.partition else None)
        for record in self.context.instance.fetch_materializations(filters, limit=1).records:
            event = record.asset_materialization
            submitted = self.context.instance.get_run_by_id(record.run_id)
            if event is not None and submitted is not None and _job_run_of(event) == status.id:
                return Wait(id=record.run_id, asset=watched.result, job_runs={status.partition: status.id}, place=place_of(submitted.tags))
        return None

    # -- what is due --------------------------------------------------------------------------------------------

    def _go_on(self, wait: Wait, run: dg.DagsterRun | None) -> None:
        """Asks for what is ready of a wait, and ends it when all of it is settled; one that cannot be read harms no other."""
        try:
            collects = self._collects(wait)
            statuses = {partition: self.keld.status(job_run) for partition, job_run in wait.job_runs.items()}
            settled = [self._settle(wait, status, collects.get(partition, [])) for partition, status in statuses.items()]
            if run is not None and all(settled):
                self._release(run, list(statuses.values()))
        except Exception as error:  # noqa: BLE001  # see _pass_over
            self._pass_over(f"{wait.asset.to_user_string()} of run {wait.id}", error)

    def _pass_over(self, what: str, error: Exception) -> None:
        """Shows what cannot go on (a deleted partition, a job run that was cleaned up); an exception would end the tick for all others."""
        self.failed.append(f"{what}: {type(error).__name__}.")
        self.log.error(f"{what} cannot go on: {error}", exc_info=error)

    def _collects(self, wait: Wait) -> dict[str, list[dg.DagsterRun]]:
        """The collect runs of a wait by partition, the youngest first."""
        tags = {WAIT_TAG: wait.id, ASSET_TAG: wait.asset.to_user_string(), PHASE_TAG: COLLECT}
        found: dict[str, list[dg.DagsterRun]] = {}
        for run in self.context.instance.get_runs(dg.RunsFilter(tags=tags)):
            found.setdefault(run.tags.get(PARTITION_TAG, ""), []).append(run)
        return found

    def _settle(self, wait: Wait, status: Status, collects: Sequence[dg.DagsterRun]) -> bool:
        """Whether nothing more will come of a partition of a wait; asks for a collect run where one is due."""
        latest = collects[0] if collects else None
        if latest is not None:
            if not latest.is_finished or latest.is_complete_and_waiting_to_retry:
                return False
            if latest.status is not dg.DagsterRunStatus.SUCCESS or self._brought(latest, wait.asset):
                return True
        if status.state == "cancelled":
            return True
        if status.over or _is_due(status, self.keld):
            self.requests.append(self._request(wait, status, len(collects)))
        return False

    def _brought(self, collect: dg.DagsterRun, asset: dg.AssetKey) -> bool:
        """Whether a collect run that succeeded materialised the result: one that only sent a further round did not."""
        records = self.context.instance.get_records_for_run(collect.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION).records
        return any(record.asset_key == asset for record in records)

    def _request(self, wait: Wait, status: Status, number: int) -> dg.RunRequest:
        """The collect run of a partition: the result, and what was skipped in the submit run.

        Raises:
            ValueError: the partition is gone; Dagster would end the whole tick.
        """
        watched, partition = self.watched[wait.asset], status.partition or None
        if watched.partitions_def is not None and not watched.partitions_def.has_partition_key(partition or ""):
            raise ValueError(f"{wait.asset.to_user_string()} has no partition {partition!r} any more.")
        graph = self.context.repository_def.asset_graph if self.context.repository_def is not None else None
        followers = [key for key in wait.followers if graph is None or graph.has(key)]
        tags = {PHASE_TAG: COLLECT, WAIT_TAG: wait.id, ASSET_TAG: wait.asset.to_user_string(), JOB_RUN_TAG: status.id}
        if wait.backfill is not None and self._is_open(wait.backfill):
            tags[BACKFILL_TAG] = wait.backfill
        return dg.RunRequest(
            # The same until its run is seen, so that a request asked twice is one run.
            run_key=f"{wait.id}:{wait.asset.to_user_string()}:{status.id}:{number}",
            partition_key=partition,
            asset_selection=[wait.asset, *followers],
            tags=tags,
        )

    def _is_open(self, backfill_id: str) -> bool:
        """Whether a backfill still takes runs: one that comes later is not part of it."""
        backfill = self.context.instance.get_backfill(backfill_id)
        return backfill is not None and backfill.status.value == "REQUESTED"

    # -- the end ------------------------------------------------------------------------------------------------

    def _release(self, run: dg.DagsterRun, statuses: Sequence[Status]) -> None:
        cancelled = sum(status.state == "cancelled" for status in statuses)
        message = f"{len(statuses) - cancelled} of {len(statuses)} partitions are over at the provider; {cancelled} were cancelled."
        release(self.context.instance, run, message, canceled=cancelled > 0)

    def _cancel(self, status: Status, hold: dg.DagsterRun) -> None:
        """Cancels at the provider what a terminated hold run, or a cancelled backfill, stood for."""
        self.log.info(f"{status.job}[{status.partition}] is cancelled at its provider: hold run {hold.run_id} is {hold.status.value}.")
        self.keld.cancel(status.id)
        self.keld.advance(status.id, budget_s=_CANCEL_BUDGET_S)


def _is_due(status: Status, keld: Keld) -> bool:
    """Whether a worker has something to do: results to fetch, a round to send, or one that was put off until now."""
    put_off = any(batch.state in ("deferred", "unknown") for batch in status.batches)
    return status.ready or (put_off and status.next_check_at is not None and status.next_check_at <= keld.clock())


def _job_run_of(batch: dg.AssetMaterialization) -> object:
    """The job run that a materialisation of a batch asset names."""
    named = batch.metadata.get("keld/job_run")
    return None if named is None else named.value
