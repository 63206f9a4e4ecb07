"""What a person sees of partitions while they are at the provider: tags of the hold run, observations on the batch asset, how often."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent
from dagster._core.storage.tags import TagType, get_tag_type
from dagster._core.test_utils import create_run_for_test
from msgspec import structs

from keld import Job, Keld
from keld.emulator import Emulator
from keld_dagster import build_batch_assets, build_keld_sensor, keld_definitions
from keld_dagster.hold import release, wait_job
from keld_dagster.pending import PendingPartitions
from keld_dagster.progress import MOST, PROGRESS_TAG, Wait, first_tags, tell
from tests.edges.dagster.conftest import resource_of, standing_still

LOG = logging.getLogger("tests.progress")
LATENCY_S = 8 * 3600
BATCH, LABELS = dg.AssetKey("labels_batch"), dg.AssetKey("labels")
DAYS = dg.StaticPartitionsDefinition(["day1", "day2"])
JOB = Job(name="labels", key="id", prompt="Classify: {body}", models="openai:gpt-5-mini", deadline=timedelta(hours=20), ceiling_usd=5)


@dataclass
class Desk:
    """A Dagster instance and a Keld environment on the emulator's clock, with hold runs."""

    emulator: Emulator
    instance: dg.DagsterInstance
    keld: Keld

    def hold(self, *days: str, told: bool = True, tags: Mapping[str, str] | None = None) -> Wait:
        statuses = {}
        for day in days:
            rows = [{"id": n, "body": f"ticket {n} of {day}"} for n in range(10)]
            statuses[day] = self.keld.advance(self.keld.submit(JOB, rows, partition=day).id)
        pending = PendingPartitions(id=f"submitted-{days[0]}", asset=LABELS, job_runs={day: status.id for day, status in statuses.items()})
        given = pending.to_tags() | (first_tags(self.keld, list(statuses.values())) if told else {})
        run = create_run_for_test(self.instance, job_name=wait_job.name, status=dg.DagsterRunStatus.NOT_STARTED, tags=tags or given)
        return Wait(hold=run, batch=BATCH, statuses=statuses)

    def look(self, wait: Wait) -> Wait:
        """The same wait as a later tick finds it."""
        self.keld.poll()
        run = self.instance.get_run_by_id(wait.hold.run_id)
        assert run is not None
        return Wait(hold=run, batch=BATCH, statuses={day: self.keld.status(status.id) for day, status in wait.statuses.items()})

    def told(self, day: str = "day1") -> list[dict[str, Any]]:
        """What was observed on a partition of the batch asset, the latest first."""
        filters = dg.AssetRecordsFilter(asset_key=BATCH, asset_partitions=[day])
        found = self.instance.fetch_observations(filters, limit=1000).records
        observed = [record.asset_observation for record in found]
        return [{name: value.value for name, value in one.metadata.items()} for one in observed if one is not None]

    def tag(self, wait: Wait) -> str:
        run = self.instance.get_run_by_id(wait.hold.run_id)
        assert run is not None
        return run.tags[PROGRESS_TAG]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    with standing_still(tmp_path, monkeypatch, LATENCY_S) as (emulator, instance, keld):
        yield Desk(emulator, instance, keld)


def test_a_wait_says_how_far_the_provider_is(desk: Desk) -> None:
    """Half of the time has passed: rows done, when the rest is expected, when it escalates, and what it cost, in words and with a link to the run."""
    wait = desk.hold("day1")
    assert desk.tag(wait).startswith("at the provider, 0 of 10 rows done, expected by ")
    desk.emulator.advance(LATENCY_S / 2)
    wait = desk.look(wait)
    tell(desk.instance, desk.keld, [wait], until=0.0, log=LOG)
    [seen] = desk.told()
    assert (seen["keld/state"], seen["keld/progress"]) == ("at the provider", "5 of 10 rows done (50%)")
    assert seen["keld/cost_so_far"] == "$0.00 of $5.00 at most; 5 rows that are done count when they are collected"
    assert "moves to a faster lane" in seen["keld/escalates_at"]
    assert seen["keld/expected_end"].startswith("probably by ")
    [batch] = wait.statuses["day1"].batches
    assert f"`{batch.batch_id}` at openai, gpt-5-mini (batch): in progress, 5 of 10 done" in seen["keld/batches"]
    assert seen["keld/hold_run"] == wait.hold.run_id
    assert desk.tag(wait).startswith("at the provider, 5 of 10 rows done")


