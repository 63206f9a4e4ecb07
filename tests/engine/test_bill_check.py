"""The comparison of ledger and bill can fail: a difference of a pico-dollar, an unknown batch and a forgotten reservation are each found."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from keld import Keld
from keld.emulator import Emulator
from keld.ledger.table import INTENT, ORPHAN, RUN, SHARD
from tests.engine.test_orphan import bought_late, sweep
from tests.support import bill_check
from tests.support.ticket_job import Peer, fault, openai, run, tickets, triage

pytestmark = pytest.mark.by_turns

PICO = 1


@contextmanager
def forged(keld: Keld, *changes: Any) -> Iterator[None]:
    """The ledger with something changed behind its back; as it was, afterwards."""
    kept = {table: [] for table in (RUN, SHARD, INTENT, ORPHAN)}
    with keld.ledger._db.write() as db:
        for table, rows in kept.items():
            rows += [dict(row._mapping) for row in db.execute(sa.select(table))]
        for change in changes:
            db.execute(change)
    yield
    with keld.ledger._db.write() as db:
        for table in reversed(kept):
            db.execute(sa.delete(table))
        for table, rows in kept.items():
            if rows:
                db.execute(sa.insert(table), rows)


def more(table: sa.Table, *columns: str, pico: int = PICO) -> sa.Update:
    """So many pico-dollars more in these columns of every row."""
    return sa.update(table).values({name: sa.type_coerce(table.c[name], sa.BigInteger) + pico for name in columns})


def test_where_all_is_as_it_should_be_they_are_closed(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    run(keld, emulator, triage(peer))
    assert bill_check.check() is bill_check.How.CLOSED


def test_while_something_is_under_way_the_bill_is_covered_by_what_is_reserved(keld: Keld, emulator: Emulator) -> None:
    keld.advance(keld.submit(triage(openai), tickets()).id)
    emulator.advance(3_600)
    assert len(emulator.bill()) == 6
    assert bill_check.check() is bill_check.How.COVERED


@pytest.mark.parametrize("pico", [1, -1])
def test_a_pico_dollar_is_found(keld: Keld, emulator: Emulator, peer: Peer, pico: int) -> None:
    run(keld, emulator, triage(peer))
    with (
        forged(keld, more(SHARD, "cost_usd", pico=pico), more(RUN, "spent_usd", pico=pico)),
        pytest.raises(bill_check.BooksDisagree, match="the bill says"),
    ):
        bill_check.check()


@pytest.mark.parametrize("column", ["spent_usd", "standard_usd", "reserved_usd"])
def test_a_job_run_that_does_not_add_up_is_found(keld: Keld, emulator: Emulator, column: str) -> None:
    run(keld, emulator, triage(openai))
    with forged(keld, more(RUN, column)), pytest.raises(bill_check.BooksDisagree, match="shards and orphans"):
        bill_check.check()


def test_a_batch_that_was_bought_again_and_is_not_known_is_found(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    status = bought_late(keld, emulator, peer)
    with pytest.raises(bill_check.BooksDisagree, match="at most"):
        bill_check.check()
    sweep(keld, emulator, status)
    assert bill_check.check() is bill_check.How.CLOSED


def test_a_orphan_that_is_forgotten_is_found(keld: Keld, emulator: Emulator) -> None:
    status = sweep(keld, emulator, bought_late(keld, emulator, openai))
    paid_once = sa.update(RUN).values(spent_usd=status.cost_usd / 2)
    with forged(keld, sa.delete(ORPHAN), paid_once), pytest.raises(bill_check.BooksDisagree, match="the bill says"):
        bill_check.check()


def test_a_batch_under_way_without_a_reservation_is_found(keld: Keld, emulator: Emulator) -> None:
    keld.advance(keld.submit(triage(openai), tickets()).id)
    emulator.advance(3_600)
    with (
        forged(keld, sa.update(RUN).values(reserved_usd=0), sa.update(SHARD).values(worst_usd=0)),
        pytest.raises(bill_check.BooksDisagree, match="the bill says"),
    ):
        bill_check.check()


def test_a_fast_request_that_was_not_counted_is_found(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    run(keld, emulator, triage(peer, lane="standard"))
    assert bill_check.check() is bill_check.How.CLOSED
    with (
        forged(keld, more(SHARD, "cost_usd", pico=-1), more(RUN, "spent_usd", pico=-1)),
        pytest.raises(bill_check.BooksDisagree, match="fast lanes"),
    ):
        bill_check.check()


def test_rows_that_a_provider_lost_are_covered_and_not_more(keld: Keld, emulator: Emulator) -> None:
    """What they cost is not known; it is reserved at its worst."""
    fault(emulator, "lines", "missing")
    status = run(keld, emulator, triage(openai, max_attempts=1))
    assert status.reserved_usd > 0
    assert bill_check.check() is bill_check.How.COVERED


def test_an_emulator_that_was_stopped_is_remembered(keld: Keld, emulator: Emulator) -> None:
    run(keld, emulator, triage(openai))
    emulator.stop()
    assert bill_check.check() is bill_check.How.CLOSED


@pytest.mark.books_open("to see that it is told")
def test_what_is_declared_open_still_adds_up_in_itself(keld: Keld, open_emulator: Callable[..., Emulator], emulator: Emulator) -> None:
    run(keld, emulator, triage(openai))
    assert bill_check.check("a reason") is bill_check.How.OPEN
    with forged(keld, more(RUN, "spent_usd")), pytest.raises(bill_check.BooksDisagree):
        bill_check.check("a reason")
