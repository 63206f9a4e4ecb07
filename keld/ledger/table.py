"""Table: the tables of the ledger, in SQLite or Postgres.

Below the rest of the ledger, except `column`.  O(shards): no row, key, prompt or answer has a column here, and no free text of a provider either,
since it may quote one.  A change here needs a step in `migration`.
"""

from __future__ import annotations

from decimal import Decimal

import sqlalchemy as sa

from keld.job import RunTerms
from keld.ledger.column import Instant, Packed, Usd, Word
from keld.ledger.fault import ShardError
from keld.state import RunState, State

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
    sa.Column("state", Word(RunState, 16), nullable=False),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("input_digest", sa.String(64), nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("reused", sa.BigInteger, nullable=False, default=0),
    sa.Column("unaskable", sa.BigInteger, nullable=False, default=0),
    sa.Column("terms", Packed(RunTerms), nullable=False),
    sa.Column("tags", sa.JSON, nullable=False),
    sa.Column("plan", sa.JSON, nullable=False),
    sa.Column("ceiling_usd", Usd),
    sa.Column("reserved_usd", Usd, nullable=False, default=Decimal(0)),
    sa.Column("spent_usd", Usd, nullable=False, default=Decimal(0)),
    sa.Column("standard_usd", Usd, nullable=False, default=Decimal(0)),
    sa.Column("answered", sa.BigInteger, nullable=False, default=0),
    sa.Column("failed", sa.BigInteger, nullable=False, default=0),
    sa.Column("quarantined", sa.BigInteger, nullable=False, default=0),
    sa.Column("round", sa.Integer, nullable=False, default=0),
    sa.Column("deadline_at", Instant),
    sa.Column("deadline_basis", sa.String(16), nullable=False),
    sa.Column("sink", sa.String),
    sa.Column("output", sa.JSON),
    sa.Column("outcomes", sa.JSON),
    sa.Column("problem", sa.JSON),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("finished_at", Instant),
    sa.Column("removed_at", Instant),
    sa.Column("next_check_at", Instant),
    sa.Column("escalates_at", Instant),
    sa.Column("lease_owner", sa.String),
    sa.Column("lease_epoch", sa.BigInteger, nullable=False, default=0),
    sa.Column("lease_until", Instant),
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
    sa.Column("state", Word(State, 16), nullable=False),
    sa.Column("provider", sa.String, nullable=False),
    sa.Column("host", sa.String, nullable=False),
    sa.Column("model", sa.String, nullable=False),
    sa.Column("lane", sa.String(8), nullable=False),
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("worst_usd", Usd, nullable=False),
    sa.Column("expected_usd", Usd, nullable=False),
    sa.Column("cache_ttl", sa.String(4)),
    sa.Column("attempt", sa.Integer, nullable=False, default=0),
    sa.Column("sha256", sa.String(64)),
    sa.Column("input_ref", sa.String),
    sa.Column("batch_id", sa.String),
    sa.Column("ended", sa.String(32)),
    sa.Column("error", Packed(ShardError)),
    sa.Column("done", sa.BigInteger),
    sa.Column("looks", sa.Integer, nullable=False, default=0),
    sa.Column("not_before", Instant),
    sa.Column("intent_at", Instant),
    sa.Column("submitted_at", Instant),
    sa.Column("ended_at", Instant),
    sa.Column("collected_at", Instant),
    sa.Column("answered", sa.BigInteger, nullable=False, default=0),
    sa.Column("retryable", sa.BigInteger, nullable=False, default=0),
    sa.Column("cost_usd", Usd),
    sa.Column("standard_usd", Usd),
    sa.Column("uncached_usd", Usd),
    sa.Column("input_tokens", sa.BigInteger, nullable=False, default=0),
    sa.Column("cached_tokens", sa.BigInteger, nullable=False, default=0),
    sa.Column("cache_write_tokens", sa.BigInteger, nullable=False, default=0),
    sa.Column("output_tokens", sa.BigInteger, nullable=False, default=0),
    sa.Column("outcomes", sa.JSON),
    sa.Column("lines", sa.BigInteger),
    sa.Column("cache_prefix", sa.String(16)),
    sa.Column("cache_warm", sa.Boolean),
    sa.Column("ahead", sa.Boolean),
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
    sa.Column("at", Instant, nullable=False),
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("after_batch", sa.String),
    sa.Column("outcome", sa.String(16), nullable=False),
    sa.Column("batch_id", sa.String),
    sa.Column("input_ref", sa.String),
    sa.Index("keld_intent_batch", "batch_id"),
    sa.Index("keld_intent_input", "input_ref"),
)

ORPHAN = sa.Table(
    "keld_stray",
    META,
    sa.Column("host", sa.String, primary_key=True),
    sa.Column("batch_id", sa.String, primary_key=True),
    sa.Column("provider", sa.String, nullable=False),
    sa.Column("run_id", sa.String(32), nullable=False),
    sa.Column("shard_id", sa.String(10), nullable=False),
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("worst_usd", Usd, nullable=False),
    sa.Column("found_at", Instant, nullable=False),
    sa.Column("settled_at", Instant),
    sa.Column("cost_usd", Usd),
    sa.Column("lost", sa.BigInteger, nullable=False, default=0),
    sa.Column("doubtful_usd", Usd, nullable=False, default=Decimal(0)),
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
    sa.Column("worst_usd", Usd, nullable=False),
    sa.Column("found_at", Instant, nullable=False),
    sa.Column("settled_at", Instant),
    sa.Index("keld_candidate_run", "run_id"),
)

OBJECT = sa.Table(
    "keld_object",
    META,
    sa.Column("run_id", sa.String(32), primary_key=True),
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("object", sa.String, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
)

SWEEP = sa.Table(
    "keld_sweep",
    META,
    sa.Column("provider", sa.String, primary_key=True),
    sa.Column("host", sa.String, primary_key=True),
    sa.Column("at", Instant, nullable=False),
)

STRETCH = sa.Table(
    "keld_stretch",
    META,
    sa.Column("id", sa.String(10), primary_key=True),
    sa.Column("host", sa.String, nullable=False),
    sa.Column("run_id", sa.String(32), nullable=False),
    sa.Column("shard_id", sa.String(10), nullable=False),
    sa.Column("usd_an_hour", Usd, nullable=False),
    sa.Column("begun_at", Instant, nullable=False),
    sa.Column("seen_at", Instant, nullable=False),
    sa.Column("ended_at", Instant),
    sa.Column("usd", Usd),
    sa.Column("shares", sa.JSON(none_as_null=True)),
    sa.Index("keld_stretch_host", "host", "begun_at"),
    sa.Index("keld_stretch_shard", "shard_id"),
)

EVENT = sa.Table(
    "keld_event",
    META,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("at", Instant, nullable=False),
    sa.Column("run_id", sa.String(32), nullable=False),
    sa.Column("shard_id", sa.String(10)),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("was", sa.String(16)),
    sa.Column("became", sa.String(16)),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("facts", sa.JSON, nullable=False),
    sa.Index("keld_event_run", "run_id", "id"),
)
