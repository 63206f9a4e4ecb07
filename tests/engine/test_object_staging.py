"""Staging in a bucket, piece by piece: what a commit names, what a segment fences, what a lost folder costs, what `gc` removes."""

import asyncio
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from keld import Keld, Status
from keld.emulator import Emulator
from keld.errors import InvalidJob, LeaseLost, StagingError
from keld.ledger.object import name_objects
from keld.objects import Bucket
from keld.outcome import Outcome
from keld.price import Lane
from keld.providers.envelope import in_doubt_line
from keld.realtime import answers_in, run_realtime
from keld.realtime.journal_segments import JournalSegments
from keld.request import custom_id
from keld.retention import removable, remove
from keld.stored import Segments, Store
from tests.support.realtime_rows import NONCE, Rows
from tests.support.ticket_job import openai, outcomes, tickets, triage

BUCKET = "s3://staging/keld"


@pytest.fixture
def keld(open_keld: Callable[..., Keld]) -> Keld:
    return open_keld(staging=BUCKET)


@pytest.fixture
def store(emulator: Emulator, tmp_path: Path) -> Iterator[Store]:
    """A worker's, upon a ledger that names nothing."""
    made = Store(Bucket.at(BUCKET), lambda run_id: {}, lambda silent_s: None, tmp_path)
    yield made
    made.close()


@pytest.fixture
def segments(store: Store) -> Segments:
    return store.run("0" * 32).segments(NONCE)


@pytest.fixture
def rows(emulator: Emulator, tmp_path: Path) -> Rows:
    return Rows(peer=openai, folder=str(tmp_path))


@pytest.fixture
def open_journal(rows: Rows, segments: Segments) -> Callable[[], JournalSegments]:
    """Opens the journal of one shard, each time as another worker."""
    return lambda: JournalSegments(segments, NONCE, rows.reader.journal)


def line(position: int) -> bytes:
    return in_doubt_line(custom_id(NONCE, position), "no reply")


def puts(emulator: Emulator) -> int:
    return sum(call.method == "PUT" for call in emulator.requests() if call.path.startswith("/s3"))


def follow(keld: Keld, emulator: Emulator, run_id: str) -> Status:
    while not (status := keld.advance(run_id)).over:
        emulator.advance(timedelta(seconds=60))
    return status


# --- the journal ----------------------------------------------------------------------------------------------------------


def test_rows_are_asked_through_segments_and_never_again(rows: Rows, segments: Segments, emulator: Emulator) -> None:
    for _ in range(2):
        ended = run_realtime(rows.provider, rows.encoder, rows.reader, Lane.STANDARD, NONCE, rows.positions, rows.fragments, segments)
        assert (ended.answered, len(ended.undone), ended.in_doubt) == (6, 0, 0)
    assert len(emulator.bill()) == 6
    assert len(rows.reader.journal(answers_in(segments).read_bytes())) == 6


def test_a_worker_that_was_taken_over_does_not_send(open_journal: Callable[[], JournalSegments]) -> None:
    """Its mark comes before its request, and finds its number taken."""
    stale, successor = open_journal(), open_journal()
    with pytest.raises(LeaseLost, match="taken over"):
        asyncio.run(stale.sending(1))
    asyncio.run(successor.sending(1))
    with pytest.raises(LeaseLost):
        asyncio.run(stale.keep({2: line(2)}, Outcome.LOST))


def test_a_worker_that_was_taken_over_is_fenced_even_when_the_job_run_is_over(keld: Keld, emulator: Emulator, rows: Rows) -> None:
    """Were the segments removed with it, its next number would be free."""
    status = keld.submit(triage(openai, lane="standard"), tickets(3))
    (shard,) = keld.ledger.shards(status.id)
    run = keld.staging.run(status.id)
    journal = run.shard(shard.id).journal
    assert isinstance(journal, Segments)
    stale = JournalSegments(journal, shard.id, rows.reader.journal)
    assert follow(keld, emulator, status.id).answered == 3
    with pytest.raises(LeaseLost):
        asyncio.run(stale.sending(1))


