"""Sibling: what one create made besides the batch that counts.

A step of the runner, at the first look after a create.  A gateway that retries may send one create of ours twice, have both of them
accepted, and hand on one reply.  So the list is looked through once for each create that succeeded.  What carries the shard's mark and
is not its batch is bought once too often: it is noted, with its worst case, and cancelled; the `sweep` counts what it cost.  Where
batches carry no mark, one of the same size and the same moment is a candidate: its worst case is reserved, and it is left alone until
its results tell the sweep whose it is.

A gateway may list a batch under another id than the one it gave us (LiteLLM lists the provider's own: BerriAI/litellm#36049).  To cancel
that one would be to cancel ours, so what a list shows in the place of our batch is taken for it (`is_alias`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from keld.errors import AccessRefused, ProviderRefused, ProviderUnreachable
from keld.failpoint import failpoint
from keld.ledger import Ledger
from keld.providers.base import Provider, RemoteBatch
from keld.providers.page import UNREADABLE_TIME
from keld.record import Candidate, Shard
from keld.runner.search import is_of, stray_of
from keld.runner.visit import LAG, Visit, log
from keld.state import Event

_BESIDE = timedelta(minutes=1)  # before and after the time that a create took


@dataclass(frozen=True, slots=True)
class Roll:
    """What the list of an account shows: the ids in it, the batches that the ledger does not have, and whether it was read to its end."""

    ids: frozenset[str]
    unknown: tuple[RemoteBatch, ...]
    complete: bool


@dataclass(frozen=True, slots=True)
class Siblings:
    """What stands beside a shard's batch: what carries its mark, and what may be its own."""

    marked: tuple[RemoteBatch, ...]
    perhaps: tuple[RemoteBatch, ...]


def roll_of(ledger: Ledger, listed: Collection[RemoteBatch], *, complete: bool) -> Roll:
    """The roll of a list, with one look into the ledger for all of it."""
    ids = frozenset(batch.id for batch in listed)
    known = ledger.known_batches(ids)
    return Roll(ids, tuple(batch for batch in listed if batch.id not in known), complete)


def siblings_of(provider: Provider, shard: Shard, own: RemoteBatch, roll: Roll, outcome: str, now: datetime) -> Siblings:
    """What the roll shows beside a shard's `own` batch, whose create ended with a reply, or was adopted (`outcome`)."""
    took = (shard.submitted_at or now) - (shard.intent_at or now)
    near = LAG if outcome == Event.ADOPTED else min(max(took, timedelta(0)), LAG) + _BESIDE
    marked, perhaps = [], []
    for batch in roll.unknown:
        if batch.id == own.id or is_alias(batch, own, roll.ids):
            continue
        ours = is_of(batch, shard) if provider.capabilities.marks_batches else None
        if ours:
            marked.append(batch)
        elif ours is None and _may_be_of(batch, own, shard, near):
            perhaps.append(batch)
    return Siblings(tuple(marked), tuple(perhaps))


def part_with_siblings(visit: Visit, provider: Provider, shard: Shard, own: RemoteBatch, roll: Roll, outcome: str) -> None:
    """Notes what the shard may have besides its `own` batch; done, it is not looked for again.

    A list that is not complete is read again for a while; that it cannot be read is no reason to leave paid answers where they are.
    """
    found = siblings_of(provider, shard, own, roll, outcome, visit.now())
    for batch in found.marked:
        _part_with(visit, provider, shard, batch)
    for batch in found.perhaps:
        _note(visit, shard, batch)
    late = visit.now() - (shard.submitted_at or visit.now()) > LAG
    if late and not roll.complete:
        log.warning("shard.list_incomplete shard=%s batch_id=%s", shard.id, shard.batch_id)
    if late or roll.complete:
        visit.ledger.confirm(visit.lease, shard, visit.now())


def is_alias(batch: RemoteBatch, own: RemoteBatch, listed: Collection[str]) -> bool:
    """Whether a batch of a list is our own under another name: ours is not in it, and this one was made at the very same time.

    Args:
        own: as the host describes it when it is asked for by the id that the host gave us.
        listed: the ids of the list.
    """
    return own.id not in listed and batch.created_at == own.created_at


def _may_be_of(batch: RemoteBatch, own: RemoteBatch, shard: Shard, near: timedelta) -> bool:
    """By its size, and by how near to our batch it was made, by the provider's own clock."""
    if not batch.state.ended and batch.requests not in (None, 0, shard.requests):
        return False
    return UNREADABLE_TIME in (batch.created_at, own.created_at) or abs(batch.created_at - own.created_at) <= near


def _note(visit: Visit, shard: Shard, batch: RemoteBatch) -> None:
    log.warning("shard.candidate shard=%s batch_id=%s", shard.id, batch.id)
    visit.ledger.add_candidate(
        Candidate(
            host=shard.host, batch_id=batch.id, provider=shard.provider, run_id=shard.run_id, shard_id=shard.id, requests=shard.requests,
            worst_usd=shard.worst_usd, found_at=visit.now(),
        )
    )  # fmt: skip


def _part_with(visit: Visit, provider: Provider, shard: Shard, batch: RemoteBatch) -> None:
    log.warning("shard.duplicate shard=%s batch_id=%s", shard.id, batch.id)
    visit.ledger.add_stray(stray_of(shard, batch.id, visit.now()))
    if batch.state.ended:
        return
    failpoint("sibling.cancel.send")
    try:
        provider.cancel(batch.id)
    except (AccessRefused, ProviderRefused, ProviderUnreachable) as problem:
        log.warning("shard.duplicate_not_cancelled batch_id=%s problem=%s", batch.id, type(problem).__name__)  # the sweep asks again
    failpoint("sibling.cancel.received")
