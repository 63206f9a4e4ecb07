"""Bedrock: a job run at Amazon Bedrock, whole: batches over a bucket, a create that is lost, late or sent twice, fast lanes, a rescue at another vendor.

What was bought is read from the emulator's bill.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from keld import Keld, Settings, Status
from keld.emulator import Emulator
from tests.support.realtime_rows import turning
from tests.support.ticket_job import Peer, anthropic, bedrock, bedrock_claude, creates, finish, outcomes, purchases, run, tickets, triage

ROWS = 120  # a job has at least 100
ONCE = dict.fromkeys(range(ROWS), 1)
PRICES = {"input": 1, "output": 2}
DIALECTS = pytest.mark.parametrize("peer", [bedrock, bedrock_claude], ids=["converse", "invoke_model"])


@pytest.fixture
def emulator(open_emulator: Callable[..., Emulator], monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """Jobs take an hour."""
    monkeypatch.setattr("keld.http._PAUSES_S", (0, 0))  # harmless calls are tried again at once
    return open_emulator(latency_s=3_600)


@pytest.fixture
def keld(open_keld: Callable[..., Keld], emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Keld:
    monkeypatch.setattr("keld.realtime.run.Time", lambda: turning(emulator))
    settings = Settings(poll_least=timedelta(seconds=60), poll_most=timedelta(minutes=30))
    return open_keld(clock=emulator.now, settings=settings)


def job(peer: Peer = bedrock, **terms: Any) -> Any:
    return triage(peer, **{"prices": {peer.models: PRICES}, **terms})


def fault(emulator: Emulator, at: str, do: str, **more: Any) -> None:
    emulator.faults({"rules": [{"at": at, "do": do, **more, "match": {"provider": "bedrock", **more.get("match", {})}}]})


def events(keld: Keld, status: Status) -> list[str]:
    return [event.kind for event in keld.ledger.events(status.id)]


@DIALECTS
def test_every_row_is_answered_and_paid_once(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    status = run(keld, emulator, job(peer), tickets(ROWS))
    assert outcomes(keld, status) == ["answered"] * ROWS
    assert (purchases(emulator), len(creates(emulator, bedrock))) == (ONCE, 1)
    assert {entry.lane for entry in emulator.bill()} == {"batch"}
