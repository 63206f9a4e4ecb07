"""The witness: a ledger that was lost, or is older than what was sent, is noticed before a cent is paid twice, and rebuilt."""

import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from keld import Keld, Settings
from keld.cli import app
from keld.emulator import Emulator
from keld.errors import LedgerError, StagingError
from keld.ledger import Ledger
from keld.state import Event, RunState, State
from tests.support.ticket_job import Peer, anthropic, creates, fault, finish, openai, outcomes, purchases, tickets, triage

Open = Callable[..., Keld]
EVERY_ROW_ONCE = Counter(dict.fromkeys(range(6), 1))
BUCKET = "s3://staging/keld"


def file_of(keld: Keld) -> Path:
    return Path(keld.ledger_url.removeprefix("sqlite:///"))


def delete(keld: Keld) -> None:
    keld.close()
    for path in file_of(keld).parent.glob(f"{file_of(keld).name}*"):
        path.unlink()


def empty(keld: Keld) -> None:
    """As a person may who thinks that it is only a cache."""
    keld.close()
    with sqlite3.connect(file_of(keld)) as db:
        for table in ("keld_event", "keld_intent", "keld_shard", "keld_job_run"):
            db.execute(f"DELETE FROM {table}")


def snapshot(keld: Keld) -> Callable[[], None]:
    """A backup of the ledger; what is given back restores it."""
    copy = file_of(keld).with_suffix(".backup")
    with sqlite3.connect(file_of(keld)) as db, sqlite3.connect(copy) as into:
        db.backup(into)

    def restore() -> None:
        delete(keld)
        shutil.copy(copy, file_of(keld))

    return restore


def send(keld: Keld, peer: Peer, *, partition: str | None = None, **terms: object) -> str:
    status = keld.submit(triage(peer, max_shard_rows=3, **terms), tickets(), partition=partition)
    assert keld.advance(status.id).sent
    return status.id


@pytest.mark.parametrize("lose", [delete, empty], ids=["deleted", "emptied"])
def test_a_ledger_that_was_lost_is_refused_and_rebuilt_from_staging(
    open_keld: Open, emulator: Emulator, peer: Peer, lose: Callable[[Keld], None]
) -> None:
    """To the ledger alone it would look like a partition that nobody ever asked."""
    keld = open_keld()
    run_id = send(keld, peer)
    was = keld.status(run_id)
    lose(keld)
    verbs: list[Callable[[Keld], object]] = [lambda k: k.submit(triage(peer), tickets()), Keld.statuses, Keld.poll]
    for verb in verbs:
        with pytest.raises(LedgerError, match=r"lost 1 job runs .* triage\[\]\. .*from-staging"):
            verb(open_keld())
    again = open_keld()
    [rebuilt] = again.rebuild()
    assert (rebuilt.id, rebuilt.batches, rebuilt.reserved_usd) == (run_id, was.batches, was.reserved_usd)
    assert again.rebuild() == []
    assert finish(again, emulator, run_id).answered == 6
    assert purchases(emulator) == EVERY_ROW_ONCE


def test_whose_job_it_is_and_what_is_declared_otherwise_since_survive_the_loss_of_the_ledger(open_keld: Open, emulator: Emulator) -> None:
    """Else the owner of before could send again, and the one who took the job over would be refused."""
    keld = open_keld()
    run_id = send(keld, openai)
    keld.hand_over("triage", "their-repository")
    keld.ledger.catalog.note_outdated(run_id, "the prompt")
    delete(keld)
    again = open_keld()
    assert [status.id for status in again.rebuild()] == [run_id]
    run = again.ledger.run(run_id)
    assert (run.owner, run.outdated) == ("their-repository", "the prompt")


@pytest.mark.parametrize("sent", ["before", "after"])
def test_a_ledger_of_yesterday_sends_nothing_that_was_sent_since(open_keld: Open, emulator: Emulator, peer: Peer, sent: str) -> None:
    keld = open_keld()
    if sent == "before":
        fault(emulator, "life", "expire", done=0.5, after_s=100)
        run_id = send(keld, peer)
        restore = snapshot(keld)  # and then a second round is sent
        emulator.advance(200)
        while not any(batch.round and batch.batch_id for batch in keld.advance(run_id).batches):
            emulator.advance(10)
    else:
        run_id = keld.submit(triage(peer, max_shard_rows=3), tickets()).id
        restore = snapshot(keld)
        keld.advance(run_id)
    sent_by_now = len(creates(emulator, peer))
    restore()
    again = open_keld()
    with pytest.raises(LedgerError, match=r"older than staging: of triage\[\] \d .*from-staging"):
        again.submit(triage(peer, max_shard_rows=3), tickets(changed=[0]))
    with pytest.raises(LedgerError, match="older than staging"):
        finish(again, emulator, run_id)
    assert len(creates(emulator, peer)) == sent_by_now
    assert [status.id for status in again.rebuild()] == [run_id]
    assert finish(again, emulator, run_id).answered == 6
    assert purchases(emulator) == EVERY_ROW_ONCE


