"""Sibling: other batches that the same create made.

A step of the runner, at the first look after a create.  A gateway that retries may send one create twice, have both
accepted, and return one reply.  So the list is checked once for each create that succeeded.  A batch with the shard's mark that is not
its batch is paid for twice: it is recorded with its worst case and cancelled; the sweep (`orphan`) counts its cost.  Where
batches have no marks, one of the same size and the same time is a candidate: its worst case is reserved, and nothing else is done until
its results show whose it is.  Where the provider looks up marks itself (`Traits.finds`), a batch without one is other people's.

A gateway may list a batch under another id than the one it gave us (LiteLLM lists the provider's own: BerriAI/litellm#36049).  To cancel
it would cancel ours, so a batch that the list shows instead of ours counts as ours (`may_be_own`).  If the gateway doubled the create within the
tick of the host's clock (OpenAI's counts whole seconds), several batches may be ours, and one of them is: the others are candidates.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from keld.errors import AccessRefused, ProviderRefused, ProviderUnreachable
from keld.failpoint import failpoint
from keld.ledger import Candidate, Ledger, Shard
from keld.providers.base import RemoteBatch
from keld.providers.page import UNREADABLE_TIME
from keld.providers.provider import Provider
from keld.request import shard_named
from keld.runner.context import LAG, RunContext, log
from keld.runner.find_lost import is_of, orphan_of
from keld.state import Event

_BESIDE = timedelta(minutes=1)  # before and after the time that a create took


class Inventory(msgspec.Struct, frozen=True):
    """The batches that the list of an account shows.

    Args:
        ids: of all that is in it.
        marked: the batches that the ledger does not have, by their mark: the shard's id in their key, or the upload that they were made from.
        unmarked: those without a key, the oldest first; thousands of them may be other people's.
        complete: whether it was read to its end.
    """

    ids: frozenset[str]
    marked: Mapping[str | None, Sequence[RemoteBatch]]
    unmarked: Sequence[RemoteBatch]
    complete: bool

    def proves(self, own: RemoteBatch) -> bool:
        """True if the list would show a sibling of this batch: it was read to its end, and has the batch itself, so it does not lag."""
        return self.complete and own.id in self.ids

    def beside(self, shard: Shard, own: RemoteBatch, near: timedelta) -> Iterator[RemoteBatch]:
        """The batches with the shard's mark; and of the unmarked, those made at about the time of its `own` batch, or at an unreadable time."""
        yield from self.marked.get(shard.id, ())
        if shard.input_ref is not None:
            yield from self.marked.get(shard.input_ref, ())
        first = last = 0
        if own.created_at != UNREADABLE_TIME:
            first = bisect_left(self.unmarked, own.created_at - near, key=_made_at)
            last = bisect_right(self.unmarked, own.created_at + near, key=_made_at)
        timeless = max(last, bisect_left(self.unmarked, UNREADABLE_TIME, key=_made_at)) if own.created_at != UNREADABLE_TIME else 0
        for batch in (*self.unmarked[first:last], *self.unmarked[timeless:]):
            if batch.input_ref is None or batch.input_ref != shard.input_ref:
                yield batch


class Siblings(msgspec.Struct, frozen=True):
    """Other batches than a shard's own: those with its mark, and those that may be of its create."""

    marked: tuple[RemoteBatch, ...]
    possible: tuple[RemoteBatch, ...]


def inventory_of(ledger: Ledger, listed: Collection[RemoteBatch], *, complete: bool) -> Inventory:
    """The roll of a list, with one look into the ledger for all of it."""
    ids = frozenset(batch.id for batch in listed)
    known = ledger.accounts.known_batches(ids)
    marked: dict[str | None, list[RemoteBatch]] = {}
    unmarked: list[RemoteBatch] = []
    for batch in listed:
        if batch.id in known:
            continue
        if batch.key is None:
            unmarked.append(batch)
        mark = batch.input_ref if batch.key is None else shard_named(batch.key)
        marked.setdefault(mark, []).append(batch)
    return Inventory(ids, marked, sorted(unmarked, key=_made_at), complete)


NO_INVENTORY = Inventory(frozenset(), {}, (), complete=False)


def _made_at(batch: RemoteBatch) -> datetime:
    return batch.created_at


def _id(batch: RemoteBatch) -> str:
    return batch.id


