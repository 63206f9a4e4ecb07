"""Orphan: a batch that a shard has in addition to its own; it is cancelled, its cost is counted, its answers are not used.

Below `ledger`.  Its worst case is reserved until its cost is known.  The tables and events call it `stray`.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from decimal import Decimal

import sqlalchemy as sa

from keld.failpoint import failpoint
from keld.ledger import event, lookup
from keld.ledger.candidate import release_candidate
from keld.ledger.cost import in_doubt_usd
from keld.ledger.database import Database
from keld.ledger.record import Orphan, values_of
from keld.ledger.recovery import Recovery
from keld.ledger.reservation import change_reserve
from keld.ledger.table import ORPHAN, RUN
from keld.state import RunEvent


class Orphans:
    """The orphan batches of a ledger."""

    def __init__(self, db: Database, recovery: Recovery) -> None:
        self._db = db
        self._recovery = recovery

    def unsettled(self, provider: str, host: str) -> list[Orphan]:
        """The orphan batches of an account whose cost is not known yet."""
        return self._where(ORPHAN.c.provider == provider, ORPHAN.c.host == host, ORPHAN.c.settled_at.is_(None))

    def of(self, run_id: str) -> list[Orphan]:
        """The orphan batches of a job run, settled or not."""
        return self._where(ORPHAN.c.run_id == run_id)

    def add(self, orphan: Orphan) -> None:
        """Notes an orphan batch and reserves its worst case until its cost is known; one that was noted before stays as it is."""
        failpoint("ledger.stray.before")
        with suppress(sa.exc.IntegrityError), self._db.write() as db:
            add_orphan(db, orphan)
        failpoint("ledger.stray.after")
        self._recovery.remember(orphan.run_id, orphans=self.of(orphan.run_id))

    def settle(self, host: str, batch_id: str, cost_usd: Decimal, now: datetime, lost: int = 0) -> None:
        """Counts what an orphan batch cost, once.

        Args:
            lost: rows that its results lack; their share of the worst case stays reserved.
        """
        unsettled = (ORPHAN.c.host == host, ORPHAN.c.batch_id == batch_id, ORPHAN.c.settled_at.is_(None))
        failpoint("ledger.stray_settled.before")
        with self._db.write() as db:
            found = lookup.orphans(db, *unsettled)
            for orphan in found:
                doubtful = in_doubt_usd(orphan.requests, orphan.worst_usd, lost)
                cost = {"settled_at": now, "cost_usd": cost_usd, "lost": lost, "doubtful_usd": doubtful}
                if db.execute(sa.update(ORPHAN).where(*unsettled).values(**cost)).rowcount == 1:
                    spent = {"reserved_usd": RUN.c.reserved_usd - (orphan.worst_usd - doubtful), "spent_usd": RUN.c.spent_usd + cost_usd}
                    db.execute(sa.update(RUN).where(RUN.c.id == orphan.run_id).values(**spent))
                    facts = {"batch_id": batch_id, "cost_usd": str(cost_usd)}
                    event.append(db, now, orphan.run_id, RunEvent.ORPHAN_SETTLED, shard_id=orphan.shard_id, facts=facts)
        failpoint("ledger.stray_settled.after")
        for orphan in found:
            self._recovery.remember(orphan.run_id, orphans=self.of(orphan.run_id))

    def _where(self, *where: sa.ColumnElement[bool]) -> list[Orphan]:
        with self._db.read() as db:
            return lookup.orphans(db, *where)


def add_orphan(db: sa.Connection, orphan: Orphan) -> None:
    """Notes an orphan batch and reserves its worst case, within the caller's transaction; it is no longer a candidate."""
    release_candidate(db, orphan.host, orphan.batch_id, orphan.found_at)
    db.execute(sa.insert(ORPHAN).values(values_of(orphan)))
    change_reserve(db, orphan.run_id, orphan.worst_usd)
    event.append(db, orphan.found_at, orphan.run_id, RunEvent.ORPHAN, shard_id=orphan.shard_id, facts={"batch_id": orphan.batch_id})
