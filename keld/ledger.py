"""Ledger: what happened, in order, durable; SQLite by default, Postgres by URL.

Beside the road, below `runner`.  Events are appended; the state they lead to is kept beside them in the same transaction, for
queries.  The ledger is O(shards): rows, prompts and answers live in files, and no key, prompt or answer ever comes here.

Many workers may act on one job run.  One holds its lease; every write first renews that lease by compare-and-swap on the
epoch, inside its own transaction, so a worker that was frozen past its lease finds its writes refused, whatever it believes.
Money is stored as whole pico-dollars, instants as microseconds: both exact, both sortable, both the same in either database.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from keld.errors import CeilingTooLow, LeaseLost, LedgerError, UnknownJobRun
from keld.failpoint import failpoint
from keld.state import Event, RunState, State, after

_VERSION = 1
# After these nothing of the shard's create can be billed.  Not LOST_TRACK: what is quarantined may have cost its worst case.
_FREEING = (Event.REFUSED, Event.DEFERRED, Event.ABSENT, Event.REJECTED, Event.DROPPED)
_CREATE_OUTCOMES = (
    Event.CREATED,
    Event.ADOPTED,
    Event.REFUSED,
    Event.DEFERRED,
    Event.REJECTED,
    Event.OUTCOME_LOST,
    Event.ABSENT,
    Event.LOST_TRACK,
)
_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"


class _Usd(sa.types.TypeDecorator[Decimal]):
    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: sa.Dialect) -> int | None:
        return None if value is None else int((Decimal(value) * 10**12).to_integral_value())

    def process_result_value(self, value: int | None, dialect: sa.Dialect) -> Decimal | None:
        return None if value is None else Decimal(value) / 10**12


class _Instant(sa.types.TypeDecorator[datetime]):
    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> int | None:
        return None if value is None else (value - _EPOCH) // timedelta(microseconds=1)

    def process_result_value(self, value: int | None, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else _EPOCH + timedelta(microseconds=value)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_meta = sa.MetaData()

_version = sa.Table("keld_version", _meta, sa.Column("version", sa.Integer, primary_key=True))

_run = sa.Table(
    "keld_job_run",
    _meta,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("namespace", sa.String, nullable=False),
    sa.Column("job", sa.String, nullable=False),
    sa.Column("partition", sa.String, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("input_digest", sa.String(64), nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("reused", sa.BigInteger, nullable=False, default=0),
    sa.Column("unaskable", sa.BigInteger, nullable=False, default=0),
    sa.Column("terms", sa.JSON, nullable=False),
    sa.Column("tags", sa.JSON, nullable=False),
    sa.Column("plan", sa.JSON, nullable=False),
    sa.Column("ceiling_usd", _Usd),
    sa.Column("reserved_usd", _Usd, nullable=False, default=Decimal(0)),
    sa.Column("spent_usd", _Usd, nullable=False, default=Decimal(0)),
    sa.Column("standard_usd", _Usd, nullable=False, default=Decimal(0)),
    sa.Column("answered", sa.BigInteger, nullable=False, default=0),
    sa.Column("failed", sa.BigInteger, nullable=False, default=0),
    sa.Column("quarantined", sa.BigInteger, nullable=False, default=0),
    sa.Column("round", sa.Integer, nullable=False, default=0),
    sa.Column("deadline_at", _Instant),
    sa.Column("deadline_basis", sa.String(16), nullable=False),
    sa.Column("sink", sa.String),
    sa.Column("output", sa.JSON),
    sa.Column("outcomes", sa.JSON),
    sa.Column("problem", sa.JSON),
    sa.Column("created_at", _Instant, nullable=False),
    sa.Column("finished_at", _Instant),
    sa.Column("next_check_at", _Instant),
    sa.Column("lease_owner", sa.String),
    sa.Column("lease_epoch", sa.BigInteger, nullable=False, default=0),
    sa.Column("lease_until", _Instant),
    sa.UniqueConstraint("namespace", "job", "partition", "generation", name="keld_job_run_identity"),
    sa.Index("keld_job_run_due", "state", "next_check_at"),
)

_shard = sa.Table(
    "keld_shard",
    _meta,
    sa.Column("id", sa.String(10), primary_key=True),
    sa.Column("run_id", sa.String(32), sa.ForeignKey("keld_job_run.id"), nullable=False),
    sa.Column("ordinal", sa.Integer, nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("provider", sa.String, nullable=False),
    sa.Column("host", sa.String, nullable=False),
    sa.Column("model", sa.String, nullable=False),
    sa.Column("lane", sa.String(8), nullable=False),
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("worst_usd", _Usd, nullable=False),
    sa.Column("expected_usd", _Usd, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False, default=0),
    sa.Column("sha256", sa.String(64)),
    sa.Column("input_ref", sa.String),
    sa.Column("batch_id", sa.String),
    sa.Column("ended", sa.String(32)),
    sa.Column("error", sa.JSON),
    sa.Column("done", sa.BigInteger),
    sa.Column("looks", sa.Integer, nullable=False, default=0),
    sa.Column("not_before", _Instant),
    sa.Column("intent_at", _Instant),
    sa.Column("submitted_at", _Instant),
    sa.Column("ended_at", _Instant),
    sa.Column("collected_at", _Instant),
    sa.Column("answered", sa.BigInteger, nullable=False, default=0),
    sa.Column("retryable", sa.BigInteger, nullable=False, default=0),
    sa.Column("cost_usd", _Usd),
    sa.Column("standard_usd", _Usd),
    sa.Column("input_tokens", sa.BigInteger, nullable=False, default=0),
    sa.Column("cached_tokens", sa.BigInteger, nullable=False, default=0),
    sa.Column("output_tokens", sa.BigInteger, nullable=False, default=0),
    sa.Column("outcomes", sa.JSON),
    sa.Index("keld_shard_run", "run_id"),
    sa.Index("keld_shard_state", "state", "provider"),
    sa.Index("keld_shard_batch", "batch_id"),
)

_intent = sa.Table(
    "keld_intent",
    _meta,
    sa.Column("shard_id", sa.String(10), primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("at", _Instant, nullable=False),
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("after_batch", sa.String),
    sa.Column("outcome", sa.String(16), nullable=False),
    sa.Column("batch_id", sa.String),
    sa.Index("keld_intent_batch", "batch_id"),
)

_event = sa.Table(
    "keld_event",
    _meta,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("at", _Instant, nullable=False),
    sa.Column("run_id", sa.String(32), nullable=False),
    sa.Column("shard_id", sa.String(10)),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("was", sa.String(16)),
    sa.Column("became", sa.String(16)),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("facts", sa.JSON, nullable=False),
    sa.Index("keld_event_run", "run_id", "id"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRun:
    """A job over one partition: the unit of identity, deadline and ceiling; as it stood when it was read."""

    id: str
    namespace: str
    job: str
    partition: str
    generation: int
    state: RunState
    fingerprint: str
    input_digest: str
    rows: int
    reused: int
    unaskable: int
    terms: dict[str, Any]
    tags: dict[str, str]
    plan: dict[str, Any]
    ceiling_usd: Decimal | None
    reserved_usd: Decimal
    spent_usd: Decimal
    standard_usd: Decimal
    answered: int
    failed: int
    quarantined: int
    round: int
    deadline_at: datetime | None
    deadline_basis: str
    sink: str | None
    output: dict[str, Any] | None
    outcomes: dict[str, int] | None
    problem: dict[str, Any] | None
    created_at: datetime
    finished_at: datetime | None
    next_check_at: datetime | None
    lease_owner: str | None
    lease_epoch: int
    lease_until: datetime | None

    @property
    def over(self) -> bool:
        """Nothing is left to do."""
        return self.state in (RunState.FINISHED, RunState.CANCELLED)

    def __repr__(self) -> str:
        return f"<JobRun {self.job}[{self.partition}] {self.state} {self.answered:,}/{self.rows:,} rows ${self.spent_usd:.4f}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """The slice of a job run's requests that becomes one batch; as it stood when it was read.  `id` is its nonce, too."""

    id: str
    run_id: str
    ordinal: int
    round: int
    state: State
    provider: str
    host: str
    model: str
    lane: str
    requests: int
    size_bytes: int
    worst_usd: Decimal
    expected_usd: Decimal
    attempt: int = 0
    sha256: str | None = None
    input_ref: str | None = None
    batch_id: str | None = None
    ended: str | None = None
    error: dict[str, Any] | None = None
    done: int | None = None
    looks: int = 0
    not_before: datetime | None = None
    intent_at: datetime | None = None
    submitted_at: datetime | None = None
    ended_at: datetime | None = None
    collected_at: datetime | None = None
    answered: int = 0
    retryable: int = 0
    cost_usd: Decimal | None = None
    standard_usd: Decimal | None = None
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    outcomes: dict[str, int] | None = None

    @property
    def unsent(self) -> bool:
        """Nothing of it, not even its input file, was ever sent to a provider."""
        return self.attempt == 0 and self.input_ref is None

    def __repr__(self) -> str:
        count = f"{self.done:,}/{self.requests:,}" if self.done is not None else f"{self.requests:,}"
        return f"<Shard {self.ordinal} {self.provider} {self.state} {self.batch_id or '-'} {count}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """One create that was, or was about to be, sent."""

    shard_id: str
    attempt: int
    at: datetime
    requests: int
    after_batch: str | None  # the provider's youngest batch before it, where batches carry no mark
    outcome: str
    batch_id: str | None


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to act on a job run, good while the epoch stands."""

    run_id: str
    owner: str
    epoch: int


