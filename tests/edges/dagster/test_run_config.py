"""What follows a result runs later, as it was launched: with its config, and an op with all that it makes.

Of Dagster's own sensors https://github.com/dagster-io/dagster/issues/12955 tells the same of config.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from keld.emulator import Emulator
from keld_dagster.run_config import given_config, misfit
from keld_dagster.testing import materialize
from tests.edges.dagster import config_location
from tests.edges.dagster.config_location import ROWS
from tests.edges.dagster.conftest import Deployment, deployed

DAYS = ["2026-11-01", "2026-11-02"]
GIVEN: dict[str, Any] = {"ops": {"excerpt": {"config": {"rows": 2}}, "summary": {"config": {"rows": 1}}}}


@pytest.fixture
def deployment(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    with deployed(Path(config_location.__file__), request, tmp_path, monkeypatch) as deployment:
        yield deployment


def told_rows(instance: dg.DagsterInstance, asset: str) -> Any:
    event = instance.get_latest_materialization_event(dg.AssetKey(asset))
    assert event is not None and event.asset_materialization is not None
    return event.asset_materialization.metadata["rows"].value


def test_what_follows_a_result_is_configured_as_the_run_that_sent_was(deployment: Deployment) -> None:
    """Without it Dagster ends each tick of the sensor, for all assets, or what follows takes its defaults in silence."""
    deployment.launch(DAYS[0], "tickets", "labels_batch", "labels", "excerpt", "summary", config=GIVEN)
    deployment.turn_until(lambda: deployment.holds() == ["QUEUED"])
    deployment.provider_ends()
    deployment.turn_until(lambda: deployment.holds() == ["SUCCESS"])
    assert deployment.materialized("excerpt") == deployment.materialized("summary") == {DAYS[0]}
    assert (told_rows(deployment.instance, "excerpt"), told_rows(deployment.instance, "summary")) == (2, 1)
    assert len(deployment.emulator.bill()) == ROWS


@pytest.mark.wide
def test_an_op_that_makes_several_assets_follows_a_result_as_a_whole(deployment: Deployment) -> None:
    """Only one of them depends on the result, and Dagster makes no run with a part of the op: it ended each tick of the sensor, for all assets."""
    deployment.launch(DAYS[0], "tickets", "labels_batch", "labels", "chart", "stock", "order")
    deployment.turn_until(lambda: deployment.holds() == ["QUEUED"])
    deployment.provider_ends()
    deployment.turn_until(lambda: deployment.holds() == ["SUCCESS"])
    assert {asset for asset in ("labels", "chart", "stock", "order") if deployment.materialized(asset) != {DAYS[0]}} == set()


def test_in_a_unit_test_too_an_op_that_makes_several_assets_follows_a_result_as_a_whole(keld_emulator: Emulator) -> None:
    here = config_location
    done = materialize([here.tickets, here.labels, here.chart_and_stock, here.order], partition_key=DAYS[0])
    made = [event.asset_key.to_user_string() for event in done.get_asset_materialization_events() if event.asset_key is not None]
    assert sorted(made) == ["chart", "labels", "labels_batch", "order", "stock", "tickets"]


@pytest.mark.slow
def test_what_nobody_configured_is_left_out_and_keeps_no_other_result_from_being_collected(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code is deployed while batches are out, and what follows one of them wants a config now."""
    deployment.launch(DAYS[0], "tickets", "labels_batch", "labels", "page")
    deployment.turn_until(lambda: deployment.holds() == ["QUEUED"])
    deployment.launch(DAYS[0], "moods_batch", "moods")
    deployment.turn_until(lambda: deployment.holds() == ["QUEUED"] * 2)
    monkeypatch.setenv("TEST_WANTED", "yes")
    deployment.reload()
    deployment.provider_ends()
    deployment.turn_until(lambda: deployment.holds() == ["SUCCESS"] * 2)
    assert deployment.materialized("labels") == deployment.materialized("moods") == {DAYS[0]}
    assert deployment.materialized("page") == set()
    assert len(deployment.emulator.bill()) == 2 * ROWS


def test_a_run_that_a_schedule_began_has_the_config_of_its_job() -> None:
    """Dagster records none for it, without partitions. The executor's and the loggers' are of that job, not of the one which collects."""
    config = {"ops": {"table": {"config": {"rows": 1}}}, "loggers": {"console": {"config": {"log_level": "INFO"}}}}

    @dg.asset
    def table(config: config_location.Wanted) -> None: ...

    repository = dg.Definitions(assets=[table], jobs=[dg.define_asset_job("nightly", [table], config=config)]).get_repository_def()
    with dg.DagsterInstance.ephemeral() as instance:
        scheduled = create_run_for_test(instance, job_name="nightly")
        own = create_run_for_test(instance, job_name="nightly", run_config=GIVEN)
        again = create_run_for_test(instance, job_name="__ASSET_JOB", tags={".dagster/keld_wait": own.run_id})
        removed = create_run_for_test(instance, job_name="removed")
        found = [given_config(instance, repository, run) for run in (scheduled, own, again, removed)]
    assert found == [{"ops": config["ops"]}, GIVEN, GIVEN, {}]


LATER, TOTAL = "later", "total"


@pytest.mark.parametrize(
    ("beside", "config", "why"),
    [
        (LATER, {}, "They have different partitions"),  # https://github.com/dagster-io/dagster/issues/23163
        ("chart", {}, "does not support subsetting"),
        ("excerpt", {}, "Missing required config entry"),
        ("excerpt", GIVEN, None),
        (TOTAL, {}, None),
    ],
)
def test_what_dagster_makes_no_run_of_is_known_before_it_is_requested(
    beside: str, config: dict[str, Any], why: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would end the whole tick, and every later one, for all assets of the code location."""
    for name in ("TEST_HOME", "TEST_TABLES"):
        monkeypatch.setenv(name, "here")

    @dg.asset(name=LATER, partitions_def=dg.DailyPartitionsDefinition("2026-11-02"), deps=["labels"])
    def later() -> None: ...

    @dg.asset(name=TOTAL, deps=["labels"])
    def total() -> None: ...

    repository = dg.Definitions.merge(config_location.defs, dg.Definitions(assets=[later, total])).get_repository_def()
    found = misfit(repository, [dg.AssetKey("labels"), dg.AssetKey(beside)], config)
    assert (found is None) == (why is None) and (why or "") in (found or "")


def test_what_a_unit_test_configures_reaches_what_follows_a_result(keld_emulator: Emulator) -> None:
    here = config_location
    done = materialize(
        [here.tickets, here.labels, here.excerpt], partition_key=DAYS[0], run_config={"ops": {"excerpt": GIVEN["ops"]["excerpt"]}}
    )
    assert len(done.asset_value("excerpt")) == 2
