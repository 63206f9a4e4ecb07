"""The run queue of a deployment with limits of its own: hold runs are in it, and stand in nobody's way."""

from pathlib import Path
from typing import Any

import pytest

from tests.edges.dagster import kinds_location
from tests.edges.dagster.conftest import SETTINGS, deployed

LOCATION = Path(kinds_location.__file__)
DAYS = ["2026-11-01", "2026-11-02"]
ROWS = 2


@pytest.mark.parametrize("each", [True, False])
def test_a_limit_of_runs_with_a_tag_counts_no_hold_run(
    each: bool, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster's queue counts a run as launched before it looks at its pool: two that wait would keep what collects them from ever starting."""
    limit: dict[str, Any] = {"key": "dagster/backfill", "limit": 1, **({"value": {"applyLimitPerUniqueValue": True}} if each else {})}
    settings = {**SETTINGS, "concurrency": {"runs": {"max_concurrent_runs": 5, "tag_concurrency_limits": [limit]}}}
    monkeypatch.setenv("TEST_WITHOUT", " ".join(kind for kind in kinds_location.KINDS if kind != "days"))
    with deployed(LOCATION, request, tmp_path, monkeypatch, settings) as deployment:
        (tmp_path / "tables").mkdir()
        (tmp_path / "tables" / "days.csv").write_text("id,body\n1,red\n2,green\n")
        backfill = deployment.backfill(DAYS, "days_batch", "days")
        deployment.turn_until(lambda: deployment.holds() == ["QUEUED"] * len(DAYS), most=60)
        deployment.provider_ends()
        deployment.turn_until(lambda: deployment.status(backfill) != "REQUESTED", most=60)
        assert deployment.status(backfill) == "COMPLETED_SUCCESS"
        assert deployment.materialized("days") == set(DAYS)
        assert len(deployment.emulator.bill()) == ROWS * len(DAYS)
