"""Runner: looks up the state of a job run, does the one thing that is due, and records it.

On the road: everything above is thought, everything below is reached from here.  Two verbs: `advance` is heavy (submits, collects,
retries, writes), `poll` is light (looks, records, never uploads, downloads or pays).  Both are idempotent and may be called from
anywhere, any number of times, by any number of workers: one holds the job run's lease, the others go home.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import assert_never

from keld import process
from keld.errors import (
    AccessRefused,
    KeldError,
    LeaseLost,
    LedgerError,
    ProviderRefused,
    ProviderUnreachable,
    SinkError,
    StagingError,
)
from keld.http import telling, within
from keld.ledger import JobRun, Ledger, Shard
from keld.price import Lane
from keld.providers.provider import Provider
from keld.runner.clock import begin_anew
from keld.runner.collect import collect
from keld.runner.escalate import escalate, moment, moments
from keld.runner.finish import write
from keld.runner.hurry import begin, hurry, stop, under_way
from keld.runner.last import let_go
from keld.runner.look import look, next_look
from keld.runner.observe import cancel, observe_all
from keld.runner.round import due_of, early_round, next_round
from keld.runner.search import search
from keld.runner.submit import stage, submit, submit_again
from keld.runner.sweep import Finding, Sweep, Verdict
from keld.runner.turn import gives_way_until
from keld.runner.visit import LAG, Visit, World, configured, log
from keld.state import AT_PROVIDER, TERMINAL, Event, RunEvent, RunState, State

_LISTING = 0.6  # of the time of a poll; the rest is for what the lists have shown
_FINDING = 0.8  # of the time of a reconcile; the rest is for acting on what was found
_ENTERING = 0.2  # of that rest, for taking leases


class Runner:
    """Acts on the job runs of one ledger with the providers of one environment."""

    def __init__(self, world: World) -> None:
        self.world = replace(world, provider=partial(configured, world.provider))
        self.ledger = world.ledger
        self.clock = world.clock
        self.settings = world.settings
        self.worker = f"{process.machine()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._foreign: set[str] = set()

    # -- the verbs --------------------------------------------------------------------------------------------

    def advance(self, run_id: str, budget: timedelta) -> JobRun:
        """Does whatever is due for a job run, for about `budget` (a step once begun is finished); gives the run as it stands then.

        Raises:
            StagingError, SinkError, LedgerError: our own disk, database or the sink failed; nothing that was paid is lost.
        """
        with within(time.monotonic() + (budget + self.settings.call_within).total_seconds()):
            self._sweep_due(harvest=True)
            with self._visit(run_id, budget) as visit:
                if visit is not None:
                    observe_all([visit])
                    # One step in any case, however long looks that succeed take: a slow provider must not keep all work from being done.
                    visit.begun = bool(visit.stuck)
                    while self._pass(visit) and time.monotonic() < visit.until:
                        pass
                    self._let_go(visit)
        return self.ledger.run(run_id)

    def poll(self, run_ids: Sequence[str], budget: timedelta) -> list[JobRun]:
        """Looks at the providers for job runs that no other worker holds; records what has ended; asks due cancels."""
        budget_s = budget.total_seconds()
        end = time.monotonic() + budget_s
        visits: list[Visit] = []
        try:
            with within(end):
                self._sweep_due(harvest=False)
            world, restless = self._look(run_ids, budget)
            # Each part has its time in any case, however slow the one before was: at least one job run is looked at.
            left_s = max(end - time.monotonic(), budget_s * (1 - _LISTING))
            entering = time.monotonic() + left_s * _ENTERING
            for run_id in restless:
                if visits and time.monotonic() > entering:
                    break
                if (visit := self._enter(run_id, budget, world)) is not None:
                    visits.append(visit)
            until = time.monotonic() + left_s * (1 - _ENTERING)
            for visit in visits:
                visit.until = until
            with within(until):
                observe_all(visits)
                for visit, run, shards in self._read(visits):
                    self._escalate(visit, run, shards)
            for visit in visits:
                self._let_go(visit)
        finally:
            for visit, run, shards in self._read(visits):
                self._leave(visit, run, shards)
        return self._runs(run_ids)

    def _look(self, run_ids: Sequence[str], budget: timedelta) -> tuple[World, list[str]]:
        """The world as the accounts' lists show it, and the job runs that ask for a visit, the one looked at longest ago first."""
        world = replace(self.world, lanes={})
        runs = sorted((run for run in self._runs(run_ids) if not run.over), key=lambda run: run.next_check_at or run.created_at)
        shards = self.ledger.catalog.shards_of([run.id for run in runs])
        until = time.monotonic() + budget.total_seconds() * _LISTING  # from here on: thousands of rows may take long to read
        with within(until):
            seen = look(world, runs, shards, until)
        self.ledger.progress.note_quiet(seen.quiet)
        return replace(world, listed=seen.listed, rolls=seen.rolls), list(seen.restless)

    def _runs(self, run_ids: Sequence[str]) -> list[JobRun]:
        """These job runs as they stand.

        Raises:
            UnknownJobRun.
        """
        found = {run.id: run for run in self.ledger.catalog.by_ids(run_ids)}
        return [found.get(run_id) or self.ledger.run(run_id) for run_id in run_ids]

    def _read(self, visits: Sequence[Visit]) -> Iterator[tuple[Visit, JobRun, Sequence[Shard]]]:
        """Each visit with its job run and shards as they stand, by two queries for all of them."""
        run_ids = [visit.lease.run_id for visit in visits]
        shards = self.ledger.catalog.shards_of(run_ids)
        for visit, run in zip(visits, self._runs(run_ids), strict=True):
            yield visit, run, shards.get(run.id, [])

    def supersede(self, run_id: str) -> bool:
        """Closes a job run of which nothing was ever sent, so that it can be planned anew; False if a worker has it in hand."""
        visit = self._enter(run_id, timedelta(0))
        if visit is None:
            return False
        try:
            unsent = all(shard.unsent for shard in self.ledger.shards(run_id))
            if unsent:
                now = self.clock()
                self.ledger.record_run(visit.lease, now, RunEvent.SUPERSEDED, state=RunState.CANCELLED, finished_at=now)
            return unsent
        finally:
            self._leave_alone(visit)

    def reconcile(
        self, provider: Provider, since: datetime, budget: timedelta, *, act: bool, progress: Callable[[Finding], None] | None
    ) -> tuple[list[Finding], bool]:
        """What a provider has, made after `since`, that the ledger does not, acted on if `act`; and whether that is all, or the time was over before.

        Raises:
            AccessRefused, ProviderUnreachable: the provider's list cannot be read.
        """
        end = time.monotonic() + budget.total_seconds()
        sweep = Sweep(self.world, provider, self._visiting, self._foreign)
        found, complete = _found_until(sweep, since, time.monotonic() + budget.total_seconds() * _FINDING)
        done: list[Finding] = []
        for finding in found:
            if act and time.monotonic() > end:
                return done, False
            if act:
                sweep.act(finding)
            done.append(finding)
            if progress is not None:
                progress(finding)
        return done, complete

    # -- one pass ---------------------------------------------------------------------------------------------

    def _pass(self, visit: Visit) -> bool:
        """Does what is due, shard by shard; False when nothing was."""
        run = self.ledger.run(visit.lease.run_id)
        visit.cancelling = run.state is RunState.CANCELLING
        if run.over:
            return False
        if run.state is RunState.WRITING:
            write(visit, run)
            return True
        shards = self.ledger.shards(run.id)
        if _unless_elsewhere(visit, lambda: escalate(visit, run, shards, heavy=True)):
            return True
        if all(shard.state in TERMINAL for shard in shards):
            return _unless_elsewhere(visit, lambda: next_round(visit, run, shards))
        if run.problem:  # what failed the last time may keep what comes behind it from being tried: another one is the first
            first = int(self.clock().timestamp()) % len(shards)
            shards = [*shards[first:], *shards[:first]]
        done = sum(self._bring_on(visit, run, shard) for shard in shards) > 0
        return done or _unless_elsewhere(visit, lambda: early_round(visit, run, shards))

    def _bring_on(self, visit: Visit, run: JobRun, shard: Shard) -> bool:
        """Does what is due for a shard, step by step; False if nothing was.

        A step that a provider fails is tried for no other shard of it in this visit; other steps, and other providers' shards, go on.
        """
        done = False
        while self._may(visit, shard) and self._is_due(visit, shard):
            done = visit.begun = True
            visit.pulse()
            try:
                before, shard = shard, _act(visit, run, shard)
                if shard is before:
                    break  # a stretch that stopped before its end: whether it goes on is not for it to say
                if shard.state is State.UNKNOWN:
                    visit.stuck.setdefault(shard.id, "its create was not found")
            except (AccessRefused, ProviderUnreachable, ProviderRefused) as problem:
                visit.failed.add((shard.provider, shard.state))
                if isinstance(problem, AccessRefused):
                    visit.blocked.add(shard.provider)
                visit.problem = problem
                visit.stuck[shard.id] = str(problem)
                log.warning("shard.blocked shard=%s state=%s problem=%s", shard.id, shard.state.value, type(problem).__name__)
        return done

    def _may(self, visit: Visit, shard: Shard) -> bool:
        """Whether there is time for a step of the shard, and nothing has failed in this visit that would fail it, too."""
        if (shard.provider, shard.state) in visit.failed and shard.state is State.UNKNOWN:
            visit.stuck.setdefault(shard.id, str(visit.problem))  # all of them are looked for in one list
        in_time = time.monotonic() < visit.until or not visit.begun
        return in_time and shard.provider not in visit.blocked and (shard.provider, shard.state) not in visit.failed

    def _escalate(self, visit: Visit, run: JobRun, shards: Sequence[Shard]) -> None:
        """Asks the cancels that a deadline makes due; what one job run lacks (its files, an account) keeps no other from meeting its own."""
        try:
            escalate(visit, run, shards, heavy=False)
        except LeaseLost as lost:
            log.warning("lease.lost run=%s %s", visit.lease.run_id, lost)
        except (StagingError, ProviderRefused) as problem:
            visit.problem = problem  # this job run's files, or an account of its models, are elsewhere

    def _let_go(self, visit: Visit) -> None:
        """Gives up what was tried, got nowhere, and has had its time."""
        if not visit.stuck:
            return
        try:
            run = self.ledger.run(visit.lease.run_id)
            if not run.over and let_go(visit, run, self.ledger.shards(run.id)):
                visit.problem = None
        except LeaseLost as lost:
            log.warning("lease.lost run=%s %s", visit.lease.run_id, lost)
        except StagingError as problem:
            visit.problem = problem  # this job run's files are elsewhere

    def _is_due(self, visit: Visit, shard: Shard) -> bool:
        match shard.state:
            case State.PLANNED | State.STAGED | State.SUBMITTING:
                return True
            case State.UNKNOWN | State.ENDED:
                return shard.not_before is None or shard.not_before <= self.clock()
            case State.DEFERRED:
                return visit.cancelling or shard.not_before is None or shard.not_before <= self.clock()
            case State.IN_PROGRESS if shard.lane == Lane.BATCH:
                return visit.cancelling
            case State.IN_PROGRESS:
                return visit.cancelling or shard.not_before is None or shard.not_before <= self.clock()
            case State.CANCELLING | State.COLLECTED | State.REJECTED | State.QUARANTINED | State.DROPPED:
                return False
            case _:
                assert_never(shard.state)

    # -- what landed late -------------------------------------------------------------------------------------

    def _sweep_due(self, *, harvest: bool) -> None:
        """Sweeps the accounts where a create may land late, or an orphan is not settled; a provider that fails is left for the next time."""
        now = self.clock()
        for suspect in self.ledger.accounts.suspects(now - self.settings.sweep_for):
            try:
                provider = self.world.provider(suspect.provider)
            except ProviderRefused:
                continue  # an account of another team's, or of earlier settings: it is swept by those who have it
            at_home = provider.host == suspect.host
            if not at_home or not self.ledger.accounts.claim_sweep(suspect.provider, suspect.host, now, self.settings.sweep_every):
                continue
            sweep = Sweep(self.world, provider, self._visiting, self._foreign, suspect.sizes, harvest)
            try:
                findings = list(sweep.find(suspect.since))
                for finding in findings:
                    sweep.act(finding)
                if not any(finding.verdict is Verdict.UNPROVEN for finding in findings):
                    self.ledger.accounts.confirm_swept(suspect.provider, suspect.host, now - LAG)
            except (LedgerError, StagingError):
                raise
            except KeldError as problem:
                log.warning("sweep.failed provider=%s problem=%s", suspect.provider, type(problem).__name__)

    # -- the frame --------------------------------------------------------------------------------------------

    @contextmanager
    def _visit(self, run_id: str, budget: timedelta) -> Iterator[Visit | None]:
        visit = self._enter(run_id, budget)
        if visit is None:
            yield None
            return
        try:
            with _Heartbeat(self.ledger, visit, self.clock), telling(visit.pulse):
                yield visit
        except LeaseLost as lost:
            log.warning("lease.lost run=%s %s", run_id, lost)
        except (StagingError, SinkError) as problem:
            visit.problem = problem
            if self._holds(visit):
                raise  # else another worker has gone on with these files, and they are none of this one's business
        finally:
            with suppress(LeaseLost):
                self._leave_alone(visit)

    @contextmanager
    def _visiting(self, run_id: str) -> Iterator[Visit | None]:
        with self._visit(run_id, timedelta(0)) as visit:
            yield visit

    def _enter(self, run_id: str, budget: timedelta, world: World | None = None) -> Visit | None:
        run = self.ledger.run(run_id)
        if run.over:
            return None
        dead = run.lease_owner if _is_dead(run.lease_owner) else None
        lease = self.ledger.leases.claim(run_id, self.worker, self.clock(), dead_owner=dead)
        if lease is None:
            return None
        until = time.monotonic() + budget.total_seconds()
        visit = Visit(world or self.world, lease, self.world.staging.run(run_id), until, cancelling=run.state is RunState.CANCELLING)
        with suppress(LeaseLost):
            begin_anew(visit)
        return visit

    def _holds(self, visit: Visit) -> bool:
        """Whether the job run is still this worker's."""
        try:
            self.ledger.leases.renew(visit.lease, self.clock())
        except LeaseLost as lost:
            log.warning("lease.lost run=%s %s", visit.lease.run_id, lost)
            return False
        return True

    def _leave_alone(self, visit: Visit) -> None:
        for _, run, shards in self._read([visit]):
            self._leave(visit, run, shards)

    def _leave(self, visit: Visit, run: JobRun, shards: Sequence[Shard]) -> None:
        """Gives the lease back, with when to look again and what stood in the way."""
        problem = None if visit.problem is None else _told(visit.problem, self.clock())
        try:
            escalation = moment(visit.world, run, shards)
        except ProviderRefused as missing:  # an account of its models is not configured here; the lease is given back all the same
            escalation, problem = run.escalates_at, problem or _told(missing, self.clock())
        # What there was no time to look at keeps its place: it is the first the next time.
        next_check_at = run.next_check_at if visit.passed_over else self._next_check(visit, run, shards, escalation)
        with suppress(LeaseLost):
            self.ledger.leases.release(visit.lease, next_check_at, problem, escalates_at=escalation)

    def _next_check(self, visit: Visit, run: JobRun, shards: Sequence[Shard], escalation: datetime | None) -> datetime | None:
        """When the job run wants to be looked at again; None when it is over."""
        now = self.clock()
        if run.over:
            return None
        times = [escalation] if escalation is not None and escalation > now else []
        if visit.problem is not None:
            told = [shard.not_before or now for shard in shards if shard.state not in TERMINAL]
            return max(now + self.settings.retry_unreachable, min(times + told, default=now))
        for shard in shards:
            if shard.state is State.CANCELLING and due_of(run, now) is not None:
                # Given up for the deadline's sake: what is waited for the last word is missing to the rescue.
                times.append(now + self.settings.poll_least)
            elif shard.state in AT_PROVIDER and shard.lane == Lane.BATCH:
                times.append(next_look(self.settings, shard, now))
            elif shard.state in (State.UNKNOWN, State.ENDED):
                times.append(shard.not_before or now)
            elif shard.state is State.DEFERRED:
                # Sooner than told, too: another's batch may end, and make room.
                times.append(min(shard.not_before or now, now + self.settings.poll_most))
            elif shard.state not in TERMINAL:
                times.append(shard.not_before or now if shard.state is State.IN_PROGRESS else now)
        return min(times, default=now)


