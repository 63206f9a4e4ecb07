"""A wake: what a provider's webhook says makes the next look come sooner, and changes nothing else."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from keld import Keld, Settings
from keld.emulator import Emulator
from keld.ledger import Lease
from tests.support.ticket_job import Peer, check_promise, finish, tickets, triage

SELDOM = Settings(poll_least=timedelta(hours=1), poll_most=timedelta(hours=1))


@pytest.fixture
def seldom(open_keld: Callable[..., Keld]) -> Keld:
    """An environment that looks once an hour, as one does that relies on webhooks."""
    return open_keld(settings=SELDOM)


def sent(keld: Keld, emulator: Emulator, peer: Peer, partition: str = "") -> tuple[str, str]:
    """A job run whose batch is at the provider, and the batch."""
    run_id = keld.submit(triage(peer), tickets(), partition=partition or None).id
    batch_id = keld.advance(run_id).batches[0].batch_id
    emulator.advance(70)
    assert batch_id is not None
    return run_id, batch_id


def test_a_wake_makes_the_look_at_that_job_run_due_now_and_at_no_other(
    seldom: Keld, emulator: Emulator, peer: Peer, ledger_url: str
) -> None:
    (woken, batch_id), (other, _) = sent(seldom, emulator, peer, "a"), sent(seldom, emulator, peer, "b")
    assert seldom.due([woken, other]) == []
    status = seldom.wake(peer.name, batch_id)
    assert status is not None
    assert (status.id, status.next_check_at) == (woken, emulator.now())
    assert seldom.due([woken, other]) == [woken]
    assert [finish(seldom, emulator, run_id).answered for run_id in (woken, other)] == [6, 6]


def test_a_wake_that_is_repeated_or_too_late_changes_nothing(seldom: Keld, emulator: Emulator, peer: Peer) -> None:
    """Providers deliver at least once, and for three days."""
    run_id, batch_id = sent(seldom, emulator, peer)
    first = seldom.wake(peer.name, batch_id)
    emulator.advance(5)
    again = seldom.wake(peer.name, batch_id)
    assert first is not None
    assert again is not None
    assert again.next_check_at == first.next_check_at, "a look that is due keeps its place"
    done, events = finish(seldom, emulator, run_id), seldom.ledger.events(run_id)
    late = seldom.wake(peer.name, batch_id)
    assert late is not None
    assert (late.state, late.next_check_at) == (done.state, None)
    assert seldom.ledger.events(run_id) == events


@pytest.mark.parametrize("account", ["openai", "anthropic", "elsewhere"])
def test_a_batch_that_this_ledger_does_not_have_is_said_to_be_unknown(seldom: Keld, emulator: Emulator, peer: Peer, account: str) -> None:
    """A project's webhook tells of other programs' batches, too."""
    sent(seldom, emulator, peer)
    assert seldom.wake(account, "batch_of_another_program") is None


def test_a_batch_id_of_another_account_wakes_nothing(seldom: Keld, emulator: Emulator, peer: Peer) -> None:
    """Each account has a secret of its own: who may speak for one may not speak for the others."""
    run_id, batch_id = sent(seldom, emulator, peer)
    assert seldom.wake("another", batch_id) is None
    assert seldom.due([run_id]) == []


def test_a_wake_while_a_worker_holds_the_job_run_is_not_lost_when_it_lets_go(
    seldom: Keld, emulator: Emulator, peer: Peer, ledger_url: str
) -> None:
    """It may have looked at the batch a moment before it ended, and be busy with other shards for minutes."""
    run_id, batch_id = sent(seldom, emulator, peer)
    lease = seldom.ledger.leases.claim(run_id, "worker", emulator.now())
    assert isinstance(lease, Lease)
    emulator.advance(5)
    seldom.wake(peer.name, batch_id)
    seldom.ledger.leases.release(lease, emulator.now() + timedelta(hours=1))
    assert seldom.due([run_id]) == [run_id]
    finish(seldom, emulator, run_id)


def test_a_wake_while_a_list_of_batches_is_read_is_not_lost(
    open_keld: Callable[..., Keld], emulator: Emulator, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of job runs are read together, and put off together when the list was read."""
    keld = open_keld(settings=Settings(poll_least=timedelta(hours=1), poll_most=timedelta(hours=1), list_from=1))
    run_id = keld.submit(triage(peer), tickets()).id
    batch_id = keld.advance(run_id).batches[0].batch_id
    assert batch_id is not None
    keld.poll([run_id])  # its create is confirmed
    emulator.advance(5)
    note = keld.ledger.progress.note_unchanged
    monkeypatch.setattr(keld.ledger.progress, "note_unchanged", lambda seen: (keld.wake(peer.name, batch_id), note(seen)))
    keld.poll([run_id])
    assert keld.due([run_id]) == [run_id]
    finish(keld, emulator, run_id)


def test_a_lost_wake_costs_time_and_no_row(seldom: Keld, emulator: Emulator, peer: Peer) -> None:
    """Polling stays the truth."""
    run_id, _ = sent(seldom, emulator, peer)
    check_promise(seldom, emulator, finish(seldom, emulator, run_id), tickets())
