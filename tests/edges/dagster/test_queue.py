"""The run queue of a deployment with limits of its own: hold runs are in it, and stand in nobody's way."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.edges.dagster import kinds_location
from tests.edges.dagster.conftest import SETTINGS, Deployment, deployed

LOCATION = Path(kinds_location.__file__)
DAYS = ["2026-11-01", "2026-11-02"]
ROWS = 2


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {**SETTINGS, **getattr(request, "param", {})}


@pytest.fixture
def days(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]) -> Iterator[Deployment]:
    monkeypatch.setenv("TEST_WITHOUT", " ".join(kind for kind in kinds_location.KINDS if kind != "days"))
    with deployed(LOCATION, request, tmp_path, monkeypatch, settings) as deployment:
        (tmp_path / "tables").mkdir()
        (tmp_path / "tables" / "days.csv").write_text("id,body\n1,red\n2,green\n")
        yield deployment


def coordinator(config: dict[str, Any]) -> dict[str, Any]:
    return {"module": "dagster._core.run_coordinator", "class": "QueuedRunCoordinator", "config": config}


def limited(**more: Any) -> dict[str, Any]:
    """One run of a backfill at a time."""
    return {
        "concurrency": {"runs": {"max_concurrent_runs": 5, "tag_concurrency_limits": [{"key": "dagster/backfill", "limit": 1, **more}]}}
    }


@pytest.mark.share(2)
@pytest.mark.parametrize("settings", [limited(), limited(value={"applyLimitPerUniqueValue": True})], indirect=True)
def test_a_limit_of_runs_with_a_tag_counts_no_hold_run(days: Deployment) -> None:
    """Dagster's queue counts a run as launched before it looks at its pool: two that wait would keep what collects them from ever starting."""
    backfill = days.backfill(DAYS, "days_batch", "days")
    days.turn_until(lambda: days.holds() == ["QUEUED"] * len(DAYS))
    days.provider_ends()
    days.turn_until(lambda: days.status(backfill) != "REQUESTED")
    assert days.status(backfill) == "COMPLETED_SUCCESS"
    assert days.materialized("days") == set(DAYS)
    assert len(days.emulator.bill()) == ROWS * len(DAYS)


@pytest.mark.wide
@pytest.mark.parametrize(
    "settings",
    [
        {"concurrency": {"runs": {"max_concurrent_runs": 5}, "pools": {"granularity": "op", "op_granularity_run_buffer": 1}}},
        {"concurrency": {}, "run_coordinator": coordinator({"block_op_concurrency_limited_runs": {"enabled": False}})},
    ],
    indirect=True,
)
def test_a_queue_that_starts_runs_whose_pool_is_full_gets_no_hold_run_and_collects_all_the_same(days: Deployment) -> None:
    """It would be started, take a slot, and wait for its pool without end."""
    run = days.launch(DAYS[0], "days_batch", "days")
    days.turn_until(lambda: days.materialized("days_batch") == {DAYS[0]})
    assert days.holds() == []
    assert any("No hold run: " in entry.user_message and entry.level == logging.WARNING for entry in days.instance.all_logs(run))
    days.provider_ends()
    days.turn_until(lambda: days.materialized("days") == {DAYS[0]})
    assert len(days.emulator.bill()) == ROWS


@pytest.mark.wide
def test_a_collect_run_has_the_tags_that_a_person_gave_the_run_that_sent(days: Deployment) -> None:
    """Its retries, its priority, its pod's memory; the hold run is last in the queue all the same."""
    own = {"dagster/max_retries": "3", "dagster/priority": "5", "dagster-k8s/config": "{}", "team": "support"}
    days.launch(DAYS[0], "days_batch", "days", **own)
    days.turn_until(lambda: days.holds() == ["QUEUED"])
    assert int(days.runs(job_name="keld_provider_wait")[0].tags["dagster/priority"]) < 0
    days.provider_ends()
    days.turn_until(lambda: days.holds() == ["SUCCESS"])
    [collect] = days.runs(tags={"keld/phase": "collect"})
    assert own.items() <= collect.tags.items()
    assert len(days.emulator.bill()) == ROWS
