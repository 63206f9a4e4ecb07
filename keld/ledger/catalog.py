"""Catalog: job runs by namespace, job and partition: found, counted, moved to another namespace, handed over to another owner.

Below `ledger`.  What is written here changes nothing that is in progress, and needs no lease.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import datetime
from operator import attrgetter

import sqlalchemy as sa

from keld.ledger import event, lookup
from keld.ledger.database import Database
from keld.ledger.record import JobRun, Shard
from keld.ledger.recovery import Recovery
from keld.ledger.table import RUN, SHARD
from keld.price import Lane
from keld.state import AT_PROVIDER, RunEvent, RunState, State

_OVER = (RunState.FINISHED, RunState.CANCELLED)
_DUE = sa.select(RUN.c.id).where(lookup.among(RUN.c.id), RUN.c.next_check_at <= sa.bindparam("now"))


class Catalog:
    """The job runs of a ledger."""

    def __init__(self, db: Database, recovery: Recovery) -> None:
        self._db = db
        self._recovery = recovery

    # -- reading ----------------------------------------------------------------------------------------------

    def latest(self, namespace: str, job: str, partition: str) -> JobRun | None:
        """The youngest generation of (namespace, job, partition), or None."""
        query = (
            lookup.JOB_RUNS.where(RUN.c.namespace == namespace, RUN.c.job == job, RUN.c.partition == partition)
            .order_by(RUN.c.generation.desc())
            .limit(1)
        )
        return next(iter(self._found(query)), None)

    def latest_of(self, namespace: str, job: str) -> JobRun | None:
        """The youngest job run of a job, of whatever partition, or None."""
        return next(iter(self.runs(namespace, job=job, limit=1)), None)

    def namespaces(self) -> dict[str, int]:
        """How many job runs each namespace holds."""
        with self._db.read() as db:
            found = db.execute(sa.select(RUN.c.namespace, sa.func.count()).group_by(RUN.c.namespace).order_by(RUN.c.namespace)).all()
        return {name: count for name, count in found}  # noqa: C416  to a type checker, rows are not pairs

    def runs(
        self,
        namespace: str,
        *,
        job: str | None = None,
        open_only: bool = False,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
    ) -> list[JobRun]:
        """Job runs, the youngest first; those made from `since` on, and before `until`."""
        query = lookup.JOB_RUNS.where(*lookup.chosen(namespace, job, since, until))
        if open_only:
            query = query.where(RUN.c.state.not_in(_OVER))
        if limit:
            return self._found(query.order_by(RUN.c.created_at.desc(), RUN.c.id).limit(limit))
        # Ordered here: SQLite would move all that it has read of each.
        return sorted(sorted(self._found(query), key=attrgetter("id")), key=attrgetter("created_at"), reverse=True)

    def overlooked(self, namespace: str, before: datetime) -> list[JobRun]:
        """Open job runs that have a batch in progress, and that nobody has looked at though they were due before this instant."""
        unleased = sa.or_(RUN.c.lease_until.is_(None), RUN.c.lease_until < before)
        at_provider = sa.exists().where(SHARD.c.run_id == RUN.c.id, SHARD.c.state == State.IN_PROGRESS)
        due = (RUN.c.state.in_((RunState.OPEN, RunState.CANCELLING)), RUN.c.next_check_at < before)
        return self._found(lookup.JOB_RUNS.where(RUN.c.namespace == namespace, *due, unleased, at_provider))

    def due(self, run_ids: Collection[str], now: datetime) -> list[str]:
        """Those of these job runs at which a look is due, in no order."""
        with self._db.read() as db:
            return list(db.execute(_DUE, {**lookup.these(run_ids), "now": now}).scalars())

    def at_providers(self) -> dict[tuple[str, str], int]:
        """How many batches of all namespaces are at a provider now, by account and model."""
        query = sa.select(SHARD.c.provider, SHARD.c.model, sa.func.count()).where(
            SHARD.c.state.in_(AT_PROVIDER), SHARD.c.lane == Lane.BATCH
        )
        with self._db.read() as db:
            return {(provider, model): count for provider, model, count in db.execute(query.group_by(SHARD.c.provider, SHARD.c.model))}

    def by_ids(self, run_ids: Collection[str]) -> list[JobRun]:
        """Those of these job runs that are in this ledger, in no order."""
        with self._db.read() as db:
            return lookup.job_runs_of(db, run_ids)

    def shards_of(self, run_ids: Collection[str]) -> dict[str, list[Shard]]:
        """The shards of many job runs, by job run, each by ordinal."""
        return self._by_run(run_ids, only_open=False)

    def open_shards_of(self, run_ids: Collection[str]) -> dict[str, list[Shard]]:
        """The shards of many job runs that are not over, by job run, each by ordinal."""
        return self._by_run(run_ids, only_open=True)

    def _by_run(self, run_ids: Collection[str], *, only_open: bool) -> dict[str, list[Shard]]:
        found: dict[str, list[Shard]] = {}
        with self._db.read() as db:
            for shard in lookup.shards_of(db, run_ids, only_open=only_open):
                found.setdefault(shard.run_id, []).append(shard)
        return found

    def runs_asking(
        self, namespace: str, fingerprint: str, *, job: str | None = None, partition: str = "", limit: int = 50
    ) -> list[JobRun]:
        """Job runs that are over and have this fingerprint, the youngest first; of one partition of a job, or of any."""
        query = lookup.JOB_RUNS.where(RUN.c.namespace == namespace, RUN.c.fingerprint == fingerprint, RUN.c.state.in_(_OVER))
        if job is not None:
            query = query.where(RUN.c.job == job, RUN.c.partition == partition)
        return self._found(query.order_by(RUN.c.created_at.desc(), RUN.c.id).limit(limit))

    def partition_at(self, namespace: str, job: str, sink: str, other_than: str) -> str | None:
        """Another partition of the job that was, or will be, written to exactly `sink`; None if there is none."""
        query = (
            sa.select(RUN.c.partition)
            .where(RUN.c.namespace == namespace, RUN.c.job == job, RUN.c.sink == sink, RUN.c.partition != other_than)
            .limit(1)
        )
        with self._db.read() as db:
            return db.execute(query).scalar_one_or_none()

    def _found(self, query: sa.Select[tuple[object, ...]]) -> list[JobRun]:
        with self._db.read() as db:
            return lookup.job_runs(db, query)

    # -- writing ----------------------------------------------------------------------------------------------

    def hand_over(self, namespace: str, job: str, owner: str) -> None:
        """Notes who declares a job from now on."""
        these = (RUN.c.namespace == namespace, RUN.c.job == job, RUN.c.owner.is_distinct_from(owner))
        with self._db.write() as db:
            handed_over = db.execute(sa.update(RUN).where(*these).values(owner=owner).returning(RUN.c.id)).scalars().all()
        for run_id in handed_over:
            self._recovery.remember_run(run_id)

    def move(self, namespace: str, job: str, partition: str, into: str, now: datetime) -> None:
        """Moves the job runs of a partition to another namespace, if that has none of this partition yet."""
        these = (RUN.c.job == job, RUN.c.partition == partition)
        moved: list[str] = []
        with suppress(sa.exc.IntegrityError), self._db.write() as db:
            move = sa.update(RUN).where(RUN.c.namespace == namespace, *these).values(namespace=into).returning(RUN.c.id, RUN.c.state)
            for run_id, state in db.execute(move).all():
                event.append(db, now, run_id, RunEvent.MOVED, was=state, became=state, facts={"from": namespace})
                moved.append(run_id)
        for run_id in moved:
            self._recovery.remember_run(run_id)

    def redeclare(self, run_id: str, declared: Mapping[str, str], source: str | None) -> None:
        """Notes the current declaration of a job run, which asks the same as before."""
        with self._db.write() as db:
            db.execute(sa.update(RUN).where(RUN.c.id == run_id).values(declared=dict(declared), source=source, outdated=None))
        self._recovery.remember_run(run_id)

    def note_outdated(self, run_id: str, outdated: str | None) -> None:
        """Notes what has changed in the declaration since a job run was sent, in words; None: nothing."""
        with self._db.write() as db:
            db.execute(sa.update(RUN).where(RUN.c.id == run_id).values(outdated=outdated))
        self._recovery.remember_run(run_id)
