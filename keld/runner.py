"""Runner: the only file that acts.  It looks up the state, does the one thing that is due, and records it.

On the road: everything above is thought, everything below is reached from here.  Two verbs: `advance` is heavy (submits, collects,
retries, writes), `poll` is light (looks, records, never uploads, downloads or pays).  Both are idempotent and may be called from
anywhere, any number of times, by any number of workers: one holds the job run's lease, the others go home.

The order around a create is the heart of it: the intent is committed, the call is made once, the outcome is recorded.  Die anywhere
in between and the next worker finds SUBMITTING, knows that it does not know, and looks at the provider before it does anything else.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

import numpy as np

from keld import answer, snapshot
from keld.answer import Outcome, Sent, Tally
from keld.enrich import enrich, enriched_schema, final_outcomes, retryable_positions, source_schema
from keld.errors import AccessRefused, CeilingTooLow, KeldError, LeaseLost, ProviderRefused, ProviderUnreachable, SinkError, StagingError
from keld.failpoint import failpoint
from keld.ledger import JobRun, Lease, Ledger, Shard, nonce
from keld.plan import Worth, reckoner, work_of
from keld.price import Lane, Rates, rates
from keld.providers.base import BatchState, Created, OutcomeUnknown, Provider, QueueFull, Refused, RemoteBatch, Submission
from keld.request import Question, position_of
from keld.schema import OutputSchema
from keld.shard import Slice, cut
from keld.staging import RunFiles, ShardFiles, Staging, disk_errors, read_positions, sha256_of, write_file, write_positions
from keld.state import AT_PROVIDER, TERMINAL, Event, RunState, State
from keld.table import write_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger("keld")
log.addHandler(logging.NullHandler())  # a library speaks where its user listens, and nowhere else

_SKEW = timedelta(minutes=5)  # our clock against the provider's
_EVER = datetime.min.replace(tzinfo=UTC)
_LAG = timedelta(minutes=10)  # how long a provider may not know a batch that it just made


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How patient the runner is; all of it may be set per environment."""

    settle: tuple[timedelta, ...] = (timedelta(seconds=15), timedelta(seconds=60), timedelta(minutes=5))
    # One more look where no fence can keep a create from landing: longer than the SDK itself waits for a reply (10 minutes).
    settle_unfenced: timedelta = timedelta(minutes=15)
    send_within: timedelta = timedelta(seconds=30)  # an intent older than this is not sent: its worker was frozen
    poll_least: timedelta = timedelta(seconds=10)
    poll_most: timedelta = timedelta(seconds=60)
    retry_unreachable: timedelta = timedelta(seconds=20)
    retry_queue_full: timedelta = timedelta(seconds=60)
    list_from: int = 4  # that many open batches of an account are looked up by list pages, fewer one by one


@dataclass(slots=True)
class _Visit:
    """One worker's hold on one job run, and what stopped it."""

    lease: Lease
    files: RunFiles
    until: float  # time.monotonic() after which no new step is begun
    cancelling: bool = False
    problem: KeldError | None = None
    blocked: set[str] = field(default_factory=set)  # providers that failed a call in this visit


