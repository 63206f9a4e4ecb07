"""Lease: who may act on a job run, and until when.

Below `ledger`.  Many workers may act on one job run, and one holds its lease.  Every write first renews that lease by compare-and-swap on the
epoch, inside its own transaction: if a worker was paused past its lease, its writes are refused, whatever it assumes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import msgspec
import sqlalchemy as sa

from keld.errors import LeaseLost
from keld.failpoint import failpoint
from keld.ledger.database import Database
from keld.ledger.table import RUN

WORKER_SKEW = timedelta(
    minutes=5
)  # between the clocks of workers: an instant further in the future was recorded before the clock was set back
_MINE = (RUN.c.id == sa.bindparam("run"), RUN.c.lease_epoch == sa.bindparam("of"))
_RENEW = sa.update(RUN).where(*_MINE, RUN.c.lease_owner == sa.bindparam("by")).values(lease_until=sa.bindparam("until"))
# A wake, or a cancel, that came while the lease was held: the worker that gives it back may have looked before that.
_NEXT = sa.bindparam("next", type_=RUN.c.next_check_at.type)
_ASKED_MEANWHILE = sa.and_(RUN.c.next_check_at.is_distinct_from(sa.bindparam("was_due")), RUN.c.next_check_at < _NEXT)
_RELEASE = (
    sa.update(RUN)
    .where(*_MINE)
    .values(
        lease_owner=None,
        lease_until=None,
        next_check_at=sa.case((_ASKED_MEANWHILE, RUN.c.next_check_at), else_=_NEXT),
        escalates_at=sa.bindparam("escalates"),
        problem=sa.bindparam("stopped_by"),
    )
)
_CLAIM = (
    sa.update(RUN)
    .where(
        RUN.c.id == sa.bindparam("run"),
        sa.or_(
            RUN.c.lease_until.is_(None),
            RUN.c.lease_until < sa.bindparam("now"),
            # A lease that is valid for longer than any can be was recorded before the clock was set back.
            RUN.c.lease_until > sa.bindparam("longest"),
            RUN.c.lease_owner == sa.bindparam("dead"),
        ),
    )
    .values(lease_owner=sa.bindparam("by"), lease_epoch=RUN.c.lease_epoch + 1, lease_until=sa.bindparam("until"))
    .returning(RUN.c.lease_epoch, RUN.c.next_check_at)
)


class Lease(msgspec.Struct, frozen=True):
    """The right to act on a job run, valid while the epoch is unchanged."""

    run_id: str
    owner: str
    epoch: int
    due_at: datetime | None = None  # when a look was due, as it was claimed


class Leases:
    """The leases of all job runs; each lasts for `lease_for` after its latest renewal."""

    def __init__(self, db: Database, lease_for: timedelta) -> None:
        self.lease_for = lease_for
        self._db = db

    def claim(self, run_id: str, owner: str, now: datetime, *, dead_owner: str | None = None) -> Lease | None:
        """The lease on a job run, or None while another worker's is valid; that of a worker known to be dead is not."""
        until = now + self.lease_for
        claim = {"run": run_id, "by": owner, "now": now, "until": until, "longest": until + WORKER_SKEW, "dead": dead_owner}
        with self._db.write() as db:
            claimed = db.execute(_CLAIM, claim).one_or_none()
        failpoint("lease.claimed")
        return None if claimed is None else Lease(run_id, owner, claimed.lease_epoch, claimed.next_check_at)

    def renew(self, lease: Lease, now: datetime) -> None:
        """Prolongs the lease during a long step.

        Raises:
            LeaseLost: another worker holds it.
        """
        with self.held(lease, now):
            pass

    def release(
        self,
        lease: Lease,
        next_check_at: datetime | None,
        problem: Mapping[str, Any] | None = None,
        *,
        escalates_at: datetime | None = None,
    ) -> None:
        """Gives the lease back, if it is still held; notes when to look again, and the problem that stops the job run, if any.

        A look that was asked for since the lease was claimed (see `control`) stays due.
        """
        failpoint("lease.release")
        noted = {"next": next_check_at, "escalates": escalates_at, "stopped_by": dict(problem) if problem else None}
        with self._db.write() as db:
            db.execute(_RELEASE, {"run": lease.run_id, "of": lease.epoch, "was_due": lease.due_at, **noted})

    @contextmanager
    def held(self, lease: Lease, now: datetime) -> Iterator[sa.Connection]:
        """One transaction under the lease, which it renews.

        Raises:
            LeaseLost: another worker holds it; nothing is written.
        """
        with self._db.write() as db:
            renewed = db.execute(_RENEW, {"run": lease.run_id, "of": lease.epoch, "by": lease.owner, "until": now + self.lease_for})
            if renewed.rowcount != 1:
                raise LeaseLost(f"Job run {lease.run_id} is held by another worker now; this one's write was refused and nothing was lost.")
            yield db
