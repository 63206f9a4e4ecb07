"""Status: a job run as people and orchestrators see it, frozen at one instant.

Beside the road, above `ledger`; what every verb of `Keld` returns.  Holds ids, counts, states and money; never a prompt or an answer.
Structs, not dataclasses: a look at ten thousand job runs makes as many, and a struct of forty fields is made in a third of the time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any

import msgspec

from keld.errors import KeldError, StagingError, type_named
from keld.ledger import JobRun, RefusalReason, Shard, ShardError, ShardFault, Unchanged
from keld.outcome import Outcome
from keld.providers.kinds import batch_page
from keld.providers.word import access_advice, reply_words
from keld.state import AT_PROVIDER, TERMINAL, RunState, State

_WAITING = frozenset((*AT_PROVIDER, State.UNKNOWN, State.DEFERRED, State.ENDED))
_NOTHING = Decimal(0)
_UNSEEN = timedelta(minutes=10)  # a worker that is busy with a large partition does not look meanwhile


class Batch(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One shard, as people see it: the provider's batch and its progress."""

    shard: int
    round: int
    state: State
    provider: str
    host: str
    model: str
    lane: str
    batch_id: str | None
    requests: int
    done: int | None
    ended: str | None
    error: str | None
    refused: bool  # its create was refused, but Keld still looks for the batch before it sends again
    not_before: datetime | None
    submitted_at: datetime | None
    ended_at: datetime | None
    cost_usd: Decimal | None
    cache_ttl: str | None  # of the cache mark on the part that its rows share
    input_tokens: int
    cached_tokens: int
    cache_saved_usd: Decimal
    obstacle: str | None  # what stands in its way and what Keld does next, for people

    @property
    def cache_hit_rate(self) -> float | None:
        """As of `Status`."""
        return _hit_rate(self.cached_tokens, self.input_tokens)

    @property
    def is_open(self) -> bool:
        """True if the provider has not ended it, or does not have it yet."""
        return self.state not in (State.ENDED, *TERMINAL)

    @property
    def page(self) -> str | None:
        """The URL of the batch in its provider's dashboard; None if there is no such page."""
        return batch_page(self.host, self.batch_id) if self.batch_id else None


