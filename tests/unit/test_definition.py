"""A question is the same whatever the module of its output type is called."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keld import Job, fingerprint_of
from keld.schema import output_schema

SOURCE = """
from enum import Enum
from typing import Annotated, Literal, Union
from pydantic import BaseModel, Field

class Item(BaseModel):
    kind: Literal["part"] = "part"
    parts: list["Item"] = []

class Invoice:
    class Item(BaseModel):
        kind: Literal["line"] = "line"
        amount: int

    class Kind(Enum):
        paid = "paid"

class Kind(Enum):
    urgent = "urgent"

class Answer(BaseModel):
    lines: list[Annotated[Union[Invoice.Item, Item], Field(discriminator="kind")]]
    kind: Kind
    state: Invoice.Kind
    item: Item
"""
# As Airflow names the module of a Dag's file by its whole path, in two versions of one bundle; a script; a module.
MODULES = [
    f"unusual_prefix_{digest}_tickets"
    for digest in ("aa10c15f32334cd645c1ae65b7564afb66a6be18", "61c1355ecabdae9a073ecd8f4331d11e0a36e536")
]


@pytest.fixture
def answers(tmp_path: Path) -> Iterator[list[Any]]:
    """One output type, imported under several names."""
    (tmp_path / "tickets.py").write_text(SOURCE)
    made = []
    for name in (*MODULES, "jobs.tickets", "zz"):
        spec = importlib.util.spec_from_file_location(name, tmp_path / "tickets.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        made.append(module.Answer)
    yield made
    for name in (*MODULES, "jobs.tickets", "zz"):
        del sys.modules[name]


def test_a_dag_s_file_that_is_read_from_another_folder_asks_the_same(answers: list[Any]) -> None:
    """Each version of a bundle is in a folder of its own: with every deployment all rows would be asked, and paid, once more."""
    asked = {fingerprint_of(Job(name="a", key="id", prompt="{body}", models="openai:gpt-5-mini", output_type=answer)) for answer in answers}
    assert len(asked) == 1


def test_definitions_of_one_name_are_told_apart_by_a_number_and_still_mean_what_they_did(answers: list[Any]) -> None:
    output = output_schema(answers[0])
    assert output.json_schema is not None
    assert sorted(output.json_schema["$defs"]) == ["Item__1", "Item__2", "Kind__1", "Kind__2"]
    assert "unusual_prefix" not in str(output.json_schema)
    lines = output.json_schema["properties"]["lines"]["items"]["discriminator"]["mapping"]
    assert {tag: output.json_schema["$defs"][name.rpartition("/")[2]]["properties"].keys() for tag, name in lines.items()} == {
        "line": {"kind", "amount"},
        "part": {"kind", "parts"},
    }
    assert output.json_schema["$defs"]["Item__2"]["properties"]["parts"]["items"] == {"$ref": "#/$defs/Item__2"}
