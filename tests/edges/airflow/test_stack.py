"""A real Airflow: database, scheduler, triggerer, Dag processor, API server, tasks in processes of their own; minutes, so not in the fast suite."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from urllib.parse import quote

import pytest

from tests.edges.airflow.live_airflow import Stack, database_url, live, rows, told_of_secrets

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres: Callable[[], str]) -> Iterator[Stack]:
    with live(tmp_path_factory.mktemp("stack"), **database_url(request.param, postgres)) as stack:
        stack.settle("label", "interval", "hurried")
        assert stack.creates() == 2, "`label` and `interval` ask the same job of the same day, and share its batch"
        yield stack


def test_six_days_are_filled_through_two_slots_that_nobody_holds(stack: Stack) -> None:
    """Six wait at once, and another Dag runs meanwhile; the provider's hour has not passed."""
    airflow = stack.airflow
    before, billed = stack.creates(), len(stack.emulator.bill())
    began = time.monotonic()
    airflow.backfill("label", "2026-02-01T00:00:00Z", "2026-02-06T00:00:00Z")
    took = airflow.until(lambda: airflow.states("label", "label", "backfill") == ["deferred"] * 6, "six tasks are deferred")
    quick = airflow.trigger("quick")
    free = airflow.until(lambda: airflow.tasks("quick", quick)[0]["state"] == "success", "another Dag runs meanwhile")
    assert airflow.states("label", "label", "backfill") == ["deferred"] * 6
    stack.provider_ends()
    airflow.until(lambda: airflow.states("label", "label", "backfill") == ["success"] * 6, "six tasks are through")
    print(f"\ndeferred after {took:.1f} s, another Dag in {free:.1f} s, all through after {time.monotonic() - began:.1f} s")
    assert stack.creates() - before == 6
    assert Counter(entry.custom_id for entry in stack.emulator.bill()).most_common(1)[0][1] == 1
    assert len(stack.emulator.bill()) - billed == 30
    assert {path.stem for path in (stack.place / "tables").glob("*.parquet")} >= {f"2026-02-0{day}" for day in range(1, 7)}


def test_each_partition_reaches_the_consumers_of_the_asset(stack: Stack) -> None:
    airflow = stack.airflow
    airflow.until(
        lambda: {run["partition_key"] for run in airflow.runs("report")} >= {f"2026-02-0{day}" for day in range(1, 7)}, "six reports"
    )


def test_a_reprocess_of_a_finished_partition_makes_a_run_and_no_purchase(stack: Stack) -> None:
    """Partitioned Dags get a new run for it: whatever knows the batch by the run's id pays again."""
    airflow, before = stack.airflow, stack.creates()
    runs = len(airflow.states("label", "label", "backfill"))
    airflow.backfill("label", "2026-02-02T00:00:00Z", "2026-02-02T00:00:00Z", reprocess_behavior="completed")
    airflow.until(lambda: airflow.states("label", "label", "backfill") == ["success"] * (runs + 1), "it is through")
    assert stack.creates() == before


def test_a_backfill_by_the_command_line_buys_each_day_once(stack: Stack) -> None:
    airflow, before, billed = stack.airflow, stack.creates(), len(stack.emulator.bill())
    open_ones = "/api/v2/backfills?dag_id=label"
    airflow.until(lambda: all(one["completed_at"] for one in airflow.ask("GET", open_ones)["backfills"]), "no other backfill is open")
    words = ("--from-date", "2026-04-01", "--to-date", "2026-04-06", "--max-active-runs", "6", "--reprocess-behavior", "none")
    airflow.say("backfill", "create", "--dag-id", "label", *words)
    airflow.until(lambda: airflow.states("label", "label", "backfill__2026-04") == ["deferred"] * 6, "six tasks are deferred")
    stack.provider_ends()
    airflow.until(lambda: airflow.states("label", "label", "backfill__2026-04") == ["success"] * 6, "six tasks are through")
    assert (stack.creates() - before, len(stack.emulator.bill()) - billed) == (6, 30)


def test_a_triggerer_that_is_killed_is_replaced_and_nothing_is_bought_twice(stack: Stack) -> None:
    before, run_id = stack.creates(), stack.start("2026-03-01")
    stack.airflow.kill("triggerer")
    stack.airflow.start("triggerer")
    stack.provider_ends()
    stack.wait_for(run_id, "success")
    assert (stack.creates() - before, stack.cancels()) == (1, 0)


