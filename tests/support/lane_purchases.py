"""Lane purchases: which row was bought in which lane, how time passes while rows are asked, and the money at each step.

For the tests of deadlines, lanes and rescues.  The bill of realtime calls has no custom_ids, so the emulator's answerer is watched:
a purchase is known by the ticket in the request that was answered.  All of it is counted on the emulator's side.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any
from weakref import WeakKeyDictionary

import pyarrow as pa
import pytest

from keld import Job, Keld, Settings, Status
from keld import failpoint as points
from keld.emulator import BillEntry, Emulator
from keld.outcome import Outcome
from tests.support.ticket_job import Peer, billed_usd

# A batch that stalls is waited for by hours: fewer looks, the same purchases.
PATIENT = Settings(poll_least=timedelta(seconds=60), poll_most=timedelta(minutes=30))
HOUR = timedelta(hours=1)
_ticket = re.compile(rb"ticket (\d+):").search
_asked: WeakKeyDictionary[Emulator, dict[str, int]] = WeakKeyDictionary()


def listen(emulator: Emulator) -> Emulator:
    """The emulator, which from now on keeps whose ticket each request was about."""
    kept = _asked.setdefault(emulator, {})
    _listen(emulator._live.answerer, kept)
    return emulator


def _listen(answerer: Any, kept: dict[str, int]) -> None:
    answer = answerer.answer

    def heard(ask: Any, *more: Any) -> Any:
        found = _ticket(ask.body)
        if found:
            kept[ask.digest.hex()] = int(found[1])
        return answer(ask, *more)

    answerer.answer = heard


def fast(peer: Peer) -> str:
    """The lane that stands behind a provider's batches: flex, where it is sold for no more."""
    return "flex" if peer.name == "openai" else "standard"


def ticket_of(emulator: Emulator, entry: BillEntry) -> int:
    return _asked[emulator][entry.body_sha256]


def bought(emulator: Emulator) -> Counter[tuple[int, str]]:
    """How often each ticket was paid, and in which lane."""
    return Counter((ticket_of(emulator, entry), entry.lane) for entry in emulator.bill())


def paid(emulator: Emulator) -> Counter[int]:
    """How often each ticket was paid, in whatever lane."""
    return Counter(ticket_of(emulator, entry) for entry in emulator.bill())


def lanes(emulator: Emulator) -> Counter[str]:
    """How many rows were paid in each lane."""
    return Counter(entry.lane for entry in emulator.bill())


def sellers(emulator: Emulator) -> Counter[tuple[str, str]]:
    """How many rows each provider was paid for, in which lane."""
    return Counter((entry.provider, entry.lane) for entry in emulator.bill())


def pass_time(emulator: Emulator, monkeypatch: pytest.MonkeyPatch, rows_per_s: float = 4.0) -> None:
    """Each reply of a fast lane turns the clock: a stretch takes as long as it would."""

    def turn(point: str) -> None:
        if point == "realtime.received":
            emulator.advance(1 / rows_per_s)

    monkeypatch.setattr(points, "on_pass", turn)


def tell(keld: Keld, emulator: Emulator, job: Job, table: pa.Table, **how: Any) -> Status:
    """Submits and finishes; at each step spent and reserved stay under the ceiling."""
    status = keld.submit(job, table)
    return follow(keld, emulator, status.id, **how)


def follow(keld: Keld, emulator: Emulator, run_id: str, *, most: int = 200, each: Callable[[Status], None] = lambda status: None) -> Status:
    """The job run when it is over, as `ticket_job.finish`; `each` is called with every status on the way."""
    for _ in range(most):
        status = keld.advance(run_id)
        assert status.ceiling_usd is None or status.cost_usd + status.reserved_usd <= status.ceiling_usd, status
        each(status)
        if status.over:
            return status
        emulator.advance(max((status.next_check_at or emulator.now()) - emulator.now(), timedelta(seconds=1)))
    raise AssertionError(f"{status!r} does not come to its end: {status.batches} {status.problem}")


def check_books(keld: Keld, emulator: Emulator, status: Status, table: pa.Table, *, reserved: Decimal | int = 0) -> None:
    """Every input row once, in order; what the ledger and the rows say was paid is the bill."""
    enriched = keld.read(status.id).read_all()
    assert enriched.select(table.schema.names).equals(table)
    assert set(enriched.column("keld_outcome").to_pylist()) <= {outcome.value for outcome in Outcome}
    assert status.cost_usd == billed_usd(emulator, status.created_at)
    assert sum(enriched.column("keld_cost_usd").to_pylist()) == status.cost_usd
    assert status.reserved_usd == reserved


def ways(status: Status) -> list[tuple[str, str, str, int]]:
    """(provider, lane, how it ended or its state, requests) of each shard, in order."""
    return [(batch.provider, batch.lane, batch.ended or batch.state.value, batch.requests) for batch in status.batches]
