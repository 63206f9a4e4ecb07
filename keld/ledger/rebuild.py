"""Rebuild: what staging remembers of a job run -> a ledger that lost it, or that is older.

Below `ledger`, whose transaction it is in.  What the ledger has itself is kept, except for shards that were sent later; money is added up again.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from keld.ledger import lookup
from keld.ledger.cost import doubtful_usd
from keld.ledger.memory import Memory
from keld.ledger.object import name_objects
from keld.ledger.record import Intent, Shard, values_of
from keld.ledger.table import CANDIDATE, INTENT, OBJECT, ORPHAN, RUN, SHARD
from keld.state import SENT, Event, State

_HOLDING = (*SENT, State.QUARANTINED, State.COLLECTED)  # in these states, a shard's reservation may be billed


def take_in(db: sa.Connection, memory: Memory, ahead: set[str], now: datetime, *, new: bool) -> None:
    """Writes the parts of a job run that the ledger does not have.

    Args:
        ahead: the ids of the shards of which staging has a later create.
        new: the ledger does not have the job run.
    """
    run, shards, orphans = memory.run, list(memory.shards.values()), list(memory.orphans.values())
    assert run is not None
    if new:
        this = (RUN.c.namespace == run.namespace, RUN.c.job == run.job, RUN.c.partition == run.partition)
        generations = set(db.execute(sa.select(RUN.c.generation).where(*this)).scalars())
        generation = run.generation if run.generation not in generations else max(generations) + 1
        free = {"generation": generation, "lease_owner": None, "lease_until": None, "next_check_at": None if run.over else now}
        db.execute(sa.insert(RUN).values(**values_of(run) | free))
    known = set(db.execute(sa.select(SHARD.c.id).where(SHARD.c.run_id == run.id)).scalars())
    for shard in shards:
        if shard.id not in known:
            db.execute(sa.insert(SHARD).values(**values_of(shard)))
        elif shard.id in ahead:
            db.execute(sa.update(SHARD).where(SHARD.c.id == shard.id).values(**values_of(shard)))
    for intent in memory.intents.values():
        _take_in_intent(db, intent, memory.shards.get(intent.shard_id))
    known_orphans = set(db.execute(sa.select(ORPHAN.c.batch_id).where(ORPHAN.c.run_id == run.id)).scalars())
    for orphan in orphans:
        if orphan.batch_id not in known_orphans:
            db.execute(sa.insert(ORPHAN).values(**values_of(orphan)))
    named = set(db.execute(sa.select(OBJECT.c.name).where(OBJECT.c.run_id == run.id)).scalars())
    name_objects(db, run.id, {name: one for name, one in memory.names.items() if name not in named or name.partition("/")[0] in ahead})
    _add_up(db, run.id, memory.answered_before)


def _take_in_intent(db: sa.Connection, intent: Intent, shard: Shard | None) -> None:
    """Writes a create; if its outcome is not known, it is recorded as absent, so that the sweep looks for it."""
    this = (INTENT.c.shard_id == intent.shard_id, INTENT.c.attempt == intent.attempt)
    if db.execute(sa.select(INTENT.c.shard_id).where(*this)).first() is not None:
        return
    values = values_of(intent)
    if shard is not None and shard.attempt == intent.attempt and shard.batch_id is not None:
        values |= {"outcome": Event.CREATED.value, "batch_id": shard.batch_id}
    elif shard is None or shard.attempt != intent.attempt or shard.state not in SENT:
        values |= {"outcome": Event.ABSENT.value}
    db.execute(sa.insert(INTENT).values(**values))


def _add_up(db: sa.Connection, run_id: str, answered_before: int) -> None:
    """Writes what a job run has spent, reserved and answered, added up again from its shards and orphans."""
    shards, orphans = lookup.shards(db, SHARD.c.run_id == run_id), lookup.orphans(db, ORPHAN.c.run_id == run_id)
    collected = [shard for shard in shards if shard.state is State.COLLECTED]
    held = [doubtful_usd(shard) if shard.state is State.COLLECTED else shard.worst_usd for shard in shards if shard.state in _HOLDING]
    may_be = sa.select(CANDIDATE.c.worst_usd).where(CANDIDATE.c.run_id == run_id, CANDIDATE.c.settled_at.is_(None))
    held += list(db.execute(may_be).scalars())
    paid = [*(shard.cost_usd for shard in collected), *(orphan.cost_usd for orphan in orphans)]
    run = lookup.job_run(db, run_id)
    values: dict[str, Any] = {
        "spent_usd": sum((usd or Decimal(0) for usd in paid), Decimal(0)),
        "standard_usd": sum((shard.standard_usd or Decimal(0) for shard in collected), Decimal(0)),
        "reserved_usd": sum((*held, *(orphan.doubtful_usd if orphan.settled_at else orphan.worst_usd for orphan in orphans)), Decimal(0)),
        "round": max((shard.round for shard in shards), default=0),
    }
    if run is not None and not run.over:
        values["answered"] = answered_before + sum(shard.answered for shard in collected)
    db.execute(sa.update(RUN).where(RUN.c.id == run_id).values(**values))
