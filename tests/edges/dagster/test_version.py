"""Out of date or not, as Dagster shows it: by the code version of what is asked, and the data version of the answers."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest

from keld import Job
from keld.emulator import Emulator
from keld_dagster import KeldResource, build_batch_assets

DAYS = dg.DailyPartitionsDefinition("2026-11-01", end_date="2026-11-15")
DAY = "2026-11-03"
JOB = Job(name="labels", key="id", prompt="Classify: {body}", models="openai:gpt-5-mini")
TERMS: dict[str, Any] = {"ceiling_usd": 3, "deadline": timedelta(hours=3), "tags": {"team": "cx"}}
rows = {"body": "ticket"}


@dg.asset(partitions_def=DAYS)
def tickets() -> pd.DataFrame:
    return pd.DataFrame({"id": range(3), "body": [f"{rows['body']} {n}" for n in range(3)]})


@dg.asset(partitions_def=DAYS, deps=["labels"], code_version="1")
def report() -> None: ...


def assets(job: Job = JOB, **given: Any) -> dg.AssetsDefinition:
    return build_batch_assets(job, source=tickets, **given)


class Project:
    """What a person does with a code location whose job changes."""

    def __init__(self, home: Path, instance: dg.DagsterInstance) -> None:
        self.home, self.instance = home, instance

    def materialize(self, labels: dg.AssetsDefinition, *selection: str) -> dg.ExecuteInProcessResult:
        resources = {"keld": KeldResource(home=str(self.home)), "io_manager": dg.FilesystemIOManager(base_dir=str(self.home))}
        return dg.materialize(
            [tickets, labels, report], partition_key=DAY, instance=self.instance, resources=resources, selection=list(selection)
        )

    def stale(self, labels: dg.AssetsDefinition) -> dict[str, list[str]]:
        """Why Dagster's UI shows a partition as out of date, by asset."""
        definitions = dg.Definitions(assets=[tickets, labels, report], resources={"keld": KeldResource()})
        graph = definitions.get_repository_def().asset_graph
        resolver = CachingStaleStatusResolver(self.instance, graph, LoadingContextForTest(self.instance))
        names = ("labels_batch", "labels", "report")
        causes = {name: resolver.get_stale_causes(dg.AssetKey(name), DAY) for name in names}
        return {name: [cause.reason for cause in found] for name, found in causes.items() if found}


@pytest.fixture
def project(keld_emulator: Emulator, tmp_path: Path) -> Any:
    rows["body"] = "ticket"
    with dg.DagsterInstance.ephemeral() as instance:
        project = Project(tmp_path, instance)
        project.materialize(assets(), "tickets", "labels_batch", "labels")
        project.materialize(assets(), "labels")
        project.materialize(assets(), "report")
        yield project


def test_changed_prompt_shows_what_was_asked_before_as_out_of_date_and_a_changed_term_does_not(project: Project) -> None:
    """A new ceiling is no reason to buy a year of partitions again."""
    assert project.stale(assets()) == {}
    assert project.stale(assets(replace(JOB, **TERMS))) == {}
    better = assets(replace(JOB, prompt="Better: {body}"))
    assert project.stale(better) == {"labels_batch": ["has a new code version"], "labels": ["has a new code version"]}
    project.materialize(better, "labels_batch", "labels")
    project.materialize(better, "labels")
    assert project.stale(better).keys() <= {"report"}


def test_batch_and_result_launched_apart_are_both_out_of_date_when_the_prompt_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run attaches to what is out, and says so on the batch again: that event must not hide with which code it was sent."""
    with Emulator(latency_s=3600) as emulator, dg.DagsterInstance.ephemeral() as instance:
        for name, value in emulator.env().items():
            monkeypatch.setenv(name, value)
        project = Project(tmp_path, instance)
        project.materialize(assets(), "tickets", "labels_batch")
        project.materialize(assets(), "labels")
        assert project.stale(assets()) == {}
        assert project.stale(assets(replace(JOB, prompt="Better: {body}"))) == {"labels_batch": ["has a new code version"]}


@pytest.mark.wide
def test_result_that_is_written_again_leaves_what_is_downstream_up_to_date(project: Project) -> None:
    """The same job run has the same answers each time; a source with the same rows asks nothing new."""
    project.materialize(assets(), "labels")
    assert project.stale(assets()) == {}
    project.materialize(assets(), "tickets", "labels_batch", "labels")
    assert project.stale(assets()) == {}


@pytest.mark.wide
def test_changed_rows_show_as_out_of_date_until_they_are_asked(project: Project) -> None:
    rows["body"] = "letter"
    project.materialize(assets(), "tickets")
    assert project.stale(assets())["labels"] == ["has a new dependency materialization"]
    project.materialize(assets(), "labels_batch", "labels")
    project.materialize(assets(), "labels")
    assert project.stale(assets()) == {"report": ["has a new dependency data version"]}


@pytest.mark.parametrize(
    ("change", "fires"), [({"prompt": "Better: {body}"}, True), (TERMS, False), ({}, False)], ids=["prompt", "terms", "nothing"]
)
def test_code_version_changed_fires_on_a_changed_question_alone(change: dict[str, Any], fires: bool) -> None:
    condition = dg.AutomationCondition.code_version_changed()
    before, after = (
        build_batch_assets(job, source=dg.AssetKey("elsewhere"), automation_condition=condition) for job in (JOB, replace(JOB, **change))
    )
    with dg.DagsterInstance.ephemeral() as instance:
        first = dg.evaluate_automation_conditions(dg.Definitions(assets=[before], resources={"keld": KeldResource()}), instance)
        then = dg.evaluate_automation_conditions(
            dg.Definitions(assets=[after], resources={"keld": KeldResource()}), instance, cursor=first.cursor
        )
    assert (first.total_requested, then.total_requested) == (0, 2 * fires)
