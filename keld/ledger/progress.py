"""Progress: how many requests of each shard are done, where nothing else has happened to it.

Below `ledger`.  Most looks find only a higher count: it is the provider's claim, kept for people and for the order of looks, and is not
an event.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec
import sqlalchemy as sa

from keld.ledger.column import microseconds
from keld.ledger.database import Database
from keld.ledger.fault import ShardError
from keld.ledger.lease import Lease, Leases
from keld.ledger.record import CONFIRMED, Shard
from keld.ledger.table import EVENT, INTENT, RUN, SHARD
from keld.state import Event, RunState, State

_AT_ONCE = 10_000  # job runs in one transaction, at most, so that another worker does not wait long for the lock: a tenth of a second
# A look that was asked for since stays due.  In the drivers' own words: SQLAlchemy takes longer to bind the values than SQLite to write them.
_PUT_OFF_IN_SQLITE = (
    f"UPDATE {RUN.name} SET next_check_at = ?, escalates_at = ? "  # noqa: S608  the names are our own
    f"WHERE id = ? AND lease_epoch = ? AND state = '{RunState.OPEN}' AND next_check_at IS ?"
)
_PUT_OFF_IN_POSTGRES = (
    f"UPDATE {RUN.name} AS run SET next_check_at = new.next, escalates_at = new.escalates "  # noqa: S608  the names are our own
    "FROM json_to_recordset(CAST(%s AS JSON)) AS new (next BIGINT, escalates BIGINT, id TEXT, epoch BIGINT, was_due BIGINT) "
    f"WHERE run.id = new.id AND run.lease_epoch = new.epoch AND run.state = '{RunState.OPEN}' AND run.next_check_at IS NOT DISTINCT FROM new.was_due"
)
_NOTE = sa.update(SHARD).where(SHARD.c.id == sa.bindparam("of"))
_DONE = sa.update(SHARD).where(SHARD.c.id == sa.bindparam("shard"), SHARD.c.state == State.IN_PROGRESS).values(done=sa.bindparam("so_far"))
_CONFIRM = (
    sa.update(INTENT)
    .where(INTENT.c.shard_id == sa.bindparam("shard"), INTENT.c.attempt == sa.bindparam("created"))
    # Else something else has happened since.  Not `in_`: it does not work with many rows in one statement.
    .where(sa.or_(INTENT.c.outcome == Event.CREATED, INTENT.c.outcome == Event.ADOPTED))
    .values(outcome=CONFIRMED)
)


class Unchanged(msgspec.Struct, frozen=True, kw_only=True, gc=False):
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
            done = [{"shard": shard, "so_far": so_far} for q in some for shard, so_far in q.progress.items()]
            confirmed = [{"shard": shard, "created": attempt} for q in some for shard, attempt in q.confirmed.items()]
            with self._db.write() as db:
                _put_off(db, some)
                for statement, rows in ((_DONE, done), (_CONFIRM, confirmed)):
                    if rows:
                        db.execute(statement, rows)

    def noted_at(self, run_id: str) -> dict[str, datetime]:
        """The time at which the latest event of each shard was recorded, by the clock at that time."""
        latest = (
            sa.select(sa.func.max(EVENT.c.id)).where(EVENT.c.run_id == run_id, EVENT.c.shard_id.is_not(None)).group_by(EVENT.c.shard_id)
        )
        with self._db.read() as db:
            return {row.shard_id: row.at for row in db.execute(sa.select(EVENT.c.shard_id, EVENT.c.at).where(EVENT.c.id.in_(latest)))}


class _PutOff(msgspec.Struct, gc=False):
    """The next look at a job run, as it is stored."""

    next: int | None
    escalates: int | None
    id: str
    epoch: int
    was_due: int | None


def _put_off(db: sa.Connection, unchanged: Sequence[Unchanged]) -> None:
    """Notes the next look at these job runs, by one statement."""
    rows = [
        _PutOff(microseconds(one.next_check_at), microseconds(one.escalates_at), one.run_id, one.epoch, microseconds(one.due_at))
        for one in unchanged
    ]
    if db.dialect.name == "sqlite":
        db.exec_driver_sql(_PUT_OFF_IN_SQLITE, [msgspec.structs.astuple(row) for row in rows])
    else:
        db.exec_driver_sql(_PUT_OFF_IN_POSTGRES, (msgspec.json.encode(rows).decode(),))
