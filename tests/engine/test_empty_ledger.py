"""A ledger that is not there yet: a question leaves no file, and who has asked sees the job runs that are made later, and pays once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keld import InvalidJob, Job, Keld, LedgerError

JOB = Job(name="labels", key="id", prompt="{body}", models="openai:gpt-5-mini")
ROWS = [{"id": 1, "body": "The invoice is wrong."}]


@pytest.fixture
def home(open_emulator: Callable[..., Any], tmp_path: Path) -> Path:
    open_emulator(frozen=False, latency_s=0)
    return tmp_path / "home"


def test_a_question_leaves_no_file(home: Path) -> None:
    with Keld(home=home) as keld:
        assert (keld.statuses(), keld.find("labels"), keld.poll(), keld.namespaces(), keld.spend().lines) == ([], None, [], {}, ())
        keld.plan(JOB, ROWS)
    assert not home.exists()


def test_who_asked_first_and_then_submits_makes_the_ledger(home: Path) -> None:
    with Keld(home=home) as keld:
        assert keld.poll() == []  # makes a runner, too
        assert keld.run(JOB, ROWS, poll_s=0.01).answered == 1
    with Keld(home=home) as later:
        assert [status.answered for status in later.statuses()] == [1]


def test_who_asked_first_sees_what_another_process_submits_later(home: Path) -> None:
    """A sensor or a triggerer asks for days before the first job run."""
    with Keld(home=home) as watching, Keld(home=home) as working:
        assert watching.poll() == []
        sent = working.submit(JOB, ROWS)
        assert [status.id for status in watching.poll()] == [sent.id]
        watching.finish(sent.id, poll_s=0.01)
        assert working.status(sent.id).answered == 1


def test_a_ledger_that_was_deleted_is_noticed_by_a_question(home: Path) -> None:
    """Staging remembers what is at the provider: an empty list would be a lie."""
    with Keld(home=home) as keld:
        keld.advance(keld.submit(JOB, ROWS).id)
    for file in home.glob("ledger.db*"):
        file.unlink()
    with Keld(home=home) as keld:
        with pytest.raises(LedgerError, match="reconcile --from-staging"):
            keld.statuses()
        assert not list(home.glob("ledger.db*"))
        assert [status.job for status in keld.rebuild()] == ["labels"]


def test_a_home_that_is_no_utf8_is_refused_in_words(tmp_path: Path) -> None:
    """In a locale without UTF-8, any home with an accent is one."""
    with pytest.raises(InvalidJob, match=r"is no UTF-8 in this locale"):
        Keld(home=f"{tmp_path}/h\udcf6m\udce9")
