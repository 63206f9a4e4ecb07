"""Record: what is read from the ledger's tables, frozen as it was when it was read.

Below the rest of the ledger, beside `table`.  Structs of msgspec: a look reads tens of thousands of them, and a frozen dataclass of forty fields takes
three times as long to make.  They hold no cycles, so that the garbage collector need not follow them.  The two of which there are so many take
their fields by position, too, in the order of the class: by name, to make one takes ten times as long.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec

from keld.errors import LedgerError
from keld.job import RunTerms
from keld.ledger.fault import ShardError, ShardFault
from keld.state import RunState, State

CONFIRMED = "confirmed"  # the outcome of a create that was accepted, and is known to have made nothing else
_NOTHING = Decimal(0)
_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"


class JobRun(msgspec.Struct, frozen=True, gc=False):
    """A job over one partition: the unit of identity, deadline and ceiling; as it was when it was read."""

    id: str
    namespace: str
    job: str
    partition: str
    generation: int
    state: RunState
    fingerprint: str
    input_digest: str
    rows: int
    reused: int
    unaskable: int
    terms: RunTerms
    tags: dict[str, str]
    plan: dict[str, Any]
    ceiling_usd: Decimal | None
    reserved_usd: Decimal
    spent_usd: Decimal
    standard_usd: Decimal
    answered: int
    failed: int
    quarantined: int
    round: int
    deadline_at: datetime | None
    deadline_basis: str
    sink: str | None
    output: dict[str, Any] | None
    outcomes: dict[str, int] | None
    problem: dict[str, Any] | None
    created_at: datetime
    finished_at: datetime | None
    removed_at: datetime | None  # its files, by `keld gc`
    next_check_at: datetime | None
    escalates_at: datetime | None
    lease_owner: str | None
    lease_epoch: int
    lease_until: datetime | None
    owner: str | None = None  # who declares the job; this and the next two are None in what versions before 2 made
    source: str | None = None  # where the table was read from, if that has a name
    declared: dict[str, str] | None = None  # a digest of each part of the question
    outdated: str | None = None  # what has changed in the declaration since it was sent, in words

    @property
    def over(self) -> bool:
        """True if nothing is left to do."""
        return self.state in (RunState.FINISHED, RunState.CANCELLED)

    def __repr__(self) -> str:
        return f"<JobRun {self.job}[{self.partition}] {self.state} {self.answered:,}/{self.rows:,} rows ${self.spent_usd:.4f}>"


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """`holder` waits for a job run; `epoch` grows each time that it attaches."""

    run_id: str
    holder: str
    epoch: int


class Shard(msgspec.Struct, frozen=True, gc=False):
    """The slice of a job run's requests that becomes one batch, or one realtime run; as it was when it was read.  `id` is its nonce, too."""

    id: str
    run_id: str
    ordinal: int
    round: int
    state: State
    provider: str
    host: str
    model: str
    lane: str
    requests: int
    size_bytes: int
    worst_usd: Decimal
    expected_usd: Decimal
    cache_ttl: str | None = None  # of the cache mark on the text that its rows share
    attempt: int = 0
    sha256: str | None = None
    input_ref: str | None = None
    batch_id: str | None = None
    ended: str | None = None
    error: ShardError | None = None
    done: int | None = None
    looks: int = 0
    not_before: datetime | None = None
    intent_at: datetime | None = None
    submitted_at: datetime | None = None
    ended_at: datetime | None = None
    collected_at: datetime | None = None
    answered: int = 0
    retryable: int = 0
    cost_usd: Decimal | None = None
    standard_usd: Decimal | None = None
    uncached_usd: Decimal | None = None  # what it would have cost without any cache
    input_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    outcomes: dict[str, int] | None = None
    lines: int | None = None  # requests of its batch, if one may hold many rows; None: one for each row
    cache_prefix: str | None = None  # a digest of the marked text; this and the next two are None in what versions before 7 made
    cache_warm: bool | None = None  # when it was planned, the cache had that text
    ahead: bool | None = None  # its rows are asked before all others, which wait for its end

    @property
    def sent_lines(self) -> int:
        """The requests of its batch, as its provider counts them."""
        return self.requests if self.lines is None else self.lines

    def rows_of(self, lines: int | None) -> int | None:
        """About how many rows so many requests of its batch hold; None: unknown."""
        return lines if lines is None or self.lines is None else min(self.requests, lines * self.requests // max(self.lines, 1))

    @property
    def fault(self) -> ShardFault | None:
        """The fault that Keld itself found; None: there is none, or it is the provider's."""
        return None if self.error is None else self.error.fault

    @property
    def billed(self) -> int:
        """The number of rows that were processed, and so paid, whatever the answer was."""
        return billed(self.outcomes)

    @property
    def cache_saved_usd(self) -> Decimal:
        """The money that the cache saved; below 0 if the writes cost more than the reads saved."""
        return _NOTHING if self.uncached_usd is None or self.cost_usd is None else self.uncached_usd - self.cost_usd

    def require_batch_id(self) -> str:
        """The id of its batch.

        Raises:
            LedgerError: the ledger has none.
        """
        if self.batch_id is None:
            raise LedgerError(
                f"The ledger has no batch of shard {self.id} at {self.provider} ({self.host}), though it is {self.state}. Nothing was sent or "
                "asked. `keld reconcile` looks at the provider for what the ledger does not have."
            )
        return self.batch_id

    @property
    def unsent(self) -> bool:
        """True if nothing of it, not even its input file, was ever sent to a provider."""
        return self.attempt == 0 and self.input_ref is None

    def __repr__(self) -> str:
        count = f"{self.done:,}/{self.requests:,}" if self.done is not None else f"{self.requests:,}"
        return f"<Shard {self.ordinal} {self.provider} {self.state} {self.batch_id or '-'} {count}>"


class EventRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An event: what happened to a job run, or to one of its shards."""

    id: int  # grows with each event
    at: datetime
    run_id: str
    shard_id: str | None
    kind: str  # the word of an `Event` or a `RunEvent`
    was: str | None
    became: str | None
    epoch: int
    facts: dict[str, Any]


class Intent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One create that was sent, or was about to be sent."""

    shard_id: str
    attempt: int
    at: datetime
    requests: int
    after_batch: str | None  # the provider's youngest batch before it, where batches carry no mark
    outcome: str
    batch_id: str | None
    input_ref: str | None = None  # the upload that it named


class Orphan(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A batch that a shard has in addition to its own: its create took effect after the shard was sent again, or its rows were hedged.

    It is cancelled, and what it cost is counted; its answers are not used.
    """

    host: str
    batch_id: str
    provider: str
    run_id: str
    shard_id: str
    requests: int
    worst_usd: Decimal
    found_at: datetime
    settled_at: datetime | None = None
    cost_usd: Decimal | None = None
    lost: int = 0  # rows that its results lack
    doubtful_usd: Decimal = Decimal(0)  # what these rows may have cost: it stays reserved


class Candidate(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A batch without a mark that may be a second one of a shard's create: its worst case is reserved until its results show whose it is."""

    host: str
    batch_id: str
    provider: str
    run_id: str
    shard_id: str
    requests: int
    worst_usd: Decimal
    found_at: datetime
    settled_at: datetime | None = None


def nonce() -> str:
    """10 random characters of a-z0-9 (52 bits): a shard's id, and the mark of its batch and its custom_ids."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(10))


def billed(outcomes: Mapping[str, int] | None) -> int:
    """The number of rows of these outcomes that were processed, and so paid, whatever the answer was."""
    return sum((outcomes or {}).get(outcome, 0) for outcome in ("answered", "invalid", "refused"))


def values_of(one: JobRun | Shard | Intent | Orphan | Candidate) -> dict[str, Any]:
    """The value of each column of its table."""
    return msgspec.structs.asdict(one)
