"""Collector: what brings in the answers of a run that only submits: the sensor of its code location, and the daemon that evaluates it.

Such a run ends green, without a result; if nothing collects, nobody would ever be told.  What can never work is refused before anything is sent:
a code location without a sensor for the asset, or without the job of the hold runs.  What a person may have stopped for an hour is a warning, in
the run's log and on the batch asset: what is sent meanwhile is collected when the sensor is on again.

The state of sensors and daemons is read by API of Dagster's that is not public; where it is not found, nothing is said.
"""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from keld_dagster.hold import WAIT_JOB
from keld_dagster.pending import TEST_TAG
from keld_dagster.resource import given_at_launch
from keld_dagster.sensor import sensor_of

NOT_COLLECTED = "keld/not_collected"  # on a batch asset
_DAEMON = "SENSOR"  # the type of the daemon that evaluates sensors
_AGAIN = "Nothing is lost, and nothing is paid twice."


def require_collector(context: dg.AssetExecutionContext, result: dg.AssetKey, resource_key: str, *, held: bool, named: bool) -> None:
    """Passes if the run's code location has what collects the answers, or a run without one finds what runs with one have paid for.

    Args:
        held: True if pending partitions are to be held by a run.
        named: True if the namespace is chosen.

    Raises:
        Failure: the sensor, the job of the hold runs or the namespace is missing, or they would have another resource; a retry would not help.
    """
    name = result.to_user_string()
    if context.run.remote_job_origin is None:
        if named or is_test(context):  # it has a ledger of its own
            return
        raise dg.Failure(
            f"{name}: this run was not launched through a code location (dg launch, dagster asset materialize, a script). Runs from the UI keep what "
            "they paid for under the name of theirs, so the same rows could be paid twice. Nothing was sent. Launch it from the UI, or set "
            "KELD_NAMESPACE, or KeldResource(namespace=...), to the name of the code location.",
            allow_retries=False,
        )
    own = given_at_launch(context, resource_key)
    if own:
        raise dg.Failure(
            f"{name}: this run's configuration gives the resource {resource_key} another {', '.join(own)} than the code location does. The sensor and the "
            "runs that collect do not have it, and would look for the answers elsewhere. Nothing was sent. Give it to the KeldResource instead.",
            allow_retries=False,
        )
    repository = context.repository_def
    if resource_key not in repository.get_top_level_resources():
        raise dg.Failure(
            f"{name}: this code location has no resource {resource_key} (dg.with_resources gives it to its assets alone), so the sensor that collects "
            "the answers would not find them. Nothing was sent. Give it to keld_definitions(..., resource=...).",
            allow_retries=False,
        )
    missing = ["a sensor that collects its answers"] * (sensor_of(repository, result, resource_key) is None)
    missing += [f"the job {WAIT_JOB}, without which a backfill fails while the provider works"] * (
        held and not repository.has_job(WAIT_JOB)
    )
    if missing:
        raise dg.Failure(
            f"{name}: this code location lacks {' and '.join(missing)}. Nothing was sent. "
            f"Load the asset with keld_definitions([{result.path[-1]}]), merged into the location's Definitions.",
            allow_retries=False,
        )


def collector_problem(context: dg.AssetExecutionContext, result: dg.AssetKey, resource_key: str) -> str | None:
    """Why nothing collects the answers for now, and what to do; None if all is well, or it cannot be known."""
    if context.run.remote_job_origin is None:
        if is_test(context):
            return None
        return (
            "This run was not launched through a code location (dg launch, dagster asset materialize, a script), so no sensor collects the answers. "
            f"Run it again when the provider is through, with the same settings: nothing is sent again. {_AGAIN} "
            "If the namespace is the name of the code location, its sensor collects them."
        )
    try:
        problems = [*_stopped(context, result, resource_key), *_asleep(context.instance)]
    except Exception as error:  # noqa: BLE001  # private API: the submission stays valid
        context.log.debug(f"The state of sensor and daemon is not known ({type(error).__name__}: {error}).")
        return None
    return f"The answers are not collected for now: {' '.join(problems)} {_AGAIN}" if problems else None


def is_test(context: dg.AssetExecutionContext) -> bool:
    """True if nobody waits for what this run sends: `testing` collects it, or Dagster itself forgets the run with its process."""
    return TEST_TAG in context.run.tags or not context.instance.is_persistent


def _stopped(context: dg.AssetExecutionContext, result: dg.AssetKey, resource_key: str) -> Sequence[str]:
    """What to do if the asset's sensor is stopped, in the UI or by its default."""
    sensor, remote = sensor_of(context.repository_def, result, resource_key), context.run.remote_job_origin
    assert sensor is not None and remote is not None
    states = context.instance.all_instigator_state(repository_selector_id=remote.repository_origin.get_selector_id())
    said = next((state.status.value for state in states if state.instigator_name == sensor.name), None)
    if said == "RUNNING" or (said != "STOPPED" and sensor.default_status is dg.DefaultSensorStatus.RUNNING):
        return []
    return [f"The sensor {sensor.name} is stopped: start it on the page Automation, or by `dagster sensor start {sensor.name}`."]


def _asleep(instance: dg.DagsterInstance) -> Sequence[str]:
    """What to do if no daemon evaluates sensors; a deployment that keeps no heartbeats says nothing."""
    if instance.daemon_skip_heartbeats_without_errors:
        return []
    status = instance.get_daemon_statuses([_DAEMON])[_DAEMON]
    if not status.required or status.healthy:
        return []
    return ["No daemon evaluates sensors: start `dagster-daemon run`."]
