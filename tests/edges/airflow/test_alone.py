"""A real Airflow without any triggerer: what a worker holds its slot for, and what the scheduler's own timeout wakes; minutes, so not in the fast suite."""

from collections.abc import Iterator

import pytest

from tests.edges.airflow.live_airflow import QUIET, Stack, live

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with live(tmp_path_factory.mktemp("alone"), ("api-server", "scheduler", "dag-processor"), ("hurried", "held"), **QUIET) as stack:
        stack.airflow.until(
            lambda: stack.airflow.states("hurried", "label", "scheduled") == ["deferred"],
            "yesterday's own run, which Airflow starts, has sent",
        )
        stack.provider_ends()
        yield stack


def test_a_task_that_is_not_deferrable_holds_its_slot_until_the_answers_are_there(stack: Stack) -> None:
    before, billed = stack.creates(), len(stack.emulator.bill())
    run_id = stack.airflow.trigger("held")
    stack.airflow.until(lambda: stack.creates() == before + 1, "it has sent")
    assert stack.state(run_id, "held") == "running"
    stack.provider_ends()
    stack.wait_for(run_id, "success", "held")
    assert (stack.creates() - before, len(stack.emulator.bill()) - billed) == (1, 5)


@pytest.mark.parametrize("state", ["failed", "success"])
def test_a_task_that_holds_its_slot_and_is_marked_by_hand_cancels_at_the_provider(stack: Stack, state: str) -> None:
    sent, cancelled = stack.creates(), stack.cancels()
    run_id = stack.airflow.trigger("held")
    stack.airflow.until(lambda: stack.creates() == sent + 1, "it has sent")
    stack.mark(run_id, state, "held")
    took = stack.airflow.until(lambda: stack.cancels() == cancelled + 1, "the provider is asked to cancel")
    print(f"\ncancelled after {took:.1f} s")
    assert stack.state(run_id, "held") == state


def test_a_deadline_wakes_a_task_that_no_triggerer_has(stack: Stack) -> None:
    """The scheduler ends the wait; that takes no retry, and the batch that has ended meanwhile is brought in."""
    before = stack.creates()
    run_id = stack.airflow.trigger("hurried", partition_key="2026-03-09")
    stack.wait_for(run_id, "deferred", "hurried")
    stack.provider_ends()
    took = stack.wait_for(run_id, "success", "hurried")
    print(f"\nwoken after {took:.1f} s")
    [task] = stack.airflow.tasks("hurried", run_id)
    assert (task["try_number"], stack.creates() - before) == (1, 1)
