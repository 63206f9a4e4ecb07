"""Ledger: what happened, in order, durable; SQLite by default, Postgres by URL.

Beside the road, below `runner`.  Events are appended; the state they lead to is kept beside them in the same transaction, for
queries.  The ledger is O(shards): rows, prompts and answers live in files, and no key, prompt or answer ever comes here.

Many workers may act on one job run.  One holds its lease; every write first renews that lease by compare-and-swap on the
epoch, inside its own transaction, so a worker that was frozen past its lease finds its writes refused, whatever it believes.
Money is stored as whole pico-dollars, instants as microseconds: both exact, both sortable, both the same in either database.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from keld import record
from keld.cache import Read
from keld.database import Database, shown
from keld.errors import CeilingTooLow, LeaseLost, LedgerError, StagingError, UnknownJobRun
from keld.estimate import Observed
from keld.failpoint import failpoint
from keld.outlay import Outlay, doubtful_usd, in_doubt_usd, outlays
from keld.price import Lane
from keld.rebuild import take_in
from keld.record import (
    ATTACHMENT,
    CANDIDATE,
    EVENT,
    INTENT,
    RUN,
    SHARD,
    STRAY,
    SWEEP,
    Candidate,
    Intent,
    JobRun,
    Quiet,
    Rival,
    Shard,
    Stray,
    Suspect,
    Waiting,
)
from keld.staging import Staging
from keld.state import AT_PROVIDER, SENT, Event, RunState, State, after
from keld.witness import Memory, Witness

log = logging.getLogger("keld")

# After these nothing of the shard's create can be billed.  Not LOST_TRACK: what is quarantined may have cost its worst case.
_FREEING = (Event.UNSENT, Event.DEFERRED, Event.ABSENT, Event.REJECTED, Event.DROPPED, Event.HEDGED)
CONFIRMED = "confirmed"  # the outcome of a create that was accepted, and made nothing besides that is not known
_ENDED_UNCONFIRMED = sa.and_(  # its batch was over before the list had shown what else its create made
    INTENT.c.outcome.in_([Event.CREATED, Event.ADOPTED]), SHARD.c.lane == Lane.BATCH, SHARD.c.state.not_in(AT_PROVIDER)
)
_CREATE_OUTCOMES = (
    Event.CREATED,
    Event.ADOPTED,
    Event.UNSENT,
    Event.REFUSED,
    Event.DEFERRED,
    Event.REJECTED,
    Event.OUTCOME_LOST,
    Event.ABSENT,
    Event.LOST_TRACK,
)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to act on a job run, good while the epoch stands."""

    run_id: str
    owner: str
    epoch: int


WORKER_SKEW = timedelta(minutes=5)  # between the clocks of workers: what is noted later than that was noted before the clock was set back
_STALE = timedelta(minutes=5)  # a job run whose next look, and lease, are over for longer has nobody who advances it


