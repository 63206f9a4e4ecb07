"""Recovery: what staging remembers of job runs: kept up to date, compared with this ledger, and written to it where the ledger lost it.

Below `ledger`; `witness` keeps the memory, and `rebuild` writes it to the ledger.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime

import sqlalchemy as sa

from keld.errors import LedgerError, StagingError, UnknownJobRun
from keld.ledger import event, lookup
from keld.ledger.database import Database, shown
from keld.ledger.lease import Lease
from keld.ledger.memory import Memory
from keld.ledger.object import Objects
from keld.ledger.rebuild import take_in
from keld.ledger.record import Intent, JobRun, Orphan, Shard
from keld.ledger.table import INTENT, ORPHAN, RUN, SHARD
from keld.ledger.witness import Witness
from keld.state import RunEvent
from keld.stored import StoredName

log = logging.getLogger("keld")


class Recovery:
    """What staging remembers for one ledger; nothing if `witness` is None."""

    def __init__(self, db: Database, witness: Witness | None) -> None:
        self._db = db
        self._witness = witness
        self._checked: Lease | None = None  # the lease under which `check` last passed

    def memories(self, *, moved: bool = False) -> list[Memory]:
        """All that is remembered of this ledger's job runs, in no order; with `moved` also of those of ledgers at other addresses."""
        return [] if self._witness is None else list(self._witness.memories(moved=moved))

    def forgotten(self) -> list[JobRun]:
        """The job runs with batches at a provider, or with rows that must not be asked again, that staging has and this ledger has not."""
        if self._witness is None:
            return []
        ids = self._witness.out()
        with self._db.read() as db:
            known = set(db.execute(sa.select(RUN.c.id).where(lookup.among(RUN.c.id)), lookup.these(ids)).scalars())
        memories = (self._witness.memory(run_id) for run_id in ids if run_id not in known)
        return [memory.run for memory in memories if memory.run is not None]

    def left_behind(self) -> list[JobRun]:
        """As `forgotten`, of a ledger at another address that this one replaces: it is empty, or a copy that has others of them."""
        elsewhere = {} if self._witness is None else self._witness.out_elsewhere()
        if self._witness is None or not elsewhere:
            return []
        with self._db.read() as db:
            known = set(
                db.execute(sa.select(RUN.c.id).where(lookup.among(RUN.c.id)), lookup.these(set().union(*elsewhere.values()))).scalars()
            )
            empty = db.execute(sa.select(RUN.c.id).limit(1)).first() is None
        lacks = [run_id for ids in elsewhere.values() if empty or ids & known for run_id in sorted(ids - known)]
        return [memory.run for memory in map(self._witness.memory, lacks) if memory.run is not None and not memory.settled]

    def check(self, run_id: str) -> None:
        """Passes if staging remembers no create of a job run that this ledger does not.

        Raises:
            LedgerError: it does, so that sending anything could pay twice.
        """
        memory = None if self._witness is None else self._witness.memory(run_id)
        if memory is not None and memory.shards:
            self._compare(memory, memory.is_ahead_of(self._shards(run_id)))

    def check_shard(self, lease: Lease, shard: Shard) -> None:
        """As `check`, before a create of this shard; the job run's other shards are compared once a lease.

        A ledger that is restored under a lease forgets shards that this worker may send again; each is compared itself, whatever their number.

        Raises:
            LedgerError: as `check`.
        """
        if self._checked != lease:
            self.check(lease.run_id)
            self._checked = lease
        elif self._witness is not None:
            memory = self._witness.memory(lease.run_id)
            known = memory.shards.get(shard.id)
            self._compare(memory, [known] if known is not None and known.attempt > shard.attempt else [])

    def _compare(self, memory: Memory, ahead: Sequence[Shard]) -> None:
        if ahead and memory.run is not None:
            raise LedgerError(
                f"The ledger at {shown(self._db.url)} is older than staging: of {memory.run.job}[{memory.run.partition}] {len(ahead):,} shards were "
                "sent that it does not have. Perhaps it was restored from a backup. Nothing was sent. "
                "Run `keld reconcile --from-staging`, which adds what staging has."
            )

    def take_in(self, memory: Memory, now: datetime) -> bool:
        """True if something of a job run was added to the ledger from staging; what the ledger has itself is kept."""
        assert memory.run is not None
        ahead = {shard.id for shard in memory.is_ahead_of(self._shards(memory.run.id))}
        with self._db.write() as db:
            new = db.execute(sa.select(RUN.c.id).where(RUN.c.id == memory.run.id)).first() is None
            if not new and not ahead:
                return False
            take_in(db, memory, ahead, now, new=new)
            event.append(db, now, memory.run.id, RunEvent.REBUILT, became=memory.run.state, facts={"shards": len(memory.shards)})
        if self._witness is not None:
            self._witness.take_over(memory.run, list(memory.shards.values()))
        return True

    def remember_run(self, run_id: str) -> None:
        """Writes a job run that has changed as a whole to staging, as `remember` does."""
        if self._witness is not None and self._witness.is_here(run_id):
            self.remember(run_id, run=self._job_run(run_id))

    def remember(
        self,
        run_id: str,
        *,
        run: JobRun | None = None,
        shards: Sequence[Shard] = (),
        intents: Sequence[Intent] = (),
        orphans: Sequence[Orphan] = (),
        names: Mapping[str, StoredName] | None = None,
        durable: bool = False,
    ) -> None:
        """Writes what was just committed to staging; the whole job run, if staging has nothing of it yet.

        Args:
            run: the job run as it is now, if it has changed as a whole.
            names: the objects that some of its files are since.

        Raises:
            StagingError: it could not be written, and it is `durable`: without it nothing may be sent.
        """
        if self._witness is None or not self._witness.is_here(run_id):
            return
        try:
            self._note(self._witness, run_id, run, shards, intents, orphans, names, durable=durable)
        except StagingError as error:
            if durable:
                raise
            log.warning("witness.not_noted run=%s %s", run_id, error)

    def _note(
        self,
        witness: Witness,
        run_id: str,
        run: JobRun | None,
        shards: Sequence[Shard],
        intents: Sequence[Intent],
        orphans: Sequence[Orphan],
        names: Mapping[str, StoredName] | None,
        *,
        durable: bool,
    ) -> None:
        whole, answered_before = not witness.has(run_id), None
        changed = self._job_run(run_id) if run is None and whole else run
        if changed is not None and whole:
            with self._db.read() as db:
                shards, orphans = list(lookup.shards_of(db, [run_id])), lookup.orphans(db, ORPHAN.c.run_id == run_id)
                intents = lookup.intents(db, INTENT.c.shard_id.in_(sa.select(SHARD.c.id).where(SHARD.c.run_id == run_id)))
            answered_before, names = changed.answered - sum(shard.answered for shard in shards), Objects(self._db).of(run_id)
        witness.note(
            run_id,
            run=changed,
            shards=shards,
            intents=intents,
            orphans=orphans,
            names=names,
            answered_before=answered_before,
            durable=durable,
        )

    def _job_run(self, run_id: str) -> JobRun:
        with self._db.read() as db:
            run = lookup.job_run(db, run_id)
        if run is None:
            raise UnknownJobRun(f"No job run {run_id!r} in this ledger ({shown(self._db.url)}).", run_id=run_id)
        return run

    def _shards(self, run_id: str) -> list[Shard]:
        with self._db.read() as db:
            return list(lookup.shards_of(db, [run_id]))
