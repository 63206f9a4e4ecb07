"""Queue: the job runs that share one account's limits: those that wait for room in its batch queue, and those in its fast lanes.

Below `ledger`; `runner.queue` decides which goes first.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec
import sqlalchemy as sa

from keld.ledger.database import Database
from keld.ledger.fault import RefusalReason
from keld.ledger.table import RUN, SHARD
from keld.price import Lane
from keld.state import RunState, State

_STALE = timedelta(minutes=5)  # a job run whose next look and lease are over for longer is not advanced by any worker


class QueuedShard(msgspec.Struct, frozen=True, kw_only=True):
    """A shard that a full queue rejected, or that waits behind such shards, with what decides the order."""

    shard_id: str
    ordinal: int
    run_id: str
    deadline_at: datetime | None
    created_at: datetime  # of its job run
    not_before: datetime | None
    tried_at: datetime | None  # its latest intent
    next_check_at: datetime | None  # of its job run; None while a worker holds its lease
    deferred: bool = True  # False: it was rejected just now, and is first looked for at the provider


class Rival(msgspec.Struct, frozen=True):
    """What another job run has in the fast lanes of an account: `rows` without an answer."""

    run_id: str
    deadline_at: datetime | None
    created_at: datetime
    lane: str
    rows: int


class Queue:
    """The shards that wait for the limits of each account, or share them."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def waiting(self, provider: str, host: str, model: str) -> list[QueuedShard]:
        """The shards of open job runs that wait for room in one provider's queue for one model, or were just rejected there."""
        turned_away = sa.and_(SHARD.c.state == State.UNKNOWN, SHARD.c.error["refused"].as_string() == RefusalReason.QUEUE)
        query = (
            sa.select(
                SHARD.c.id.label("shard_id"), SHARD.c.ordinal, SHARD.c.run_id, RUN.c.deadline_at, RUN.c.created_at, SHARD.c.not_before,
                SHARD.c.intent_at.label("tried_at"), sa.case((RUN.c.lease_owner.is_(None), RUN.c.next_check_at)).label("next_check_at"),
                (SHARD.c.state == State.DEFERRED).label("deferred"),
            )
            .join(RUN, RUN.c.id == SHARD.c.run_id)
            .where(SHARD.c.provider == provider, SHARD.c.host == host, SHARD.c.model == model)
            .where(sa.or_(SHARD.c.state == State.DEFERRED, turned_away))
            .where(RUN.c.state == RunState.OPEN)
        )  # fmt: skip
        with self._db.read() as db:
            return [QueuedShard(**row._mapping) for row in db.execute(query)]

    def wake(self, shard_id: str) -> None:
        """Lets a deferred shard try at once; a hint, which needs no lease."""
        with self._db.write() as db:
            db.execute(sa.update(SHARD).where(SHARD.c.id == shard_id, SHARD.c.state == State.DEFERRED).values(not_before=None))

    def in_fast_lanes(self, provider: str, host: str, model: str, now: datetime, *, other_than: str | None = None) -> list[Rival]:
        """The rows of each job run, except `other_than`, in an account's fast lanes, if a worker advances it."""
        alive = sa.or_(RUN.c.lease_until > now - _STALE, RUN.c.next_check_at > now - _STALE)
        left = sa.func.sum(SHARD.c.requests - sa.func.coalesce(SHARD.c.done, 0))
        query = (
            sa.select(RUN.c.id, RUN.c.deadline_at, RUN.c.created_at, SHARD.c.lane, left)
            .join(RUN, RUN.c.id == SHARD.c.run_id)
            .where(SHARD.c.provider == provider, SHARD.c.host == host, SHARD.c.model == model, SHARD.c.lane != Lane.BATCH)
            .where(SHARD.c.state.in_([State.PLANNED, State.STAGED, State.SUBMITTING, State.IN_PROGRESS]))
            # By an expression: else SQLite begins with the open job runs, of which there may be ten thousand, and not with these few shards.
            .where(sa.func.coalesce(RUN.c.state, RunState.OPEN) == RunState.OPEN, alive)
            .group_by(RUN.c.id, RUN.c.deadline_at, RUN.c.created_at, SHARD.c.lane)
        )
        if other_than is not None:
            query = query.where(RUN.c.id != other_than)
        with self._db.read() as db:
            return [
                Rival(run_id, deadline_at, created_at, lane, int(rows)) for run_id, deadline_at, created_at, lane, rows in db.execute(query)
            ]
