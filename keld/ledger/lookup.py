"""Lookup: the records of one job run or shard, by id, as every part of the ledger reads them.

Beside `record`.  Each function works within the caller's transaction and changes nothing.  Statements that every step runs are built once, here and in
the rooms above: to build one takes five times as long as to run it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from operator import attrgetter, itemgetter
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles

from keld.ledger.column import raw, reader
from keld.ledger.record import Intent, JobRun, Orphan, Shard
from keld.ledger.table import INTENT, ORPHAN, RUN, SHARD
from keld.state import TERMINAL

_Record = TypeVar("_Record")
OPEN = SHARD.c.state.not_in(tuple(TERMINAL))
JOB_RUNS = sa.select(*(raw(RUN.c[name]) for name in JobRun.__struct_fields__))  # what `job_runs` takes, with a condition and an order
_SHARDS = sa.select(*(raw(SHARD.c[name]) for name in Shard.__struct_fields__))
_RUN_READERS = tuple(reader(RUN.c[name]) for name in JobRun.__struct_fields__)
_SHARD_READERS = tuple(reader(SHARD.c[name]) for name in Shard.__struct_fields__)
_RUN = JOB_RUNS.where(RUN.c.id == sa.bindparam("of"))
_ordinal = attrgetter("ordinal")
_SHARD = _SHARDS.where(SHARD.c.id == sa.bindparam("of"))


class _Listed(sa.sql.functions.FunctionElement[str]):
    """The texts of a JSON array, as rows: one parameter, however many they are; SQLite has 32,766 at most, and to name ten thousand takes long."""

    name = "listed"
    inherit_cache = True
    type = sa.String()


@compiles(_Listed, "sqlite")
def _listed_in_sqlite(listed: _Listed, compiler: Any, **how: Any) -> str:
    return f"(SELECT value FROM json_each{compiler.process(listed.clause_expr, **how)})"  # noqa: S608  the parameter is bound, not quoted


@compiles(_Listed, "postgresql")
def _listed_in_postgres(listed: _Listed, compiler: Any, **how: Any) -> str:
    return f"(SELECT json_array_elements_text(CAST({compiler.process(listed.clause_expr, **how)} AS JSON)))"


def among(column: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """The condition that a column has one of the values that are given to the statement as `these(...)`."""
    return column.op("IN", is_comparison=True)(_Listed(sa.bindparam("these", type_=sa.String)))


def these(ids: Iterable[str]) -> dict[str, str]:
    """The parameter of `among`."""
    return {"these": msgspec.json.encode(list(ids)).decode()}


_RUNS = JOB_RUNS.where(among(RUN.c.id))
_ALL_SHARDS = _SHARDS.where(among(SHARD.c.run_id))
_OPEN_SHARDS = _ALL_SHARDS.where(OPEN)


def job_runs(db: sa.Connection, query: sa.Select[tuple[object, ...]], values: Mapping[str, object] | None = None) -> list[JobRun]:
    """The job runs that a query, made of `JOB_RUNS`, finds, in its order."""
    return _records(JobRun, _RUN_READERS, db.execute(query, values))


def job_run(db: sa.Connection, run_id: str) -> JobRun | None:
    """The job run of that id, or None."""
    return next(iter(job_runs(db, _RUN, {"of": run_id})), None)


def shard(db: sa.Connection, shard_id: str) -> Shard | None:
    """The shard of that id, or None."""
    return next(iter(_shards(db, _SHARD, {"of": shard_id})), None)


def job_runs_of(db: sa.Connection, run_ids: Collection[str]) -> list[JobRun]:
    """Those of these job runs that are there, in no order."""
    return job_runs(db, _RUNS, these(run_ids)) if run_ids else []


def shards_of(db: sa.Connection, run_ids: Collection[str], *, only_open: bool = False) -> list[Shard]:
    """The shards of job runs, of each by ordinal; or only those that are not over."""
    return _shards(db, _OPEN_SHARDS if only_open else _ALL_SHARDS, these(run_ids)) if run_ids else []


def shards(db: sa.Connection, *where: sa.ColumnElement[bool]) -> list[Shard]:
    """The shards for which all of `where` is true, by ordinal."""
    return _shards(db, _SHARDS.where(*where))


def _shards(db: sa.Connection, query: sa.Select[Any], values: Mapping[str, object] | None = None) -> list[Shard]:
    """By ordinal; ordered here, since SQLite would move all that it has read of each."""
    return sorted(_records(Shard, _SHARD_READERS, db.execute(query, values)), key=_ordinal)


def intents(db: sa.Connection, *where: sa.ColumnElement[bool]) -> list[Intent]:
    """The creates for which all of `where` is true; those of each shard in order."""
    query = sa.select(INTENT).where(*where).order_by(INTENT.c.shard_id, INTENT.c.attempt)
    return [Intent(**row._mapping) for row in db.execute(query)]


def orphans(db: sa.Connection, *where: sa.ColumnElement[bool]) -> list[Orphan]:
    """The orphan batches for which all of `where` is true, in no order."""
    return [Orphan(**row._mapping) for row in db.execute(sa.select(ORPHAN).where(*where))]


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


def _records(kind: Callable[..., _Record], readers: Sequence[Callable[[Any], Any] | None], found: sa.CursorResult[Any]) -> list[_Record]:
    """A record of each row, made column by column: a look reads tens of thousands of rows."""
    # From the driver's cursor: of SQLAlchemy's own rows, the garbage collector would follow each.
    rows = [] if found.cursor is None else found.cursor.fetchall()
    found.close()
    columns = (map(itemgetter(n), rows) for n in range(len(readers)))
    return list(map(kind, *(column if read is None else map(read, column) for read, column in zip(readers, columns, strict=True))))
