"""Look: what an account's lists show of many job runs at once, so that only those where something has happened need a lease.

A step of `poll`, before any lease is taken: of thousands of batches at providers, nearly all are still in progress, and a lease, two reads and
two commits for each would take longer than the time between two looks.  Nothing is decided here: a batch that the list shows as ended, or does
not show, is then read by its id under the lease.  Of batches in progress, only the progress and the time of the next look are recorded, in bulk.

A list is read from the job run that was looked at longest ago, on through the older batches, and then from the youngest: if the time ends before
the list does, the next look continues there.  Of the job runs whose batches were not reached, only the first few are read by id: enough for one
whose batch no list ever shows, since it stays the one that was looked at longest ago.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from keld.errors import KeldError, ProviderRefused
from keld.ledger import JobRun, Shard, Unchanged
from keld.price import Lane
from keld.providers.base import RemoteBatch
from keld.providers.provider import Provider
from keld.runner.context import SKEW, Account, Environment, Listed, log
from keld.runner.escalate import escalation_time
from keld.runner.settings import Settings
from keld.runner.sibling import Inventory, inventory_of, siblings_of
from keld.state import AT_PROVIDER, RunState, State

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BY_ID = 20  # job runs that a look did not reach, but that are looked at all the same


@dataclass(frozen=True, slots=True)
class _Seen:
    """The batches that an account's list shows, by id; and its inventory, if creates are unconfirmed, for which the whole list is read."""

    batches: Mapping[str, RemoteBatch]
    inventory: Inventory | None
    cut: bool = False  # the time was over before the list was
    window: timedelta = timedelta(days=1)  # a batch that is older is late, so that its list entry is not enough


@dataclass(frozen=True, slots=True)
class Look:
    """The result of a look: the listed batches and inventories; the job runs without change, and those that need a lease, in the order given.

    A job run without batches at a provider, or whose batches the look did not reach, is in neither of the last two.
    """

    listed: Listed
    inventories: Mapping[Account, Inventory]
    unchanged: Sequence[Unchanged]
    need_lease: Sequence[str]


def look(environment: Environment, runs: Sequence[JobRun], shards: Mapping[str, Sequence[Shard]], until: float) -> Look:
    """What the lists show of these open job runs, account by account, read until `time.monotonic()` is `until`.

    Args:
        shards: those of each job run that are not over.
    """
    seen_at = {run.id: run.next_check_at or _EPOCH for run in runs}
    held: dict[Account, list[Shard]] = {}
    for run in runs:
        for shard in shards.get(run.id, ()):
            if shard.state in AT_PROVIDER and shard.lane == Lane.BATCH:
                held.setdefault((shard.provider, shard.host), []).append(shard)
    out = {shard.run_id for of in held.values() for shard in of}
    fresh = environment.ledger.accounts.unconfirmed(sorted(out))  # whose create may have made other batches, too
    many = {account: of for account, of in held.items() if len(of) >= environment.settings.list_from}
    seen = {account: _seen(environment, account, of, seen_at, fresh, until) for account, of in many.items()}
    listed = {account: one.batches for account, one in seen.items()}
    now = environment.clock()
    noted = {run.id: _unchanged(environment, run, shards.get(run.id, ()), seen, fresh, now) for run in runs if run.id in out}
    changed = [run_id for run_id, unchanged in noted.items() if unchanged is None]
    not_reached = [run_id for run_id in changed if _is_not_reached(shards[run_id], seen)]
    left = set(not_reached[_BY_ID:])
    return Look(
        listed,
        {account: one.inventory for account, one in seen.items() if one.inventory is not None},
        [unchanged for unchanged in noted.values() if unchanged is not None],
        [run_id for run_id in changed if run_id not in left],
    )


def next_look(settings: Settings, shard: Shard, now: datetime) -> datetime:
    """The time of the next look at a batch that is in progress: the older it is, the longer the wait."""
    age = now - (shard.submitted_at or now)
    return now + min(max(age / 10, settings.poll_least), settings.poll_most)


def _seen(
    environment: Environment, account: Account, held: Sequence[Shard], seen_at: Mapping[str, datetime], fresh: Collection[str], until: float
) -> _Seen:
    """What an account's list shows of these shards; if some creates are unconfirmed, the whole list since the first of them."""
    found: dict[str, RemoteBatch] = {}
    ids: set[str] = set()
    complete, cut, window = False, False, timedelta(days=1)
    now = environment.clock()
    created = [shard.intent_at or now for shard in held if shard.id in fresh]
    try:
        provider = environment.provider(account[0])
        window = provider.traits.window or window
        if provider.host == account[1]:
            if created:
                whole = provider.batches(min(created) - SKEW)
                cut = _take(whole, found, until)
                complete = whole.complete
            ids = set(found)
            if rest := [shard for shard in held if shard.batch_id not in found]:
                cut |= _take(_read(provider, rest, seen_at, now), found, until)
    except KeldError as problem:
        cut |= time.monotonic() > until
        log.warning("look.failed provider=%s problem=%s", account[0], type(problem).__name__)  # it is tried again under the lease
    inventory = inventory_of(environment.ledger, [found[batch_id] for batch_id in ids], complete=complete) if created else None
    return _Seen(found, inventory, cut, window)


