"""`@keld_assets`: a function that gives prompts becomes two assets."""

import inspect
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, TypedDict, get_type_hints

import dagster as dg
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pydantic import BaseModel

from keld import InvalidJob, Job, JobTerms, Keld, PerRow, fingerprint_of
from keld.emulator import Emulator
from keld_dagster import KeldResource, build_batch_assets, keld_assets, keld_definitions
from keld_dagster.decorator import prompt_of
from keld_dagster.option import AssetOptions

DAYS = dg.DailyPartitionsDefinition("2026-11-01", end_date="2026-11-20")
DAY = "2026-11-03"


class Label(BaseModel):
    category: Literal["billing", "bug"]


class Ticket(TypedDict):
    id: int
    body: str


@dg.asset(partitions_def=DAYS)
def tickets() -> pd.DataFrame:
    return pd.DataFrame({"id": range(4), "body": ["late", None, "broken", "late"]})


@keld_assets(
    source=tickets, key="id", output_type=Label, models="openai:gpt-5-mini", ceiling_usd=5, key_prefix="support", tags={"team": "cx"}
)
def labels(row: dict[str, Any]) -> str | None:
    """The category of every ticket."""
    return None if row["body"] is None else f"Classify: {row['body']}"


@keld_assets(source=tickets, key="id", models=["openai:gpt-5-mini"], name="by_batch", job_name="older")
def batches(batch: pa.RecordBatch) -> pa.Array:
    return pc.binary_join_element_wise("Classify: ", batch["body"], "")


def test_function_gives_name_and_description_and_one_prompt_a_row(keld_emulator: Emulator, tmp_path: Path) -> None:
    """The same question by row and by batch: the same rows are asked, one each, and the repeated one once."""
    for n, (assets, asset, job) in enumerate([(labels, "support/labels", "support.labels"), (batches, "by_batch", "older")], 1):
        home = tmp_path / assets.node_def.name
        resources = {"keld": KeldResource(home=str(home)), "io_manager": dg.FilesystemIOManager(base_dir=str(home))}
        with dg.DagsterInstance.ephemeral() as instance, Keld(home=home) as keld:
            for _ in range(2):
                done = dg.materialize([tickets, assets], partition_key=DAY, instance=instance, resources=resources)
            [status] = keld.statuses()
        rows = done.output_for_node(assets.node_def.name, asset.replace("/", "__"))
        assert rows["keld_outcome"].tolist() == ["answered", "unaskable", "answered", "answered"]
        assert (status.job, len(keld_emulator.bill())) == (job, 2 * n)
    spec = labels.specs_by_key[dg.AssetKey(["support", "labels"])]
    assert (spec.description, spec.partitions_def) == ("The category of every ticket.", DAYS)
    assert spec.tags["team"] == "cx"


def test_changed_function_is_a_changed_question_and_a_changed_term_is_not() -> None:
    def declared(head: str, **terms: Any) -> str | None:
        def labels(row: dict[str, Any]) -> str:
            return head + row["body"]

        made = keld_assets(source=tickets, key="id", models="openai:gpt-5-mini", **terms)(labels)
        return made.specs_by_key[dg.AssetKey("labels")].code_version

    assert declared("Classify: ") == declared("Classify: ", ceiling_usd=5, tags={"a": "b"}, retry_policy=dg.RetryPolicy())
    assert len({declared("Classify: "), declared("Better: "), declared("Classify: ", code_version="2")}) == 3
    assert declared("Classify: ", code_version="2") == f"{declared('Classify: ')}-2"


def test_type_of_the_parameter_says_whether_it_is_a_row_or_a_batch() -> None:
    later: dict[str, Any] = {}
    exec("from __future__ import annotations\ndef by_batch(b: pa.RecordBatch): ...\ndef by_row(b: dict[str, Any]): ...", later)

    def plain(ticket): ...  # type: ignore[no-untyped-def]
    def row(ticket: dict[str, Any]) -> Any: ...
    def mapping(ticket: Mapping[str, Any]) -> Any: ...
    def typed(ticket: Ticket) -> Any: ...
    def more(ticket: dict[str, Any], tone: str = "kind") -> Any: ...
    def batch(ticket: pa.RecordBatch) -> Any: ...

    class Asks:
        def __call__(self, row: dict[str, Any]) -> str:
            return ""

    assert [prompt_of(one) for one in (batch, later["by_batch"])] == [batch, later["by_batch"]]
    assert all(isinstance(prompt_of(one), PerRow) for one in (plain, row, mapping, typed, more, later["by_row"], Asks()))


def _frame(tickets: pd.DataFrame) -> Any: ...
def _two(row: dict[str, Any], tickets: Any) -> Any: ...
def _none() -> Any: ...
def _many(*rows: Any) -> Any: ...
def _batch(batch) -> Any: ...  # type: ignore[no-untyped-def]
def _private(row: dict[str, Any]) -> Any: ...
async def later(row: dict[str, Any]) -> Any: ...


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (_frame, "tickets is annotated with DataFrame; it is given a row"),
        (_two, "_two takes 2 arguments; it is given one"),
        (_none, "_none takes 0 arguments"),
        (_many, "_many takes 1 arguments"),
        (_batch, "annotate batch with pa.RecordBatch"),
        (later, "is asynchronous"),
        (_private, "_private.*give another by job_name="),
    ],
)
def test_function_that_cannot_be_given_a_row_is_refused_when_it_is_declared(function: Any, complaint: str) -> None:
    with pytest.raises((TypeError, InvalidJob), match=complaint):
        keld_assets(source=tickets, key="id", models="openai:gpt-5-mini")(function)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"ins": {}}, "no keyword ins: the rows are those of source="),
        ({"prompt": "{body}"}, "no keyword prompt: the decorated function gives the prompts"),
        ({"ceilling_usd": 5}, "no keyword ceilling_usd: is ceiling_usd meant"),
        ({}, "needs key= and models="),
    ],
)
def test_keywords_of_other_decorators_and_misspelt_ones_are_refused_in_words(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(TypeError, match=complaint):
        keld_assets(source=tickets, **options)


def test_decorated_assets_load_as_a_code_location() -> None:
    definitions = dg.Definitions.merge(dg.Definitions(assets=[tickets]), keld_definitions([labels, batches], resource=KeldResource()))
    dg.Definitions.validate_loadable(definitions)


def test_decorator_takes_what_build_batch_assets_and_a_job_take() -> None:
    """Type checkers see these names and no others."""
    signature = inspect.signature(build_batch_assets).parameters
    assert set(AssetOptions.__annotations__) == set(signature) - {"job", "source"}
    own, theirs = get_type_hints(AssetOptions), get_type_hints(build_batch_assets)
    assert {name: own[name] for name in own} == {name: theirs[name] for name in own}
    assert set(JobTerms.__annotations__) == {field.name for field in fields(Job)} - {"name", "prompt", "tags"}
    terms, declared = get_type_hints(JobTerms), get_type_hints(Job, localns={"pa": pa})
    assert {name: terms[name] for name in terms} == {name: declared[name] for name in terms}


def test_fingerprint_of_a_decorated_function_is_that_of_its_job() -> None:
    def ask(row: dict[str, Any]) -> str:
        return f"Classify: {row['body']}"

    job = Job(name="any", key="id", prompt=PerRow(ask), models="openai:gpt-5-mini")
    made = keld_assets(source=tickets, key="id", models="openai:gpt-5-mini")(ask)
    assert made.specs_by_key[dg.AssetKey("ask")].code_version == fingerprint_of(job)
