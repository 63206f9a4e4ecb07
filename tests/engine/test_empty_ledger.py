"""A ledger that is not there yet: a question leaves no file, and who has asked sees the job runs that are made later, and pays once."""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

import pytest
import sqlalchemy as sa

from keld import InvalidJob, Job, Keld, LedgerError
from keld.ledger import database, is_missing, nonce

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


def test_a_question_makes_no_tables_in_an_empty_postgres(home: Path, postgres: Callable[[], str]) -> None:
    url = postgres()
    with Keld(home=home, ledger_url=url) as keld, Keld(home=home, ledger_url=url) as working:
        assert (keld.statuses(), keld.find("labels"), keld.poll(), keld.namespaces(), keld.spend().lines) == ([], None, [], {}, ())
        assert "the first job run makes it" in keld.doctor("openai")[0].finding
        assert is_missing(url)
        sent = working.submit(JOB, ROWS)
        assert [status.id for status in keld.poll()] == [sent.id]


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A directory for a home that `_asked` may only read; the tests' own is closed to other users."""
    shared = Path(mkdtemp(prefix="keld-read-only-"))
    shared.chmod(0o755)
    yield shared
    for path in (shared, *shared.rglob("*")):
        path.chmod(0o755)
    rmtree(shared)


def _asked(home: Path) -> tuple[list[int], int, str]:
    """What a process sees that may read a home and not write to it; root becomes nobody, as rights do not bind it."""
    if os.geteuid() == 0:
        os.seteuid(65_534)
    with Keld(home=home) as keld:
        found = keld.statuses()
        try:
            keld.cancel(found[0].id)
        except LedgerError as refused:
            return [status.answered for status in found], keld.spend().total.rows, str(refused)
    raise AssertionError("it wrote")


def test_who_may_only_read_a_ledger_can_ask(home: Path, read_only: Path) -> None:
    """SQLite alone would make the files of its log beside it, and fail."""
    with Keld(home=read_only) as keld:
        keld.run(JOB, ROWS, poll_s=0.01)
        assert keld.spend().total.rows == 1
    for path in (read_only, *read_only.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    there = sorted(read_only.rglob("*"))
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as others:
        answered, rows, refused = others.submit(_asked, read_only).result()
    assert (answered, rows) == ([1], 1)
    assert "readonly" in refused
    assert sorted(read_only.rglob("*")) == there


def test_a_ledger_that_is_written_while_its_reader_copies_it_is_copied_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a reader who may not write would see some pages from before a checkpoint and some from after it: one in 80 did, beside a busy writer."""
    with Keld(home=home) as keld:
        keld.run(JOB, ROWS, poll_s=0.01)
    fstat = os.fstat
    looks: list[os.stat_result] = []

    def written_behind(file: int) -> os.stat_result:
        found = fstat(file)
        if not looks:
            with closing(sqlite3.connect(home / "ledger.db")) as writer, writer:
                writer.execute("UPDATE keld_job_run SET job = 'another'")
        looks.append(found)
        return found

    monkeypatch.setattr(database, "_may_write", lambda path: False)
    monkeypatch.setattr(os, "fstat", written_behind)
    with Keld(home=home) as asking:
        assert [status.job for status in asking.statuses()] == ["another"]
    assert looks[1].st_mtime_ns > looks[0].st_mtime_ns


def test_a_ledger_that_is_written_without_end_is_told_and_not_copied_without_end(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Keld(home=home) as keld:
        keld.run(JOB, ROWS, poll_s=0.01)
    fstat, ledger = os.fstat, home / "ledger.db"

    def written_behind(file: int) -> os.stat_result:
        found = fstat(file)
        os.utime(ledger, ns=(found.st_atime_ns, found.st_mtime_ns + 1_000))
        return found

    monkeypatch.setattr(database, "_may_write", lambda path: False)
    monkeypatch.setattr(os, "fstat", written_behind)
    with Keld(home=home) as asking, pytest.raises(LedgerError, match="run the same command again"):
        asking.statuses()


@pytest.mark.books_open("it is one ledger by two URLs, whose books would be compared with one bill")
def test_a_role_that_may_only_read_a_postgres_can_ask(home: Path, postgres: Callable[[], str]) -> None:
    url, role = sa.make_url(postgres()), f"reader_{nonce()}"
    with Keld(home=home, ledger_url=url.render_as_string(hide_password=False)) as keld:
        sent = keld.submit(JOB, ROWS)
    engine = sa.create_engine(url.set(drivername="postgresql+psycopg"))
    with engine.begin() as db:
        db.execute(sa.text(f"CREATE ROLE {role} LOGIN"))
        db.execute(sa.text(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"))
    engine.dispose()
    with Keld(home=home, ledger_url=url.set(username=role).render_as_string(hide_password=False)) as keld:
        assert [status.id for status in keld.statuses()] == [sent.id]
        with pytest.raises(LedgerError, match="permission denied"):
            keld.cancel(sent.id)


@pytest.mark.books_open("it is one ledger by two URLs, whose books would be compared with one bill")
def test_who_may_only_read_a_ledger_sees_what_is_written_meanwhile(home: Path) -> None:
    """A worker has it open: its log is read, too.  Opened as SQLite's URL says, since these are rights that root lacks as well."""
    with Keld(home=home) as working:
        sent = working.submit(JOB, ROWS)
        with Keld(home=home, ledger_url=f"sqlite:///file:{home}/ledger.db?mode=ro&uri=true") as keld:
            assert not keld.status(sent.id).over
            working.finish(sent.id, poll_s=0.01)
            assert keld.status(sent.id).over


def test_a_question_waits_for_no_writer(home: Path) -> None:
    with Keld(home=home) as working:
        working.submit(JOB, ROWS)
        with closing(sqlite3.connect(home / "ledger.db", isolation_level=None)) as writer, Keld(home=home) as keld:
            writer.execute("BEGIN IMMEDIATE")
            began = time.monotonic()
            assert len(keld.statuses()) == 1
            assert time.monotonic() - began < 20


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
