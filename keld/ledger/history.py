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
        self, provider: str, host: str, model: str, lane: str, now: datetime, limit: int = 200
    ) -> tuple[list[float], list[float]]:
        """Seconds from submission to end of the latest shards that completed; and the seconds that the others ran, or are running, without completing."""
        query = (
            sa.select(SHARD.c.submitted_at, SHARD.c.ended_at, SHARD.c.ended)
            .where(*_of(provider, host, model), SHARD.c.lane == lane)
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

    def observed(self, provider: str, host: str, model: str, job: tuple[str, str] | None = None, limit: int = 200) -> Observed:
        """What the latest first rounds of a model used; of one (namespace, job), or of all.

        Only first rounds: the size of a later one includes the faults of earlier answers.  If some rows of a shard were not billed, its size is
        counted in proportion to the billed rows.
        """
        query = (
            sa.select(SHARD)
            .where(*_of(provider, host, model))
            .where(SHARD.c.state == State.COLLECTED, SHARD.c.round == 0, SHARD.c.input_tokens > 0)
            .order_by(SHARD.c.collected_at.desc())
            .limit(limit)
        )
        if job is not None:
            query = query.join(RUN, RUN.c.id == SHARD.c.run_id).where(RUN.c.namespace == job[0], RUN.c.job == job[1])
        with self._db.read() as db:
            shards = [Shard(**row._mapping) for row in db.execute(query)]
        return Observed(
            rows=sum(shard.billed for shard in shards),
            size_bytes=sum(shard.size_bytes * shard.billed / shard.requests for shard in shards),
            input_tokens=sum(shard.input_tokens for shard in shards),
            output_tokens=sum(shard.output_tokens for shard in shards),
            cached_tokens=sum(shard.cached_tokens for shard in shards),
        )

    def read_from_cache(self, provider: str, host: str, model: str, lane: str, since: datetime) -> Read:
        """The cache use that marked shards of a model in a lane reported, of those collected since then."""
        used = SHARD.c.cached_tokens + SHARD.c.cache_write_tokens > 0  # else the marked text was too short for the cache
        query = (
            sa.select(sa.func.sum(SHARD.c.requests), sa.func.sum(SHARD.c.cached_tokens), sa.func.sum(SHARD.c.cache_write_tokens))
            .where(*_of(provider, host, model), SHARD.c.lane == lane)
            .where(SHARD.c.cache_ttl.is_not(None), SHARD.c.collected_at >= since, used)
        )
        with self._db.read() as db:
            rows, read, written = db.execute(query).one()
        return Read(rows=int(rows or 0), read_tokens=int(read or 0), written_tokens=int(written or 0))

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
