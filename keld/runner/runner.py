"""Runner: reads the state of a job run, does the one step that is due, and records it.

On the road: everything before it only computes; everything that acts is called from here.  Two verbs: `advance` is heavy (submits, collects,
retries, writes), `poll` is light (looks, records, never uploads, downloads or pays).  Both are idempotent and may be called from
anywhere, any number of times, by any number of workers: one holds the job run's lease, the others return.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from typing import assert_never

import msgspec
from msgspec.structs import replace

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
from keld.http import reporting_progress, within
from keld.ledger import JobRun, Shard, Unchanged
from keld.price import Lane
from keld.providers.provider import Provider
from keld.runner.clock import restart_waits
from keld.runner.collect import begin_to_fetch, collect
from keld.runner.context import LAG, Environment, RunContext, configured, log
from keld.runner.escalate import escalate, escalation_time, escalation_times, holds_back_for_too_long
from keld.runner.fast_lane import ask_rows, begin, end_early, under_way
from keld.runner.find_lost import find_lost
from keld.runner.finding import Finding, Verdict
from keld.runner.finish import write
from keld.runner.give_up import give_up
from keld.runner.heartbeat import Heartbeat
from keld.runner.look import Look, look, next_look
from keld.runner.observe import cancel, observe_all
from keld.runner.orphan import Sweep
from keld.runner.queue import yields_until
from keld.runner.round import due_of, early_round, next_round
from keld.runner.submit import begin_to_stage, lost, stage, submit, submit_again
from keld.state import AT_PROVIDER, TERMINAL, Event, RunEvent, RunState, State

_NEXT = 3  # shards for which a step is begun while that of another one goes on
_LISTING = 0.6  # of the time of a poll; the rest is for what the lists have shown
_FINDING = 0.8  # of the time of a reconcile; the rest is for acting on what was found
_ENTERING = 0.2  # of that rest, for taking leases


class Polled(msgspec.Struct, frozen=True, gc=False):
    """A job run and its shards after a poll; of one to which nothing has happened, as they were before, with what the look has noted."""

    run: JobRun
    shards: Sequence[Shard]
    noted: Unchanged | None


class Runner:
    """Acts on the job runs of one ledger with the providers of one environment."""

    def __init__(self, environment: Environment) -> None:
        self.environment = replace(environment, provider=partial(configured, environment.provider))
        self.ledger = environment.ledger
        self.clock = environment.clock
        self.settings = environment.settings
        self.worker = f"{process.machine()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._foreign: set[str] = set()
        self._heartbeat = Heartbeat(self.ledger, self.clock)

    # -- the verbs --------------------------------------------------------------------------------------------

    def advance(self, run_id: str, budget: timedelta) -> JobRun:
        """The job run after everything that was due was done, for about `budget` (a step that has begun is finished).

        Raises:
            StagingError, SinkError, LedgerError: our own disk, database or the sink failed; nothing that was paid is lost.
        """
        with within(time.monotonic() + (budget + self.settings.call_within).total_seconds()):
            self._sweep_due(read_results=True)
            with self._context(run_id, budget) as context:
                if context is not None:
                    observe_all([context])
                    # At least one step, even if successful looks took all the time: a slow provider must not stop all work.
                    context.begun = bool(context.stuck)
                    while self._pass(context) and time.monotonic() < context.until:
                        pass
                    self._give_up(context)
        return self.ledger.run(run_id)

    def poll(self, read: Callable[[], Sequence[JobRun]], budget: timedelta) -> list[Polled]:
        """The job runs after a look at their providers: ended batches are recorded, due cancels are asked for; those of other workers are skipped.

        Args:
            read: reads the job runs.  Of thousands, nearly all stay at their provider: these are not read again after the look.
        """
        end = time.monotonic() + budget.total_seconds()
        with within(end):
            self._sweep_due(read_results=False)
        runs = read()
        shards = self.ledger.catalog.shards_of([run.id for run in runs])
        still_open = {run_id: _still_open(of) for run_id, of in shards.items()}
        seen, environment = self._look(runs, still_open, budget)
        self._act(seen.need_lease, environment, end, budget)
        changed = {run.id: run for run in self.ledger.runs(seen.need_lease)}
        shards |= self.ledger.catalog.shards_of(changed)
        unchanged = {one.run_id: one for one in seen.unchanged}
        return [Polled(changed.get(run.id, run), shards.get(run.id, []), unchanged.get(run.id)) for run in runs]

    def _look(self, runs: Sequence[JobRun], shards: Mapping[str, Sequence[Shard]], budget: timedelta) -> tuple[Look, Environment]:
        """What the accounts' lists show, read from the job run on that was looked at longest ago; and the environment that has it."""
        environment = replace(self.environment, lanes={}, flex={}, leads={})
        still_open = sorted((run for run in runs if not run.over), key=lambda run: run.next_check_at or run.created_at)
        until = time.monotonic() + budget.total_seconds() * _LISTING  # from here on: thousands of rows may take long to read
        with within(until):
            seen = look(environment, still_open, shards, until)
        self.ledger.progress.note_unchanged(seen.unchanged)
        return seen, replace(environment, listed=seen.listed, inventories=seen.inventories)

    def _act(self, run_ids: Sequence[str], environment: Environment, end: float, budget: timedelta) -> None:
        """Records what has happened to these job runs, and asks for the cancels that are due, each under its lease, as far as there is time."""
        contexts: list[RunContext] = []
        try:
            # Each part has its own time, even if the part before was slow: at least one job run is looked at.
            left_s = max(end - time.monotonic(), budget.total_seconds() * (1 - _LISTING))
            entering = time.monotonic() + left_s * _ENTERING
            for run_id in run_ids:
                if contexts and time.monotonic() > entering:
                    break
                if (context := self._enter(run_id, budget, environment)) is not None:
                    contexts.append(context)
            until = time.monotonic() + left_s * (1 - _ENTERING)
            for context in contexts:
                context.until = until
            with within(until):
                observe_all(contexts)
                for context, run, shards in self._read(contexts):
                    self._escalate(context, run, shards)
            for context in contexts:
                self._give_up(context)
        finally:
            for context, run, shards in self._read(contexts):
                self._leave(context, run, shards)

    def _read(self, contexts: Sequence[RunContext]) -> Iterator[tuple[RunContext, JobRun, Sequence[Shard]]]:
        """Each context with its job run and the shards that are not over, as they are now, by two queries for all of them."""
        run_ids = [context.lease.run_id for context in contexts]
        shards = self.ledger.catalog.open_shards_of(run_ids)
        for context, run in zip(contexts, self.ledger.runs(run_ids), strict=True):
            yield context, run, shards.get(run.id, [])

    def supersede(self, run_id: str) -> bool:
        """True if a job run of which nothing was ever sent was closed, so that it can be planned again; False also if another worker holds it."""
        context = self._enter(run_id, timedelta(0))
        if context is None:
            return False
        try:
            unsent = all(shard.unsent for shard in self.ledger.shards(run_id))
            if unsent:
                now = self.clock()
                self.ledger.record_run(context.lease, now, RunEvent.SUPERSEDED, state=RunState.CANCELLED, finished_at=now)
            return unsent
        finally:
            self._leave_one(context)

    def reconcile(
        self, provider: Provider, since: datetime, budget: timedelta, *, act: bool, progress: Callable[[Finding], None] | None
    ) -> tuple[list[Finding], bool]:
        """The batches that a provider made after `since` and the ledger does not have, acted on if `act`; and False if the time was too short.

        Raises:
            AccessRefused, ProviderUnreachable: the provider's list cannot be read.
        """
        end = time.monotonic() + budget.total_seconds()
        sweep = Sweep(self.environment, provider, self._leased, self._foreign)
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

    def _pass(self, context: RunContext) -> bool:
        """True if a step was due and done, for any shard or the job run."""
        run = self.ledger.run(context.lease.run_id)
        context.cancelling = run.state is RunState.CANCELLING
        if run.over:
            return False
        if run.state is RunState.WRITING:
            write(context, run)
            return True
        shards = self.ledger.open_shards(run.id)  # not those that are over: a step costs the same, however many they are
        if _if_configured(context, lambda: escalate(context, run, shards, heavy=True)):
            return True
        if not shards:
            return _if_configured(context, lambda: next_round(context, run, self.ledger.shards(run.id)))
        if run.problem:  # so that a shard that fails each time does not keep the later ones from being tried, another one is the first
            first = int(self.clock().timestamp()) % len(shards)
            shards = [*shards[first:], *shards[:first]]
        with context.overlap:
            done = sum(self._advance_shard(context, run, shard, shards[n:]) for n, shard in enumerate(shards, 1)) > 0
        return done or _if_configured(
            context, lambda: early_round(context, run, follow=holds_back_for_too_long(context.environment, run, shards))
        )

    def _advance_shard(self, context: RunContext, run: JobRun, shard: Shard, following: Sequence[Shard]) -> bool:
        """True if a step of the shard was due and done; all that are due are done.  `following`: those whose turn comes after it.

        If a step fails at a provider, it is tried for no other shard there under this lease; other steps and other providers go on.
        """
        done = False
        while self._may(context, shard) and self._is_due(context, shard):
            done = context.begun = True
            context.pulse()
            try:
                _begin_next(context, shard, following)
                before, shard = shard, _act(context, run, shard)
                if shard is before:
                    break  # a realtime run that stopped early: the next pass decides whether it goes on
                if shard.state is State.UNKNOWN:
                    context.stuck.setdefault(shard.id, "its create was not found")
            except (AccessRefused, ProviderUnreachable, ProviderRefused) as problem:
                context.failed.add((shard.provider, shard.state))
                if isinstance(problem, AccessRefused):
                    context.blocked.add(shard.provider)
                context.problem = problem
                context.stuck[shard.id] = str(problem)
                log.warning("shard.blocked shard=%s state=%s problem=%s", shard.id, shard.state.value, type(problem).__name__)
        return done

    def _may(self, context: RunContext, shard: Shard) -> bool:
        """True if there is time for a step of the shard, and nothing has failed under this lease that would make it fail, too."""
        if (shard.provider, shard.state) in context.failed and shard.state is State.UNKNOWN:
            context.stuck.setdefault(shard.id, str(context.problem))  # all of them are looked for in one list
        in_time = time.monotonic() < context.until or not context.begun
        return in_time and shard.provider not in context.blocked and (shard.provider, shard.state) not in context.failed

    def _escalate(self, context: RunContext, run: JobRun, shards: Sequence[Shard]) -> None:
        """Asks for the cancels that a deadline makes due; if a job run lacks its files or an account, the others go on."""
        try:
            escalate(context, run, shards, heavy=False)
        except LeaseLost as lost:
            log.warning("lease.lost run=%s %s", context.lease.run_id, lost)
        except (StagingError, ProviderRefused) as problem:
            context.problem = problem  # this job run's files, or an account of its models, are elsewhere

    def _give_up(self, context: RunContext) -> None:
        """Gives up the shards that were tried without progress until their time was over."""
        if not context.stuck:
            return
        try:
            run = self.ledger.run(context.lease.run_id)
            if not run.over and give_up(context, run, self.ledger.open_shards(run.id)):
                context.problem = None
        except LeaseLost as lost:
            log.warning("lease.lost run=%s %s", context.lease.run_id, lost)
        except StagingError as problem:
            context.problem = problem  # this job run's files are elsewhere

    def _is_due(self, context: RunContext, shard: Shard) -> bool:
        match shard.state:
            case State.PLANNED | State.STAGED | State.SUBMITTING:
                return True
            case State.UNKNOWN | State.ENDED:
                return shard.not_before is None or shard.not_before <= self.clock()
            case State.DEFERRED:
                return context.cancelling or shard.not_before is None or shard.not_before <= self.clock()
            case State.IN_PROGRESS if shard.lane == Lane.BATCH:
                return context.cancelling
            case State.IN_PROGRESS:
                return context.cancelling or shard.not_before is None or shard.not_before <= self.clock()
            case State.CANCELLING | State.COLLECTED | State.REJECTED | State.QUARANTINED | State.DROPPED:
                return False
            case _:
                assert_never(shard.state)

    # -- creates that took effect late ------------------------------------------------------------------------------------

    def _sweep_due(self, *, read_results: bool) -> None:
        """Sweeps the accounts where a create may take effect late, or an orphan is not settled; a provider that fails is tried again the next time."""
        now = self.clock()
        for suspect in self.ledger.accounts.suspects(now - self.settings.sweep_for):
            try:
                provider = self.environment.provider(suspect.provider)
            except ProviderRefused:
                continue  # an account of another team or of earlier settings: an environment that has it sweeps it
            at_home = provider.host == suspect.host
            if not at_home or not self.ledger.accounts.claim_sweep(suspect.provider, suspect.host, now, self.settings.sweep_every):
                continue
            sweep = Sweep(self.environment, provider, self._leased, self._foreign, suspect.sizes, read_results)
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
    def _context(self, run_id: str, budget: timedelta) -> Iterator[RunContext | None]:
        context = self._enter(run_id, budget)
        if context is None:
            yield None
            return
        try:
            with self._heartbeat.beating(context), reporting_progress(context.pulse):
                yield context
        except LeaseLost as lost:
            log.warning("lease.lost run=%s %s", run_id, lost)
        except (StagingError, SinkError) as problem:
            context.problem = problem
            if self._holds(context):
                raise  # else another worker has gone on with these files, and the problem is no longer this worker's
        finally:
            with suppress(LeaseLost):
                self._leave_one(context)

    @contextmanager
    def _leased(self, run_id: str) -> Iterator[RunContext | None]:
        with self._context(run_id, timedelta(0)) as context:
            yield context

    def _enter(self, run_id: str, budget: timedelta, environment: Environment | None = None) -> RunContext | None:
        run = self.ledger.run(run_id)
        if run.over:
            return None
        dead = run.lease_owner if _is_dead(run.lease_owner) else None
        lease = self.ledger.leases.claim(run_id, self.worker, self.clock(), dead_owner=dead)
        if lease is None:
            return None
        until = time.monotonic() + budget.total_seconds()
        context = RunContext(
            environment or self.environment, lease, self.environment.staging.run(run_id), until, cancelling=run.state is RunState.CANCELLING
        )
        with suppress(LeaseLost):
            restart_waits(context)
        return context

    def _holds(self, context: RunContext) -> bool:
        """True if this worker still holds the job run."""
        try:
            self.ledger.leases.renew(context.lease, self.clock())
        except LeaseLost as lost:
            log.warning("lease.lost run=%s %s", context.lease.run_id, lost)
            return False
        return True

    def _leave_one(self, context: RunContext) -> None:
        for _, run, shards in self._read([context]):
            self._leave(context, run, shards)

    def _leave(self, context: RunContext, run: JobRun, shards: Sequence[Shard]) -> None:
        """Gives the lease back, with the time of the next look and the problem, if there was one."""
        problem = None if context.problem is None else _problem_record(context.problem, self.clock())
        try:
            escalation = escalation_time(context.environment, run, shards)
        except ProviderRefused as missing:  # an account of its models is not configured here; the lease is given back all the same
            escalation, problem = run.escalates_at, problem or _problem_record(missing, self.clock())
        # A job run for which there was no time keeps its time, so that it is the first in the next poll.
        next_check_at = run.next_check_at if context.passed_over else self._next_check(context, run, shards, escalation)
        with suppress(LeaseLost):
            # Where only batches are allowed, it is the time at which rows follow one that went ahead: nothing moves to a faster lane.
            escalates_at = escalation if run.terms.any_lane else None
            self.ledger.leases.release(context.lease, next_check_at, problem, escalates_at=escalates_at)

    def _next_check(self, context: RunContext, run: JobRun, shards: Sequence[Shard], escalation: datetime | None) -> datetime | None:
        """The time of the next look at the job run; None if it is over."""
        now = self.clock()
        if run.over:
            return None
        times = [escalation] if escalation is not None and escalation > now else []
        if context.problem is not None:
            waits = [shard.not_before or now for shard in shards]
            return max(now + self.settings.retry_unreachable, min(times + waits, default=now))
        for shard in shards:
            if shard.state is State.CANCELLING and due_of(run, now) is not None:
                # Cancelled for the deadline: each second until the batch ends is lost for its rows.
                times.append(now + self.settings.poll_least)
            elif shard.state in AT_PROVIDER and shard.lane == Lane.BATCH:
                times.append(next_look(self.settings, shard, now))
            elif shard.state in (State.UNKNOWN, State.ENDED):
                times.append(shard.not_before or now)
            elif shard.state is State.DEFERRED:
                # Earlier than its own time, too: another batch may end and make room.
                times.append(min(shard.not_before or now, now + self.settings.poll_most))
            else:
                times.append(shard.not_before or now if shard.state is State.IN_PROGRESS else now)
        return min(times, default=now)


