"""Kills in a real Airflow of whatever version: of tasks by hand, of triggerers and workers by SIGKILL; minutes, so not in the fast suite.

`make versions NAMES="airflow-3.1 airflow-3.2" TESTS="-m slow tests/edges/airflow/test_kill.py"` plays them in the older versions.
"""

from collections.abc import Iterator

import pytest

from tests.edges.airflow.live_airflow import QUIET, Stack, live

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with live(tmp_path_factory.mktemp("kill"), dags=("plain",), **QUIET) as stack:
        yield stack


def start(stack: Stack) -> str:
    """A run of the Dag, deferred, its trigger running in a triggerer."""
    run_id = stack.airflow.trigger("plain")
    stack.wait_for(run_id, "deferred", "plain")
    stack.airflow.until(lambda: f"plain/{run_id}/label/-1" in stack.logs(), "a triggerer has it")
    return run_id


@pytest.mark.parametrize("state", ["failed", "success"])
def test_a_task_that_is_marked_by_hand_cancels_at_the_provider(stack: Stack, state: str) -> None:
    """Before 3.3 Airflow only ends the trigger, as it does when a triggerer is shut down."""
    before, run_id = (stack.creates(), stack.cancels()), start(stack)
    stack.mark(run_id, state, "plain")
    took = stack.airflow.until(lambda: stack.cancels() == before[1] + 1, "the provider is asked to cancel")
    print(f"\ncancelled after {took:.1f} s")
    assert (stack.state(run_id, "plain"), stack.creates() - before[0]) == (state, 1)


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_triggerer_that_is_shut_down_or_killed_is_replaced_and_nothing_is_cancelled_or_bought_twice(stack: Stack, how: str) -> None:
    before, billed, run_id = (stack.creates(), stack.cancels()), len(stack.emulator.bill()), start(stack)
    getattr(stack.airflow, how)("triggerer")
    stack.airflow.start("triggerer")
    stack.provider_ends()
    stack.wait_for(run_id, "success", "plain")
    assert (stack.creates() - before[0], stack.cancels() - before[1], len(stack.emulator.bill()) - billed) == (1, 0, 5)


@pytest.mark.parametrize("failpoint", ["create.received", "collect.done"])
def test_a_worker_that_is_killed_while_it_sends_or_collects_buys_once(stack: Stack, failpoint: str) -> None:
    before, billed = (stack.creates(), stack.cancels()), len(stack.emulator.bill())
    if failpoint == "create.received":
        stack.arm(f"{failpoint}:kill9")
        run_id = stack.airflow.trigger("plain")
        stack.airflow.until(lambda: stack.airflow.tasks("plain", run_id)[0]["try_number"] == 2, "its retry runs")
        stack.wait_for(run_id, "deferred", "plain")
    else:
        run_id = start(stack)
        stack.arm(f"{failpoint}:kill9")
    stack.provider_ends()
    stack.wait_for(run_id, "success", "plain")
    assert stack.airflow.tasks("plain", run_id)[0]["try_number"] == 2
    assert (stack.creates() - before[0], stack.cancels() - before[1], len(stack.emulator.bill()) - billed) == (1, 0, 5)


def test_a_task_that_is_marked_failed_while_no_triggerer_runs_gets_its_batch_cancelled_by_the_next_one(stack: Stack) -> None:
    stack.airflow.kill("triggerer")
    run_id = stack.airflow.trigger("plain")
    stack.wait_for(run_id, "deferred", "plain")
    before = stack.cancels()
    stack.mark(run_id, "failed", "plain")
    stack.airflow.start("triggerer")
    start(stack)
    took = stack.airflow.until(lambda: stack.cancels() == before + 1, "the provider is asked to cancel")
    print(f"\ncancelled {took:.1f} s after another task's trigger was there")
