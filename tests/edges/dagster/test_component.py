"""The component: YAML as a person writes it, loaded by Dagster's own component system in a project on disk."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import timedelta
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster.components.resolved.core_models import AssetSpecUpdateKwargs
from dagster.components.testing import create_defs_folder_sandbox

from keld import Column, Job, PerRow
from keld_dagster import KeldBatchComponent, build_batch_assets
from keld_dagster.prompt import template_of

Draft202012Validator = pytest.importorskip("jsonschema", reason="the environment of another version has no jsonschema").Draft202012Validator
HAS_DG = find_spec("dagster.components.resolved.scopes") is not None
TICKETS = """
import dagster as dg
import pandas as pd

@dg.asset(partitions_def=dg.DailyPartitionsDefinition("2026-11-01", end_date="2026-11-15"))
def tickets() -> pd.DataFrame:
    return pd.DataFrame({"id": range(3), "body": [f"ticket {n}" for n in range(3)]})
"""
YAML = """\
type: keld_dagster.KeldBatchComponent
attributes:
  name: labels
  source: tickets
  key: id
  prompt: 'Classify: {body}'
  columns: {category: [billing, bug]}
  models: openai:gpt-5-mini
  asset:
    partitions_def: {type: daily, start_date: "2026-11-01", end_date: "2026-11-15"}
"""


def yaml(name: str = "labels", without: str | None = None, **attributes: str) -> str:
    """The component's file; each attribute is a text of YAML."""
    lines = YAML.replace("name: labels", f"name: {name}").splitlines()
    for attribute in (*attributes, without):
        lines = [line for line in lines if not line.startswith(f"  {attribute}:")]
    return "\n".join([*lines[:2], *(f"  {attribute}: {value}" for attribute, value in attributes.items()), *lines[2:], ""])


@dataclass(frozen=True)
class Project:
    """A project of `dg` on disk."""

    sandbox: Any  # a `DefsFolderSandbox`, which early versions of Dagster 1.12 do not export

    def load(self, files: dict[str, str]) -> dg.Definitions:
        """Writes the files of its `defs` folder, and loads all of it."""
        for name, text in files.items():
            path = self.sandbox.defs_folder_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        with self.sandbox.build_all_defs() as defs:
            return defs

    def job(self) -> Job:
        """The job of its only component."""
        with self.sandbox.build_component_tree() as tree:
            [component] = tree.get_all_components(KeldBatchComponent)
            return component.build_job()


@pytest.fixture
def project() -> Iterator[Project]:
    with create_defs_folder_sandbox() as sandbox:
        yield Project(sandbox)


def test_every_field_of_a_job_and_every_argument_of_the_assets_may_stand_in_yaml() -> None:
    """A field that is added to one of them must not be forgotten here."""
    attributes = set(KeldBatchComponent.model().model_fields)
    assert {field.name for field in fields(Job)} <= attributes
    of_the_asset = set(AssetSpecUpdateKwargs.model().model_fields)
    assert set(signature(build_batch_assets).parameters) - {"job", "translator"} <= attributes | of_the_asset


def test_one_file_declares_job_assets_checks_sensor_and_wait_job(project: Project) -> None:
    deadline, ceiling = "9h", "40"
    defs = project.load(
        {"tickets.py": TICKETS, "labels/defs.yaml": yaml(deadline=deadline, ceiling_usd=ceiling, resource="{}", tags="{team: '1'}")}
    )
    repository = defs.get_repository_def()
    assert [sensor.name for sensor in repository.sensor_defs] == ["keld_sensor"] and repository.has_job("keld_provider_wait")
    assert {key.to_user_string() for key in repository.asset_graph.get_all_asset_keys()} == {"tickets", "labels", "labels_batch"}
    checks = {"completion_rate", "valid_rate", "deadline_met", "cost_under_ceiling"}
    assert {key.name for key in repository.asset_graph.asset_check_keys} == checks
    job = project.job()
    assert (job.due_by, job.ceiling, job.tags) == (timedelta(hours=9), 40, {"team": "1"})
    assert job.output_type["properties"] == {"category": {"enum": ["billing", "bug"]}} and job.output_type["required"] == ["category"]