class Runner:
    """Acts on the job runs of one ledger with the providers of one environment."""

    def __init__(
        self, ledger: Ledger, staging: Staging, provider: Callable[[str], Provider], clock: Callable[[], datetime], settings: Settings
    ) -> None:
        self.ledger = ledger
        self.staging = staging
        self.provider = provider
        self.clock = clock
        self.settings = settings
        self.worker = f"{_machine()}:{os.getpid()}:{secrets.token_hex(4)}"

    # -- the two verbs ----------------------------------------------------------------------------------------

    def advance(self, run_id: str, budget: timedelta) -> JobRun:
        """Does whatever is due for a job run, for about `budget` (a step once begun is finished); gives the run as it stands then.

        Raises:
            StagingError, SinkError: our own disk or the sink failed; nothing that was paid is lost.
        """
        with self._visit(run_id, budget) as visit:
            if visit is not None:
                self._poll_visits([visit])
                while time.monotonic() < visit.until and self._step(visit):
                    pass
        return self.ledger.run(run_id)

    def poll(self, run_ids: Sequence[str], budget: timedelta) -> list[JobRun]:
        """Looks at the providers for job runs that no other worker holds; records what has ended; asks due cancels."""
        until = time.monotonic() + budget.total_seconds()
        visits: list[_Visit] = []
        try:
            for run_id in run_ids:
                if time.monotonic() < until and (visit := self._enter(run_id, budget)) is not None:
                    visits.append(visit)
            self._poll_visits(visits)
        finally:
            for visit in visits:
                self._leave(visit)
        return [self.ledger.run(run_id) for run_id in run_ids]

    def supersede(self, run_id: str) -> bool:
        """Closes a job run of which nothing was ever sent, so that it can be planned anew; False if a worker has it in hand."""
        visit = self._enter(run_id, timedelta(0))
        if visit is None:
            return False
        try:
            unsent = all(shard.unsent for shard in self.ledger.shards(run_id))
            if unsent:
                self.ledger.record_run(visit.lease, self.clock(), "superseded", state=RunState.CANCELLED, finished_at=self.clock())
            return unsent
        finally:
            self._leave(visit)

    # -- one step ---------------------------------------------------------------------------------------------

    def _step(self, visit: _Visit) -> bool:
        """Does the first thing that is due; False when nothing is."""
        run = self.ledger.run(visit.lease.run_id)
        if run.over:
            return False
        if run.state is RunState.WRITING:
            self._write(visit, run)
            return True
        shards = self.ledger.shards(run.id)
        for shard in shards:
            if shard.provider not in visit.blocked and self._is_due(run, shard):
                self._attempt(visit, run, shard)
                return True
        if all(shard.state in TERMINAL for shard in shards):
            self._next_round(visit, run, shards)
            return True
        return False

    def _is_due(self, run: JobRun, shard: Shard) -> bool:
        match shard.state:
            case State.PLANNED | State.STAGED | State.SUBMITTING | State.ENDED:
                return True
            case State.UNKNOWN:
                return shard.not_before is None or shard.not_before <= self.clock()
            case State.DEFERRED:
                return run.state is RunState.CANCELLING or shard.not_before is None or shard.not_before <= self.clock()
            case State.IN_PROGRESS:
                return run.state is RunState.CANCELLING
            case State.CANCELLING | State.COLLECTED | State.REJECTED | State.QUARANTINED | State.DROPPED:
                return False
            case _:
                assert_never(shard.state)

    def _attempt(self, visit: _Visit, run: JobRun, shard: Shard) -> None:
        """Acts on a shard; a provider that fails is left alone for the rest of this visit, the other providers' shards go on."""
        try:
            self._act(visit, run, shard)
        except (AccessRefused, ProviderUnreachable, ProviderRefused) as problem:
            visit.blocked.add(shard.provider)
            visit.problem = problem
            log.warning("shard.blocked shard=%s state=%s problem=%s", shard.id, shard.state.value, type(problem).__name__)

    def _act(self, visit: _Visit, run: JobRun, shard: Shard) -> None:
        dropping = run.state is RunState.CANCELLING
        match shard.state:
            case State.PLANNED | State.STAGED | State.DEFERRED if dropping:
                self._record(visit, shard, Event.DROPPED)
            case State.PLANNED:
                self._stage(visit, shard)
            case State.STAGED:
                self._submit(visit, shard)
            case State.DEFERRED:
                self._record(visit, shard, Event.RETRY_DUE)
            case State.SUBMITTING:
                # Its worker died between the intent and the outcome; the first look is soon, for a reply only we missed.
                self._record(
                    visit, shard, Event.OUTCOME_LOST, not_before=self.clock() + self.settings.settle[0], facts={"reason": "the worker died"}
                )
            case State.UNKNOWN:
                self._look(visit, shard)
            case State.IN_PROGRESS:
                self._cancel(visit, shard)
            case State.ENDED:
                self._collect(visit, run, shard)
            case State.CANCELLING | State.COLLECTED | State.REJECTED | State.QUARANTINED | State.DROPPED:
                raise AssertionError(f"nothing is due for a shard that is {shard.state}")
            case _:
                assert_never(shard.state)

    # -- sending ----------------------------------------------------------------------------------------------

    def _stage(self, visit: _Visit, shard: Shard) -> None:
        """Writes the shard's input file from the snapshot."""
        provider = self._provider(shard)
        question = self._question(visit)
        positions = read_positions(visit.files.shard(shard.id).positions)
        encoder = provider.encoder(question, shard.model, shard.id)
        lines = (encoder.line(position, fragment) for position, fragment in snapshot.fragments(visit.files.snapshot, positions))
        with disk_errors(visit.files.dir, "This shard was not sent."):
            digest = write_file(visit.files.shard(shard.id).input, encoder.file(lines), "staging.input")
        self._record(visit, shard, Event.STAGED, sha256=digest, host=provider.host)

    def _submit(self, visit: _Visit, shard: Shard) -> None:
        provider = self._provider(shard)
        path = visit.files.shard(shard.id).input
        if shard.host != provider.host or sha256_of(path) != shard.sha256:
            self._stage(visit, shard)  # another provider's host, another machine, a cleaned disk: the snapshot gives the same bytes again
            return
        if shard.input_ref is None:
            failpoint("upload.send")
            try:
                input_ref = provider.upload(path, shard.id)
            except FileNotFoundError:
                self.ledger.renew(visit.lease, self.clock())  # else another worker has sent it meanwhile, and removed the file
                raise
            failpoint("upload.received")
            if input_ref is not None:
                shard = self._record(visit, shard, Event.UPLOADED, input_ref=input_ref)
        before = None if provider.capabilities.marks_batches else provider.newest()
        intended = time.monotonic(), self.clock()
        try:
            shard = self.ledger.record_intent(visit.lease, shard, self.clock(), before)
        except CeilingTooLow as problem:
            self._give_up(visit, shard, Event.DROPPED, Outcome.OVER_CEILING, "not asked: the ceiling was reached")
            log.warning("shard.over_ceiling shard=%s %s", shard.id, problem)
            return
        self._create(visit, provider, shard, path, intended)

    def _create(self, visit: _Visit, provider: Provider, shard: Shard, path: Path, intended: tuple[float, datetime]) -> None:
        """The one dangerous call: once, and only while the intent is fresh."""
        failpoint("create.send")
        # By both clocks: the monotonic one does not count the hours a machine was suspended, the other one can be turned back.
        stood_still = max(timedelta(seconds=time.monotonic() - intended[0]), self.clock() - intended[1])
        if stood_still > self.settings.send_within:
            # Frozen since the intent: others may have looked, found nothing and sent it again by now.
            raise LeaseLost(f"Shard {shard.id}: this worker stood still after its intent, so it does not send. Nothing was sent by it.")
        question = self._question(visit)
        outcome = provider.create(
            Submission(
                key=_key(shard),
                path=path,
                input_ref=shard.input_ref,
                model=shard.model,
                endpoint=_endpoint(question),
                requests=shard.requests,
            )
        )
        failpoint("create.received")
        now = self.clock()
        match outcome:
            case Created(batch):
                self._record(visit, shard, Event.CREATED, batch_id=batch.id, submitted_at=now, done=None)
                path.unlink(missing_ok=True)  # the snapshot can make it again
            case QueueFull(message, retry_after_s):
                wait = timedelta(seconds=retry_after_s) if retry_after_s else self._queue_wait(shard)
                self._record(visit, shard, Event.DEFERRED, not_before=now + wait, error={"code": "queue_full", "message": message})
            case OutcomeUnknown(reason):
                self._record(visit, shard, Event.OUTCOME_LOST, not_before=now + self.settings.settle[0], facts={"reason": reason})
            case Refused(permanent=True) as refused:
                self._reject(visit, shard, refused.code, f"HTTP {refused.status} {refused.code} {refused.message}".strip())
            case Refused() as refused:
                self._refused(visit, provider, shard, refused)
            case _:
                assert_never(outcome)

    def _refused(self, visit: _Visit, provider: Provider, shard: Shard, refused: Refused) -> None:
        """A no that the user or time can mend: the shard stays staged."""
        # 404: the uploaded input is gone (expired, deleted); it is uploaded again.
        self._record(
            visit,
            shard,
            Event.REFUSED,
            input_ref=None if refused.status == 404 else shard.input_ref,
            facts={"status": refused.status, "code": refused.code},
        )
        words = [f"HTTP {refused.status}" if refused.status else "", refused.code, refused.message]
        said = f"{provider.name} at {provider.host} refused to create a batch: {' '.join(word for word in words if word)}"
        if refused.status in (401, 402, 403):
            raise AccessRefused(
                f"{said}. Nothing was created. Check the key, the project and the billing of {provider.name}, and run again."
            )
        raise ProviderUnreachable(f"{said}. Nothing was created; it is tried again later.")

    # -- an unknown create ------------------------------------------------------------------------------------

    def _look(self, visit: _Visit, shard: Shard) -> None:
        """Looks for a create whose outcome is unknown; adopts it, looks again later, or after the last look sends it again."""
        provider = self._provider(shard)
        failpoint("look.send")
        found = self._matches(provider, shard)
        failpoint("look.received")
        if found and not provider.capabilities.marks_batches:
            # Only its results say whose an unmarked batch is.  One that may be ours is waited for: to adopt it unproven may be to
            # cancel somebody else's, and to send another shard of ours again while its batch counts as this one's.
            waiting = [batch for batch in found if not batch.state.ended]
            found, others = self._proven(visit, provider, shard, [batch for batch in found if batch.state.ended])
            if not found and (waiting or others):
                not_before = self.clock() + (self.settings.poll_most if waiting else timedelta(0))
                self._record(visit, shard, Event.LOOKED, not_before=not_before, facts={"waiting": len(waiting), "not_ours": others})
                return
        if found:
            self._record(
                visit,
                shard,
                Event.ADOPTED,
                batch_id=found[0].id,
                submitted_at=min(found[0].created_at, self.clock()),
                facts={"matches": len(found)},
            )
            for spare in found[1:]:
                log.warning("shard.duplicate shard=%s batch_id=%s cancelled", shard.id, spare.id)
                provider.cancel(spare.id)
            return
        settle = self.settings.settle if provider.capabilities.fences else (*self.settings.settle, self.settings.settle_unfenced)
        if shard.looks + 1 < len(settle):
            self._record(visit, shard, Event.LOOKED, looks=shard.looks + 1, not_before=self.clock() + settle[shard.looks + 1])
        elif shard.looks + 1 == len(settle) and provider.capabilities.fences and shard.input_ref:
            # The fence: without its input a create that is still on its way cannot land any more.  Then one look for one
            # that landed just before.
            failpoint("fence.send")
            provider.delete_input(shard.input_ref)
            failpoint("fence.received")
            self._record(visit, shard, Event.LOOKED, looks=shard.looks + 1, not_before=self.clock() + settle[0], facts={"fenced": True})
        else:
            self._record(visit, shard, Event.ABSENT, input_ref=None, not_before=None)

    def _matches(self, provider: Provider, shard: Shard) -> list[RemoteBatch]:
        """Batches at the provider that are, or without a mark may be, the one; none that the ledger knows already."""
        mine = [event["facts"] for event in self.ledger.events(shard.run_id) if event["shard_id"] == shard.id]
        others = {batch_id for facts in mine for batch_id in facts.get("not_ours", ())}
        marked = provider.capabilities.marks_batches
        before = self.ledger.intents(shard.id)[-1].after_batch
        found = []
        # With a mark, the list as far back as the intent, by our clock; without, down to the batch that was there before it.
        for batch in provider.batches((shard.intent_at or self.clock()) - _SKEW if marked else _EVER):
            if not marked and batch.id == before:
                break
            fits = batch.key == _key(shard) if marked else batch.requests == shard.requests
            if fits and batch.id not in others and not self.ledger.knows_batch(batch.id):
                found.append(batch)
        return sorted(found, key=lambda batch: batch.created_at)

    def _proven(self, visit: _Visit, provider: Provider, shard: Shard, ended: Sequence[RemoteBatch]) -> tuple[list[RemoteBatch], list[str]]:
        """The one of these batches whose results carry the shard's ids, if any; and the ids of those that are not."""
        others: list[str] = []
        for batch in ended:
            with disk_errors(visit.files.dir, "Nothing more was sent."):
                results = provider.download(batch, visit.files.shard(shard.id).result)
                if any(self._carries(provider, shard, path) for path in results):
                    return [batch], others
            others.append(batch.id)
        return [], others

    @staticmethod
    def _carries(provider: Provider, shard: Shard, path: Path) -> bool:
        with path.open("rb") as file:
            replies = provider.read(file.read(answer.BLOCK_BYTES))
        return any(position_of(reply.custom_id, shard.id) is not None for reply in replies)

    # -- looking at what is under way -------------------------------------------------------------------------

    def _poll_visits(self, visits: Sequence[_Visit]) -> None:
        by_account: dict[tuple[str, str], list[tuple[_Visit, Shard]]] = {}
        for visit in visits:
            for shard in self.ledger.shards(visit.lease.run_id):
                if shard.state in AT_PROVIDER:
                    by_account.setdefault((shard.provider, shard.host), []).append((visit, shard))
        for held in by_account.values():
            try:
                self._poll_account(self._provider(held[0][1]), held)
            except (AccessRefused, ProviderUnreachable, ProviderRefused) as problem:
                for visit, shard in held:
                    visit.problem = problem
                    visit.blocked.add(shard.provider)

    def _poll_account(self, provider: Provider, held: list[tuple[_Visit, Shard]]) -> None:
        listed: dict[str, RemoteBatch] = {}
        if len(held) >= self.settings.list_from:
            since = min(shard.submitted_at or self.clock() for _, shard in held) - _SKEW
            wanted = {shard.batch_id for _, shard in held}
            for seen in provider.batches(since):
                if seen.id in wanted:
                    listed[seen.id] = seen
                    if len(listed) == len(wanted):
                        break
        for visit, shard in held:
            failpoint("poll.send")
            # A list may lag behind; what is missing there, or ended there, is asked for itself before it is believed.
            batch = listed.get(shard.batch_id or "")
            if batch is None or batch.state.ended:
                batch = provider.get(shard.batch_id or "")
            failpoint("poll.received")
            try:
                self._observe(visit, shard, batch)
            except LeaseLost as lost:
                log.warning("lease.lost run=%s %s", shard.run_id, lost)
            except StagingError as problem:
                visit.problem = problem  # this job run's files are elsewhere; the others go on

    def _observe(self, visit: _Visit, shard: Shard, batch: RemoteBatch | None) -> None:
        """Records what the provider says of a batch."""
        now = self.clock()
        if batch is None:
            if now - (shard.submitted_at or now) > _LAG:
                visit.problem = ProviderRefused(
                    f"{shard.provider} at {shard.host} says it does not know batch {shard.batch_id}. It is not sent again, since it may be paid for. "
                    "Check that key, project and base URL are those it was submitted with."
                )
        elif batch.queue_full:
            self._record(visit, shard, Event.DEFERRED, not_before=now + self._queue_wait(shard), error=_error_of(batch))
        elif batch.state is BatchState.FAILED and not batch.result_refs:
            self._reject(visit, shard, *_first_error(batch))
        elif batch.state.ended:
            self._record(
                visit,
                shard,
                Event.ENDED,
                ended=batch.state.value,
                ended_at=now,
                done=batch.done,
                error=_error_of(batch),
                facts={"native": batch.native},
            )
        else:
            if batch.done != shard.done:
                self.ledger.note_progress(visit.lease, shard, batch.done, now)
            if visit.cancelling and shard.state is State.IN_PROGRESS:
                self._cancel(visit, shard)

    def _cancel(self, visit: _Visit, shard: Shard) -> None:
        failpoint("cancel.send")
        self._provider(shard).cancel(shard.batch_id or "")
        failpoint("cancel.received")
        self._record(visit, shard, Event.CANCEL_ASKED)

    # -- collecting -------------------------------------------------------------------------------------------

    def _collect(self, visit: _Visit, run: JobRun, shard: Shard) -> None:
        """Fetches all result files, judges every line, keeps one answer a row."""
        provider = self._provider(shard)
        batch = provider.get(shard.batch_id or "")
        if batch is None:
            raise ProviderUnreachable(
                f"{shard.provider} at {shard.host} does not find batch {shard.batch_id}, which has ended. Its results are fetched later."
            )
        files = visit.files.shard(shard.id)
        with disk_errors(visit.files.dir, "The batch is paid and its results stay at the provider."):
            results = self._fetch(provider, shard, batch, files)
            output = OutputSchema.from_json(self._question(visit).output)
            tally = answer.collect(results, provider.read, self._sent(run, visit, shard), output, files.answers)
        failpoint("collect.done")
        if not provider.capabilities.marks_batches and not tally.outcomes.keys() - {Outcome.LOST} and tally.foreign:
            self._give_up(
                visit, shard, Event.LOST_TRACK, Outcome.QUARANTINED, f"the batch {shard.batch_id} that was adopted holds other rows"
            )
            return
        self._record(visit, shard, Event.COLLECTED, **_counts(tally), collected_at=self.clock(), facts=_findings(tally))

    def _fetch(self, provider: Provider, shard: Shard, batch: RemoteBatch, files: ShardFiles) -> list[Path]:
        """All result files; none where the provider, after its time, still does not give them out: their rows are then lost."""
        late = self.clock() - (shard.ended_at or self.clock()) > _LAG
        if batch.succeeded and not batch.result_refs and not late:
            raise ProviderUnreachable(
                f"{shard.provider} at {shard.host} says that batch {batch.id} has ended with {batch.succeeded:,} answers, but names no results yet. "
                "They are looked for again."
            )
        try:
            return provider.download(batch, files.result)
        except ProviderRefused as refused:
            if refused.status not in (404, 410) or not late:
                raise
            log.warning("shard.results_gone shard=%s batch_id=%s", shard.id, batch.id)
            return []

    def _reject(self, visit: _Visit, shard: Shard, code: str, message: str) -> None:
        self._give_up(visit, shard, Event.REJECTED, Outcome.REJECTED, message, error={"code": code, "message": message})

    def _give_up(self, visit: _Visit, shard: Shard, event: Event, outcome: Outcome, why: str, **changes: object) -> None:
        """All rows of a shard get one outcome, on disk first."""
        run = self.ledger.run(shard.run_id)
        output = OutputSchema.from_json(self._question(visit).output)
        sent = self._sent(run, visit, shard)
        files = visit.files.shard(shard.id)
        with disk_errors(visit.files.dir, "Nothing more was sent."), answer.AnswerSink(files.answers, output, sent.positions, 0) as sink:
            sink.add(answer.same(sent.positions.tolist(), outcome, why, sent, output))
        self._record(visit, shard, event, outcomes={outcome.value: shard.requests}, facts={"why": outcome.value}, **changes)

    # -- the end ----------------------------------------------------------------------------------------------

    def _next_round(self, visit: _Visit, run: JobRun, shards: Sequence[Shard]) -> None:
        """Plans a batch for what may be asked again, or goes on to write."""
        last = run.round + 1 >= int(run.terms["max_attempts"])
        again = None if last or run.state is RunState.CANCELLING else retryable_positions(self._answers(visit, shards), run.rows)
        if again is None or not len(again):
            self.ledger.record_run(
                visit.lease, self.clock(), "writing", state=RunState.WRITING, facts={"cancelled": run.state is RunState.CANCELLING}
            )
            return
        model = shards[-1]
        provider = self._provider(model)
        question = self._question(visit)
        encoder = provider.encoder(question, model.model, model.id)
        sizes = np.concatenate(list(snapshot.sizes(visit.files.snapshot)))
        mask = np.zeros(run.rows, dtype=bool)
        mask[again] = True
        limits = provider.capabilities.limits.lowered(run.terms.get("max_shard_rows"), run.terms.get("max_shard_bytes"))
        asked = np.where(mask, sizes, 0)
        slices = cut([asked], encoder.overhead_bytes, limits)
        worth = reckoner(work_of(question, asked), encoder.overhead_bytes, self._sent(run, visit, model).rates)
        planned = plan_shards(visit.files, slices, mask, first=len(shards), round_=run.round + 1, like=model, reckon=worth)
        self.ledger.add_shards(visit.lease, planned, run.round + 1, self.clock())

    def _write(self, visit: _Visit, run: JobRun) -> None:
        """Writes the enriched partition, if a sink was asked for, and closes the job run."""
        shards = self.ledger.shards(run.id)
        answers = self._answers(visit, shards)
        written = None if run.sink is None else self._write_output(visit, run, run.sink, answers)
        found = final_outcomes(answers, run.rows, run.unaskable)
        answered, quarantined = found[Outcome.ANSWERED], found[Outcome.QUARANTINED]
        cancelled = found[Outcome.UNASKED] + found[Outcome.CANCELLED] > 0
        self.ledger.record_run(
            visit.lease,
            self.clock(),
            "finished",
            state=RunState.CANCELLED if cancelled else RunState.FINISHED,
            outcomes={outcome.value: n for outcome, n in found.items()},
            answered=answered,
            quarantined=quarantined,
            failed=run.rows - answered - quarantined,
            output=written,
            finished_at=run.finished_at or self.clock(),  # written again, it was no less in time
            problem=None,
        )
        for shard in shards:
            for path in visit.files.shard(shard.id).dir.glob("result-*.jsonl"):
                path.unlink(missing_ok=True)  # every answer in it stands in answers.parquet

    def _write_output(self, visit: _Visit, run: JobRun, sink: str, answers: Sequence[Path]) -> dict[str, object]:
        output = OutputSchema.from_json(self._question(visit).output)
        schema = enriched_schema(source_schema(visit.files.snapshot), output)
        failpoint("sink.write")
        written = write_table(sink, schema, enrich(visit.files.snapshot, answers, output), partition=run.partition or None)
        failpoint("sink.written")
        return {"uri": written.uri, "rows": written.rows, "size_bytes": written.size_bytes, "sha256": written.sha256}

    # -- the frame --------------------------------------------------------------------------------------------

    @contextmanager
    def _visit(self, run_id: str, budget: timedelta) -> Iterator[_Visit | None]:
        visit = self._enter(run_id, budget)
        if visit is None:
            yield None
            return
        beat = _Heartbeat(self.ledger, visit.lease, self.clock)
        try:
            with beat:
                yield visit
        except LeaseLost as lost:
            log.warning("lease.lost run=%s %s", run_id, lost)
        except (StagingError, SinkError) as problem:
            visit.problem = problem
            raise
        finally:
            with suppress(LeaseLost):
                self._leave(visit)

    def _enter(self, run_id: str, budget: timedelta) -> _Visit | None:
        run = self.ledger.run(run_id)
        if run.over:
            return None
        dead = run.lease_owner if _is_dead(run.lease_owner) else None
        lease = self.ledger.claim(run_id, self.worker, self.clock(), dead_owner=dead)
        if lease is None:
            return None
        until = time.monotonic() + budget.total_seconds()
        return _Visit(lease, self.staging.run(run_id), until, cancelling=run.state is RunState.CANCELLING)

    def _leave(self, visit: _Visit) -> None:
        problem = None
        if visit.problem is not None:
            problem = {"kind": type(visit.problem).__name__, "message": str(visit.problem), "at": self.clock().isoformat()}
        with suppress(LeaseLost):
            self.ledger.release(visit.lease, self._next_check(visit), problem)

    def _next_check(self, visit: _Visit) -> datetime | None:
        """When the job run wants to be looked at again; None when it is over."""
        now = self.clock()
        run = self.ledger.run(visit.lease.run_id)
        if run.over:
            return None
        if visit.problem is not None:
            return now + self.settings.retry_unreachable
        times = []
        for shard in self.ledger.shards(run.id):
            if shard.state in AT_PROVIDER:
                age = now - (shard.submitted_at or now)
                times.append(now + min(max(age / 10, self.settings.poll_least), self.settings.poll_most))
            elif shard.state in (State.UNKNOWN, State.DEFERRED):
                times.append(shard.not_before or now)
            elif shard.state not in TERMINAL:
                times.append(now)
        return min(times, default=now)

    def _record(self, visit: _Visit, shard: Shard, event: Event, *, facts: dict[str, object] | None = None, **changes: object) -> Shard:
        became = self.ledger.record(visit.lease, shard, event, self.clock(), facts=facts, **changes)
        log.info(
            "shard.%s shard=%s run=%s state=%s batch_id=%s rows=%d",
            event.value,
            shard.id,
            shard.run_id,
            became.state.value,
            became.batch_id,
            shard.requests,
        )
        return became

    def _provider(self, shard: Shard) -> Provider:
        provider = self.provider(shard.provider)
        if provider.host != shard.host and not shard.unsent:
            raise ProviderRefused(
                f"Shard {shard.id} belongs to {shard.provider} at {shard.host}, which is now configured as {provider.host}. Nothing was sent or asked there. "
                "Restore the base URL until this job run is over, or cancel it there."
            )
        return provider

    def _question(self, visit: _Visit) -> Question:
        try:
            return Question.from_json(visit.files.question.read_bytes())
        except FileNotFoundError:
            raise StagingError(
                f"{visit.files.dir} does not hold this job run's files; they are on the host, or under the KELD_HOME, that submitted it. "
                "Nothing was sent. Use the same staging directory from every worker."
            ) from None

    def _sent(self, run: JobRun, visit: _Visit, shard: Shard) -> Sent:
        own = run.terms.get("prices") or {}
        at = run.created_at
        return Sent(
            nonce=shard.id,
            positions=read_positions(visit.files.shard(shard.id).positions),
            model=f"{shard.provider}:{shard.model}",
            lane=shard.lane,
            rates=_known(rates(shard.provider, shard.model, Lane(shard.lane), at, own), shard),
            standard=rates(shard.provider, shard.model, Lane.STANDARD, at, own),
        )

    def _answers(self, visit: _Visit, shards: Sequence[Shard]) -> list[Path]:
        ordered = [visit.files.shard(shard.id).answers for shard in sorted(shards, key=lambda shard: (shard.round, shard.ordinal))]
        return [path for path in [visit.files.reused, visit.files.unsent, *ordered] if path.exists()]

    def _queue_wait(self, shard: Shard) -> timedelta:
        doublings: int = min(max(shard.attempt - 1, 0), 5)
        return min(self.settings.retry_queue_full * (1 << doublings), timedelta(minutes=30))


