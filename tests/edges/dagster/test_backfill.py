"""Backfills and launches from the UI, through the real daemons."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from keld import Job
from tests.edges.dagster.code_location import ROWS_A_DAY
from tests.edges.dagster.conftest import LOCATION, Deployment, deployed

WEEK = [f"2026-11-0{day}" for day in range(1, 8)]
DAYS = WEEK[:4]  # twice as many as may run at a time
CANARY = "canary-4711"  # in every prompt of `location.py`


@pytest.mark.code_server
def test_backfill_waits_without_a_slot_and_ends_completed_success(deployment: Deployment) -> None:
    """Dagster fails a backfill whose runs have all ended and that makes no progress; a run that waited would hold a slot for hours."""
    backfill = deployment.backfill(DAYS, "tickets", "labels_batch", "labels", "report")
    deployment.turn_until(lambda: deployment.materialized("labels_batch") == set(DAYS))
    for _ in range(5):
        deployment.turn()
    assert deployment.status(backfill) == "REQUESTED"
    assert deployment.materialized("labels") == set()
    assert deployment.holds() == ["QUEUED"] * 4
    deployment.provider_ends()
    deployment.turn_until(lambda: deployment.status(backfill) != "REQUESTED")
    assert deployment.status(backfill) == "COMPLETED_SUCCESS"
    assert deployment.materialized("labels") == deployment.materialized("report") == set(DAYS)
    assert deployment.holds() == ["SUCCESS"] * 4


@pytest.mark.slow
def test_backfill_upon_a_postgres_ledger_ends_completed_success(
    postgres: Callable[[], str], request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What several hosts need: submit runs, the sensor and collect runs meet in the database, and no file is a ledger."""
    monkeypatch.setenv("KELD_LEDGER_URL", postgres())
    with deployed(LOCATION, request, tmp_path, monkeypatch) as deployment:
        backfill = deployment.backfill(WEEK, "tickets", "labels_batch", "labels", "report")
        deployment.turn_until(lambda: deployment.holds() == ["QUEUED"] * 7)
        assert deployment.status(backfill) == "REQUESTED"
        deployment.provider_ends()
        deployment.turn_until(lambda: deployment.status(backfill) != "REQUESTED")
        assert deployment.status(backfill) == "COMPLETED_SUCCESS"
        assert deployment.materialized("labels") == deployment.materialized("report") == set(WEEK)
        assert deployment.holds() == ["SUCCESS"] * 7
        assert deployment.keld.ledger_url.startswith("postgresql://")
        assert [status.state for status in deployment.keld.statuses()] == ["finished"] * 7
        assert len(deployment.emulator.bill()) == len(WEEK) * ROWS_A_DAY
    assert not list((tmp_path / "keld").rglob("ledger.db*"))


def test_launch_of_one_partition_arrives_and_again_costs_nothing(deployment: Deployment, tmp_path: Path) -> None:
    """One partition is a plain run without a backfill; a finished one is written again from what was paid for."""
    deployment.launch("2026-11-03", "tickets", "labels_batch", "labels")
    deployment.turn_until(lambda: deployment.holds() == ["QUEUED"])
    deployment.provider_ends()
    deployment.turn_until(lambda: deployment.holds() == ["SUCCESS"])
    table = tmp_path / "tables" / "labels" / "2026-11-03.parquet"
    assert pq.read_table(table)["keld_outcome"].to_pylist() == ["answered"] * 5
    bill = deployment.emulator.bill()
    table.unlink()
    run = deployment.launch("2026-11-03", "labels_batch", "labels")
    deployment.turn_until(table.exists)
    assert deployment.runs(run_ids=[run])[0].status.value == "SUCCESS"
    assert deployment.emulator.bill() == bill
    assert CANARY not in everything_dagster_stores(deployment)


def test_a_day_that_a_person_launched_twice_is_brought_in_by_one_run_after_the_other(deployment: Deployment) -> None:
    """IO managers of databases delete a partition and write it again: two at once lock each other out, or leave its rows twice."""
    for _ in range(2):
        deployment.launch("2026-11-03", "tickets", "labels_batch", "labels", "report")
        deployment.turn()
    at_once = []

    def both_ended() -> bool:
        at_once.append(sum(not run.is_finished for run in deployment.runs(tags={"keld/phase": "collect"})))
        return deployment.holds() == ["SUCCESS"] * 2

    deployment.turn_until(lambda: deployment.holds() == ["QUEUED"] * 2)
    deployment.provider_ends()
    deployment.turn_until(both_ended)
    assert max(at_once) == 1 and len(deployment.runs(tags={"keld/phase": "collect"})) == 2
    assert deployment.materialized("report") == {"2026-11-03"}
    assert len(deployment.emulator.bill()) == 5


def everything_dagster_stores(deployment: Deployment) -> str:
    runs = deployment.runs()
    assert len(runs) >= 4
    events = [entry for run in runs for entry in deployment.instance.all_logs(run.run_id)]
    return f"{events} {[run.tags for run in runs]} {deployment.ticks()}"


