"""Progress: how many requests of each shard are done, where nothing else has happened to it.

Below `ledger`.  Most looks find only a higher count: it is the provider's claim, kept for people and for the order of looks, and is not
an event.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from keld.ledger.database import Database
from keld.ledger.fault import ShardError
from keld.ledger.lease import Lease, Leases
from keld.ledger.record import CONFIRMED, Shard
from keld.ledger.table import EVENT, INTENT, RUN, SHARD
from keld.state import Event, RunState, State

_AT_ONCE = 1_000  # job runs in one transaction, at most, so that another worker does not wait long for the lock
_UNTOUCHED = (
    RUN.c.id == sa.bindparam("run"),
    RUN.c.lease_epoch == sa.bindparam("epoch"),
    RUN.c.state == RunState.OPEN,
    RUN.c.next_check_at.is_not_distinct_from(sa.bindparam("was_due")),  # else a look was asked for since
)
_PUT_OFF = sa.update(RUN).where(*_UNTOUCHED).values(next_check_at=sa.bindparam("next"), escalates_at=sa.bindparam("escalates"))
_NOTE = sa.update(SHARD).where(SHARD.c.id == sa.bindparam("of"))
_DONE = sa.update(SHARD).where(SHARD.c.id == sa.bindparam("shard"), SHARD.c.state == State.IN_PROGRESS).values(done=sa.bindparam("so_far"))
_CONFIRM = (
    sa.update(INTENT)
    .where(INTENT.c.shard_id == sa.bindparam("shard"), INTENT.c.attempt == sa.bindparam("created"))
    # Else something else has happened since.  Not `in_`: it does not work with many rows in one statement.
    .where(sa.or_(INTENT.c.outcome == Event.CREATED, INTENT.c.outcome == Event.ADOPTED))
    .values(outcome=CONFIRMED)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unchanged:
    """The news of a job run whose batches are all in progress, recorded if no worker has held its lease since it was read."""

    run_id: str
    epoch: int  # of the lease when it was read
    due_at: datetime | None  # when a look was due, then
    next_check_at: datetime
    escalates_at: datetime | None
    progress: Mapping[str, int | None]  # shard -> how many of its requests are done, where that has changed
    confirmed: Mapping[str, int]  # shard -> its attempt, where the list shows that the create made nothing else


class Progress:
    """The progress of the shards of a ledger."""

    def __init__(self, db: Database, leases: Leases) -> None:
        self._db = db
        self._leases = leases

    def note(
        self,
        lease: Lease,
        shard: Shard,
        done: int | None,
        now: datetime,
        not_before: datetime | None = None,
        error: ShardError | None = None,
    ) -> None:
        """Notes how many requests of a shard are done, as the provider reports.

        Args:
            not_before: when a realtime run that was rejected may go on.
            error: why its latest request has no answer.
        """
        with self._leases.held(lease, now) as db:
            db.execute(_NOTE, {"of": shard.id, "done": done, "not_before": not_before, "error": error})

    def note_unchanged(self, unchanged: Sequence[Unchanged]) -> None:
        """Notes, for job runs where nothing has happened: the next look, the progress of their batches, and the confirmed creates.

        A job run whose lease was taken since then is not changed; so this needs no lease.
        """
        for n in range(0, len(unchanged), _AT_ONCE):
            some = unchanged[n : n + _AT_ONCE]
            put_off = [
                {"run": q.run_id, "epoch": q.epoch, "was_due": q.due_at, "next": q.next_check_at, "escalates": q.escalates_at} for q in some
            ]
            done = [{"shard": shard, "so_far": so_far} for q in some for shard, so_far in q.progress.items()]
            confirmed = [{"shard": shard, "created": attempt} for q in some for shard, attempt in q.confirmed.items()]
            with self._db.write() as db:
                for statement, rows in ((_PUT_OFF, put_off), (_DONE, done), (_CONFIRM, confirmed)):
                    if rows:
                        db.execute(statement, rows)

    def noted_at(self, run_id: str) -> dict[str, datetime]:
        """The time at which the latest event of each shard was recorded, by the clock at that time."""
        latest = (
            sa.select(sa.func.max(EVENT.c.id)).where(EVENT.c.run_id == run_id, EVENT.c.shard_id.is_not(None)).group_by(EVENT.c.shard_id)
        )
        with self._db.read() as db:
            return {row.shard_id: row.at for row in db.execute(sa.select(EVENT.c.shard_id, EVENT.c.at).where(EVENT.c.id.in_(latest)))}
