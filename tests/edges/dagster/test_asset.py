"""The two assets of a job: how they are declared, and what a run in this process does."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import dagster as dg
import pandas as pd
import pytest
from pydantic import BaseModel

from keld import Job, Keld, KeldError
from keld.emulator import Emulator
from keld_dagster import KeldParquetIOManager, KeldResource, KeldTranslator, build_batch_assets, keld_definitions
from keld_dagster.pending import ASSET_TAG, COLLECT, JOB_RUN_TAG, PHASE_TAG, WAIT_TAG
from keld_dagster.translator import Part

DAYS = dg.DailyPartitionsDefinition("2026-11-01", end_date="2026-11-15")
DAY = "2026-11-03"


class Label(BaseModel):
    category: Literal["billing", "bug"]


def job(**terms: object) -> Job:
    return Job(name="labels", key="id", prompt="Classify: {body}", output_type=Label, models="openai:gpt-5-mini", **terms)  # type: ignore[arg-type]


@dg.asset(partitions_def=DAYS)
def tickets() -> pd.DataFrame:
    return pd.DataFrame({"id": range(10), "body": [f"ticket {n}" for n in range(10)]})


def materialize(
    assets: dg.AssetsDefinition, home: Path, instance: dg.DagsterInstance, raise_on_error: bool = True, **given: Any
) -> dg.ExecuteInProcessResult:
    resources = {"keld": KeldResource(home=str(home)), "io_manager": KeldParquetIOManager(base_dir=str(home / "tables"))}
    return dg.materialize(
        [tickets, assets], partition_key=DAY, instance=instance, resources=resources, raise_on_error=raise_on_error, **given
    )


def test_result_passes_its_checks_and_carries_what_it_cost(keld_emulator: Emulator, tmp_path: Path) -> None:
    """The second run finds the provider done and collects at once."""
    assets = build_batch_assets(job(deadline=timedelta(hours=9), ceiling_usd=5), source=tickets)
    with dg.DagsterInstance.ephemeral() as instance:
        submitted = materialize(assets, tmp_path, instance)
        assert [event.asset_key.to_user_string() for event in submitted.get_asset_materialization_events()] == ["tickets", "labels_batch"]
        collected = materialize(assets, tmp_path, instance)
    checks = {check.check_name: check.passed for check in collected.get_asset_check_evaluations()}
    assert checks == {"completion_rate": True, "valid_rate": True, "deadline_met": True, "cost_under_ceiling": True}
    frame = collected.output_for_node("labels", "labels")
    assert isinstance(frame, pd.DataFrame) and set(frame["category"]) <= {"billing", "bug"}
    [event] = collected.asset_materializations_for_node("labels")[1:]
    shown = event.metadata
    assert shown["dagster/partition_row_count"].value == len(keld_emulator.bill()) == 10
    assert shown["keld/answered"].value == "10 of 10 rows"
    assert shown["keld/cost_usd"].value == shown["keld/saved_usd"].value > 0
    assert shown["keld/deadline_basis"].value == "submitted-at"
    # Dagster plots every number: these are worth a curve, and a ceiling is not.
    assert {name for name, value in shown.items() if isinstance(value, dg.IntMetadataValue | dg.FloatMetadataValue)} == {
        "dagster/partition_row_count", "keld/answered_share", "keld/cost_usd", "keld/saved_usd", "keld/turnaround_minutes", "keld/input_tokens",
        "keld/output_tokens",
    }  # fmt: skip


def test_too_few_answers_fail_the_blocking_check(keld_emulator: Emulator, tmp_path: Path) -> None:
    """Downstream must not build on a table that is half empty."""
    keld_emulator.faults({"rules": [{"at": "rows", "do": "refusal", "fraction": 0.5}]})
    assets = build_batch_assets(job(), source=tickets)
    with dg.DagsterInstance.ephemeral() as instance:
        materialize(assets, tmp_path, instance)
        collected = materialize(assets, tmp_path, instance, raise_on_error=False)
    [completion] = [check for check in collected.get_asset_check_evaluations() if check.check_name == "completion_rate"]
    assert not collected.success
    assert (completion.passed, completion.severity, completion.metadata["answered_share"].value) == (
        False,
        dg.AssetCheckSeverity.ERROR,
        0.5,
    )


def test_checks_alone_send_nothing(keld_emulator: Emulator, tmp_path: Path) -> None:
    """ "Execute all" on the checks page is no request to buy anything."""
    assets = build_batch_assets(job(), source=tickets)
    selection = dg.AssetSelection.checks_for_assets(assets)
    with dg.DagsterInstance.ephemeral() as instance:
        materialize(assets, tmp_path, instance)
        materialize(assets, tmp_path, instance)
        before = len(keld_emulator.requests())
        resources = {"keld": KeldResource(home=str(tmp_path)), "io_manager": KeldParquetIOManager(base_dir=str(tmp_path / "tables"))}
        executed = dg.materialize([tickets, assets], selection=selection, instance=instance, resources=resources)
    assert [check.passed for check in executed.get_asset_check_evaluations()] == [True] * 4
    assert len(keld_emulator.requests()) == before


def test_a_collect_run_that_a_person_executes_again_brings_no_older_answers_back(keld_emulator: Emulator, tmp_path: Path) -> None:
    """Of the list of failed runs people re-execute all; some are of last week, and their rows were asked again since."""
    rows = [10]

    @dg.asset(partitions_def=DAYS)
    def tickets() -> pd.DataFrame:
        return pd.DataFrame({"id": range(rows[-1]), "body": [f"ticket {n}" for n in range(rows[-1])]})

    assets = build_batch_assets(job(), source=tickets)
    table = tmp_path / "tables" / "labels" / f"{DAY}.parquet"
    given: dict[str, Any] = {
        "partition_key": DAY,
        "resources": {"keld": KeldResource(home=str(tmp_path)), "io_manager": KeldParquetIOManager(base_dir=str(tmp_path / "tables"))},
    }
    with dg.DagsterInstance.ephemeral() as instance, Keld(home=tmp_path) as keld:
        for more in (10, 12):
            rows.append(more)
            for _ in ("sends", "collects"):
                dg.materialize([tickets, assets], instance=instance, **given)
        [_, older] = keld.statuses()
        tags = {PHASE_TAG: COLLECT, ASSET_TAG: "labels", JOB_RUN_TAG: older.id, WAIT_TAG: "of last week"}
        dg.materialize([tickets, assets], selection=[dg.AssetKey("labels")], tags=tags, instance=instance, **given)
    assert len(pd.read_parquet(table)) == 12
    assert len(keld_emulator.bill()) == 12


@pytest.mark.wide
def test_checks_of_a_partition_alone_judge_that_partition(keld_emulator: Emulator, tmp_path: Path) -> None:
    """The youngest partition is fine, and says nothing of the one that a person asks about."""
    keld_emulator.faults({"rules": [{"at": "rows", "do": "refusal", "fraction": 0.5, "match": {"batch": 1}}]})
    assets = build_batch_assets(job(), source=tickets)
    resources = {"keld": KeldResource(home=str(tmp_path)), "io_manager": KeldParquetIOManager(base_dir=str(tmp_path / "tables"))}
    with dg.DagsterInstance.ephemeral() as instance:
        for day in (DAY, "2026-11-04"):
            for _ in ("sends", "collects"):
                dg.materialize([tickets, assets], partition_key=day, instance=instance, resources=resources, raise_on_error=False)
        before = len(keld_emulator.requests())
        found = {}
        for day in (DAY, "2026-11-04"):
            selection = dg.AssetSelection.checks_for_assets(assets)
            executed = dg.materialize(
                [tickets, assets],
                selection=selection,
                tags={"dagster/partition": day},
                instance=instance,
                resources=resources,
                raise_on_error=False,
            )
            [found[day]] = [check for check in executed.get_asset_check_evaluations() if check.check_name == "completion_rate"]
    assert {day: check.passed for day, check in found.items()} == {DAY: False, "2026-11-04": True}
    assert [getattr(check, "partition", day) for day, check in found.items()] == list(found)  # early versions of Dagster 1.12 do not say it
    assert len(keld_emulator.requests()) == before


def test_answers_that_break_the_schema_are_counted_by_a_check_that_warns(keld_emulator: Emulator, tmp_path: Path) -> None:
    keld_emulator.faults({"rules": [{"at": "rows", "do": "invalid", "fraction": 0.5}]})
    assets = build_batch_assets(job(max_attempts=1), source=tickets, completion_rate=0)
    with dg.DagsterInstance.ephemeral() as instance:
        materialize(assets, tmp_path, instance)
        collected = materialize(assets, tmp_path, instance)
    [valid] = [check for check in collected.get_asset_check_evaluations() if check.check_name == "valid_rate"]
    assert (valid.passed, valid.severity, valid.metadata["valid_share"].value) == (False, dg.AssetCheckSeverity.WARN, 0.5)
    [_, event] = collected.asset_materializations_for_node("labels")
    [failed] = event.metadata["keld/failed"].value.records
    assert (failed.data["outcome"], failed.data["rows"], failed.data["share"]) == ("invalid", 5, "50.00%")


def test_free_text_has_no_schema_that_an_answer_could_break() -> None:
    assets = build_batch_assets(replace(job(), output_type=str), source=tickets)
    assert "valid_rate" not in {spec.name for spec in assets.check_specs}


def test_freshness_policy_gives_the_deadline_of_a_partition(keld_emulator: Emulator, tmp_path: Path) -> None:
    """Dagster's own evaluation is of the asset as a whole; the batch says by when this partition is due."""
    policy = dg.FreshnessPolicy.time_window(fail_window=timedelta(days=3650))
    assets = build_batch_assets(job(), source=tickets, freshness_policy=policy)
    with dg.DagsterInstance.ephemeral() as instance:
        [batch] = materialize(assets, tmp_path, instance).asset_materializations_for_node("labels")
    assert batch.metadata["keld/deadline_basis"].value == "partition-end"
    due = dg.DailyPartitionsDefinition("2026-11-01").time_window_for_partition_key(DAY).end + timedelta(days=3650)
    assert batch.metadata["keld/deadline"].value == due.timestamp()