def nonce() -> str:
    """10 random characters of a-z0-9 (52 bits): a shard's id, and the mark its batch and its custom_ids carry."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(10))


class Ledger:
    """The ledger at an SQLAlchemy URL; tables are made when missing.

    Raises:
        LedgerError: it cannot be opened or written, or was made by another version.
    """

    def __init__(self, url: str, *, lease_for: timedelta = timedelta(seconds=120)) -> None:
        self.url = url
        self.lease_for = lease_for
        try:
            self._engine = _engine(url)
            self._reader = self._engine.execution_options(keld_reads=True)
            _create(self._engine)
        except (sa.exc.SQLAlchemyError, OSError, ImportError, ValueError) as error:
            raise LedgerError(
                f"The ledger at {_shown(url)} cannot be opened: {_driver_message(error)}. "
                "Nothing was sent. Check KELD_LEDGER_URL or KELD_HOME, the disk and the rights."
            ) from None

    def close(self) -> None:
        self._engine.dispose()

    # -- reading ----------------------------------------------------------------------------------------------

    def run(self, run_id: str) -> JobRun:
        """The job run of that id.

        Raises:
            UnknownJobRun: there is none.
        """
        with self._reader.connect() as db:
            row = db.execute(sa.select(_run).where(_run.c.id == run_id)).one_or_none()
        if row is None:
            raise UnknownJobRun(f"No job run {run_id!r} in this ledger ({_shown(self.url)}).")
        return _job_run(row)

    def latest(self, namespace: str, job: str, partition: str) -> JobRun | None:
        """The youngest generation of (namespace, job, partition), or None."""
        query = (
            sa.select(_run)
            .where(_run.c.namespace == namespace, _run.c.job == job, _run.c.partition == partition)
            .order_by(_run.c.generation.desc())
            .limit(1)
        )
        with self._reader.connect() as db:
            row = db.execute(query).one_or_none()
        return None if row is None else _job_run(row)

    def runs(self, namespace: str, *, job: str | None = None, open_only: bool = False, limit: int | None = None) -> list[JobRun]:
        """Job runs, the youngest first."""
        query = sa.select(_run).where(_run.c.namespace == namespace).order_by(_run.c.created_at.desc(), _run.c.id)
        if job is not None:
            query = query.where(_run.c.job == job)
        if open_only:
            query = query.where(_run.c.state.not_in([RunState.FINISHED, RunState.CANCELLED]))
        with self._reader.connect() as db:
            return [_job_run(row) for row in db.execute(query.limit(limit) if limit else query)]

    def partition_at(self, namespace: str, job: str, sink: str, other_than: str) -> str | None:
        """Another partition of the job that was, or will be, written to exactly `sink`; None if there is none."""
        query = (
            sa.select(_run.c.partition)
            .where(_run.c.namespace == namespace, _run.c.job == job, _run.c.sink == sink, _run.c.partition != other_than)
            .limit(1)
        )
        with self._reader.connect() as db:
            return db.execute(query).scalar_one_or_none()

    def shards(self, run_id: str) -> list[Shard]:
        """The shards of a job run, by ordinal."""
        with self._reader.connect() as db:
            return [_shard_row(row) for row in db.execute(sa.select(_shard).where(_shard.c.run_id == run_id).order_by(_shard.c.ordinal))]

    def intents(self, shard_id: str) -> list[Intent]:
        """The creates of a shard, in order."""
        with self._reader.connect() as db:
            return [
                Intent(**row._mapping)
                for row in db.execute(sa.select(_intent).where(_intent.c.shard_id == shard_id).order_by(_intent.c.attempt))
            ]

    def knows_batch(self, batch_id: str) -> bool:
        """Whether some intent led to this batch."""
        with self._reader.connect() as db:
            return db.execute(sa.select(_intent.c.shard_id).where(_intent.c.batch_id == batch_id).limit(1)).first() is not None

    def events(self, run_id: str) -> list[dict[str, Any]]:
        """What happened to a job run, in order."""
        with self._reader.connect() as db:
            return [dict(row._mapping) for row in db.execute(sa.select(_event).where(_event.c.run_id == run_id).order_by(_event.c.id))]

    def turnarounds(self, provider: str, model: str, lane: str, limit: int = 200) -> list[float]:
        """Seconds from submission to end of the latest batches that completed."""
        query = (
            sa.select(_shard.c.submitted_at, _shard.c.ended_at)
            .where(_shard.c.provider == provider, _shard.c.model == model, _shard.c.lane == lane, _shard.c.ended == "completed")
            .where(_shard.c.submitted_at.is_not(None), _shard.c.ended_at.is_not(None))
            .order_by(_shard.c.ended_at.desc())
            .limit(limit)
        )
        with self._reader.connect() as db:
            return [(ended - submitted).total_seconds() for submitted, ended in db.execute(query)]

    # -- writing ----------------------------------------------------------------------------------------------

    def open_run(self, run: Mapping[str, Any], shards: Sequence[Shard], now: datetime) -> JobRun | None:
        """A new job run with its planned shards, in one transaction; None if another worker made that generation first."""
        failpoint("ledger.open_run.before")
        try:
            with self._engine.begin() as db:
                db.execute(sa.insert(_run).values(state=RunState.OPEN, created_at=now, next_check_at=now, **run))
                _insert_shards(db, shards)
                _append(db, now, run["id"], None, "opened", None, RunState.OPEN, 0, {"rows": run["rows"], "shards": len(shards)})
        except sa.exc.IntegrityError:
            return None
        failpoint("ledger.open_run.after")
        return self.run(run["id"])

    def claim(self, run_id: str, owner: str, now: datetime, *, dead_owner: str | None = None) -> Lease | None:
        """The lease on a job run, or None while another worker's is good; that of a worker known to be dead is not."""
        free = sa.or_(_run.c.lease_until.is_(None), _run.c.lease_until < now)
        if dead_owner is not None:
            free = sa.or_(free, _run.c.lease_owner == dead_owner)
        claim = (
            sa.update(_run)
            .where(_run.c.id == run_id, free)
            .values(lease_owner=owner, lease_epoch=_run.c.lease_epoch + 1, lease_until=now + self.lease_for)
            .returning(_run.c.lease_epoch)
        )
        with self._engine.begin() as db:
            epoch = db.execute(claim).scalar_one_or_none()
        failpoint("lease.claimed")
        return None if epoch is None else Lease(run_id, owner, epoch)

    def release(self, lease: Lease, next_check_at: datetime | None, problem: Mapping[str, Any] | None) -> None:
        """Gives the lease back, if it is still held; notes when to look again, and what keeps the job run from going on, if anything."""
        failpoint("lease.release")
        with self._engine.begin() as db:
            db.execute(
                sa.update(_run)
                .where(_run.c.id == lease.run_id, _run.c.lease_epoch == lease.epoch)
                .values(lease_owner=None, lease_until=None, next_check_at=next_check_at, problem=dict(problem) if problem else None)
            )

    def renew(self, lease: Lease, now: datetime) -> None:
        """Prolongs the lease during a long step.

        Raises:
            LeaseLost: another worker holds it.
        """
        with self._held(lease, now):
            pass

    def record(
        self, lease: Lease, shard: Shard, event: Event, now: datetime, *, facts: Mapping[str, Any] | None = None, **changes: Any
    ) -> Shard:
        """The shard after `event`: its state by the transition table, `changes` to its fields, the event appended.

        Raises:
            LeaseLost: another worker holds the job run, or has moved this shard on.
        """
        failpoint(f"ledger.{event.value}.before")
        with self._held(lease, now) as db:
            became = _move(db, lease, shard, event, now, facts or {}, changes)
            if became.state == State.COLLECTED:
                _settle(db, became)
            elif event in _FREEING:
                _free(db, shard)
        failpoint(f"ledger.{event.value}.after")
        return became

    def record_intent(self, lease: Lease, shard: Shard, now: datetime, after_batch: str | None = None) -> Shard:
        """The shard in SUBMITTING, its worst case reserved under the ceiling, the intent written: all or nothing.

        Raises:
            CeilingTooLow: spent + reserved + this worst case exceeds the ceiling; nothing was written or sent.
            LeaseLost: another worker holds the job run.
        """
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
                {"attempt": attempt, "intent_at": now, "looks": 0, "not_before": None},
            )
            intent = {"shard_id": shard.id, "attempt": attempt, "at": now, "requests": shard.requests, "after_batch": after_batch}
            db.execute(sa.insert(_intent).values(outcome="sending", **intent))
        failpoint("ledger.sending.after")
        return became

    def note_progress(self, lease: Lease, shard: Shard, done: int | None, now: datetime) -> None:
        """How many requests of a batch the provider says are done; a claim, kept for people, no event."""
        with self._held(lease, now) as db:
            db.execute(sa.update(_shard).where(_shard.c.id == shard.id).values(done=done))

    def add_shards(self, lease: Lease, shards: Sequence[Shard], round_: int, now: datetime) -> None:
        """The shards of a next round, planned."""
        failpoint("ledger.add_shards.before")
        with self._held(lease, now) as db:
            _insert_shards(db, shards)
            db.execute(sa.update(_run).where(_run.c.id == lease.run_id).values(round=round_))
            _append(db, now, lease.run_id, None, "round", None, None, lease.epoch, {"round": round_, "shards": len(shards)})
        failpoint("ledger.add_shards.after")

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
            was = db.execute(sa.select(_run.c.state).where(_run.c.id == lease.run_id)).scalar_one()
            values = dict(changes) | ({"state": state} if state else {})
            if values:
                db.execute(sa.update(_run).where(_run.c.id == lease.run_id).values(**values))
            _append(db, now, lease.run_id, None, kind, was, state or was, lease.epoch, facts or {})
        failpoint(f"ledger.run_{kind}.after")
        return self.run(lease.run_id)

    def ask_cancel(self, run_id: str, now: datetime) -> None:
        """Marks an open job run as cancelling; needs no lease, since whoever holds it will see it."""
        with self._engine.begin() as db:
            asked = db.execute(
                sa.update(_run)
                .where(_run.c.id == run_id, _run.c.state == RunState.OPEN)
                .values(state=RunState.CANCELLING, next_check_at=now)
            )
            if asked.rowcount:
                _append(db, now, run_id, None, "cancel_asked", RunState.OPEN, RunState.CANCELLING, 0, {})

    def set_sink(self, run_id: str, sink: str) -> None:
        """Where the output of an open job run shall go from now on."""
        with self._engine.begin() as db:
            db.execute(sa.update(_run).where(_run.c.id == run_id, _run.c.state.in_([RunState.OPEN, RunState.CANCELLING])).values(sink=sink))

    def write_again(self, run_id: str, sink: str, now: datetime) -> None:
        """Opens a job run that is over once more, only to write its output to `sink`; costs nothing."""
        over = _run.c.state.in_([RunState.FINISHED, RunState.CANCELLED])
        with self._engine.begin() as db:
            opened = db.execute(
                sa.update(_run).where(_run.c.id == run_id, over).values(state=RunState.WRITING, sink=sink, next_check_at=now)
            )
            if opened.rowcount:
                _append(db, now, run_id, None, "write_again", None, RunState.WRITING, 0, {})

    @contextmanager
    def _held(self, lease: Lease, now: datetime) -> Iterator[sa.Connection]:
        with self._engine.begin() as db:
            renewed = db.execute(
                sa.update(_run)
                .where(_run.c.id == lease.run_id, _run.c.lease_epoch == lease.epoch, _run.c.lease_owner == lease.owner)
                .values(lease_until=now + self.lease_for)
            )
            if renewed.rowcount != 1:
                raise LeaseLost(f"Job run {lease.run_id} is held by another worker now; this one's write was refused and nothing was lost.")
            yield db


