"""Observe: what the provider says of the batches that are under way; cancels where one is due.

A step of the runner.  Light: it lists and reads, records, asks cancels; it never uploads, downloads or pays.  It ends with the visit's time: what was
not looked at by then is first the next time.  One batch that cannot be looked at hides no other; several in a row are a host that is not there.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta

from keld.answer import Outcome
from keld.errors import AccessRefused, KeldError, LeaseLost, ProviderRefused, ProviderUnreachable, StagingError
from keld.failpoint import failpoint
from keld.ledger import Shard, ShardError
from keld.price import Lane
from keld.providers.base import BatchState, RemoteBatch
from keld.providers.provider import Provider
from keld.runner.context import LAG, SKEW, RunContext, log
from keld.runner.queue import queue_wait, wake_next
from keld.runner.sibling import NO_INVENTORY, Inventory, inventory_of, note_siblings
from keld.state import AT_PROVIDER, Event, State

_DEAD = 3  # looks that fail, and none before that did not: the host is not there


def observe_all(contexts: Sequence[RunContext]) -> None:
    """Looks at everything these visits have at providers, account by account."""
    by_account: dict[tuple[str, str], list[tuple[RunContext, Shard]]] = {}
    for context in contexts:
        for shard in context.ledger.shards(context.lease.run_id):
            if shard.state in AT_PROVIDER and shard.lane == Lane.BATCH:
                by_account.setdefault((shard.provider, shard.host), []).append((context, shard))
    for held in by_account.values():
        context, shard = held[0]
        try:
            _observe_account(context.provider(shard), held)
        except (AccessRefused, ProviderUnreachable, ProviderRefused) as problem:
            for context, shard in held:
                _not_seen(context, shard, problem)
                context.blocked.add(shard.provider)


def _observe_account(provider: Provider, held: Sequence[tuple[RunContext, Shard]]) -> None:
    fresh = _fresh(held)
    listed, inventory = _listed(provider, held, fresh)
    failed: list[KeldError] = []
    rotated = _rotated(held)
    for n, (context, shard) in enumerate(rotated):
        # One is asked for itself in any case, or a list that hangs would hide all for ever.
        if n and time.monotonic() >= context.until:
            looked_at = {context.lease.run_id for context, _ in rotated[:n]}
            for context, _ in rotated[n:]:
                context.passed_over = context.lease.run_id not in looked_at
            return
        failpoint("poll.send")
        # A list may lag behind; what is missing there, or ended there, is asked for itself before it is believed.
        batch = None if listed is None else listed.get(shard.require_batch_id())
        try:
            if batch is None or batch.state.ended:
                batch = provider.get(shard.require_batch_id())
            failpoint("poll.received")
            if shard.id in fresh and batch is not None:
                note_siblings(context, provider, shard, batch, inventory, fresh[shard.id])
            observe(context, shard, batch)
        except LeaseLost as lost:
            log.warning("lease.lost run=%s %s", shard.run_id, lost)
        except StagingError as problem:
            context.problem = problem  # this job run's files are elsewhere; the others go on
        except (AccessRefused, ProviderUnreachable, ProviderRefused) as problem:
            _not_seen(context, shard, problem)
            failed.append(problem)
            if isinstance(problem, AccessRefused) or len(failed) == n + 1 == _DEAD:
                break  # so would the others
    else:
        return
    for context, shard in held:
        context.blocked.add(shard.provider)
        context.problem = context.problem or failed[-1]
        context.stuck.setdefault(shard.id, str(failed[-1]))


def _rotated(held: Sequence[tuple[RunContext, Shard]]) -> Sequence[tuple[RunContext, Shard]]:
    """These, beginning with another one each time: the time may be over, or the host given up, before the last of them."""
    first = int(held[0][0].now().timestamp()) % len(held)
    return [*held[first:], *held[:first]]


def _fresh(held: Sequence[tuple[RunContext, Shard]]) -> dict[str, str]:
    """The shards whose create was not yet looked for what it may have made besides, and how that create ended."""
    context, _ = held[0]
    found = context.ledger.accounts.unconfirmed(sorted({context.lease.run_id for context, _ in held}))
    return {shard.id: found[shard.id] for _, shard in held if shard.id in found}


def _not_seen(context: RunContext, shard: Shard, problem: KeldError) -> None:
    context.problem = problem
    context.stuck[shard.id] = str(problem)


def _listed(
    provider: Provider, held: Sequence[tuple[RunContext, Shard]], fresh: Mapping[str, str]
) -> tuple[Mapping[str, RemoteBatch] | None, Inventory]:
    """Batches from as few list pages as have those wanted, as far as these can be read; and the inventory, where there are `fresh` ones among them.

    None where asking one by one takes no more calls.  What a poll has just listed (`look`) is not read again.
    """
    context, shard = held[0]
    account = (shard.provider, shard.host)
    if context.environment.listed is not None and (account in context.environment.listed or not fresh):
        return context.environment.listed.get(account, {}), context.environment.inventories.get(account, NO_INVENTORY)
    if len(held) < context.settings.list_from and not fresh:
        return None, NO_INVENTORY
    since = min((shard.intent_at if shard.id in fresh else shard.submitted_at) or context.now() for _, shard in held) - SKEW
    wanted, seen, listing = {shard.batch_id for _, shard in held}, {}, provider.batches(since)
    try:
        for batch in listing:
            seen[batch.id] = batch
            wanted.discard(batch.id)
            if (not wanted and not fresh) or time.monotonic() >= context.until:
                break
    except (ProviderUnreachable, ProviderRefused) as problem:
        log.warning("list.failed provider=%s problem=%s", provider.name, type(problem).__name__)  # each is asked for itself
    return seen, inventory_of(context.ledger, seen.values(), complete=listing.complete) if fresh else NO_INVENTORY


def observe(context: RunContext, shard: Shard, batch: RemoteBatch | None) -> None:
    """Records what the provider says of a batch; None: that it has no such batch."""
    now = context.now()
    if batch is None:
        _unknown(context, shard)
    elif batch.queue_full is not None:
        context.record(shard, Event.DEFERRED, not_before=now + queue_wait(context, shard), error=ShardError(code=batch.queue_full))
    elif batch.unpaid and not batch.result_refs:
        code = batch.errors[0][0]
        context.record(shard, Event.DEFERRED, not_before=now + queue_wait(context, shard), error=ShardError(code=code))
        context.problem = AccessRefused(
            f"{shard.provider} at {shard.host} failed the batch {batch.id} with {code}. Nothing of it was paid, and it is sent again later. "
            f"Check the billing of {shard.provider}.",
            account=shard.provider,
        )
    elif batch.state is BatchState.FAILED and not batch.result_refs:
        code, message = batch.errors[0] if batch.errors else ("failed", "")
        why = f"the batch failed: {code} {message}".strip()
        context.give_up(shard, Event.REJECTED, Outcome.REJECTED, why, error=ShardError(code=code))
        wake_next(context, shard)
    elif batch.state.ended:
        error = ShardError(code=batch.errors[0][0]) if batch.errors else None
        context.record(shard, Event.ENDED, ended=batch.state.value, ended_at=now, done=batch.done, error=error, looks=0, not_before=None)
        wake_next(context, shard)
    else:
        _under_way(context, shard, batch)


def _under_way(context: RunContext, shard: Shard, batch: RemoteBatch) -> None:
    if batch.done != shard.done:
        context.ledger.progress.note(context.lease, shard, batch.done, context.now())
    if shard.state is State.IN_PROGRESS and (context.cancelling or _is_overdue(context, shard)):
        cancel(context, shard)
    elif shard.state is State.CANCELLING:
        context.stuck[shard.id] = f"the provider says {batch.native}"


def _unknown(context: RunContext, shard: Shard) -> None:
    """The provider denies a batch: right after its create that is lag; later it is never a reason to send again."""
    if context.now() - (shard.submitted_at or context.now()) > LAG or context.cancelling:
        denied = ProviderRefused(
            f"{shard.provider} at {shard.host} says it does not know batch {shard.batch_id}. It is not sent again, since it may be paid for. "
            "Check that key, project and base URL are those it was submitted with.",
            account=shard.provider,
        )
        _not_seen(context, shard, denied)


def cancel(context: RunContext, shard: Shard) -> Shard:
    """Asks the provider to stop a batch; what it has answered by then is harvested when it says its last word."""
    failpoint("cancel.send")
    try:
        context.provider(shard).cancel(shard.require_batch_id())
    except KeldError:
        context.failed.add((shard.provider, shard.state))  # not again in this visit
        raise
    failpoint("cancel.received")
    return context.record(shard, Event.CANCEL_ASKED)


def _is_overdue(context: RunContext, shard: Shard) -> bool:
    """Past its provider's own window by so much that only a cancel brings it to an end."""
    window = context.window(shard) or timedelta(days=1)
    return context.now() - (shard.submitted_at or context.now()) > window + context.settings.overdue_after
