"""Pod: one run of an asset as a launcher of containers starts it: a process with a place of its own, that shares Postgres and a bucket with the next.

python -m tests.edges.dagster.pod PLACE
"""

import sys
from pathlib import Path

import dagster as dg

from keld import Job
from keld_dagster import KeldParquetIOManager, KeldResource, build_batch_assets
from tests.support.worker_process import move_to

ROWS = 5


@dg.asset
def tickets() -> "dg.MaterializeResult":  # type: ignore[type-arg]  # any value
    import pandas as pd

    frame = pd.DataFrame({"id": range(ROWS), "body": [f"ticket {n}" for n in range(ROWS)]})
    return dg.MaterializeResult(value=frame)


def main(place: Path) -> None:
    """One run; the names of its materializations, one a line."""
    move_to(place)
    labels = build_batch_assets(Job(name="labels", key="id", prompt="Classify: {body}", models="openai:gpt-5-mini"), source=tickets)
    resources = {"keld": KeldResource(home=str(place / "keld")), "io_manager": KeldParquetIOManager(base_dir=str(place / "tables"))}
    with dg.DagsterInstance.ephemeral() as instance:
        ended = dg.materialize([tickets, labels], instance=instance, resources=resources)
    for event in ended.get_asset_materialization_events():
        print(event.asset_key.to_user_string() if event.asset_key else "")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
