"""The fault table: each case played to its end, over HTTP, and held against the provider's bill and its log of calls.

The traps are those of docs/notes/providers.md.
"""

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keld import Keld, Settings, Status
from keld.emulator import Emulator
from tests.faults.case import CASES, ROWS, Case, document
from tests.faults.play import patched, play
from tests.support.ticket_job import PEERS, billed_usd, creates, purchases, tickets
from tests.support.ticket_job import anthropic as anthropic_peer

DOCUMENT = Path(__file__).parents[2] / "docs" / "reference" / "faults.md"


def cases() -> list[Any]:
    """Every case at every provider it is expected of; in the fast suite at one of them, in turns."""
    turn = itertools.count()
    found = []
    for case in CASES:
        fast = case.on[next(turn) % len(case.on)]
        for name in case.on:
            marks = [pytest.mark.slow] if case.slow or name != fast else []
            found.append(pytest.param(case, name, id=f"{case} - {name}", marks=marks))
    return found


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A harmless call is tried again after a pause in real time."""
    patched(monkeypatch)


@pytest.mark.parametrize(("case", "name"), cases())
def test_each_fault_ends_as_the_table_says(
    open_emulator: Callable[..., Emulator], open_keld: Callable[..., Keld], case: Case, name: str
) -> None:
    """No row lost, none paid twice but where it is told, whatever the provider does."""
    emulator = open_emulator(**{"latency_s": 60, **case.emulator})
    keld = open_keld(clock=emulator.now, settings=Settings(**{"poll_least": Settings().poll_least * 3, **case.settings}))
    case = case.at_kind(name)
    status = play(case, PEERS[name], keld, emulator)
    bill = purchases(emulator)
    assert (status.answered, status.failed, status.quarantined) == (case.answered, case.failed, case.quarantined)
    assert (bill.total(), max(bill.values(), default=0)) == (case.bought, case.most if case.bought else 0)
    assert len(creates(emulator, PEERS[name])) == case.creates
    assert all(rule["hits"] for rule in emulator.fault_rules()), "a fault that was never met proves nothing"
    check_books(keld, emulator, status, bill)


def check_books(keld: Keld, emulator: Emulator, status: Status, bill: Counter[int]) -> None:
    """Every row once and in order; nothing bought that is not paid by the ledger, or still reserved in it."""
    table = tickets(ROWS)
    enriched = keld.read(status.id).read_all()
    assert enriched.select(table.schema.names).equals(table)
    assert not [
        call
        for call in emulator.requests()
        if call.path in {peer.creates for peer in PEERS.values()} and call.method == "POST" and call.retry_count
    ]
    billed = billed_usd(emulator, status.created_at)
    assert status.cost_usd <= billed <= status.cost_usd + status.reserved_usd
    answered = {n for n, outcome in enumerate(enriched.column("keld_outcome").to_pylist()) if outcome == "answered"}
    assert answered <= set(bill)


def test_the_document_is_the_table() -> None:
    """`make faults` after a change of the cases."""
    assert DOCUMENT.read_text() == document()


def test_a_broken_download_is_gone_on_with_not_begun_again(keld: Keld, emulator: Emulator) -> None:
    """Trap 25: a result of 200 MB over a line that breaks every 100 MB would never come to its end.  The last 512 bytes are compared."""
    cut = next(case for case in CASES if case.fault == "it breaks off, twice")
    play(cut, anthropic_peer, keld, emulator)
    calls = [call for call in emulator.requests() if call.path.endswith("/results")]
    assert [(call.status, call.range) for call in calls] == [(200, None), (206, "bytes=388-"), (206, "bytes=776-")]
