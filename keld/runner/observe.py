"""Observe: what the provider says of the batches that are under way; cancels where one is due.

A step of the runner.  Light: it lists and reads, records, asks cancels; it never uploads, downloads or pays.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from keld.answer import Outcome
from keld.errors import AccessRefused, LeaseLost, ProviderRefused, ProviderUnreachable, StagingError
from keld.failpoint import failpoint
from keld.price import Lane
from keld.providers.base import BatchState, Provider, RemoteBatch
from keld.record import Shard
from keld.runner.sibling import part_with_siblings
from keld.runner.turn import queue_wait, wake_next
from keld.runner.visit import LAG, SKEW, Visit, log
from keld.state import AT_PROVIDER, Event, State


def observe_all(visits: Sequence[Visit]) -> None:
    """Looks at everything these visits have at providers, account by account."""
    by_account: dict[tuple[str, str], list[tuple[Visit, Shard]]] = {}
    for visit in visits:
        for shard in visit.ledger.shards(visit.lease.run_id):
            if shard.state in AT_PROVIDER and shard.lane == Lane.BATCH:
                by_account.setdefault((shard.provider, shard.host), []).append((visit, shard))
    for held in by_account.values():
        visit, shard = held[0]
        try:
            _observe_account(visit.provider(shard), held)
        except (AccessRefused, ProviderUnreachable, ProviderRefused) as problem:
            for visit, shard in held:
                visit.problem = problem
                visit.blocked.add(shard.provider)


def _observe_account(provider: Provider, held: Sequence[tuple[Visit, Shard]]) -> None:
    fresh = _fresh(provider, held)
    seen, complete = _listed(provider, held, fresh)
    listed = {batch.id: batch for batch in seen}
    for visit, shard in held:
        failpoint("poll.send")
        # A list may lag behind; what is missing there, or ended there, is asked for itself before it is believed.
        batch = listed.get(shard.batch_id or "")
        if batch is None or batch.state.ended:
            batch = provider.get(shard.batch_id or "")
        failpoint("poll.received")
        try:
            if shard.id in fresh:
                part_with_siblings(visit, provider, shard, seen, complete=complete)
            observe(visit, shard, batch)
        except LeaseLost as lost:
            log.warning("lease.lost run=%s %s", shard.run_id, lost)
        except StagingError as problem:
            visit.problem = problem  # this job run's files are elsewhere; the others go on


def _fresh(provider: Provider, held: Sequence[tuple[Visit, Shard]]) -> set[str]:
    """The shards whose create was not yet looked for what it may have made besides; none where no batch tells whose it is."""
    if not provider.capabilities.marks_batches:
        return set()
    visit, _ = held[0]
    return visit.ledger.unconfirmed(sorted({visit.lease.run_id for visit, _ in held})) & {shard.id for _, shard in held}


def _listed(provider: Provider, held: Sequence[tuple[Visit, Shard]], fresh: set[str]) -> tuple[list[RemoteBatch], bool]:
    """Batches from as few list pages as have those wanted, where that takes fewer calls than asking one by one, or `fresh` ones are among them; and
    whether they are all there are."""
    visit, _ = held[0]
    many = len(held) >= visit.settings.list_from
    if not many and not fresh:
        return [], False
    since = min((shard.intent_at if shard.id in fresh else shard.submitted_at) or visit.now() for _, shard in held) - SKEW
    wanted, seen, listing = {shard.batch_id for _, shard in held}, [], provider.batches(since)
    try:
        for batch in listing:
            seen.append(batch)
            wanted.discard(batch.id)
            if not wanted and not fresh:
                break
    except ProviderRefused as problem:  # a host without a list: each is asked for itself
        log.warning("list.refused provider=%s problem=%s", provider.name, problem)
    except ProviderUnreachable:
        if many:
            raise
    return seen, listing.complete


def observe(visit: Visit, shard: Shard, batch: RemoteBatch | None) -> None:
    """Records what the provider says of a batch; None: that it has no such batch."""
    now = visit.now()
    if batch is None:
        _unknown(visit, shard)
    elif batch.queue_full:
        visit.record(shard, Event.DEFERRED, not_before=now + queue_wait(visit, shard), error={"code": "token_limit_exceeded"})
    elif batch.unpaid and not batch.result_refs:
        code = batch.errors[0][0]
        visit.record(shard, Event.DEFERRED, not_before=now + queue_wait(visit, shard), error={"code": code})
        visit.problem = AccessRefused(
            f"{shard.provider} at {shard.host} failed the batch {batch.id} with {code}. Nothing of it was paid, and it is sent again later. "
            f"Check the billing of {shard.provider}."
        )
    elif batch.state is BatchState.FAILED and not batch.result_refs:
        code, message = batch.errors[0] if batch.errors else ("failed", "")
        why = f"the batch failed: {code} {message}".strip()
        visit.give_up(shard, Event.REJECTED, Outcome.REJECTED, why, error={"code": code})
        wake_next(visit, shard)
    elif batch.state.ended:
        error = {"code": batch.errors[0][0]} if batch.errors else None
        visit.record(shard, Event.ENDED, ended=batch.state.value, ended_at=now, done=batch.done, error=error)
        wake_next(visit, shard)
    else:
        _under_way(visit, shard, batch)


def _under_way(visit: Visit, shard: Shard, batch: RemoteBatch) -> None:
    if batch.done != shard.done:
        visit.ledger.note_progress(visit.lease, shard, batch.done, visit.now())
    if shard.state is State.IN_PROGRESS and (visit.cancelling or _is_overdue(visit, shard)):
        cancel(visit, shard)
    elif shard.state is State.CANCELLING and _is_overdue(visit, shard) and _heeds_no_cancel(visit, shard):
        why = f"the batch {shard.batch_id} has not ended in {_days(visit, shard)} and heeds no cancel; what it was paid for is not known"
        visit.give_up(shard, Event.LOST_TRACK, Outcome.QUARANTINED, why, error={"code": "never_ended"})


def _unknown(visit: Visit, shard: Shard) -> None:
    """The provider denies a batch: right after its create that is lag; later it is never a reason to send again."""
    if _is_overdue(visit, shard, visit.settings.abandon_after):
        why = f"{shard.provider} at {shard.host} has not known the batch {shard.batch_id} for {_days(visit, shard)}; it may have been paid for"
        visit.give_up(shard, Event.LOST_TRACK, Outcome.QUARANTINED, why, error={"code": "unknown_to_the_provider"})
    elif visit.now() - (shard.submitted_at or visit.now()) > LAG:
        visit.problem = ProviderRefused(
            f"{shard.provider} at {shard.host} says it does not know batch {shard.batch_id}. It is not sent again, since it may be paid for. "
            "Check that key, project and base URL are those it was submitted with."
        )


def cancel(visit: Visit, shard: Shard) -> Shard:
    """Asks the provider to stop a batch; what it has answered by then is harvested when it says its last word."""
    failpoint("cancel.send")
    visit.provider(shard).cancel(shard.batch_id or "")
    failpoint("cancel.received")
    return visit.record(shard, Event.CANCEL_ASKED)


def _is_overdue(visit: Visit, shard: Shard, more: timedelta = timedelta(0)) -> bool:
    """Past its provider's own window by so much that only a cancel brings it to an end."""
    window = visit.provider(shard).capabilities.window
    age = visit.now() - (shard.submitted_at or visit.now())
    return window is not None and age > window + visit.settings.overdue_after + more


def _heeds_no_cancel(visit: Visit, shard: Shard) -> bool:
    events = visit.ledger.events(shard.run_id)
    asked = [event["at"] for event in events if event["shard_id"] == shard.id and event["kind"] == Event.CANCEL_ASKED]
    return not asked or visit.now() - asked[-1] > visit.settings.abandon_after


def _days(visit: Visit, shard: Shard) -> str:
    return f"{(visit.now() - (shard.submitted_at or visit.now())).total_seconds() / 86_400:.1f} days"
