"""Context: one worker's lease on one job run, with its files and what every step needs to act and to record.

Below the steps (`submit`, `find_lost`, `observe`, `collect`, `finish`), which all take one.  Everything is recorded through `record`, under
the lease; if a worker has lost the lease, its write is refused and it stops.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from keld import answer, snapshot
from keld.answer import Sent
from keld.cache import Ttl
from keld.cascade import unsatisfied
from keld.errors import InvalidJob, KeldError, ProviderRefused, StagingError
from keld.ledger import JobRun, Lease, Ledger, Orphan, Rival, Shard
from keld.outcome import Outcome
from keld.price import Lane, Rates
from keld.pricing import rates
from keld.providers.base import RemoteBatch
from keld.providers.encoder import Encoder, Reader
from keld.providers.provider import Provider
from keld.request import Question
from keld.runner.overlap import Overlap
from keld.runner.settings import Settings
from keld.schema import OutputSchema
from keld.staging import RunFiles, Staging, disk_errors, read_positions
from keld.state import SENT, Event, State

if TYPE_CHECKING:
    from keld.runner.sibling import Inventory

log = logging.getLogger("keld")
log.addHandler(logging.NullHandler())  # a library logs only where its user asks for it

SKEW = timedelta(minutes=5)  # our clock against the provider's
LAG = timedelta(minutes=10)  # how long a provider may not know a batch that it just made, or not name the results of one that ended


Account = tuple[str, str]  # provider, host
Listed = Mapping[Account, Mapping[str, RemoteBatch]]  # the batches of an account, by id


class FastLanes(NamedTuple):
    """What is known of a model's fast lanes: answers a second, if measured, and the job runs that use them."""

    standard: float | None
    flex: float | None
    rivals: list[Rival]


class Environment(msgspec.Struct, frozen=True):
    """What all run contexts of one environment share."""

    ledger: Ledger
    staging: Staging
    provider: Callable[[str], Provider]
    clock: Callable[[], datetime]
    settings: Settings
    lanes: dict[str, FastLanes] | None = None  # by model: read once for all the job runs of one look; None: read each time
    flex: dict[Any, str | None] | None = None  # what `flex_of` has found in one look, likewise
    leads: dict[Any, timedelta] | None = None  # how long before a deadline rows must move on, likewise
    listed: Listed | None = None  # what the lists of accounts have just shown; None: they are to be read
    inventories: Mapping[Account, Inventory] = msgspec.field(
        default_factory=dict
    )  # of the accounts with creates that are not confirmed yet
    staged: dict[str, tuple[int, int, int]] = msgspec.field(
        default_factory=dict
    )  # by shard, the input file that was written here and not uploaded yet
    at_once: dict[tuple[str, str], int] = msgspec.field(
        default_factory=dict
    )  # (host, model) -> the requests at once of the latest realtime run

    def rates(self, name: str, lane: Lane, at: datetime, own: Mapping[str, Mapping[str, Any]] | None) -> Rates | None:
        """What a model, `account:model`, costs in a lane on the day of `at`; None if the price is unknown.

        For an account that is no longer configured here, the price list with the account's name is used.

        Args:
            own: the job's `prices`.
        """
        account, _, model = name.partition(":")
        try:
            return self.provider(account).rates(model, lane, at, own)
        except (InvalidJob, ProviderRefused):  # as a job run is opened, and (`configured`) as one is under way
            return rates(account, model, lane, at, own)


