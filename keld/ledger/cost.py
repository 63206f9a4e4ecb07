"""Cost: what each job run spent on each model in each lane, added up by the database.

Below `ledger`, beside `record`; `spend` groups what comes from here.  Four queries, for any number of job runs: a job run's shards
may differ in provider, model and lane, since rows move on, so the job run's own record does not show this.
Reserved money is counted by shard by the same rules by which `reservation` reserves and settles.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from keld.ledger import lookup
from keld.ledger.database import Database
from keld.ledger.fault import ShardError
from keld.ledger.record import Shard
from keld.ledger.table import CANDIDATE, ORPHAN, RUN, SHARD
from keld.state import State

_RESERVING = (State.SUBMITTING, State.UNKNOWN, State.IN_PROGRESS, State.CANCELLING, State.ENDED, State.QUARANTINED)
_GIVEN = (*_RESERVING, State.COLLECTED, State.REJECTED)
_PICO = Decimal("1e-12")
_KEY = (SHARD.c.run_id, SHARD.c.provider, SHARD.c.model, SHARD.c.lane)


@dataclass(frozen=True, slots=True, kw_only=True)
class CostLine:
    """What one job run spent on one model in one lane.

    Args:
        asked: requests that a provider was given; in a fast lane, those with a reply.  A row that is asked again counts again.
        answered: those that have a valid answer.
        paid_usd: what the providers' results say was used, `twice_usd` in it.
        standard_usd: what the same tokens cost in the standard lane; what was paid twice is not in it.
        estimated_usd: what the shards that completed, each row with its cost, were expected to cost; `estimate_paid_usd` is what they did cost.
        twice_usd: the cost of batches whose create took effect after their shard had been sent again.
        reserved_usd: what may still be billed, at worst; `unknown_usd` of it is for `unknown_rows` of which nothing more will be
            known: lost after they were processed, without a reply, answered without a count of tokens, or in a quarantined batch.
    """

    run_id: str
    provider: str
    model: str
    lane: str
    asked: int = 0
    answered: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    paid_usd: Decimal = Decimal(0)
    standard_usd: Decimal = Decimal(0)
    estimated_usd: Decimal = Decimal(0)
    estimate_paid_usd: Decimal = Decimal(0)
    twice_usd: Decimal = Decimal(0)
    reserved_usd: Decimal = Decimal(0)
    unknown_usd: Decimal = Decimal(0)
    unknown_rows: int = 0


class Costs:
    """What the job runs of a ledger spent."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def lines(
        self, namespace: str, *, job: str | None = None, since: datetime | None = None, until: datetime | None = None
    ) -> list[CostLine]:
        """What each of these job runs (see `Catalog.runs`) spent on each model in each lane, in no order."""
        with self._db.read() as db:
            return cost_lines(db, *lookup.chosen(namespace, job, since, until))


def cost_lines(db: sa.Connection, *where: sa.ColumnElement[bool]) -> list[CostLine]:
    """One cost line for each (job run, provider, model, lane) that has shards, of the job runs for which `where` is true."""
    sums: dict[tuple[str, str, str, str], dict[str, Any]] = defaultdict(dict)
    for query in (_shards(), _orphans(), _candidates()):
        for row in db.execute(query.where(*where).group_by(*_KEY)):
            run_id, provider, model, lane, *found = row
            _add(sums[run_id, provider, model, lane], dict(zip(query.selected_columns.keys()[len(_KEY) :], found, strict=True)))
    for row in db.execute(_lossy().where(*where)):
        rows, usd = _doubtful(row.requests, row.worst_usd, row.outcomes, row.error)
        _add(sums[row.run_id, row.provider, row.model, row.lane], {"reserved_usd": usd, "unknown_usd": usd, "unknown_rows": rows})
    return [
        CostLine(run_id=run_id, provider=provider, model=model, lane=lane, **found)
        for (run_id, provider, model, lane), found in sums.items()
    ]


def doubtful_usd(shard: Shard) -> Decimal:
    """The money that stays reserved for a collected shard: the worst case of its rows whose cost the results do not tell."""
    return _doubtful(shard.requests, shard.worst_usd, shard.outcomes, shard.error)[1]


def _doubtful(requests: int, worst_usd: Decimal, outcomes: dict[str, int] | None, error: ShardError | None) -> tuple[int, Decimal]:
    rows = min(max((outcomes or {}).get("lost", 0), 0 if error is None else error.rows), requests)
    return rows, in_doubt_usd(requests, worst_usd, rows)


