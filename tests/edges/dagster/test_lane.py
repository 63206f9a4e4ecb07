"""Deadlines in Dagster: the fast lanes and the rescue are the core's; here a run has to be asked for at the right time."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
from dagster._core.test_utils import create_run_for_test

from keld import Job, Keld
from keld.emulator import Emulator
from keld_dagster import KeldParquetIOManager, KeldResource, build_batch_assets, build_keld_sensor, keld_definitions
from keld_dagster.pending import PendingPartitions

DAYS = dg.StaticPartitionsDefinition(["day1"])
ROWS = pd.DataFrame({"id": range(10), "body": [f"ticket {n}" for n in range(10)]})


def job(**terms: Any) -> Job:
    return Job(name="labels", key="id", prompt="Classify: {body}", models="anthropic:claude-haiku-4-5", **terms)


@dg.asset(partitions_def=DAYS)
def tickets() -> pd.DataFrame:
    return ROWS


def test_a_job_with_less_than_an_hour_is_answered_in_the_run_that_asks_it(keld_emulator: Emulator, tmp_path: Path) -> None:
    """Nothing to wait for: batch and result in one run, and no sensor needed."""
    assets = build_batch_assets(job(deadline=timedelta(minutes=20)), source=tickets)
    resources = {"keld": KeldResource(home=str(tmp_path)), "io_manager": KeldParquetIOManager(base_dir=str(tmp_path / "tables"))}
    with dg.DagsterInstance.ephemeral() as instance:
        done = dg.materialize([tickets, assets], partition_key="day1", instance=instance, resources=resources)
    assert [event.asset_key.to_user_string() for event in done.get_asset_materialization_events()] == ["tickets", "labels_batch", "labels"]
    assert {entry.lane for entry in keld_emulator.bill()} == {"standard"}
    assert all(check.passed for check in done.get_asset_check_evaluations())


def test_a_batch_that_stalls_is_given_up_by_the_sensor_and_rescued_by_a_run(keld_emulator: Emulator, tmp_path: Path) -> None:
    """The tick asks the cancel, which costs nothing; what costs money is a run's."""
    clock = keld_emulator.now

    class Turned(KeldResource):
        def open(self) -> Keld:
            return Keld(home=self.home, clock=clock)

    keld_emulator.faults({"rules": [{"at": "life", "do": "stuck", "done": 0.5}]})
    declared = job(deadline=timedelta(hours=3))
    assets = build_batch_assets(declared, source=tickets, partitions_def=DAYS)
    resource, io_manager = Turned(home=str(tmp_path)), KeldParquetIOManager(base_dir=str(tmp_path / "tables"))
    repository = keld_definitions([assets], resource=resource).get_repository_def()
    sensor = build_keld_sensor([assets])
    with dg.DagsterInstance.ephemeral() as instance, Keld(home=tmp_path, clock=clock) as keld:
        dg.materialize([tickets, assets], partition_key="day1", instance=instance, resources={"keld": resource, "io_manager": io_manager})
        status = keld.find("labels", "day1")
        assert status is not None
        wait = PendingPartitions(id="submitted", asset=dg.AssetKey("labels"), job_runs={"day1": status.id})
        create_run_for_test(instance, job_name="keld_provider_wait", status=dg.DagsterRunStatus.NOT_STARTED, tags=wait.to_tags())

        def tick() -> list[str]:
            with dg.build_sensor_context(instance, repository_def=repository, resources={"keld": resource}) as context:
                return [request.partition_key for request in sensor.evaluate_tick(context).run_requests]

        keld_emulator.advance(timedelta(hours=2))
        assert tick() == []
        keld_emulator.advance(timedelta(minutes=50))
        assert tick() == []
        assert keld.status(status.id).batches[0].state == "cancelling"
        keld_emulator.advance(timedelta(minutes=1))
        assert tick() == ["day1"]
        done = dg.materialize(
            [tickets, assets], partition_key="day1", instance=instance, resources={"keld": resource, "io_manager": io_manager}
        )
        assert all(check.passed for check in done.get_asset_check_evaluations())
        assert keld.status(status.id).deadline_met
    assert sorted(entry.lane for entry in keld_emulator.bill()) == ["batch"] * 5 + ["standard"] * 5