def _engine(url: str) -> sa.Engine:
    parsed = sa.make_url(url)
    if "@" in (parsed.host or ""):
        raise LedgerError("KELD_LEDGER_URL has a user or password with an '@' in it. Write %40 for it, %3A for ':' and %2F for '/'.")
    if parsed.get_backend_name() == "postgresql":
        return sa.create_engine(parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True)
    if parsed.get_backend_name() != "sqlite":
        raise LedgerError(f"KELD_LEDGER_URL names {parsed.get_backend_name()!r}; a ledger is sqlite:///PATH or postgresql://...")
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(parsed, connect_args={"timeout": 30})

    @sa.event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, below
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")  # an intent must survive the power, not only the process
        connection.execute("PRAGMA foreign_keys=ON")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        # IMMEDIATE: a transaction that reads and then writes must not find itself behind another writer half-way.
        connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get("keld_reads") else "BEGIN IMMEDIATE")

    return engine


def _create(engine: sa.Engine) -> None:
    with engine.begin() as db:
        if engine.dialect.name == "postgresql":
            db.execute(sa.text("SELECT pg_advisory_xact_lock(4_215_064)"))  # two first workers must not make the tables at once
        _meta.create_all(db)
        found = db.execute(sa.select(_version.c.version)).scalar_one_or_none()
        if found is None:
            db.execute(sa.insert(_version).values(version=_VERSION))
        elif found != _VERSION:
            raise LedgerError(
                f"This ledger is of version {found}, this Keld writes version {_VERSION}. Use the Keld that made it, or another KELD_LEDGER_URL."
            )


