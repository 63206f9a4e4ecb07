"""What a user's unit test sees: one call brings Keld assets to their end, with no server, daemon or waiting."""

import logging
import os
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import dagster as dg
import pandas as pd
import pytest
from pydantic import BaseModel

from keld import Job
from keld.emulator import Emulator
from keld_dagster import KeldAccount, KeldResource, build_batch_assets, keld_definitions
from keld_dagster.testing import materialize
from keld_dagster.watch import watched_in

DAYS = dg.DailyPartitionsDefinition("2026-11-01", end_date="2026-11-15")
DAY, NEXT = "2026-11-03", "2026-11-04"


class Label(BaseModel):
    category: Literal["billing", "bug"]


def job(name: str = "labels", prompt: str = "Classify: {body}", **terms: Any) -> Job:
    return Job(name=name, key="id", prompt=prompt, models="openai:gpt-5-mini", **{"output_type": Label, **terms})


@dg.asset(partitions_def=DAYS)
def tickets(context: dg.AssetExecutionContext) -> pd.DataFrame:
    return pd.DataFrame({"id": range(6), "body": [f"ticket {n} of {context.partition_key}" for n in range(6)]})


labels = build_batch_assets(job(deadline="9h", ceiling_usd=5), source=tickets)


@dg.asset(partitions_def=DAYS)
def report(labels: pd.DataFrame) -> int:
    return len(labels)


def test_one_call_brings_upstream_batch_result_checks_and_downstream() -> None:
    done = materialize([tickets, labels, report], partition_key=DAY)
    assert done.success and done.asset_value("report") == 6
    assert set(done.asset_value("labels")["category"]) <= {"billing", "bug"}
    names = [event.asset_key.to_user_string() for event in done.get_asset_materialization_events() if event.asset_key]
    assert names == ["tickets", "labels_batch", "labels", "report"]
    assert {"labels:completion_rate", "labels:deadline_met", "labels:cost_under_ceiling"} <= done.checks.keys() and all(
        done.checks.values()
    )
    [status] = done.job_runs
    assert done.cost_usd == status.cost_usd > 0 and status.turnaround_s is not None and status.turnaround_s >= 3600
    assert "keld/cost_usd" in done.runs[-1].asset_materializations_for_node("labels")[0].metadata


def test_fixture_is_found_and_has_the_bill(keld_emulator: Emulator) -> None:
    """A second emulator beside the fixture's would have no faults, and the fixture's no bill."""
    before = dict(os.environ)
    materialize([tickets, labels], partition_key=DAY)
    assert len(keld_emulator.bill()) == 6
    assert dict(os.environ) == before


@pytest.mark.wide
def test_several_partitions_of_one_call(keld_emulator: Emulator) -> None:
    done = materialize([tickets, labels, report], partition_key=[DAY, NEXT])
    assert done.asset_value("labels", NEXT)["body"][0] == f"ticket 0 of {NEXT}"
    assert done.asset_value("labels", DAY)["body"][0] == f"ticket 0 of {DAY}"
    assert len(done.job_runs) == 2 and len(keld_emulator.bill()) == 12


def test_refused_rows_fail_the_blocking_check_and_what_is_downstream_does_not_run(keld_emulator: Emulator) -> None:
    keld_emulator.faults({"rules": [{"at": "rows", "do": "refusal", "fraction": 0.5}]})
    done = materialize([tickets, labels, report], partition_key=DAY, raise_on_error=False)
    assert not done.success and done.checks["labels:completion_rate"] is False
    assert "refused" in set(done.asset_value("labels")["keld_outcome"])
    with pytest.raises(KeyError, match="No run materialised report"):
        done.asset_value("report")


@pytest.mark.wide
def test_batch_that_expires_is_sent_again_and_no_row_is_paid_twice() -> None:
    with Emulator(latency_s=3600, frozen=True) as emulator:
        emulator.faults({"rules": [{"at": "life", "do": "expire", "done": 0.5, "after_s": 86_400, "times": 1}]})
        patient = build_batch_assets(job(), source=tickets)
        done = materialize([tickets, patient, report], partition_key=DAY, emulator=emulator)
        assert done.asset_value("report") == 6 and len(emulator.bill()) == 6
        assert len(done.job_runs[0].batches) == 2


@pytest.mark.wide
def test_batch_that_would_be_late_is_escalated_on_the_emulator_s_clock() -> None:
    with Emulator(latency_s=30 * 3600, frozen=True) as emulator:
        done = materialize([tickets, labels], partition_key=DAY, emulator=emulator)
        assert done.checks["labels:deadline_met"] is True
        assert {batch.lane for batch in done.job_runs[0].batches} > {"batch"}


@pytest.mark.wide
def test_chain_of_jobs_and_two_jobs_beside_each_other_come_to_their_end() -> None:
    """What needs both results runs when the second one is there."""
    urgency = build_batch_assets(job("urgency"), source=tickets)
    summary = build_batch_assets(
        job("summary", "Sum up {category}: {body}", output_type=str), source=dg.AssetKey("labels"), partitions_def=DAYS
    )

    @dg.asset(partitions_def=DAYS)
    def both(urgency: pd.DataFrame, summary: pd.DataFrame) -> int:
        return len(urgency) + len(summary)

    done = materialize([tickets, labels, urgency, summary, both], partition_key=DAY)
    assert done.asset_value("both") == 12 and len(done.job_runs) == 3


def test_second_call_upon_the_same_instance_buys_nothing(keld_emulator: Emulator) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        materialize([tickets, labels], partition_key=DAY, instance=instance)
        again = materialize([tickets, labels, report], selection=["labels", "report"], partition_key=DAY, instance=instance)
    assert again.asset_value("report") == 6 and len(keld_emulator.bill()) == 6