def times_told(desk: Desk, *, days: int, flapping: bool = False) -> int:
    """How often a wait of some days is told of, if it is looked at every five minutes."""
    wait = desk.hold("day1")
    late = {"day1": structs.replace(wait.statuses["day1"], problem_kind="ProviderUnreachable")}
    for n in range(days * 24 * 60 // 5):
        desk.emulator.advance(300)
        run = desk.instance.get_run_by_id(wait.hold.run_id)
        assert run is not None
        statuses = late if flapping and n % 2 else wait.statuses
        tell(desk.instance, desk.keld, [Wait(hold=run, batch=BATCH, statuses=statuses)], until=0.0, log=LOG)
    return len(desk.told())


def test_a_day_of_waiting_is_told_a_few_times_only(desk: Desk) -> None:
    """Dagster's event log never forgets; looked at every half minute, it would have 2,880 events of each partition after a day."""
    assert 10 < times_told(desk, days=1) <= MOST


@pytest.mark.wide
def test_a_wait_of_weeks_is_told_of_to_its_end(desk: Desk) -> None:
    """Four times a day: who looks at it in the third week sees that it goes on."""
    before = times_told(desk, days=2)
    desk.emulator.advance(timedelta(days=14).total_seconds())
    [wait] = [run for run in desk.instance.get_runs() if run.job_name == wait_job.name]
    status = desk.keld.statuses()[0]
    tell(desk.instance, desk.keld, [Wait(hold=wait, batch=BATCH, statuses={"day1": status})], until=0.0, log=LOG)
    assert len(desk.told()) == before + 1


@pytest.mark.wide
def test_news_without_end_is_told_ever_more_rarely(desk: Desk) -> None:
    """A provider that is reached at every second look would fill the event log: 288 events of a partition a day."""
    assert MOST <= times_told(desk, days=4, flapping=True) <= MOST + 4 * 4


def test_what_is_news_is_told_at_once(desk: Desk) -> None:
    """The batch has ended a minute after the last word: nobody should read for an hour that it is under way."""
    wait = desk.hold("day1")
    desk.emulator.advance(60)
    tell(desk.instance, desk.keld, [desk.look(wait)], until=0.0, log=LOG)
    assert desk.told() == []
    desk.emulator.advance(LATENCY_S)
    tell(desk.instance, desk.keld, [desk.look(wait)], until=0.0, log=LOG)
    assert [seen["keld/state"] for seen in desk.told()] == ["waiting for a worker"]


def test_hold_run_that_was_deleted_stops_nobody(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """What is told is for people; a run that somebody deletes meanwhile must not keep others from being told of."""
    gone, stays = desk.hold("day1"), desk.hold("day2")
    desk.emulator.advance(300)
    desk.instance.delete_run(gone.hold.run_id)
    tell(desk.instance, desk.keld, [gone, stays], until=float("inf"), log=LOG)
    assert len(desk.told("day2")) == 1
    assert f"hold run {gone.hold.run_id} is not shown" in caplog.text


def test_a_hold_run_of_several_partitions_sums_them_up(desk: Desk) -> None:
    wait = desk.hold("day1", "day2")
    assert desk.tag(wait).startswith("at the provider, 0 of 2 partitions over, 0 of 20 rows done")


def test_a_person_sees_one_short_tag_of_a_hold_run(desk: Desk) -> None:
    """The list of runs shows each tag that is not Dagster's own; ids as JSON there are noise."""
    wait = desk.hold("day1")
    shown = {name: value for name, value in wait.hold.tags.items() if get_tag_type(name) is TagType.USER_PROVIDED}
    assert list(shown) == [PROGRESS_TAG]
    assert len(shown[PROGRESS_TAG]) < 110


def test_hold_run_of_an_earlier_version_is_read_told_of_and_ended(desk: Desk) -> None:
    """An upgrade finds partitions at the provider, with the tags as they were then."""
    status = desk.keld.advance(desk.keld.submit(JOB, [{"id": 1, "body": "text"}], partition="day1").id)
    old = {
        "keld/phase": "hold",
        "keld/wait": "a submit run",
        "keld/asset": "labels",
        "keld/job_runs": f'{{"day1": "{status.id}"}}',
        "keld/followers": "[]",
    }
    run = create_run_for_test(desk.instance, job_name=wait_job.name, status=dg.DagsterRunStatus.NOT_STARTED, tags=old)
    asset = build_batch_assets(JOB, source="t/{partition}.csv", partitions_def=DAYS)
    resource = resource_of(desk.keld)
    repository, sensor = keld_definitions([asset], resource=resource).get_repository_def(), build_keld_sensor([asset])

    def tick() -> Any:
        with dg.build_sensor_context(desk.instance, repository_def=repository, resources={"keld": resource}) as context:
            return sensor.evaluate_tick(context)

    assert tick().run_requests == []
    assert [seen["keld/state"] for seen in desk.told()] == ["at the provider"]
    desk.emulator.advance(LATENCY_S)
    [request] = tick().run_requests
    assert request.partition_key == "day1"
    formerly = {"keld/phase": "collect", "keld/wait": "a submit run", "keld/asset": "labels", "keld/job_run": status.id}
    collect = create_run_for_test(desk.instance, status=dg.DagsterRunStatus.STARTED, tags={**formerly, "dagster/partition": "day1"})
    assert tick().run_requests == []  # the collect run that the earlier version requested is known
    desk.keld.finish(status.id)
    desk.instance.report_dagster_event(DagsterEvent("PIPELINE_START", job_name=collect.job_name), collect.run_id)
    desk.instance.report_run_failed(collect)
    tick()
    ended = desk.instance.get_run_by_id(run.run_id)
    assert ended is not None and ended.is_finished
    assert desk.told()[0]["keld/state"] == "finished"
    assert ended.tags[PROGRESS_TAG].startswith("over, 1 of 1 rows done")


def test_a_wait_whose_success_dagster_does_not_record_ends_all_the_same(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The events of a run are not public, and may change; a hold run that stayed would keep its backfill open without end."""

    def changed(*_: Any) -> None:
        raise AttributeError("PIPELINE_SUCCESS")

    monkeypatch.setattr("keld_dagster.hold._succeed", changed)
    wait = desk.hold("day1")
    release(desk.instance, wait.hold, "1 of 1 partitions are over at the provider; 0 were cancelled.")
    ended = desk.instance.get_run_by_id(wait.hold.run_id)
    assert ended is not None
    assert ended.status is dg.DagsterRunStatus.CANCELED
    [message] = [entry.dagster_event.message for entry in desk.instance.all_logs(ended.run_id, of_type=dg.DagsterEventType.RUN_CANCELED)]
    assert message == (
        "1 of 1 partitions are over at the provider; 0 were cancelled. "
        "It is ended as canceled, since its success cannot be recorded (AttributeError)."
    )


def test_a_person_sees_what_is_in_the_way(desk: Desk) -> None:
    wait = desk.hold("day1")
    blocked = structs.replace(wait.statuses["day1"], problem="openai at api.openai.com refuses the key.", problem_kind="AccessRefused")
    tell(desk.instance, desk.keld, [Wait(hold=wait.hold, batch=BATCH, statuses={"day1": blocked})], until=0.0, log=LOG)
    assert desk.told()[0]["keld/obstacle"] == "openai at api.openai.com refuses the key."
