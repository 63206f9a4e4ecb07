"""Backfills over a source with other partitions, through the real daemons: Dagster runs the source and the result apart."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest

from tests.edges.dagster.conftest import Deployment, deployed

DAYS = ["2026-11-01", "2026-11-02"]
HALVES = [f"{day}-{hour}:00" for day in DAYS for hour in ("00", "12")]
STALE = """
query ($day: String!) { assetNodes(assetKeys: [{path: ["labels_batch"]}, {path: ["labels"]}]) {
  staleStatus(partition: $day) staleCauses(partition: $day) { category reason } } }
"""


@pytest.fixture
def deployment(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    with deployed(Path(__file__).with_name("mapped_location.py"), request, tmp_path, monkeypatch) as deployment:
        yield deployment


def out_of_date(deployment: Deployment, day: str) -> list[tuple[str, list[str]]]:
    """What the UI says of batch and result."""
    from dagster_graphql.test.utils import execute_dagster_graphql

    found: Any = execute_dagster_graphql(deployment.workspace.create_request_context(), STALE, {"day": day}).data
    return [(node["staleStatus"], [cause["reason"] for cause in node["staleCauses"]]) for node in found["assetNodes"]]


def code_versions(deployment: Deployment) -> set[str]:
    """The code versions with which batches and results were materialised: a changed prompt shows by them."""
    keys = [dg.AssetKey("labels_batch"), dg.AssetKey("labels")]
    records = [record for key in keys for record in deployment.instance.fetch_materializations(key, limit=10).records]
    assert len(records) >= 4
    return {
        (record.asset_materialization.tags or {}).get("dagster/code_version", "none") for record in records if record.asset_materialization
    }


@pytest.mark.wide
def test_backfill_of_source_and_result_waits_for_all_halves_of_a_day(deployment: Deployment, tmp_path: Path) -> None:
    """Every row is sent once, none is missing, and the backfill is honest to its end; then nothing of it is out of date."""
    chosen = {"tickets": (HALVES[0], HALVES[-1]), **dict.fromkeys(("labels_batch", "labels", "report"), (DAYS[0], DAYS[-1]))}
    backfill = deployment.backfill_by_asset(chosen)
    deployment.turn_until(lambda: deployment.holds() == ["QUEUED"] * 2)
    assert deployment.materialized("tickets") == set(HALVES)
    assert deployment.status(backfill) == "REQUESTED"
    deployment.provider_ends()
    deployment.turn_until(lambda: deployment.status(backfill) != "REQUESTED")
    assert deployment.status(backfill) == "COMPLETED_SUCCESS"
    assert deployment.materialized("labels") == deployment.materialized("report") == set(DAYS)
    ids = pq.read_table(tmp_path / "tables" / "labels" / f"{DAYS[0]}.parquet")["ticket_id"].to_pylist()
    assert ids == [f"{half}-{n}" for half in HALVES[:2] for n in range(2)]
    assert len(deployment.emulator.bill()) == 8

    assert out_of_date(deployment, DAYS[0]) == [("FRESH", []), ("FRESH", [])]
    assert len(code_versions(deployment)) == 1 and code_versions(deployment) != {"none"}


def test_day_whose_halves_are_not_all_there_fails_with_what_is_missing_and_sends_nothing(deployment: Deployment) -> None:
    deployment.launch(HALVES[0], "tickets")
    deployment.turn_until(lambda: deployment.materialized("tickets") == {HALVES[0]})
    run = deployment.launch(DAYS[0], "labels_batch", "labels")
    deployment.turn_until(lambda: deployment.runs(run_ids=[run])[0].status.value == "FAILURE")
    told = str([entry.dagster_event.event_specific_data for entry in deployment.instance.all_logs(run) if entry.dagster_event])
    assert f"1 of the 2 partitions of the source tickets that hold its rows are not materialized: '{HALVES[1]}'" in told
    assert deployment.emulator.batches() == []