def test_account_of_production_leads_to_the_emulator(keld_emulator: Emulator) -> None:
    """A test with the resource of production must not spend money."""
    assets = build_batch_assets(Job(name="eu", key="id", prompt="{body}", models="openai-eu:gpt-5-mini"), source=tickets)
    account = KeldAccount(kind="openai", base_url="https://eu.example.com/v1", api_key_env="OPENAI_API_KEY")
    with dg.DagsterInstance.ephemeral() as instance:
        resource = KeldResource(home=instance.storage_directory(), accounts={"openai-eu": account})
        done = materialize([tickets, assets], partition_key=DAY, resources={"keld": resource}, instance=instance)
    assert done.success and len(keld_emulator.bill()) == 6


def test_batch_that_never_ends_is_said_and_does_not_hang() -> None:
    with Emulator(latency_s=timedelta(days=3650).total_seconds(), frozen=True) as emulator:
        patient = build_batch_assets(job(lane="batch", max_attempts=1), source=tickets)
        emulator.faults(
            {
                "rules": [
                    {"at": "get", "do": "status", "status": 500, "times": None},
                    {"at": "list", "do": "status", "status": 500, "times": None},
                ]
            }
        )
        with pytest.raises(TimeoutError, match=r"on the emulator's clock: labels.* 500"):
            materialize([tickets, patient], partition_key=DAY, emulator=emulator)


def test_unpartitioned_assets_and_assets_without_keld() -> None:
    @dg.asset
    def table() -> pd.DataFrame:
        return pd.DataFrame({"id": [1], "body": ["late"]})

    done = materialize([table, build_batch_assets(job("plain"), source=table)])
    assert len(done.asset_value("plain")) == 1
    assert len(materialize([table]).runs) == 1


@pytest.mark.share(2)
@pytest.mark.parametrize("with_source", [True, False])
def test_assets_that_are_loaded_with_a_key_prefix_are_materialised_under_it(keld_emulator: Emulator, with_source: bool) -> None:
    """Keys change after the declaration then: the batch was sent and paid, and the run ended with nothing materialised."""
    module = ModuleType("theirs")
    vars(module).update({"labels": labels, "report": report} | ({"tickets": tickets} if with_source else {}))
    loaded = dg.load_assets_from_modules([module], key_prefix="team")
    given = [] if with_source else [tickets]
    done = materialize([*given, *loaded], partition_key=DAY)
    names = [event.asset_key.to_user_string() for event in done.get_asset_materialization_events() if event.asset_key]
    assert names == ["team/tickets" if with_source else "tickets", "team/labels_batch", "team/labels", "team/report"]
    assert len(keld_emulator.bill()) == 6 and done.checks["team/labels:completion_rate"]
    repository = dg.Definitions(assets=[*given, *loaded], resources={"keld": KeldResource()}).get_repository_def()
    [watched] = watched_in(repository.asset_graph, "keld").values()
    assert (watched.result, watched.batch) == (dg.AssetKey(["team", "labels"]), dg.AssetKey(["team", "labels_batch"]))


@pytest.mark.share(3)
@pytest.mark.parametrize(("bodies", "passed"), [([None, None], False), ([None, "x"], True), ([], True)])
def test_partition_of_which_no_row_could_be_asked_warns_and_blocks_nothing(
    keld_emulator: Emulator, bodies: list[str | None], passed: bool
) -> None:
    """An empty column upstream was a green partition with nothing behind it; it may be meant, so what is downstream runs."""

    @dg.asset(partitions_def=DAYS, name="tickets")
    def sparse() -> pd.DataFrame:
        return pd.DataFrame({"id": range(len(bodies)), "body": pd.Series(bodies, dtype="str")})

    done = materialize([sparse, labels, report], partition_key=DAY)
    [check] = [one for one in done.get_asset_check_evaluations() if one.check_name == "completion_rate"]
    assert check.passed is passed and done.success and done.asset_value("report") == len(bodies)
    assert passed or check.severity is dg.AssetCheckSeverity.WARN
    assert ("have no prompt" in (check.description or "")) is (None in bodies)


@pytest.mark.share(2)
@pytest.mark.parametrize("persistent", [False, True])
def test_nothing_is_said_of_a_sensor_since_the_call_itself_collects(persistent: bool, tmp_path: Path) -> None:
    """A warning that is wrong in every test is not read where it is right; and an instance on disk is a test's, too."""
    with dg.instance_for_test(temp_dir=str(tmp_path)) if persistent else dg.DagsterInstance.ephemeral() as instance:
        done = materialize([tickets, labels], partition_key=DAY, instance=instance)
        said = [entry.user_message for run in done.runs for entry in instance.all_logs(run.run_id) if entry.level >= logging.WARNING]
    assert done.success and said == []


def test_a_source_in_memory_is_refused_with_what_to_give_it(keld_emulator: Emulator) -> None:
    with pytest.raises(Exception, match="step_key") as refused:
        materialize([tickets, labels], partition_key=DAY, resources={"io_manager": dg.mem_io_manager})
    [note] = refused.value.__notes__
    assert "Nothing was sent" in note and "in memory" in note
    assert keld_emulator.bill() == []


def test_a_resource_that_is_configured_at_launch_is_refused() -> None:
    """The sensor and the runs that collect are not launched by a person, who would configure them."""
    later: Any = KeldResource.configure_at_launch()
    with pytest.raises(ValueError, match="configured at launch"):
        materialize([tickets, labels], partition_key=DAY, resources={"keld": later})
    with pytest.raises(ValueError, match="configured at launch"):
        keld_definitions([labels], resource=later)
