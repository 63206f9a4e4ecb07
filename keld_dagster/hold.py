"""Hold: the run that represents pending partitions, and never executes.

All writes by Dagster's private API are in this file, and any failure of them is a warning, as is a private class that a version of Dagster
does not have: results still arrive, as with `hold="none"`; only a backfill may be marked failed too early.  Why it is needed: since 1.13.21 a
backfill whose runs have all finished and that made no progress for one tick is marked failed, finally, even if the provider still works; only an
unfinished run with the backfill's tag keeps it open.  A run that is QUEUED for a pool without slots is unfinished, takes no slot, survives run
monitoring, and is cancelled by Dagster itself when the backfill is.  It is created inside the op that submits, before Dagster checks the backfill.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID, uuid5

import dagster as dg

from keld_dagster.pending import TEST_TAG, PendingPartitions

WAIT_JOB = "keld_provider_wait"
POOL = "keld_provider"
_STEP = "waiting_at_the_provider"  # the page of the run shows it beside Dagster's own "will start soon"
_OVER_TAG = "keld/over"
# The queue takes it into account after all others: it counts a run for limits of tags (`dagster/backfill`) before it looks at its pool, so that hold
# runs ahead of it would keep a collect run from ever starting (1.13.27, `_get_runs_to_dequeue`).
_LAST = {"dagster/priority": "-1000000"}
_NAMESPACE = UUID("6b1d0c58-9d0a-4d5e-8d9b-6b656c640001")
_AT_ONCE = 1_000  # hold runs that are read with one query
_OPEN = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]


@dg.op(name=_STEP, pool=POOL)
def _wait_for_provider(context: dg.OpExecutionContext) -> None:
    """The batches of this partition are at an LLM provider. This run is queued on purpose, takes no slot, and ends by itself.

    Runs only if a person gave the pool slots: then it waits here, with a slot, until the sensor ends it."""
    while _OVER_TAG not in _run(context.instance, context.run_id).tags:
        time.sleep(5)


@dg.graph(name=WAIT_JOB)
def _wait() -> None:
    _wait_for_provider()


class _SharedJob(dg.JobDefinition):
    """A job that stays one object in a project of components, each of which Dagster gives a copy with its own metadata."""

    def with_metadata(self, metadata: object) -> dg.JobDefinition:
        return self


# The hold run's job; it is part of `keld_definitions`.
wait_job = _SharedJob(
    graph_def=_wait,
    description="A run of this job stands for partitions whose batches are at an LLM provider. It is queued on purpose: it never starts, takes no "
    "slot, and ends by itself when the answers are collected. Its tag `keld` and the page of the batch asset say how far "
    "the batches are. Terminating it cancels them at the provider.",
)


def hold_id(submit_run_id: str, asset: dg.AssetKey) -> str:
    """The id of a hold run: the same for every try of the step that submitted."""
    return str(uuid5(_NAMESPACE, f"{submit_run_id}:{asset.to_user_string()}"))


def hold(context: dg.AssetExecutionContext, pending: PendingPartitions, tags: Mapping[str, str]) -> str | None:
    """The id of the hold run, created with these tags too if there is none.

    None if none can be created: then only the state of a backfill may be wrong.
    """
    if context.run.remote_job_origin is None:
        if not context.instance.is_persistent and TEST_TAG not in context.run.tags:  # else `collector` says what a person has to do
            context.log.warning(
                f"{pending.asset.to_user_string()} is sent, and has no result yet: no sensor collects for a run without a code location. "
                "Materialize it again when the provider is through; a test does both by keld_dagster.testing.materialize(...)."
            )
        return None
    if not context.repository_def.has_job(WAIT_JOB):
        context.log.warning(f"No hold run: the job {WAIT_JOB} is not in this code location. Load its assets with keld_definitions([...]).")
        return None
    try:
        if (setting := _starts_all_the_same(context.instance)) is not None:
            context.log.warning(
                f"No hold run: with {setting} Dagster's queue would start it, and it would take a slot without end. Results still arrive; a backfill may be "
                "marked failed before they do. Without that setting in dagster.yaml, or with its default, it is kept open."
            )
            return None
        return _create(context, pending, tags)
    except Exception as error:  # noqa: BLE001  # private API: the submission stays valid
        context.log.warning(
            f"No hold run ({type(error).__name__}: {error}). Results still arrive; a backfill may be marked failed before they do."
        )
        return None


def _starts_all_the_same(instance: dg.DagsterInstance) -> str | None:
    """The setting of the instance by which its queue starts a run although the pool of its only step is full; None: it does not."""
    queue = instance.get_concurrency_config().run_queue_config
    if queue is None:
        return None  # no queue: nobody but Keld starts or ends a hold run
    if not queue.should_block_op_concurrency_limited_runs:
        return "block_op_concurrency_limited_runs.enabled=false"
    return f"op_granularity_run_buffer={queue.op_concurrency_slot_buffer}" if queue.op_concurrency_slot_buffer else None


class Hold(NamedTuple):
    """A hold run, and the pending partitions that its tags name; None if they are not readable."""

    run: dg.DagsterRun
    pending: PendingPartitions | None

    @property
    def id(self) -> str:
        return self.run.run_id


# Those that this process has read: their tags do not change, and to read ten thousand takes longer than the rest of a tick.
_known: dict[str, Hold] = {}


def open_holds(instance: dg.DagsterInstance) -> Sequence[Hold]:
    """The open hold runs of this instance, the oldest first; one that this process has read before is not read again.

    Its status may be another one by now, and its tags are as `note` left them.
    """
    global _known  # noqa: PLW0603
    ids = instance.get_run_ids(dg.RunsFilter(job_name=WAIT_JOB, statuses=_OPEN))[::-1]
    known = {run_id: _known[run_id] for run_id in ids if run_id in _known}
    new = [run_id for run_id in ids if run_id not in known]
    for n in range(0, len(new), _AT_ONCE):
        for run in instance.get_runs(dg.RunsFilter(run_ids=new[n : n + _AT_ONCE])):
            known[run.run_id] = Hold(run, _pending(run))
    _known = known
    return [known[run_id] for run_id in ids if run_id in known]


def _pending(run: dg.DagsterRun) -> PendingPartitions | None:
    try:
        return PendingPartitions.from_tags(run.tags)
    except (KeyError, ValueError):
        return None


def note(instance: dg.DagsterInstance, run: dg.DagsterRun, tags: Mapping[str, str]) -> None:
    """Sets tags of a hold run; one of an earlier version goes to the end of the queue, too."""
    tags = {**_LAST, **tags}
    instance.add_run_tags(run.run_id, dict(tags))
    if run.run_id in _known:
        _known[run.run_id] = Hold(run.with_tags({**run.tags, **tags}), _known[run.run_id].pending)


def release(instance: dg.DagsterInstance, run: dg.DagsterRun, message: str, *, canceled: bool = False) -> None:
    """Ends a hold run, with the time from its creation as its duration."""
    record = instance.get_run_record_by_id(run.run_id)
    if record is None:
        return  # somebody deleted it
    run = record.dagster_run
    if run.status is dg.DagsterRunStatus.STARTED:
        instance.add_run_tags(run.run_id, {_OVER_TAG: "true"})  # its own process ends it
        return
    if canceled:
        instance.report_run_canceled(run, message)
        return
    try:
        _succeed(instance, record, message)
    except Exception as error:  # noqa: BLE001  # private API: a hold run that stayed would keep its backfill open without end
        instance.report_run_canceled(
            run, f"{message} It is ended as canceled, since its success cannot be recorded ({type(error).__name__})."
        )


def _succeed(instance: dg.DagsterInstance, record: dg.RunRecord, message: str) -> None:
    run, began = record.dagster_run, record.create_timestamp.timestamp()
    start = dg.DagsterEvent(dg.DagsterEventType.PIPELINE_START.value, run.job_name, message="Submitted to the provider.")
    instance.report_dagster_event(start, run.run_id, timestamp=began)
    instance.report_dagster_event(dg.DagsterEvent(dg.DagsterEventType.PIPELINE_SUCCESS.value, run.job_name, message=message), run.run_id)


class _Private(NamedTuple):
    """The classes of Dagster's that are not public."""

    planned: Any
    origin: Any


