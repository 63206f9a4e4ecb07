"""Progress: how far the shards of job runs are, where nothing else has happened to them.

Below `ledger`.  Most looks find nothing but a higher count: what is noted of them are claims, kept for people and for the order of looks; no
events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from keld.ledger.database import Database
from keld.ledger.lease import Lease, Leases
from keld.ledger.record import CONFIRMED, Shard
from keld.ledger.table import EVENT, INTENT, RUN, SHARD
from keld.state import Event, RunState, State

_AT_ONCE = 1_000  # not so many job runs in one transaction that another worker waits long for the lock
_UNTOUCHED = (RUN.c.id == sa.bindparam("run"), RUN.c.lease_epoch == sa.bindparam("epoch"), RUN.c.state == RunState.OPEN)
_PUT_OFF = sa.update(RUN).where(*_UNTOUCHED).values(next_check_at=sa.bindparam("next"), escalates_at=sa.bindparam("escalates"))
_DONE = sa.update(SHARD).where(SHARD.c.id == sa.bindparam("shard"), SHARD.c.state == State.IN_PROGRESS).values(done=sa.bindparam("so_far"))
_CONFIRM = (
    sa.update(INTENT)
    .where(INTENT.c.shard_id == sa.bindparam("shard"), INTENT.c.attempt == sa.bindparam("created"))
    # Else more has happened to it since.  No `in_`: that is not for many rows in one statement.
    .where(sa.or_(INTENT.c.outcome == Event.CREATED, INTENT.c.outcome == Event.ADOPTED))
    .values(outcome=CONFIRMED)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unchanged:
    """What is noted of a job run whose batches are all under way, nobody having held its lease since it was read."""

    run_id: str
    epoch: int  # of the lease when it was read
    next_check_at: datetime
    escalates_at: datetime | None
    progress: Mapping[str, int | None]  # shard -> how many of its requests are done, where that has changed
    confirmed: Mapping[str, int]  # shard -> its attempt, where the list shows that the create made nothing else


class Progress:
    """How far the shards of a ledger are."""

    def __init__(self, db: Database, leases: Leases) -> None:
        self._db = db
        self._leases = leases

    def note(self, lease: Lease, shard: Shard, done: int | None, now: datetime, not_before: datetime | None = None) -> None:
        """How many requests of a shard the provider says are done.

        Args:
            not_before: when a stretch that was turned away may go on.
        """
        with self._leases.held(lease, now) as db:
            db.execute(sa.update(SHARD).where(SHARD.c.id == shard.id).values(done=done, not_before=not_before))

    def note_unchanged(self, unchanged: Sequence[Unchanged]) -> None:
        """When to look again at job runs where nothing has happened, how far their batches are, and whose creates made nothing else.

        A job run whose lease was taken since is left alone; so this needs no lease.
        """
        for n in range(0, len(unchanged), _AT_ONCE):
            some = unchanged[n : n + _AT_ONCE]
            put_off = [{"run": q.run_id, "epoch": q.epoch, "next": q.next_check_at, "escalates": q.escalates_at} for q in some]
            done = [{"shard": shard, "so_far": so_far} for q in some for shard, so_far in q.progress.items()]
            confirmed = [{"shard": shard, "created": attempt} for q in some for shard, attempt in q.confirmed.items()]
            with self._db.write() as db:
                for statement, rows in ((_PUT_OFF, put_off), (_DONE, done), (_CONFIRM, confirmed)):
                    if rows:
                        db.execute(statement, rows)

    def noted_at(self, run_id: str) -> dict[str, datetime]:
        """When the latest event of each shard was noted, by the clock of then."""
        latest = (
            sa.select(sa.func.max(EVENT.c.id)).where(EVENT.c.run_id == run_id, EVENT.c.shard_id.is_not(None)).group_by(EVENT.c.shard_id)
        )
        with self._db.read() as db:
            return {row.shard_id: row.at for row in db.execute(sa.select(EVENT.c.shard_id, EVENT.c.at).where(EVENT.c.id.in_(latest)))}