def test_a_mark_is_durable_before_its_request(open_journal: Callable[[], JournalSegments]) -> None:
    """Nothing of this machine is left after it is lost."""

    async def work() -> None:
        journal = open_journal()
        await journal.sending(1, 2)
        await journal.sending(3)
        journal.not_done(3)
        await journal.keep({1: line(1)}, Outcome.LOST)

    asyncio.run(work())
    assert open_journal().left_open == [2]


def test_a_lost_reply_makes_no_line_twice(open_journal: Callable[[], JournalSegments], segments: Segments, emulator: Emulator) -> None:
    """The PUT took effect, no retry was heard, and the next group begins with the same lines."""

    async def work() -> None:
        journal = open_journal()
        emulator.faults({"rules": [{"at": "upload", "do": "drop_after"}, {"at": "upload", "do": "drop_before", "skip": 1, "times": None}]})
        with pytest.raises(StagingError):
            await journal.keep({1: line(1)}, Outcome.LOST)
        emulator.clear_faults()
        await journal.keep({2: line(2)}, Outcome.LOST)
        await journal.keep({3: line(3)}, Outcome.LOST)

    asyncio.run(work())
    assert answers_in(segments).read_bytes() == line(1) + line(2) + line(3)


def test_lines_of_a_time_share_a_put(open_journal: Callable[[], JournalSegments], emulator: Emulator) -> None:
    async def work() -> None:
        journal = open_journal()
        before = puts(emulator)
        await asyncio.gather(*(journal.keep({n: line(n)}, Outcome.LOST) for n in range(200)))
        assert puts(emulator) - before <= 3

    asyncio.run(work())
    assert len(open_journal().settled) == 200


def test_two_openers_at_once_leave_one_writer(open_journal: Callable[[], JournalSegments], segments: Segments) -> None:
    """The number that one wanted for its fence is taken: it reads what is there, and takes the next."""
    first = open_journal()
    created, taken = segments.create, []

    def late(n: int, data: bytes) -> bool:
        if not taken:
            taken.append(n)
            created(n, b'{"writer": "another", "n": %d}\n+4\n' % n)
        return created(n, data)

    segments.create = late  # type: ignore[method-assign]  # another opener, between our list and our fence
    second = open_journal()
    assert second.left_open == [4]
    with pytest.raises(LeaseLost):
        asyncio.run(first.sending(1))


# --- files ----------------------------------------------------------------------------------------------------------------


def test_what_no_commit_names_does_not_exist(keld: Keld, open_keld: Callable[..., Keld], emulator: Emulator) -> None:
    """A worker that lost its lease between the upload and the commit leaves an object that nobody reads."""
    status = keld.submit(triage(openai), tickets(3))
    files = keld.staging.run(status.id)
    files.stopped.write_bytes(b"never recorded")
    files.keep(files.stopped)
    assert not keld.staging.run(status.id).stopped.exists()
    other = open_keld(staging=BUCKET)
    assert not other.staging.run(status.id).stopped.exists()
    assert other.staging.run(status.id).question.exists()
    assert other.staging.root != keld.staging.root


def test_local_files_may_vanish_at_any_time(keld: Keld, emulator: Emulator) -> None:
    status = keld.submit(triage(openai, max_shard_rows=2), tickets(6))
    while not status.over:
        shutil.rmtree(keld.staging.root, ignore_errors=True)
        status = keld.advance(status.id)
        emulator.advance(timedelta(seconds=60))
    shutil.rmtree(keld.staging.root)
    assert outcomes(keld, status) == ["answered"] * 6
    assert len(emulator.bill()) == 6


def test_an_object_that_somebody_changed_is_not_read(keld: Keld, open_keld: Callable[..., Keld]) -> None:
    status = keld.submit(triage(openai), tickets(3))
    (named,) = (one.object for name, one in keld.ledger.objects.of(status.id).items() if name == "question.json")
    Bucket.at(BUCKET).put(named, b"{}")
    with pytest.raises(StagingError, match="is not what the ledger says it is"):
        open_keld(staging=BUCKET).staging.run(status.id).question  # noqa: B018  the path is fetched as it is asked for


