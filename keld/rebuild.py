"""Rebuild: what staging remembers of a job run -> the ledger that lost it, or that is older.

Below `ledger`, whose transaction it is in.  What the ledger knows itself stands, but for shards that were sent since; money is added up anew.
"""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from keld import record
from keld.outlay import doubtful_usd
from keld.record import CANDIDATE, INTENT, RUN, SHARD, STRAY, Intent, JobRun, Shard, Stray
from keld.state import SENT, Event, State
from keld.witness import Memory

_HOLDING = (*SENT, State.QUARANTINED, State.COLLECTED)  # what is reserved for a shard in one of these may be on the bill


def take_in(db: sa.Connection, memory: Memory, ahead: set[str], now: datetime, *, new: bool) -> None:
    """Writes what the ledger does not know of a job run.

    Args:
        ahead: the shards, by id, of which staging remembers a later create.
        new: the ledger knows nothing of the job run.
    """
    run, shards, strays = memory.run, list(memory.shards.values()), list(memory.strays.values())
    assert run is not None
    if new:
        this = (RUN.c.namespace == run.namespace, RUN.c.job == run.job, RUN.c.partition == run.partition)
        generations = set(db.execute(sa.select(RUN.c.generation).where(*this)).scalars())
        generation = run.generation if run.generation not in generations else max(generations) + 1
        free = {"generation": generation, "lease_owner": None, "lease_until": None, "next_check_at": None if run.over else now}
        db.execute(sa.insert(RUN).values(**_values(run) | free))
    known = set(db.execute(sa.select(SHARD.c.id).where(SHARD.c.run_id == run.id)).scalars())
    for shard in shards:
        if shard.id not in known:
            db.execute(sa.insert(SHARD).values(**_values(shard)))
        elif shard.id in ahead:
            db.execute(sa.update(SHARD).where(SHARD.c.id == shard.id).values(**_values(shard)))
    for intent in memory.intents.values():
        _take_in_intent(db, intent, memory.shards.get(intent.shard_id))
    told = set(db.execute(sa.select(STRAY.c.batch_id).where(STRAY.c.run_id == run.id)).scalars())
    for stray in strays:
        if stray.batch_id not in told:
            db.execute(sa.insert(STRAY).values(**_values(stray)))
    _reckon(db, run.id, memory.answered_before)


def _take_in_intent(db: sa.Connection, intent: Intent, shard: Shard | None) -> None:
    """Of an earlier create of a shard it is not known here how it ended: it is looked for as one that may land late."""
    this = (INTENT.c.shard_id == intent.shard_id, INTENT.c.attempt == intent.attempt)
    if db.execute(sa.select(INTENT.c.shard_id).where(*this)).first() is not None:
        return
    values = _values(intent)
    if shard is not None and shard.attempt == intent.attempt and shard.batch_id is not None:
        values |= {"outcome": Event.CREATED.value, "batch_id": shard.batch_id}
    elif shard is None or shard.attempt != intent.attempt or shard.state not in SENT:
        values |= {"outcome": Event.ABSENT.value}
    db.execute(sa.insert(INTENT).values(**values))


def _reckon(db: sa.Connection, run_id: str, answered_before: int) -> None:
    """What a job run has spent and reserved, and where it stands, added up anew from its shards and strays."""
    shards = [record.shard(row) for row in db.execute(sa.select(SHARD).where(SHARD.c.run_id == run_id))]
    strays = [Stray(**row._mapping) for row in db.execute(sa.select(STRAY).where(STRAY.c.run_id == run_id))]
    collected = [shard for shard in shards if shard.state is State.COLLECTED]
    held = [doubtful_usd(shard) if shard.state is State.COLLECTED else shard.worst_usd for shard in shards if shard.state in _HOLDING]
    may_be = sa.select(CANDIDATE.c.worst_usd).where(CANDIDATE.c.run_id == run_id, CANDIDATE.c.settled_at.is_(None))
    held += list(db.execute(may_be).scalars())
    paid = [*(shard.cost_usd for shard in collected), *(stray.cost_usd for stray in strays)]
    run = record.job_run(db.execute(sa.select(RUN).where(RUN.c.id == run_id)).one())
    values: dict[str, Any] = {
        "spent_usd": sum((usd or Decimal(0) for usd in paid), Decimal(0)),
        "standard_usd": sum((shard.standard_usd or Decimal(0) for shard in collected), Decimal(0)),
        "reserved_usd": sum((*held, *(stray.doubtful_usd if stray.settled_at else stray.worst_usd for stray in strays)), Decimal(0)),
        "round": max((shard.round for shard in shards), default=0),
    }
    if not run.over:
        values["answered"] = answered_before + sum(shard.answered for shard in collected)
    db.execute(sa.update(RUN).where(RUN.c.id == run_id).values(**values))


def _values(one: JobRun | Shard | Intent | Stray) -> dict[str, Any]:
    return {field.name: getattr(one, field.name) for field in fields(one)}