class Status(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The state of a job run.

    `saved_usd` compares what was paid with what the same tokens cost in the standard lane; `turnaround_s` is from submission to
    the last answer.  `expected_usd` is the plan's cost of the whole job run; `estimated_usd` is the cost that was expected, when they were sent,
    of the rows that are billed by now, and `estimate_error` how far that was off.  `cache_saved_usd` is what the provider's prompt cache saved;
    below 0 if writing it cost more than reading it saved.  `escalates_at` is when unanswered rows move to a faster lane,
    as known at the last look; None: no deadline requires it.  `removed_at` is when `keld gc` removed its files.  `problem` is the error
    of the last look, and `problem_permanent` says that no further try helps (see `KeldError`).
    `owner` declares the job, `source` is where its table was read from; None for job runs of older versions.  `outdated` names the parts of the
    declaration that have changed since it was sent: it is finished as it was asked, and the next submit, when it is over, asks what is declared now.
    """

    id: str
    namespace: str
    job: str
    partition: str
    generation: int
    state: RunState
    rows: int
    answered: int
    failed: int
    quarantined: int
    reused: int
    unaskable: int
    requests: int
    model: str | None
    lane: str | None
    expected_usd: Decimal | None
    estimated_usd: Decimal
    ceiling_usd: Decimal | None
    reserved_usd: Decimal
    cost_usd: Decimal
    standard_usd: Decimal
    input_tokens: int
    cached_tokens: int
    cache_saved_usd: Decimal
    output_tokens: int
    as_of: datetime
    created_at: datetime
    finished_at: datetime | None
    deadline_at: datetime | None
    deadline_basis: str
    next_check_at: datetime | None
    escalates_at: datetime | None
    removed_at: datetime | None
    outcomes: dict[str, int]
    tags: dict[str, str]
    owner: str | None
    source: str | None
    outdated: str | None
    sink: str | None
    output_uri: str | None
    problem: str | None
    problem_kind: str | None
    problem_permanent: bool
    batches: tuple[Batch, ...]

    @property
    def over(self) -> bool:
        """True if nothing is left to do."""
        return self.state in (RunState.FINISHED, RunState.CANCELLED)

    @property
    def sent(self) -> bool:
        """True if something was sent to a provider, or may have been."""
        return any(batch.batch_id or batch.state in (State.SUBMITTING, State.UNKNOWN, State.QUARANTINED) for batch in self.batches)

    @property
    def accepted(self) -> bool:
        """As `sent`, without creates that were refused, although Keld still looks for their batches."""
        doubtful = (State.SUBMITTING, State.UNKNOWN, State.QUARANTINED)
        return any(batch.batch_id or (batch.state in doubtful and not batch.refused) for batch in self.batches)

    @property
    def waiting(self) -> bool:
        """True if there is nothing to do but wait: every shard is at the provider, deferred, or has its outcome."""
        if self.state not in (RunState.OPEN, RunState.CANCELLING) or any(map(self._is_due, self.batches)):
            return False
        return not _WAITING.isdisjoint([batch.state for batch in self.batches])

    @property
    def ready(self) -> bool:
        """True if heavy work is due: results to fetch, a round to plan, an output to write, a shard to send."""
        return not self.over and not self.waiting

    @property
    def wants_worker(self) -> bool:
        """True if a worker has something to do: heavy work, a result to hand over, or a step whose staged files only workers have."""
        return self.over or self.ready or self.problem_type is StagingError

    @property
    def stage(self) -> str:
        """What it is waiting for, or how it ended, in a few words for people."""
        if self.over:
            return self.state.value
        if self.problem_kind is not None:
            return f"waiting: {self.problem_kind}"
        if self.state is RunState.CANCELLING:
            return "being cancelled at the provider"
        if self.wants_worker:
            return "waiting for a worker" if self.sent else "not sent yet"
        if not any(batch.state in AT_PROVIDER for batch in self.batches):
            return "waiting for the provider's queue"
        return "first row at the provider, ahead of the others" if self.behind else "at the provider"

    @property
    def late(self) -> bool:
        """True if the deadline has passed with rows still open, or had passed when the last row was settled."""
        return self.deadline_at is not None and (self.finished_at or self.as_of) > self.deadline_at

    @property
    def askable(self) -> int:
        """The rows that a model could be asked."""
        return self.rows - self.unaskable

    @property
    def behind(self) -> int:
        """The rows that are not sent yet, since one goes ahead of them; see `Job.probe`."""
        return 0 if self.over else max(0, self.requests - sum(batch.requests for batch in self.batches))

    @property
    def settled(self) -> int:
        """The rows that no batch is asked for any more, as far as the providers say: answered there, or never to be asked."""
        return self.rows - self.behind - sum(batch.requests - (batch.done or 0) for batch in self.batches if batch.is_open)

    @property
    def completion_rate(self) -> float:
        """The share of the askable rows that are answered, 0 to 1; 1 if there is none to ask."""
        return self.answered / self.askable if self.askable else 1.0

    @property
    def invalid(self) -> int:
        """The rows whose answer was paid for, but breaks the schema or was cut off."""
        return self.outcomes.get(Outcome.INVALID, 0)

    @property
    def valid_rate(self) -> float:
        """The share of the answers that fit the schema, 0 to 1; 1 if there is no answer."""
        return self.answered / (self.answered + self.invalid) if self.answered + self.invalid else 1.0

    @property
    def page(self) -> str | None:
        """The URL of the first batch that has a page in its provider's dashboard; None if there is none."""
        return next((batch.page for batch in self.batches if batch.page), None)

    @property
    def summary(self) -> str:
        """The state of the job run in one line, for a log."""
        count = f"{len(self.batches):,} batch{'es' if len(self.batches) != 1 else ''}"
        return (
            f"{self.job}[{self.partition}] {self.state.value}: {self.answered:,} of {self.rows:,} rows answered, "
            f"{count}, ${self.cost_usd:.4f}{'' if self.over else ' so far'} (job run {self.id})."
            f"{' Its deadline has passed.' if self.late else ''}"
        )

    @property
    def unseen_since(self) -> datetime | None:
        """When a look was due that nobody has made, if that is long ago and a batch is in progress: nobody may wait for it any more; else None."""
        if self.over or self.next_check_at is None or self.next_check_at > self.as_of - _UNSEEN:
            return None
        return self.next_check_at if any(batch.state is State.IN_PROGRESS for batch in self.batches) else None

    @property
    def obstacle(self) -> str | None:
        """What stands in the way of its batches and what Keld does next: the problem of the last look, else what a batch is held up by; None: nothing."""
        return self.problem or next((batch.obstacle for batch in self.batches if batch.obstacle), None)

    @property
    def maybe_running(self) -> tuple[Batch, ...]:
        """The quarantined batches: they were sent, or may have been, and may still run and be paid for."""
        return tuple(batch for batch in self.batches if batch.state is State.QUARANTINED)

    @property
    def problem_type(self) -> type[KeldError] | None:
        """The class of the problem, e.g. `AccessRefused`; None if there is none, or if a later version recorded a class unknown here."""
        return None if self.problem_kind is None else type_named(self.problem_kind)

    @property
    def saved_usd(self) -> Decimal:
        return self.standard_usd - self.cost_usd

    @property
    def cache_hit_rate(self) -> float | None:
        """The share of the input that was read from the provider's cache, 0 to 1; None before anything was read."""
        return _hit_rate(self.cached_tokens, self.input_tokens)

    @property
    def estimate_error(self) -> float | None:
        """The share by which the billed rows cost more (above 0) or less than expected; None before anything was billed."""
        paid = sum((batch.cost_usd or Decimal(0) for batch in self.batches), Decimal(0))
        return round(float(paid / self.estimated_usd - 1), 4) if paid and self.estimated_usd else None

    @property
    def turnaround_s(self) -> float | None:
        ended = [batch.ended_at for batch in self.batches if batch.ended_at]
        sent = [batch.submitted_at for batch in self.batches if batch.submitted_at]
        return (max(ended) - min(sent)).total_seconds() if ended and sent else None

    @property
    def deadline_met(self) -> bool | None:
        """True if the job run was over before its deadline; None without a deadline, or before it is over."""
        if self.deadline_at is None:
            return None
        return self.finished_at <= self.deadline_at if self.finished_at else None

    def _is_due(self, batch: Batch) -> bool:
        if batch.state is State.IN_PROGRESS and batch.lane == "batch":
            return False
        if batch.state in (State.UNKNOWN, State.DEFERRED, State.IN_PROGRESS, State.ENDED):  # IN_PROGRESS in a fast lane: a worker sends it
            return batch.not_before is None or batch.not_before <= self.as_of
        return batch.state in (State.PLANNED, State.STAGED, State.SUBMITTING)

    def facts(self) -> dict[str, Any]:
        """The facts that people see of a job run, by name: counts, money, time, ids; Python values, None if unknown.

        For an orchestrator's metadata: its package chooses names and shows each value as its UI does.  Never a prompt, a row or an answer.
        """
        models = Counter[str]()
        for batch in self.batches:
            models[f"{batch.provider}:{batch.model} {batch.lane}"] += batch.requests
        counts = ("rows", "settled", "requests", "answered", "failed", "quarantined", "reused", "unaskable")
        usd = ("cost_usd", "saved_usd", "ceiling_usd")
        tokens = ("input_tokens", "cached_tokens", "output_tokens")
        same = ("job", "partition", "model", "lane", "deadline_basis", "deadline_met", "late", "turnaround_s", "outdated", "finished_at")
        return {name: getattr(self, name) for name in (*counts, *usd, *tokens, *same)} | {
            "job_run": self.id,
            "state": self.state,
            "outcomes": dict(self.outcomes),
            "expected_cost_usd": self.expected_usd,
            "submitted_at": self.created_at,
            "deadline": self.deadline_at,
            "escalates_at": self.escalates_at,
            "stage": self.stage,
            "models": dict(models),
            "batch_ids": [batch.batch_id for batch in self.batches if batch.batch_id],
            "batch_url": self.page,
        }

    def to_json(self) -> dict[str, Any]:
        """The same, as JSON values: money as decimal text, instants as ISO 8601."""
        derived = {
            "saved_usd": self.saved_usd, "estimate_error": self.estimate_error, "turnaround_s": self.turnaround_s,
            "deadline_met": self.deadline_met, "over": self.over, "cache_hit_rate": self.cache_hit_rate,
        }  # fmt: skip
        return {name: to_json_value(value) for name, value in (msgspec.structs.asdict(self) | derived).items()}

    def __repr__(self) -> str:
        return f"<Status {self.job}[{self.partition}] {self.state.value} {self.answered:,}/{self.rows:,} answered ${self.cost_usd:.4f}>"


def status_of(run: JobRun, shards: Sequence[Shard], as_of: datetime, noted: Unchanged | None = None) -> Status:
    """The status of a job run and its shards at `as_of`; `noted`: what a look has recorded since they were read."""
    problem = run.problem or {}
    progress: Mapping[str, int | None] = {} if noted is None else noted.progress
    return Status(
        id=run.id,
        namespace=run.namespace,
        job=run.job,
        partition=run.partition,
        generation=run.generation,
        state=run.state,
        rows=run.rows,
        answered=run.answered,
        failed=run.failed,
        quarantined=run.quarantined,
        reused=run.reused,
        unaskable=run.unaskable,
        requests=_requests(run, shards),
        model=run.plan.get("model"),
        lane=run.plan.get("lane"),
        expected_usd=Decimal(run.plan["expected_usd"]) if run.plan.get("expected_usd") is not None else None,
        estimated_usd=sum([_expected_of_billed(shard) for shard in shards if shard.outcomes], _NOTHING),
        ceiling_usd=run.ceiling_usd,
        reserved_usd=run.reserved_usd,
        cost_usd=run.spent_usd,
        standard_usd=run.standard_usd,
        input_tokens=sum([shard.input_tokens for shard in shards]),
        cached_tokens=sum([shard.cached_tokens for shard in shards]),
        cache_saved_usd=sum([shard.cache_saved_usd for shard in shards], _NOTHING),
        output_tokens=sum([shard.output_tokens for shard in shards]),
        as_of=as_of,
        created_at=run.created_at,
        finished_at=run.finished_at,
        deadline_at=run.deadline_at,
        deadline_basis=run.deadline_basis,
        next_check_at=(noted or run).next_check_at,
        escalates_at=(noted or run).escalates_at,
        removed_at=run.removed_at,
        outcomes=run.outcomes or _so_far(shards),
        tags=run.tags,
        owner=run.owner,
        source=run.source,
        outdated=run.outdated,
        sink=run.sink,
        output_uri=(run.output or {}).get("uri"),
        problem=problem.get("message"),
        problem_kind=problem.get("kind"),
        problem_permanent=problem.get("permanent", False),
        batches=tuple([_batch(shard, progress.get(shard.id, shard.done)) for shard in shards]),
    )


def _requests(run: JobRun, shards: Sequence[Shard]) -> int:
    """The rows that are asked, whatever the number of rounds."""
    first = [shard for shard in shards if shard.round == 0]
    return int(run.plan["requests"]) if any(shard.ahead for shard in first) else sum([shard.requests for shard in first])


def _expected_of_billed(shard: Shard) -> Decimal:
    if (billed := shard.billed) == shard.requests:
        return shard.expected_usd
    return round(shard.expected_usd * billed / shard.requests, 12).normalize() if billed else _NOTHING


def _so_far(shards: Sequence[Shard]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for shard in shards:
        for outcome, count in (shard.outcomes or {}).items():
            counts[outcome] = counts.get(outcome, 0) + count
    return counts


def _batch(shard: Shard, done: int | None) -> Batch:
    return Batch(
        shard=shard.ordinal,
        round=shard.round,
        state=shard.state,
        provider=shard.provider,
        host=shard.host,
        model=shard.model,
        lane=shard.lane,
        batch_id=shard.batch_id,
        requests=shard.requests,
        done=done,
        ended=shard.ended,
        not_before=shard.not_before,
        error=None if shard.error is None else shard.error.message or shard.error.code,
        refused=shard.error is not None and shard.error.refused is not None,
        submitted_at=shard.submitted_at,
        ended_at=shard.ended_at,
        cost_usd=shard.cost_usd,
        cache_ttl=shard.cache_ttl,
        input_tokens=shard.input_tokens,
        cached_tokens=shard.cached_tokens,
        cache_saved_usd=shard.cache_saved_usd,
        obstacle=_obstacle(shard),
    )


def _obstacle(shard: Shard) -> str | None:
    """What stands in a shard's way and what Keld does next; None: nothing."""
    if shard.error is None and shard.state is not State.UNKNOWN:
        return None
    whom, error = f"{shard.provider} at {shard.host}", shard.error or ShardError(code="")
    at = "soon" if shard.not_before is None else f"at {shard.not_before:%Y-%m-%d %H:%M:%S} UTC"
    match shard.state:
        case State.UNKNOWN if error.refused is None:
            said = f"It is not known whether {whom} made the batch of {shard.requests:,} rows: {error.message or 'there was no reply'}."
        case State.UNKNOWN:
            whose = "" if error.own else f", in a format that is not {shard.provider}'s own: a proxy's or a gateway's"
            said = f"{whom} refused to create the batch of {shard.requests:,} rows: {reply_words(error.status, error.code)}{whose}."
            if error.refused is RefusalReason.ACCESS:
                said += f" {access_advice(error.code, shard.provider)}"
            elif error.refused is RefusalReason.ELSEWHERE:
                said += f" Check the base URL of {shard.provider}, and what stands between it and this machine."
        case State.DEFERRED if error.fault is None and error.code:
            return f"{whom} does not take the batch of {shard.requests:,} rows yet ({error.code}). It is sent again {at}."
        case State.IN_PROGRESS if error.fault is ShardFault.NOT_ANSWERED:
            return f"{whom} does not answer requests of the {shard.lane} lane: {error.message}. The rows without an answer are asked again {at}."
        case _:
            return None
    return f"{said} Its list of batches is read {at}; only if the batch is not there, the rows are sent again."


def _hit_rate(cached: int, tokens: int) -> float | None:
    return round(cached / tokens, 4) if tokens else None


def to_json_value(value: Any) -> Any:
    """A value as JSON: money as decimal text, instants as ISO 8601, spans in seconds, enums as their words."""
    match value:
        case Enum():
            return value.value
        case Decimal():
            return format(value, "f")
        case date():  # an instant is one, too
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case dict():
            return {str(key): to_json_value(item) for key, item in value.items()}
        case list() | tuple():
            return [to_json_value(item) for item in value]
        case msgspec.Struct():
            return to_json_value(msgspec.structs.asdict(value))
        case _ if is_dataclass(value) and not isinstance(value, type):
            return to_json_value(asdict(value))
        case _:
            return value
