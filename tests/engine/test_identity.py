"""Whose job run it is: the same question of the same source is one, whoever asks; another question is told, another's job refused."""

import logging
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from keld import Column, Job, Keld
from keld.emulator import Emulator
from keld.errors import InvalidJob
from keld.identity import declared, name_of
from keld.request import Question
from tests.support.ticket_job import Label, finish, openai, outcomes, purchases, tickets, triage

A, B = {"owner": "here:labels_A", "source_name": "asset:tickets"}, {"owner": "there:labels_B", "source_name": "asset:mails"}


def sent(keld: Keld, job: Job, table: Any = None, **who: Any) -> str:
    """The id of a job run whose batch is out."""
    status = keld.submit(job, tickets() if table is None else table, **who)
    assert keld.advance(status.id).sent
    return status.id


@pytest.mark.share(2)
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"prompt": "OTHER {body}"}, "the prompt"),
        ({"system": "Another."}, "the system prompt"),
        ({"output_type": str}, "the output type"),
        ({"models": "openai:gpt-5"}, "the models"),
        ({"prompt": "OTHER {body}", "params": {"seed": 1}}, "the prompt and the params"),
        ({"source_name": "asset:mails"}, "the source"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_was_sent_is_finished_and_told_and_the_new_question_asked_next(
    keld: Keld, emulator: Emulator, caplog: pytest.LogCaptureFixture, change: dict[str, Any], told: str
) -> None:
    """The old answers are never given for the new question's, and no row is bought twice for either."""
    who = A | {name: change.pop(name) for name in list(change) if name == "source_name"}
    old = sent(keld, triage(openai), **A)
    with caplog.at_level(logging.WARNING, "keld"):
        again = keld.submit(triage(openai, **change), tickets(), **who)
    assert (again.id, again.outdated) == (old, told)
    assert f"changed={told}" in caplog.text
    assert keld.status(old).outdated == told, "whoever looks is told"
    assert finish(keld, emulator, old).outdated == told
    new = keld.submit(triage(openai, **change), tickets(), **who)
    assert new.outdated is None
    assert new.generation == (1 if not change else 2), "the same rows of another source ask the same"
    assert outcomes(keld, finish(keld, emulator, new.id)) == ["answered"] * 6
    assert set(purchases(emulator).values()) == {2 if change else 1}


def test_a_question_that_is_changed_back_is_attached_to(keld: Keld) -> None:
    old = sent(keld, triage(openai))
    assert keld.submit(triage(openai, system="Another."), tickets()).outdated
    back = keld.submit(triage(openai), tickets())
    assert (back.id, back.outdated) == (old, None)


def test_run_asks_the_new_question_after_the_old_one(open_emulator: Callable[..., Emulator], tmp_path: Path) -> None:
    """What a person who edits a prompt and runs again wants, without knowing of the rule."""
    open_emulator(frozen=False, latency_s=0.2)
    with Keld(home=tmp_path) as keld:
        old = sent(keld, triage(openai))
        new = keld.run(triage(openai, system="Another."), tickets(), poll_s=0.1)
        assert keld.status(old).over
        assert (new.generation, new.answered, new.outdated) == (2, 6, None)


def test_what_was_not_sent_is_planned_anew(keld: Keld) -> None:
    first = keld.submit(triage(openai), tickets(), **A)
    second = keld.submit(triage(openai, prompt="OTHER {body}"), tickets(), **A)
    assert second.id != first.id
    assert (second.outdated, keld.status(first.id).over) == (None, True)


def test_another_owners_job_of_the_name_is_refused_and_never_gives_its_rows(keld: Keld, emulator: Emulator) -> None:
    """Two code locations, two assets, one name: by accident."""
    old = sent(keld, triage(openai), **A)
    other, mails = triage(openai, prompt="OTHER {body}"), tickets(3, changed=[0, 1, 2])
    for state in ("out", "over"):
        for partition in (None, "another"):
            for ask in (keld.submit, keld.plan, keld.run):
                with pytest.raises(
                    InvalidJob, match=r"here:labels_A declares .* there:labels_B declares it differently \(the prompt and the source\)"
                ) as no:
                    ask(other, mails, partition=partition, **B)
                assert "Nothing was sent" in str(no.value)
        if state == "out":
            finish(keld, emulator, old)
    assert len(emulator.batches()) == 1
    keld.hand_over("triage", B["owner"])
    new = keld.submit(other, mails, **B)
    assert (new.owner, new.rows, new.outdated) == (B["owner"], 3, None)


def test_tables_in_memory_without_a_name_belong_to_their_owner(keld: Keld) -> None:
    """Nothing says that they are the same; to take them for it could be to hand out another's rows."""
    sent(keld, triage(openai), owner="one")
    with pytest.raises(InvalidJob, match="as far as it has a name"):
        keld.submit(triage(openai), tickets(), owner="another")


@pytest.mark.parametrize("over", [False, True])
def test_a_rename_buys_nothing(keld: Keld, emulator: Emulator, over: bool) -> None:
    """A Dag, a task, an asset, a location: the same question of the same source is the same job run."""
    old = sent(keld, triage(openai), **A)
    if over:
        finish(keld, emulator, old)
    renamed = keld.submit(triage(openai), tickets(), **A | {"owner": "here:labels_renamed"})
    assert (renamed.id, renamed.owner, renamed.outdated) == (old, "here:labels_renamed", None)
    finish(keld, emulator, old)
    keld.submit(triage(openai, prompt="OTHER {body}"), tickets(), **A | {"owner": "here:labels_renamed"})
    with pytest.raises(InvalidJob):
        keld.submit(triage(openai), tickets(), **A)
    assert purchases(emulator) == Counter(dict.fromkeys(range(6), 1))


# --- namespaces -------------------------------------------------------------------------------------------------------


def test_a_location_gives_the_namespace_where_nobody_else_does(open_keld: Callable[..., Keld], monkeypatch: pytest.MonkeyPatch) -> None:
    assert [open_keld(**given).namespace for given in ({}, {"default_namespace": "loc"}, {"default_namespace": "loc", "namespace": "own"})] == [
        "default", "loc", "own",
    ]  # fmt: skip
    monkeypatch.setenv("KELD_NAMESPACE", "from-env")
    assert open_keld(default_namespace="loc").namespace == "from-env"


@pytest.mark.parametrize("over", [False, True])
def test_what_was_run_under_the_old_default_is_found_and_reused(open_keld: Callable[..., Keld], emulator: Emulator, over: bool) -> None:
    before = open_keld()
    old = sent(before, triage(openai), partition="p")
    if over:
        finish(before, emulator, old)
    located = open_keld(default_namespace="loc")
    assert located.find("triage", "p").id == old
    attached = located.submit(triage(openai), tickets(), partition="p")
    assert (attached.id, attached.namespace, before.find("triage", "p")) == (old, "loc", None)
    assert located.namespaces() == {"loc": 1}
    finish(located, emulator, old)
    assert finish(located, emulator, located.submit(triage(openai), tickets(changed=[0]), partition="p").id).reused == 5


def test_a_second_location_does_not_take_what_the_first_one_runs(open_keld: Callable[..., Keld]) -> None:
    """Nor is it refused: its namespace is its own."""
    old = sent(open_keld(), triage(openai), **A)
    other = open_keld(default_namespace="there").submit(triage(openai, system="Another."), tickets(), **B)
    assert (other.id != old, other.namespace, other.generation) == (True, "there", 1)


# --- what is the same -------------------------------------------------------------------------------------------------


def ask_plainly(batch: pa.RecordBatch) -> list[str]:
    return [f"Classify {body}" for body in batch.column("body").to_pylist()]


def ask_kindly(batch: pa.RecordBatch) -> list[str]:
    return [f"Please classify {body}" for body in batch.column("body").to_pylist()]


def test_a_prompt_of_whatever_kind_is_told_from_another() -> None:
    prompts = [
        "a {body}",
        "b {body}",
        Column("body"),
        Column("body", json=True),
        ask_plainly,
        ask_kindly,
        lambda _: [],
        partial(ask_plainly),
    ]
    question = Question(system=None, output={"kind": "text"})
    marks = [declared(triage(openai, prompt=prompt, output_type=str), question)["prompt"] for prompt in prompts]
    assert len(set(marks)) == len(marks) - 1, "a partial of a function is that function"
    assert marks == [declared(triage(openai, prompt=prompt, output_type=Label), question)["prompt"] for prompt in prompts]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("s3://bucket/2026-11-19/rows.parquet", "s3://bucket/{partition}/rows.parquet"),
        ("s3://bucket/{partition}/rows.parquet", "s3://bucket/{partition}/rows.parquet"),
        ("https://user:secret@host/rows.csv?sig=secret", "https://host/rows.csv"),
        ("/data/rows.parquet", "/data/rows.parquet"),
        (Path("/data/2026-11-19.csv"), "/data/{partition}.csv"),
        ([{"a": 1}], None),
        (pa.table({"a": [1]}), None),
        (ask_plainly, None),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_path_names_its_source_and_no_secret(source: Any, name: str | None) -> None:
    assert name_of(source, "2026-11-19") == name


def test_a_path_from_elsewhere_is_another_source(keld: Keld, tmp_path: Path) -> None:
    for name in ("one", "two"):
        pq.write_table(tickets(), tmp_path / f"{name}.parquet")
    old = sent(keld, triage(openai), tmp_path / "one.parquet")
    assert keld.submit(triage(openai), str(tmp_path / "one.parquet")).outdated is None
    assert keld.submit(triage(openai), tmp_path / "two.parquet").outdated == "the source"
    assert keld.status(old).source == str(tmp_path / "one.parquet")
