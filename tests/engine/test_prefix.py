"""`output_prefix` names the columns of answers that are paid: another one renames them, at no cost, whenever it is changed."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from keld import Job, Keld, Status, fingerprint_of
from keld.emulator import Emulator
from keld.errors import StagingError
from keld.identity import question_of_job
from keld.request import fingerprint
from tests.support.ticket_job import finish, openai, tickets, triage


def labels(keld: Keld, status: Status, prefix: str) -> list[Mapping[str, Any]]:
    """The answers of a job run by the names of their fields; it has no other columns than these with `prefix`."""
    table = keld.read(status.id).read_all()
    answers = [name for name in table.column_names if name not in ("ticket_id", "body") and not name.startswith("keld_")]
    assert answers == [f"{prefix}category", f"{prefix}urgent"]
    return [{name.removeprefix(prefix): value for name, value in row.items()} for row in table.select(answers).to_pylist()]


@pytest.mark.share(3)
@pytest.mark.parametrize("terms", [{}, {"reuse": "never"}, {"reuse": "namespace"}], ids=str)
def test_other_names_for_paid_answers_buy_nothing(keld: Keld, emulator: Emulator, terms: dict[str, Any]) -> None:
    """There and back, and with rows that share a prompt: each time the same answers."""
    table = tickets().take([0, 1, 1, 2]).set_column(0, "ticket_id", [["a", "b", "c", "d"]])
    first = finish(keld, emulator, keld.submit(triage(openai, **terms), table).id)
    paid, answers = len(emulator.bill()), labels(keld, first, "")
    for prefix in ("llm_", "keldless_", ""):
        again = keld.submit(triage(openai, output_prefix=prefix, **terms), table)
        done = finish(keld, emulator, again.id)
        assert (done.answered, done.cost_usd, len(emulator.bill())) == (4, 0, paid)
        assert labels(keld, done, prefix) == answers
        assert keld.submit(triage(openai, output_prefix=prefix, **terms), table).id == done.id, "it is asked for once"


def test_what_is_out_is_finished_by_the_old_names_and_then_renamed(keld: Keld, emulator: Emulator) -> None:
    """Whoever reads a job run finds the columns that it was declared with, from its submission to its end."""
    sent = keld.submit(triage(openai), tickets())
    assert keld.advance(sent.id).sent
    renamed = triage(openai, output_prefix="llm_")
    again = keld.submit(renamed, tickets())
    assert (again.id, again.outdated) == (sent.id, "output_prefix")
    old = finish(keld, emulator, sent.id)
    answers, paid = labels(keld, old, ""), len(emulator.bill())
    done = finish(keld, emulator, keld.submit(renamed, tickets()).id)
    assert (done.generation, done.outdated, len(emulator.bill())) == (2, None, paid)
    assert labels(keld, done, "llm_") == answers


def test_what_was_not_sent_is_sent_under_the_new_names(keld: Keld, emulator: Emulator) -> None:
    first = keld.submit(triage(openai), tickets())
    second = keld.submit(triage(openai, output_prefix="llm_"), tickets())
    assert (second.outdated, keld.status(first.id).over) == (None, True)
    assert len(labels(keld, finish(keld, emulator, second.id), "llm_")) == len(emulator.bill()) == 6


def test_answers_that_were_removed_are_missed_in_words_and_not_bought_for_a_name(keld: Keld, emulator: Emulator) -> None:
    finish(keld, emulator, keld.submit(triage(openai), tickets()).id)
    emulator.advance(timedelta(days=400))
    assert len(keld.gc()) == 1
    with pytest.raises(StagingError, match=r"removed by `keld gc`.*Nothing was sent.*force=True"):
        keld.submit(triage(openai, output_prefix="llm_"), tickets())
    assert len(emulator.bill()) == 6


def test_rows_that_are_new_are_asked_and_only_they(keld: Keld, emulator: Emulator) -> None:
    finish(keld, emulator, keld.submit(triage(openai), tickets()).id)
    renamed = triage(openai, output_prefix="llm_")
    done = finish(keld, emulator, keld.submit(renamed, tickets(8)).id)
    assert (done.answered, len(emulator.bill())) == (8, 8), "two rows are new"
    assert len(labels(keld, done, "llm_")) == 8


def test_a_job_without_a_prefix_has_the_fingerprints_that_it_had_before() -> None:
    """Those in ledgers: another would buy every answer in them again. Taken from the code before prefixes were no part of them."""
    asked = {"type": "object", "properties": {"label": {"type": "string"}}}
    job = Job(name="labels", key="id", prompt="Classify: {body}", models="openai:gpt-5-mini", output_type=asked)
    assert fingerprint_of(job) == "a400ca6a5157294d"
    question = question_of_job(job)[1]
    assert fingerprint(question, job.acceptable) == "0e9b14d734911d4d9fe4002dee67bda37d23d51d8cb36966741e2ca711c67633"