def _take(listed: Iterable[RemoteBatch], found: dict[str, RemoteBatch], until: float) -> bool:
    """Adds the listed batches to `found`, for as long as there is time; True if the time was over first."""
    for batch in listed:
        found[batch.id] = batch
        if time.monotonic() > until:
            return True
    return False


def _read(provider: Provider, held: Sequence[Shard], seen_at: Mapping[str, datetime], now: datetime) -> Iterator[RemoteBatch]:
    """The batches of these shards as they are listed."""
    ordered = sorted(held, key=lambda shard: (shard.submitted_at or now, shard.id), reverse=True)
    times = [seen_at[shard.run_id] for shard in ordered]
    first = times.index(min(times))
    before = ordered[first - 1].batch_id if first else None
    yield from _part(provider, ordered[first:], before, now)
    if first:
        yield from _part(provider, ordered[:first], None, now)


def _part(provider: Provider, shards: Sequence[Shard], after: str | None, now: datetime) -> Iterator[RemoteBatch]:
    """The batches of shards that are next to each other in the list, read until all of them were found."""
    wanted = {shard.batch_id for shard in shards}
    since = min(shard.submitted_at or now for shard in shards) - SKEW
    try:
        for batch in provider.batches(since, after=after):
            if batch.id in wanted:
                wanted.discard(batch.id)
                yield batch
            if not wanted:
                return
    except ProviderRefused as problem:
        if after is None:
            raise
        log.info("look.after_refused provider=%s problem=%s", provider.name, type(problem).__name__)  # the batch to continue after is gone
        yield from _part(provider, shards, None, now)


def _unchanged(
    environment: Environment,
    run: JobRun,
    shards: Sequence[Shard],
    seen: Mapping[Account, _Seen],
    fresh: Mapping[str, str],
    now: datetime,
) -> Unchanged | None:
    """What to record of a job run where nothing has happened; None if it needs a lease."""
    if run.state is not RunState.OPEN or run.problem or not shards or (run.lease_until is not None and run.lease_until >= now):
        return None
    progress: dict[str, int | None] = {}
    confirmed: dict[str, int] = {}
    for shard in shards:
        account = seen.get((shard.provider, shard.host))
        batch = None if account is None or shard.batch_id is None else account.batches.get(shard.batch_id)
        if (
            shard.state is not State.IN_PROGRESS
            or account is None
            or batch is None
            or batch.state.ended
            or now - (shard.submitted_at or now) > account.window
        ):
            return None
        if (done := shard.rows_of(batch.done)) != shard.done:
            progress[shard.id] = done
        if shard.id in fresh:
            if not _has_no_siblings(environment, shard, batch, account.inventory, fresh[shard.id]):
                return None
            confirmed[shard.id] = shard.attempt
    try:
        escalates_at = escalation_time(environment, run, shards)
    except KeldError:
        return None  # e.g. its files are elsewhere; under the lease the problem is recorded
    if escalates_at is not None and escalates_at <= now:
        return None
    times = [next_look(environment.settings, shard, now) for shard in shards] + ([] if escalates_at is None else [escalates_at])
    return Unchanged(
        run_id=run.id,
        epoch=run.lease_epoch,
        due_at=run.next_check_at,
        next_check_at=min(times),
        escalates_at=escalates_at if run.terms.any_lane else None,
        progress=progress,
        confirmed=confirmed,
    )


def _is_not_reached(shards: Sequence[Shard], seen: Mapping[Account, _Seen]) -> bool:
    """True if nothing is known of a batch because the time was over before its account's list."""
    for shard in shards:
        account = seen.get((shard.provider, shard.host))
        if shard.state is State.IN_PROGRESS and account is not None and account.cut and shard.batch_id not in account.batches:
            return True
    return False


def _has_no_siblings(environment: Environment, shard: Shard, own: RemoteBatch, inventory: Inventory | None, outcome: str) -> bool:
    """True if it is proven that a shard's create made no other batch; if not, the check is repeated under the lease."""
    if inventory is None or not inventory.proves(own):
        return False
    found = siblings_of(environment.provider(shard.provider), shard, own, inventory, outcome, environment.clock())
    return not (found.marked or found.possible)
