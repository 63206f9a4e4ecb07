"""Definitions: what a code location needs for its Keld assets: assets with their checks, the sensor, the wait job, the resource.

It may be called in every module that has Keld assets: sensor and wait job are the same objects each time, and so is a
resource that equals one given before, so that `Definitions.merge`, `load_from_defs_folder` and similar keep one of each.
"""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from keld_dagster.hold import wait_job
from keld_dagster.resource import KeldResource, one_of_equals, require_configured
from keld_dagster.sensor import build_keld_sensor
from keld_dagster.watch import JOB_METADATA, results_of


def keld_definitions(
    assets: Sequence[dg.AssetsDefinition | dg.AssetSpec | dg.SourceAsset],
    *,
    resource: KeldResource | None = None,
    resource_key: str | None = None,
    sensor: dg.SensorDefinition | None = None,
) -> dg.Definitions:
    """Definitions of these assets, the sensor that launches the runs which collect their results, and the job of the hold runs.

    The assets may have different partitions.

    Args:
        assets: others than Keld's may be among them, as `dg.load_assets_from_modules` gives them.
        resource: None if the code location already has one under the assets' resource key.
        resource_key: default the one that `build_batch_assets` was given.
        sensor: instead of the code location's own, e.g. `build_keld_sensor(minimum_interval_seconds=10)`.

    Raises:
        ValueError: `assets` is no list; two of them have jobs of one name, which would share their job runs; `resource_key` is not theirs; or `resource`
            is none, or is to be configured at launch.
    """
    if isinstance(assets, dg.AssetsDefinition):
        raise ValueError("keld_definitions takes a list of assets; this is one alone. Write keld_definitions([...]).")
    made = [one for one in assets if isinstance(one, dg.AssetsDefinition)]
    jobs = [spec.metadata[JOB_METADATA] for definition in made for spec in definition.specs if JOB_METADATA in spec.metadata]
    twice = sorted({job for job in jobs if jobs.count(job) > 1})
    if twice:
        raise ValueError(
            f"Several assets have a job named {', '.join(twice)}: a job run is identified by the job's name and the partition. Rename one."
        )
    keys = sorted({key for definition in made for key in results_of(definition).values()})
    if resource_key is not None and any(key != resource_key for key in keys):
        raise ValueError(
            f"The assets use the resource {', '.join(keys)}, not {resource_key!r}. Give build_batch_assets(resource_key={resource_key!r}) as well."
        )
    keys = keys or [resource_key or "keld"]
    require_configured(resource)
    return dg.Definitions(
        assets=list(assets),
        sensors=[sensor] if sensor is not None else [build_keld_sensor(resource_key=key) for key in keys if assets],
        jobs=[wait_job],
        resources={} if resource is None else dict.fromkeys(keys, one_of_equals(resource)),
    )
