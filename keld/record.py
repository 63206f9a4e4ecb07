"""Record: what the ledger holds, as tables and as what is read from them.

Below `ledger`, which alone writes.  O(shards): no row, key, prompt or answer has a column here, and no free words of a provider's
either, since they may quote one.  Money is stored as whole pico-dollars, instants as microseconds: both exact, both sortable, both
the same in SQLite and Postgres.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from keld.state import RunState, State

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
META = sa.MetaData()

VERSION = sa.Table("keld_version", META, sa.Column("version", sa.Integer, primary_key=True))

RUN = sa.Table(
    "keld_job_run",
    META,
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
    sa.Column("removed_at", _Instant),
    sa.Column("next_check_at", _Instant),
    sa.Column("escalates_at", _Instant),
    sa.Column("lease_owner", sa.String),
    sa.Column("lease_epoch", sa.BigInteger, nullable=False, default=0),
    sa.Column("lease_until", _Instant),
    sa.Column("owner", sa.String),
    sa.Column("source", sa.String),
    sa.Column("declared", sa.JSON(none_as_null=True)),
    sa.Column("outdated", sa.String),
    sa.UniqueConstraint("namespace", "job", "partition", "generation", name="keld_job_run_identity"),
    sa.Index("keld_job_run_due", "state", "next_check_at"),
)

SHARD = sa.Table(
    "keld_shard",
    META,
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
    sa.Column("cache_ttl", sa.String(4)),
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
    sa.Column("uncached_usd", _Usd),
    sa.Column("input_tokens", sa.BigInteger, nullable=False, default=0),
    sa.Column("cached_tokens", sa.BigInteger, nullable=False, default=0),
    sa.Column("cache_write_tokens", sa.BigInteger, nullable=False, default=0),
    sa.Column("output_tokens", sa.BigInteger, nullable=False, default=0),
    sa.Column("outcomes", sa.JSON),
    sa.Index("keld_shard_run", "run_id"),
    sa.Index("keld_shard_state", "state", "provider"),
    sa.Index("keld_shard_batch", "batch_id"),
)

ATTACHMENT = sa.Table(
    "keld_attachment",
    META,
    sa.Column("run_id", sa.String(32), sa.ForeignKey("keld_job_run.id"), primary_key=True),
    sa.Column("holder", sa.String, primary_key=True),
    sa.Column("epoch", sa.BigInteger, nullable=False),
)

INTENT = sa.Table(
    "keld_intent",
    META,
    sa.Column("shard_id", sa.String(10), primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("at", _Instant, nullable=False),
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("after_batch", sa.String),
    sa.Column("outcome", sa.String(16), nullable=False),
    sa.Column("batch_id", sa.String),
    sa.Index("keld_intent_batch", "batch_id"),
)

STRAY = sa.Table(
    "keld_stray",
    META,
    sa.Column("host", sa.String, primary_key=True),
    sa.Column("batch_id", sa.String, primary_key=True),
    sa.Column("provider", sa.String, nullable=False),
    sa.Column("run_id", sa.String(32), nullable=False),
    sa.Column("shard_id", sa.String(10), nullable=False),
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("worst_usd", _Usd, nullable=False),
    sa.Column("found_at", _Instant, nullable=False),
    sa.Column("settled_at", _Instant),
    sa.Column("cost_usd", _Usd),
    sa.Column("lost", sa.BigInteger, nullable=False, default=0),
    sa.Column("doubtful_usd", _Usd, nullable=False, default=Decimal(0)),
    sa.Index("keld_stray_run", "run_id"),
)

CANDIDATE = sa.Table(
    "keld_candidate",
    META,
    sa.Column("host", sa.String, primary_key=True),
    sa.Column("batch_id", sa.String, primary_key=True),
    sa.Column("provider", sa.String, nullable=False),
    sa.Column("run_id", sa.String(32), nullable=False),
    sa.Column("shard_id", sa.String(10), nullable=False),
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("worst_usd", _Usd, nullable=False),
    sa.Column("found_at", _Instant, nullable=False),
    sa.Column("settled_at", _Instant),
    sa.Index("keld_candidate_run", "run_id"),
)

SWEEP = sa.Table(
    "keld_sweep",
    META,
    sa.Column("provider", sa.String, primary_key=True),
    sa.Column("host", sa.String, primary_key=True),
    sa.Column("at", _Instant, nullable=False),
)

EVENT = sa.Table(
    "keld_event",
    META,
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
    removed_at: datetime | None  # its files, by `keld gc`
    next_check_at: datetime | None
    escalates_at: datetime | None
    lease_owner: str | None
    lease_epoch: int
    lease_until: datetime | None
    owner: str | None = None  # who declares the job; this and the next two are None in what versions before 2 made
    source: str | None = None  # what the table was taken from, where that has a name
    declared: dict[str, str] | None = None  # a digest of each part of the question
    outdated: str | None = None  # what has been declared otherwise since it was sent, in words

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
    cache_ttl: str | None = None  # of the mark on what its rows share; it is decided with the reservation
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
    uncached_usd: Decimal | None = None  # what it would have cost, had nothing been read from a cache or written into one
    input_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    outcomes: dict[str, int] | None = None

    @property
    def billed(self) -> int:
        """Rows that were worked on, and so paid, whatever the answer was."""
        return sum((self.outcomes or {}).get(outcome, 0) for outcome in ("answered", "invalid", "refused"))

    @property
    def cache_saved_usd(self) -> Decimal:
        """Below 0 where the writes cost more than the reads saved."""
        return Decimal(0) if self.uncached_usd is None or self.cost_usd is None else self.uncached_usd - self.cost_usd

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Stray:
    """A batch of a shard beside the one that counts: its create landed after the shard had been sent again, or it was left when hedged.

    It is cancelled, and what it cost is counted; its answers are not used.
    """

    host: str
    batch_id: str
    provider: str
    run_id: str
    shard_id: str
    requests: int
    worst_usd: Decimal
    found_at: datetime
    settled_at: datetime | None = None
    cost_usd: Decimal | None = None
    lost: int = 0  # rows of which its results say nothing
    doubtful_usd: Decimal = Decimal(0)  # what these may have cost, and what stays reserved


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A batch without a mark that may be a second one of a shard's create: its worst case is reserved until its results tell whose it is."""

    host: str
    batch_id: str
    provider: str
    run_id: str
    shard_id: str
    requests: int
    worst_usd: Decimal
    found_at: datetime
    settled_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Rival:
    """What another job run has in the fast lanes of an account: `rows` without an answer."""

    run_id: str
    deadline_at: datetime | None
    created_at: datetime
    lane: str
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Quiet:
    """What is noted of a job run whose batches are all under way, nobody having held its lease since it was read."""

    run_id: str
    epoch: int  # of the lease when it was read
    next_check_at: datetime
    escalates_at: datetime | None
    progress: Mapping[str, int | None]  # shard -> how many of its requests are done, where that has changed
    confirmed: Mapping[str, int]  # shard -> its attempt, where the list shows that the create made nothing besides


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A shard that a full queue turned away, or that waits behind such ones, with what decides whose turn it is."""

    shard_id: str
    ordinal: int
    run_id: str
    deadline_at: datetime | None
    created_at: datetime  # of its job run
    not_before: datetime | None
    tried_at: datetime | None  # its latest intent
    next_check_at: datetime | None  # of its job run; None while a worker has it in hand
    deferred: bool = True  # False: it was turned away a moment ago, and is looked for at the provider first


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """An account at which a create may still land, or did, that nothing waits for any more."""

    provider: str
    host: str
    since: datetime
    sizes: frozenset[int]  # in requests, of the shards they were for


def nonce() -> str:
    """10 random characters of a-z0-9 (52 bits): a shard's id, and the mark its batch and its custom_ids carry."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(10))


def job_run(row: sa.Row[Any]) -> JobRun:
    values = dict(row._mapping)
    return JobRun(**values | {"state": RunState(values["state"])})


def shard(row: sa.Row[Any]) -> Shard:
    values = dict(row._mapping)
    return Shard(**values | {"state": State(values["state"])})
