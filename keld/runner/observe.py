"""Observe: what the provider says about the batches that are in progress; cancels where one is due.

A step of the runner.  Light: it lists, reads, records and asks for cancels; it never uploads, downloads or pays.  It ends when the time of its run
contexts is over; batches that were not looked at by then come first the next time.  One batch that cannot be read does not keep the others from
being read; after several failures in a row, the host counts as unreachable.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from keld.errors import AccessRefused, KeldError, LeaseLost, ProviderRefused, ProviderUnreachable, StagingError
from keld.failpoint import failpoint
from keld.ledger import Shard, ShardError
from keld.outcome import Outcome
from keld.price import Lane
from keld.providers.base import BatchState, RemoteBatch
from keld.providers.provider import Provider
from keld.runner.context import LAG, SKEW, RunContext, log
from keld.runner.queue import queue_wait, wake_next
from keld.runner.sibling import NO_INVENTORY, Inventory, inventory_of, note_siblings
from keld.state import AT_PROVIDER, Event, State

_DEAD = 3  # so many first looks failed, and none succeeded: the host is unreachable


def observe_all(contexts: Sequence[RunContext]) -> None:
    """Looks at all the batches that these run contexts have at providers, account by account."""
    by_account: dict[tuple[str, str], list[tuple[RunContext, Shard]]] = {}
    for context in contexts:
        for shard in context.ledger.open_shards(context.lease.run_id):
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
        # One batch is read in any case; else a list that hangs would keep all batches from being looked at.
        if n and time.monotonic() >= context.until:
            looked_at = {context.lease.run_id for context, _ in rotated[:n]}
            for context, _ in rotated[n:]:
                context.passed_over = context.lease.run_id not in looked_at
            return
        failpoint("poll.send")
        # A list may lag behind; a batch that is missing or has ended there is read by its id before it is believed.
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
                break  # the others would fail in the same way
    else:
        return
    for context, shard in held:
        context.blocked.add(shard.provider)
        context.problem = context.problem or failed[-1]
        context.stuck.setdefault(shard.id, str(failed[-1]))


def _rotated(held: Sequence[tuple[RunContext, Shard]]) -> Sequence[tuple[RunContext, Shard]]:
    """The same, beginning with another one each time: the time may be over, or the host unreachable, before the last of them."""
    first = int(held[0][0].now().timestamp()) % len(held)
    return [*held[first:], *held[:first]]


def _fresh(held: Sequence[tuple[RunContext, Shard]]) -> dict[str, str]:
    """The shards whose create is not confirmed yet (it may have made other batches, too), by id, with the outcome of that create."""
    context, _ = held[0]
    found = context.ledger.accounts.unconfirmed(sorted({context.lease.run_id for context, _ in held}))
    return {shard.id: found[shard.id] for _, shard in held if shard.id in found}


def _not_seen(context: RunContext, shard: Shard, problem: KeldError) -> None:
    context.problem = problem
    context.stuck[shard.id] = str(problem)


def _listed(
    provider: Provider, held: Sequence[tuple[RunContext, Shard]], fresh: Mapping[str, str]
) -> tuple[Mapping[str, RemoteBatch] | None, Inventory]:
    """The batches of as few list pages as have the wanted ones, as far as they can be read; and the inventory, if some are `fresh`.

    None if to read them one by one takes no more calls.  What a poll has just listed (`look`) is not read again.
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
        log.warning("list.failed provider=%s problem=%s", provider.name, type(problem).__name__)  # each batch is read by its id instead
    return seen, inventory_of(context.ledger, seen.values(), complete=listing.complete) if fresh else NO_INVENTORY


def observe(context: RunContext, shard: Shard, batch: RemoteBatch | None) -> None:
    """Records what the provider says about a batch; None: it has no such batch."""
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
            f"Check the billing and the permissions of {shard.provider}.",
            account=shard.provider,
        )
    elif batch.state is BatchState.FAILED and not batch.result_refs:
        code, message = batch.errors[0] if batch.errors else ("failed", "")
        why = f"the batch failed: {code} {message}".strip()
        context.give_up(shard, Event.REJECTED, Outcome.REJECTED, why, error=ShardError(code=code))
        wake_next(context, shard)
    elif batch.state.ended:
        error = ShardError(code=batch.errors[0][0]) if batch.errors else None
        context.record(
            shard, Event.ENDED, ended=batch.state.value, ended_at=now, done=shard.rows_of(batch.done), error=error, looks=0, not_before=None
        )
        wake_next(context, shard)
    else:
        _under_way(context, shard, batch)


def _under_way(context: RunContext, shard: Shard, batch: RemoteBatch) -> None:
    if (done := shard.rows_of(batch.done)) != shard.done:
        context.ledger.progress.note(context.lease, shard, done, context.now())
    if shard.state is State.IN_PROGRESS and (context.cancelling or _is_overdue(context, shard)):
        cancel(context, shard)
    elif shard.state is State.CANCELLING:
        context.stuck[shard.id] = f"the provider says {batch.native}"


def _unknown(context: RunContext, shard: Shard) -> None:
    """The provider says that it has no such batch: right after the create that is lag; later it is no reason to send again."""
    if context.now() - (shard.submitted_at or context.now()) > LAG or context.cancelling:
        denied = ProviderRefused(
            f"{shard.provider} at {shard.host} says it does not know batch {shard.batch_id}. It is not sent again, since it may be paid for. "
            "Check that key, project and base URL are those it was submitted with.",
            account=shard.provider,
        )
        _not_seen(context, shard, denied)


def cancel(context: RunContext, shard: Shard) -> Shard:
    """The shard after its provider was asked to stop the batch; its answers until then are collected when the batch has ended."""
    failpoint("cancel.send")
    try:
        context.provider(shard).cancel(shard.require_batch_id())
    except KeldError:
        context.failed.add((shard.provider, shard.state))  # not again under this lease
        raise
    failpoint("cancel.received")
    return context.record(shard, Event.CANCEL_ASKED)


def _is_overdue(context: RunContext, shard: Shard) -> bool:
    """True if the batch is so far past its provider's window that it must be cancelled; at a provider without one, past the job run's deadline."""
    window, submitted_at = context.window(shard), shard.submitted_at or context.now()
    if window is None:
        deadline_at = context.ledger.run(shard.run_id).deadline_at
        last = None if deadline_at is None else max(deadline_at, submitted_at)  # a batch of rows that are asked again has its time, too
    else:
        last = submitted_at + window
    return last is not None and context.now() > last + context.settings.overdue_after
