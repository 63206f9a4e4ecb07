"""Bill check: after every test with an emulator and a ledger, what the ledger says was paid is compared with the provider's bill.

The bill is computed from the provider's side (its own counts of tokens, at the price list), batch by batch, to the pico-dollar:

- a batch that was collected whole, and an orphan that was settled, cost what the bill says of that batch: not more, not less;
- so did all the requests of the fast lanes together, which have no batch;
- whatever else is on the bill is covered by what the ledger holds in reserve for it: its batch is one of the ledger's;
- what the ledger says of each job run, of its shards and orphans, and in the report of spend, adds up: paid, standard, reserved.

A test in which that cannot be so says why: `@pytest.mark.books_open("reason")`.  What a job run says of itself must add up all the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any

import pytest
import sqlalchemy as sa

from keld.emulator import BillEntry, Emulator
from keld.errors import KeldError
from keld.ledger import Candidate, JobRun, Ledger, Orphan, Shard, lookup
from keld.ledger.cost import CostLine, cost_lines, doubtful_usd
from keld.ledger.table import CANDIDATE, INTENT
from keld.price import Lane
from keld.state import State
from tests.support.ticket_job import entry_usd, list_rates

NOTHING = Decimal(0)


class BooksDisagree(AssertionError):
    """The ledger and the bill, or the ledger and itself."""


@dataclass
class Seen:
    """What one test opened."""

    ledgers: list[str] = field(default_factory=list)
    emulators: list[Emulator] = field(default_factory=list)
    bills: dict[int, list[BillEntry]] = field(default_factory=dict)  # of the emulators that were stopped meanwhile

    def bill(self) -> list[BillEntry]:
        """Everything that any of the emulators charged."""
        running = {id(emulator): emulator.bill() for emulator in self.emulators if emulator._running is not None}
        return [entry for entries in (self.bills | running).values() for entry in entries]


SEEN = Seen()


def watch(patch: pytest.MonkeyPatch) -> None:
    """From now on every emulator and every ledger that is opened in this process is noted in `SEEN`."""
    opened, started, stopped = Ledger.__init__, Emulator.start, Emulator.stop

    def open_(self: Ledger, url: str, **more: Any) -> None:
        opened(self, url, **more)
        if url not in SEEN.ledgers:
            SEEN.ledgers.append(url)

    def start(self: Emulator) -> Emulator:
        SEEN.emulators.append(started(self))
        return self

    def stop(self: Emulator) -> None:
        if self._running is not None:
            SEEN.bills[id(self)] = self.bill()
        stopped(self)

    patch.setattr(Ledger, "__init__", open_)
    patch.setattr(Emulator, "start", start)
    patch.setattr(Emulator, "stop", stop)


def forget() -> None:
    """What another test opened."""
    SEEN.ledgers, SEEN.emulators, SEEN.bills = [], [], {}


@dataclass
class Book:
    """One ledger, read."""

    runs: dict[str, JobRun]
    shards: dict[str, Shard]
    orphans: list[Orphan]
    candidates: list[Candidate]  # that are not told yet
    batches: dict[str, Shard]  # by every batch id that an intent of theirs led to
    cost_lines: list[CostLine]

    def owner(self, batch_id: str, entries: Sequence[BillEntry]) -> Shard | None:
        """The shard whose batch it is: by its id, or where a create's reply was lost, by what its rows carry."""
        return self.batches.get(batch_id) or self.shards.get((entries[0].custom_id or "")[:10])


class How(StrEnum):
    """How the books of a test stand."""

    CLOSED = "closed"  # what was paid is what was billed, to the pico-dollar
    COVERED = "covered"  # the bill may be higher, by no more than what is in reserve for it
    OPEN = "open"  # by declaration


def check(open_because: str | None = None) -> How | None:
    """How the books of this test stand; None where there is nothing to compare.

    Raises:
        BooksDisagree: the ledger and the bill, or the ledger and itself.
    """
    books = []
    for url in SEEN.ledgers:
        with suppress(KeldError, sa.exc.SQLAlchemyError), closing(Ledger(url)) as ledger:  # broken, or gone, by the test's own doing
            books.append(_read(ledger))
    for book in books:
        _check_sums(book)
    if not SEEN.emulators or not any(book.runs for book in books):
        return None
    if open_because is not None:
        return How.OPEN
    return How.CLOSED if all(_check_bill(SEEN.bill(), books)) else How.COVERED


def check_one(ledger: Ledger, bill: Iterable[BillEntry]) -> How:
    """How one ledger's books stand against one bill.

    Raises:
        BooksDisagree.
    """
    book = _read(ledger)
    _check_sums(book)
    return How.CLOSED if all(_check_bill(bill, [book])) else How.COVERED


def batches_of(ledger: Ledger) -> set[str]:
    """The batches that the ledger knows, as a bill has them: without resource names."""
    book = _read(ledger)
    return {batch_id.rpartition("/")[2] for batch_id in (*book.batches, *(orphan.batch_id for orphan in book.orphans))}


def _read(ledger: Ledger) -> Book:
    with ledger._db.read() as db:
        runs = {run.id: run for run in lookup.job_runs(db, lookup.JOB_RUNS)}
        shards = {shard.id: shard for shard in lookup.shards(db)}
        orphans = lookup.orphans(db)
        candidates = [Candidate(**row._mapping) for row in db.execute(sa.select(CANDIDATE).where(CANDIDATE.c.settled_at.is_(None)))]
        batches = {row.batch_id: shards[row.shard_id] for row in db.execute(sa.select(INTENT)) if row.batch_id}
        found = cost_lines(db)
    batches |= {shard.batch_id: shard for shard in shards.values() if shard.batch_id}
    return Book(runs, shards, orphans, candidates, batches, found)


