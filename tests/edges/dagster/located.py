"""Located: the definitions of a code location of the tests, with a quick sensor; its directories are given by the environment."""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from keld_dagster import KeldParquetIOManager, KeldResource, build_keld_sensor, keld_definitions


def located(assets: Sequence[dg.AssetsDefinition], results: Sequence[dg.AssetsDefinition], **resource: Any) -> dg.Definitions:
    """A code location of these assets and of the pairs of assets of some jobs."""
    return dg.Definitions.merge(
        dg.Definitions(
            assets=assets,
            resources={"io_manager": KeldParquetIOManager(base_dir=dg.EnvVar("TEST_TABLES"))},
            executor=dg.in_process_executor,
        ),
        keld_definitions(
            results,
            resource=KeldResource(home=dg.EnvVar("TEST_HOME"), **resource),
            sensor=build_keld_sensor(minimum_interval_seconds=1),
        ),
    )
