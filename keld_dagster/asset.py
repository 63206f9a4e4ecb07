"""Asset: the op behind the two assets of a job, `<name>_batch` (what was sent) and `<name>` (the enriched partition).

One op, because Dagster then puts both in one run; subsettable, because the sensor requests the result alone; both outputs optional,
because a run that submits ends without a result instead of waiting for one.  Whether a run submits, attaches or collects depends only on its
selection, one tag, and the state of the job run.

If prompt, schema, models or source of a job change while a partition is at the provider, the job run is finished as it was asked (it is paid
for), and metadata and log say so; its rows are not handed out, and what is declared now is asked next, in the same run.  The owner of a job is
code location and asset key, so that two assets whose jobs have the same name never get each other's rows.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Unpack

import dagster as dg

from keld import Job, Keld, KeldError, Reading, Status
from keld_dagster.check import Wanted, check_results, check_specs
from keld_dagster.collector import NOT_COLLECTED, collector_problem, require_collector
from keld_dagster.column import column_metadata
from keld_dagster.deadline import partition_end, with_deadline
from keld_dagster.frame import Frame, as_frame
from keld_dagster.hold import hold, hold_id
from keld_dagster.metadata import batch_metadata, result_metadata
from keld_dagster.option import OpOptions
from keld_dagster.partition_expr import io_manager_key_of, require_partition_expr
from keld_dagster.pending import ASSET_TAG, FOLLOWERS_TAG, JOB_RUN_TAG, WAIT_TAG, PendingPartitions, place_of, tag_of
from keld_dagster.progress import Wait, first_tags, tell_unheld
from keld_dagster.resource import KeldResource, location_of
from keld_dagster.source import Source
from keld_dagster.watch import downstream_of

_RECORDED = ("dagster/code_version", "dagster/data_version", "dagster/input_data_version/", "dagster/input_event_pointer/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The two assets of a job, and everything that their op needs."""

    job: Job
    source: Source
    batch: dg.AssetKey
    result: dg.AssetKey
    partitions_def: dg.PartitionsDefinition[Any] | None
    freshness_policy: dg.FreshnessPolicy | None
    frame: Frame | None  # None: the source's
    wanted: Wanted
    reading: Reading
    resource_key: str


