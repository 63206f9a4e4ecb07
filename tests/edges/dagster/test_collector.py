"""What a person meets when the answers cannot be collected: each ends honestly, says what to do, and costs nothing twice."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import InstigatorStatus

from tests.edges.dagster import kinds_location
from tests.edges.dagster.conftest import Deployment, deployed

LOCATION = Path(kinds_location.__file__)
DAY, NEXT = "2026-11-01", "2026-11-02"
OTHERS = [kind for kind in kinds_location.KINDS if kind not in ("days", "dynamic")]
ROWS = 2


def location_without(*missing: str) -> str:
    """The code location with two assets, less something; as a value of TEST_WITHOUT."""
    return " ".join([*OTHERS, *missing])


@pytest.fixture
def kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Deployment]:
    monkeypatch.setenv("TEST_WITHOUT", location_without(*getattr(request, "param", ())))
    with deployed(LOCATION, request, tmp_path, monkeypatch) as deployment:
        (tmp_path / "tables").mkdir()
        for kind in ("days", "dynamic"):
            (tmp_path / "tables" / f"{kind}.csv").write_text("id,body\n1,red\n2,green\n")
        yield deployment


def log_of(deployment: Deployment, run_id: str) -> str:
    return "\n".join(f"{entry.level} {entry.user_message} {entry.dagster_event}" for entry in deployment.instance.all_logs(run_id))


def hold_log(deployment: Deployment) -> str:
    [hold] = deployment.runs(job_name="keld_provider_wait")
    return log_of(deployment, hold.run_id)


def submitted(deployment: Deployment, partition: str = DAY, asset: str = "days") -> str:
    """The id of a run that submitted a partition, whose hold run is queued."""
    run = deployment.launch(partition, f"{asset}_batch", asset)
    deployment.turn_until(lambda: deployment.holds() == ["QUEUED"])
    return run


@pytest.mark.share(2)
@pytest.mark.parametrize(
    ("kinds", "missing"),
    [
        (("keld_definitions", "sensor"), "lacks a sensor that collects its answers and the job keld_provider_wait"),
        (("keld_definitions",), "lacks the job keld_provider_wait"),
    ],
    indirect=["kinds"],
)
def test_a_code_location_that_could_not_collect_is_refused_before_anything_is_sent(kinds: Deployment, missing: str) -> None:
    """`keld_definitions` was forgotten: the run would end green, and nothing would ever arrive."""
    run = kinds.launch(DAY, "days_batch", "days")
    kinds.turn_until(lambda: kinds.runs(run_ids=[run])[0].is_finished)
    assert kinds.runs(run_ids=[run])[0].status is dg.DagsterRunStatus.FAILURE
    told = log_of(kinds, run)
    assert missing in told
    assert "Nothing was sent. Load the asset with keld_definitions([days])" in told
    assert kinds.emulator.batches() == []


@pytest.mark.parametrize("kinds", [("resource",)], indirect=True)
def test_assets_with_a_resource_that_their_code_location_lacks_are_refused_before_anything_is_sent(kinds: Deployment) -> None:
    """`dg.with_resources` gives it to the assets alone: each tick of the sensor would fail, and what is paid for would never arrive."""
    run = kinds.launch(DAY, "days_batch", "days")
    kinds.turn_until(lambda: kinds.runs(run_ids=[run])[0].is_finished)
    assert kinds.runs(run_ids=[run])[0].status is dg.DagsterRunStatus.FAILURE
    assert "this code location has no resource keld" in log_of(kinds, run)
    assert kinds.emulator.batches() == []


def test_a_run_that_is_launched_with_another_ledger_or_account_is_refused_before_anything_is_sent(
    kinds: Deployment, tmp_path: Path
) -> None:
    """What a person writes into the Launchpad, the sensor and the runs that collect never hear of: the wait would have no end."""
    own = {"resources": {"keld": {"config": {"namespace": "mine", "home": {"env": "TEST_HOME"}, "hold": "queued"}}}}
    run = kinds.launch(DAY, "days_batch", "days", config=own)
    kinds.turn_until(lambda: kinds.runs(run_ids=[run])[0].is_finished)
    assert kinds.runs(run_ids=[run])[0].status is dg.DagsterRunStatus.FAILURE
    assert "gives the resource keld another namespace than the code location does" in log_of(kinds, run)
    assert kinds.emulator.batches() == []


@pytest.mark.slow
def test_a_run_that_is_launched_with_the_values_of_the_code_location_is_not_refused(kinds: Deployment) -> None:
    """The Launchpad fills them in."""
    same = {"resources": {"keld": {"config": {"namespace": None, "home": {"env": "TEST_HOME"}, "hold": "queued", "accounts": {}}}}}
    kinds.launch(DAY, "days_batch", "days", config=same)
    kinds.turn_until(lambda: kinds.holds() == ["QUEUED"])


@pytest.mark.slow
def test_a_version_of_dagster_without_a_private_class_has_no_hold_runs_and_collects_all_the_same(
    kinds: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a hold run is made of is not public, and may move; nothing else of the package may depend on it."""

    def moved() -> None:  # Dagster itself needs the classes, so they cannot be taken away
        raise ImportError("cannot import name 'JobPythonOrigin'")

    monkeypatch.setattr("keld_dagster.hold._private", moved)
    run = kinds.launch(DAY, "days_batch", "days")
    kinds.turn_until(lambda: kinds.materialized("days_batch") == {DAY})
    assert "No hold run (ImportError" in log_of(kinds, run)
    kinds.provider_ends()
    kinds.turn_until(lambda: kinds.materialized("days") == {DAY})
    assert kinds.holds() == []
    assert len(kinds.emulator.bill()) == ROWS


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [("keld_definitions", "hold")], indirect=True)
def test_a_deployment_without_hold_runs_collects_all_the_same(kinds: Deployment) -> None:
    """`KeldResource(hold="none")`: what was skipped in the run that submitted is made by the collect run, as with one."""
    kinds.launch(DAY, "days", "report")
    kinds.turn_until(lambda: kinds.materialized("days_batch") == {DAY})
    kinds.provider_ends()
    kinds.turn_until(lambda: kinds.materialized("report") == {DAY})
    assert kinds.holds() == []
    assert len(kinds.emulator.bill()) == ROWS