def _unless_elsewhere(visit: Visit, plan: Callable[[], bool]) -> bool:
    """What a step gives that thinks about all models; False, with a note, if the account of one is not configured here."""
    try:
        return plan()
    except ProviderRefused as problem:
        visit.problem = problem  # it keeps this worker from planning, and from nothing else
        return False


def _told(problem: KeldError, now: datetime) -> dict[str, object]:
    """What stopped a visit, as the ledger keeps it for people."""
    return {"kind": type(problem).__name__, "message": str(problem), "permanent": problem.permanent, "at": now.isoformat()}


def _act(visit: Visit, run: JobRun, shard: Shard) -> Shard:
    """The shard after the one thing that its state asks for."""
    match shard.state:
        case State.PLANNED | State.STAGED | State.DEFERRED if visit.cancelling:
            return visit.record(shard, Event.DROPPED)
        case State.ENDED:
            return collect(visit, run, shard)
        case _:
            return _act_in_batch(visit, run, shard) if shard.lane == Lane.BATCH else _act_in_haste(visit, run, shard)


def _act_in_batch(visit: Visit, run: JobRun, shard: Shard) -> Shard:
    match shard.state:
        case State.PLANNED:
            return stage(visit, shard)
        case State.STAGED:
            return submit(visit, run, shard)
        case State.DEFERRED:
            return submit_again(visit, run, shard)
        case State.SUBMITTING:
            # Its worker died between the intent and the outcome; the first look is soon, for a reply only we missed.
            first_look = visit.now() + visit.settings.settle[0]
            return visit.record(shard, Event.OUTCOME_LOST, not_before=first_look, facts={"reason": "the worker died"})
        case State.UNKNOWN:
            return search(visit, shard)
        case State.IN_PROGRESS:
            return cancel(visit, shard)
        case _:
            raise AssertionError(f"nothing is due for a batch that is {shard.state}")