def _driver_message(error: Exception) -> str:
    """What the driver or the disk said; of a URL that cannot be read only the kind of fault, for its message quotes it."""
    cause = error if isinstance(error, OSError | ImportError) else getattr(error, "orig", None)
    return next(iter(str(cause).splitlines()), "") if cause is not None else type(error).__name__


def _shown(url: str) -> str:
    """A ledger's URL for people: without user, password and options, any of which may be secret."""
    if "://" not in url:
        return "a text that is no URL"
    return url if url.startswith("sqlite") else re.sub(r"//.*@", "//***@", url).partition("?")[0]


def _job_run(row: sa.Row[Any]) -> JobRun:
    values = dict(row._mapping)
    return JobRun(**values | {"state": RunState(values["state"])})


def _shard_row(row: sa.Row[Any]) -> Shard:
    values = dict(row._mapping)
    return Shard(**values | {"state": State(values["state"])})


def _insert_shards(db: sa.Connection, shards: Sequence[Shard]) -> None:
    if shards:
        db.execute(sa.insert(_shard), [{field.name: getattr(shard, field.name) for field in fields(Shard)} for shard in shards])


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
        sa.insert(_event).values(at=at, run_id=run_id, shard_id=shard_id, kind=kind, was=was, became=became, epoch=epoch, facts=dict(facts))
    )