class Ledger:
    """The ledger at an SQLAlchemy URL; tables are made when missing.

    Args:
        staging: where what becomes of each job run is remembered, too (see `witness`); None: nowhere.

    Raises:
        LedgerError: it cannot be opened or written, or is of a later version.
    """

    def __init__(self, url: str, *, lease_for: timedelta = timedelta(seconds=120), staging: Staging | None = None) -> None:
        self.url = url
        self.lease_for = lease_for
        self._db = Database(url)
        self.witness = None if staging is None else Witness(staging, shown(url))

    def close(self) -> None:
        self._db.close()

    # -- reading ----------------------------------------------------------------------------------------------

    def run(self, run_id: str) -> JobRun:
        """The job run of that id.

        Raises:
            UnknownJobRun: there is none.
        """
        with self._db.read() as db:
            row = db.execute(sa.select(RUN).where(RUN.c.id == run_id)).one_or_none()
        if row is None:
            raise UnknownJobRun(f"No job run {run_id!r} in this ledger ({shown(self.url)}).", run_id=run_id)
        return record.job_run(row)

    def latest(self, namespace: str, job: str, partition: str) -> JobRun | None:
        """The youngest generation of (namespace, job, partition), or None."""
        query = (
            sa.select(RUN)
            .where(RUN.c.namespace == namespace, RUN.c.job == job, RUN.c.partition == partition)
            .order_by(RUN.c.generation.desc())
            .limit(1)
        )
        with self._db.read() as db:
            row = db.execute(query).one_or_none()
        return None if row is None else record.job_run(row)

    def latest_of(self, namespace: str, job: str) -> JobRun | None:
        """The youngest job run of a job, of whatever partition, or None."""
        query = sa.select(RUN).where(RUN.c.namespace == namespace, RUN.c.job == job).order_by(RUN.c.created_at.desc(), RUN.c.id).limit(1)
        with self._db.read() as db:
            row = db.execute(query).one_or_none()
        return None if row is None else record.job_run(row)

    def namespaces(self) -> dict[str, int]:
        """How many job runs each namespace holds."""
        with self._db.read() as db:
            found = db.execute(sa.select(RUN.c.namespace, sa.func.count()).group_by(RUN.c.namespace).order_by(RUN.c.namespace)).all()
        return {name: count for name, count in found}  # noqa: C416  rows are no pairs to a type checker

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
        query = sa.select(RUN).where(*_chosen(namespace, job, since, until)).order_by(RUN.c.created_at.desc(), RUN.c.id)
        if open_only:
            query = query.where(RUN.c.state.not_in([RunState.FINISHED, RunState.CANCELLED]))
        with self._db.read() as db:
            return [record.job_run(row) for row in db.execute(query.limit(limit) if limit else query)]

    def outlays(
        self, namespace: str, *, job: str | None = None, since: datetime | None = None, until: datetime | None = None
    ) -> list[Outlay]:
        """What each of these job runs (see `runs`) spent on each model in each lane, in no order."""
        with self._db.read() as db:
            return outlays(db, *_chosen(namespace, job, since, until))

    def runs_asking(
        self, namespace: str, fingerprint: str, *, job: str | None = None, partition: str = "", limit: int = 50
    ) -> list[JobRun]:
        """Job runs that are over and asked exactly this of their rows, the youngest first; of one partition of a job, or of any."""
        over = RUN.c.state.in_([RunState.FINISHED, RunState.CANCELLED])
        query = sa.select(RUN).where(RUN.c.namespace == namespace, RUN.c.fingerprint == fingerprint, over)
        if job is not None:
            query = query.where(RUN.c.job == job, RUN.c.partition == partition)
        with self._db.read() as db:
            return [record.job_run(row) for row in db.execute(query.order_by(RUN.c.created_at.desc(), RUN.c.id).limit(limit))]

    def partition_at(self, namespace: str, job: str, sink: str, other_than: str) -> str | None:
        """Another partition of the job that was, or will be, written to exactly `sink`; None if there is none."""
        query = (
            sa.select(RUN.c.partition)
            .where(RUN.c.namespace == namespace, RUN.c.job == job, RUN.c.sink == sink, RUN.c.partition != other_than)
            .limit(1)
        )
        with self._db.read() as db:
            return db.execute(query).scalar_one_or_none()

    def shards(self, run_id: str) -> list[Shard]:
        """The shards of a job run, by ordinal."""
        with self._db.read() as db:
            return [record.shard(row) for row in db.execute(sa.select(SHARD).where(SHARD.c.run_id == run_id).order_by(SHARD.c.ordinal))]

    def runs_of(self, run_ids: Collection[str]) -> list[JobRun]:
        """Those of these job runs that are in this ledger, in no order."""
        found: list[JobRun] = []
        with self._db.read() as db:
            for some in _in_lots(run_ids):
                found += [record.job_run(row) for row in db.execute(sa.select(RUN).where(RUN.c.id.in_(some)))]
        return found

    def shards_of(self, run_ids: Collection[str]) -> dict[str, list[Shard]]:
        """The shards of many job runs, by job run, each by ordinal."""
        found: dict[str, list[Shard]] = {}
        with self._db.read() as db:
            for some in _in_lots(run_ids):
                for row in db.execute(sa.select(SHARD).where(SHARD.c.run_id.in_(some)).order_by(SHARD.c.ordinal)):
                    found.setdefault(row.run_id, []).append(record.shard(row))
        return found

    def shard(self, shard_id: str) -> Shard | None:
        """The shard of that id, or None."""
        with self._db.read() as db:
            row = db.execute(sa.select(SHARD).where(SHARD.c.id == shard_id)).one_or_none()
        return None if row is None else record.shard(row)

    def accounts(self) -> list[str]:
        """The providers that shards were sent to, by name."""
        query = sa.select(SHARD.c.provider).where(SHARD.c.attempt > 0).distinct().order_by(SHARD.c.provider)
        with self._db.read() as db:
            return list(db.execute(query).scalars())

    def quarantined(self, provider: str, host: str) -> list[Shard]:
        """The shards at a provider of which it is not known what became of their batch."""
        query = sa.select(SHARD).where(SHARD.c.provider == provider, SHARD.c.host == host, SHARD.c.state == State.QUARANTINED)
        with self._db.read() as db:
            return [record.shard(row) for row in db.execute(query)]

    def waiting(self, provider: str, host: str, model: str) -> list[Waiting]:
        """The shards of open job runs that wait for room in one provider's queue for one model, or were just turned away there."""
        turned_away = sa.and_(SHARD.c.state == State.UNKNOWN, SHARD.c.error["refused"].as_string() == "queue")
        query = (
            sa.select(
                SHARD.c.id.label("shard_id"), SHARD.c.ordinal, SHARD.c.run_id, RUN.c.deadline_at, RUN.c.created_at, SHARD.c.not_before,
                SHARD.c.intent_at.label("tried_at"), sa.case((RUN.c.lease_owner.is_(None), RUN.c.next_check_at)).label("next_check_at"),
                (SHARD.c.state == State.DEFERRED).label("deferred"),
            )
            .join(RUN, RUN.c.id == SHARD.c.run_id)
            .where(SHARD.c.provider == provider, SHARD.c.host == host, SHARD.c.model == model)
            .where(sa.or_(SHARD.c.state == State.DEFERRED, turned_away))
            .where(RUN.c.state == RunState.OPEN)
        )  # fmt: skip
        with self._db.read() as db:
            return [Waiting(**row._mapping) for row in db.execute(query)]

    def suspects(self, since: datetime) -> list[Suspect]:
        """The accounts where a create of after `since` may land late, or have made another batch besides; and those with strays that are not settled."""
        # One that was refused may land late, too; that of a shard that is sent again is found beside its next create.
        given_up = sa.and_(
            SHARD.c.state.in_([State.REJECTED, State.DROPPED]),
            INTENT.c.outcome.in_([Event.REJECTED, Event.DEFERRED]),
            INTENT.c.batch_id.is_(None),
        )
        late = (
            sa.select(SHARD.c.provider, SHARD.c.host, INTENT.c.at, SHARD.c.requests)
            .join(SHARD, SHARD.c.id == INTENT.c.shard_id)
            .where(INTENT.c.at > since, sa.or_(INTENT.c.outcome.in_([Event.ABSENT, Event.LOST_TRACK]), given_up, _ENDED_UNCONFIRMED))
        )
        strays, perhaps = (
            sa.select(of.c.provider, of.c.host, of.c.found_at, of.c.requests).where(of.c.settled_at.is_(None)) for of in (STRAY, CANDIDATE)
        )
        accounts: dict[tuple[str, str], list[tuple[datetime, int]]] = {}
        with self._db.read() as db:
            for query in (late, strays, perhaps):
                for provider, host, at, requests in db.execute(query):
                    accounts.setdefault((provider, host), []).append((at, requests))
        return [
            Suspect(provider=provider, host=host, since=min(at for at, _ in of), sizes=frozenset(size for _, size in of))
            for (provider, host), of in accounts.items()
        ]

    def strays(self, provider: str, host: str) -> list[Stray]:
        """The strays of an account that are not settled."""
        query = sa.select(STRAY).where(STRAY.c.provider == provider, STRAY.c.host == host, STRAY.c.settled_at.is_(None))
        with self._db.read() as db:
            return [Stray(**row._mapping) for row in db.execute(query)]

    def strays_of(self, run_id: str) -> list[Stray]:
        """What was bought once too often for a job run."""
        with self._db.read() as db:
            return [Stray(**row._mapping) for row in db.execute(sa.select(STRAY).where(STRAY.c.run_id == run_id))]

    def creates_looked_for(self, provider: str, host: str, requests: int) -> int:
        """How many creates of that size at an account are on their way, or of unknown outcome."""
        these = (SHARD.c.provider == provider, SHARD.c.host == host, SHARD.c.requests == requests)
        query = sa.select(sa.func.count()).where(*these, SHARD.c.state.in_([State.SUBMITTING, State.UNKNOWN]))
        with self._db.read() as db:
            return int(db.execute(query).scalar_one())

    def candidates(self, provider: str, host: str) -> list[Candidate]:
        """The batches of an account of which it is not told yet whether they are a second one of a create."""
        return self._candidates(CANDIDATE.c.provider == provider, CANDIDATE.c.host == host, CANDIDATE.c.settled_at.is_(None))

    def candidates_of(self, run_id: str) -> list[Candidate]:
        """Those that were found beside a job run's creates."""
        return self._candidates(CANDIDATE.c.run_id == run_id)

    def _candidates(self, *where: sa.ColumnElement[bool]) -> list[Candidate]:
        with self._db.read() as db:
            return [Candidate(**row._mapping) for row in db.execute(sa.select(CANDIDATE).where(*where))]

    def intents(self, shard_id: str) -> list[Intent]:
        """The creates of a shard, in order."""
        with self._db.read() as db:
            return [
                Intent(**row._mapping)
                for row in db.execute(sa.select(INTENT).where(INTENT.c.shard_id == shard_id).order_by(INTENT.c.attempt))
            ]

    def unconfirmed(self, run_ids: Collection[str]) -> dict[str, str]:
        """The shards at a provider whose latest create was accepted, and not yet looked for what it may have made besides; and its outcome."""
        query = (
            sa.select(INTENT.c.shard_id, INTENT.c.outcome)
            .join(SHARD, sa.and_(SHARD.c.id == INTENT.c.shard_id, SHARD.c.attempt == INTENT.c.attempt))
            .where(SHARD.c.state.in_(AT_PROVIDER), INTENT.c.outcome.in_([Event.CREATED, Event.ADOPTED]))
        )
        with self._db.read() as db:
            lots = (db.execute(query.where(SHARD.c.run_id.in_(some))) for some in _in_lots(run_ids))
            return {row.shard_id: row.outcome for rows in lots for row in rows}

    def knows_batch(self, batch_id: str) -> bool:
        """Whether some intent led to this batch, or it was found to be a stray."""
        intents = sa.select(INTENT.c.shard_id).where(INTENT.c.batch_id == batch_id)
        strays = sa.select(STRAY.c.shard_id).where(STRAY.c.batch_id == batch_id)
        with self._db.read() as db:
            return db.execute(intents.union_all(strays).limit(1)).first() is not None

    def known_batches(self, batch_ids: Collection[str]) -> set[str]:
        """Those of these batches that `knows_batch`."""
        found: set[str] = set()
        with self._db.read() as db:
            for some in _in_lots(batch_ids):
                for table in (INTENT, STRAY):
                    found.update(db.execute(sa.select(table.c.batch_id).where(table.c.batch_id.in_(some))).scalars())
        return found

    def events(self, run_id: str) -> list[dict[str, Any]]:
        """What happened to a job run, in order."""
        with self._db.read() as db:
            return [dict(row._mapping) for row in db.execute(sa.select(EVENT).where(EVENT.c.run_id == run_id).order_by(EVENT.c.id))]

    def noted_at(self, run_id: str) -> dict[str, datetime]:
        """When the latest event of each shard was noted, by the clock of then."""
        latest = (
            sa.select(sa.func.max(EVENT.c.id)).where(EVENT.c.run_id == run_id, EVENT.c.shard_id.is_not(None)).group_by(EVENT.c.shard_id)
        )
        with self._db.read() as db:
            return {row.shard_id: row.at for row in db.execute(sa.select(EVENT.c.shard_id, EVENT.c.at).where(EVENT.c.id.in_(latest)))}

    def turnarounds(
        self, provider: str, host: str, model: str, lane: str, now: datetime, limit: int = 200
    ) -> tuple[list[float], list[float]]:
        """Seconds from submission to end of the latest shards that completed; and how long the others, running or given up, ran without."""
        query = (
            sa.select(SHARD.c.submitted_at, SHARD.c.ended_at, SHARD.c.ended)
            .where(SHARD.c.provider == provider, SHARD.c.host == host, SHARD.c.model == model, SHARD.c.lane == lane)
            .where(SHARD.c.submitted_at.is_not(None), sa.or_(SHARD.c.ended.is_not(None), SHARD.c.state.in_(AT_PROVIDER)))
            .order_by(SHARD.c.submitted_at.desc())
            .limit(limit)
        )
        completed: list[float] = []
        others: list[float] = []
        with self._db.read() as db:
            for submitted_at, ended_at, ended in db.execute(query):
                seconds = max(0.0, ((ended_at or now) - submitted_at).total_seconds())
                (completed if ended == "completed" else others).append(seconds)
        return completed, others

    def stretches(self, provider: str, host: str, model: str, lane: str, limit: int = 20) -> list[tuple[int, float, float]]:
        """(rows, begun, ended) of the latest stretches in a fast lane, in seconds since the epoch; those of a handful of rows say nothing."""
        query = (
            sa.select(SHARD.c.requests, SHARD.c.submitted_at, SHARD.c.ended_at)
            .where(SHARD.c.provider == provider, SHARD.c.host == host, SHARD.c.model == model, SHARD.c.lane == lane)
            .where(SHARD.c.ended == "completed", SHARD.c.requests >= 20)
            .order_by(SHARD.c.ended_at.desc())
            .limit(limit)
        )
        with self._db.read() as db:
            return [(requests, begun.timestamp(), ended.timestamp()) for requests, begun, ended in db.execute(query)]

    def in_fast_lanes(self, provider: str, host: str, model: str, now: datetime, *, other_than: str = "") -> list[Rival]:
        """What each (other) job run has in an account's fast lanes, if somebody advances it."""
        alive = sa.or_(RUN.c.lease_until > now - _STALE, RUN.c.next_check_at > now - _STALE)
        query = (
            sa.select(
                RUN.c.id,
                RUN.c.deadline_at,
                RUN.c.created_at,
                SHARD.c.lane,
                sa.func.sum(SHARD.c.requests - sa.func.coalesce(SHARD.c.done, 0)),
            )
            .join(RUN, RUN.c.id == SHARD.c.run_id)
            .where(SHARD.c.provider == provider, SHARD.c.host == host, SHARD.c.model == model, SHARD.c.lane != Lane.BATCH)
            .where(SHARD.c.state.in_([State.PLANNED, State.STAGED, State.SUBMITTING, State.IN_PROGRESS]))
            .where(RUN.c.state == RunState.OPEN, RUN.c.id != other_than, alive)
            .group_by(RUN.c.id, RUN.c.deadline_at, RUN.c.created_at, SHARD.c.lane)
        )
        with self._db.read() as db:
            return [
                Rival(run_id, deadline_at, created_at, lane, int(rows)) for run_id, deadline_at, created_at, lane, rows in db.execute(query)
            ]

    def observed(self, provider: str, host: str, model: str, job: tuple[str, str] | None = None, limit: int = 200) -> Observed:
        """What the latest first rounds of a model used; of one (namespace, job), or of all.

        A first round only: what a later one was reckoned to send holds room for complaints.  Of a shard with rows that were not billed the
        billed share counts.
        """
        query = (
            sa.select(SHARD)
            .where(SHARD.c.provider == provider, SHARD.c.host == host, SHARD.c.model == model)
            .where(SHARD.c.state == State.COLLECTED, SHARD.c.round == 0, SHARD.c.input_tokens > 0)
            .order_by(SHARD.c.collected_at.desc())
            .limit(limit)
        )
        if job is not None:
            query = query.join(RUN, RUN.c.id == SHARD.c.run_id).where(RUN.c.namespace == job[0], RUN.c.job == job[1])
        with self._db.read() as db:
            shards = [record.shard(row) for row in db.execute(query)]
        return Observed(
            rows=sum(shard.billed for shard in shards),
            size_bytes=sum(shard.size_bytes * shard.billed / shard.requests for shard in shards),
            input_tokens=sum(shard.input_tokens for shard in shards),
            output_tokens=sum(shard.output_tokens for shard in shards),
            cached_tokens=sum(shard.cached_tokens for shard in shards),
        )

    def read_from_cache(self, provider: str, host: str, model: str, lane: str, since: datetime) -> Read:
        """What marked shards of a model in a lane, collected since then, reported."""
        used = SHARD.c.cached_tokens + SHARD.c.cache_write_tokens > 0  # else what was marked was too short to be kept
        query = sa.select(
            sa.func.sum(SHARD.c.requests), sa.func.sum(SHARD.c.cached_tokens), sa.func.sum(SHARD.c.cache_write_tokens)
        ).where(
            SHARD.c.provider == provider, SHARD.c.host == host, SHARD.c.model == model, SHARD.c.lane == lane,
            SHARD.c.cache_ttl.is_not(None), SHARD.c.collected_at >= since, used,
        )  # fmt: skip
        with self._db.read() as db:
            rows, read, written = db.execute(query).one()
        return Read(rows=int(rows or 0), read_tokens=int(read or 0), written_tokens=int(written or 0))

    # -- writing ----------------------------------------------------------------------------------------------

    def open_run(self, run: Mapping[str, Any], shards: Sequence[Shard], now: datetime) -> JobRun | None:
        """A new job run with its planned shards, in one transaction; None if another worker made that generation first."""
        failpoint("ledger.open_run.before")
        try:
            with self._db.write() as db:
                db.execute(sa.insert(RUN).values(state=RunState.OPEN, created_at=now, next_check_at=now, **run))
                _insert_shards(db, shards)
                _append(db, now, run["id"], None, "opened", None, RunState.OPEN, 0, {"rows": run["rows"], "shards": len(shards)})
        except sa.exc.IntegrityError:
            return None
        failpoint("ledger.open_run.after")
        self._tell(run["id"], run=True)
        return self.run(run["id"])

    def claim(self, run_id: str, owner: str, now: datetime, *, dead_owner: str | None = None) -> Lease | None:
        """The lease on a job run, or None while another worker's is good; that of a worker known to be dead is not."""
        # One that is good for longer than any is was noted before the clock was set back.
        free = sa.or_(RUN.c.lease_until.is_(None), RUN.c.lease_until < now, RUN.c.lease_until > now + self.lease_for + WORKER_SKEW)
        if dead_owner is not None:
            free = sa.or_(free, RUN.c.lease_owner == dead_owner)
        claim = (
            sa.update(RUN)
            .where(RUN.c.id == run_id, free)
            .values(lease_owner=owner, lease_epoch=RUN.c.lease_epoch + 1, lease_until=now + self.lease_for)
            .returning(RUN.c.lease_epoch)
        )
        with self._db.write() as db:
            epoch = db.execute(claim).scalar_one_or_none()
        failpoint("lease.claimed")
        return None if epoch is None else Lease(run_id, owner, epoch)

    def release(
        self,
        lease: Lease,
        next_check_at: datetime | None,
        problem: Mapping[str, Any] | None = None,
        *,
        escalates_at: datetime | None = None,
    ) -> None:
        """Gives the lease back, if it is still held; notes when to look again, and what keeps the job run from going on, if anything."""
        failpoint("lease.release")
        noted = {"next_check_at": next_check_at, "escalates_at": escalates_at, "problem": dict(problem) if problem else None}
        with self._db.write() as db:
            db.execute(
                sa.update(RUN)
                .where(RUN.c.id == lease.run_id, RUN.c.lease_epoch == lease.epoch)
                .values(lease_owner=None, lease_until=None, **noted)
            )

    def note_quiet(self, quiet: Sequence[Quiet]) -> None:
        """When to look again at job runs where nothing has happened, how far their batches are, and whose creates made nothing besides.

        Whose lease was taken since is left alone.  These are hints and claims, kept for people and for the order of looks; they need no lease.
        """
        untouched = (RUN.c.id == sa.bindparam("run"), RUN.c.lease_epoch == sa.bindparam("epoch"), RUN.c.state == RunState.OPEN)
        put_off = sa.update(RUN).where(*untouched).values(next_check_at=sa.bindparam("next"), escalates_at=sa.bindparam("escalates"))
        done = (
            sa.update(SHARD)
            .where(SHARD.c.id == sa.bindparam("shard"), SHARD.c.state == State.IN_PROGRESS)
            .values(done=sa.bindparam("so_far"))
        )
        for n in range(0, len(quiet), 1000):  # not so many at once that another worker waits long for the lock
            some = quiet[n : n + 1000]
            progress = [{"shard": shard, "so_far": so_far} for one in some for shard, so_far in one.progress.items()]
            with self._db.write() as db:
                db.execute(
                    put_off, [{"run": q.run_id, "epoch": q.epoch, "next": q.next_check_at, "escalates": q.escalates_at} for q in some]
                )
                if progress:
                    db.execute(done, progress)
                confirmed = [{"shard": shard, "created": attempt} for one in some for shard, attempt in one.confirmed.items()]
                if confirmed:
                    this = (INTENT.c.shard_id == sa.bindparam("shard"), INTENT.c.attempt == sa.bindparam("created"))
                    # Else more has happened to it since.  No `in_`: that is not for many rows in one statement.
                    accepted = sa.or_(INTENT.c.outcome == Event.CREATED, INTENT.c.outcome == Event.ADOPTED)
                    db.execute(sa.update(INTENT).where(*this, accepted).values(outcome=CONFIRMED), confirmed)

    def renew(self, lease: Lease, now: datetime) -> None:
        """Prolongs the lease during a long step.

        Raises:
            LeaseLost: another worker holds it.
        """
        with self._held(lease, now):
            pass

    def record(
        self,
        lease: Lease,
        shard: Shard,
        event: Event,
        now: datetime,
        *,
        facts: Mapping[str, Any] | None = None,
        strays: Sequence[Stray] = (),
        **changes: Any,
    ) -> Shard:
        """The shard after `event`: its state by the transition table, `changes` to its fields, the event appended.

        Raises:
            LeaseLost: another worker holds the job run, or has moved this shard on.
        """
        failpoint(f"ledger.{event.value}.before")
        with self._held(lease, now) as db:
            became = _move(db, lease, shard, event, now, facts or {}, changes)
            for stray in strays:
                _add_stray(db, stray)
            if became.state == State.COLLECTED:
                _settle(db, became)
            elif event in _FREEING:
                _free(db, shard)
            elif event is Event.ADOPTED and shard.state in (State.STAGED, State.DEFERRED, State.DROPPED, State.REJECTED):
                # It is being paid for, whether it fits or not; nothing else is sent until it does.
                db.execute(sa.update(RUN).where(RUN.c.id == shard.run_id).values(reserved_usd=RUN.c.reserved_usd + shard.worst_usd))
        failpoint(f"ledger.{event.value}.after")
        self._tell(shard.run_id, shards=[became], strays=strays)
        return became

    def record_intent(self, lease: Lease, shard: Shard, now: datetime, after_batch: str | None = None) -> Shard:
        """The shard in SUBMITTING, its worst case reserved under the ceiling, the intent written: all or nothing.

        Raises:
            CeilingTooLow: spent + reserved + this worst case exceeds the ceiling; nothing was written or sent.
            LeaseLost: another worker holds the job run.
            LedgerError: this shard, or another one, was sent before, as staging knows, and the ledger does not.
        """
        self.check_remembered(shard.run_id)
        failpoint("ledger.sending.before")
        with self._held(lease, now) as db:
            _reserve(db, shard)
            attempt = shard.attempt + 1
            became = _move(
                db,
                lease,
                shard,
                Event.SENDING,
                now,
                {"attempt": attempt},
                {"attempt": attempt, "intent_at": now, "looks": 0, "not_before": None, "error": None},
            )
            intent = {"shard_id": shard.id, "attempt": attempt, "at": now, "requests": shard.requests, "after_batch": after_batch}
            db.execute(sa.insert(INTENT).values(outcome="sending", **intent))
        failpoint("ledger.sending.after")
        self._tell(shard.run_id, shards=[became], intents=self.intents(shard.id)[-1:], durable=True)
        return became

    def confirm(self, lease: Lease, shard: Shard, now: datetime) -> None:
        """Notes that the list was looked through for what the shard's latest create may have made besides its batch."""
        failpoint("ledger.confirmed.before")
        with self._held(lease, now) as db:
            this = (INTENT.c.shard_id == shard.id, INTENT.c.attempt == shard.attempt)
            db.execute(sa.update(INTENT).where(*this).values(outcome=CONFIRMED))
        failpoint("ledger.confirmed.after")

    def confirm_swept(self, provider: str, host: str, before: datetime) -> None:
        """Notes that the list of an account was looked through for what the creates of until `before`, whose batches have ended, made besides."""
        here = (SHARD.c.id == INTENT.c.shard_id, SHARD.c.provider == provider, SHARD.c.host == host)
        with self._db.write() as db:
            db.execute(
                sa.update(INTENT)
                .where(INTENT.c.at <= before, sa.exists().where(*here, _ENDED_UNCONFIRMED).correlate(INTENT))
                .values(outcome=CONFIRMED)
            )

    def note_progress(self, lease: Lease, shard: Shard, done: int | None, now: datetime, not_before: datetime | None = None) -> None:
        """How many requests of a shard the provider says are done; a claim, kept for people, no event.

        Args:
            not_before: when a stretch that was turned away may go on.
        """
        with self._held(lease, now) as db:
            db.execute(sa.update(SHARD).where(SHARD.c.id == shard.id).values(done=done, not_before=not_before))

    def add_shards(self, lease: Lease, shards: Sequence[Shard], round_: int, now: datetime) -> None:
        """The shards of a next round, planned.

        Raises:
            LedgerError: a round was sent, as staging knows, that the ledger does not know of.
        """
        self.check_remembered(lease.run_id)
        failpoint("ledger.add_shards.before")
        with self._held(lease, now) as db:
            _insert_shards(db, shards)
            db.execute(sa.update(RUN).where(RUN.c.id == lease.run_id).values(round=round_))
            _append(db, now, lease.run_id, None, "round", None, None, lease.epoch, {"round": round_, "shards": len(shards)})
        failpoint("ledger.add_shards.after")
        self._tell(lease.run_id, shards=shards)

    def record_run(
        self,
        lease: Lease,
        now: datetime,
        kind: str,
        *,
        state: RunState | None = None,
        facts: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> JobRun:
        """The job run after something happened to it as a whole."""
        failpoint(f"ledger.run_{kind}.before")
        with self._held(lease, now) as db:
            was = db.execute(sa.select(RUN.c.state).where(RUN.c.id == lease.run_id)).scalar_one()
            values = dict(changes) | ({"state": state} if state else {})
            if values:
                db.execute(sa.update(RUN).where(RUN.c.id == lease.run_id).values(**values))
            _append(db, now, lease.run_id, None, kind, was, state or was, lease.epoch, facts or {})
        failpoint(f"ledger.run_{kind}.after")
        self._tell(lease.run_id, run=True)
        return self.run(lease.run_id)

    def wake(self, shard_id: str) -> None:
        """Lets a deferred shard try at once; a hint, which needs no lease."""
        with self._db.write() as db:
            db.execute(sa.update(SHARD).where(SHARD.c.id == shard_id, SHARD.c.state == State.DEFERRED).values(not_before=None))

    def claim_sweep(self, provider: str, host: str, now: datetime, every: timedelta) -> bool:
        """Whether this worker is to sweep an account now: nobody else has, within `every`."""
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

    def add_stray(self, stray: Stray) -> None:
        """Notes a batch that was bought once too often, its worst case reserved until its cost is known; noted before, nothing happens."""
        failpoint("ledger.stray.before")
        with suppress(sa.exc.IntegrityError), self._db.write() as db:
            _add_stray(db, stray)
        failpoint("ledger.stray.after")
        self._tell(stray.run_id, strays=self.strays_of(stray.run_id))

    def add_candidate(self, candidate: Candidate) -> None:
        """Notes a batch that may be a second one of a create, its worst case reserved until it is told; noted before, nothing happens."""
        failpoint("ledger.candidate.before")
        with suppress(sa.exc.IntegrityError), self._db.write() as db:
            db.execute(sa.insert(CANDIDATE).values({field.name: getattr(candidate, field.name) for field in fields(Candidate)}))
            reserved = {"reserved_usd": RUN.c.reserved_usd + candidate.worst_usd}
            db.execute(sa.update(RUN).where(RUN.c.id == candidate.run_id).values(**reserved))
            facts = {"batch_id": candidate.batch_id}
            _append(db, candidate.found_at, candidate.run_id, candidate.shard_id, "candidate", None, None, 0, facts)
        failpoint("ledger.candidate.after")

    def release_candidate(self, host: str, batch_id: str, now: datetime) -> None:
        """Gives back what was reserved for a candidate, now that it is told whose it is: another's, or one that is counted elsewhere."""
        failpoint("ledger.candidate_released.before")
        with self._db.write() as db:
            _release_candidate(db, host, batch_id, now)
        failpoint("ledger.candidate_released.after")

    def settle_stray(self, host: str, batch_id: str, cost_usd: Decimal, now: datetime, lost: int = 0) -> None:
        """Counts what a stray cost, once.

        Args:
            lost: rows of which its results say nothing; their share of the worst case stays reserved.
        """
        this = (STRAY.c.host == host, STRAY.c.batch_id == batch_id)
        failpoint("ledger.stray_settled.before")
        with self._db.write() as db:
            found = db.execute(sa.select(STRAY).where(*this, STRAY.c.settled_at.is_(None))).one_or_none()
            doubtful = in_doubt_usd(found.requests, found.worst_usd, lost) if found is not None else Decimal(0)
            told = {"settled_at": now, "cost_usd": cost_usd, "lost": lost, "doubtful_usd": doubtful}
            settled = db.execute(sa.update(STRAY).where(*this, STRAY.c.settled_at.is_(None)).values(**told))
            if found is not None and settled.rowcount == 1:
                stray = Stray(**found._mapping)
                spent = {"reserved_usd": RUN.c.reserved_usd - (stray.worst_usd - doubtful), "spent_usd": RUN.c.spent_usd + cost_usd}
                db.execute(sa.update(RUN).where(RUN.c.id == stray.run_id).values(**spent))
                facts = {"batch_id": batch_id, "cost_usd": str(cost_usd)}
                _append(db, now, stray.run_id, stray.shard_id, "stray_settled", None, None, 0, facts)
        failpoint("ledger.stray_settled.after")
        if found is not None:
            self._tell(found.run_id, strays=self.strays_of(found.run_id))

    def reopen(self, run_id: str, now: datetime) -> None:
        """Opens a job run that is over once more, since something of it turned up; what is open stays as it is.

        One that the user cancelled goes on being cancelled.
        """
        with self._db.write() as db:
            for was, becomes in ((RunState.FINISHED, RunState.OPEN), (RunState.CANCELLED, RunState.CANCELLING)):
                this = (RUN.c.id == run_id, RUN.c.state == was)
                if db.execute(sa.update(RUN).where(*this).values(state=becomes, next_check_at=now)).rowcount:
                    _append(db, now, run_id, None, "reopened", was, becomes, 0, {})
        self._tell(run_id, run=True)

    def hand_over(self, namespace: str, job: str, owner: str) -> None:
        """Notes who declares a job from now on."""
        with self._db.write() as db:
            db.execute(sa.update(RUN).where(RUN.c.namespace == namespace, RUN.c.job == job).values(owner=owner))

    def move(self, namespace: str, job: str, partition: str, into: str, now: datetime) -> None:
        """Brings the job runs of a partition into another namespace, where there are none of it yet."""
        these = (RUN.c.job == job, RUN.c.partition == partition)
        found: list[str] = []
        with suppress(sa.exc.IntegrityError), self._db.write() as db:
            moved = sa.update(RUN).where(RUN.c.namespace == namespace, *these).values(namespace=into).returning(RUN.c.id, RUN.c.state)
            for run_id, state in db.execute(moved).all():
                _append(db, now, run_id, None, "moved", state, state, 0, {"from": namespace})
                found.append(run_id)
        for run_id in found:
            self._tell(run_id, run=True)

    def redeclare(self, run_id: str, declared: Mapping[str, str], source: str | None) -> None:
        """Notes that a job run asks what is declared now, whatever it was declared as before."""
        with self._db.write() as db:
            db.execute(sa.update(RUN).where(RUN.c.id == run_id).values(declared=dict(declared), source=source, outdated=None))
        self._tell(run_id, run=True)

    def note_outdated(self, run_id: str, outdated: str | None) -> None:
        """Notes what is declared otherwise since a job run was sent, in words; None: nothing is."""
        with self._db.write() as db:
            db.execute(sa.update(RUN).where(RUN.c.id == run_id).values(outdated=outdated))

    def ask_cancel(self, run_id: str, now: datetime) -> None:
        """Marks an open job run as cancelling; needs no lease, since whoever holds it will see it."""
        with self._db.write() as db:
            _ask_cancel(db, run_id, now)
        self._tell(run_id, run=True)

    def attach(self, run_id: str, holder: str) -> int:
        """Notes that `holder` waits for a job run; the epoch of its attachment, which grows each time it attaches anew."""
        mine = (ATTACHMENT.c.run_id == run_id, ATTACHMENT.c.holder == holder)
        again = sa.update(ATTACHMENT).where(*mine).values(epoch=ATTACHMENT.c.epoch + 1).returning(ATTACHMENT.c.epoch)
        with self._db.write() as db:
            epoch = db.execute(again).scalar_one_or_none()
            if epoch is None:
                db.execute(sa.insert(ATTACHMENT).values(run_id=run_id, holder=holder, epoch=1))
        return epoch or 1

    def detach(self, run_id: str, holder: str, epoch: int, now: datetime) -> bool:
        """Whether the job run is to be cancelled: `holder` went, had not attached anew since, and nobody else waits for it."""
        mine = (ATTACHMENT.c.run_id == run_id, ATTACHMENT.c.holder == holder, ATTACHMENT.c.epoch == epoch)
        with self._db.write() as db:
            if db.execute(sa.delete(ATTACHMENT).where(*mine)).rowcount != 1:
                return False
            others = db.execute(sa.select(ATTACHMENT.c.holder).where(ATTACHMENT.c.run_id == run_id).limit(1)).first()
            return others is None and _ask_cancel(db, run_id, now)

    def set_sink(self, run_id: str, sink: str | None, now: datetime) -> None:
        """Where the output of a job run that is not over shall go from now on, or go instead, where it could not be written; None: nowhere.

        What was wrong with the one before is forgotten with it.
        """
        with self._db.write() as db:
            writing = sa.update(RUN).where(RUN.c.id == run_id, RUN.c.state == RunState.WRITING)
            if db.execute(writing.values(sink=sink, next_check_at=now, problem=None)).rowcount == 0 and sink is not None:
                under_way = RUN.c.state.in_([RunState.OPEN, RunState.CANCELLING])
                db.execute(sa.update(RUN).where(RUN.c.id == run_id, under_way).values(sink=sink))
        self._tell(run_id, run=True)

    def write_again(self, run_id: str, sink: str, now: datetime) -> None:
        """Opens a job run that is over once more, only to write its output to `sink`; costs nothing."""
        over = sa.and_(RUN.c.state.in_([RunState.FINISHED, RunState.CANCELLED]), RUN.c.removed_at.is_(None))
        with self._db.write() as db:
            opened = db.execute(sa.update(RUN).where(RUN.c.id == run_id, over).values(state=RunState.WRITING, sink=sink, next_check_at=now))
            if opened.rowcount:
                _append(db, now, run_id, None, "write_again", None, RunState.WRITING, 0, {})
        self._tell(run_id, run=True)

    def note_removed(self, run_id: str, now: datetime) -> bool:
        """Notes that the files of a job run go; False if it is not over."""
        over = RUN.c.state.in_([RunState.FINISHED, RunState.CANCELLED])
        with self._db.write() as db:
            return db.execute(sa.update(RUN).where(RUN.c.id == run_id, over).values(removed_at=now)).rowcount > 0

    # -- what staging remembers -------------------------------------------------------------------------------

    def forgotten(self) -> list[JobRun]:
        """The job runs that staging has, with something at a provider or rows that must not be asked again, and this ledger has not."""
        if self.witness is None:
            return []
        ids = self.witness.out()
        known: set[str] = set()
        with self._db.read() as db:
            for some in _in_lots(ids):
                known.update(db.execute(sa.select(RUN.c.id).where(RUN.c.id.in_(some))).scalars())
        memories = (self.witness.memory(run_id) for run_id in ids if run_id not in known)
        return [memory.run for memory in memories if memory.run is not None]

    def check_remembered(self, run_id: str) -> None:
        """Passes if staging remembers no create of a job run that this ledger does not.

        Raises:
            LedgerError: it does, and to send anything might be to pay twice.
        """
        memory = None if self.witness is None else self.witness.memory(run_id)
        if memory is None or not memory.shards:
            return
        ahead = memory.is_ahead_of(self.shards(run_id))
        if ahead and memory.run is not None:
            raise LedgerError(
                f"The ledger at {shown(self.url)} is older than staging: of {memory.run.job}[{memory.run.partition}] {len(ahead):,} batches or "
                "stretches were sent that it does not know of. It was restored from a backup, perhaps. Nothing was sent. "
                "`keld reconcile --from-staging` brings it up to what staging knows."
            )

    def take_in(self, memory: Memory, now: datetime) -> bool:
        """Whether the ledger knows more of a job run than before, by what staging remembers of it; what it knows itself stays."""
        assert memory.run is not None
        ahead = {shard.id for shard in memory.is_ahead_of(self.shards(memory.run.id))}
        with self._db.write() as db:
            new = db.execute(sa.select(RUN.c.id).where(RUN.c.id == memory.run.id)).first() is None
            if not new and not ahead:
                return False
            take_in(db, memory, ahead, now, new=new)
            _append(db, now, memory.run.id, None, "rebuilt", None, memory.run.state, 0, {"shards": len(memory.shards)})
        return True

    def _tell(
        self,
        run_id: str,
        *,
        run: bool = False,
        shards: Sequence[Shard] = (),
        intents: Sequence[Intent] = (),
        strays: Sequence[Stray] = (),
        durable: bool = False,
    ) -> None:
        """Has staging remember what was just committed; all of it, where it remembers nothing yet.

        Raises:
            StagingError: it cannot, and it is `durable`: what was not remembered must not be sent.
        """
        if self.witness is None or not self.witness.is_here(run_id):
            return
        before = None
        if not self.witness.has(run_id):
            shards, strays, whole = self.shards(run_id), self.strays_of(run_id), self.run(run_id)
            intents = [intent for shard in shards for intent in self.intents(shard.id)]
            before, run = whole.answered - sum(shard.answered for shard in shards), True
        told = self.run(run_id) if run else None
        try:
            self.witness.note(run_id, run=told, shards=shards, intents=intents, strays=strays, answered_before=before, durable=durable)
        except StagingError as error:
            if durable:
                raise
            log.warning("witness.not_noted run=%s %s", run_id, error)

    @contextmanager
    def _held(self, lease: Lease, now: datetime) -> Iterator[sa.Connection]:
        with self._db.write() as db:
            renewed = db.execute(
                sa.update(RUN)
                .where(RUN.c.id == lease.run_id, RUN.c.lease_epoch == lease.epoch, RUN.c.lease_owner == lease.owner)
                .values(lease_until=now + self.lease_for)
            )
            if renewed.rowcount != 1:
                raise LeaseLost(f"Job run {lease.run_id} is held by another worker now; this one's write was refused and nothing was lost.")
            yield db


def _in_lots(ids: Collection[str]) -> Iterator[list[str]]:
    """Ids in lots that one query takes: SQLite has 32,766 variables at most."""
    listed = list(ids)
    return (listed[n : n + 10_000] for n in range(0, len(listed), 10_000))


def _chosen(namespace: str, job: str | None, since: datetime | None, until: datetime | None) -> list[sa.ColumnElement[bool]]:
    chosen = [RUN.c.namespace == namespace]
    if job is not None:
        chosen.append(RUN.c.job == job)
    if since is not None:
        chosen.append(RUN.c.created_at >= since)
    if until is not None:
        chosen.append(RUN.c.created_at < until)
    return chosen


def _ask_cancel(db: sa.Connection, run_id: str, now: datetime) -> bool:
    """Whether an open job run is cancelling from now on."""
    this = (RUN.c.id == run_id, RUN.c.state == RunState.OPEN)
    asked = db.execute(sa.update(RUN).where(*this).values(state=RunState.CANCELLING, next_check_at=now)).rowcount > 0
    if asked:
        _append(db, now, run_id, None, "cancel_asked", RunState.OPEN, RunState.CANCELLING, 0, {})
    return asked


def _insert_shards(db: sa.Connection, shards: Sequence[Shard]) -> None:
    if shards:
        db.execute(sa.insert(SHARD), [{field.name: getattr(shard, field.name) for field in fields(Shard)} for shard in shards])


def _append(
    db: sa.Connection,
    at: datetime,
    run_id: str,
    shard_id: str | None,
    kind: str,
    was: str | None,
    became: str | None,
    epoch: int,
    facts: Mapping[str, Any],
) -> None:
    db.execute(
        sa.insert(EVENT).values(at=at, run_id=run_id, shard_id=shard_id, kind=kind, was=was, became=became, epoch=epoch, facts=dict(facts))
    )


def _move(
    db: sa.Connection, lease: Lease, shard: Shard, event: Event, now: datetime, facts: Mapping[str, Any], changes: Mapping[str, Any]
) -> Shard:
    became = after(shard.state, event)
    # The attempt, too: a shard that was sent and refused since is STAGED again, but not the one that was read.
    unmoved = (SHARD.c.id == shard.id, SHARD.c.state == shard.state, SHARD.c.attempt == shard.attempt)
    moved = db.execute(sa.update(SHARD).where(*unmoved).values(state=became, **changes))
    if moved.rowcount != 1:
        raise LeaseLost(f"Shard {shard.id} is no longer {shard.state}; another worker moved it on and this one's write was refused.")
    if changes.get("batch_id"):
        _release_candidate(db, shard.host, changes["batch_id"], now)  # it is this shard's own
    if event in _CREATE_OUTCOMES and (shard.state in SENT or event is Event.ADOPTED):
        outcome = {"outcome": event.value} | ({"batch_id": changes["batch_id"]} if "batch_id" in changes else {})
        db.execute(sa.update(INTENT).where(INTENT.c.shard_id == shard.id, INTENT.c.attempt == shard.attempt).values(**outcome))
    _append(db, now, shard.run_id, shard.id, event, shard.state, became, lease.epoch, facts)
    return record.shard(db.execute(sa.select(SHARD).where(SHARD.c.id == shard.id)).one())


def _add_stray(db: sa.Connection, stray: Stray) -> None:
    _release_candidate(db, stray.host, stray.batch_id, stray.found_at)  # told, it is counted as what it is
    db.execute(sa.insert(STRAY).values({field.name: getattr(stray, field.name) for field in fields(Stray)}))
    db.execute(sa.update(RUN).where(RUN.c.id == stray.run_id).values(reserved_usd=RUN.c.reserved_usd + stray.worst_usd))
    _append(db, stray.found_at, stray.run_id, stray.shard_id, "stray", None, None, 0, {"batch_id": stray.batch_id})


def _release_candidate(db: sa.Connection, host: str, batch_id: str, now: datetime) -> None:
    this = (CANDIDATE.c.host == host, CANDIDATE.c.batch_id == batch_id, CANDIDATE.c.settled_at.is_(None))
    told = db.execute(
        sa.update(CANDIDATE).where(*this).values(settled_at=now).returning(CANDIDATE.c.run_id, CANDIDATE.c.shard_id, CANDIDATE.c.worst_usd)
    ).one_or_none()
    if told is not None:
        db.execute(sa.update(RUN).where(RUN.c.id == told.run_id).values(reserved_usd=RUN.c.reserved_usd - told.worst_usd))
        _append(db, now, told.run_id, told.shard_id, "candidate_told", None, None, 0, {"batch_id": batch_id})


def _reserve(db: sa.Connection, shard: Shard) -> None:
    run = db.execute(
        sa.select(RUN.c.ceiling_usd, RUN.c.spent_usd, RUN.c.reserved_usd, RUN.c.job, RUN.c.partition).where(RUN.c.id == shard.run_id)
    ).one()
    wanted = run.spent_usd + run.reserved_usd + shard.worst_usd
    if run.ceiling_usd is not None and wanted > run.ceiling_usd:
        raise CeilingTooLow(
            f"{run.job}[{run.partition}]: sending shard {shard.ordinal} could bring the cost to ${wanted:.4f} (${run.spent_usd:.4f} spent, "
            f"${run.reserved_usd:.4f} in flight, ${shard.worst_usd:.4f} at worst for it); the ceiling is ${run.ceiling_usd:.2f}. This shard was not sent.",
            needed_usd=wanted,
            ceiling_usd=run.ceiling_usd,
            job=run.job,
            partition=run.partition or None,
        )
    db.execute(sa.update(RUN).where(RUN.c.id == shard.run_id).values(reserved_usd=run.reserved_usd + shard.worst_usd))


def _free(db: sa.Connection, shard: Shard) -> None:
    """Gives back what was reserved for a create that cannot cost anything any more; a quarantined one stays reserved."""
    if shard.state in (State.SUBMITTING, State.UNKNOWN, State.IN_PROGRESS, State.CANCELLING):
        reserved = db.execute(sa.select(RUN.c.reserved_usd).where(RUN.c.id == shard.run_id)).scalar_one()
        db.execute(sa.update(RUN).where(RUN.c.id == shard.run_id).values(reserved_usd=reserved - shard.worst_usd))


def _settle(db: sa.Connection, shard: Shard) -> None:
    """The reservation becomes what was really paid, and the answers are counted.

    A row that is in no result file, or whose reply was lost, may be on the bill all the same: its share of the worst case stays reserved.
    """
    run = db.execute(sa.select(RUN.c.reserved_usd, RUN.c.spent_usd, RUN.c.standard_usd).where(RUN.c.id == shard.run_id)).one()
    db.execute(
        sa.update(RUN)
        .where(RUN.c.id == shard.run_id)
        .values(
            reserved_usd=run.reserved_usd - shard.worst_usd + doubtful_usd(shard),
            spent_usd=run.spent_usd + (shard.cost_usd or 0),
            standard_usd=run.standard_usd + (shard.standard_usd or 0),
            answered=RUN.c.answered + shard.answered,
        )
    )
