"""A backfill whose partitions each send one row ahead, which writes the prompt cache that the others read, through the real daemons."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from tests.edges.dagster.conftest import Deployment, deployed
from tests.edges.dagster.primed_location import ROWS_A_DAY

DAYS = ["2026-11-01", "2026-11-02"]


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Deployment]:
    with deployed(Path(__file__).with_name("primed_location.py"), request, tmp_path, monkeypatch) as deployment:
        yield deployment


@pytest.mark.wide
def test_a_backfill_waits_for_the_row_ahead_and_for_those_behind_it(deployment: Deployment) -> None:
    """One row of twenty at the provider for an hour is what a person would take for a fault; what it saves is seen in the tokens."""
    backfill = deployment.backfill(DAYS, "tickets", "labels_batch", "labels")
    deployment.turn_until(lambda: deployment.holds() == ["QUEUED"] * 2)
    assert [batch["request_counts"]["processing"] for batch in deployment.emulator.batches()] == [1, 1]
    first = "first row at the provider, ahead of the others, 0 of 20 rows done, expected by "
    assert all(line.startswith(first) for line in lines_of(deployment))
    deployment.provider_ends()
    deployment.turn_until(lambda: all(line.startswith("at the provider, 1 of 20 rows done, $") for line in lines_of(deployment)))
    assert [deployment.told("labels_batch", day) for day in DAYS] == ["at the provider"] * 2
    assert sorted(batch["request_counts"]["processing"] for batch in deployment.emulator.batches()) == [0, 0, 19, 19]
    assert deployment.holds() == ["QUEUED"] * 2
    assert deployment.status(backfill) == "REQUESTED"
    deployment.provider_ends()
    deployment.turn_until(lambda: deployment.status(backfill) != "REQUESTED")
    assert deployment.status(backfill) == "COMPLETED_SUCCESS"
    bill = deployment.emulator.bill()
    assert Counter((bool(entry.cache_write_tokens), bool(entry.cached_tokens)) for entry in bill) == {
        (True, False): len(DAYS),
        (False, True): len(DAYS) * (ROWS_A_DAY - 1),
    }
    collected = [metadata_of(deployment, day) for day in DAYS]
    assert [facts["keld/answered"] for facts in collected] == ["20 of 20 rows"] * 2
    assert sum(facts["keld/cached_tokens"] for facts in collected) == sum(entry.cached_tokens for entry in bill)


def lines_of(deployment: Deployment) -> list[str]:
    """What the list of runs says of each wait."""
    return [run.tags["keld"] for run in deployment.runs(job_name="keld_provider_wait")]


def metadata_of(deployment: Deployment, day: str) -> dict[str, Any]:
    filters = dg.AssetRecordsFilter(asset_key=dg.AssetKey("labels"), asset_partitions=[day])
    [latest] = deployment.instance.fetch_materializations(filters, limit=1).records
    assert latest.asset_materialization is not None
    return {name: value.value for name, value in latest.asset_materialization.metadata.items()}
