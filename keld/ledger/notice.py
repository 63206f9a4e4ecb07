"""Notice: which news of a job run were passed to a hook, so that each is passed on once, whatever dies in between.

Below `ledger`.  All of it is in the events of the job run: `watched` when an environment with a hook first met it, `telling` before the hook is
called, `told` after it returned.  A worker that dies in between has passed the news on or not; they are passed on again after a while, so that none is
lost and few are repeated.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection
from datetime import datetime, timedelta
from decimal import Decimal

import sqlalchemy as sa

from keld.ledger import event, lookup
from keld.ledger.database import Database
from keld.ledger.table import EVENT, ORPHAN, RUN
from keld.state import RunEvent

_TRIES = 5
_AGAIN_AFTER = timedelta(minutes=5)  # doubled by each try
_WATCHED = sa.exists().where(EVENT.c.run_id == RUN.c.id, EVENT.c.kind == RunEvent.WATCHED)
_OF = sa.select(EVENT.c.run_id, EVENT.c.kind, EVENT.c.at, EVENT.c.facts).where(
    lookup.among(EVENT.c.run_id), EVENT.c.kind.in_([RunEvent.WATCHED, RunEvent.TELLING, RunEvent.TOLD])
)
_TWICE = (
    sa.select(ORPHAN.c.run_id, sa.func.sum(ORPHAN.c.cost_usd))
    .where(lookup.among(ORPHAN.c.run_id), ORPHAN.c.settled_at.is_not(None), ORPHAN.c.cost_usd > 0)
    .group_by(ORPHAN.c.run_id)
)


class Notices:
    """What was told of the job runs of a ledger."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def watch(self, run_id: str, now: datetime) -> None:
        """Notes that the news of a job run are to be told from now on; once."""
        with self._db.write() as db:
            if not _events_of(db, run_id):
                event.append(db, now, run_id, RunEvent.WATCHED)

    def watched(self, namespace: str, since: datetime) -> list[str]:
        """The watched job runs that ended, or of which a second batch was paid, after `since`; in no order."""
        late_bill = sa.exists().where(ORPHAN.c.run_id == RUN.c.id, ORPHAN.c.settled_at > since)
        query = sa.select(RUN.c.id).where(RUN.c.namespace == namespace, sa.or_(RUN.c.finished_at > since, late_bill), _WATCHED)
        with self._db.read() as db:
            return list(db.execute(query).scalars())

    def told(self, run_ids: Collection[str]) -> dict[str, set[str]]:
        """The news of each of these job runs that were told, or failed too often, by job run; only of those that are watched."""
        found: dict[str, set[str]] = defaultdict(set)
        tries: Counter[tuple[str, str]] = Counter()
        with self._db.read() as db:
            for row in db.execute(_OF, lookup.these(run_ids)):
                news = found[row.run_id]
                tries[row.run_id, row.facts.get("news", "")] += row.kind == RunEvent.TELLING
                if row.kind == RunEvent.TOLD or tries[row.run_id, row.facts.get("news", "")] == _TRIES:
                    news.add(row.facts["news"])
        return dict(found)

    def paid_twice(self, run_ids: Collection[str]) -> dict[str, Decimal]:
        """What was paid for batches whose answers were not used, in USD, by job run; without those of which nothing was."""
        with self._db.read() as db:
            return {run_id: usd for run_id, usd in db.execute(_TWICE, lookup.these(run_ids))}  # noqa: C416  to a type checker, rows are not pairs

    def claim(self, run_id: str, news: str, now: datetime) -> bool:
        """True if this worker is to tell these news now: nobody has, is about to, or has failed too often."""
        with self._db.write() as db:
            db.execute(sa.select(RUN.c.id).where(RUN.c.id == run_id).with_for_update())  # of two workers at once, one is first
            before = [row for row in _events_of(db, run_id) if row.facts.get("news") == news]
            tries = [row.at for row in before if row.kind == RunEvent.TELLING]
            if len(tries) == _TRIES or any(row.kind == RunEvent.TOLD for row in before):
                return False
            # On either side: an instant in the future was recorded before the clock was set back.
            if tries and abs(now - tries[-1]) < _AGAIN_AFTER * 2 ** (len(tries) - 1):
                return False
            event.append(db, now, run_id, RunEvent.TELLING, facts={"news": news})
            return True

    def confirm(self, run_id: str, news: str, now: datetime) -> None:
        """Notes that the hook has returned."""
        with self._db.write() as db:
            event.append(db, now, run_id, RunEvent.TOLD, facts={"news": news})


def _events_of(db: sa.Connection, run_id: str) -> list[sa.Row[tuple[str, str, datetime, dict[str, str]]]]:
    return list(db.execute(_OF.order_by(EVENT.c.id), lookup.these([run_id])))
