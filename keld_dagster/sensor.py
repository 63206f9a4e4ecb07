"""Sensor: requests the runs that collect the results of a code location; each of its evaluations is a `tick`.

One for all Keld assets that share a resource, found in the code location at each tick: every module of a location may call
`keld_definitions`, and every call returns the same object, which Dagster keeps once.
"""

import time
from collections.abc import Sequence
from functools import cache

import dagster as dg

from keld_dagster.resource import KeldResource
from keld_dagster.tick import Tick
from keld_dagster.watch import RESOURCE_TAG, results_in, results_of, watched_in, with_downstream

_NAME = "keld_sensor"
_OWN = "keld/assets"  # metadata of a sensor that was built for some assets: the location's general sensor ignores these


def build_keld_sensor(
    assets: Sequence[dg.AssetsDefinition] | None = None,
    *,
    name: str | None = None,
    resource_key: str | None = None,
    minimum_interval_seconds: int = 30,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.RUNNING,
    budget_s: float = 10.0,
) -> dg.SensorDefinition:
    """A sensor for these assets, or for all of the code location that have no other sensor.

    Args:
        assets: those that `build_batch_assets` did not make are ignored; None: all of the code location.
        name: default `keld_sensor`, with the first of `assets`, or with the resource's key if it is not `keld`.
        resource_key: of the `KeldResource`; default that of `assets`, or `keld`.
        default_status: RUNNING, since otherwise no result arrives; a sensor stopped in the UI stays stopped.
        budget_s: of one tick.  Dagster runs all sensors of a deployment one after the other and ends a tick after 60 s.

    Raises:
        ValueError: the assets use several resources: one sensor has one.
    """
    if assets is None:
        key = resource_key or "keld"
        return _sensor(name or _name(key), key, None, minimum_interval_seconds, default_status, budget_s)
    found = {result: key for definition in assets for result, key in results_of(definition).items()}
    keys = sorted(set(found.values()))
    if len(keys) > 1:
        raise ValueError(f"The assets use the resources {', '.join(keys)}; a sensor has one. Build one sensor for each.")
    key = resource_key or next(iter(keys), "keld")
    first = next((result.to_python_identifier() for result in found), None)
    own = name or (_name(key) if first is None else f"{_NAME}_{first}")
    return _sensor(own, key, tuple(found), minimum_interval_seconds, default_status, budget_s)


def _name(resource_key: str) -> str:
    return _NAME if resource_key == "keld" else f"{_NAME}_{resource_key}"


class _SharedSensor(dg.SensorDefinition):
    """A sensor that stays one object in a project of components.

    Dagster copies the definitions of each component, to note on the copy which component made it; the copies of two components would be two
    sensors of one name.
    """

    def with_attributes(self, *, jobs: object = None, metadata: object = None) -> dg.SensorDefinition:
        return self


@cache  # two modules may build the same sensor: they get one object, because Dagster refuses two sensors of one name
def _sensor(
    name: str,
    resource_key: str,
    results: tuple[dg.AssetKey, ...] | None,
    minimum_interval_seconds: int,
    default_status: dg.DefaultSensorStatus,
    budget_s: float,
) -> dg.SensorDefinition:
    mine = dg.AssetSelection.tag(RESOURCE_TAG, resource_key) if results is None else dg.AssetSelection.assets(*results)

    def keld_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        until = time.monotonic() + budget_s
        repository = context.repository_def
        if repository is None:
            raise ValueError("The sensor finds its assets in its code location. In a test, give build_sensor_context(repository_def=...).")
        others = _made_for_others(repository) if results is None else frozenset()
        watched = {
            key: asset
            for key, asset in watched_in(repository.asset_graph, resource_key).items()
            if key not in others and (results is None or key in results)
        }
        resource: KeldResource = getattr(context.resources, resource_key)
        keld = resource.get(_location(context))
        with dg.partition_loading_context(dynamic_partitions_store=context.instance):
            return Tick(context, keld, watched, until, results_in(repository.asset_graph) - watched.keys(), _location(context)).result()

    return _SharedSensor(
        name=name,
        evaluation_fn=keld_sensor,
        # Not `target`: that is one job over all assets, which cannot have partitions of several kinds.
        # Downstream assets too: a collect run also runs those that the submit run had to skip.
        asset_selection=with_downstream(mine),
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=default_status,
        required_resource_keys={resource_key},
        metadata={RESOURCE_TAG: resource_key} | ({} if results is None else {_OWN: [key.to_user_string() for key in results]}),
        description="Collects the answers of LLM batches: polls the providers and launches a collect run for each finished partition.",
    )


def sensor_of(repository: dg.RepositoryDefinition, result: dg.AssetKey, resource_key: str) -> dg.SensorDefinition | None:
    """The sensor of a code location that collects an asset: its own, or the general one of its resource; None if there is none."""
    ours = [sensor for sensor in repository.sensor_defs if RESOURCE_TAG in sensor.metadata]
    own = (sensor for sensor in ours if result in _own(sensor))
    general = (sensor for sensor in ours if _OWN not in sensor.metadata and sensor.metadata[RESOURCE_TAG].value == resource_key)
    return next(own, None) or next(general, None)


def _made_for_others(repository: dg.RepositoryDefinition) -> frozenset[dg.AssetKey]:
    """The assets that have a sensor of their own in this code location."""
    return frozenset().union(*(_own(sensor) for sensor in repository.sensor_defs))


def _own(sensor: dg.SensorDefinition) -> frozenset[dg.AssetKey]:
    """The assets that a sensor was built for; empty for a general one."""
    named = sensor.metadata[_OWN].value if _OWN in sensor.metadata else ()
    return frozenset(dg.AssetKey.from_user_string(key) for key in named) if isinstance(named, list) else frozenset()


def _location(context: dg.SensorEvaluationContext) -> str | None:
    """The name of the code location that this is evaluated in; None in a test."""
    origin = context.code_location_origin
    return None if origin is None else origin.location_name