def _still_open(shards: Sequence[Shard]) -> Sequence[Shard]:
    """Those that are not over; nearly always all of them, and of thousands of job runs no list is made again."""
    if any(shard.state in TERMINAL for shard in shards):
        return [shard for shard in shards if shard.state not in TERMINAL]
    return shards


def _if_configured(context: RunContext, plan: Callable[[], bool]) -> bool:
    """The result of a step that needs all models; False, with the problem noted, if the account of one is not configured here."""
    try:
        return plan()
    except ProviderRefused as problem:
        context.problem = problem  # this worker cannot plan, but can do everything else
        return False


def _problem_record(problem: KeldError, now: datetime) -> dict[str, object]:
    """The problem that stopped a worker, as the ledger keeps it for people."""
    return {"kind": type(problem).__name__, "message": str(problem), "permanent": problem.permanent, "at": now.isoformat()}


def _act(context: RunContext, run: JobRun, shard: Shard) -> Shard:
    """The shard after the one step that its state requires."""
    match shard.state:
        case State.PLANNED | State.STAGED | State.DEFERRED if context.cancelling:
            return context.record(shard, Event.DROPPED)
        case State.ENDED:
            return collect(context, run, shard)
        case _:
            return _act_in_batch(context, run, shard) if shard.lane == Lane.BATCH else _act_in_fast_lane(context, run, shard)


