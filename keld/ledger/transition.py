"""Transition: one event of one shard: its state by the transition table, the fields that changed, the outcome of its create.

Below `ledger`, which holds the lease and the transaction.  A shard that another worker has changed meanwhile is left as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from keld.errors import LeaseLost
from keld.ledger import event as event_log
from keld.ledger.candidate import release_candidate
from keld.ledger.lease import Lease
from keld.ledger.record import Shard
from keld.ledger.table import INTENT, SHARD
from keld.state import SENT, Event, after

_CREATE_OUTCOMES = (
    Event.CREATED,
    Event.ADOPTED,
    Event.UNSENT,
    Event.REFUSED,
    Event.DEFERRED,
    Event.REJECTED,
    Event.OUTCOME_LOST,
    Event.ABSENT,
    Event.LOST_TRACK,
)
# The attempt, too: a shard that was sent and refused since then is STAGED again, but has changed.
_UNMOVED = (SHARD.c.id == sa.bindparam("of"), SHARD.c.state == sa.bindparam("was"), SHARD.c.attempt == sa.bindparam("tried"))
_MOVE = sa.update(SHARD).where(*_UNMOVED).returning(*SHARD.c)
_CREATE = sa.update(INTENT).where(INTENT.c.shard_id == sa.bindparam("of"), INTENT.c.attempt == sa.bindparam("tried"))


def move(
    db: sa.Connection, lease: Lease, shard: Shard, event: Event, now: datetime, facts: Mapping[str, Any], changes: Mapping[str, Any]
) -> Shard:
    """The shard after `event`, with `changes` to its fields, the event appended.

    Raises:
        LeaseLost: it is not in the state, or at the attempt, that it was read in.
    """
    became = after(shard.state, event)
    this = {"of": shard.id, "tried": shard.attempt}
    moved = db.execute(_MOVE, {**this, "was": shard.state, "state": became, **changes}).one_or_none()
    if moved is None:
        raise LeaseLost(f"Shard {shard.id} is no longer {shard.state}; another worker changed it, and this worker's write was refused.")
    if changes.get("batch_id"):
        release_candidate(db, shard.host, changes["batch_id"], now)  # it is the shard's own batch
    if event in _CREATE_OUTCOMES and (shard.state in SENT or event is Event.ADOPTED):
        outcome = {"outcome": event.value} | ({"batch_id": changes["batch_id"]} if "batch_id" in changes else {})
        db.execute(_CREATE, {**this, **outcome})
    event_log.append(
        db, now, shard.run_id, event, shard_id=shard.id, was=shard.state, became=became, epoch=lease.epoch, facts=facts
    )  # fmt: skip
    return Shard(**moved._mapping)
