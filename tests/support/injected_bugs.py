"""Injected bugs: faults put into the real code that make it buy rows twice; they show that the kill tests can fail."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from typing import Any

import pytest
import sqlalchemy as sa
from msgspec import structs

import keld.ledger.ledger
import keld.providers.call
import keld.realtime.journal
from keld.ledger import Lease, Ledger, Shard
from keld.ledger.lease import Leases
from keld.ledger.table import SHARD
from keld.providers.base import NotNow, RemoteBatch, Submission
from keld.providers.fault import Fault
from keld.providers.transports.anthropic import AnthropicBatches
from keld.providers.transports.openai_files import OpenAIFiles
from keld.state import Event, State

Create = Callable[[Any, Submission], RemoteBatch]


@contextmanager
def intent_after_create(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The intent is recorded when the create has been answered."""
    record_intent, record = Ledger.record_intent, Ledger.record

    def put_off(ledger: Ledger, lease: Lease, shard: Shard, now: datetime, after_batch: str | None = None) -> Shard:
        return structs.replace(shard, state=State.SUBMITTING, attempt=shard.attempt + 1, intent_at=now)

    def made_up(ledger: Ledger, lease: Lease, shard: Shard, event: Event, now: datetime, **more: Any) -> Shard:
        known = ledger.shard(shard.id)
        if shard.state is State.SUBMITTING and known is not None and known.state is State.STAGED:
            record_intent(ledger, lease, known, now)
        return record(ledger, lease, shard, event, now, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "record_intent", put_off)
        patch.setattr(Ledger, "record", made_up)
        yield


@contextmanager
def creates_retried(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The transports send a create again if its reply was lost."""

    def retried(create: Create) -> Create:
        def twice(batches: Any, submission: Submission) -> RemoteBatch:
            try:
                return create(batches, submission)
            except Fault:
                return create(batches, submission)

        return twice

    with monkeypatch.context() as patch:
        for transport in (OpenAIFiles, AnthropicBatches):
            patch.setattr(transport, "create", retried(transport.create))
        yield


@contextmanager
def lease_unchecked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A write is accepted from every worker and in every state of the shard."""

    @contextmanager
    def held(leases: Leases, lease: Lease, now: datetime) -> Iterator[sa.Connection]:
        with leases._db.write() as db:
            yield db

    move = keld.ledger.ledger.move

    def moved(db: sa.Connection, lease: Lease, shard: Shard, *more: Any) -> Shard:
        db.execute(sa.update(SHARD).where(SHARD.c.id == shard.id).values(state=shard.state, attempt=shard.attempt))
        return move(db, lease, shard, *more)

    with monkeypatch.context() as patch:
        patch.setattr(Leases, "held", held)
        patch.setattr(keld.ledger.ledger, "move", moved)
        yield


@contextmanager
def journal_unread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A realtime run that continues an interrupted one does not read what was answered there."""
    with monkeypatch.context() as patch:
        patch.setattr(keld.realtime.journal.Journal, "_read", lambda *_: None)
        yield


@contextmanager
def journal_unlocked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two realtime runs over the same journal, one of which was paused, both ask."""
    with monkeypatch.context() as patch:
        patch.setattr(keld.realtime.journal, "_lock_file", lambda *_: None)
        yield


@contextmanager
def doubts_asked_again(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A request whose reply was lost is sent again at once, as if it had not been paid."""
    with monkeypatch.context() as patch:
        patch.setattr(keld.providers.call, "_in_doubt", lambda custom_id, why: NotNow(why=why))
        yield


Bug = Callable[[pytest.MonkeyPatch], AbstractContextManager[None]]
BUGS: dict[str, Bug] = {bug.__name__: bug for bug in (intent_after_create, creates_retried, lease_unchecked)}
IN_FAST_LANE: dict[str, Bug] = {bug.__name__: bug for bug in (journal_unread, journal_unlocked, doubts_asked_again)}  # of the fast lanes
