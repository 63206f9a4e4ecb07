"""Play: a case of the table, from the submission to its end."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from keld import Keld, Status, http
from keld.emulator import Emulator
from keld.emulator.services import bedrock_input
from tests.faults.case import ROWS, Case
from tests.support.ticket_job import Peer, tickets, triage

_MOST = 400


def patched(patch: pytest.MonkeyPatch) -> None:
    """Pauses in real time are short, and hosts take batches of six rows: a case has no more."""
    patch.setattr(http, "_PAUSES_S", (0.001, 0.001))
    patch.setattr(bedrock_input, "LEAST_RECORDS", 1)


def play(case: Case, peer: Peer, keld: Keld, emulator: Emulator, rules: list[dict[str, object]] | None = None) -> Status:
    """The job run when it is over, the clock turned to whenever it wanted to be looked at.

    Raises:
        AssertionError: it does not come to its end.
    """
    provider = keld.provider(peer.name)
    provider.traits = replace(provider.traits, least_requests=1)
    emulator.faults({"rules": list(case.rules) if rules is None else rules})
    status = keld.submit(triage(peer, **case.terms), tickets(ROWS))
    began, cancelled = emulator.now(), False
    for _ in range(_MOST):
        age = (emulator.now() - began).total_seconds()
        if case.cancel_s is not None and age >= case.cancel_s:
            keld.cancel(status.id)
        if case.cancelled_elsewhere_s is not None and age >= case.cancelled_elsewhere_s and not cancelled:
            keld.provider(peer.name).cancel(status.batches[0].batch_id or "")
            cancelled = True
        status = keld.advance(status.id)
        if status.over and not (case.swept and _unswept(keld, status)):
            return status
        wish = keld.settings.sweep_every if status.over else (status.next_check_at or emulator.now()) - emulator.now()
        until_cancel = min((at - age for at in (case.cancel_s, case.cancelled_elsewhere_s) if at is not None and at > age), default=None)
        wish = max(wish, timedelta(seconds=case.step_s))
        emulator.advance(wish if until_cancel is None else min(wish, timedelta(seconds=until_cancel)))
    raise AssertionError(f"{status!r} does not come to its end: {status.batches} {status.problem}")


def _unswept(keld: Keld, status: Status) -> bool:
    """Whether something that landed late is still to be found, or to be counted."""
    orphans = keld.ledger.orphans.of(status.id)
    return (
        status.quarantined > 0
        or not (orphans or "reopened" in {event.kind for event in keld.ledger.events(status.id)})
        or any(orphan.settled_at is None for orphan in orphans)
    )