def in_doubt_usd(requests: int, worst_usd: Decimal, rows: int) -> Decimal:
    """The share of `rows` in the worst case of all requests, as the ledger stores it."""
    return (worst_usd * min(rows, requests) / requests).quantize(_PICO)


def _shards() -> sa.Select[Any]:
    collected = SHARD.c.state == State.COLLECTED
    lost = sa.func.coalesce(SHARD.c.outcomes["lost"].as_integer(), 0)
    in_doubt = sa.func.coalesce(SHARD.c.error["rows"].as_integer(), 0)
    whole = sa.and_(collected, SHARD.c.ended == "completed", lost == 0, in_doubt == 0, SHARD.c.cost_usd.is_not(None))
    quarantined = SHARD.c.state == State.QUARANTINED
    given = sa.case((SHARD.c.lane == "batch", SHARD.c.requests), else_=sa.func.coalesce(SHARD.c.done, 0))
    return sa.select(
        *_KEY,
        _sum("asked", given, SHARD.c.state.in_(_GIVEN)),
        _sum("answered", SHARD.c.answered, collected),
        _sum("input_tokens", SHARD.c.input_tokens, collected),
        _sum("cached_tokens", SHARD.c.cached_tokens, collected),
        _sum("cache_write_tokens", SHARD.c.cache_write_tokens, collected),
        _sum("output_tokens", SHARD.c.output_tokens, collected),
        _sum("paid_usd", SHARD.c.cost_usd, collected),
        _sum("standard_usd", SHARD.c.standard_usd, collected),
        _sum("estimated_usd", SHARD.c.expected_usd, whole),
        _sum("estimate_paid_usd", SHARD.c.cost_usd, whole),
        _sum("reserved_usd", SHARD.c.worst_usd, SHARD.c.state.in_(_RESERVING)),
        _sum("unknown_usd", SHARD.c.worst_usd, quarantined),
        _sum("unknown_rows", SHARD.c.requests, quarantined),
    ).join(RUN, RUN.c.id == SHARD.c.run_id)


def _orphans() -> sa.Select[Any]:
    settled = ORPHAN.c.settled_at.is_not(None)
    of_shards = sa.select(
        *_KEY,
        _sum("paid_usd", ORPHAN.c.cost_usd, settled),
        _sum("twice_usd", ORPHAN.c.cost_usd, settled),
        _sum("reserved_usd", sa.case((settled, ORPHAN.c.doubtful_usd), else_=ORPHAN.c.worst_usd), sa.true()),
        _sum("unknown_usd", ORPHAN.c.doubtful_usd, settled),
        _sum("unknown_rows", ORPHAN.c.lost, settled),
    ).join(SHARD, SHARD.c.id == ORPHAN.c.shard_id)
    return of_shards.join(RUN, RUN.c.id == SHARD.c.run_id)


def _candidates() -> sa.Select[Any]:
    of_shards = sa.select(*_KEY, _sum("reserved_usd", CANDIDATE.c.worst_usd, CANDIDATE.c.settled_at.is_(None)))
    return of_shards.join(CANDIDATE, SHARD.c.id == CANDIDATE.c.shard_id).join(RUN, RUN.c.id == SHARD.c.run_id)


def _lossy() -> sa.Select[Any]:
    """The collected shards with rows whose cost the results do not tell; few, however large the ledger is."""
    lost, without_reply = SHARD.c.outcomes["lost"].as_integer(), SHARD.c.error["rows"].as_integer()
    query = sa.select(*_KEY, SHARD.c.requests, SHARD.c.worst_usd, SHARD.c.outcomes, SHARD.c.error).join(RUN, RUN.c.id == SHARD.c.run_id)
    return query.where(SHARD.c.state == State.COLLECTED, sa.or_(lost > 0, without_reply > 0))


def _sum(name: str, what: sa.ColumnElement[Any], where: sa.ColumnElement[bool]) -> sa.Label[Any]:
    return sa.func.sum(sa.case((where, what))).label(name)


def _add(to: dict[str, Any], found: dict[str, Any]) -> None:
    for name, n in found.items():
        if n is not None:
            # In Postgres, the sum of whole numbers is a Decimal.
            to[name] = to.get(name, 0) + (n if name.endswith("_usd") else int(n))
