"""A backfill of two jobs and of an asset that needs both results, through the real daemons."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edges.dagster.conftest import Deployment, deployed

DAYS = ["2026-11-01", "2026-11-02"]


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Deployment]:
    monkeypatch.setenv("TEST_HOLD", getattr(request, "param", "queued"))
    with deployed(Path(__file__).with_name("joined_location.py"), request, tmp_path, monkeypatch) as deployment:
        yield deployment


@pytest.mark.slow
def test_what_needs_two_results_rides_with_the_last_of_them(deployment: Deployment) -> None:
    """With the first it would fail, since the other is missing; with each or with none the backfill would end otherwise than it says."""
    backfill = deployment.backfill(DAYS, "tickets", "labels_batch", "labels", "moods_batch", "moods", "joined")
    deployment.turn_until(lambda: deployment.holds() == ["QUEUED"] * 4)
    deployment.provider_ends()
    deployment.turn_until(lambda: deployment.status(backfill) != "REQUESTED")
    runs = deployment.runs(tags={"keld/phase": "collect"})
    assert {run.status.value for run in runs} == {"SUCCESS"}
    carries = [{key.to_user_string() for key in run.asset_selection or ()} for run in runs]
    assert len(carries) == 4
    assert sum("joined" in one for one in carries) == 2
    assert deployment.status(backfill) == "COMPLETED_SUCCESS"
    assert deployment.materialized("joined") == set(DAYS)
    assert len(deployment.emulator.bill()) == 8


@pytest.mark.slow
def test_what_needs_two_results_waits_for_the_one_that_needs_another_round(deployment: Deployment) -> None:
    """One batch expires with some rows unanswered: its collect run sends them again, while the other result is there."""
    deployment.emulator.faults({"rules": [{"at": "life", "do": "expire", "done": 0.5, "after_s": 3600}]})
    backfill = deployment.backfill(DAYS[:1], "tickets", "labels_batch", "labels", "moods_batch", "moods", "joined")
    deployment.turn_until(lambda: deployment.holds() == ["QUEUED"] * 2)
    deployment.provider_ends()
    deployment.turn_until(lambda: len(deployment.emulator.batches()) == 3 and deployment.holds().count("SUCCESS") == 1)
    assert deployment.materialized("joined") == set()
    deployment.provider_ends()
    deployment.turn_until(lambda: deployment.status(backfill) != "REQUESTED")
    assert (deployment.status(backfill), deployment.materialized("joined")) == ("COMPLETED_SUCCESS", {DAYS[0]})
    assert {run.status.value for run in deployment.runs()} == {"SUCCESS"}


@pytest.mark.slow
@pytest.mark.parametrize("deployment", ["none"], indirect=True)
def test_without_hold_runs_too_what_needs_two_results_rides_with_the_last_of_them(deployment: Deployment) -> None:
    deployment.launch(DAYS[0], "tickets", "labels_batch", "labels", "moods_batch", "moods", "joined")
    deployment.turn_until(lambda: deployment.materialized("moods_batch") == deployment.materialized("labels_batch") == {DAYS[0]})
    assert deployment.holds() == []
    deployment.provider_ends()
    deployment.turn_until(lambda: deployment.materialized("joined") == {DAYS[0]})
    assert {run.status.value for run in deployment.runs()} == {"SUCCESS"}
