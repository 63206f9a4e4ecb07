"""Ledger: what happens to job runs and shards, recorded under a lease: events, states, intents, reservations.

The top room of the ledger.  Everything about a job run in progress is written here; what needs no lease is written by the other parts (`catalog`,
`control`, `orphans`, ...), in the same database.  Events are appended; the state they lead to is kept beside them in the same transaction,
for queries.  The ledger is O(shards): rows, prompts and answers are in files, and no key, prompt or answer is ever stored here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from keld.errors import UnknownJobRun
from keld.failpoint import failpoint
from keld.ledger import event as event_log
from keld.ledger import lookup
from keld.ledger.account import Accounts
from keld.ledger.candidate import Candidates
from keld.ledger.catalog import Catalog
from keld.ledger.control import Control
from keld.ledger.cost import Costs
from keld.ledger.database import Database, shown
from keld.ledger.history import History
from keld.ledger.lease import Lease, Leases
from keld.ledger.notice import Notices
from keld.ledger.object import Objects, name_objects
from keld.ledger.orphan import Orphans, add_orphan
from keld.ledger.progress import Progress
from keld.ledger.queue import Queue
from keld.ledger.record import CONFIRMED, EventRecord, Intent, JobRun, Orphan, Shard, values_of
from keld.ledger.recovery import Recovery
from keld.ledger.reservation import follow, reserve_within_ceiling
from keld.ledger.stretch import Stretches
from keld.ledger.table import INTENT, RUN, SHARD, VERSION
from keld.ledger.transition import move
from keld.ledger.witness import Witness
from keld.staging import Staging
from keld.state import Event, RunEvent, RunState, State
from keld.stored import StoredName

_NO_OBJECTS: Mapping[str, StoredName] = {}
_INTEND = sa.insert(INTENT)
_DROPPED_BEFORE = sa.select(SHARD.c.outcomes).where(
    SHARD.c.run_id == sa.bindparam("run"),
    SHARD.c.round == sa.bindparam("of"),
    SHARD.c.ordinal < sa.bindparam("before"),
    SHARD.c.state == State.DROPPED,
)


class Ledger:
    """The ledger at an SQLAlchemy URL; its tables are made if missing.

    Args:
        lease_for: how long a lease lasts after its latest renewal.
        staging: where a copy of each job run's records is kept (see `witness`); None: nowhere.
        in_memory: an empty one in its place, for who only asks where there is none yet; nothing is written at the URL.

    Raises:
        LedgerError: it cannot be opened or written, or is of a later version.
    """

    def __init__(
        self, url: str, *, lease_for: timedelta = timedelta(seconds=120), staging: Staging | None = None, in_memory: bool = False
    ) -> None:
        self.url = url
        self.in_memory = in_memory
        self._db = Database(url, in_memory=in_memory)
        self.leases = Leases(self._db, lease_for)
        self.recovery = Recovery(self._db, None if staging is None else Witness(staging, shown(url)))
        self.catalog = Catalog(self._db, self.recovery)
        self.control = Control(self._db, self.recovery)
        self.progress = Progress(self._db, self.leases)
        self.accounts = Accounts(self._db)
        self.orphans = Orphans(self._db, self.recovery)
        self.candidates = Candidates(self._db)
        self.queue = Queue(self._db)
        self.history = History(self._db)
        self.costs = Costs(self._db)
        self.stretches = Stretches(self._db, self.leases)
        self.objects = Objects(self._db)
        self.notices = Notices(self._db)

    def close(self) -> None:
        self._db.close()

    def check_writable(self) -> None:
        """Writes what is there already, and an event that it takes back.

        Raises:
            LedgerError: it cannot be written.
        """
        with self._db.write() as db:
            db.execute(sa.update(VERSION).values(version=VERSION.c.version))
            with (
                db.begin_nested() as tried
            ):  # an event takes its number from a sequence, for which a role of Postgres needs a right of its own
                event_log.append(db, datetime.now(UTC), "", RunEvent.OPENED)
                tried.rollback()

    # -- reading ----------------------------------------------------------------------------------------------

    def run(self, run_id: str) -> JobRun:
        """The job run of that id.

        Raises:
            UnknownJobRun: there is none.
        """
        with self._db.read() as db:
            found = lookup.job_run(db, run_id)
        if found is None:
            raise UnknownJobRun(f"No job run {run_id!r} in this ledger ({shown(self.url)}).", run_id=run_id)
        return found

    def runs(self, run_ids: Sequence[str]) -> list[JobRun]:
        """These job runs, in this order.

        Raises:
            UnknownJobRun: there is none of one of these ids.
        """
        found = {run.id: run for run in self.catalog.by_ids(run_ids)}
        return [found.get(run_id) or self.run(run_id) for run_id in run_ids]

    def shards(self, run_id: str) -> list[Shard]:
        """The shards of a job run, by ordinal."""
        with self._db.read() as db:
            return list(lookup.shards_of(db, [run_id]))

    def open_shards(self, run_id: str) -> list[Shard]:
        """The shards of a job run that are not over, by ordinal: few, however many it had."""
        with self._db.read() as db:
            return list(lookup.shards_of(db, [run_id], only_open=True))

    def dropped_before(self, shard: Shard, outcome: str) -> bool:
        """True if a shard of the same round and before this one was dropped with that outcome of its rows."""
        with self._db.read() as db:
            dropped = db.execute(_DROPPED_BEFORE, {"run": shard.run_id, "of": shard.round, "before": shard.ordinal}).scalars()
            return any(outcome in (outcomes or {}) for outcomes in dropped)

    def shard(self, shard_id: str) -> Shard | None:
        """The shard of that id, or None."""
        with self._db.read() as db:
            return lookup.shard(db, shard_id)

    def intents(self, shard_id: str) -> list[Intent]:
        """The creates of a shard, in order."""
        with self._db.read() as db:
            return lookup.intents(db, INTENT.c.shard_id == shard_id)

    def events(self, run_id: str) -> list[EventRecord]:
        """What happened to a job run, in order."""
        with self._db.read() as db:
            return event_log.events(db, run_id)

    # -- a job run --------------------------------------------------------------------------------------------

    def open_run(
        self, run: Mapping[str, Any], shards: Sequence[Shard], now: datetime, *, objects: Mapping[str, StoredName] = _NO_OBJECTS
    ) -> JobRun | None:
        """A new job run with its planned shards, in one transaction; None if another worker made that generation first."""
        failpoint("ledger.open_run.before")
        try:
            with self._db.write() as db:
                db.execute(sa.insert(RUN).values(state=RunState.OPEN, created_at=now, next_check_at=now, **run))
                _insert_shards(db, shards)
                name_objects(db, run["id"], objects)
                facts = {"rows": run["rows"], "shards": len(shards)}
                event_log.append(db, now, run["id"], RunEvent.OPENED, became=RunState.OPEN, facts=facts)
        except sa.exc.IntegrityError:
            return None
        failpoint("ledger.open_run.after")
        opened = self.run(run["id"])
        self.recovery.remember(opened.id, run=opened)
        return opened

    def add_shards(
        self, lease: Lease, shards: Sequence[Shard], round_: int, now: datetime, *, objects: Mapping[str, StoredName] = _NO_OBJECTS
    ) -> None:
        """The shards of a next round, planned.

        Raises:
            LedgerError: staging has a shard that was sent and that the ledger does not have.
        """
        self.recovery.check(lease.run_id)
        failpoint("ledger.add_shards.before")
        with self.leases.held(lease, now) as db:
            _insert_shards(db, shards)
            name_objects(db, lease.run_id, objects)
            db.execute(sa.update(RUN).where(RUN.c.id == lease.run_id).values(round=round_))
            event_log.append(db, now, lease.run_id, RunEvent.ROUND, epoch=lease.epoch, facts={"round": round_, "shards": len(shards)})
        failpoint("ledger.add_shards.after")
        self.recovery.remember(lease.run_id, shards=shards, names=objects)

    def record_run(
        self,
        lease: Lease,
        now: datetime,
        kind: RunEvent,
        *,
        state: RunState | None = None,
        facts: Mapping[str, Any] | None = None,
        objects: Mapping[str, StoredName] = _NO_OBJECTS,
        **changes: Any,
    ) -> JobRun:
        """The job run after something happened to it as a whole.

        Raises:
            LeaseLost: another worker holds it.
        """
        failpoint(f"ledger.run_{kind}.before")
        with self.leases.held(lease, now) as db:
            was = db.execute(sa.select(RUN.c.state).where(RUN.c.id == lease.run_id)).scalar_one()
            values = dict(changes) | ({"state": state} if state else {})
            if values:
                db.execute(sa.update(RUN).where(RUN.c.id == lease.run_id).values(**values))
            name_objects(db, lease.run_id, objects)
            event_log.append(db, now, lease.run_id, kind, was=was, became=state or was, epoch=lease.epoch, facts=facts)
        failpoint(f"ledger.run_{kind}.after")
        became = self.run(lease.run_id)
        self.recovery.remember(lease.run_id, run=became, names=objects)
        return became

    # -- a shard ----------------------------------------------------------------------------------------------

    def record(
        self,
        lease: Lease,
        shard: Shard,
        event: Event,
        now: datetime,
        *,
        facts: Mapping[str, Any] | None = None,
        orphans: Sequence[Orphan] = (),
        objects: Mapping[str, StoredName] = _NO_OBJECTS,
        **changes: Any,
    ) -> Shard:
        """The shard after `event`: its state by the transition table, `changes` to its fields, the event appended.

        Args:
            orphans: other batches of the shard that were found with the event.
            objects: files of the job run that were written for it, here and in the other methods; named by the same commit.

        Raises:
            LeaseLost: another worker holds the job run, or has moved this shard on.
        """
        failpoint(f"ledger.{event.value}.before")
        with self.leases.held(lease, now) as db:
            became = move(db, lease, shard, event, now, facts or {}, changes)
            for orphan in orphans:
                add_orphan(db, orphan)
            follow(db, shard, event, became)
            name_objects(db, shard.run_id, objects)
        failpoint(f"ledger.{event.value}.after")
        self.recovery.remember(shard.run_id, shards=[became], orphans=orphans, names=objects)
        return became

    def record_intent(self, lease: Lease, shard: Shard, now: datetime, after_batch: str | None = None) -> Shard:
        """The shard in SUBMITTING, its worst case reserved under the ceiling, the intent written: all or nothing.

        Args:
            after_batch: the provider's youngest batch before it, where batches carry no mark.

        Raises:
            CeilingTooLow: spent + reserved + this worst case exceeds the ceiling; nothing was written or sent.
            LeaseLost: another worker holds the job run.
            LedgerError: staging has a create of this shard or of another one that the ledger does not have.
        """
        self.recovery.check_shard(lease, shard)
        attempt = shard.attempt + 1
        changes = {"attempt": attempt, "intent_at": now, "worst_usd": shard.worst_usd, "looks": 0, "not_before": None, "error": None}
        intent = Intent(
            shard_id=shard.id, attempt=attempt, at=now, requests=shard.requests, after_batch=after_batch, outcome="sending", batch_id=None,
            input_ref=shard.input_ref,
        )  # fmt: skip
        failpoint("ledger.sending.before")
        with self.leases.held(lease, now) as db:
            reserve_within_ceiling(db, shard)
            became = move(db, lease, shard, Event.SENDING, now, {"attempt": attempt}, changes)
            db.execute(_INTEND, values_of(intent))
        failpoint("ledger.sending.after")
        self.recovery.remember(shard.run_id, shards=[became], intents=[intent], durable=True)
        return became

    def confirm(self, lease: Lease, shard: Shard, now: datetime) -> None:
        """Notes that the list was checked for other batches of the shard's latest create."""
        failpoint("ledger.confirmed.before")
        with self.leases.held(lease, now) as db:
            this = (INTENT.c.shard_id == shard.id, INTENT.c.attempt == shard.attempt)
            db.execute(sa.update(INTENT).where(*this).values(outcome=CONFIRMED))
        failpoint("ledger.confirmed.after")


def _insert_shards(db: sa.Connection, shards: Sequence[Shard]) -> None:
    if shards:
        db.execute(sa.insert(SHARD), [values_of(shard) for shard in shards])
