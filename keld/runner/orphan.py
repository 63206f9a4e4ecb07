"""Orphan: batches that a provider has and the ledger does not.

A step of the runner, outside of any one job run.  A create can take effect after the last look for it (a proxy that delivers late, a list
that lags for longer than we wait).  While that is possible, and when a person runs `keld reconcile`, the provider's list is compared with the
ledger: a batch whose shard has none is adopted; one whose shard was sent again is cancelled, and its cost is counted as paid twice.  A batch
without a mark, or with one that this ledger never gave, belongs to somebody else and is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar, assert_never

from keld import answer
from keld.answer import Tally
from keld.errors import KeldError, ProviderRefused, ProviderUnreachable
from keld.failpoint import failpoint
from keld.ledger import Candidate, Orphan, Shard, ShardFault
from keld.outcome import Outcome
from keld.price import Lane
from keld.providers.base import RemoteBatch
from keld.providers.provider import Provider
from keld.request import shard_named
from keld.runner.collect import most_bytes, unreached
from keld.runner.context import SKEW, Environment, RunContext, log, question_of, sent_of
from keld.runner.find_lost import is_of, orphan_of
from keld.runner.finding import Finding, Verdict
from keld.runner.sibling import may_be_own
from keld.schema import OutputSchema
from keld.staging import disk_errors
from keld.state import Event, RunState, State

Enter = Callable[[str], AbstractContextManager[RunContext | None]]
_Held = TypeVar("_Held", Orphan, Shard, Candidate)
_ADOPTS = (State.STAGED, State.DEFERRED, State.QUARANTINED, State.REJECTED)


@dataclass(slots=True)
class Sweep:
    """One sweep over one account.

    Args:
        enter: gives the lease on a job run, for an adoption; None where another worker holds it.
        suspects: where batches have no marks, only batches of these sizes are examined; None: all.
        foreign: batches whose results showed that they are not ours; kept from sweep to sweep.
        read_results: results may be read, for their owner and their cost; not in a light `poll`.
    """

    environment: Environment
    provider: Provider
    enter: Enter
    foreign: set[str]
    suspects: frozenset[int] | None = None
    read_results: bool = True
    listed: Mapping[str, RemoteBatch] = field(default_factory=dict)  # by id
    uploaders: Mapping[str, str] = field(
        default_factory=dict
    )  # the shards by the uploads of their creates, of listed batches without a mark

    def find(self, since: datetime) -> Iterator[Finding]:
        """The batches that the provider has and the ledger does not, the youngest first; changes nothing."""
        if Lane.BATCH not in self.provider.traits.lanes:
            return
        self.listed = {batch.id: batch for batch in self.provider.batches(since - SKEW)}
        accounts = self.environment.ledger.accounts
        known, shown = accounts.known_batches(self.listed), set()
        self.uploaders = accounts.shards_of_uploads(
            {batch.input_ref for batch in self.listed.values() if batch.key is None and batch.input_ref}
        )
        for batch in self.listed.values():
            if batch.id not in self.foreign and batch.id not in known:
                found = self._judge(batch)
                if found is not None:
                    shown.add(batch.id)
                    yield found
        yield from self._known_but_unsettled()
        yield from (found for found in self._candidates() if found.batch_id not in shown or found.verdict is Verdict.RELEASE)

    def act(self, finding: Finding) -> None:
        """Adopts, cancels or settles, as the finding says."""
        match finding.verdict:
            case Verdict.ADOPT:
                self._adopt(finding)
            case Verdict.CANCEL | Verdict.SETTLE:
                self._cancel_or_settle(finding)
            case Verdict.RELEASE:
                self.environment.ledger.candidates.release(finding.host, finding.batch_id, self.environment.clock())
            case Verdict.SEARCHED | Verdict.UNPROVEN | Verdict.ANOTHERS:
                pass

    # -- judging ----------------------------------------------------------------------------------------------

    def _judge(self, batch: RemoteBatch) -> Finding | None:
        """The finding on a batch; None: it is not ours, or is known."""
        if self.provider.traits.marks_batches:
            shard_id = self.uploaders.get(batch.input_ref or "") if batch.key is None else shard_named(batch.key)
        elif not batch.state.ended and self.suspects is not None and batch.requests not in self.suspects:
            return None
        elif not batch.state.ended or not self.read_results:
            return self._finding(batch, None, Verdict.UNPROVEN)
        else:
            try:
                shard_id = self._owner(batch)
            except (ProviderRefused, ProviderUnreachable):
                return self._finding(batch, None, Verdict.UNPROVEN)  # its results cannot be read now; the sweep goes on with the others
        if shard_id is None:
            return None
        shard = self.environment.ledger.shard(shard_id)
        if shard is None:
            return self._finding(batch, None, Verdict.ANOTHERS)
        if self.environment.ledger.accounts.knows_batch(batch.id):
            return None  # its create was recorded since the first check; so it is checked again after its shard was read
        verdict, copies = self._verdict(shard, batch), self._copies(shard, batch)
        if copies is None:
            return self._finding(batch, shard, verdict if verdict is Verdict.ADOPT else Verdict.UNPROVEN)
        if (own := self._own_of(shard, copies)) == batch.id:
            return None
        if copies and (own is None or not batch.state.ended):
            return self._finding(batch, shard, Verdict.UNPROVEN)  # to cancel it may be to cancel our own
        return self._finding(batch, shard, verdict)

    def _verdict(self, shard: Shard, batch: RemoteBatch) -> Verdict:
        if shard.state in (State.SUBMITTING, State.UNKNOWN):
            return Verdict.SEARCHED
        # Dropped by the user after it was sent: its answers are paid, and collected as from any cancelled batch.
        dropped = shard.state is State.DROPPED and shard.attempt > 0 and shard.outcomes is None
        failed = shard.state is State.REJECTED and shard.batch_id is not None  # its own batch was rejected, and so was this one
        if ((shard.state in _ADOPTS and not failed) or dropped) and self._is_latest(shard):
            return Verdict.ADOPT
        return Verdict.SETTLE if batch.state.ended else Verdict.CANCEL

    def _copies(self, shard: Shard, batch: RemoteBatch) -> list[RemoteBatch] | None:
        """The listed batches of which one may be the shard's own under another id, by id; none if this batch is not among them.

        None: the host shows the shard's own neither in its list nor by its id now, so that any other may be it.
        """
        if shard.batch_id is None or shard.batch_id in self.listed:
            return []
        own = self.provider.get(shard.batch_id)
        if own is None:
            return None
        if not may_be_own(batch, own, self.listed):
            return []
        found = {one.id: one for one in (*self.listed.values(), batch) if may_be_own(one, own, self.listed)}
        return [found[batch_id] for batch_id in sorted(found)]

    def _own_of(self, shard: Shard, copies: Sequence[RemoteBatch]) -> str | None:
        """The id under which the host lists the shard's own batch: the first copy that is the shard's; None: there is none, or it is not known yet.

        They were made at the same time, of the same requests, and cost the same: which of them got the host's reply does not matter.
        """
        for copy in copies:
            if self.provider.traits.marks_batches:
                if is_of(copy, shard) is not False:
                    return copy.id
            elif not copy.state.ended or not self.read_results:
                return None
            elif self._owner(copy) == shard.id:
                return copy.id
        return None

    def _is_latest(self, shard: Shard) -> bool:
        """True if its job run is the youngest of its partition: an older one must not overwrite the younger one's output."""
        run = self.environment.ledger.run(shard.run_id)
        latest = self.environment.ledger.catalog.latest(run.namespace, run.job, run.partition)
        return latest is not None and latest.id == run.id

    def _owner(self, batch: RemoteBatch) -> str | None:
        """The shard that a batch's results name; None: they are not from this ledger's shards.

        Raises:
            ProviderUnreachable: they cannot be read.
        """
        custom_ids = self.provider.sample(batch)
        for custom_id in custom_ids:
            shard_id = shard_named(custom_id)
            if shard_id is not None and self.environment.ledger.shard(shard_id) is not None:
                return shard_id
        if custom_ids:
            self.foreign.add(batch.id)
        return None

    def _known_but_unsettled(self) -> Iterator[Finding]:
        """Orphans that were found before, and quarantined batches that have ended after all."""
        ledger, name, host = self.environment.ledger, self.provider.name, self.provider.host
        for orphan, batch in self._asked_for(ledger.orphans.unsettled(name, host)):
            shard = ledger.shard(orphan.shard_id)
            if batch is not None and shard is not None:
                yield self._finding(batch, shard, Verdict.SETTLE if batch.state.ended else Verdict.CANCEL)
        for shard, batch in self._asked_for([shard for shard in ledger.accounts.quarantined(name, host) if shard.batch_id is not None]):
            if batch is None or not self._is_latest(shard):
                continue
            # A batch that still runs, since its cancel failed, is adopted too, and then cancelled.
            if batch.state.ended or ledger.run(shard.run_id).state is RunState.CANCELLED:
                found = self._finding(batch, shard, Verdict.ADOPT)
                unread = found.cost_is_worst or found.lost == shard.requests
                yield replace(found, verdict=Verdict.UNPROVEN) if unread and _was_unreadable(shard) else found

    def _asked_for(self, held: Iterable[_Held]) -> Iterator[tuple[_Held, RemoteBatch | None]]:
        """Each of these with its batch; None: the provider has no such batch.  Those that the provider refuses to show are left out this time."""
        for one in held:
            try:
                batch = self.provider.get(one.require_batch_id() if isinstance(one, Shard) else one.batch_id)
            except ProviderRefused as problem:
                log.warning("sweep.refused batch_id=%s status=%s", one.batch_id, problem.status)
                continue
            yield one, batch

    def _candidates(self) -> Iterator[Finding]:
        """The candidates (possible second batches of creates) of which it is now known whose they are."""
        ledger, settings = self.environment.ledger, self.environment.settings
        window = self.provider.traits.window or timedelta(0)
        for candidate, batch in self._asked_for(
            ledger.candidates.unsettled(self.provider.name, self.provider.host) if self.read_results else ()
        ):
            if batch is None or ledger.accounts.knows_batch(batch.id):
                shard = None
            elif self.environment.clock() - candidate.found_at > window + settings.overdue_after + settings.abandon_after:
                log.warning("candidate.never_identified shard=%s batch_id=%s", candidate.shard_id, candidate.batch_id)
                shard = None
            elif not batch.state.ended:
                continue
            else:
                try:
                    owner = self._owner(batch)
                except (ProviderRefused, ProviderUnreachable):
                    continue
                if owner is None and batch.id not in self.foreign:
                    continue  # its results are not there yet
                shard = None if owner is None else ledger.shard(owner)
            copies = [] if shard is None or batch is None else self._copies(shard, batch)
            own = None if shard is None or copies is None else self._own_of(shard, copies)
            if copies is None or (copies and own is None):
                continue  # not known yet
            if shard is not None and batch is not None and own != batch.id:
                yield self._finding(batch, shard, self._verdict(shard, batch))
            else:
                yield self._released(candidate, batch)

    def _released(self, candidate: Candidate, batch: RemoteBatch | None) -> Finding:
        run, shard = self.environment.ledger.run(candidate.run_id), self.environment.ledger.shard(candidate.shard_id)
        return Finding(
            provider=candidate.provider, host=candidate.host, batch_id=candidate.batch_id, native=batch.native if batch else "?",
            created_at=batch.created_at if batch else candidate.found_at, requests=candidate.requests, verdict=Verdict.RELEASE, job=run.job,
            partition=run.partition, shard=shard.ordinal if shard else None, job_run=run.id, shard_id=candidate.shard_id,
        )  # fmt: skip

    def _finding(self, batch: RemoteBatch, shard: Shard | None, verdict: Verdict) -> Finding:
        run = None if shard is None else self.environment.ledger.run(shard.run_id)
        cost, is_worst, lost = (None if shard is None else shard.worst_usd), True, 0
        if shard is not None and batch.state.ended and self.read_results:
            with suppress(KeldError):
                found = self._tally(shard, batch)
                cost, is_worst, lost = found.cost_usd, False, found.outcomes[Outcome.LOST] + found.unmetered
        return Finding(
            provider=self.provider.name, host=self.provider.host, batch_id=batch.id, native=batch.native, created_at=batch.created_at,
            requests=batch.requests, verdict=verdict, job=run.job if run else None, partition=run.partition if run else None,
            shard=shard.ordinal if shard else None, job_run=shard.run_id if shard else None, shard_id=shard.id if shard else None,
            cost_usd=cost, cost_is_worst=is_worst, lost=lost,
        )  # fmt: skip

    def _tally(self, shard: Shard, batch: RemoteBatch) -> Tally:
        """The cost of a batch that has ended, and the number of rows that its results lack."""
        run, files = self.environment.ledger.run(shard.run_id), self.environment.staging.run(shard.run_id)
        question = question_of(files)
        output = OutputSchema.from_json(question.output)
        with disk_errors(files.dir, "Nothing was sent."), TemporaryDirectory(prefix=".stray-", dir=files.dir) as directory:
            folder = Path(directory)
            results = self.provider.download(batch, lambda n: folder / f"result-{n}.jsonl", most_bytes(question, shard))
            read = self.provider.reader(question, shard.model).results
            sent, into = sent_of(self.environment, run, files, shard), folder / "answers.parquet"
            tally = answer.judge_results(results, read, sent, output, into)
            # Not every host names the rows that a cancelled batch did not reach: these are not paid.
            missing = unreached(shard, batch, tally)
            return tally if missing is None else answer.judge_results(results, read, sent, output, into, missing)

    # -- acting -----------------------------------------------------------------------------------------------

    def _adopt(self, finding: Finding) -> None:
        assert finding.job_run is not None and finding.shard_id is not None, "only a batch of a known shard is adopted"
        self.environment.ledger.control.reopen(finding.job_run, self.environment.clock())
        with self.enter(finding.job_run) as context:
            shard = self.environment.ledger.shard(finding.shard_id)
            if context is None or shard is None or shard.state not in (*_ADOPTS, State.DROPPED):
                return  # another worker has the lease; the next sweep checks again
            context.record(
                shard, Event.ADOPTED, batch_id=finding.batch_id, submitted_at=min(finding.created_at, context.now()), ended=None, error=None,
                outcomes=None, not_before=None, facts={"swept": True},
            )  # fmt: skip

    def _cancel_or_settle(self, finding: Finding) -> None:
        """Records the orphan first, so that it is known even if this worker dies; then cancels it, or counts its cost."""
        shard = None if finding.shard_id is None else self.environment.ledger.shard(finding.shard_id)
        assert shard is not None, "only a batch of a known shard is stopped"
        self.environment.ledger.orphans.add(orphan_of(shard, finding.batch_id, self.environment.clock()))
        if finding.verdict is Verdict.CANCEL:
            log.warning("orphan.cancelled shard=%s batch_id=%s", shard.id, finding.batch_id)
            failpoint("sweep.cancel.send")
            self.provider.cancel(finding.batch_id)
            failpoint("sweep.cancel.received")
        elif not finding.cost_is_worst and finding.cost_usd is not None:
            self.environment.ledger.orphans.settle(finding.host, finding.batch_id, finding.cost_usd, self.environment.clock(), finding.lost)


def _was_unreadable(shard: Shard) -> bool:
    """True if it was given up because its results could not be read: it is adopted again only when they can be."""
    match shard.fault:
        case ShardFault.RESULTS_UNREADABLE | ShardFault.FOREIGN_RESULTS:
            return True
        case (
            None | ShardFault.WAITS_ITS_TURN | ShardFault.NO_CAPACITY | ShardFault.SAME_FAULT | ShardFault.IN_DOUBT | ShardFault.NO_LAST_WORD
            | ShardFault.ANSWERS_LOST | ShardFault.UNMETERED | ShardFault.REPLY_LOST | ShardFault.NOT_ANSWERED
            | ShardFault.CREATE_UNACCOUNTED_FOR
        ):  # fmt: skip
            return False
        case _:
            assert_never(shard.fault)
