"""Sibling: what one create made besides the batch that counts.

A step of the runner, at the first look after a create.  A gateway that retries may send one create of ours twice, have both of them
accepted, and hand on one reply.  So the list is looked through once for each create that succeeded.  What carries the shard's mark and
is not its batch is bought once too often: it is noted, with its worst case, and cancelled; the `sweep` counts what it cost.
"""

from __future__ import annotations

from collections.abc import Iterable

from keld.errors import AccessRefused, ProviderRefused, ProviderUnreachable
from keld.failpoint import failpoint
from keld.providers.base import Provider, RemoteBatch
from keld.record import Shard
from keld.runner.search import is_of, stray_of
from keld.runner.visit import LAG, Visit, log


def part_with_siblings(visit: Visit, provider: Provider, shard: Shard, listed: Iterable[RemoteBatch], *, complete: bool) -> None:
    """Notes and cancels what the shard has besides its batch among those `listed`; done, it is not looked for again.

    Args:
        complete: the list was read to its end.  Else it is tried again for a while; that it cannot be read is no reason to leave paid
            answers where they are.
    """
    for batch in listed:
        if batch.id != shard.batch_id and is_of(batch, shard) and not visit.ledger.knows_batch(batch.id):
            _part_with(visit, provider, shard, batch)
    if complete:
        visit.ledger.confirm(visit.lease, shard, visit.now())
    elif visit.now() - (shard.submitted_at or visit.now()) > LAG:
        log.warning("shard.list_incomplete shard=%s batch_id=%s", shard.id, shard.batch_id)
        visit.ledger.confirm(visit.lease, shard, visit.now())


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
