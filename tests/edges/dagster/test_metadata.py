"""What the pages of the assets say: of a job's terms, of the columns, of the file that declares it."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

import dagster as dg
import pyarrow as pa
import pytest
from msgspec import structs
from pydantic import BaseModel, Field

from keld import Column, Job, Keld
from keld.emulator import Emulator
from keld_dagster import build_batch_assets
from keld_dagster.column import column_metadata, type_name
from keld_dagster.metadata import job_metadata, money, waiting_metadata

DAYS = dg.StaticPartitionsDefinition(["day1"])
SOURCE = dg.AssetKey("tickets")


class Label(BaseModel):
    category: Literal["billing", "bug"] = Field(description="What the ticket is about.")
    urgency: Annotated[int, Field(ge=1, le=5)]


JOB = Job(
    name="labels",
    key="id",
    prompt="Classify: {subject}\n\n{body}",
    output_type=Label,
    models=["openai:gpt-5-mini", "anthropic:claude-haiku-4-5"],
    deadline=timedelta(hours=9),
    ceiling_usd=40,
)
ROWS = pa.schema(
    [("id", pa.int64()), ("subject", pa.large_string()), ("body", pa.string()), ("category", pa.dictionary(pa.int8(), pa.string())), ("urgency", pa.int64()), ("keld_outcome", pa.string())]
)  # fmt: skip


def columns(job: Job) -> dict[str, dg.TableColumn]:
    return {column.name: column for column in column_metadata(job, SOURCE, ROWS)["dagster/column_schema"].columns}


def test_columns_carry_the_user_s_own_words_and_rules() -> None:
    """Who finds the table in the catalog reads what was written where the field was declared."""
    found = columns(JOB)
    assert found["category"].description == "What the ticket is about."
    assert found["category"].constraints.other == ["one of billing, bug"]
    assert found["urgency"].constraints.other == ["from 1 to 5"]
    assert (found["id"].constraints.nullable, found["id"].constraints.unique) == (False, True)
    assert found["keld_outcome"].description is not None
    assert (found["category"].type, found["subject"].type) == ("string", "string")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (pa.large_list(pa.field("element", pa.string_view())), "list<string>"),
        (pa.list_(pa.float32(), 256), "list<float32>[256]"),
        (pa.struct([("a", pa.bool_())]), "struct<a: boolean>"),
        (pa.decimal128(18, 12), "decimal(18, 12)"),
        (pa.timestamp("us", "UTC"), "timestamp UTC"),
        (pa.int64(), "int64"),
    ],
)
def test_types_are_in_words_that_a_person_reads(kind: pa.DataType, name: str) -> None:
    assert type_name(kind) == name


def lineage(job: Job) -> dict[str, list[str]]:
    found: dg.TableColumnLineage = column_metadata(job, SOURCE, ROWS)["dagster/column_lineage"]
    assert {dep.asset_key for deps in found.deps_by_column.values() for dep in deps} == {SOURCE}
    return {name: [dep.column_name for dep in deps] for name, deps in found.deps_by_column.items()}


def test_an_answer_comes_from_the_columns_of_the_prompt() -> None:
    passed = {name: [name] for name in ("id", "subject", "body")}
    assert lineage(JOB) == passed | {"category": ["body", "subject"], "urgency": ["body", "subject"]}
    assert lineage(replace(JOB, prompt=Column("body")))["category"] == ["body"]
    assert lineage(replace(JOB, prompt=lambda rows: rows["body"])) == passed  # a function may read any


def test_a_source_that_is_a_file_has_no_lineage() -> None:
    assert "dagster/column_lineage" not in column_metadata(JOB, None, ROWS)


def test_the_definition_tells_question_and_terms() -> None:
    found = job_metadata(replace(JOB, system="You triage."))
    assert found["keld/prompt"] == dg.MetadataValue.md("```text\nClassify: {subject}\n\n{body}\n```")
    assert found["keld/system"] == dg.MetadataValue.md("```text\nYou triage.\n```")
    assert found["keld/acceptable_models"] == "openai:gpt-5-mini, anthropic:claude-haiku-4-5"
    assert (found["keld/ceiling"], found["keld/deadline_rule"]) == (
        "$40.00 a partition",
        "9 h after the partition's end; for an old partition, after its submission",
    )


def test_a_template_with_a_block_of_code_stays_in_its_own() -> None:
    shown = job_metadata(replace(JOB, prompt="Explain:\n```\n{body}\n```"))["keld/prompt"]
    assert shown.value.startswith("````text\n") and shown.value.endswith("\n````")


def test_of_a_very_long_prompt_the_definition_tells_the_beginning() -> None:
    """Each process loads the definitions of every asset."""
    shown = str(job_metadata(Job(name="a", key="id", prompt="{body} " + "x" * 200_000, models="openai:gpt-5-mini"))["keld/prompt"].value)
    assert shown.startswith("```text\n{body} x") and shown.endswith("x\n... and 190,007 more characters\n```")
    assert len(shown) < 10_100


def test_what_a_function_asks_is_not_shown() -> None:
    """It may hold anything; only a template stands in the code as it is."""
    secret = "a text that only the closure knows"
    assert secret not in str(job_metadata(replace(JOB, prompt=lambda rows: [f"{secret} {body}" for body in rows["body"]])))


def test_code_references_lead_to_the_line_that_declares_the_assets() -> None:
    assets = build_batch_assets(JOB, source="t/{partition}.csv", partitions_def=DAYS)
    line = test_code_references_lead_to_the_line_that_declares_the_assets.__code__.co_firstlineno + 1
    for spec in assets.specs:
        [found] = spec.metadata["dagster/code_references"].code_references
        assert (found.file_path, found.line_number) == (__file__, line)
    here = dg.AnchorBasedFilePathMapping(local_file_anchor=Path(__file__), file_anchor_path_in_repository="jobs/labels.py")
    [linked] = dg.link_code_references_to_git([assets], git_url="https://github.com/us/jobs", git_branch="main", file_path_mapping=here)
    assert isinstance(linked, dg.AssetsDefinition)
    [url] = linked.specs_by_key[dg.AssetKey("labels")].metadata["dagster/code_references"].code_references
    assert url.url == f"https://github.com/us/jobs/tree/main/jobs/labels.py#L{line}"


@pytest.mark.parametrize(
    ("amount", "text"),
    [("0", "$0.00"), ("1234.5", "$1,234.50"), ("0.41", "$0.41"), ("0.4", "$0.40"), ("0.0125714", "$0.0126"), ("0.000123", "$0.000123")],
)
def test_money_is_in_dollars_and_as_exact_as_it_matters(amount: str, text: str) -> None:
    assert money(Decimal(amount)) == text


def test_a_batch_is_a_link_where_its_host_has_a_page(keld_emulator: Emulator, tmp_path: Path) -> None:
    """By the address that was really asked: the emulator has no pages, and neither has a proxy."""
    with Keld(home=tmp_path) as keld:
        here = keld.advance(keld.submit(JOB, [{"id": 1, "subject": "s", "body": "b"}]).id)
        [batch] = here.batches
        assert f"`{batch.batch_id}`" in waiting_metadata(here, {})["keld/batches"].value
        there = structs.replace(here, batches=(structs.replace(batch, host="https://api.openai.com"),))
        assert (
            f"[{batch.batch_id}](https://platform.openai.com/batches/{batch.batch_id})" in waiting_metadata(there, {})["keld/batches"].value
        )
        many = structs.replace(here, batches=tuple(structs.replace(batch, shard=n) for n in range(100)))
        shown = waiting_metadata(many, {})["keld/batches"].value
    assert len(shown) < 1000 and f"more: `keld status {here.id}`" in shown  # Dagster hides longer Markdown behind a click


def test_metadata_of_a_user_have_precedence() -> None:
    assets = build_batch_assets(JOB, source="t/{partition}.csv", partitions_def=DAYS, metadata={"keld/prompt": "not for everyone"})
    assert assets.specs_by_key[dg.AssetKey("labels")].metadata["keld/prompt"] == "not for everyone"
