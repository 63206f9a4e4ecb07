"""Find lost: a create without an accepted reply is looked for at the provider before anything is sent again.

A step of the runner, after `submit`.  The protocol for a lost reply: look, and look again after a wait; if the provider allows it, fence
(delete the input file, so that a create still on its way cannot succeed) and look once more; then adopt the batch that was found, or send
again.  If the provider itself refused the create, one look is enough (`refusal`).  A list that was not read to its end, or a batch that may
be the shard's but cannot be identified, proves nothing: the runner waits, and in the end quarantines the rows.  A create that takes effect
after the last look is found by the sweep (`orphan`).

Where the provider looks up our mark itself (`Traits.finds`), it is asked for it, and no list is read: batches without the mark are other people's.
Where the same create makes no second batch (`Traits.replays`), it is sent once more before the first look.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from keld.errors import ProviderRefused, ProviderUnreachable
from keld.failpoint import failpoint
from keld.ledger import Orphan, Shard, ShardError, ShardFault
from keld.outcome import Outcome
from keld.providers.base import RemoteBatch
from keld.providers.page import UNREADABLE_TIME
from keld.providers.provider import Provider
from keld.providers.word import reply_words
from keld.request import batch_key, position_of, shard_named
from keld.runner.context import RunContext, log
from keld.runner.refusal import Refusal, take_effect
from keld.runner.submit import replay
from keld.state import Event

_EVER = datetime.min.replace(tzinfo=UTC)
_MARGIN = timedelta(hours=1)  # our clock against the provider's, where a batch that is overlooked would be paid twice
_MARGIN_UNMARKED = timedelta(days=1)  # the same, at a host that keeps no marks
_SIDE_BY_SIDE = timedelta(minutes=1)  # a batch may report to be older by this than one that was made before it
_MARKS_MOST = (
    5  # of a shard's latest creates are searched for; an earlier one was searched for after each of these, and the sweep finds it, too
)
_PAUSE_MOST = timedelta(minutes=30)  # at most, between two looks that prove nothing


@dataclass(slots=True)
class _Found:
    """The batches that a look has found."""

    ours: list[RemoteBatch] = field(default_factory=list)  # by their marks, the oldest first
    possible: list[RemoteBatch] = field(default_factory=list)  # without marks: only their results show whose they are
    complete: bool = False  # the list was read to its end


def find_lost(context: RunContext, shard: Shard) -> Shard:
    """The shard after one look: its batch adopted, or the next look scheduled, or the create declared absent after the last look."""
    provider = context.provider(shard)
    if not shard.looks and Refusal.kept_by(shard) is None and (batch := replay(context, provider, shard)) is not None:
        return _adopt(context, shard, batch, [])
    failpoint("look.send")
    try:
        found = _look(context, provider, shard)
    except (ProviderRefused, ProviderUnreachable):
        if not _is_past_proof(context, provider, shard):
            raise
        return _quarantine(context, shard, f"the list of batches could not be read to its end in this time; {_advice(context, shard)}")
    failpoint("look.received")
    if found.ours:
        return _adopt(context, shard, found.ours[0], found.ours[1:])
    if found.possible:
        return _prove(context, provider, shard, found.possible)
    if not found.complete:
        return _look_again(context, provider, shard)
    return _not_found(context, provider, shard)


def _look(context: RunContext, provider: Provider, shard: Shard) -> _Found:
    """The batches at the provider that may be this shard's, without those that the ledger already has."""
    if provider.traits.finds:
        return _found_by_mark(context, provider, shard)
    marked = provider.traits.marks_batches
    intents = context.ledger.intents(shard.id)
    before, uploads = intents[-1].after_batch, {intent.input_ref for intent in intents} - {None}
    asked_at = min(shard.intent_at or context.now(), context.now())
    listing = provider.batches(asked_at - _MARGIN if marked else _EVER, until=before, whole=True)
    listed = list(listing)
    found = _Found(complete=listing.complete)
    mine = [event.facts for event in context.ledger.events(shard.run_id) if event.shard_id == shard.id]
    others = {batch_id for facts in mine for batch_id in facts.get("not_ours", ())}
    floor = asked_at - _MARGIN_UNMARKED if marked else _floor(listed, before)
    for batch in sorted(listed, key=lambda batch: batch.created_at):
        whose = is_of(batch, shard, uploads) if marked else None
        # Counts are claims, and 0 while the file is read: a batch that has ended is checked by its results, whatever its count.
        fits = batch.state.ended or batch.requests in (None, 0, shard.sent_lines)
        possible = whose is None and fits and batch.created_at >= floor and batch.id not in (before, *others)
        if whose or possible:
            (found.ours if whose else found.possible).append(batch)
    known = context.ledger.accounts.known_batches({batch.id for batch in (*found.ours, *found.possible)})
    found.ours, found.possible = ([batch for batch in some if batch.id not in known] for some in (found.ours, found.possible))
    return found