def test_a_bucket_that_cannot_be_written_is_told_before_anything_is_sent(keld: Keld, emulator: Emulator) -> None:
    emulator.faults({"rules": [{"at": "upload", "do": "status", "status": 403, "times": None, "match": {"provider": "s3"}}]})
    with pytest.raises(
        StagingError, match=r"Staging at s3://staging/keld/.*: the credentials do not allow this. Nothing of this step was rec"
    ):
        keld.submit(triage(openai), tickets(3))
    assert emulator.batches() == []
    assert keld.statuses() == []
    emulator.clear_faults()
    assert follow(keld, emulator, keld.submit(triage(openai), tickets(3)).id).answered == 3


def test_a_bucket_in_another_region_is_told_before_anything_is_sent(keld: Keld, emulator: Emulator) -> None:
    """S3 redirects without saying where to."""
    emulator.faults({"rules": [{"at": "upload", "do": "status", "status": 301, "times": None, "match": {"provider": "s3"}}]})
    with pytest.raises(
        StagingError,
        match=r"the bucket is in another region than the one that is set. Nothing .* Set AWS_REGION to the region of the bucket",
    ):
        keld.submit(triage(openai), tickets(3))
    assert (emulator.batches(), keld.statuses()) == ([], [])


def test_an_earlier_generation_in_the_bucket_is_reused(keld: Keld, open_keld: Callable[..., Keld], emulator: Emulator) -> None:
    """By another worker, which has none of its files."""
    follow(keld, emulator, keld.submit(triage(openai), tickets(6)).id)
    other = open_keld(staging=BUCKET)
    status = follow(other, emulator, other.submit(triage(openai), tickets(6, changed=[0])).id)
    assert outcomes(other, status) == ["answered"] * 6
    assert len(emulator.bill()) == 7


def test_only_a_bucket_can_be_named() -> None:
    with pytest.raises(InvalidJob, match="is no bucket"):
        Keld(staging="/mnt/keld")


# --- removal --------------------------------------------------------------------------------------------------------------


def names() -> list[str]:
    return list(Bucket.at(BUCKET).names())


def test_gc_removes_what_the_ledger_does_not_name_after_a_day(keld: Keld, emulator: Emulator) -> None:
    status = follow(keld, emulator, keld.submit(triage(openai, lane="standard"), tickets(3)).id)
    files, before = keld.staging.run(status.id), names()
    files.stopped.write_bytes(b"never recorded")
    files.keep(files.stopped)
    assert keld.gc() == []
    emulator.advance(timedelta(days=1, minutes=1))
    (removal,) = keld.gc()
    assert (removal.leftover, removal.size_bytes) == (True, len(b"never recorded"))
    assert names() == before
    assert any("/j/" in name for name in before)
    assert outcomes(keld, status) == ["answered"] * 3


def test_gc_removes_a_job_run_that_ended_long_ago(keld: Keld, emulator: Emulator) -> None:
    status = follow(keld, emulator, keld.submit(triage(openai, lane="standard"), tickets(3)).id)
    Bucket.at(BUCKET).put("f" * 32 + "/question.json.1", b"of another ledger")
    emulator.advance(timedelta(days=31))
    removals = keld.gc()
    assert [(one.run_id, one.known) for one in removals] == [(status.id, True), ("f" * 32, False)]
    assert names() == ["f" * 32 + "/question.json.1"]
    assert keld.ledger.objects.of(status.id) == {}
    with pytest.raises(StagingError, match="were removed by `keld gc`"):
        keld.read(status.id)


def test_gc_keeps_what_was_recorded_after_it_was_listed(keld: Keld, emulator: Emulator) -> None:
    """A writer that stood still for a day, with its lease, records its object between the list of `gc` and the removal."""
    status = follow(keld, emulator, keld.submit(triage(openai, lane="standard"), tickets(3)).id)
    files = keld.staging.run(status.id)
    files.stopped.write_bytes(b"recorded late")
    files.keep(files.stopped)
    emulator.advance(timedelta(days=1, minutes=1))
    now = emulator.now()
    (listed,) = [one for one in removable(keld.ledger, keld.staging, now - timedelta(days=30), now) if one.leftover]
    with files.naming() as objects, keld.ledger._db.write() as db:
        name_objects(db, status.id, objects)
    assert remove(keld.ledger, keld.staging, listed, now)
    assert set(listed.leftovers) <= set(names())
