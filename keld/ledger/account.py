"""Account: what may be in a provider's account: creates that are looked for, known batches, and the sweep for unknown ones.

Below `ledger`; `find_lost`, `sibling` and `orphan` of the runner read it before they adopt or cancel a batch.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

import msgspec
import sqlalchemy as sa

from keld.ledger import lookup
from keld.ledger.database import Database
from keld.ledger.lease import WORKER_SKEW
from keld.ledger.record import CONFIRMED, Shard
from keld.ledger.table import CANDIDATE, INTENT, ORPHAN, SHARD, SWEEP
from keld.price import Lane
from keld.state import AT_PROVIDER, Event, State

_ACCEPTED = (Event.CREATED, Event.ADOPTED)
_ENDED_UNCONFIRMED = sa.and_(  # its batch ended before the list had shown whether its create made others, too
    INTENT.c.outcome.in_(_ACCEPTED), SHARD.c.lane == Lane.BATCH, SHARD.c.state.not_in(AT_PROVIDER)
)
# A refused create may take effect late, too; if its shard is sent again, it is found at the next create.
_GIVEN_UP = sa.and_(
    SHARD.c.state.in_([State.REJECTED, State.DROPPED]),
    INTENT.c.outcome.in_([Event.REJECTED, Event.DEFERRED]),
    INTENT.c.batch_id.is_(None),
)
_UNCONFIRMED = (
    sa.select(INTENT.c.shard_id, INTENT.c.outcome)
    .join(SHARD, sa.and_(SHARD.c.id == INTENT.c.shard_id, SHARD.c.attempt == INTENT.c.attempt))
    .where(SHARD.c.state.in_(AT_PROVIDER), INTENT.c.outcome.in_(_ACCEPTED), lookup.among(SHARD.c.run_id))
)
_KNOWN = sa.union(*(sa.select(of.c.batch_id).where(lookup.among(of.c.batch_id)) for of in (INTENT, ORPHAN)))
_UPLOADED = sa.select(INTENT.c.input_ref, INTENT.c.shard_id).where(lookup.among(INTENT.c.input_ref))
_LATE = (
    sa.select(SHARD.c.provider, SHARD.c.host, INTENT.c.at, SHARD.c.requests)
    .join(SHARD, SHARD.c.id == INTENT.c.shard_id)
    .where(
        INTENT.c.at > sa.bindparam("since"),
        sa.or_(INTENT.c.outcome.in_([Event.ABSENT, Event.LOST_TRACK]), _GIVEN_UP, _ENDED_UNCONFIRMED),
    )
)
_UNSETTLED = [
    sa.select(of.c.provider, of.c.host, of.c.found_at, of.c.requests).where(of.c.settled_at.is_(None)) for of in (ORPHAN, CANDIDATE)
]
_SUSPECT = sa.union_all(_LATE, *_UNSETTLED)  # one query: each look at a job run begins with it


class Suspect(msgspec.Struct, frozen=True, kw_only=True):
    """An account at which a create that is no longer waited for may still take effect, or did."""

    provider: str
    host: str
    since: datetime  # the time of the first of these creates
    sizes: frozenset[int]  # in requests, of the shards they were for


class Accounts:
    """What may be in the accounts that shards were sent to."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def names(self) -> list[str]:
        """The accounts that shards were sent to."""
        query = sa.select(SHARD.c.provider).where(SHARD.c.attempt > 0).distinct().order_by(SHARD.c.provider)
        with self._db.read() as db:
            return list(db.execute(query).scalars())

    def quarantined(self, provider: str, host: str) -> list[Shard]:
        """The shards of an account whose batch has an unknown outcome."""
        with self._db.read() as db:
            return lookup.shards(db, SHARD.c.provider == provider, SHARD.c.host == host, SHARD.c.state == State.QUARANTINED)

    def creates_looked_for(self, provider: str, host: str, requests: int | None) -> int:
        """The number of creates of that size at an account that are being sent, or have an unknown outcome; None: of any size."""
        these = [SHARD.c.provider == provider, SHARD.c.host == host]
        if requests is not None:
            these.append(SHARD.c.requests == requests)
        query = sa.select(sa.func.count()).where(*these, SHARD.c.state.in_([State.SUBMITTING, State.UNKNOWN]))
        with self._db.read() as db:
            return int(db.execute(query).scalar_one())

    def unconfirmed(self, run_ids: Collection[str]) -> dict[str, str]:
        """The shards at a provider whose latest create was accepted, by id, with its outcome.

        Only those for which the list was not checked yet for other batches of that create.
        """
        with self._db.read() as db:
            return {shard_id: outcome for shard_id, outcome in db.execute(_UNCONFIRMED, lookup.these(run_ids))}  # noqa: C416  to a type checker, rows are not pairs

    def knows_batch(self, batch_id: str) -> bool:
        """True if this batch belongs to an intent, or is a known orphan."""
        return bool(self.known_batches([batch_id]))

    def known_batches(self, batch_ids: Collection[str]) -> set[str]:
        """Those of these batches that belong to an intent, or are known orphans."""
        with self._db.read() as db:
            return set(db.execute(_KNOWN, lookup.these(batch_ids)).scalars())

    def shards_of_uploads(self, input_refs: Collection[str]) -> dict[str, str]:
        """The shards whose creates named these uploads, by upload."""
        with self._db.read() as db:
            return {upload: shard_id for upload, shard_id in db.execute(_UPLOADED, lookup.these(input_refs))}  # noqa: C416  to a type checker, rows are not pairs

    # -- the sweep --------------------------------------------------------------------------------------------

    def suspects(self, since: datetime) -> list[Suspect]:
        """The accounts to be swept.

        Those where a create after `since` may take effect late, or may have made another batch, too; and those with unsettled orphans or candidates.
        """
        accounts: dict[tuple[str, str], list[tuple[datetime, int]]] = {}
        with self._db.read() as db:
            for provider, host, at, requests in db.execute(_SUSPECT, {"since": since}):
                accounts.setdefault((provider, host), []).append((at, requests))
        return [
            Suspect(provider=provider, host=host, since=min(at for at, _ in of), sizes=frozenset(size for _, size in of))
            for (provider, host), of in accounts.items()
        ]

    def claim_sweep(self, provider: str, host: str, now: datetime, every: timedelta) -> bool:
        """True if this worker is to sweep an account now, as no worker has within `every`."""
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
        """Notes that the list of an account was checked for other batches of the creates until `before`.

        Only of creates whose own batches have ended.
        """
        here = (SHARD.c.id == INTENT.c.shard_id, SHARD.c.provider == provider, SHARD.c.host == host)
        with self._db.write() as db:
            db.execute(
                sa.update(INTENT)
                .where(INTENT.c.at <= before, sa.exists().where(*here, _ENDED_UNCONFIRMED).correlate(INTENT))
                .values(outcome=CONFIRMED)
            )
