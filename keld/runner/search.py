"""Search: a create whose outcome is unknown is looked for at the provider, before anything is sent again.

A step of the runner, after `submit`.  The protocol: look, look again after settling; where the provider lets us, fence (delete the input
file, so that a create still on its way cannot land) and look once more; then adopt what was found, or send again.  What lands after
the last look is found by the `sweep`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from keld.answer import Outcome
from keld.errors import ProviderRefused, ProviderUnreachable
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
    if not found:
        return _not_found(visit, provider, shard)
    if provider.capabilities.marks_batches:
        return _adopt(visit, shard, found[0], found[1:])
    return _prove(visit, provider, shard, found)


def _prove(visit: Visit, provider: Provider, shard: Shard, found: Sequence[RemoteBatch]) -> Shard:
    """Adopts the one of these unmarked batches whose results carry the shard's ids; waits for those that cannot be told yet.

    To adopt one unproven may be to cancel somebody else's, and to send another shard of ours again while its batch counts as this
    one's.  Only ids that can be read, and are not ours, prove a batch another's.
    """
    others, untold, past_telling = [], 0, _is_past_telling(visit, provider, shard)
    for batch in found:
        try:
            custom_ids = provider.sample(batch) if batch.state.ended else []
        except ProviderUnreachable:
            if not past_telling:
                raise
            custom_ids = []
        if any(position_of(custom_id, shard.id) is not None for custom_id in custom_ids):
            return _adopt(visit, shard, batch, [])
        if custom_ids:
            others.append(batch.id)
        else:
            untold += 1
    if untold and past_telling:
        why = f"the reply to its create was lost, and of {untold:,} batches that may be it none can be told after all this time"
        return visit.give_up(shard, Event.LOST_TRACK, Outcome.QUARANTINED, why, error={"code": "create_unaccounted_for"})
    not_before = visit.now() + (visit.settings.poll_most if untold else timedelta(0))
    return visit.record(shard, Event.LOOKED, not_before=not_before, facts={"waiting": untold, "not_ours": others})


def _is_past_telling(visit: Visit, provider: Provider, shard: Shard) -> bool:
    window, settings = provider.capabilities.window or timedelta(0), visit.settings
    return visit.now() - (shard.intent_at or visit.now()) > window + settings.overdue_after + settings.abandon_after


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
        try:
            provider.delete_input(shard.input_ref)
        except (ProviderRefused, ProviderUnreachable):
            if visit.now() - (shard.intent_at or visit.now()) < settings.abandon_after:
                raise
            why = "the reply to its create was lost, nothing was found, and its input file cannot be removed to keep it from landing"
            return visit.give_up(shard, Event.LOST_TRACK, Outcome.QUARANTINED, why, error={"code": "create_unaccounted_for"})
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
        # Counts are claims: what has ended is looked into, whatever it says its size is.
        fits = batch.key == batch_key(shard.id, shard.attempt) if marked else batch.state.ended or batch.requests in (None, shard.requests)
        if marked and batch.key is None and shard.input_ref is not None:
            fits = batch.input_ref == shard.input_ref  # the host keeps no marks; an upload is of one shard only
        if fits and batch.id not in others and not visit.ledger.knows_batch(batch.id):
            found.append(batch)
    return sorted(found, key=lambda batch: batch.created_at)


def stray_of(shard: Shard, batch_id: str, now: datetime) -> Stray:
    """The record of a batch that a shard has besides its own."""
    return Stray(
        host=shard.host, batch_id=batch_id, provider=shard.provider, run_id=shard.run_id, shard_id=shard.id, requests=shard.requests,
        worst_usd=shard.worst_usd, found_at=now,
    )  # fmt: skip