def test_components_and_modules_of_one_project_share_sensor_job_and_resource(project: Project) -> None:
    """Dagster copies what a component defines, to note which one made it; two sensors of one name would stop the code location."""
    module = """
import dagster as dg
from keld import Job
from keld_dagster import KeldResource, build_batch_assets, keld_definitions
daily = dg.DailyPartitionsDefinition("2026-11-01")
job = Job(name="ours", key="id", prompt="{body}", models="openai:gpt-5-mini")
defs = keld_definitions([build_batch_assets(job, source="{partition}.csv", partitions_def=daily)], resource=KeldResource(home="here"))
"""
    resource = "{home: here}"
    two = yaml("two", resource=resource) + "---\n" + yaml("three", resource=resource)
    defs = project.load({"tickets.py": TICKETS, "ours.py": module, "labels/defs.yaml": yaml(resource=resource), "more/defs.yaml": two})
    repository = defs.get_repository_def()
    assert [sensor.name for sensor in repository.sensor_defs] == ["keld_sensor"]
    assert [name for name in repository.job_names if not name.startswith("__")] == ["keld_provider_wait"]
    assert {"labels", "two", "three", "ours"} <= {key.to_user_string() for key in repository.asset_graph.get_all_asset_keys()}


def test_templates_of_dagster_columns_of_rows_and_json_live_in_one_prompt(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The braces of JSON are written once, in YAML and in a file; what is rendered is never taken for a number or a list."""
    monkeypatch.setenv("SHOP", "Acme")
    prompt = 'You work for {{ env.SHOP }}.\nAnswer like {"category": "bug", "why": {"n": 1}}.\n{% raw %}{{x}}{% endraw %}\n\n{body:>10}\n'
    files = {
        "tickets.py": TICKETS,
        "labels/prompt.md": prompt,
        "labels/defs.yaml": yaml(prompt="{path: prompt.md}", system="'{{ \"[1]\" }}'"),
    }
    project.load(files)
    job = project.job()
    assert isinstance(job.prompt, str)
    assert job.prompt.format(body="late") == 'You work for Acme.\nAnswer like {"category": "bug", "why": {"n": 1}}.\n{x}\n\n      late\n'
    assert job.system == "[1]"


def test_schema_and_prompt_may_come_from_python_beside_the_file(project: Project) -> None:
    module = """
from pydantic import BaseModel
class Label(BaseModel):
    category: str
def ask(row):
    return f"Classify: {row['body']}"
"""
    file = yaml(without="columns", output_type=".labels.Label", prompt="{function: .labels.ask}")
    project.load({"tickets.py": TICKETS, "labels/labels.py": module, "labels/defs.yaml": file})
    job = project.job()
    assert job.output_type.__name__ == "Label"
    assert isinstance(job.prompt, PerRow)
    assert job.prompt.function({"body": "late"}) == "Classify: late"


def test_prompt_may_be_a_column_and_the_schema_a_json_schema(project: Project) -> None:
    schema = '{type: object, properties: {code: {enum: ["1", "2"]}}, required: [code], additionalProperties: false}'
    file = yaml(without="columns", output_type=schema, prompt="{column: chat, json_text: true}")
    project.load({"tickets.py": TICKETS, "labels/defs.yaml": file})
    job = project.job()
    assert job.prompt == Column("chat", json=True)
    assert job.output_type["properties"]["code"]["enum"] == ["1", "2"]  # Dagster would make numbers of them


@pytest.mark.skipif(not HAS_DG, reason="early versions of Dagster 1.12 have no {{ dg }}")
def test_attributes_of_the_assets_and_post_processing_are_dagster_s_own(project: Project) -> None:
    post = """
post_processing:
  assets:
    - target: "labels"
      attributes: {owners: ["team:support"], tags: {pii: "yes"}}
"""
    asset = (
        'asset: {key: shop/labels, group_name: support, automation_condition: "{{ dg.AutomationCondition.eager() }}", '
        "partitions_def: \"{{ dg.WeeklyPartitionsDefinition(start_date='2026-11-01') }}\"}"
    )
    file = yaml(without="asset", source="'raw/{partition}.csv'", resource="{}").replace("    partitions_def", "    #") + f"  {asset}\n"
    defs = project.load({"labels/defs.yaml": file + post.replace('"labels"', "'key:shop/labels'")})
    specs = {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}
    result, batch = specs["shop/labels"], specs["shop/labels_batch"]
    assert (result.owners, result.tags["pii"], batch.owners) == (["team:support"], "yes", [])
    assert {spec.group_name for spec in (result, batch)} == {"support"} and result.automation_condition is not None
    assert isinstance(result.partitions_def, dg.WeeklyPartitionsDefinition)


# Each mistake, the line of the file that is shown, and what is said.
MISTAKES: list[tuple[dict[str, str], int, str]] = [
    ({"ceiling_usd": "forty"}, 3, "ceiling_usd='forty' is not a number of US dollars"),
    ({"models": "gpt-5-mini"}, 3, "the form is 'provider:model'"),
    ({"deadline": "soon"}, 3, "neither a span, such as '9h'"),
    ({"prompt": "{path: promt.md}"}, 3, "promt.md cannot be read (No such file or directory)"),
    ({"prompt": "{path: a.md, column: b}"}, 3, "give one of path, column and function, not path and column"),
    ({"prompt": "'Classify: {body'"}, 3, "line 1, character 11 of the text opens a brace that is never closed"),
    ({"prompt": "'Classify {{ envv.X }}: {body}'"}, 3, "'envv' is undefined"),
    ({"prompt": "'Classify'"}, 3, "prompt names no column"),
    ({"system": "'{{ }'"}, 3, "what stands in {{ }} is Dagster's template"),
    ({"output_type": "shop.labels.Label", "without": "columns"}, 3, "there is no module 'shop'"),
    ({"output_type": "keld.Lable", "without": "columns"}, 3, "the module keld has no 'Lable'"),
    ({"output_type": "Label", "without": "columns"}, 3, "cannot be imported"),
    ({"output_type": "keld.Column"}, 8, "give one of them"),
    ({"completion_rate": "2"}, 3, "completion_rate=2.0 is a share"),
    ({"frame": "spark"}, 3, "frame='spark' is not one of pandas"),
    ({"lane": "slow"}, 3, "lane='slow' is not one of"),
]


@pytest.mark.parametrize(("given", "line", "said"), MISTAKES, ids=[said[:30] for *_, said in MISTAKES])
def test_mistake_is_shown_at_its_line_and_said_in_our_words(project: Project, given: dict[str, str], line: int, said: str) -> None:
    with pytest.raises(Exception, match=r".") as caught:
        project.load({"tickets.py": TICKETS, "labels/defs.yaml": yaml(**given)})
    text, error = "", caught.value
    while error is not None:
        text, error = text + str(error), error.__cause__  # type: ignore[assignment]
    assert said in text
    assert f"labels/defs.yaml:{line} " in text


UNLOADED = [
    ({"ceiling_usd": "forty"}, "'forty' does not match"),
    ({"models": ["openai:gpt-5-mini", "gpt-5"]}, "'gpt-5' does not match"),
    ({"deadline": "soon"}, "'soon' does not match"),
    ({"promt": "{body}"}, "'promt' was unexpected"),
    ({"prompt": None}, "None is not valid"),
    ({"ceiling_usd": 40.5, "models": ["{{ model }}"], "deadline": "PT9H", "prompt": {"path": "prompt.md"}}, None),
    ({"ceiling_usd": "{{ env.CEILING }}", "models": "openai:gpt-5-mini", "deadline": "9h"}, None),
]


@pytest.mark.parametrize(("given", "said"), UNLOADED)
def test_check_of_the_yaml_alone_finds_what_can_be_found_without_loading(given: dict[str, Any], said: str | None) -> None:
    """`dg check yaml` knows the JSON Schema only."""
    file = {"name": "labels", "source": "tickets", "key": "id", "prompt": "{body}", "models": "openai:gpt-5-mini", **given}
    errors = [error.message for error in Draft202012Validator(KeldBatchComponent.model().model_json_schema()).iter_errors(file)]
    assert [said is not None and said in error for error in errors] == ([True] if said else []), errors


BRACES = [
    ("{body}", "{body}"),
    ("{order id} {price:.2f} {name!r}", "{order id} {price:.2f} {name!r}"),
    ('{"a": {"b": {}}}', '{{"a": {{"b": {{}}}}}}'),
    ('{"text": "{body}"}', '{{"text": "{body}"}}'),
    ("{a: 1} {1,3} {}", "{{a: 1}} {{1,3}} {{}}"),
    ('{{"a": {{"b": 1}}}}', '{{"a": {{"b": 1}}}}'),
    ("{{ is a brace, {body}", "{{ is a brace, {body}"),
]


@pytest.mark.parametrize(("text", "template"), BRACES)
def test_braces_that_are_no_column_are_text(text: str, template: str) -> None:
    assert template_of(text) == template


@pytest.mark.parametrize("text", ["{", "}", "{body", "body}", '{"a": {body}', "{{a}", "{a}}"])
def test_lone_brace_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="brace"):
        template_of(text)


@pytest.mark.wide
def test_broken_package_stops_no_command_of_dg(tmp_path: Path) -> None:
    """`dg` imports our entry point in every project of the environment; what runs here is its own loading of all entry points."""
    for name in ("pandas", "pyarrow", "openai", "anthropic", "sqlalchemy", "httpx2", "upath", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('broken')")
    program = """
from dagster.components.core.package_entry import discover_entry_point_package_objects
from dagster.components.core.snapshot import get_package_entry_snap
found = {key.to_typename(): get_package_entry_snap(key, obj) for key, obj in discover_entry_point_package_objects().items() if "keld" in key.to_typename()}
assert found.keys() == {"keld_dagster.KeldBatchComponent"}, found.keys()
"""
    subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": str(tmp_path), "PATH": ""}, check=True, timeout=300)


def test_scaffolded_component_loads_as_it_is(project: Project) -> None:
    params: dict[str, Any] = {"source": "tickets", "key": "id", "models": ["openai:gpt-5-mini"], "start_date": "2026-11-01"}
    folder = project.sandbox.scaffold_component(KeldBatchComponent, "ticket_labels", params)
    assert "{body}" in (folder / "prompt.md").read_text()
    dg.Definitions.validate_loadable(project.load({"tickets.py": TICKETS.replace(', end_date="2026-11-15"', "")}))
    job = project.job()
    assert (job.name, job.acceptable) == ("ticket_labels", ("openai:gpt-5-mini",))


@pytest.mark.skipif(not HAS_DG, reason="early versions of Dagster 1.12 have no {{ dg }}")
def test_yaml_of_the_documentation_loads_as_it_stands(project: Project) -> None:
    page = Path(__file__).parents[3].joinpath("docs", "how-to", "dagster-component.md").read_text()
    file = page.split("```yaml")[1].partition("\n")[2].split("```")[0]
    tickets = TICKETS.replace(', end_date="2026-11-15"', "")
    defs = project.load({"tickets.py": tickets, "ticket_labels/defs.yaml": file, "ticket_labels/prompt.md": "Classify:\n\n{body}"})
    assert defs.get_assets_def("ticket_labels").specs_by_key[dg.AssetKey("ticket_labels")].owners == ["team:support"]