def _found_by_mark(context: RunContext, provider: Provider, shard: Shard) -> _Found:
    """The batches that the provider finds for the marks of this shard's creates, without those that the ledger already has."""
    intents = context.ledger.intents(shard.id)[-_MARKS_MOST:]
    since = min(*(intent.at for intent in intents), context.now()) - _MARGIN_UNMARKED
    found = {batch.id: batch for intent in intents for batch in provider.find(batch_key(shard.id, intent.attempt), since)}
    known = context.ledger.accounts.known_batches(set(found))
    ours = [batch for batch in found.values() if batch.id not in known]
    return _Found(ours=sorted(ours, key=lambda batch: batch.created_at), complete=True)


def _floor(listed: Sequence[RemoteBatch], before: str | None) -> datetime:
    """The earliest time, by the provider's clock, at which this shard's batch can have been made: that of the batch before it."""
    at = next((batch.created_at for batch in listed if batch.id == before), UNREADABLE_TIME)
    return _EVER if at == UNREADABLE_TIME else at - _SIDE_BY_SIDE


def is_of(batch: RemoteBatch, shard: Shard, uploads: Collection[str | None] = ()) -> bool | None:
    """True if a batch has a mark of this shard, from any of its creates; None: it has no mark at all.

    Args:
        uploads: of its creates before the latest one.
    """
    if batch.key is not None:
        return shard_named(batch.key) == shard.id
    if batch.input_ref is not None and (shard.input_ref is not None or uploads):
        return batch.input_ref == shard.input_ref or batch.input_ref in uploads  # the host keeps no marks; an upload is of one shard only
    return None


def _look_again(context: RunContext, provider: Provider, shard: Shard) -> Shard:
    """The shard after a look at an incomplete list, in which a missing batch proves nothing."""
    if _is_past_proof(context, provider, shard):
        return _quarantine(context, shard, f"the list of batches was never complete, so the batch may be in it; {_advice(context, shard)}")
    context.problem = ProviderUnreachable(
        f"{provider.name} at {provider.host} does not show its whole list of batches. A batch whose create was not answered may be in it, so "
        "nothing of it is sent again; the list is read again later.",
        account=provider.name,
    )
    return context.record(shard, Event.LOOKED, not_before=context.now() + _pause(context, shard), facts={"incomplete": True})


def _pause(context: RunContext, shard: Shard) -> timedelta:
    """The wait until the next look, after one that proved nothing: longer each time."""
    age = context.now() - (shard.intent_at or context.now())
    return min(max(age / 4, context.settings.poll_most), _PAUSE_MOST)


def _advice(context: RunContext, shard: Shard) -> str:
    """What a person can do if the list proved nothing: a text for the rows' error."""
    days = (context.now() - (shard.intent_at or context.now()) + _MARGIN_UNMARKED) / timedelta(days=1)
    return (
        f"`keld reconcile {shard.provider} --days {math.ceil(days) + 1}` reads the list for as long as --minutes says and adopts the batch if it is there; "
        "if it is not, and the provider's own console does not show it, `keld run --force` asks these rows again"
    )


def _quarantine(context: RunContext, shard: Shard, why: str) -> Shard:
    refusal = Refusal.kept_by(shard)
    what = (
        "the reply to its create was lost" if refusal is None else f"its create was refused ({reply_words(refusal.status, refusal.code)})"
    )
    why = f"{what}, and {why}"
    return context.give_up(shard, Event.LOST_TRACK, Outcome.QUARANTINED, why, error=ShardError(code=ShardFault.CREATE_UNACCOUNTED_FOR))


