"""Event: what happened to a job run or a shard, appended in order, never changed.

Below `ledger`.  An event is appended in the same transaction that writes the change, so that neither exists without the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from keld.ledger.record import EventRecord
from keld.ledger.table import EVENT
from keld.state import Event, RunEvent

_APPEND = sa.insert(EVENT)
_OF = sa.select(EVENT).where(EVENT.c.run_id == sa.bindparam("of")).order_by(EVENT.c.id)


def append(
    db: sa.Connection,
    at: datetime,
    run_id: str,
    kind: Event | RunEvent,
    *,
    shard_id: str | None = None,
    was: str | None = None,
    became: str | None = None,
    epoch: int = 0,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Appends an event, within the caller's transaction.

    Args:
        was, became: the state before and after it, of the shard, or of the job run; None if it changed none.
        epoch: of the lease under which it was written; 0: it needed none.
        facts: ids, counts and states; no prompt, no answer, no free text of a provider.
    """
    more = {"kind": kind, "was": was, "became": became, "epoch": epoch, "facts": dict(facts or {})}
    db.execute(_APPEND, {"at": at, "run_id": run_id, "shard_id": shard_id, **more})


def events(db: sa.Connection, run_id: str) -> list[EventRecord]:
    """What happened to a job run, in order."""
    return [EventRecord(**row._mapping) for row in db.execute(_OF, {"of": run_id})]
