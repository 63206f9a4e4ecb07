"""History: what was measured of accounts and models: the time of batches, the speed of fast lanes, the tokens of rows, the use of caches.

Below `ledger`.  Each value comes from the latest shards that show it; `turnaround`, `deadline`, `estimate` and `cache` draw the
conclusions.  The times of all shards of a span of days are for `report`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime

import sqlalchemy as sa

from keld.cache import Read
from keld.estimate import Observed
from keld.ledger import lookup
from keld.ledger.database import Database
from keld.ledger.record import Shard
from keld.ledger.table import RUN, SHARD
from keld.state import AT_PROVIDER, State

_ROWS_LEAST = 20  # of a realtime run whose speed is meaningful
_BEFORE = SHARD.alias()
_BEHIND = sa.exists().where(_BEFORE.c.run_id == SHARD.c.run_id, _BEFORE.c.round == 0, _BEFORE.c.ahead.is_(sa.true()))
_IS_FIRST = sa.or_(SHARD.c.round == 0, sa.and_(SHARD.c.round == 1, _BEHIND))  # of shards that ask rows for the first time


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """When one shard was sent, ended and collected; None: not yet, or never."""

    run_id: str
    provider: str
    host: str
    model: str
    lane: str
    state: State
    requests: int
    ended: str | None
    submitted_at: datetime | None
    ended_at: datetime | None
    collected_at: datetime | None


class History:
    """What the shards of a ledger have shown."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def turnarounds(
        self, provider: str, host: str, model: str, lane: str, now: datetime, limit: int = 200, *, ahead: bool = False
    ) -> tuple[list[float], list[float]]:
        """Seconds from submission to end of the latest shards that completed; and the seconds that the others ran, or are running, without completing.

        Args:
            ahead: of the shards of a row or two that went ahead of all others; else of the others, which may take longer.
        """
        query = (
            sa.select(SHARD.c.submitted_at, SHARD.c.ended_at, SHARD.c.ended)
            .where(*_of(provider, host, model), SHARD.c.lane == lane, _is(SHARD.c.ahead, ahead))
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

    def realtime_runs(self, provider: str, host: str, model: str, lane: str, limit: int = 20) -> list[tuple[int, float, float]]:
        """(rows, begun, ended) of the latest realtime runs in a lane, in seconds since the epoch; runs of few rows are left out."""
        query = (
            sa.select(SHARD.c.requests, SHARD.c.submitted_at, SHARD.c.ended_at)
            .where(*_of(provider, host, model), SHARD.c.lane == lane)
            .where(SHARD.c.ended == "completed", SHARD.c.requests >= _ROWS_LEAST)
            .order_by(SHARD.c.ended_at.desc())
            .limit(limit)
        )
        with self._db.read() as db:
            return [(requests, begun.timestamp(), ended.timestamp()) for requests, begun, ended in db.execute(query)]

    def observed(
        self, provider: str, host: str, model: str, job: tuple[str, str] | None = None, limit: int = 200, *, lane: str | None = None
    ) -> Observed:
        """What the latest first rounds of a model used; of one (namespace, job), or of all; in one lane, or in all.

        Only first rounds, or second ones behind a row that went ahead: the size of a later one includes the faults of earlier answers.  If
        some rows of a shard were not billed, its size is counted in proportion to the billed rows.
        """
        query = (
            sa.select(SHARD)
            .where(*_of(provider, host, model))
            .where(SHARD.c.state == State.COLLECTED, _IS_FIRST, SHARD.c.input_tokens > 0)
            .order_by(SHARD.c.collected_at.desc())
            .limit(limit)
        )
        if job is not None:
            query = query.join(RUN, RUN.c.id == SHARD.c.run_id).where(RUN.c.namespace == job[0], RUN.c.job == job[1])
        if lane is not None:
            query = query.where(SHARD.c.lane == lane)
        with self._db.read() as db:
            shards = [Shard(**row._mapping) for row in db.execute(query)]
        return Observed(
            rows=sum(shard.billed for shard in shards),
            size_bytes=sum(shard.size_bytes * shard.billed / shard.requests for shard in shards),
            input_tokens=sum(shard.input_tokens for shard in shards),
            output_tokens=sum(shard.output_tokens for shard in shards),
            cached_tokens=sum(shard.cached_tokens for shard in shards),
        )

    def read_from_cache(self, provider: str, host: str, model: str, lane: str, since: datetime, *, warm: bool = False) -> Read:
        """The cache use that marked shards of a model in a lane reported, of those collected since then.

        Args:
            warm: of those whose beginning the cache had when they were planned; else of the others.  Rows that went ahead count for neither.
        """
        used = SHARD.c.cached_tokens + SHARD.c.cache_write_tokens > 0  # else the marked text was too short for the cache
        query = (
            sa.select(sa.func.sum(SHARD.c.requests), sa.func.sum(SHARD.c.cached_tokens), sa.func.sum(SHARD.c.cache_write_tokens))
            .where(*_of(provider, host, model), SHARD.c.lane == lane)
            .where(SHARD.c.cache_ttl.is_not(None), SHARD.c.collected_at >= since, used)
            .where(_is(SHARD.c.cache_warm, warm), _is(SHARD.c.ahead, False))
        )
        with self._db.read() as db:
            rows, read, written = db.execute(query).one()
        return Read(rows=int(rows or 0), read_tokens=int(read or 0), written_tokens=int(written or 0))

    def is_warm(self, provider: str, host: str, model: str, lane: str, prefix: str, since: datetime) -> bool:
        """True if a shard whose marked text has the digest `prefix` used the cache and ended after `since`."""
        query = (
            sa.select(SHARD.c.id)
            .where(*_of(provider, host, model), SHARD.c.lane == lane, SHARD.c.cache_prefix == prefix)
            .where(SHARD.c.state == State.COLLECTED, SHARD.c.ended_at > since, SHARD.c.cached_tokens + SHARD.c.cache_write_tokens > 0)
            .limit(1)
        )
        with self._db.read() as db:
            return db.execute(query).first() is not None

    def timings(
        self, namespace: str, *, job: str | None = None, since: datetime | None = None, until: datetime | None = None
    ) -> list[Timing]:
        """When each shard of these job runs (see `Catalog.runs`) was sent, ended and collected, in no order."""
        columns = (getattr(SHARD.c, field.name) for field in fields(Timing))
        query = sa.select(*columns).join(RUN, RUN.c.id == SHARD.c.run_id).where(*lookup.chosen(namespace, job, since, until))
        with self._db.read() as db:
            return [Timing(**row._mapping) for row in db.execute(query)]


def _of(provider: str, host: str, model: str) -> tuple[sa.ColumnElement[bool], ...]:
    return SHARD.c.provider == provider, SHARD.c.host == host, SHARD.c.model == model


def _is(column: sa.Column[bool | None], value: bool) -> sa.ColumnElement[bool]:
    """True if a column is true or, for False, if it is false or null: earlier versions have written nothing there."""
    return column.is_(sa.true()) if value else column.is_not(sa.true())