def _prove(context: RunContext, provider: Provider, shard: Shard, found: Sequence[RemoteBatch]) -> Shard:
    """The shard after these unmarked batches were checked: that whose results have the shard's ids is adopted; others may need to end first.

    To adopt a batch without proof could cancel somebody else's, or count another shard's batch as this one's, and that shard would be sent
    again.  Only ids that can be read, and are not this shard's, prove that a batch is not this shard's.
    """
    others, unproven, unread = [], 0, False
    uploads = {intent.input_ref for intent in context.ledger.intents(shard.id)} - {None}
    for listed in found:
        # At providers that keep marks, a list may omit them; the batch itself has them.
        batch = (provider.get(listed.id) or listed) if provider.traits.marks_batches else listed
        whose = is_of(batch, shard, uploads) if provider.traits.marks_batches else None
        if whose:
            return _adopt(context, shard, batch, [])
        if whose is False:
            others.append(batch.id)
            continue
        try:
            custom_ids = provider.sample(batch) if batch.state.ended else []
        except (ProviderRefused, ProviderUnreachable) as problem:
            context.problem, unread, custom_ids = problem, True, []  # what the others showed is kept
        if any(position_of(custom_id, shard.id) is not None for custom_id in custom_ids):
            return _adopt(context, shard, batch, [])
        if custom_ids:
            others.append(batch.id)
        else:
            unproven += 1
    if unproven and _is_past_proof(context, provider, shard):
        return _quarantine(context, shard, f"none of the {unproven:,} batches that may be it could be identified in this time")
    wait = context.settings.retry_unreachable if unread else _pause(context, shard) if unproven else timedelta(0)
    return context.record(shard, Event.LOOKED, not_before=context.now() + wait, facts={"waiting": unproven, "not_ours": others})


def _is_past_proof(context: RunContext, provider: Provider, shard: Shard) -> bool:
    window, settings = provider.traits.window or timedelta(0), context.settings
    return context.now() - (shard.intent_at or context.now()) > window + settings.overdue_after + settings.abandon_after


def _adopt(context: RunContext, shard: Shard, batch: RemoteBatch, spares: Sequence[RemoteBatch]) -> Shard:
    """The shard with its batch; other batches of the same create are recorded as orphans, which the sweep cancels."""
    submitted_at, now = min(batch.created_at, context.now()), context.now()
    for spare in spares:
        log.warning("shard.duplicate shard=%s batch_id=%s", shard.id, spare.id)
    return context.record(
        shard, Event.ADOPTED, batch_id=batch.id, submitted_at=submitted_at, error=None, facts={"matches": 1 + len(spares)},
        orphans=[orphan_of(shard, spare.id, now) for spare in spares],
    )  # fmt: skip


def _not_found(context: RunContext, provider: Provider, shard: Shard) -> Shard:
    settings, fences, refusal = context.settings, provider.traits.fences, Refusal.kept_by(shard)
    if refusal is not None and refusal.own:
        return take_effect(context, shard, refusal)
    settle = settings.settle if fences else (*settings.settle, settings.settle_unfenced)
    looks = shard.looks + 1
    if looks < len(settle):
        return context.record(shard, Event.LOOKED, looks=looks, not_before=context.now() + settle[looks])
    if looks == len(settle) and fences and shard.input_ref:
        # The fence: without its input file, a create that is still on its way cannot succeed.  Then one more look for one
        # that succeeded just before.
        failpoint("fence.send")
        try:
            provider.delete_input(shard.input_ref)
        except (ProviderRefused, ProviderUnreachable):
            if context.now() - (shard.intent_at or context.now()) < settings.abandon_after:
                raise
            return _quarantine(
                context, shard, "nothing was found, and its input file could not be deleted, so the create may still succeed"
            )
        failpoint("fence.received")
        return context.record(shard, Event.LOOKED, looks=looks, not_before=context.now() + settle[0], facts={"fenced": True})
    if not fences and not settings.resend_unfenced:
        return _quarantine(
            context, shard, "nothing was found in the settling time, and nothing can prove that the create will not still succeed"
        )
    if refusal is not None:
        return take_effect(context, shard, refusal)
    return context.record(shard, Event.ABSENT, input_ref=None, not_before=None, error=None)


def orphan_of(shard: Shard, batch_id: str, now: datetime) -> Orphan:
    """The record of a batch that a shard has in addition to its own."""
    return Orphan(
        host=shard.host, batch_id=batch_id, provider=shard.provider, run_id=shard.run_id, shard_id=shard.id, requests=shard.requests,
        worst_usd=shard.worst_usd, found_at=now,
    )  # fmt: skip