def _begin_next(context: RunContext, shard: Shard, following: Sequence[Shard]) -> None:
    """Begins the slow half of a step for shards that follow, while this one's step goes on."""
    wanted = {State.STAGED: State.PLANNED, State.ENDED: State.ENDED}.get(shard.state)
    if context.cancelling or shard.lane != Lane.BATCH:
        return
    for other in islice((one for one in following if one.state is wanted and one.lane == Lane.BATCH), _NEXT):
        if other.provider in context.blocked:
            continue
        if wanted is State.PLANNED:
            begin_to_stage(context, other)
        elif other.not_before is None or other.not_before <= context.now():
            begin_to_fetch(context, other)


def _act_in_batch(context: RunContext, run: JobRun, shard: Shard) -> Shard:
    match shard.state:
        case State.PLANNED:
            return stage(context, shard)
        case State.STAGED:
            return submit(context, run, shard)
        case State.DEFERRED:
            return submit_again(context, run, shard)
        case State.SUBMITTING:
            return lost(context, shard, "the worker died")  # between the intent and the outcome
        case State.UNKNOWN:
            return find_lost(context, shard)
        case State.IN_PROGRESS:
            return cancel(context, shard)
        case _:
            raise AssertionError(f"nothing is due for a batch that is {shard.state}")


