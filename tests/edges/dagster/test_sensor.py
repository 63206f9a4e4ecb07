"""The sensor's tick, on an instance without daemons."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent
from dagster._core.test_utils import create_run_for_test, instance_for_test

from keld import Job, Keld
from keld.emulator import Emulator
from keld_dagster import KeldResource, build_batch_assets, build_keld_sensor, keld_definitions
from keld_dagster.pending import PendingPartitions

DAYS = dg.StaticPartitionsDefinition([f"day{n}" for n in range(60)])
LABELS = dg.AssetKey("labels")
JOB = Job(name="labels", key="id", prompt="Classify: {body}", models="openai:gpt-5-mini")
ASSET = build_batch_assets(JOB, source="tickets/{partition}.parquet", partitions_def=DAYS)


class Desk:
    """A Dagster instance, a Keld environment, and the sensor between them."""

    def __init__(self, instance: dg.DagsterInstance, keld: Keld, home: Path) -> None:
        self.instance, self.keld = instance, keld
        self.resource = KeldResource(home=str(home))
        self.sensor = build_keld_sensor([ASSET], budget_s=600)  # however slow the machine, all get their turn
        self.repository = keld_definitions([ASSET], resource=self.resource).get_repository_def()

    def submit(self, day: str) -> str:
        status = self.keld.submit(JOB, [{"id": day, "body": f"ticket of {day}"}], partition=day)
        return self.keld.advance(status.id).id

    def hold(self, asset: dg.AssetKey, day: str, job_run: str) -> dg.DagsterRun:
        wait = PendingPartitions(id=f"submitted-{day}", asset=asset, job_runs={day: job_run})
        return create_run_for_test(
            self.instance, job_name="keld_provider_wait", status=dg.DagsterRunStatus.NOT_STARTED, tags=wait.to_tags()
        )

    def collect_run(self, request: dg.RunRequest, *, began: bool, status: dg.DagsterRunStatus) -> None:
        """What Dagster makes of a request, and how it ended."""
        partition = {"dagster/partition": request.partition_key or ""}
        run = create_run_for_test(self.instance, status=dg.DagsterRunStatus.STARTING, tags={**request.tags, **partition})
        if began:
            self.instance.report_dagster_event(DagsterEvent("PIPELINE_START", job_name=run.job_name), run.run_id)
        if status is dg.DagsterRunStatus.FAILURE:
            self.instance.report_run_failed(run)

    def tick(self, cursor: str | None = None) -> Any:
        resources = {"keld": self.resource}
        with dg.build_sensor_context(self.instance, cursor=cursor, repository_def=self.repository, resources=resources) as context:
            return self.sensor.evaluate_tick(context)


@pytest.fixture
def desk(keld_emulator: Emulator, tmp_path: Path) -> Iterator[Desk]:
    with dg.DagsterInstance.ephemeral() as instance, Keld(home=tmp_path, clock=keld_emulator.now) as keld:
        yield Desk(instance, keld, tmp_path)


def test_wait_that_cannot_be_read_harms_no_other(desk: Desk) -> None:
    """One exception would end the tick, and with it every partition's way home."""
    desk.hold(LABELS, "day1", "no-such-job-run")
    deleted = desk.hold(LABELS, "deleted-day", desk.submit("deleted-day"))
    desk.hold(dg.AssetKey("somebody_elses"), "day2", "whatever")
    create_run_for_test(desk.instance, job_name="keld_provider_wait", status=dg.DagsterRunStatus.NOT_STARTED, tags={"keld/asset": "labels"})
    desk.hold(LABELS, "day3", desk.submit("day3"))
    assert [request.partition_key for request in desk.tick().run_requests] == ["day3"]
    run = desk.instance.get_run_by_id(deleted.run_id)  # it would stay queued for ever, and its backfill open
    assert run is not None and run.status is dg.DagsterRunStatus.SUCCESS