def test_a_triggerer_that_freezes_and_wakes_after_it_was_replaced_cancels_nothing(stack: Stack) -> None:
    """It is told that its tasks were killed; they have only moved."""
    before, run_id = stack.creates(), stack.start("2026-03-02")
    frozen = stack.airflow.processes["triggerer"]
    os.killpg(frozen.pid, signal.SIGSTOP)
    try:
        owner = stack.triggerer_of(run_id)
        stack.airflow.start("triggerer", "triggerer-2")
        stack.airflow.until(lambda: stack.triggerer_of(run_id) not in (owner, None), "the other has taken over")
    finally:
        os.killpg(frozen.pid, signal.SIGCONT)
    stack.airflow.until(lambda: "invoking on_kill" in stack.logs(), "the first is told of a kill")
    stack.provider_ends()
    stack.wait_for(run_id, "success")
    assert (stack.creates() - before, stack.cancels()) == (1, 0)


def test_a_task_that_is_cleared_while_it_waits_finds_its_batch_again(stack: Stack) -> None:
    before, run_id = stack.creates(), stack.start("2026-03-03")
    stack.clear(run_id)
    stack.airflow.until(lambda: stack.airflow.tasks("label", run_id)[0]["try_number"] == 2, "it runs again")
    stack.wait_for(run_id, "deferred")
    stack.provider_ends()
    stack.wait_for(run_id, "success")
    assert (stack.creates() - before, stack.cancels()) == (1, 0)


def test_a_worker_that_is_killed_while_it_sends_buys_once(stack: Stack) -> None:
    """Its retry finds an intent without an outcome, and looks at the provider before anything else."""
    before, billed = stack.creates(), len(stack.emulator.bill())
    stack.arm("create.received:kill9")
    run_id = stack.airflow.trigger("label", partition_key="2026-03-04")
    stack.airflow.until(lambda: stack.airflow.tasks("label", run_id)[0]["try_number"] == 2, "its retry runs")
    stack.wait_for(run_id, "deferred")
    stack.airflow.until(lambda: stack.creates() == before + 1, "it was sent once")
    stack.provider_ends()
    stack.wait_for(run_id, "success")
    assert (stack.creates() - before, len(stack.emulator.bill()) - billed) == (1, 5)


def test_a_worker_that_is_killed_while_it_collects_buys_once(stack: Stack) -> None:
    before, run_id = len(stack.emulator.bill()), stack.start("2026-03-06")
    stack.arm("collect.done:kill9")
    stack.provider_ends()
    stack.wait_for(run_id, "success")
    assert stack.airflow.tasks("label", run_id)[0]["try_number"] == 2
    assert len(stack.emulator.bill()) - before == 5


@pytest.mark.parametrize(("day", "state"), [("2026-03-07", "failed"), ("2026-03-08", "success")])
def test_a_task_that_is_marked_by_hand_cancels_at_the_provider(stack: Stack, day: str, state: str) -> None:
    before, run_id = stack.cancels(), stack.start(day)
    stack.mark(run_id, state)
    took = stack.airflow.until(lambda: stack.cancels() == before + 1, "the provider is asked to cancel")
    print(f"\ncancelled after {took:.1f} s")
    assert stack.state(run_id) == state


def test_a_deadline_wakes_a_task_which_goes_on_and_says_that_it_is_late(stack: Stack) -> None:
    """Twenty seconds, by the trigger; the answers are wanted all the same."""
    airflow, fired = stack.airflow, "'reason': 'deadline'"
    before = stack.logs().count(fired)  # where yesterday's own run took long, its deadline has passed, too
    run_id = airflow.trigger("hurried", partition_key="2026-03-09")
    airflow.until(lambda: stack.logs().count(fired) > before, "the trigger fires at the deadline")
    airflow.until(lambda: airflow.tasks("hurried", run_id)[0]["state"] == "deferred", "it waits again")
    stack.provider_ends()
    airflow.until(lambda: airflow.tasks("hurried", run_id)[0]["state"] == "success", "it is through")
    path = f"/api/v2/dags/hurried/dagRuns/{quote(run_id)}/taskInstances/label/xcomEntries/return_value"
    assert airflow.ask("GET", f"{path}?deserialize=true")["value"]["late"] is True


def test_people_are_alarmed_for_late_partitions_but_for_none_of_a_backfill(stack: Stack) -> None:
    """Airflow's own reference to the logical date rings once for every past day."""
    joined = "SELECT run_type, COUNT(*) FROM deadline JOIN dag_run ON dag_run.id = deadline.dagrun_id GROUP BY run_type"
    alarms = dict(rows(stack.airflow, joined))
    assert alarms.keys() == {"scheduled", "manual"}
    stack.airflow.until(lambda: any((stack.place / "tables").glob("late-*")), "the callback has run")


def test_no_file_and_no_table_of_airflows_tells_a_row_a_prompt_an_answer_or_a_key(stack: Stack) -> None:
    """After all of the above: the metadata database as a dump, and every log."""
    assert told_of_secrets(stack) == []
