"""A real Airflow with Celery: tasks on workers that are hosts apart, a broker, its database and the ledger in Postgres; minutes.

Whatever happens to a worker, the next one knows nothing but the ledger and the files beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from tests.edges.airflow.live_airflow import QUIET, Stack, database_url, live, told_of_secrets

if TYPE_CHECKING:
    from tests.edges.airflow.celery_workers import Crew
    from tests.edges.airflow.redis_broker import Broker

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

LEASE_S = 120  # what a host that is gone is waited for: nobody can tell from outside whether it is merely slow
SETTINGS = {
    **QUIET,
    "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
    "AIRFLOW__CORE__PARALLELISM": "4",
    "AIRFLOW__CORE__HOSTNAME_CALLABLE": "socket.gethostname",  # the default asks a name server
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",  # half a lease: on a busy machine a heartbeat may be half a minute late
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "2",
}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    from tests.edges.airflow.redis_broker import running_broker

    with running_broker(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.fixture(scope="module", params=[None, "s3://staging/keld"], ids=["directory", "bucket"])
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres: Callable[[], str], broker: Broker
) -> Iterator[tuple[Stack, Crew]]:
    """With a bucket, each worker has a Keld home, a HOME and temporary files of its own."""
    from tests.edges.airflow.celery_workers import Crew

    settings = {**SETTINGS, **database_url("postgres", postgres), "AIRFLOW__CELERY__BROKER_URL": broker.url}
    if request.param is not None:
        settings["KELD_STAGING"] = request.param
    with live(tmp_path_factory.mktemp("celery"), dags=("label",), **settings) as stack:
        crew = Crew(stack.airflow, broker.url, stack.place)
        crew.at_work("a", "b")
        stack.settle("label")
        yield stack, crew


@pytest.fixture
def stack(running: tuple[Stack, Crew]) -> Stack:
    return running[0]


@pytest.fixture
def crew(running: tuple[Stack, Crew]) -> Crew:
    return running[1]


def test_six_days_are_filled_by_two_workers_that_both_take_part(stack: Stack, crew: Crew) -> None:
    crew.at_work("a", "b")
    airflow, before, billed = stack.airflow, stack.creates(), len(stack.emulator.bill())
    began = time.monotonic()
    airflow.backfill("label", "2026-02-01T00:00:00Z", "2026-02-06T00:00:00Z")
    airflow.until(lambda: airflow.states("label", "label", "backfill") == ["deferred"] * 6, "six tasks are deferred")
    deferred = time.monotonic() - began
    stack.provider_ends()
    airflow.until(lambda: airflow.states("label", "label", "backfill") == ["success"] * 6, "six tasks are through")
    print(f"\ndeferred after {deferred:.1f} s, through after {time.monotonic() - began:.1f} s")
    visits = [crew.visits(run["dag_run_id"]) for run in airflow.runs("label") if run["run_type"] == "backfill"]
    assert len(visits) == 6
    assert min(map(len, visits)) == 2, "more, where Airflow missed a heartbeat and tried again"
    assert {name for both in visits for name in both} == {"a", "b"}
    bought = [entry.custom_id for entry in stack.emulator.bill()[billed:]]
    assert (stack.creates() - before, len(bought), len(set(bought))) == (6, 30, 30)
    assert {path.stem for path in (stack.place / "tables").glob("*.parquet")} >= {f"2026-02-0{day}" for day in range(1, 7)}


def test_what_one_worker_has_sent_another_collects(stack: Stack, crew: Crew) -> None:
    """A worker that is asked to end leaves the batch alone, and nothing of the task but the ledger and the files."""
    crew.at_work("a")
    before, billed, run_id = stack.creates(), len(stack.emulator.bill()), stack.start("2026-03-01")
    crew.at_work("b")
    stack.provider_ends()
    stack.wait_for(run_id, "success")
    assert crew.visits(run_id) == ["a", "b"]
    assert (stack.creates() - before, len(stack.emulator.bill()) - billed, stack.cancels()) == (1, 5, 0)


def test_a_host_that_dies_while_it_sends_is_replaced_and_buys_once(stack: Stack, crew: Crew, broker: Broker) -> None:
    """Airflow misses the task's heartbeat and queues its next try, which waits for the lease, finds an intent without an outcome, and looks
    at the provider.  Celery's own message, which the dead never acknowledged, is delivered again a day later; Airflow refuses that one."""
    crew.at_work("a", "b")
    before, billed = stack.creates(), len(stack.emulator.bill())
    stack.arm("create.received:stop")
    run_id = stack.airflow.trigger("label", partition_key="2026-03-02")
    dead = crew.wait_for_stopped()
    assert stack.creates() == before + 1
    crew.kill(dead)
    took_over = wait_for_next_try(stack, run_id)
    deferred = stack.wait_for(run_id, "deferred", patience_s=2 * LEASE_S)
    print(f"\nnext try after {took_over:.1f} s, deferred {deferred:.1f} s later")
    stack.airflow.until(lambda: broker.left() == 1, "only the dead host's message is left")
    broker.a_day_passes()
    crew.at_work("a", "b")
    stack.airflow.until(lambda: "Task Instance not found" in stack.logs(), "it is delivered again, and refused")
    stack.provider_ends()
    stack.wait_for(run_id, "success")
    assert crew.visits(run_id)[0] == dead != crew.visits(run_id)[1]
    assert (stack.creates() - before, len(stack.emulator.bill()) - billed, stack.cancels()) == (1, 5, 0)