def _act_in_haste(visit: Visit, run: JobRun, shard: Shard) -> Shard:
    match shard.state:
        case State.PLANNED:
            return visit.record(shard, Event.STAGED)
        case State.STAGED:
            return begin(visit, shard)
        case State.SUBMITTING:
            return under_way(visit, shard)  # each row is its own create, and the journal knows them
        case State.IN_PROGRESS:
            if visit.cancelling:
                return stop(visit, shard)
            if (until := gives_way_until(visit, run, shard)) is not None:
                visit.ledger.progress.note(visit.lease, shard, shard.done, visit.now(), until)
                return shard
            at = moments(visit.world, run, visit.ledger.shards(run.id)).get(Lane(shard.lane))
            return hurry(visit, run, shard, give_up_at=at if at is not None and at > visit.now() else None)
        case _:
            raise AssertionError(f"nothing is due for a stretch that is {shard.state}")


def _found_until(sweep: Sweep, since: datetime, until: float) -> tuple[list[Finding], bool]:
    """What a sweep finds by `time.monotonic() == until`, and whether that is all.

    Raises:
        ProviderUnreachable: the provider's list cannot be read, and there was time for it.
    """
    found: list[Finding] = []
    try:
        with within(until):
            for finding in sweep.find(since):
                if time.monotonic() > until:  # its verdict may be for want of time
                    break
                found.append(finding)
    except ProviderUnreachable:
        if time.monotonic() < until:
            raise
    return found, time.monotonic() < until


class _Heartbeat:
    """Renews a lease while a long step (an upload, a download) runs and gets on; a worker that is frozen, or hangs in a step, loses it."""

    def __init__(self, ledger: Ledger, visit: Visit, clock: Callable[[], datetime]) -> None:
        self._ledger, self._visit, self._clock = ledger, visit, clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"keld-lease-{visit.lease.run_id[:8]}", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._stop.wait(self._ledger.leases.lease_for.total_seconds() / 3):
            if time.monotonic() > self._visit.alive_until:
                log.warning("lease.not_renewed run=%s its worker stands still", self._visit.lease.run_id)
                continue  # until it gets on again, if the lease is still its own by then
            try:
                self._ledger.leases.renew(self._visit.lease, self._clock())
                self._visit.beaten_at = time.monotonic()
            except Exception as error:  # noqa: BLE001  the next write of the step itself finds out, and says so
                log.warning("lease.not_renewed run=%s %s", self._visit.lease.run_id, type(error).__name__)
                return


def _is_dead(owner: str | None) -> bool:
    """Whether a lease's owner was a process of this host that is gone: its lease need not be waited for."""
    if owner is None:
        return False
    host, _, rest = owner.partition(":")
    return process.is_dead(host, rest.partition(":")[0])
