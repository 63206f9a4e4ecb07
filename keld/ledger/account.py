"""Account: what may be at a provider's account: creates that are looked for, batches that are known, the sweep that looks for the others.

Below `ledger`; `runner`'s `search`, `sibling` and `sweep` ask here before they adopt or cancel anything.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from keld.ledger import lookup
from keld.ledger.database import Database
from keld.ledger.lease import WORKER_SKEW
from keld.ledger.record import CONFIRMED, Shard
from keld.ledger.table import CANDIDATE, INTENT, ORPHAN, SHARD, SWEEP
from keld.price import Lane
from keld.state import AT_PROVIDER, Event, State

_ACCEPTED = (Event.CREATED, Event.ADOPTED)
_ENDED_UNCONFIRMED = sa.and_(  # its batch was over before the list had shown what else its create made
    INTENT.c.outcome.in_(_ACCEPTED), SHARD.c.lane == Lane.BATCH, SHARD.c.state.not_in(AT_PROVIDER)
)
# One that was refused may land late, too; that of a shard that is sent again is found beside its next create.
_GIVEN_UP = sa.and_(
    SHARD.c.state.in_([State.REJECTED, State.DROPPED]),
    INTENT.c.outcome.in_([Event.REJECTED, Event.DEFERRED]),
    INTENT.c.batch_id.is_(None),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """An account at which a create may still land, or did, that nothing waits for any more."""

    provider: str
    host: str
    since: datetime
    sizes: frozenset[int]  # in requests, of the shards they were for


class Accounts:
    """What may be at the accounts that shards were sent to."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def names(self) -> list[str]:
        """The accounts that shards were sent to."""
        query = sa.select(SHARD.c.provider).where(SHARD.c.attempt > 0).distinct().order_by(SHARD.c.provider)
        with self._db.read() as db:
            return list(db.execute(query).scalars())

    def quarantined(self, provider: str, host: str) -> list[Shard]:
        """The shards of an account of which it is not known what became of their batch."""
        with self._db.read() as db:
            return lookup.shards(db, SHARD.c.provider == provider, SHARD.c.host == host, SHARD.c.state == State.QUARANTINED)

    def creates_looked_for(self, provider: str, host: str, requests: int) -> int:
        """How many creates of that size at an account are on their way, or of unknown outcome."""
        these = (SHARD.c.provider == provider, SHARD.c.host == host, SHARD.c.requests == requests)
        query = sa.select(sa.func.count()).where(*these, SHARD.c.state.in_([State.SUBMITTING, State.UNKNOWN]))
        with self._db.read() as db:
            return int(db.execute(query).scalar_one())

    def unconfirmed(self, run_ids: Collection[str]) -> dict[str, str]:
        """The shards at a provider whose latest create was accepted, by id, with its outcome.

        Only those for which nobody has looked yet whether that create made another batch, too.
        """
        query = (
            sa.select(INTENT.c.shard_id, INTENT.c.outcome)
            .join(SHARD, sa.and_(SHARD.c.id == INTENT.c.shard_id, SHARD.c.attempt == INTENT.c.attempt))
            .where(SHARD.c.state.in_(AT_PROVIDER), INTENT.c.outcome.in_(_ACCEPTED))
        )
        with self._db.read() as db:
            lots = (db.execute(query.where(SHARD.c.run_id.in_(some))) for some in lookup.in_lots(run_ids))
            return {row.shard_id: row.outcome for rows in lots for row in rows}

    def knows_batch(self, batch_id: str) -> bool:
        """True if some intent led to this batch, or it was found to be an orphan."""
        return bool(self.known_batches([batch_id]))

    def known_batches(self, batch_ids: Collection[str]) -> set[str]:
        """Those of these batches that `knows_batch`."""
        found: set[str] = set()
        with self._db.read() as db:
            for some in lookup.in_lots(batch_ids):
                for table in (INTENT, ORPHAN):
                    found.update(db.execute(sa.select(table.c.batch_id).where(table.c.batch_id.in_(some))).scalars())
        return found

    # -- the sweep --------------------------------------------------------------------------------------------

    def suspects(self, since: datetime) -> list[Suspect]:
        """The accounts to be swept.

        Those where a create of after `since` may land late, or may have made another batch, too; and those with unsettled orphans or candidates.
        """
        late = (
            sa.select(SHARD.c.provider, SHARD.c.host, INTENT.c.at, SHARD.c.requests)
            .join(SHARD, SHARD.c.id == INTENT.c.shard_id)
            .where(INTENT.c.at > since, sa.or_(INTENT.c.outcome.in_([Event.ABSENT, Event.LOST_TRACK]), _GIVEN_UP, _ENDED_UNCONFIRMED))
        )
        orphans, candidates = (
            sa.select(of.c.provider, of.c.host, of.c.found_at, of.c.requests).where(of.c.settled_at.is_(None)) for of in (ORPHAN, CANDIDATE)
        )
        accounts: dict[tuple[str, str], list[tuple[datetime, int]]] = {}
        with self._db.read() as db:
            for query in (late, orphans, candidates):
                for provider, host, at, requests in db.execute(query):
                    accounts.setdefault((provider, host), []).append((at, requests))
        return [
            Suspect(provider=provider, host=host, since=min(at for at, _ in of), sizes=frozenset(size for _, size in of))
            for (provider, host), of in accounts.items()
        ]

    def claim_sweep(self, provider: str, host: str, now: datetime, every: timedelta) -> bool:
        """True if this worker is to sweep an account now: nobody else has, within `every`."""
        this = (SWEEP.c.provider == provider, SWEEP.c.host == host)
        try:
            with self._db.write() as db:
                if db.execute(sa.select(SWEEP.c.at).where(*this)).first() is None:
                    db.execute(sa.insert(SWEEP).values(provider=provider, host=host, at=now))
                    return True
                due = sa.or_(SWEEP.c.at <= now - every, SWEEP.c.at > now + WORKER_SKEW)
                return db.execute(sa.update(SWEEP).where(*this, due).values(at=now)).rowcount == 1
        except sa.exc.IntegrityError:
            return False  # another worker was first

    def confirm_swept(self, provider: str, host: str, before: datetime) -> None:
        """Notes that the list of an account was looked through for other batches of the creates of until `before`.

        Of those only whose own batches have ended.
        """
        here = (SHARD.c.id == INTENT.c.shard_id, SHARD.c.provider == provider, SHARD.c.host == host)
        with self._db.write() as db:
            db.execute(
                sa.update(INTENT)
                .where(INTENT.c.at <= before, sa.exists().where(*here, _ENDED_UNCONFIRMED).correlate(INTENT))
                .values(outcome=CONFIRMED)
            )