def plan_shards(
    files: RunFiles,
    slices: Sequence[Slice],
    asked: NDArray[np.bool_],
    *,
    first: int,
    round_: int,
    like: Shard,
    reckon: Callable[[Slice], Worth],
) -> list[Shard]:
    """Planned shards of a round, their positions on disk already.

    Args:
        asked: N booleans, which rows this round asks.
        like: gives the provider, host, model and lane.
        reckon: gives what a slice costs.
    """
    planned = []
    for n, part in enumerate(slices):
        shard_id, worth = nonce(), reckon(part)
        positions = np.flatnonzero(asked[part.start : part.stop]) + part.start
        with disk_errors(files.dir, "Nothing of this round was sent."):
            write_positions(files.shard(shard_id).positions, positions)
        planned.append(
            Shard(
                id=shard_id,
                run_id=like.run_id,
                ordinal=first + n,
                round=round_,
                state=State.PLANNED,
                provider=like.provider,
                host=like.host,
                model=like.model,
                lane=like.lane,
                requests=part.requests,
                size_bytes=part.size_bytes,
                worst_usd=worth.worst_usd,
                expected_usd=worth.expected_usd,
            )
        )
    return planned


class _Heartbeat:
    """Renews a lease while a long step (an upload, a download) runs; a worker that is frozen does not beat, and loses it."""

    def __init__(self, ledger: Ledger, lease: Lease, clock: Callable[[], datetime]) -> None:
        self._ledger, self._lease, self._clock = ledger, lease, clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"keld-lease-{lease.run_id[:8]}", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._stop.wait(self._ledger.lease_for.total_seconds() / 3):
            try:
                self._ledger.renew(self._lease, self._clock())
            except Exception as error:  # noqa: BLE001  the next write of the step itself finds out, and says so
                log.warning("lease.not_renewed run=%s %s", self._lease.run_id, type(error).__name__)
                return