def _move(
    db: sa.Connection, lease: Lease, shard: Shard, event: Event, now: datetime, facts: Mapping[str, Any], changes: Mapping[str, Any]
) -> Shard:
    became = after(shard.state, event)
    # The attempt, too: a shard that was sent and refused since is STAGED again, but not the one that was read.
    unmoved = (_shard.c.id == shard.id, _shard.c.state == shard.state, _shard.c.attempt == shard.attempt)
    moved = db.execute(sa.update(_shard).where(*unmoved).values(state=became, **changes))
    if moved.rowcount != 1:
        raise LeaseLost(f"Shard {shard.id} is no longer {shard.state}; another worker moved it on and this one's write was refused.")
    if event in _CREATE_OUTCOMES:
        outcome = {"outcome": event.value} | ({"batch_id": changes["batch_id"]} if "batch_id" in changes else {})
        db.execute(sa.update(_intent).where(_intent.c.shard_id == shard.id, _intent.c.attempt == shard.attempt).values(**outcome))
    _append(db, now, shard.run_id, shard.id, event, shard.state, became, lease.epoch, facts)
    return _shard_row(db.execute(sa.select(_shard).where(_shard.c.id == shard.id)).one())


def _reserve(db: sa.Connection, shard: Shard) -> None:
    run = db.execute(
        sa.select(_run.c.ceiling_usd, _run.c.spent_usd, _run.c.reserved_usd, _run.c.job, _run.c.partition).where(_run.c.id == shard.run_id)
    ).one()
    wanted = run.spent_usd + run.reserved_usd + shard.worst_usd
    if run.ceiling_usd is not None and wanted > run.ceiling_usd:
        raise CeilingTooLow(
            f"{run.job}[{run.partition}]: sending shard {shard.ordinal} could bring the cost to ${wanted:.4f} (${run.spent_usd:.4f} spent, "
            f"${run.reserved_usd:.4f} in flight, ${shard.worst_usd:.4f} at worst for it); the ceiling is ${run.ceiling_usd:.2f}. This shard was not sent."
        )
    db.execute(sa.update(_run).where(_run.c.id == shard.run_id).values(reserved_usd=run.reserved_usd + shard.worst_usd))