def _private() -> _Private:
    """Imported at their first use: where they have moved, the package still loads, and sends and collects.

    Raises:
        ImportError: this version of Dagster does not have them.
    """
    from dagster._core.events import AssetMaterializationPlannedData
    from dagster._core.origin import JobPythonOrigin

    return _Private(AssetMaterializationPlannedData, JobPythonOrigin)


def _create(context: dg.AssetExecutionContext, pending: PendingPartitions, tags: Mapping[str, str]) -> str:
    private = _private()  # before anything is written
    instance, source = context.instance, context.run
    remote, code = source.remote_job_origin, source.job_code_origin
    assert remote is not None and code is not None
    _close_pool(instance)
    run_id = hold_id(pending.id, pending.asset)
    run = instance.get_run_by_id(run_id) or instance.create_run_for_job(
        job_def=context.repository_def.get_job(WAIT_JOB),
        run_id=run_id,
        tags={**_LAST, **pending.to_tags(), **tags},
        status=dg.DagsterRunStatus.NOT_STARTED,
        remote_job_origin=remote.repository_origin.get_job_origin(WAIT_JOB),
        job_code_origin=private.origin(WAIT_JOB, code.repository_origin),
    )
    if run.status is dg.DagsterRunStatus.NOT_STARTED:  # else this is a retry of the step, and the hold run is queued already
        _announce(instance, run, pending, private.planned)
    return run_id


def _announce(instance: dg.DagsterInstance, run: dg.DagsterRun, pending: PendingPartitions, planned_data: Any) -> None:
    """Plans the partitions, and queues the run as Dagster's own coordinator does."""
    for partition in pending.job_runs:
        # While an unfinished run plans a partition, Dagster shows it as materialising.
        planned = planned_data(asset_key=pending.asset, partition=partition or None)
        event = dg.DagsterEvent.build_asset_materialization_planned_event(WAIT_JOB, _STEP, planned)
        instance.report_dagster_event(event, run.run_id)
    instance.report_dagster_event(dg.DagsterEvent.job_enqueue(run), run.run_id)


def _close_pool(instance: dg.DagsterInstance) -> None:
    """Sets the pool to 0 slots, unless a person has set a limit."""
    storage = instance.event_log_storage
    if POOL not in {pool.name for pool in storage.get_pool_limits()}:
        storage.set_concurrency_slots(POOL, 0)


def _run(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRun:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run