def _machine() -> str:
    """Where a process number means something: the host and, in containers that share its name, the process namespace."""
    try:
        return f"{socket.gethostname()}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return socket.gethostname()


def _is_dead(owner: str | None) -> bool:
    """Whether a lease's owner was a process of this host that is gone: its lease need not be waited for."""
    host, _, rest = (owner or "").partition(":")
    pid = rest.partition(":")[0]
    if host != _machine() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _key(shard: Shard) -> str:
    """The mark of one create, in the batch's metadata: the shard and the attempt."""
    return f"{shard.id}-{shard.attempt}"


def _endpoint(question: Question) -> str:
    return "/v1/embeddings" if question.output["kind"] == "embedding" else question.endpoint


def _known(found: Rates | None, shard: Shard) -> Rates:
    if found is None:
        raise StagingError(
            f"The rate of {shard.provider}:{shard.model} in the {shard.lane} lane is no longer known; install the genai-prices this was planned with."
        )
    return found


def _first_error(batch: RemoteBatch) -> tuple[str, str]:
    code, message = batch.errors[0] if batch.errors else ("failed", "")
    return code, f"the batch failed: {code} {message}".strip()


def _error_of(batch: RemoteBatch) -> dict[str, str] | None:
    return {"code": batch.errors[0][0], "message": batch.errors[0][1]} if batch.errors else None


def _counts(tally: Tally) -> dict[str, object]:
    return {
        "answered": tally.answered,
        "retryable": tally.retryable,
        "cost_usd": tally.cost_usd,
        "standard_usd": tally.standard_usd,
        "input_tokens": tally.input_tokens,
        "cached_tokens": tally.cached_tokens,
        "output_tokens": tally.output_tokens,
        "outcomes": {str(outcome): count for outcome, count in tally.outcomes.items()},
    }


def _findings(tally: Tally) -> dict[str, object]:
    return {"duplicates": tally.duplicates, "foreign": tally.foreign, "unreadable": tally.unreadable}
