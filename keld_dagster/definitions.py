"""Definitions: everything a code location needs for its Keld assets, merged once.

The last of the way: assets with their checks, the one sensor, the wait job.  Call it once a code location, with all its Keld assets:
a second sensor would poll everything twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from keld_dagster.asset import JOB_METADATA
from keld_dagster.hold import wait_job
from keld_dagster.resource import KeldResource
from keld_dagster.sensor import build_keld_sensor


def keld_definitions(
    assets: Sequence[dg.AssetsDefinition],
    *,
    resource: KeldResource | None = None,
    resource_key: str = "keld",
    sensor: dg.SensorDefinition | None = None,
) -> dg.Definitions:
    """Definitions of these assets, the sensor that brings their results in, and the job that stands for the wait.

    Args:
        resource: None where the code location has one under `resource_key` already.
        sensor: instead of `build_keld_sensor(assets)`, e.g. one with another interval.

    Raises:
        ValueError: two of the assets have jobs of one name, which would share their job runs.
    """
    jobs = [spec.metadata[JOB_METADATA] for definition in assets for spec in definition.specs if JOB_METADATA in spec.metadata]
    twice = sorted({job for job in jobs if jobs.count(job) > 1})
    if twice:
        raise ValueError(
            f"Several assets have a job named {', '.join(twice)}: with the partition, the name is what a job run is known by. Rename one."
        )
    return dg.Definitions(
        assets=list(assets),
        sensors=[sensor or build_keld_sensor(assets, resource_key=resource_key)],
        jobs=[wait_job],
        resources={} if resource is None else {resource_key: resource},
    )