@pytest.mark.wide
def test_cancelled_backfill_cancels_at_the_provider(deployment: Deployment) -> None:
    """What nobody waits for any more should not go on costing."""
    backfill = deployment.backfill(WEEK[:2], "tickets", "labels_batch", "labels")
    deployment.turn_until(lambda: deployment.holds() == ["QUEUED"] * 2)
    deployment.cancel(backfill)
    deployment.turn_until(lambda: {batch["status"] for batch in deployment.emulator.batches()} <= {"cancelling", "cancelled"})
    deployment.provider_ends()
    deployment.turn_until(lambda: not deployment.keld.statuses(open_only=True))
    deployment.turn_until(lambda: deployment.status(backfill) == "CANCELED")
    assert [status.state for status in deployment.keld.statuses()] == ["cancelled"] * 2
    assert deployment.materialized("labels") == set()


def test_terminated_hold_cancels_at_the_provider(deployment: Deployment) -> None:
    """The hold run is what a person sees and can stop."""
    deployment.launch(WEEK[0], "tickets", "labels_batch", "labels")
    deployment.turn_until(lambda: deployment.holds() == ["QUEUED"])
    deployment.terminate(deployment.runs(job_name="keld_provider_wait")[0].run_id)
    deployment.turn_until(lambda: {batch["status"] for batch in deployment.emulator.batches()} <= {"cancelling", "cancelled"})


@pytest.mark.wide
def test_result_alone_submits_and_a_further_round_goes_on_under_the_same_hold(deployment: Deployment) -> None:
    """A collect run that sends unanswered rows again has no result to show yet; the backfill must not end before there is one."""
    deployment.emulator.faults({"rules": [{"at": "life", "do": "expire", "done": 0.4, "after_s": 3600}]})
    deployment.launch(WEEK[0], "tickets")
    deployment.turn_until(lambda: deployment.materialized("tickets") == {WEEK[0]})
    run = deployment.launch(WEEK[0], "labels")
    deployment.turn_until(lambda: deployment.materialized("labels_batch") == {WEEK[0]})
    assert deployment.runs(run_ids=[run])[0].status.value == "SUCCESS"
    deployment.provider_ends()
    deployment.turn_until(lambda: len(deployment.emulator.batches()) == 2)
    assert deployment.holds() == ["QUEUED"]
    assert deployment.materialized("labels") == set()
    deployment.provider_ends()
    deployment.turn_until(lambda: deployment.holds() == ["SUCCESS"])
    assert deployment.materialized("labels") == {WEEK[0]}
    assert len(deployment.emulator.bill()) == 5


@pytest.mark.wide
def test_batch_alone_is_collected_all_the_same(deployment: Deployment) -> None:
    """What was paid for is brought in, whoever asked; nothing is planned, so nothing is held."""
    deployment.launch(WEEK[0], "tickets", "labels_batch")
    deployment.turn_until(lambda: deployment.materialized("labels_batch") == {WEEK[0]})
    assert deployment.holds() == []
    deployment.provider_ends()
    deployment.turn_until(lambda: deployment.materialized("labels") == {WEEK[0]})


@pytest.mark.wide
def test_backfill_over_partitions_that_are_out_with_an_older_prompt_waits_for_the_answers_to_the_new_one(deployment: Deployment) -> None:
    """What is out is paid for and brought to its end; its rows answer another question than the one that is declared now."""
    older = Job(name="labels", key="ticket_id", prompt="Older: {body}", models="openai:gpt-5-mini")
    for day in WEEK[:2]:
        rows = [{"ticket_id": f"{day}-{n}", "body": f"ticket {n} of {day}"} for n in range(5)]
        status = deployment.keld.submit(older, rows, partition=day, owner="dagster:location:labels", source_name="asset:tickets")
        deployment.keld.advance(status.id)
    backfill = deployment.backfill(WEEK[:2], "tickets", "labels_batch", "labels", "report")
    deployment.turn_until(lambda: deployment.holds() == ["QUEUED"] * 2)
    deployment.provider_ends()
    deployment.turn_until(lambda: sorted(deployment.holds()) == ["QUEUED"] * 2 + ["SUCCESS"] * 2)
    assert (deployment.status(backfill), deployment.materialized("labels")) == ("REQUESTED", set())
    deployment.provider_ends()
    deployment.turn_until(lambda: deployment.status(backfill) != "REQUESTED")
    assert deployment.status(backfill) == "COMPLETED_SUCCESS"
    assert deployment.materialized("labels") == deployment.materialized("report") == set(WEEK[:2])
    statuses = deployment.keld.statuses()
    assert (
        sorted((status.generation, status.outdated) for status in statuses) == [(1, "the prompt and the output type")] * 2 + [(2, None)] * 2
    )
    assert {status.owner for status in statuses} == {"dagster:location:labels"}
