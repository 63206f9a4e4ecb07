"""What a job asks, as one hash: what changes it, and what does not."""

import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from keld import Job, PerRow, fingerprint_of


class Label(BaseModel):
    category: Literal["billing", "bug"] = Field(description="what it is about")


class Better(BaseModel):
    category: Literal["billing", "bug"] = Field(description="what the customer wants")


JOB = Job(name="labels", key="id", prompt="Classify: {body}", system="Triage.", output_type=Label, models=["openai:gpt-5-mini"])


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "Better: {body}"},
        {"prompt": "Classify: {body}", "missing": "-"},
        {"system": "Triage well."},
        {"output_type": Better},
        {"models": ["openai:gpt-5"]},
        {"params": {"temperature": 0}},
        {"max_output_tokens": 2048},
        {"endpoint": "/v1/responses"},
        {"output_prefix": "label_"},
    ],
    ids=lambda change: next(reversed(change)),
)
def test_what_decides_an_answer_changes_the_fingerprint(change: dict[str, Any]) -> None:
    assert fingerprint_of(replace(JOB, **change)) != fingerprint_of(JOB)


@pytest.mark.parametrize(
    "change",
    [
        {"deadline": timedelta(hours=9)},
        {"ceiling_usd": 40},
        {"tags": {"team": "support"}},
        {"name": "other"},
        {"lane": "batch"},
        {"max_attempts": 5},
        {"reuse": "never"},
        {"cache": "never"},
        {"probability": 0.9},
        {"prices": {"openai:gpt-5-mini": {"input": 1, "output": 1}}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_terms_that_decide_no_answer_do_not(change: dict[str, Any]) -> None:
    """A new ceiling must not show a year of partitions as out of date."""
    assert fingerprint_of(replace(JOB, **change)) == fingerprint_of(JOB)


FUNCTION = """
HEAD = {head!r}
LIMIT = {limit}

def short(text):
    return text[:{most}]

def ask(row, tail={tail!r}):
    {comment}
    return HEAD + short(row["body"]) + tail
"""
USUAL = {"head": "Classify: ", "most": 100, "tail": ".", "comment": "pass", "limit": 1}


def _asking(**change: Any) -> Job:
    module = ModuleType("prompts")
    exec(FUNCTION.format(**USUAL | change), vars(module))
    return replace(JOB, prompt=PerRow(module.ask))


@pytest.mark.parametrize("change", [{"head": "Better: "}, {"most": 50}, {"tail": "!"}], ids=lambda change: next(iter(change)))
def test_text_beside_a_prompt_function_and_functions_that_it_calls_are_part_of_what_is_asked(change: dict[str, Any]) -> None:
    """Most prompts are a constant above the function that fills it."""
    assert fingerprint_of(_asking(**change)) != fingerprint_of(_asking())


def test_what_a_prompt_function_does_not_read_and_comments_are_not() -> None:
    assert fingerprint_of(_asking(limit=2)) == fingerprint_of(_asking(comment="# why\n    pass")) == fingerprint_of(_asking())


def test_functions_of_every_form_have_a_fingerprint() -> None:
    """Recursive, nested, decorated, partial, a method, a builtin, with a variable that is not bound yet."""

    def outer(text: str) -> Any:
        def inner(row: Any) -> str:
            return inner(row) if row else text + later

        return inner
        later = ""

    class Prompts:
        def one(self, row: Any) -> str:
            return f"{row}"

    forms = [outer("a"), outer("b"), partial(outer("a")), Prompts().one, Prompts, str, max]
    found = [fingerprint_of(replace(JOB, prompt=PerRow(form))) for form in forms]
    assert len({*found}) == len(found) - 1  # the partial of a function asks the same
    assert found[0] != fingerprint_of(replace(JOB, prompt=outer("a")))  # a function over batches is another prompt


def test_every_process_finds_the_same_fingerprint(tmp_path: Path) -> None:
    """Dagster's code server, daemon and run workers compare what they find."""
    (tmp_path / "theirs.py").write_text(
        "from keld import Job, PerRow, fingerprint_of\n"
        "HEAD = 'Classify: '\n"
        "def ask(row): return HEAD if row['kind'] in {'a', 'b', 'c'} else None\n"
        "for prompt in ('Classify: {body}', PerRow(ask)):\n"
        "    job = Job(name='labels', key='id', prompt=prompt, output_type={'type': 'object', 'properties': {'a': {'enum': ['x', 'y']}}},\n"
        "              models='openai:gpt-5-mini', params={'b': 1, 'a': {'d': 2, 'c': 3}})\n"
        "    print(fingerprint_of(job))\n"
    )
    found = {
        subprocess.run(
            [sys.executable, str(tmp_path / "theirs.py")],
            check=True,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
    assert len(found.pop().split()[0]) == 16
