"""History: what was measured of accounts and models: the time of batches, the speed of fast lanes, the tokens of rows, the use of caches.

Below `ledger`.  Each value comes from the latest shards that show it; `turnaround`, `deadline`, `estimate` and `cache` draw the
conclusions.  The times of all shards of a span of days are for `report`.  Every plan asks for most of them, for each model and lane, so
that these statements are built once, as those of `lookup`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from functools import cache
from typing import Any

import sqlalchemy as sa

from keld.cache import Read
from keld.estimate import Observed
from keld.ledger import lookup
from keld.ledger.database import Database
from keld.ledger.record import billed
from keld.ledger.table import RUN, SHARD
from keld.state import AT_PROVIDER, State

_ROWS_LEAST = 20  # of a realtime run whose speed is meaningful
_BEFORE = SHARD.alias()
_BEHIND = sa.exists().where(_BEFORE.c.run_id == SHARD.c.run_id, _BEFORE.c.round == 0, _BEFORE.c.ahead.is_(sa.true()))
_IS_FIRST = sa.or_(SHARD.c.round == 0, sa.and_(SHARD.c.round == 1, _BEHIND))  # of shards that ask rows for the first time

_OF = tuple(SHARD.c[name] == sa.bindparam(name) for name in ("provider", "host", "model"))
_IN = SHARD.c.lane == sa.bindparam("lane")
_REALTIME_RUNS = (
    sa.select(SHARD.c.requests, SHARD.c.submitted_at, SHARD.c.ended_at)
    .where(*_OF, _IN, SHARD.c.ended == "completed", SHARD.c.requests >= _ROWS_LEAST)
    .order_by(SHARD.c.ended_at.desc())
    .limit(sa.bindparam("limit", type_=sa.Integer))
)
_WARM = (
    sa.select(SHARD.c.id)
    .where(*_OF, _IN, SHARD.c.cache_prefix == sa.bindparam("prefix"), SHARD.c.state == State.COLLECTED)
    .where(SHARD.c.ended_at > sa.bindparam("since"), SHARD.c.cached_tokens + SHARD.c.cache_write_tokens > 0)
    .limit(1)
)


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
        of = {"provider": provider, "host": host, "model": model, "lane": lane, "limit": limit}
        completed: list[float] = []
        others: list[float] = []
        with self._db.read() as db:
            for submitted_at, ended_at, ended in db.execute(_turnarounds(ahead), of):
                seconds = max(0.0, ((ended_at or now) - submitted_at).total_seconds())
                (completed if ended == "completed" else others).append(seconds)
        return completed, others

    def realtime_runs(self, provider: str, host: str, model: str, lane: str, limit: int = 20) -> list[tuple[int, float, float]]:
        """(rows, begun, ended) of the latest realtime runs in a lane, in seconds since the epoch; runs of few rows are left out."""
        of = {"provider": provider, "host": host, "model": model, "lane": lane, "limit": limit}
        with self._db.read() as db:
            found = db.execute(_REALTIME_RUNS, of)
            return [(requests, begun.timestamp(), ended.timestamp()) for requests, begun, ended in found]

    def observed(
        self, provider: str, host: str, model: str, job: tuple[str, str] | None = None, limit: int = 200, *, lane: str | None = None
    ) -> Observed:
        """What the latest first rounds of a model used; of one (namespace, job), or of all; in one lane, or in all.

        Only first rounds, or second ones behind a row that went ahead: the size of a later one includes the faults of earlier answers.  If
        some rows of a shard were not billed, its size is counted in proportion to the billed rows.
        """
        of: dict[str, object] = {"provider": provider, "host": host, "model": model, "limit": limit}
        if job is not None:
            of |= {"namespace": job[0], "job": job[1]}
        if lane is not None:
            of["lane"] = lane
        with self._db.read() as db:
            shards = [(billed(one.outcomes), one) for one in db.execute(_observed(job is not None, lane is not None), of)]
        return Observed(
            rows=sum(rows for rows, _ in shards),
            size_bytes=sum(shard.size_bytes * rows / shard.requests for rows, shard in shards),
            input_tokens=sum(shard.input_tokens for _, shard in shards),
            output_tokens=sum(shard.output_tokens for _, shard in shards),
            cached_tokens=sum(shard.cached_tokens for _, shard in shards),
        )

    def read_from_cache(self, provider: str, host: str, model: str, lane: str, since: datetime, *, warm: bool = False) -> Read:
        """The cache use that marked shards of a model in a lane reported, of those collected since then.

        Args:
            warm: of those whose beginning the cache had when they were planned; else of the others.  Rows that went ahead count for neither.
        """
        of = {"provider": provider, "host": host, "model": model, "lane": lane, "since": since}
        with self._db.read() as db:
            rows, read, written = db.execute(_read_from_cache(warm), of).one()
        return Read(rows=int(rows or 0), read_tokens=int(read or 0), written_tokens=int(written or 0))

    def is_warm(self, provider: str, host: str, model: str, lane: str, prefix: str, since: datetime) -> bool:
        """True if a shard whose marked text has the digest `prefix` used the cache and ended after `since`."""
        of = {"provider": provider, "host": host, "model": model, "lane": lane, "prefix": prefix, "since": since}
        with self._db.read() as db:
            return db.execute(_WARM, of).first() is not None

    def timings(
        self, namespace: str, *, job: str | None = None, since: datetime | None = None, until: datetime | None = None
    ) -> list[Timing]:
        """When each shard of these job runs (see `Catalog.runs`) was sent, ended and collected, in no order."""
        columns = (getattr(SHARD.c, field.name) for field in fields(Timing))
        query = sa.select(*columns).join(RUN, RUN.c.id == SHARD.c.run_id).where(*lookup.chosen(namespace, job, since, until))
        with self._db.read() as db:
            return [Timing(**row._mapping) for row in db.execute(query)]


@cache
def _turnarounds(ahead: bool) -> sa.Select[Any]:
    return (
        sa.select(SHARD.c.submitted_at, SHARD.c.ended_at, SHARD.c.ended)
        .where(*_OF, _IN, _is(SHARD.c.ahead, ahead))
        .where(SHARD.c.submitted_at.is_not(None), sa.or_(SHARD.c.ended.is_not(None), SHARD.c.state.in_(AT_PROVIDER)))
        .order_by(SHARD.c.submitted_at.desc())
        .limit(sa.bindparam("limit", type_=sa.Integer))
    )


@cache
def _observed(of_job: bool, in_lane: bool) -> sa.Select[Any]:
    tokens = (SHARD.c.input_tokens, SHARD.c.output_tokens, SHARD.c.cached_tokens)
    query = (
        sa.select(SHARD.c.outcomes, SHARD.c.requests, SHARD.c.size_bytes, *tokens)
        .where(*_OF, SHARD.c.state == State.COLLECTED, _IS_FIRST, SHARD.c.input_tokens > 0)
        .order_by(SHARD.c.collected_at.desc())
        .limit(sa.bindparam("limit", type_=sa.Integer))
    )
    if of_job:
        query = query.join(RUN, RUN.c.id == SHARD.c.run_id)
        query = query.where(RUN.c.namespace == sa.bindparam("namespace"), RUN.c.job == sa.bindparam("job"))
    return query.where(_IN) if in_lane else query


@cache
def _read_from_cache(warm: bool) -> sa.Select[Any]:
    used = SHARD.c.cached_tokens + SHARD.c.cache_write_tokens > 0  # else the marked text was too short for the cache
    return (
        sa.select(sa.func.sum(SHARD.c.requests), sa.func.sum(SHARD.c.cached_tokens), sa.func.sum(SHARD.c.cache_write_tokens))
        .where(*_OF, _IN, SHARD.c.cache_ttl.is_not(None), SHARD.c.collected_at >= sa.bindparam("since"), used)
        .where(_is(SHARD.c.cache_warm, warm), _is(SHARD.c.ahead, False))
    )


def _is(column: sa.Column[bool | None], value: bool) -> sa.ColumnElement[bool]:
    """True if a column is true or, for False, if it is false or null: earlier versions have written nothing there."""
    return column.is_(sa.true()) if value else column.is_not(sa.true())