def siblings_of(provider: Provider, shard: Shard, own: RemoteBatch, inventory: Inventory, outcome: str, now: datetime) -> Siblings:
    """The siblings of a shard's `own` batch that the inventory shows; `outcome`: its create got a reply, or was adopted."""
    took = (shard.submitted_at or now) - (shard.intent_at or now)
    near = LAG if outcome == Event.ADOPTED else min(max(took, timedelta(0)), LAG) + _BESIDE
    marked, possible, copies = [], [], []
    for batch in inventory.beside(shard, own, near):
        if batch.id == own.id:
            continue
        ours = is_of(batch, shard) if provider.traits.marks_batches else None
        perhaps = ours is None and not provider.traits.finds and _may_be_of(batch, own, shard, near)
        if may_be_own(batch, own, inventory.ids):
            copies += [batch] if ours or perhaps else []
        elif ours:
            marked.append(batch)
        elif perhaps:
            possible.append(batch)
    possible += sorted(copies, key=_id)[1:]  # the sweep, which sees whose each of them is, takes the first of ours for our own
    return Siblings(tuple(marked), tuple(possible))


def note_siblings(context: RunContext, provider: Provider, shard: Shard, own: RemoteBatch, inventory: Inventory, outcome: str) -> None:
    """Records the siblings of a shard's `own` batch; when the check is complete, it is not repeated.

    A list that is incomplete, or lags behind, is read again for a while.  Paid answers are collected in the meantime; if the batch ends before the
    check is complete, the sweep repeats it.
    """
    found = siblings_of(provider, shard, own, inventory, outcome, context.now())
    for batch in found.marked:
        _cancel_sibling(context, provider, shard, batch)
    # A create that is still looked for has its own reservation, and may have made one of these: only the others need one.  The size of a batch that
    # has ended is not believed, so it may be of a create of any size.
    size = None if any(batch.state.ended for batch in found.possible) else shard.requests
    lost = context.ledger.accounts.creates_looked_for(shard.provider, shard.host, size) if found.possible else 0
    for batch in found.possible[lost:]:
        _note_candidate(context, shard, batch)
    late = context.now() - (shard.submitted_at or context.now()) > LAG
    if late and not inventory.complete:
        log.warning("shard.list_incomplete shard=%s batch_id=%s", shard.id, shard.batch_id)
    if (late or inventory.proves(own)) and not lost:
        context.ledger.confirm(context.lease, shard, context.now())


def may_be_own(batch: RemoteBatch, own: RemoteBatch, listed: Container[str]) -> bool:
    """True if a listed batch may be our own under another id: ours is not in the list, and this one was made at exactly the same time,
    or one of the two has no time that can be read.

    Args:
        own: as the host returns it for the id that the host gave us.
        listed: the ids of the list.
    """
    return own.id not in listed and (batch.created_at == own.created_at or UNREADABLE_TIME in (batch.created_at, own.created_at))


def _may_be_of(batch: RemoteBatch, own: RemoteBatch, shard: Shard, near: timedelta) -> bool:
    """True if its size fits, and the provider made it at about the time of our batch, by its own clock."""
    if not batch.state.ended and batch.requests not in (None, 0, shard.sent_lines):
        return False
    return UNREADABLE_TIME in (batch.created_at, own.created_at) or abs(batch.created_at - own.created_at) <= near


def _note_candidate(context: RunContext, shard: Shard, batch: RemoteBatch) -> None:
    log.warning("shard.candidate shard=%s batch_id=%s", shard.id, batch.id)
    context.ledger.candidates.add(
        Candidate(
            host=shard.host, batch_id=batch.id, provider=shard.provider, run_id=shard.run_id, shard_id=shard.id, requests=shard.requests,
            worst_usd=shard.worst_usd, found_at=context.now(),
        )
    )  # fmt: skip


def _cancel_sibling(context: RunContext, provider: Provider, shard: Shard, batch: RemoteBatch) -> None:
    log.warning("shard.duplicate shard=%s batch_id=%s", shard.id, batch.id)
    context.ledger.orphans.add(orphan_of(shard, batch.id, context.now()))
    if batch.state.ended:
        return
    failpoint("sibling.cancel.send")
    try:
        provider.cancel(batch.id)
    except (AccessRefused, ProviderRefused, ProviderUnreachable) as problem:
        log.warning("shard.duplicate_not_cancelled batch_id=%s problem=%s", batch.id, type(problem).__name__)  # the sweep cancels it again
    failpoint("sibling.cancel.received")
