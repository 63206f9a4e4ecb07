"""Candidate: a batch without a mark that may be a second one of a shard's create; its worst case is reserved until this is known.

Beside `orphan`.  Where a provider keeps no marks, only the results of a batch show whose it is.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime

import sqlalchemy as sa

from keld.failpoint import failpoint
from keld.ledger import event
from keld.ledger.database import Database
from keld.ledger.record import Candidate, values_of
from keld.ledger.reservation import change_reserve
from keld.ledger.table import CANDIDATE
from keld.state import RunEvent

_THIS = (CANDIDATE.c.host == sa.bindparam("at"), CANDIDATE.c.batch_id == sa.bindparam("of"), CANDIDATE.c.settled_at.is_(None))
_SETTLE = sa.update(CANDIDATE).where(*_THIS).returning(CANDIDATE.c.run_id, CANDIDATE.c.shard_id, CANDIDATE.c.worst_usd)


class Candidates:
    """The candidates of a ledger."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def unsettled(self, provider: str, host: str) -> list[Candidate]:
        """The candidates of an account that are not settled."""
        return self._where(CANDIDATE.c.provider == provider, CANDIDATE.c.host == host, CANDIDATE.c.settled_at.is_(None))

    def of(self, run_id: str) -> list[Candidate]:
        """The candidates of a job run, settled or not."""
        return self._where(CANDIDATE.c.run_id == run_id)

    def add(self, candidate: Candidate) -> None:
        """Notes a candidate and reserves its worst case; one that was noted before stays as it is."""
        failpoint("ledger.candidate.before")
        with suppress(sa.exc.IntegrityError), self._db.write() as db:
            db.execute(sa.insert(CANDIDATE).values(values_of(candidate)))
            change_reserve(db, candidate.run_id, candidate.worst_usd)
            facts = {"batch_id": candidate.batch_id}
            event.append(db, candidate.found_at, candidate.run_id, RunEvent.CANDIDATE, shard_id=candidate.shard_id, facts=facts)
        failpoint("ledger.candidate.after")

    def release(self, host: str, batch_id: str, now: datetime) -> None:
        """Releases the reservation of a candidate, now that it is known whose it is: somebody else's, or counted elsewhere."""
        failpoint("ledger.candidate_released.before")
        with self._db.write() as db:
            release_candidate(db, host, batch_id, now)
        failpoint("ledger.candidate_released.after")

    def _where(self, *where: sa.ColumnElement[bool]) -> list[Candidate]:
        with self._db.read() as db:
            return [Candidate(**row._mapping) for row in db.execute(sa.select(CANDIDATE).where(*where))]


def release_candidate(db: sa.Connection, host: str, batch_id: str, now: datetime) -> None:
    """`Candidates.release`, within the caller's transaction; a batch that is no candidate changes nothing."""
    settled = db.execute(_SETTLE, {"at": host, "of": batch_id, "settled_at": now}).one_or_none()
    if settled is not None:
        change_reserve(db, settled.run_id, -settled.worst_usd)
        event.append(db, now, settled.run_id, RunEvent.CANDIDATE_RELEASED, shard_id=settled.shard_id, facts={"batch_id": batch_id})
