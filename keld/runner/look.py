"""Look: what the lists of an account say of many job runs at once, so that only those where something has happened are visited.

A step of `poll`, before any lease is taken: with thousands of batches out, nearly all of them are still under way, and a lease, two reads and
two commits for each would take longer than the time between two looks.  Nothing is decided here: what a list calls ended, or does not show,
is asked for itself by a visit, under the lease.  Of what is under way, only the progress and the time of the next look are noted, in bulk.

Lists are read from the job run that was looked at longest ago, on through the older batches and then from the youngest: whatever part of it
the time allows, the next look goes on from there.
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
from keld.runner.context import SKEW, Account, Environment, Listed, Settings, log
from keld.runner.escalate import escalation_time
from keld.runner.sibling import Inventory, inventory_of, siblings_of
from keld.state import AT_PROVIDER, TERMINAL, RunState, State

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the list of an account shows: the batches by id; its inventory, where there are fresh ones, for whose sake all of it is read."""

    batches: Mapping[str, RemoteBatch]
    inventory: Inventory | None


@dataclass(frozen=True, slots=True)
class Look:
    """What came of it: the batches that were listed, and the inventories; of which job runs it is only noted; which ask for a visit, in the order given.

    A job run that has nothing at a provider is in neither.
    """

    listed: Listed
    inventories: Mapping[Account, Inventory]
    unchanged: Sequence[Unchanged]
    need_lease: Sequence[str]


def look(environment: Environment, runs: Sequence[JobRun], shards: Mapping[str, Sequence[Shard]], until: float) -> Look:
    """Lists what these open job runs have at providers, account by account, until `time.monotonic()` is `until`."""
    seen_at = {run.id: run.next_check_at or _EPOCH for run in runs}
    held: dict[Account, list[Shard]] = {}
    for run in runs:
        for shard in shards.get(run.id, ()):
            if shard.state in AT_PROVIDER and shard.lane == Lane.BATCH:
                held.setdefault((shard.provider, shard.host), []).append(shard)
    out = {shard.run_id for of in held.values() for shard in of}
    fresh = environment.ledger.accounts.unconfirmed(sorted(out))  # whose create may have made others besides
    many = {account: of for account, of in held.items() if len(of) >= environment.settings.list_from}
    seen = {account: _seen(environment, account, of, seen_at, fresh, until) for account, of in many.items()}
    listed = {account: one.batches for account, one in seen.items()}
    noted = {run.id: _unchanged(environment, run, shards.get(run.id, ()), seen, fresh) for run in runs if run.id in out}
    return Look(
        listed,
        {account: one.inventory for account, one in seen.items() if one.inventory is not None},
        [unchanged for unchanged in noted.values() if unchanged is not None],
        [run_id for run_id, unchanged in noted.items() if unchanged is None],
    )


def next_look(settings: Settings, shard: Shard, now: datetime) -> datetime:
    """When a batch that is under way is looked at again: the older it is, the less it matters."""
    age = now - (shard.submitted_at or now)
    return now + min(max(age / 10, settings.poll_least), settings.poll_most)


def _seen(
    environment: Environment, account: Account, held: Sequence[Shard], seen_at: Mapping[str, datetime], fresh: Collection[str], until: float
) -> _Seen:
    """What the list of an account shows of these shards; where there are fresh ones among them, all of it from the first of their creates on."""
    found: dict[str, RemoteBatch] = {}
    ids: set[str] = set()
    complete = False
    now = environment.clock()
    created = [shard.intent_at or now for shard in held if shard.id in fresh]
    try:
        provider = environment.provider(account[0])
        if provider.host == account[1]:
            if created:
                whole = provider.batches(min(created) - SKEW)
                _take(whole, found, until)
                complete = whole.complete
            ids = set(found)
            if rest := [shard for shard in held if shard.batch_id not in found]:
                _take(_read(provider, rest, seen_at, now), found, until)
    except KeldError as problem:
        log.warning("look.failed provider=%s problem=%s", account[0], type(problem).__name__)  # the visits say so where people see it
    return _Seen(found, inventory_of(environment.ledger, [found[batch_id] for batch_id in ids], complete=complete) if created else None)