def _act_in_fast_lane(context: RunContext, run: JobRun, shard: Shard) -> Shard:
    match shard.state:
        case State.PLANNED:
            return context.record(shard, Event.STAGED)
        case State.STAGED:
            return begin(context, shard)
        case State.SUBMITTING:
            return under_way(context, shard)  # each row is its own request, and the journal has them
        case State.IN_PROGRESS:
            if context.cancelling:
                return end_early(context, shard)
            if (until := yields_until(context, run, shard)) is not None:
                context.ledger.progress.note(context.lease, shard, shard.done, context.now(), until)
                return shard
            at = escalation_times(context.environment, run, context.ledger.open_shards(run.id)).get(Lane(shard.lane))
            return ask_rows(context, run, shard, no_new_after=at if at is not None and at > context.now() else None)
        case _:
            raise AssertionError(f"nothing is due for a realtime run that is {shard.state}")


def _found_until(sweep: Sweep, since: datetime, until: float) -> tuple[list[Finding], bool]:
    """The findings of a sweep until `time.monotonic()` is `until`, and True if these are all.

    Raises:
        ProviderUnreachable: the provider's list cannot be read, and there was time for it.
    """
    found: list[Finding] = []
    try:
        with within(until):
            for finding in sweep.find(since):
                if time.monotonic() > until:  # its verdict may be wrong, since a call had too little time
                    break
                found.append(finding)
    except ProviderUnreachable:
        if time.monotonic() < until:
            raise
    return found, time.monotonic() < until


def _is_dead(owner: str | None) -> bool:
    """True if a lease's owner was a process of this host that has ended: its lease need not be waited for."""
    if owner is None:
        return False
    host, _, rest = owner.partition(":")
    return process.is_dead(host, rest.partition(":")[0])