@dataclass(slots=True)
class RunContext:
    """One worker's lease on one job run, and the problem that stopped it, if any."""

    environment: Environment
    lease: Lease
    files: RunFiles
    until: float  # time.monotonic() after which no new step begins
    cancelling: bool = False
    problem: KeldError | None = None
    blocked: set[str] = field(default_factory=set)  # providers that could not be reached under this lease
    failed: set[tuple[str, State]] = field(
        default_factory=set
    )  # (provider, state): the step that this state requires failed under this lease
    overlap: Overlap = field(default_factory=Overlap)
    stuck: dict[str, str] = field(default_factory=dict)  # shards that were tried under this lease without progress, and why
    begun: bool = False  # a step was begun under this lease: the first one is, even if little time is left
    passed_over: bool = False  # there was no time to look at its batches
    alive_until: float = field(
        default_factory=lambda: time.monotonic() + 60
    )  # by time.monotonic(): until then, no sign of progress is needed
    renewed_at: float = field(default_factory=time.monotonic)  # when the lease was last renewed, by time.monotonic()

    @property
    def ledger(self) -> Ledger:
        return self.environment.ledger

    @property
    def settings(self) -> Settings:
        return self.environment.settings

    def is_stale(self) -> bool:
        """True if this worker was paused for so long that another one may hold the lease by now."""
        return time.monotonic() - self.renewed_at > self.ledger.leases.lease_for.total_seconds() * 0.8

    def now(self) -> datetime:
        return self.environment.clock()

    def pulse(self, silent_s: float = 0.0) -> None:
        """Notes that the step makes progress; the next sign of it may take `silent_s` and `Settings.silent_for`."""
        self.alive_until = time.monotonic() + silent_s + self.settings.silent_for.total_seconds()

    def record(
        self, shard: Shard, event: Event, *, facts: dict[str, object] | None = None, orphans: Sequence[Orphan] = (), **changes: Any
    ) -> Shard:
        """The shard after `event`, with `changes` to its fields; `orphans`, which were found with it, are recorded too.

        Raises:
            LeaseLost: another worker holds the job run, or has moved the shard on.
        """
        self.pulse()
        with self.files.naming() as objects:
            became = self.ledger.record(self.lease, shard, event, self.now(), facts=facts, orphans=orphans, objects=objects, **changes)
        log.info(
            "shard.%s shard=%s run=%s state=%s batch_id=%s rows=%d",
            event.value, shard.id, shard.run_id, became.state.value, became.batch_id, shard.requests,
        )  # fmt: skip
        return became

    def provider(self, shard: Shard) -> Provider:
        """The shard's provider.

        Raises:
            ProviderRefused: its account now has another host than the one the shard was sent to.
        """
        try:
            provider = self.environment.provider(shard.provider)
        except ProviderRefused:
            raise ProviderRefused(
                f"Shard {shard.id} belongs to the account {shard.provider!r} at {shard.host}, which is not configured here. Nothing was sent or asked. "
                "Give Keld(accounts={...}) one of that name until this job run is over.",
                account=shard.provider,
            ) from None
        if provider.host != shard.host and not shard.unsent:
            raise ProviderRefused(
                f"Shard {shard.id} belongs to {shard.provider} at {shard.host}, which is now configured as {provider.host}. Nothing was sent or asked there. "
                "Restore the base URL until this job run is over, or cancel it there.",
                account=shard.provider,
            )
        return provider

    def window(self, shard: Shard) -> timedelta | None:
        """The time after which a batch of the shard's provider expires; None: it is not known."""
        try:
            return self.provider(shard).traits.window
        except KeldError:
            return None

    def question(self) -> Question:
        """The question that all rows share.

        Raises:
            StagingError: the job run's files are not here.
        """
        return question_of(self.files)

    def encoder(self, shard: Shard) -> Encoder:
        """The encoder of the shard's requests, as planned."""
        cache = None if shard.cache_ttl is None else Ttl(shard.cache_ttl)
        return self.provider(shard).encoder(self.question(), shard.model, shard.id, cache)

    def reader(self, shard: Shard) -> Reader:
        """The reader of the shard's answers."""
        return self.provider(shard).reader(self.question(), shard.model)

    def output(self) -> OutputSchema:
        return OutputSchema.from_json(self.question().output)

    def give_up(self, shard: Shard, event: Event, outcome: Outcome, why: str, *, retryable: bool = False, **changes: Any) -> Shard:
        """The shard after all its rows got one outcome, which is on disk before it is recorded."""
        self.ledger.leases.renew(
            self.lease, self.now()
        )  # else another worker may have sent them meanwhile, and that file has their answers
        sent = sent_of(self.environment, self.ledger.run(shard.run_id), self.files, shard)
        output = self.output()
        answers = self.files.shard(shard.id).answers
        with disk_errors(self.files.dir, "Nothing more was sent."), answer.AnswerSink(answers, output, sent.positions, 0) as sink:
            sink.add(answer.same(sent.positions.tolist(), outcome, why, sent, output, retryable=retryable))
        self.files.keep(answers)
        return self.record(shard, event, outcomes={outcome.value: shard.requests}, facts={"why": outcome.value}, **changes)

    def is_behind_over_ceiling(self, shard: Shard) -> bool:
        """True if more valuable rows of the same round did not fit under the ceiling: they come first for what is left."""
        return self.ledger.dropped_before(shard, Outcome.OVER_CEILING.value)

    def over_ceiling(self, shard: Shard) -> Shard:
        """A shard that was not sent.  Its rows are planned again if one of them would fit, or if others in flight may cost less than reserved."""
        run, shards = self.ledger.run(shard.run_id), self.ledger.shards(shard.run_id)
        fits_one = run.ceiling_usd is not None and shard.worst_usd / shard.requests <= run.ceiling_usd - run.spent_usd - run.reserved_usd
        again = fits_one or any(other.state in SENT for other in shards)
        why = "not asked: the ceiling was reached"
        return self.give_up(shard, Event.DROPPED, Outcome.OVER_CEILING, why, retryable=again)


