"""The sensor with very many waits: what a tick asks does not grow with them, and each tick gets on, however short its time."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from keld import Job, Keld
from keld.emulator import Emulator
from keld_dagster import build_batch_assets, build_keld_sensor, keld_definitions
from tests.edges.dagster.conftest import resource_of, standing_still
from tests.edges.dagster.pending_partitions import counted, submit_many

LATENCY_S = 3600
LABELS = dg.AssetKey("labels")
JOB = Job(name="labels", key="id", prompt="Classify: {body}", models="openai:gpt-5-mini")


class Crowd:
    """A Dagster instance where very many partitions wait, and the sensor that brings them in."""

    def __init__(self, emulator: Emulator, instance: dg.DagsterInstance, keld: Keld) -> None:
        self.emulator, self.instance, self.keld = emulator, instance, keld
        self.resource = resource_of(keld)

    def wait(self, count: int, *, first: int = 0) -> None:
        partitions = [f"day{n}" for n in range(first + count)]
        self.asset = build_batch_assets(JOB, source="t/{partition}.csv", partitions_def=dg.StaticPartitionsDefinition(partitions))
        submit_many(self.emulator.env()["OPENAI_BASE_URL"], self.keld, self.instance, JOB, LABELS, partitions[first:])
        self.repository = keld_definitions([self.asset], resource=self.resource).get_repository_def()

    def tick(self, cursor: str | None = None, budget_s: float = 60.0) -> Any:
        sensor = build_keld_sensor([self.asset], budget_s=budget_s)
        with dg.build_sensor_context(
            self.instance, cursor=cursor, repository_def=self.repository, resources={"keld": self.resource}
        ) as context:
            return sensor.evaluate_tick(context)


@pytest.fixture
def crowd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Crowd]:
    with standing_still(tmp_path, monkeypatch, LATENCY_S) as (emulator, instance, keld):
        yield Crowd(emulator, instance, keld)


@pytest.mark.wide
def test_tick_asks_no_more_of_the_databases_for_hundreds_of_waits_than_for_a_few(crowd: Crowd) -> None:
    """One query brings all hold runs, a few all job runs; a hundred batches are one call to the provider."""
    crowd.wait(10)
    crowd.tick()  # what comes after a create, a look for what it made besides, is done by then
    with counted(crowd.emulator) as few:
        assert crowd.tick().run_requests == []
    crowd.wait(250, first=10)
    crowd.tick()
    with counted(crowd.emulator) as many:
        assert crowd.tick().run_requests == []
    assert many.statements == few.statements
    assert (few.calls, many.calls) == ({"list": 1}, {"list": 3})


@pytest.mark.wide
def test_tick_without_time_still_gives_a_wait_its_turn_and_the_next_goes_on_behind_it(crowd: Crowd) -> None:
    """A machine that is slow is no machine that stands still."""
    crowd.wait(6)
    crowd.emulator.advance(LATENCY_S)
    asked, cursor = [], None
    for _ in range(30):
        ticked = crowd.tick(cursor, budget_s=0.0)
        asked += [request.partition_key for request in ticked.run_requests or ()]
        cursor = ticked.cursor
    assert {f"day{n}" for n in range(6)} <= set(asked)


def test_waits_that_no_list_shows_are_all_looked_at_though_no_look_has_time_for_more_than_a_few(crowd: Crowd) -> None:
    """Each is asked for itself; those that there was no time for are the first the next time."""
    crowd.wait(40)
    crowd.tick()
    crowd.emulator.advance(LATENCY_S)
    for _ in range(200):
        crowd.keld.poll(budget_s=0.2)
        if all(status.ready for status in crowd.keld.statuses()):
            return
    raise AssertionError("some are never looked at")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("count", [1_000, 10_000])
def test_ticks_over_thousands_of_waits(crowd: Crowd, count: int, capsys: pytest.CaptureFixture[str]) -> None:
    """The figures are for people; that no tick asks more than a list call a hundred batches, and each gets on, is held."""
    crowd.wait(count)
    told = []
    for moment in ("under way", "again", "all ended"):
        if moment == "all ended":
            crowd.emulator.advance(LATENCY_S)
        began = time.monotonic()
        with counted(crowd.emulator) as asked:
            ticked = crowd.tick(budget_s=10.0)
        told.append(
            f"{count:,} waits, {moment}: {time.monotonic() - began:.1f} s, {asked.total} statements, "
            f"{asked.calls['list']} list calls, {asked.calls['other']} other calls, {len(ticked.run_requests or ())} collect runs asked for"
        )
        assert asked.calls["list"] <= count / 100 + 1
    with capsys.disabled():
        print("", *told, sep="\n")
    assert 0 < len(ticked.run_requests) <= 50  # how many it has looked at by then is a matter of the machine