@pytest.mark.wide
def test_a_sensor_that_is_stopped_is_told_where_a_person_looks_and_collects_when_it_is_started(kinds: Deployment) -> None:
    """A person stops it for an hour, and forgets it: the run is not refused, but says so, and so does the batch's page."""
    kinds.turn()
    [sensor] = kinds.instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
    kinds.instance.update_instigator_state(sensor.with_status(InstigatorStatus.STOPPED))
    run = submitted(kinds)
    told = log_of(kinds, run)
    assert "30 The answers are not collected for now: The sensor keld_sensor is stopped" in told
    event = kinds.instance.get_latest_materialization_event(dg.AssetKey("days_batch"))
    assert event is not None and event.asset_materialization is not None
    assert "is stopped" in str(event.asset_materialization.metadata["keld/not_collected"].value)
    kinds.provider_ends()
    for _ in range(20):
        kinds.turn()
    assert kinds.holds() == ["QUEUED"]
    kinds.instance.update_instigator_state(sensor.with_status(InstigatorStatus.RUNNING))
    kinds.turn_until(lambda: kinds.holds() == ["SUCCESS"])
    assert kinds.materialized("days") == {DAY}
    assert len(kinds.emulator.bill()) == ROWS


def test_a_collect_run_that_fails_keeps_what_was_paid_for(kinds: Deployment, tmp_path: Path) -> None:
    """The warehouse is read-only for an hour; then the person materializes the result again, from the UI or by a backfill, and pays nothing."""
    (tmp_path / "keld").mkdir()
    (tmp_path / "keld" / "broken").touch()
    backfill = kinds.backfill([DAY, NEXT], "days_batch", "days", "report")
    kinds.turn_until(lambda: kinds.holds() == ["QUEUED"] * 2)
    kinds.provider_ends()
    kinds.turn_until(lambda: kinds.status(backfill) != "REQUESTED")
    assert (kinds.status(backfill), kinds.materialized("days")) == ("COMPLETED_FAILED", set())
    ended = "".join(log_of(kinds, hold.run_id) for hold in kinds.runs(job_name="keld_provider_wait"))
    for day in (DAY, NEXT):
        assert f"days[{day}] is not collected: its collect run" in ended
        assert f"paid for: mend what its log says, then materialize days[{day}]. Nothing is sent again." in ended
    bill = kinds.emulator.bill()
    (tmp_path / "keld" / "broken").unlink()
    again = kinds.backfill([DAY, NEXT], "days", "report")
    kinds.turn_until(lambda: kinds.status(again) != "REQUESTED")
    assert kinds.status(again) == "COMPLETED_SUCCESS"
    assert kinds.materialized("report") == {DAY, NEXT}
    assert kinds.emulator.bill() == bill
    assert len(bill) == 2 * ROWS