def test_a_host_that_dies_while_it_collects_is_replaced_and_buys_once(stack: Stack, crew: Crew) -> None:
    crew.at_work("a", "b")
    before, billed, run_id = stack.creates(), len(stack.emulator.bill()), stack.start("2026-03-03")
    stack.arm("collect.done:stop")
    stack.provider_ends()
    dead = crew.wait_for_stopped()
    crew.kill(dead)
    took_over = wait_for_next_try(stack, run_id)
    through = stack.wait_for(run_id, "success", patience_s=2 * LEASE_S)
    print(f"\nnext try after {took_over:.1f} s, through {through:.1f} s later")
    assert crew.visits(run_id)[1] == dead != crew.visits(run_id)[2]
    assert (stack.creates() - before, len(stack.emulator.bill()) - billed, stack.cancels()) == (1, 5, 0)


def test_a_task_that_is_cleared_while_it_waits_finds_its_batch_again(stack: Stack, crew: Crew) -> None:
    crew.at_work("a", "b")
    before, billed, run_id = stack.creates(), len(stack.emulator.bill()), stack.start("2026-03-04")
    stack.clear(run_id)
    wait_for_next_try(stack, run_id)
    stack.wait_for(run_id, "deferred")
    stack.provider_ends()
    stack.wait_for(run_id, "success")
    assert (stack.creates() - before, len(stack.emulator.bill()) - billed, stack.cancels()) == (1, 5, 0)


def test_a_task_that_is_marked_failed_cancels_at_the_provider(stack: Stack, crew: Crew) -> None:
    crew.at_work("a", "b")
    before, run_id = (stack.creates(), stack.cancels()), stack.start("2026-03-05")
    stack.mark(run_id, "failed")
    stack.airflow.until(lambda: stack.cancels() == before[1] + 1, "the provider is asked to cancel")
    assert (stack.state(run_id), stack.creates() - before[0]) == ("failed", 1)


def test_a_worker_with_a_ledger_in_a_file_sends_nothing(stack: Stack, crew: Crew) -> None:
    """One whose environment lacks the ledger's URL would begin one of its own, and buy what others have bought."""
    crew.at_work()
    before = stack.sent()
    crew.start("alone", KELD_LEDGER_URL="")
    run_id = stack.airflow.trigger("label", partition_key="2026-03-06")
    stack.wait_for(run_id, "failed")
    assert set(crew.visits(run_id)) == {"alone"}
    assert stack.sent() == before
    assert "CeleryExecutor runs tasks on others" in stack.logs()


def test_no_log_and_no_table_tells_a_row_a_prompt_an_answer_or_a_key(stack: Stack) -> None:
    """After all of the above: the logs of the workers and what Celery keeps of a task's end are among them."""
    assert "Executing workload in Celery" in stack.logs()
    assert told_of_secrets(stack) == []


def wait_for_next_try(stack: Stack, run_id: str) -> float:
    return stack.airflow.until(lambda: stack.airflow.tasks("label", run_id)[0]["try_number"] == 2, "its next try")