# --- the ledger with itself -------------------------------------------------------------------------------------------

_RESERVING = {State.SUBMITTING, State.UNKNOWN, State.IN_PROGRESS, State.CANCELLING, State.ENDED, State.QUARANTINED}


def _check_sums(book: Book) -> None:
    """A job run's own money is that of its shards and orphans; and so says the spend report."""
    of_run: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for kind, found in (
        ("shards", book.shards.values()),
        ("orphans", book.orphans),
        ("candidates", book.candidates),
        ("cost_lines", book.cost_lines),
    ):
        for one in found:
            of_run[one.run_id][kind].append(one)
    for run in book.runs.values():
        shards, orphans, perhaps, ours = (of_run[run.id][kind] for kind in ("shards", "orphans", "candidates", "cost_lines"))
        held = [*map(reserved, shards), *(orphan.doubtful_usd if orphan.settled_at else orphan.worst_usd for orphan in orphans)]
        held += [candidate.worst_usd for candidate in perhaps]
        for what, own, parts, reported in (
            ("paid", run.spent_usd, [one.cost_usd for one in (*shards, *orphans)], [one.paid_usd for one in ours]),
            ("standard", run.standard_usd, [shard.standard_usd for shard in shards], [one.standard_usd for one in ours]),
            ("reserved", run.reserved_usd, held, [one.reserved_usd for one in ours]),
        ):
            for others, whose in ((parts, f"its shards and orphans {shards} {orphans}"), (reported, "its cost_lines")):
                total = sum((usd or NOTHING for usd in others), NOTHING)
                if own != total:
                    raise BooksDisagree(f"{run}: {what} ${own}, and by {whose} ${total}")


def reserved(shard: Shard) -> Decimal:
    """What a shard holds in reserve."""
    if shard.state is State.COLLECTED:
        return doubtful_usd(shard)
    return shard.worst_usd if shard.state in _RESERVING else NOTHING


# --- the ledger with the bill -----------------------------------------------------------------------------------------


def _check_bill(bill: Iterable[BillEntry], books: Sequence[Book]) -> Iterator[bool]:
    """Whether each batch, orphan and stretch that can be compared cost exactly what the bill says."""
    entries_of: dict[str | None, list[BillEntry]] = defaultdict(list)
    for entry in bill:
        entries_of[entry.batch_id].append(entry)
    yield _check_fast(entries_of.pop(None, []), books)
    for book in books:
        for orphan in book.orphans:
            named = orphan.batch_id if orphan.batch_id in entries_of else orphan.batch_id.rpartition("/")[2]  # a bill has no resource names
            billed = _billed(entries_of.pop(named, []), book, [book.shards[orphan.shard_id]])
            paid, more = (orphan.cost_usd or NOTHING, orphan.doubtful_usd) if orphan.settled_at else (NOTHING, orphan.worst_usd)
            yield _covers(paid, billed, more, f"the orphan {orphan.batch_id}")
        ours = {batch_id: shard for batch_id, entries in entries_of.items() if (shard := book.owner(batch_id or "", entries))}
        for shard in book.shards.values():
            if shard.lane == Lane.BATCH:
                entries = [entry for batch_id, owner in ours.items() if owner is shard for entry in entries_of.pop(batch_id)]
                paid = shard.cost_usd or NOTHING if shard.state is State.COLLECTED else NOTHING
                yield _covers(
                    paid, _billed(entries, book, [shard]), reserved(shard), f"{shard} {sorted({one.batch_id or '' for one in entries})}"
                )
    for batch_id, entries in entries_of.items():
        raise BooksDisagree(f"{len(entries)} rows of {batch_id} are on the bill, and are no ledger's: {entries[0].custom_id}, ...")


def _check_fast(entries: Sequence[BillEntry], books: Sequence[Book]) -> bool:
    """Requests of the fast lanes bear no id on the bill: they are compared together."""
    for book in books:
        shards = [shard for shard in book.shards.values() if shard.lane != Lane.BATCH]
        if shards:
            paid = sum((shard.cost_usd or NOTHING for shard in shards), NOTHING)
            held = sum((reserved(shard) for shard in shards), NOTHING)
            # No test has two ledgers with fast lanes: this one would not cover the other's.
            return _covers(paid, _billed(entries, book, shards), held, f"the fast lanes {shards}")
    if entries:
        raise BooksDisagree(f"{len(entries)} fast requests are on the bill, and no ledger knows of any")
    return True


def _billed(entries: Sequence[BillEntry], book: Book, shards: Sequence[Shard]) -> Decimal:
    """What these entries cost at the prices of the shards that they may be of."""
    total = NOTHING
    for entry in entries:
        shard = next((shard for shard in shards if entry.model.startswith(shard.model)), shards[0])
        run = book.runs[shard.run_id]
        found = list_rates(entry.provider, shard.model, Lane(entry.lane), run.created_at, run.terms.prices, shard.provider)
        assert found is not None, f"no price for {entry}"
        total += entry_usd(entry, found)
    return total


def _covers(paid: Decimal, billed: Decimal, at_most_more: Decimal, what: str) -> bool:
    """Whether what was paid is what was billed; where something is in doubt, the bill may be higher by what is in reserve for it."""
    if not paid <= billed <= paid + at_most_more:
        raise BooksDisagree(f"{what}: the ledger says ${paid} and at most ${at_most_more} more, the bill says ${billed}")
    return paid == billed