def assets_of(declared: Pair, specs: Sequence[dg.AssetSpec], **options: Unpack[OpOptions]) -> dg.AssetsDefinition:
    """The one op behind both assets of a pair."""

    @dg.multi_asset(
        name=declared.result.to_python_identifier(),
        specs=specs,
        check_specs=check_specs(declared.result, declared.wanted, declared.partitions_def),
        can_subset=True,
        partitions_def=declared.partitions_def,
        required_resource_keys={declared.resource_key, *(io_manager_key_of(spec) for spec in specs if spec.key == declared.result)},
        **options,
    )
    def op(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        pair = _as_loaded(declared, context.assets_def)
        resource: KeldResource = getattr(context.resources, pair.resource_key)
        keld = resource.get(executor=context.job_def.executor_def)
        with _ended_for_good():
            if context.selected_asset_keys:
                require_collector(context, pair.result, pair.resource_key, held=resource.hold != "none", named=resource.has_namespace)
                if _job_run_to_collect(context, pair) is None:
                    require_partition_expr(context, context.assets_def.get_asset_spec(pair.result))
                yield from _materialize(context, pair, keld)
            else:
                yield from _checks_alone(context, pair, keld)

    return op


def _as_loaded(declared: Pair, loaded: dg.AssetsDefinition) -> Pair:
    """The pair as it is in the code location: under the keys that it has there, and with its freshness policy there.

    `load_assets_from_modules(key_prefix=)` and `map_asset_specs` give assets, and what they depend on, other keys than they were declared with; the
    names of the op's inputs and outputs stay.  They, and the `post_processing` of a component, give other policies.

    Raises:
        Failure: it has other partitions: which rows of the source are whose was decided with those that it had; a retry would not help.
    """
    keys, upstream = loaded.node_keys_by_output_name, loaded.node_keys_by_input_name
    result = keys[declared.result.to_python_identifier()]
    shown = loaded.get_asset_spec(result)
    if shown.partitions_def != declared.partitions_def:
        raise dg.Failure(
            f"{result.to_user_string()}: its partitions were changed after it was made (post_processing, map_asset_specs). Nothing was sent. "
            "Give partitions_def= where the asset is declared.",
            allow_retries=False,
        )
    source = declared.source
    if source.key is not None:  # without an input of its name, a translator has dropped the dependency
        source = replace(source, key=upstream.get(source.key.to_python_identifier(), source.key))
    return replace(
        declared, source=source, batch=keys[declared.batch.to_python_identifier()], result=result, freshness_policy=shown.freshness_policy
    )


@contextmanager
def _ended_for_good() -> Iterator[None]:
    """What a retry cannot mend is retried by no policy: the step would keep its slot, for minutes, to fail again.

    Raises:
        Failure: in place of a `KeldError` that is permanent.
    """
    try:
        yield
    except KeldError as problem:
        if not problem.permanent:
            raise
        raise dg.Failure(str(problem), allow_retries=False) from problem


# -- the op ---------------------------------------------------------------------------------------------------------


def _materialize(context: dg.AssetExecutionContext, pair: Pair, keld: Keld) -> Iterator[dg.MaterializeResult[Any]]:
    """Advances every partition of this run until it waits or is over; then yields what is materialised."""
    partitions: Sequence[str | None] = [None] if pair.partitions_def is None else context.partition_keys
    statuses = {partition: _submit_and_advance(context, pair, keld, partition) for partition in partitions}
    selected = context.selected_asset_keys
    # An IO manager takes one partition a run; collect runs materialise all partitions of a ranged run, even those that are ready now.
    alone = statuses[partitions[0]] if len(partitions) == 1 else None
    collects = alone is not None and alone.over and pair.result in selected
    collected = _job_run_to_collect(context, pair)
    if pair.result in selected and not collects and (collected is None or alone is None or alone.id != collected):
        _begin_wait(context, pair, keld, statuses)  # the hold run of its submit run already covers a collect run that sent another round
    if pair.batch in selected:
        yield _batch_result(context, pair, keld, statuses)
    if collects and alone is not None:
        if collected is not None:
            _tell_if_unheld(context, pair, alone)
        yield _enriched(context, pair, keld, alone)


def _submit_and_advance(context: dg.AssetExecutionContext, pair: Pair, keld: Keld, partition: str | None) -> Status:
    """The job run of a partition, submitted if there is none, advanced until the provider has it or it is over.

    An outdated one is advanced to its end, and then the next one is submitted.
    """
    collected = _job_run_to_collect(context, pair)
    status = keld.advance_until_waiting(_found_or_submitted(context, pair, keld, partition, collected).id)
    _log(context, status)
    while status.over and status.outdated is not None:
        status = keld.advance_until_waiting(_submitted(context, pair, keld, partition).id)
        _log(context, status)
    if not status.over and status.problem is not None and (not status.sent or collected is not None):
        raise dg.Failure(
            f"{status.problem} Materialize again to continue: what was sent is not sent again.", allow_retries=not status.problem_permanent
        )
    return status


def _found_or_submitted(context: dg.AssetExecutionContext, pair: Pair, keld: Keld, partition: str | None, collected: str | None) -> Status:
    """The job run that this run was launched to collect, if it is over: a new submit would send its failed rows again.

    It is compared with the declaration, which may have changed since the last submit.  If the partition was asked again since, a person has executed
    an old run again: older answers would take the place of newer ones.
    """
    youngest = None if collected is None else keld.find(pair.job.name, partition)
    if collected is None or not keld.status(collected).over or (youngest is not None and youngest.id != collected):
        return _submitted(context, pair, keld, partition)
    return keld.compare(collected, pair.job, pair.source.path, owner=_owner(context, pair), source_name=pair.source.name)


def _submitted(context: dg.AssetExecutionContext, pair: Pair, keld: Keld, partition: str | None) -> Status:
    """The job run of a partition as the job is declared now; an open one is attached to, and the source is read only if there is none."""
    ends_at = partition_end(pair.partitions_def, partition)
    return keld.submit(
        with_deadline(pair.job, pair.freshness_policy, ends_at, keld.clock()),
        pair.source.path or partial(pair.source.load, context, partition, _frame(context, pair)),
        partition=partition,
        ends_at=ends_at,
        owner=_owner(context, pair),
        source_name=pair.source.name,
        **pair.reading.given(),
    )


def _frame(context: dg.AssetExecutionContext, pair: Pair) -> Frame:
    return pair.frame or pair.source.frame_in(context)


def _owner(context: dg.AssetExecutionContext, pair: Pair) -> str:
    """Who declares the job: this asset, in this code location."""
    return f"dagster:{location_of(context.run) or ''}:{pair.result.to_user_string()}"


def _log(context: dg.AssetExecutionContext, status: Status) -> None:
    context.log.info(status.summary)
    if status.rows == 0:
        # Green, since a day may be empty; but an IO manager of a database whose partition_expr does not fit finds no row either.
        context.log.warning(
            f"{status.job}[{status.partition}]: the source has no rows for it, so nothing is asked or paid. If it has, and the IO manager of a database "
            "reads it, check that the source's partition_expr has the type of an instant."
        )
    if status.outdated is not None:
        context.log.warning(
            f"{status.job}[{status.partition}]: {status.outdated} changed since job run {status.id} was sent. It is paid for, so it is "
            "finished as it was asked, but its rows are not handed out; what is declared now is asked next. Rows with the same request are not sent again."
        )


def _job_run_to_collect(context: dg.AssetExecutionContext, pair: Pair) -> str | None:
    """The job run that this run was launched to collect; None if it was launched for another asset or by a person."""
    tags = context.run.tags
    return tag_of(tags, JOB_RUN_TAG, "") or None if tag_of(tags, ASSET_TAG, "") == pair.result.to_user_string() else None


def _tell_if_unheld(context: dg.AssetExecutionContext, pair: Pair, status: Status) -> None:
    """Tells on the partition's page that a wait is over whose hold run was ended before: the sensor tells only of open ones."""
    ended = context.instance.get_run_by_id(hold_id(tag_of(context.run.tags, WAIT_TAG, ""), pair.result))
    if ended is not None and ended.is_finished:
        tell_unheld(context.instance, Wait(hold=ended, batch=pair.batch, statuses={status.partition: status}), context.log)


def _begin_wait(context: dg.AssetExecutionContext, pair: Pair, keld: Keld, statuses: Mapping[str | None, Status]) -> None:
    """Records for the sensor that results are due: a hold run, and the job run on the batch asset."""
    pending = PendingPartitions(
        id=context.run.run_id,
        asset=pair.result,
        job_runs={status.partition: status.id for status in statuses.values()},
        followers=_followers(context, pair),
        place=place_of(context.run.tags),
    )
    resource: KeldResource = getattr(context.resources, pair.resource_key)
    if resource.hold != "none":
        hold(context, pending, first_tags(keld, list(statuses.values())))
    problem = collector_problem(context, pair.result, pair.resource_key)
    if problem is not None:
        context.log.warning(problem)
    for partition, status in statuses.items():
        told = {} if problem is None else {NOT_COLLECTED: problem}
        if pair.batch not in context.selected_asset_keys:
            metadata = batch_metadata(keld, status) | told
            context.log_event(
                dg.AssetMaterialization(pair.batch, partition=partition, metadata=metadata, tags=_recorded(context, pair, status))
            )
        elif told:
            context.add_asset_metadata(told, asset_key=pair.batch, partition_key=partition)


def _recorded(context: dg.AssetExecutionContext, pair: Pair, status: Status) -> dict[str, str]:
    """What Dagster recorded of code and inputs when the batch of this job run was materialised, by another run.

    An event without it, as the latest, would never show as out of date.
    """
    filters = dg.AssetRecordsFilter(asset_key=pair.batch, asset_partitions=[status.partition] if status.partition else None)
    for record in context.instance.fetch_materializations(filters, limit=1).records:
        event = record.asset_materialization
        named = None if event is None else event.metadata.get("keld/job_run")
        if event is not None and named is not None and named.value == status.id:
            return {name: value for name, value in (event.tags or {}).items() if name.startswith(_RECORDED)}
    return {}


def _followers(context: dg.AssetExecutionContext, pair: Pair) -> tuple[dg.AssetKey, ...]:
    """The assets downstream of the result that this run plans: they are skipped now, and a backfill requests them only once."""
    layer = context.job_def.asset_layer
    planned = set(context.run.asset_selection or layer.executable_asset_keys)  # empty for a job over all its assets
    # What a collect run has to leave to a later one is still to come.
    planned |= {dg.AssetKey.from_user_string(key) for key in json.loads(tag_of(context.run.tags, FOLLOWERS_TAG, "[]"))}
    found = downstream_of(layer.asset_graph, pair.result)
    return tuple(sorted((key for key in found if key in planned and key != pair.batch), key=lambda key: key.to_user_string()))


def _batch_result(
    context: dg.AssetExecutionContext, pair: Pair, keld: Keld, statuses: Mapping[str | None, Status]
) -> dg.MaterializeResult[Any]:
    if pair.partitions_def is None:
        return dg.MaterializeResult(asset_key=pair.batch, metadata=batch_metadata(keld, statuses[None]))
    for partition, status in statuses.items():
        context.add_asset_metadata(batch_metadata(keld, status), asset_key=pair.batch, partition_key=partition)
    return dg.MaterializeResult(asset_key=pair.batch)


def _enriched(context: dg.AssetExecutionContext, pair: Pair, keld: Keld, status: Status) -> dg.MaterializeResult[Any]:
    """The enriched partition for the IO manager, with its checks."""
    rows = keld.read(status.id)
    return dg.MaterializeResult(
        asset_key=pair.result,
        metadata=result_metadata(status) | column_metadata(pair.job, pair.source.key, rows.schema),
        data_version=dg.DataVersion(status.id),  # one job run has the same answers each time it is materialised
        check_results=_selected_checks(context, pair, status),
        value=as_frame(rows, _frame(context, pair)),
    )


def _checks_alone(context: dg.AssetExecutionContext, pair: Pair, keld: Keld) -> Iterator[dg.AssetCheckResult]:
    """The checks of one partition's latest job run that is over, for a run of checks alone; sends nothing.

    Without a partition (Dagster's "Execute" for an asset without partitions, or where checks cannot be partitioned) the youngest of all.
    """
    partition = context.partition_key if pair.partitions_def is not None and context.has_partition_key else None
    ours = (None, _owner(context, pair))
    over = next(
        (
            status
            for status in keld.statuses(job=pair.job.name)
            if status.over and status.owner in ours and not status.outdated and partition in (None, status.partition)
        ),
        None,
    )
    if over is None:
        which = pair.result.to_user_string() + ("" if partition is None else f", partition {partition}")
        raise dg.Failure(f"No job run of {pair.job.name} is over yet, so there is nothing to check. Materialize {which} first.")
    yield from _selected_checks(context, pair, over)


def _selected_checks(context: dg.AssetExecutionContext, pair: Pair, status: Status) -> list[dg.AssetCheckResult]:
    """The checks that this run may report: a result for a check that is not selected would fail the run."""
    names = {key.name for key in context.selected_asset_check_keys}
    return [result for result in check_results(pair.result, status, pair.wanted) if result.check_name in names]
