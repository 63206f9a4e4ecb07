"""Search: a create whose outcome is unknown is looked for at the provider, before anything is sent again.

A step of the runner, after `submit`.  The protocol: look, look again after settling; where the provider lets us, fence (delete the input
file, so that a create still on its way cannot land) and look once more; then adopt what was found, or send again.  What lands after
the last look is found by the `sweep`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from keld.answer import Outcome
from keld.failpoint import failpoint
from keld.providers.base import Provider, RemoteBatch
from keld.record import Shard, Stray
from keld.request import batch_key, position_of
from keld.runner.visit import SKEW, Visit, log
from keld.state import Event

_EVER = datetime.min.replace(tzinfo=UTC)


def search(visit: Visit, shard: Shard) -> Shard:
    """Adopts the shard's create, waits for the next look, or after the last one gives it up for absent."""
    provider = visit.provider(shard)
    failpoint("look.send")
    found = _matches(visit, provider, shard)
    failpoint("look.received")
    if found and not provider.capabilities.marks_batches:
        # Only its results say whose an unmarked batch is.  One that may be ours is waited for: to adopt it unproven may be to
        # cancel somebody else's, and to send another shard of ours again while its batch counts as this one's.
        waiting = [batch for batch in found if not batch.state.ended]
        found, others = _proven(provider, shard, [batch for batch in found if batch.state.ended])
        if not found and (waiting or others):
            not_before = visit.now() + (visit.settings.poll_most if waiting else timedelta(0))
            return visit.record(shard, Event.LOOKED, not_before=not_before, facts={"waiting": len(waiting), "not_ours": others})
    if found:
        return _adopt(visit, shard, found[0], found[1:])
    return _not_found(visit, provider, shard)


def _adopt(visit: Visit, shard: Shard, batch: RemoteBatch, spares: Sequence[RemoteBatch]) -> Shard:
    """The shard with its batch; what one create made besides is bought too often, and swept away."""
    submitted_at, now = min(batch.created_at, visit.now()), visit.now()
    for spare in spares:
        log.warning("shard.duplicate shard=%s batch_id=%s", shard.id, spare.id)
    return visit.record(
        shard, Event.ADOPTED, batch_id=batch.id, submitted_at=submitted_at, facts={"matches": 1 + len(spares)},
        strays=[stray_of(shard, spare.id, now) for spare in spares],
    )  # fmt: skip


def _not_found(visit: Visit, provider: Provider, shard: Shard) -> Shard:
    settings, fences = visit.settings, provider.capabilities.fences
    settle = settings.settle if fences else (*settings.settle, settings.settle_unfenced)
    looks = shard.looks + 1
    if looks < len(settle):
        return visit.record(shard, Event.LOOKED, looks=looks, not_before=visit.now() + settle[looks])
    if looks == len(settle) and fences and shard.input_ref:
        # The fence: without its input a create that is still on its way cannot land any more.  Then one look for one
        # that landed just before.
        failpoint("fence.send")
        provider.delete_input(shard.input_ref)
        failpoint("fence.received")
        return visit.record(shard, Event.LOOKED, looks=looks, not_before=visit.now() + settle[0], facts={"fenced": True})
    if not fences and not settings.resend_unfenced:
        why = "the reply to its create was lost, nothing was found in the settling time, and nothing can prove that it will not land yet"
        return visit.give_up(shard, Event.LOST_TRACK, Outcome.QUARANTINED, why, error={"code": "create_unaccounted_for"})
    return visit.record(shard, Event.ABSENT, input_ref=None, not_before=None)


def _matches(visit: Visit, provider: Provider, shard: Shard) -> list[RemoteBatch]:
    """Batches at the provider that are, or without a mark may be, the one; none that the ledger knows already."""
    mine = [event["facts"] for event in visit.ledger.events(shard.run_id) if event["shard_id"] == shard.id]
    others = {batch_id for facts in mine for batch_id in facts.get("not_ours", ())}
    marked = provider.capabilities.marks_batches
    before = visit.ledger.intents(shard.id)[-1].after_batch
    found = []
    # With a mark, the list as far back as the intent, by our clock; without, down to the batch that was there before it.
    for batch in provider.batches((shard.intent_at or visit.now()) - SKEW if marked else _EVER):
        if not marked and batch.id == before:
            break
        fits = batch.key == batch_key(shard.id, shard.attempt) if marked else batch.requests == shard.requests
        if marked and batch.key is None and shard.input_ref is not None:
            fits = batch.input_ref == shard.input_ref  # the host keeps no marks; an upload is of one shard only
        if fits and batch.id not in others and not visit.ledger.knows_batch(batch.id):
            found.append(batch)
    return sorted(found, key=lambda batch: batch.created_at)


def _proven(provider: Provider, shard: Shard, ended: Sequence[RemoteBatch]) -> tuple[list[RemoteBatch], list[str]]:
    """The one of these batches whose results carry the shard's ids, if any; and the ids of those that are not."""
    others: list[str] = []
    for batch in ended:
        if any(position_of(custom_id, shard.id) is not None for custom_id in provider.sample(batch)):
            return [batch], others
        others.append(batch.id)
    return [], others


def stray_of(shard: Shard, batch_id: str, now: datetime) -> Stray:
    """The record of a batch that a shard has besides its own."""
    return Stray(
        host=shard.host, batch_id=batch_id, provider=shard.provider, run_id=shard.run_id, shard_id=shard.id, requests=shard.requests,
        worst_usd=shard.worst_usd, found_at=now,
    )  # fmt: skip