def test_freshness_policy_that_is_set_after_the_assets_were_made_gives_the_deadline_too(keld_emulator: Emulator, tmp_path: Path) -> None:
    """Dagster's own evaluation is of the asset as a whole; the batch says by when this partition is due."""
    policy = dg.FreshnessPolicy.time_window(fail_window=timedelta(days=3650))
    made = build_batch_assets(job(), source=tickets)
    assets = made.map_asset_specs(lambda spec: spec.replace_attributes(freshness_policy=policy))
    with dg.DagsterInstance.ephemeral() as instance:
        [batch] = materialize(assets, tmp_path, instance).asset_materializations_for_node("labels")
    assert batch.metadata["keld/deadline_basis"].value == "partition-end"
    due = dg.DailyPartitionsDefinition("2026-11-01").time_window_for_partition_key(DAY).end + timedelta(days=3650)
    assert batch.metadata["keld/deadline"].value == due.timestamp()


def test_partitions_that_are_changed_after_the_assets_were_made_are_refused_before_anything_is_sent(
    keld_emulator: Emulator, tmp_path: Path
) -> None:
    """Which rows of the source belong to a partition was decided with the partitions that they had."""
    made = build_batch_assets(job(), source=dg.AssetKey("elsewhere"))
    days = dg.DailyPartitionsDefinition("2026-11-01", end_date="2026-11-15")
    assets = made.map_asset_specs(lambda spec: spec.replace_attributes(partitions_def=days))
    with pytest.raises(dg.Failure, match=r"partitions were changed after it was made .* Nothing was sent"):
        dg.materialize(
            [assets], partition_key="2026-11-03", resources={"keld": KeldResource(home=str(tmp_path)), "io_manager": dg.mem_io_manager}
        )
    assert keld_emulator.batches() == []


