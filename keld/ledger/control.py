"""Control: requests of people and orchestrators: to cancel a job run, to look at it now, to write it elsewhere, to open it again; and who waits for it.

Below `ledger`.  None of it needs the lease: the worker that holds it sees the request at its next step.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

import sqlalchemy as sa

from keld.ledger import event, lookup
from keld.ledger.database import Database
from keld.ledger.record import Attachment
from keld.ledger.recovery import Recovery
from keld.ledger.table import ATTACHMENT, ORPHAN, RUN, SHARD
from keld.state import RunEvent, RunState

_IS_OVER = RUN.c.state.in_([RunState.FINISHED, RunState.CANCELLED])


class Control:
    """Requests about the job runs of a ledger."""

    def __init__(self, db: Database, recovery: Recovery) -> None:
        self._db = db
        self._recovery = recovery

    def ask_cancel(self, run_id: str, now: datetime) -> None:
        """Marks an open job run as cancelling."""
        with self._db.write() as db:
            _ask_cancel(db, run_id, now)
        self._recovery.remember_run(run_id)

    def wake(self, provider: str, batch_id: str, now: datetime) -> str | None:
        """The job run that a batch belongs to, whose next look is due now unless it is over; None: the ledger has no such batch of that account."""
        here = [sa.select(of.c.run_id).where(of.c.provider == provider, of.c.batch_id == batch_id) for of in (SHARD, ORPHAN)]
        with self._db.write() as db:
            run_id = db.execute(sa.union(*here)).scalars().first()
            if run_id is not None:
                # A look that is overdue stays due since then; but one that is under way may have read the provider before this.
                sooner = sa.or_(RUN.c.next_check_at > now, RUN.c.lease_owner.is_not(None))
                db.execute(sa.update(RUN).where(RUN.c.id == run_id, ~_IS_OVER, sooner).values(next_check_at=now))
        return run_id

    def attach(self, run_id: str, holder: str) -> int:
        """Notes that `holder` waits for a job run; the epoch of the attachment, which grows each time `holder` attaches."""
        mine = (ATTACHMENT.c.run_id == run_id, ATTACHMENT.c.holder == holder)
        again = sa.update(ATTACHMENT).where(*mine).values(epoch=ATTACHMENT.c.epoch + 1).returning(ATTACHMENT.c.epoch)
        with self._db.write() as db:
            epoch = db.execute(again).scalar_one_or_none()
            if epoch is None:
                db.execute(sa.insert(ATTACHMENT).values(run_id=run_id, holder=holder, epoch=1))
        return epoch or 1

    def holders(self, run_ids: Collection[str]) -> list[Attachment]:
        """Who waits for these job runs, in no order."""
        with self._db.read() as db:
            rows = db.execute(sa.select(ATTACHMENT).where(lookup.among(ATTACHMENT.c.run_id)), lookup.these(run_ids)).mappings()
            return [Attachment(**row) for row in rows]

    def leave(self, holder: str) -> None:
        """Notes that `holder` waits for no job run any more, and cancels none."""
        with self._db.write() as db:
            db.execute(sa.delete(ATTACHMENT).where(ATTACHMENT.c.holder == holder))

    def detach(self, run_id: str, holder: str, epoch: int, now: datetime) -> bool:
        """True if the job run is now being cancelled: `holder` left, has not attached again since, and no other holder waits for it."""
        mine = (ATTACHMENT.c.run_id == run_id, ATTACHMENT.c.holder == holder, ATTACHMENT.c.epoch == epoch)
        with self._db.write() as db:
            if db.execute(sa.delete(ATTACHMENT).where(*mine)).rowcount != 1:
                return False
            others = db.execute(sa.select(ATTACHMENT.c.holder).where(ATTACHMENT.c.run_id == run_id).limit(1)).first()
            return others is None and _ask_cancel(db, run_id, now)

    def set_sink(self, run_id: str, sink: str | None, now: datetime) -> None:
        """Sets the sink of a job run that is not over; also if the output could not be written to the sink before; None: no output.

        A problem with the sink before is cleared.
        """
        with self._db.write() as db:
            writing = sa.update(RUN).where(RUN.c.id == run_id, RUN.c.state == RunState.WRITING)
            if db.execute(writing.values(sink=sink, next_check_at=now, problem=None)).rowcount == 0 and sink is not None:
                under_way = RUN.c.state.in_([RunState.OPEN, RunState.CANCELLING])
                db.execute(sa.update(RUN).where(RUN.c.id == run_id, under_way).values(sink=sink))
        self._recovery.remember_run(run_id)

    def reopen(self, run_id: str, now: datetime) -> None:
        """Opens a job run again that is over, since a batch of it was found; an open one stays as it is.

        One that the user cancelled becomes CANCELLING.
        """
        with self._db.write() as db:
            for was, became in ((RunState.FINISHED, RunState.OPEN), (RunState.CANCELLED, RunState.CANCELLING)):
                this = (RUN.c.id == run_id, RUN.c.state == was)
                if db.execute(sa.update(RUN).where(*this).values(state=became, next_check_at=now)).rowcount:
                    event.append(db, now, run_id, RunEvent.REOPENED, was=was, became=became)
        self._recovery.remember_run(run_id)

    def write_again(self, run_id: str, sink: str, now: datetime) -> None:
        """Opens a job run again that is over, only to write its output to `sink`; costs nothing."""
        this = (RUN.c.id == run_id, _IS_OVER, RUN.c.removed_at.is_(None))
        with self._db.write() as db:
            opened = db.execute(sa.update(RUN).where(*this).values(state=RunState.WRITING, sink=sink, next_check_at=now))
            if opened.rowcount:
                event.append(db, now, run_id, RunEvent.WRITE_AGAIN, became=RunState.WRITING)
        self._recovery.remember_run(run_id)

    def note_removed(self, run_id: str, now: datetime) -> bool:
        """Notes that the files of a job run are about to be removed; False if it is not over."""
        with self._db.write() as db:
            return db.execute(sa.update(RUN).where(RUN.c.id == run_id, _IS_OVER).values(removed_at=now)).rowcount > 0


def _ask_cancel(db: sa.Connection, run_id: str, now: datetime) -> bool:
    """True if the job run was open, and is cancelling from now on."""
    this = (RUN.c.id == run_id, RUN.c.state == RunState.OPEN)
    asked = db.execute(sa.update(RUN).where(*this).values(state=RunState.CANCELLING, next_check_at=now)).rowcount > 0
    if asked:
        event.append(db, now, run_id, RunEvent.CANCEL_ASKED, was=RunState.OPEN, became=RunState.CANCELLING)
    return asked
