"""Backfills over every kind of partitions and every backfill policy, launched as the UI does, through the real daemons."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import dagster as dg
import pytest

from tests.edges.dagster import kinds_location
from tests.edges.dagster.conftest import Deployment, deployed

LOCATION = Path(kinds_location.__file__)
SIXTY = kinds_location.DAYS.get_partition_keys()[:60]
CUSTOMERS = ["acme", "Ångström & Co"]
ROWS = 2


@pytest.fixture
def kinds(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    with deployed(LOCATION, request, tmp_path, monkeypatch) as deployment:
        (tmp_path / "tables").mkdir()
        for kind in kinds_location.KINDS:
            (tmp_path / "tables" / f"{kind}.csv").write_text("id,body\n1,red\n2,green\n")
        deployment.instance.add_dynamic_partitions("customers", CUSTOMERS)
        yield deployment


def keys(kind: str) -> Sequence[str]:
    definition = kinds_location.KINDS[kind]
    assert definition is not None
    return CUSTOMERS if isinstance(definition, dg.DynamicPartitionsDefinition) else definition.get_partition_keys()[:7]


def ends(deployment: Deployment, backfills: dict[str, str]) -> dict[str, str]:
    """How each backfill ended, all waiting at once, and no run executing meanwhile."""
    deployment.turn_until(lambda: len(deployment.keld.statuses(open_only=True)) == len(deployment.emulator.batches()) > 0)
    for _ in range(40):  # the daemons launch what they were asked to
        deployment.turn()
    assert {deployment.status(backfill) for backfill in backfills.values()} <= {"REQUESTED"}
    deployment.provider_ends()
    deployment.turn_until(lambda: all(deployment.status(backfill) != "REQUESTED" for backfill in backfills.values()), most=2000)
    return {name: deployment.status(backfill) for name, backfill in backfills.items()}


@pytest.mark.slow
@pytest.mark.parametrize("selected", [("batch", "result"), ("result",)])
def test_backfill_of_every_kind_of_partitions_ends_with_success_and_buys_each_row_once(
    kinds: Deployment, selected: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """Time zones with both changes of the clock, keys that are no file names, ranged runs, and an asset without partitions."""
    backfills = {
        kind: kinds.backfill(keys(kind), *(f"{kind}_batch" if one == "batch" else kind for one in selected))
        for kind, partitions in kinds_location.KINDS.items()
        if partitions is not None
    }
    kinds.launch(None, *(f"plain{'_batch' if one == 'batch' else ''}" for one in selected))
    ended = ends(kinds, backfills)
    kinds.turn_until(lambda: set(kinds.holds()) == {"SUCCESS"})
    submits = {kind: [run for run in kinds.runs() if run.tags.get("dagster/backfill") == id_] for kind, id_ in backfills.items()}
    with capsys.disabled():
        for kind, backfill in backfills.items():
            print(
                f"\n{kind} by {'+'.join(selected)}: {len(keys(kind))} partitions, {len(submits[kind])} runs, {kinds.status(backfill)}",
                end="",
            )
    assert ended == dict.fromkeys(backfills, "COMPLETED_SUCCESS")
    for kind in backfills:
        assert kinds.materialized(kind) == kinds.materialized(f"{kind}_batch") == set(keys(kind))
    assert kinds.instance.get_latest_materialization_event(dg.AssetKey("plain")) is not None
    assert len(kinds.emulator.bill()) == ROWS * (1 + sum(len(keys(kind)) for kind in backfills))


@pytest.mark.slow
def test_sixty_partitions_at_once_end_with_success(kinds: Deployment) -> None:
    backfill = kinds.backfill(SIXTY, "days_batch", "days", "report")
    assert ends(kinds, {"days": backfill}) == {"days": "COMPLETED_SUCCESS"}
    assert kinds.materialized("days") == kinds.materialized("report") == set(SIXTY)
    assert len(kinds.emulator.bill()) == ROWS * len(SIXTY)