def test_provider_that_refuses_the_key_fails_the_run_with_what_to_do(
    keld_emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that merely waited for a wrong key would look like a slow provider."""
    keld_emulator.faults({"rules": [{"at": "any", "do": "status", "status": 401, "times": None}]})
    with dg.DagsterInstance.ephemeral() as instance, pytest.raises(dg.Failure, match="Check the key"):
        materialize(build_batch_assets(job(), source=tickets), tmp_path, instance)


@pytest.mark.parametrize(
    ("terms", "fault", "tries"),
    [
        ({"prompt": "{no_such_column}"}, {}, 1),
        ({}, {"status": 401}, 1),
        ({}, {"status": 503}, 3),
    ],
    ids=["a column that is not there", "a key that is refused", "a provider that is down"],
)
def test_only_what_another_try_may_mend_is_tried_again(
    terms: dict[str, Any], fault: dict[str, Any], tries: int, keld_emulator: Emulator, tmp_path: Path
) -> None:
    """A step that waits for its retry keeps its slot, and Dagster's policy cannot tell a wrong prompt from a provider that is down."""
    if fault:
        keld_emulator.faults({"rules": [{"at": "any", "do": "status", "times": None, **fault}]})
    asked = replace(job(), **terms)
    assets = build_batch_assets(asked, source=tickets, retry_policy=dg.RetryPolicy(max_retries=2))
    with dg.DagsterInstance.ephemeral() as instance:
        ended = materialize(assets, tmp_path, instance, raise_on_error=False)
    again = [event for event in ended.events_for_node("labels") if event.is_step_restarted]
    assert not ended.success and len(again) + 1 == tries


def test_translator_changes_what_dagster_shows_and_the_sensor_still_finds_it() -> None:
    class Ours(KeldTranslator):
        def get_asset_spec(self, part: Part, default: dg.AssetSpec) -> dg.AssetSpec:
            return default.replace_attributes(key=default.key.with_prefix("support"), metadata={"part": part})

    assets = build_batch_assets(job(), source=tickets, translator=Ours())
    assert {key.to_user_string() for key in assets.keys} == {"support/labels", "support/labels_batch"}
    result = assets.specs_by_key[dg.AssetKey(["support", "labels"])]
    assert {"part", "keld/job"} <= result.metadata.keys()
    assert dg.AssetKey(["support", "labels_batch"]) in {dep.asset_key for dep in result.deps}


def test_definitions_hold_assets_checks_the_sensor_and_the_wait_job() -> None:
    keld = keld_definitions([build_batch_assets(job(), source=tickets)], resource=KeldResource())
    defs = dg.Definitions.merge(dg.Definitions(assets=[tickets]), keld)
    dg.Definitions.validate_loadable(defs)
    assert [sensor.name for sensor in defs.get_repository_def().sensor_defs] == ["keld_sensor"]
    assert defs.get_repository_def().has_job("keld_provider_wait")


def test_two_assets_of_one_job_are_refused() -> None:
    """They would share job runs: the second would be given the first one's answers."""
    pair = [
        build_batch_assets(job(), source=tickets),
        build_batch_assets(job(), source="t/{partition}.csv", name="other", partitions_def=DAYS),
    ]
    with pytest.raises(ValueError, match="a job named labels"):
        keld_definitions(pair)


def test_changed_prompt_is_told_and_asked_next(keld_emulator: Emulator, tmp_path: Path) -> None:
    """The partition that is out answers the old question: it is finished, since it is paid for, and its rows go nowhere."""
    keld_emulator.faults({"rules": [{"at": "life", "do": "stuck", "done": 0.5, "times": 1}]})
    first, better = (build_batch_assets(replace(job(), prompt=prompt), source=tickets) for prompt in ("Classify: {body}", "Better: {body}"))
    with dg.DagsterInstance.ephemeral() as instance:
        materialize(first, tmp_path, instance)
        attached = materialize(better, tmp_path, instance)
    [event] = attached.asset_materializations_for_node("labels")
    assert event.asset_key == dg.AssetKey("labels_batch")
    assert event.metadata["keld/outdated"].value == "the prompt"


def test_prompt_that_changes_after_a_partition_is_over_is_asked_by_the_run_that_was_to_collect_it(
    keld_emulator: Emulator, tmp_path: Path
) -> None:
    """Between the last submit and the collect run somebody deploys an edit: no submit has noticed it, and the rows answer what was asked before."""
    first, better = (build_batch_assets(replace(job(), prompt=prompt), source=tickets) for prompt in ("Classify: {body}", "Better: {body}"))
    with dg.DagsterInstance.ephemeral() as instance, Keld(home=tmp_path) as keld:
        materialize(first, tmp_path, instance)
        [old] = keld.statuses()
        assert keld.advance(old.id).over
        tags = {"keld/phase": "collect", "keld/wait": "a run", "keld/asset": "labels", "keld/job_run": old.id}
        collected = materialize(better, tmp_path, instance, selection=["labels"], tags=tags)
        assert [event.asset_key.to_user_string() for event in collected.get_asset_materialization_events()] == ["labels_batch"]
        [new] = [status for status in keld.statuses() if status.id != old.id]
        assert (keld.status(old.id).outdated, new.outdated) == ("the prompt", None)
        asked = {"keld/phase": "collect", "keld/wait": "another", "keld/asset": "labels", "keld/job_run": new.id}
        done = materialize(better, tmp_path, instance, selection=["labels"], tags=asked)
    [event] = done.asset_materializations_for_node("labels")
    assert event.metadata["keld/job_run"].value == new.id
    assert len(keld_emulator.bill()) == 20


def test_other_asset_s_job_of_the_same_name_is_refused_and_nothing_is_sent(keld_emulator: Emulator, tmp_path: Path) -> None:
    """Two code locations that share a ledger, and chose the same name: neither gets the other's rows."""

    @dg.asset(partitions_def=DAYS)
    def letters() -> pd.DataFrame:
        return pd.DataFrame({"id": range(10), "body": [f"letter {n}" for n in range(10)]})

    mine, theirs = build_batch_assets(job(), source=tickets), build_batch_assets(job(), source=letters, name="letter_labels")
    resources = {"keld": KeldResource(home=str(tmp_path)), "io_manager": KeldParquetIOManager(base_dir=str(tmp_path / "tables"))}
    with dg.DagsterInstance.ephemeral() as instance:
        materialize(mine, tmp_path, instance)
        sent = len(keld_emulator.batches())
        with pytest.raises(dg.Failure, match=r"letter_labels declares it differently \(the source\)\. Nothing was sent") as refused:
            dg.materialize([letters, theirs], partition_key=DAY, instance=instance, resources=resources)
    assert isinstance(refused.value.__cause__, KeldError)
    assert len(keld_emulator.batches()) == sent