def _take(listed: Iterable[RemoteBatch], found: dict[str, RemoteBatch], until: float) -> None:
    """Adds what is listed to what was found, for as long as there is time."""
    for batch in listed:
        found[batch.id] = batch
        if time.monotonic() > until:
            return


def _read(provider: Provider, held: Sequence[Shard], seen_at: Mapping[str, datetime], now: datetime) -> Iterator[RemoteBatch]:
    """The batches of these shards as they are listed."""
    ordered = sorted(held, key=lambda shard: (shard.submitted_at or now, shard.id), reverse=True)
    first = min(range(len(ordered)), key=lambda n: seen_at[ordered[n].run_id])
    before = ordered[first - 1].batch_id if first else None
    yield from _part(provider, ordered[first:], before, now)
    if first:
        yield from _part(provider, ordered[:first], None, now)


def _part(provider: Provider, shards: Sequence[Shard], after: str | None, now: datetime) -> Iterator[RemoteBatch]:
    """The batches of shards that stand together in the list, which is left when all of them were in it."""
    wanted = {shard.batch_id for shard in shards}
    since = min(shard.submitted_at or now for shard in shards) - SKEW
    try:
        for batch in provider.batches(since, behind=after):
            if batch.id in wanted:
                wanted.discard(batch.id)
                yield batch
            if not wanted:
                return
    except ProviderRefused as problem:
        if after is None:
            raise
        log.info("look.after_refused provider=%s problem=%s", provider.name, type(problem).__name__)  # the batch to go on from is gone
        yield from _part(provider, shards, None, now)


def _unchanged(
    environment: Environment, run: JobRun, shards: Sequence[Shard], seen: Mapping[Account, _Seen], fresh: Mapping[str, str]
) -> Unchanged | None:
    """What is noted of a job run where nothing has happened; None if a visit is to see."""
    now = environment.clock()
    out = [shard for shard in shards if shard.state not in TERMINAL]
    if run.state is not RunState.OPEN or run.problem or not out or (run.lease_until is not None and run.lease_until >= now):
        return None
    progress: dict[str, int | None] = {}
    confirmed: dict[str, int] = {}
    for shard in out:
        account = seen.get((shard.provider, shard.host))
        batch = None if account is None or shard.batch_id is None else account.batches.get(shard.batch_id)
        if (
            shard.state is not State.IN_PROGRESS
            or account is None
            or batch is None
            or batch.state.ended
            or _is_late(environment, shard, now)
        ):
            return None
        if batch.done != shard.done:
            progress[shard.id] = batch.done
        if shard.id in fresh:
            if not _has_no_siblings(environment, shard, batch, account.inventory, fresh[shard.id]):
                return None
            confirmed[shard.id] = shard.attempt
    try:
        escalates_at = escalation_time(environment, run, shards)
    except KeldError:
        return None  # e.g. its files are elsewhere; the visit says so
    if escalates_at is not None and escalates_at <= now:
        return None
    times = [next_look(environment.settings, shard, now) for shard in out] + ([] if escalates_at is None else [escalates_at])
    return Unchanged(
        run_id=run.id,
        epoch=run.lease_epoch,
        next_check_at=min(times),
        escalates_at=escalates_at,
        progress=progress,
        confirmed=confirmed,
    )


def _has_no_siblings(environment: Environment, shard: Shard, own: RemoteBatch, inventory: Inventory | None, outcome: str) -> bool:
    """Whether it is proven that a shard's create made nothing besides its batch; a visit looks closer where it is not."""
    if inventory is None or not inventory.proves(own):
        return False
    found = siblings_of(environment.provider(shard.provider), shard, own, inventory, outcome, environment.clock())
    return not (found.marked or found.possible)


def _is_late(environment: Environment, shard: Shard, now: datetime) -> bool:
    """Whether a batch is older than its provider's window, so that more than its list entry matters."""
    window = environment.provider(shard.provider).traits.window or timedelta(days=1)
    return now - (shard.submitted_at or now) > window
