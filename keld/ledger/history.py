"""History: what was learned of accounts and models: how long batches took, how fast the fast lanes were, what rows used, what a cache gave.

Below `ledger`.  Each question is answered from the latest shards that say something of it; what follows is for `turnaround`, `deadline`,
`estimate` and `cache` to say.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from keld.cache import Read
from keld.estimate import Observed
from keld.ledger.database import Database
from keld.ledger.record import Shard
from keld.ledger.table import RUN, SHARD
from keld.state import AT_PROVIDER, State

_ROWS_LEAST = 20  # of a stretch whose speed says something


class History:
    """What the shards of a ledger have shown."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def turnarounds(
        self, provider: str, host: str, model: str, lane: str, now: datetime, limit: int = 200
    ) -> tuple[list[float], list[float]]:
        """Seconds from submission to end of the latest shards that completed; and how long the others, running or given up, ran without."""
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
        """(rows, begun, ended) of the latest stretches in a fast lane, in seconds since the epoch; those of a handful of rows say nothing."""
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

        A first round only: the size of a later one holds room for what was wrong with the answers before.  Of a shard with rows that were not
        billed the billed share counts.
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
        """What marked shards of a model in a lane, collected since then, reported."""
        used = SHARD.c.cached_tokens + SHARD.c.cache_write_tokens > 0  # else what was marked was too short to be kept
        query = (
            sa.select(sa.func.sum(SHARD.c.requests), sa.func.sum(SHARD.c.cached_tokens), sa.func.sum(SHARD.c.cache_write_tokens))
            .where(*_of(provider, host, model), SHARD.c.lane == lane)
            .where(SHARD.c.cache_ttl.is_not(None), SHARD.c.collected_at >= since, used)
        )
        with self._db.read() as db:
            rows, read, written = db.execute(query).one()
        return Read(rows=int(rows or 0), read_tokens=int(read or 0), written_tokens=int(written or 0))


def _of(provider: str, host: str, model: str) -> tuple[sa.ColumnElement[bool], ...]:
    return SHARD.c.provider == provider, SHARD.c.host == host, SHARD.c.model == model
