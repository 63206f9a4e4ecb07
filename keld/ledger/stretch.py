"""Stretch: the time that realtime runs kept a host of one's own busy, and what each of them pays for it.

Below `ledger`.  A host is paid by the hour, whoever uses it: two runs side by side share its clock.  A run pays when it has ended, its share of each
instant that was not paid yet (`gpu_time.share`), so that all runs together pay every busy instant once.  A run whose worker died was busy for up to
`SEEN_EVERY` after it was last seen: that is counted, within what was reserved for it, so that the books never say less than the host was used.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

import sqlalchemy as sa

from keld.gpu_time import Share, share, usd_of
from keld.ledger.database import Database
from keld.ledger.lease import Lease, Leases
from keld.ledger.record import Shard, nonce
from keld.ledger.table import STRETCH

SEEN_EVERY = timedelta(seconds=10)  # a run under way is noted
_ALIVE = timedelta(seconds=60)  # after it was last seen, a run that has not ended counts as busy


class Stretches:
    """The stretches of a ledger."""

    def __init__(self, db: Database, leases: Leases) -> None:
        self._db, self._leases = db, leases

    def begin(self, lease: Lease, shard: Shard, now: datetime, usd_an_hour: Decimal) -> tuple[str, datetime]:
        """The id of a new stretch of a shard, and its beginning; one that a dead worker left is ended.

        It begins now, or where the latest one of its job run ended: a clock that was set back must not put it into time that is paid already.
        """
        found = nonce()
        with self._leases.held(lease, now) as db:
            _end_left(db, shard, now)
            latest = db.execute(
                sa.select(STRETCH.c.ended_at).where(STRETCH.c.run_id == shard.run_id, STRETCH.c.ended_at.is_not(None))
            ).scalars()
            now = max([now, *latest])
            values = {"id": found, "host": shard.host, "run_id": shard.run_id, "shard_id": shard.id, "usd_an_hour": usd_an_hour}
            db.execute(sa.insert(STRETCH).values(**values, begun_at=now, seen_at=now, ended_at=None, usd=None, shares=None))
        return found, now

    def see(self, stretch: str, now: datetime) -> None:
        """Notes that a stretch is under way; needs no lease, since it decides nothing."""
        with self._db.write() as db:
            db.execute(sa.update(STRETCH).where(STRETCH.c.id == stretch, STRETCH.c.ended_at.is_(None)).values(seen_at=now))

    def end(self, stretch: str, now: datetime, *, busy: bool = True) -> None:
        """Ends a stretch and notes what it costs; nothing if the host was not busy with it, since it was not reached."""
        with self._db.write() as db:
            _end(db, stretch, now, busy=busy)

    def used(self, shard_id: str) -> timedelta:
        """The time of all ended stretches of a shard, whoever else was busy then."""
        with self._db.read() as db:
            return _used(db, shard_id)

    def paid_usd(self, lease: Lease, shard: Shard, now: datetime) -> Decimal:
        """What the shard's stretches cost; those that a dead worker left are ended."""
        with self._leases.held(lease, now) as db:
            _end_left(db, shard, now)
            found = db.execute(sa.select(sa.func.sum(STRETCH.c.usd)).where(STRETCH.c.shard_id == shard.id)).scalar_one()
        return found if isinstance(found, Decimal) else Decimal(0)


def _used(db: sa.Connection, shard_id: str) -> timedelta:
    rows = db.execute(sa.select(STRETCH.c.begun_at, STRETCH.c.ended_at).where(STRETCH.c.shard_id == shard_id)).all()
    return sum((row.ended_at - row.begun_at for row in rows if row.ended_at is not None), timedelta(0))


def _end_left(db: sa.Connection, shard: Shard, now: datetime) -> None:
    """Ends what dead workers left, at the latest instant at which they can have been busy."""
    left = sa.select(STRETCH).where(STRETCH.c.shard_id == shard.id, STRETCH.c.ended_at.is_(None))
    for row in db.execute(left).all():
        reserved = timedelta(hours=float(shard.worst_usd / row.usd_an_hour)) - _used(db, shard.id)
        _end(db, row.id, max(row.seen_at, min(now, row.seen_at + SEEN_EVERY, row.begun_at + reserved)))


def _end(db: sa.Connection, stretch: str, at: datetime, *, busy: bool = True) -> None:
    mine = db.execute(sa.select(STRETCH).where(STRETCH.c.id == stretch)).one()
    if mine.ended_at is not None:
        return
    at = max(at, mine.begun_at) if busy else mine.begun_at
    begun, ended = mine.begun_at.timestamp(), at.timestamp()
    others = db.execute(sa.select(STRETCH).where(STRETCH.c.host == mine.host, STRETCH.c.id != stretch, STRETCH.c.begun_at < at)).all()
    paid: list[Share] = [tuple(part) for other in others if other.ended_at is not None for part in other.shares]
    beside = [(other.begun_at.timestamp(), (other.seen_at + _ALIVE).timestamp()) for other in others if other.ended_at is None]
    parts = share(begun, ended, paid, beside)
    usd = usd_of(mine.usd_an_hour, sum((until - since) * part for since, until, part in parts))
    db.execute(sa.update(STRETCH).where(STRETCH.c.id == stretch).values(ended_at=at, seen_at=at, usd=usd, shares=parts))
