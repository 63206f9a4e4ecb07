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
from datetime import timedelta

from keld.errors import AccessRefused, ProviderRefused, ProviderUnreachable
from keld.failpoint import failpoint
from keld.providers.base import Provider, RemoteBatch
from keld.providers.page import UNREADABLE_TIME
from keld.record import Candidate, Shard
from keld.runner.search import is_of, stray_of
from keld.runner.visit import LAG, Visit, log
from keld.state import Event

_BESIDE = timedelta(minutes=1)  # before and after the time that a create took


def part_with_siblings(
    visit: Visit, provider: Provider, shard: Shard, own: RemoteBatch, listed: Collection[RemoteBatch], *, outcome: str, complete: bool
) -> None:
    """Notes what the shard may have besides its `own` batch among those `listed`; done, it is not looked for again.

    Args:
        outcome: how its create ended: with a reply, or adopted.
        complete: the list was read to its end.  Else it is tried again for a while; that it cannot be read is no reason to leave paid
            answers where they are.
    """
    took = (shard.submitted_at or visit.now()) - (shard.intent_at or visit.now())
    near = LAG if outcome == Event.ADOPTED else min(max(took, timedelta(0)), LAG) + _BESIDE
    ids = {batch.id for batch in listed}
    for batch in listed:
        if batch.id == shard.batch_id or is_alias(batch, own, ids) or visit.ledger.knows_batch(batch.id):
            continue
        if provider.capabilities.marks_batches and is_of(batch, shard) is not None:
            if is_of(batch, shard):
                _part_with(visit, provider, shard, batch)
        elif _may_be_of(batch, own, shard, near):
            _note(visit, shard, batch)
    if complete:
        visit.ledger.confirm(visit.lease, shard, visit.now())
    elif visit.now() - (shard.submitted_at or visit.now()) > LAG:
        log.warning("shard.list_incomplete shard=%s batch_id=%s", shard.id, shard.batch_id)
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