def configured(provider: Callable[[str], Provider], name: str) -> Provider:
    """The provider of an account, for a job run that is under way.

    Raises:
        ProviderRefused: the account is not configured here.  Another environment with the same ledger may have it.
    """
    try:
        return provider(name)
    except InvalidJob:
        raise ProviderRefused(
            f"The models of this job run name the account {name!r}, which is not configured here. What was sent goes on; what needs that account "
            "waits. Give Keld(accounts={...}) one of that name until this job run is over.",
            account=name,
        ) from None


def answers_of(files: RunFiles, shards: Sequence[Shard]) -> list[Path]:
    """The answers files of a job run that exist, those of earlier rounds first."""
    ordered = [files.shard(shard.id).answers for shard in sorted(shards, key=lambda shard: (shard.round, shard.ordinal))]
    return [path for path in [*files.reused, files.unsent, files.stopped, *ordered] if path.exists()]


def question_of(files: RunFiles) -> Question:
    """The question that all rows of a job run share.

    Raises:
        StagingError: its files are not here.
    """
    try:
        return Question.from_json(files.question.read_bytes())
    except FileNotFoundError:
        raise StagingError(
            f"{files.stored or files.dir} does not hold this job run's files; they are on the host, or under the KELD_HOME or the KELD_STAGING, that "
            "submitted it. No call was made. Use the same staging directory, or bucket, from every worker."
        ) from None


def sent_of(environment: Environment, run: JobRun, files: RunFiles, shard: Shard) -> Sent:
    """What was sent for a shard: its rows, its model and its rates."""
    own, accept, name = run.terms.prices, run.terms.accept, f"{shard.provider}:{shard.model}"
    positions = read_positions(files.shard(shard.id).positions)
    return Sent(
        nonce=shard.id,
        positions=positions,
        weights=None if shard.lines is None or not len(positions) else snapshot.sizes_at(files.snapshot, positions),
        model=name,
        lane=shard.lane,
        unsatisfied=partial(unsatisfied, serialized=accept) if accept and name != run.terms.models[-1] else None,
        rates=_known(environment.rates(name, Lane(shard.lane), run.created_at, own), shard),
        standard=environment.rates(name, Lane.STANDARD, run.created_at, own),
    )


def _known(found: Rates | None, shard: Shard) -> Rates:
    if found is None:
        raise StagingError(
            f"The rate of {shard.provider}:{shard.model} in the {shard.lane} lane is no longer known; install the genai-prices this was planned with."
        )
    return found
