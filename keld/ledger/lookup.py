"""Lookup: the records of one job run or shard, by id, as every part of the ledger reads them.

Beside `record`.  Each function works within the caller's transaction and changes nothing.  Statements that every step runs are built once, here and in
the rooms above: to build one takes five times as long as to run it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa

from keld.ledger.record import Intent, JobRun, Orphan, Shard
from keld.ledger.table import INTENT, ORPHAN, RUN, SHARD
from keld.state import TERMINAL

_Record = TypeVar("_Record")
OPEN = SHARD.c.state.not_in(tuple(TERMINAL))
_RUN = sa.select(RUN).where(RUN.c.id == sa.bindparam("of"))
_SHARD = sa.select(SHARD).where(SHARD.c.id == sa.bindparam("of"))
_SHARDS = sa.select(SHARD).where(SHARD.c.run_id.in_(sa.bindparam("of", expanding=True))).order_by(SHARD.c.ordinal)
_OPEN_SHARDS = _SHARDS.where(OPEN)
_AT_ONCE = 10_000  # SQLite has 32,766 variables in one query at most


def job_runs(db: sa.Connection, query: sa.Select[tuple[object, ...]], values: Mapping[str, object] | None = None) -> list[JobRun]:
    """The job runs that a query over all columns of their table finds, in its order."""
    return _records(JobRun, db.execute(query, values))


def job_run(db: sa.Connection, run_id: str) -> JobRun | None:
    """The job run of that id, or None."""
    return next(iter(job_runs(db, _RUN, {"of": run_id})), None)


def shard(db: sa.Connection, shard_id: str) -> Shard | None:
    """The shard of that id, or None."""
    return next(iter(_records(Shard, db.execute(_SHARD, {"of": shard_id}))), None)


def shards_of(db: sa.Connection, run_ids: Collection[str], *, only_open: bool = False) -> Iterator[Shard]:
    """The shards of job runs, of each by ordinal; or only those that are not over."""
    for some in in_lots(run_ids):
        yield from _records(Shard, db.execute(_OPEN_SHARDS if only_open else _SHARDS, {"of": some}))


def shards(db: sa.Connection, *where: sa.ColumnElement[bool]) -> list[Shard]:
    """The shards for which all of `where` is true, by ordinal."""
    return _records(Shard, db.execute(sa.select(SHARD).where(*where).order_by(SHARD.c.ordinal)))


def intents(db: sa.Connection, *where: sa.ColumnElement[bool]) -> list[Intent]:
    """The creates for which all of `where` is true; those of each shard in order."""
    query = sa.select(INTENT).where(*where).order_by(INTENT.c.shard_id, INTENT.c.attempt)
    return [Intent(**row._mapping) for row in db.execute(query)]


def orphans(db: sa.Connection, *where: sa.ColumnElement[bool]) -> list[Orphan]:
    """The orphan batches for which all of `where` is true, in no order."""
    return [Orphan(**row._mapping) for row in db.execute(sa.select(ORPHAN).where(*where))]


def in_lots(ids: Collection[str]) -> Iterator[list[str]]:
    """Ids in lots, each small enough for one query."""
    listed = list(ids)
    return (listed[n : n + _AT_ONCE] for n in range(0, len(listed), _AT_ONCE))


def chosen(namespace: str, job: str | None, since: datetime | None, until: datetime | None) -> list[sa.ColumnElement[bool]]:
    """The conditions for job runs of a namespace; of one job; made from `since` on, and before `until`."""
    conditions = [RUN.c.namespace == namespace]
    if job is not None:
        conditions.append(RUN.c.job == job)
    if since is not None:
        conditions.append(RUN.c.created_at >= since)
    if until is not None:
        conditions.append(RUN.c.created_at < until)
    return conditions


def _records(kind: Callable[..., _Record], found: sa.CursorResult[Any]) -> list[_Record]:
    """A record of each row; by the names of its columns, which are read once: a look reads tens of thousands of rows."""
    names = tuple(found.keys())
    return [kind(**dict(zip(names, row, strict=True))) for row in found]