def test_a_key_that_only_the_sensor_lacks_is_named_on_its_page(
    desk: Desk, keld_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon was started from another shell: the runs have the key, and their logs say nothing."""
    for day in ("day1", "day2"):
        desk.hold(LABELS, day, desk.submit(day))
    monkeypatch.delenv("OPENAI_API_KEY")
    keld_emulator.advance(48 * 3600)
    reason = desk.tick().skip_message
    assert reason is not None and reason.count("OPENAI_API_KEY is not set") == 1


def test_request_is_repeated_until_its_run_is_seen_and_stays_one_run(desk: Desk) -> None:
    """Dagster may lose a tick's requests; the run key keeps the repetition from being a second run."""
    desk.hold(LABELS, "day3", desk.submit("day3"))
    first, again = desk.tick().run_requests[0], desk.tick().run_requests[0]
    assert first.run_key == again.run_key
    create_run_for_test(desk.instance, status=dg.DagsterRunStatus.STARTED, tags={**first.tags, "dagster/partition": "day3"})
    assert desk.tick().run_requests == []


@pytest.mark.wide
def test_tick_asks_for_fifty_at_most_and_goes_on_with_the_rest(desk: Desk) -> None:
    """Dagster submits requests one by one; the cursor is where the next tick begins."""
    for n in range(52):
        desk.hold(LABELS, f"day{n}", desk.submit(f"day{n}"))
    first = desk.tick()
    assert len(first.run_requests) == 50
    second = desk.tick(first.cursor)
    assert [request.partition_key for request in second.run_requests][:2] == ["day50", "day51"]


def test_collect_run_that_failed_ends_the_wait(desk: Desk) -> None:
    """It is shown as failed where it failed; asking again for ever would hide that."""
    hold = desk.hold(LABELS, "day3", desk.submit("day3"))
    request = desk.tick().run_requests[0]
    desk.collect_run(request, began=True, status=dg.DagsterRunStatus.FAILURE)
    assert desk.tick().run_requests == []
    run = desk.instance.get_run_by_id(hold.run_id)
    assert run is not None and run.status is dg.DagsterRunStatus.SUCCESS


def test_collect_run_that_dies_before_it_starts_is_asked_again_five_times(desk: Desk) -> None:
    """A pod that finds no node says nothing of what was paid for; one that never finds any must not be asked for ever."""
    hold = desk.hold(LABELS, "day3", desk.submit("day3"))
    asked = []
    while requests := desk.tick().run_requests:
        asked += [request.run_key for request in requests]
        desk.collect_run(requests[0], began=False, status=dg.DagsterRunStatus.FAILURE)
    assert len(asked) == len(set(asked)) == 5
    run = desk.instance.get_run_by_id(hold.run_id)
    assert run is not None and run.is_finished


def test_wait_of_an_asset_that_was_renamed_ends_when_the_provider_is_through(desk: Desk, keld_emulator: Emulator) -> None:
    """Nobody will ask for a collect run under the old name, and its backfill would stay open for ever; what is paid is not cancelled."""
    keld_emulator.faults({"rules": [{"at": "life", "do": "stuck", "done": 0.5, "match": {"batch": 2}}]})
    done, stuck = (desk.hold(dg.AssetKey("old_name"), day, desk.submit(day)) for day in ("day1", "day2"))
    elsewhere = desk.hold(dg.AssetKey("old_name"), "day3", "a job run of another ledger")
    assert desk.tick().run_requests == []
    found = {run.run_id: run.status for run in desk.instance.get_runs()}
    assert found[done.run_id] is dg.DagsterRunStatus.SUCCESS
    assert found[stuck.run_id] is found[elsewhere.run_id] is dg.DagsterRunStatus.NOT_STARTED
    assert not [call for call in keld_emulator.requests() if call.path.endswith("/cancel")]


def test_run_from_the_command_line_without_a_namespace_is_refused_before_anything_is_sent(
    keld_emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under another namespace than the UI's the same partition would be bought again."""
    monkeypatch.delenv("KELD_NAMESPACE", raising=False)
    (tmp_path / "day3.csv").write_text("id,body\n1,red\n")
    asset = build_batch_assets(JOB, source=f"{tmp_path}/{{partition}}.csv", partitions_def=DAYS)
    resources = {"keld": KeldResource(home=str(tmp_path / "keld")), "io_manager": dg.mem_io_manager}
    with instance_for_test() as instance:
        with pytest.raises(dg.Failure, match=r"Nothing was sent\. .* set KELD_NAMESPACE"):
            dg.materialize([asset], instance=instance, partition_key="day3", resources=resources)
        assert keld_emulator.batches() == []
        monkeypatch.setenv("KELD_NAMESPACE", "the location")
        run = dg.materialize([asset], instance=instance, partition_key="day3", resources=resources)
        warnings = [entry for entry in instance.all_logs(run.run_id) if entry.level == logging.WARNING]
    assert len(keld_emulator.batches()) == 1
    assert len([entry for entry in warnings if "sensor" in entry.user_message]) == 1


def test_run_from_the_command_line_says_that_no_sensor_knows_of_it_and_is_collected_where_the_namespace_does(
    keld_emulator: Emulator, tmp_path: Path
) -> None:
    """`dg launch` runs without a code location, whose name is the default namespace: what it sends would wait for ever, under a green run."""
    (tmp_path / "day3.csv").write_text("id,body\n1,red\n")
    asset = build_batch_assets(JOB, source=f"{tmp_path}/{{partition}}.csv", partitions_def=DAYS)
    resource = KeldResource(home=str(tmp_path / "keld"), namespace="the location")
    sensor = build_keld_sensor([asset], budget_s=600)
    repository = keld_definitions([asset], resource=resource, sensor=sensor).get_repository_def()
    resources = {"keld": resource, "io_manager": dg.mem_io_manager}
    with instance_for_test() as instance:
        run = dg.materialize([asset], instance=instance, partition_key="day3", resources=resources)
        [batch] = run.asset_materializations_for_node("labels")
        assert "Run it again when the provider is through" in str(batch.metadata["keld/not_collected"].value)
        with dg.build_sensor_context(instance, repository_def=repository, resources={"keld": resource}) as context:
            [request] = sensor.evaluate_tick(context).run_requests
        collected = dg.materialize(
            [asset], instance=instance, partition_key="day3", resources=resources, tags=request.tags, selection=request.asset_selection
        )
    assert [event.asset_key for event in collected.get_asset_materialization_events()] == [LABELS]
    assert len(keld_emulator.bill()) == 1