def _free(db: sa.Connection, shard: Shard) -> None:
    """Gives back what was reserved for a create that cannot cost anything any more; a quarantined one stays reserved."""
    if shard.state in (State.SUBMITTING, State.UNKNOWN, State.IN_PROGRESS, State.CANCELLING):
        reserved = db.execute(sa.select(_run.c.reserved_usd).where(_run.c.id == shard.run_id)).scalar_one()
        db.execute(sa.update(_run).where(_run.c.id == shard.run_id).values(reserved_usd=reserved - shard.worst_usd))


def _settle(db: sa.Connection, shard: Shard) -> None:
    """The reservation becomes what was really paid, and the answers are counted.

    A row that is in no result file may be on the bill all the same: its share of the worst case stays reserved.
    """
    lost = shard.worst_usd * (shard.outcomes or {}).get("lost", 0) / shard.requests
    run = db.execute(sa.select(_run.c.reserved_usd, _run.c.spent_usd, _run.c.standard_usd).where(_run.c.id == shard.run_id)).one()
    db.execute(
        sa.update(_run)
        .where(_run.c.id == shard.run_id)
        .values(
            reserved_usd=run.reserved_usd - shard.worst_usd + lost,
            spent_usd=run.spent_usd + (shard.cost_usd or 0),
            standard_usd=run.standard_usd + (shard.standard_usd or 0),
            answered=_run.c.answered + shard.answered,
        )
    )