def test_a_ledger_that_is_restored_while_a_worker_holds_the_job_run_lets_it_send_no_shard_again(
    open_keld: Open, emulator: Emulator
) -> None:
    """The lease is in the backup, too, so it still counts; what was sent under it is compared shard by shard."""
    keld, now = open_keld(), emulator.now()
    run_id = keld.submit(triage(openai, max_shard_rows=3), tickets()).id
    ledger = keld.ledger
    lease = ledger.leases.claim(run_id, "a worker", now)
    assert lease is not None
    first, second = (ledger.record(lease, shard, Event.STAGED, now) for shard in ledger.shards(run_id))
    copy = file_of(keld).with_suffix(".backup")
    with sqlite3.connect(file_of(keld)) as db, sqlite3.connect(copy) as into:
        db.backup(into)
    for shard in (first, second):
        ledger.record_intent(lease, shard, now)
    with sqlite3.connect(copy) as db, sqlite3.connect(file_of(keld)) as into:
        db.backup(into)
    for shard in ledger.shards(run_id):
        with pytest.raises(LedgerError, match=r"older than staging: of .* 1 shards were sent"):
            ledger.record_intent(lease, shard, now)


@pytest.mark.parametrize("point", ["create.send", "create.received", "ledger.created.after"])
def test_what_was_in_doubt_when_the_ledger_was_lost_is_looked_for(
    open_keld: Open, emulator: Emulator, peer: Peer, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """The line of the intent is durable before the create is sent; a later one may be missing."""
    keld = open_keld()
    run_id = keld.submit(triage(peer), tickets()).id
    monkeypatch.setenv("KELD_FAILPOINT", f"{point}:raise")
    monkeypatch.setattr("keld.failpoint._passes", Counter())
    with pytest.raises(RuntimeError):
        keld.advance(run_id)
    monkeypatch.delenv("KELD_FAILPOINT")
    delete(keld)
    again = open_keld()
    [rebuilt] = again.rebuild()
    assert [batch.state for batch in rebuilt.batches] == [State.SUBMITTING]
    assert finish(again, emulator, run_id).answered == 6
    assert purchases(emulator) == EVERY_ROW_ONCE


def test_what_was_paid_and_what_must_not_be_asked_again_comes_back(open_keld: Open, emulator: Emulator) -> None:
    keld = open_keld(settings=Settings(resend_unfenced=False))
    fault(emulator, "create", "drop_before")
    done = finish(keld, emulator, send(keld, anthropic))
    assert (done.quarantined, done.answered) == (3, 3)
    delete(keld)
    with pytest.raises(LedgerError, match="rows that must not be asked again"):
        open_keld().statuses()
    again = open_keld()
    [rebuilt] = again.rebuild()
    told = ("state", "answered", "quarantined", "cost_usd", "reserved_usd", "standard_usd", "outcomes")
    assert [getattr(rebuilt, name) for name in told] == [getattr(done, name) for name in told]
    assert again.submit(triage(anthropic, max_shard_rows=3), tickets()).id == done.id
    assert len(creates(emulator, anthropic)) == 2


def test_another_ledger_over_the_same_staging_lost_nothing(open_keld: Open, emulator: Emulator, tmp_path: Path) -> None:
    """It never had it; and what is over and settled is asked of no ledger."""
    keld = open_keld()
    run_id = send(keld, openai)
    other = open_keld(ledger_url=f"sqlite:///{tmp_path / 'other.db'}")
    assert (other.statuses(), other.rebuild()) == ([], [])
    assert finish(keld, emulator, run_id).state is RunState.FINISHED
    delete(keld)
    assert open_keld().statuses() == []
    assert [status.answered for status in open_keld().rebuild()] == [6]


@pytest.mark.parametrize("staging", [None, BUCKET], ids=["directory", "bucket"])
def test_a_ledger_that_moved_to_another_address_pays_for_nothing_again(
    open_keld: Open, emulator: Emulator, postgres: Callable[[], str], staging: str | None
) -> None:
    """From the SQLite file of the tutorial to a Postgres: its partition was out, was unknown there, and was bought twice."""
    before = open_keld(staging=staging)
    done = send(before, openai, partition="monday")
    assert finish(before, emulator, done).answered == 6
    out = send(before, openai, partition="tuesday")
    before.close()
    url = postgres()
    for _ in range(2):
        with pytest.raises(LedgerError, match=r"of a ledger at another address: triage\[tuesday\]\..*from-staging --moved"):
            open_keld(ledger_url=url, staging=staging).submit(triage(openai), tickets(), partition="tuesday")
    assert open_keld(ledger_url=url, staging=staging).rebuild() == []
    assert {one.id for one in open_keld(ledger_url=url, staging=staging).rebuild(moved=True)} == {done, out}
    after = open_keld(ledger_url=url, staging=staging)
    assert after.submit(triage(openai), tickets(), partition="monday").id == done
    assert after.submit(triage(openai), tickets(), partition="tuesday").id == out
    assert finish(after, emulator, out).answered == 6
    assert purchases(emulator) == dict.fromkeys(EVERY_ROW_ONCE, 2)  # of each of the two partitions
    assert after.spend().total.paid_usd == sum(status.cost_usd for status in after.statuses())
    assert open_keld(ledger_url=url, staging=staging).rebuild(moved=True) == []


def test_a_backup_that_is_restored_at_another_address_sends_nothing_that_was_sent_since(
    open_keld: Open, emulator: Emulator, tmp_path: Path
) -> None:
    """A managed Postgres is restored under a new name; what was submitted after the backup is not in it."""
    keld = open_keld()
    send(keld, openai, partition="monday")
    keld.close()
    shutil.copy(tmp_path / "ledger.db", tmp_path / "restored.db")
    out = send(open_keld(), openai, partition="tuesday")
    restored = open_keld(ledger_url=f"sqlite:///{tmp_path / 'restored.db'}")
    assert [status.partition for status in restored.statuses()] == ["monday"]  # who only looks is not refused
    with pytest.raises(LedgerError, match=r"triage\[tuesday\]\..*from-staging --moved"):
        restored.submit(triage(openai), tickets(), partition="wednesday")
    assert [status.id for status in restored.rebuild(moved=True)] == [out]
    assert finish(open_keld(ledger_url=restored.ledger_url), emulator, out).answered == 6
    assert restored.submit(triage(openai), tickets(), partition="wednesday").partition == "wednesday"


def test_the_command_that_the_refusal_names_rebuilds(open_keld: Open, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    keld = open_keld()
    send(keld, openai)
    delete(keld)
    monkeypatch.setenv("KELD_HOME", str(keld.home))
    monkeypatch.setenv("KELD_LEDGER_URL", keld.ledger_url)
    refused = CliRunner().invoke(app, ["status"])
    assert refused.exit_code == 1
    assert "keld reconcile --from-staging" in refused.output
    assert "triage" in CliRunner().invoke(app, ["reconcile", "--from-staging"]).output
    assert "triage" in CliRunner().invoke(app, ["status"]).output


def test_a_line_that_a_crash_cut_off_spoils_no_other(open_keld: Open, emulator: Emulator) -> None:
    keld = open_keld()
    run_id = send(keld, openai)
    record = keld.staging.run(run_id).record
    with record.open("ab") as file:
        file.write(b'\n{"ledger":"')
    finish(keld, emulator, run_id)
    delete(keld)
    [rebuilt] = open_keld().rebuild()
    assert (rebuilt.state, rebuilt.answered) == (RunState.FINISHED, 6)


def test_a_line_of_which_the_disk_takes_a_part_only_is_told_as_not_kept(tmp_path: Path) -> None:
    """A call that writes a part says so by a number only: the line of an intent would be thought durable, and its create be sent."""
    fits_a_part = f"""
import os, resource, signal
from keld.ledger.witness_file import _write
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    _write(os.open({str(tmp_path / "ledger.jsonl")!r}, os.O_WRONLY | os.O_CREAT), b"x" * 150)
except OSError as error:
    print("told")
"""
    assert subprocess.run([sys.executable, "-c", fits_a_part], capture_output=True, text=True, check=True).stdout == "told\n"


@pytest.mark.parametrize("lose", [delete, empty], ids=["deleted", "emptied"])
def test_a_ledger_that_was_lost_is_refused_and_rebuilt_from_a_bucket(
    open_keld: Open, emulator: Emulator, peer: Peer, lose: Callable[[Keld], None]
) -> None:
    """By a worker that has no file of the first one, and needs the names of its objects, too."""
    keld = open_keld(staging=BUCKET)
    run_id = send(keld, peer)
    was = keld.status(run_id)
    lose(keld)
    for verb in (lambda k: k.submit(triage(peer), tickets()), Keld.statuses, Keld.poll):
        with pytest.raises(LedgerError, match=r"lost 1 job runs .* triage\[\]\. .*from-staging"):
            verb(open_keld(staging=BUCKET))
    again = open_keld(staging=BUCKET)
    [rebuilt] = again.rebuild()
    assert (rebuilt.id, rebuilt.batches, rebuilt.reserved_usd) == (run_id, was.batches, was.reserved_usd)
    assert again.rebuild() == []
    done = finish(again, emulator, run_id)
    assert outcomes(again, done) == ["answered"] * 6
    assert purchases(emulator) == EVERY_ROW_ONCE
    delete(again)
    assert open_keld(staging=BUCKET).statuses() == []  # what is over and settled is asked of no ledger


def test_a_worker_without_rights_in_the_bucket_sees_the_ledger_and_opens_no_job_run(open_keld: Open, emulator: Emulator) -> None:
    """As a scheduler or a web server; whatever the ledger has lost, nothing is sent before the bucket could be asked."""
    keld = open_keld(staging=BUCKET)
    send(keld, openai)
    delete(keld)
    emulator.faults({"rules": [{"at": "list", "do": "status", "status": 403, "times": None, "match": {"provider": "s3"}}]})
    again = open_keld(staging=BUCKET)
    assert again.statuses() == []
    with pytest.raises(StagingError, match="Give this worker's identity the right to read, write, list and delete there"):
        again.submit(triage(openai, max_shard_rows=3), tickets())
    emulator.clear_faults()
    with pytest.raises(LedgerError, match="lost 1 job runs"):
        again.submit(triage(openai, max_shard_rows=3), tickets())
    assert len(creates(emulator, openai)) == 2


@pytest.mark.parametrize("sent", ["before", "after"])
def test_a_ledger_of_yesterday_sends_nothing_that_was_sent_from_a_bucket_since(
    open_keld: Open, emulator: Emulator, peer: Peer, sent: str
) -> None:
    keld = open_keld(staging=BUCKET)
    if sent == "before":
        fault(emulator, "life", "expire", done=0.5, after_s=100)
        run_id = send(keld, peer)
        restore = snapshot(keld)  # and then a second round is sent
        emulator.advance(200)
        while not any(batch.round and batch.batch_id for batch in keld.advance(run_id).batches):
            emulator.advance(10)
    else:
        run_id = keld.submit(triage(peer, max_shard_rows=3), tickets()).id
        restore = snapshot(keld)
        keld.advance(run_id)
    sent_by_now = len(creates(emulator, peer))
    restore()
    again = open_keld(staging=BUCKET)
    with pytest.raises(LedgerError, match="older than staging"):
        finish(again, emulator, run_id)
    assert len(creates(emulator, peer)) == sent_by_now
    assert [status.id for status in again.rebuild()] == [run_id]
    assert finish(again, emulator, run_id).answered == 6
    assert purchases(emulator) == EVERY_ROW_ONCE


def test_a_bucket_has_the_lines_of_every_worker_in_the_order_in_which_they_were_written(open_keld: Open, emulator: Emulator) -> None:
    """An object cannot be appended to, and one worker must not replace the lines of another."""
    run_id = send(open_keld(staging=BUCKET), openai)
    for _ in range(3):  # the first of them only looks
        emulator.advance(60)
        last = open_keld(staging=BUCKET)
        last.advance(run_id)
    memory = open_keld(staging=BUCKET).ledger.recovery.memories()[0]
    assert memory.shards == {shard.id: shard for shard in last.ledger.shards(run_id)}
    assert memory.names == last.ledger.objects.of(run_id)
    assert memory.run is not None
    assert (memory.run.state, memory.run.answered) == (RunState.FINISHED, 6)


def test_a_postgres_that_was_emptied_is_noticed(open_keld: Open, emulator: Emulator, postgres: Callable[[], str]) -> None:
    import sqlalchemy as sa

    url = postgres()
    keld = open_keld(ledger_url=url)
    run_id = send(keld, openai)
    keld.close()
    engine = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"))
    with engine.begin() as db:
        db.execute(sa.text("TRUNCATE keld_job_run, keld_shard, keld_intent, keld_event, keld_attachment"))
    engine.dispose()
    again = open_keld(ledger_url=url)
    with pytest.raises(LedgerError, match="lost 1 job runs"):
        again.statuses()
    assert [status.id for status in again.rebuild()] == [run_id]
    assert finish(again, emulator, run_id).answered == 6
    assert Ledger(url).recovery.forgotten() == []
