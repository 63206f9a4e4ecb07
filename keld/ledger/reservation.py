"""Reservation: the money of a job run that is reserved for requests that may still be billed, so that the ceiling holds.

Below `ledger`.  Each function works within the caller's transaction: the worst case of a shard is reserved with its intent, and is replaced by
the real cost when its results are collected.
"""

from __future__ import annotations

from decimal import Decimal

import sqlalchemy as sa

from keld.errors import CeilingTooLow
from keld.ledger.cost import doubtful_usd
from keld.ledger.record import Shard
from keld.ledger.table import RUN
from keld.state import AT_PROVIDER, Event, State

_MONEY = sa.select(RUN.c.ceiling_usd, RUN.c.spent_usd, RUN.c.reserved_usd, RUN.c.standard_usd, RUN.c.job, RUN.c.partition).where(
    RUN.c.id == sa.bindparam("run")
)
_SET = sa.update(RUN).where(RUN.c.id == sa.bindparam("run"))
_CHANGE = _SET.values(reserved_usd=RUN.c.reserved_usd + sa.bindparam("by_usd"))
_SETTLE = _SET.values(
    reserved_usd=sa.bindparam("reserved"), spent_usd=sa.bindparam("spent"), standard_usd=sa.bindparam("standard"),
    answered=RUN.c.answered + sa.bindparam("more"),
)  # fmt: skip

# After these, nothing of the shard's create can be billed.  Not LOST_TRACK: a quarantined shard may have cost its worst case.
FREEING = (Event.UNSENT, Event.DEFERRED, Event.ABSENT, Event.REJECTED, Event.DROPPED, Event.HEDGED)


def reserve_within_ceiling(db: sa.Connection, shard: Shard) -> None:
    """Reserves the worst case of a shard that is to be sent.

    Raises:
        CeilingTooLow: spent + reserved + this worst case exceeds the ceiling; nothing was reserved.
    """
    run = db.execute(_MONEY, {"run": shard.run_id}).one()
    wanted = run.spent_usd + run.reserved_usd + shard.worst_usd
    if run.ceiling_usd is not None and wanted > run.ceiling_usd:
        raise CeilingTooLow(
            f"{run.job}[{run.partition}]: sending shard {shard.ordinal} could bring the cost to ${wanted:.4f} (${run.spent_usd:.4f} spent, "
            f"${run.reserved_usd:.4f} in flight, ${shard.worst_usd:.4f} at worst for it); the ceiling is ${run.ceiling_usd:.2f}. This shard was not sent.",
            needed_usd=wanted,
            ceiling_usd=run.ceiling_usd,
            job=run.job,
            partition=run.partition or None,
        )
    db.execute(_SET, {"run": shard.run_id, "reserved_usd": run.reserved_usd + shard.worst_usd})


def change_reserve(db: sa.Connection, run_id: str, by_usd: Decimal) -> None:
    """Reserves more money of a job run, or releases it (below 0), whatever its ceiling is: what is in progress is paid in any case."""
    db.execute(_CHANGE, {"run": run_id, "by_usd": by_usd})


def follow(db: sa.Connection, shard: Shard, event: Event, became: Shard) -> None:
    """Changes the reservation after `event` led from `shard` to `became`."""
    if became.state == State.COLLECTED:
        _settle(db, became)
    elif event in FREEING:
        # A shard that was never sent has no reservation.
        if shard.state in (State.SUBMITTING, State.UNKNOWN, *AT_PROVIDER):
            change_reserve(db, shard.run_id, -shard.worst_usd)
    elif event is Event.ADOPTED and shard.state in (State.STAGED, State.DEFERRED, State.DROPPED, State.REJECTED):
        # It is billed even if it does not fit under the ceiling; nothing else is sent until it fits.
        change_reserve(db, shard.run_id, shard.worst_usd)


def _settle(db: sa.Connection, shard: Shard) -> None:
    """Replaces the reservation by the real cost, and counts the answers.

    A row that is in no result file, or whose reply was lost, may still be billed: its share of the worst case stays reserved.
    """
    run = db.execute(_MONEY, {"run": shard.run_id}).one()
    changed = {
        "reserved": run.reserved_usd - shard.worst_usd + doubtful_usd(shard),
        "spent": run.spent_usd + (shard.cost_usd or 0),
        "standard": run.standard_usd + (shard.standard_usd or 0),
        "more": shard.answered,
    }
    db.execute(_SETTLE, {"run": shard.run_id, **changed})