def test_a_result_that_blocks_what_follows_it_is_not_told_to_be_missing(kinds: Deployment) -> None:
    """The run that collected it failed, by its blocking check; to mend the result and to materialize it again would change nothing."""
    kinds.emulator.faults({"rules": [{"at": "rows", "do": "refusal", "fraction": 1}]})
    kinds.launch(DAY, "days_batch", "days", "report")
    kinds.turn_until(lambda: kinds.holds() == ["QUEUED"])
    kinds.provider_ends()
    kinds.turn_until(lambda: kinds.holds() == ["SUCCESS"])
    [collect] = kinds.runs(tags={"keld/phase": "collect"})
    assert (collect.status, kinds.materialized("days"), kinds.materialized("report")) == (dg.DagsterRunStatus.FAILURE, {DAY}, set())
    assert "1 of 1 partitions are over" in hold_log(kinds) and "is not collected" not in hold_log(kinds)
    assert kinds.told("days_batch", DAY) == "finished"


@pytest.mark.slow
def test_a_wait_that_was_terminated_asks_only_what_is_not_paid_for_when_it_is_materialized_again(kinds: Deployment) -> None:
    """Terminating it cancels at the provider; what was answered by then is paid for, and kept."""
    submitted(kinds)
    kinds.terminate(kinds.runs(job_name="keld_provider_wait")[0].run_id)
    kinds.turn_until(lambda: {batch["status"] for batch in kinds.emulator.batches()} <= {"cancelling", "cancelled"})
    kinds.provider_ends()
    kinds.turn_until(lambda: not kinds.keld.statuses(open_only=True))
    assert kinds.holds() == ["CANCELED"]
    assert kinds.told("days_batch", DAY) == "cancelled"  # and not "at the provider" for ever
    paid = len(kinds.emulator.bill())
    kinds.launch(DAY, "days_batch", "days")
    kinds.turn_until(lambda: sorted(kinds.holds()) == ["CANCELED", "QUEUED"])
    kinds.provider_ends()
    kinds.turn_until(lambda: kinds.materialized("days") == {DAY})
    assert len({entry.custom_id for entry in kinds.emulator.bill()}) == len(kinds.emulator.bill()) == ROWS
    assert paid <= ROWS


@pytest.mark.slow
def test_a_dynamic_partition_that_is_deleted_while_it_waits_costs_the_others_nothing_and_is_collected_when_it_is_back(
    kinds: Deployment,
) -> None:
    """Dagster gives up the whole backfill then, and ends its queued runs; nobody has cancelled what the others wait for."""
    kinds.instance.add_dynamic_partitions("customers", ["acme", "zoo"])
    backfill = kinds.backfill(["acme", "zoo"], "dynamic_batch", "dynamic")
    kinds.turn_until(lambda: kinds.holds() == ["QUEUED"] * 2)
    kinds.instance.delete_dynamic_partition("customers", "zoo")
    kinds.turn_until(lambda: kinds.status(backfill) == "FAILED")
    kinds.provider_ends()
    kinds.turn_until(lambda: "acme" in kinds.materialized("dynamic") and "QUEUED" not in kinds.holds(), most=100)
    assert not [call for call in kinds.emulator.requests() if call.path.endswith("/cancel")]
    assert kinds.told("dynamic_batch", "acme") == "finished"  # though Dagster ended its hold run
    kinds.instance.add_dynamic_partitions("customers", ["zoo"])
    kinds.launch("zoo", "dynamic")
    kinds.turn_until(lambda: kinds.materialized("dynamic") == {"acme", "zoo"}, most=100)
    assert len(kinds.emulator.bill()) == 2 * ROWS


@pytest.mark.slow
def test_partitions_that_are_changed_while_one_waits_end_its_wait(kinds: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later start date was deployed: Dagster would end a whole tick for a request of a day that the asset does not have."""
    submitted(kinds)
    monkeypatch.setenv("TEST_DAYS", "2026-11-15")
    kinds.reload()
    kinds.provider_ends()
    kinds.turn_until(lambda: kinds.holds() == ["SUCCESS"])
    assert f"days[{DAY}] is not collected: the asset has no such partition any more" in hold_log(kinds)
    assert kinds.materialized("days") == set()


@pytest.mark.slow
def test_an_asset_that_is_removed_while_it_waits_ends_its_wait_and_is_collected_when_it_is_back(
    kinds: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code was deployed without it, and rolled back the next day."""
    submitted(kinds)
    monkeypatch.setenv("TEST_WITHOUT", location_without("days"))
    kinds.reload()
    kinds.provider_ends()
    kinds.turn_until(lambda: kinds.holds() == ["SUCCESS"])
    assert "days is not in this code location any more. The answers are paid, and kept" in hold_log(kinds)
    monkeypatch.setenv("TEST_WITHOUT", location_without())
    kinds.reload()
    kinds.launch(DAY, "days")
    kinds.turn_until(lambda: kinds.materialized("days") == {DAY})
    assert len(kinds.emulator.bill()) == ROWS
