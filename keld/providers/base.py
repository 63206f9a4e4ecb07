"""Provider: what the runner asks of one, whoever it is.

Beside the road, below `runner`.  A provider reports, it never decides: no retry, no clock, no state, no base class with behaviour.
Official SDKs are the clients; a create is one HTTP attempt.  Adding a provider is one file beside this one and its line in `ACCOUNTS`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from keld.answer import Reply
from keld.cache import Caching, Ttl
from keld.price import Lane
from keld.providers.client import check_url
from keld.request import Question
from keld.shard import Limits

if TYPE_CHECKING:
    from keld.providers.page import Listing


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Where a provider is and where its key is found; never the key itself.

    Args:
        kind: whose wire it speaks, `openai` or `anthropic`.
        base_url: None means the SDK's own way (`OPENAI_BASE_URL`, `ANTHROPIC_BASE_URL`, else the official host).
        api_key_env: None means the SDK's own way (`OPENAI_API_KEY`, `ANTHROPIC_API_KEY`, ...).
        api_key: gives the key, where it is in no environment variable but in a vault, or an orchestrator's connection; "" where it has none.
        keyless: why it may have no key, in words for people, where more than an environment variable could give one.

    Raises:
        InvalidJob: `base_url` cannot be one.
    """

    kind: str
    base_url: str | None = None
    api_key_env: str | None = None
    api_key: Callable[[], str] | None = field(default=None, repr=False)
    keyless: str | None = None

    def __post_init__(self) -> None:
        if self.base_url is not None:
            check_url(self.base_url, f"The base URL of an account of kind {self.kind}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a provider can do and how far."""

    limits: Limits
    list_page: int
    marks_batches: bool  # a batch carries our key from the start (metadata); else only its custom_ids do, seen when it ended
    fences: bool  # deleting the input file keeps a create that is still on its way from landing
    window: timedelta | None  # after which a batch expires by the provider's own word; None: never
    lanes: frozenset[Lane]  # those it sells


class BatchState(StrEnum):
    """A batch's life, folded; `native` beside it keeps the provider's own word."""

    IN_PROGRESS = "in_progress"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self not in (BatchState.IN_PROGRESS, BatchState.CANCELLING)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteBatch:
    """A batch as the provider described it."""

    id: str
    state: BatchState
    native: str
    created_at: datetime
    key: str | None = None  # our mark, where the provider keeps one
    input_ref: str | None = None  # the upload it was made of, where it says so
    requests: int | None = None
    done: int | None = None
    succeeded: int | None = None  # those it says it answered, and so bills
    errors: tuple[tuple[str, str], ...] = ()  # (code, message) of the batch itself, not of rows; a message may quote a prompt
    result_refs: tuple[str, ...] = ()  # those with answers first

    @property
    def queue_full(self) -> bool:
        """It failed only because too much was enqueued: back-pressure, no fault of the file."""
        return self.state is BatchState.FAILED and any(code == "token_limit_exceeded" for code, _ in self.errors)

    @property
    def unpaid(self) -> bool:
        """It failed only because the account has no money left, or is closed: no fault of the file, and a person mends it."""
        return self.state is BatchState.FAILED and any(code in NO_ACCESS for code, _ in self.errors)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Whether a model can be asked a question: why it cannot, or what is to be known about how it is asked; in words, for people."""

    obstacle: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One create: what is to be sent, and the mark it carries."""

    key: str
    path: Path  # the shard's file
    input_ref: str | None
    model: str
    endpoint: str
    requests: int


@dataclass(frozen=True, slots=True)
class Created:
    batch: RemoteBatch


@dataclass(frozen=True, slots=True)
class Refused:
    """A no.  Once something was sent it is only somebody's word: whoever stands in between may have had the provider create it all the same.

    Args:
        status: None where no reply came, since nothing was sent.
        permanent: the same file will never be taken.
        own: in the provider's own shape of an error; else a page of a proxy or a gateway.
        access: the key, the project or the money is refused, for every row; a person mends it.
    """

    status: int | None
    code: str
    message: str
    permanent: bool
    own: bool = True
    access: bool = False

    @property
    def sent(self) -> bool:
        return self.status is not None


@dataclass(frozen=True, slots=True)
class QueueFull:
    """A no for now: rate or queue limit; `own` as of `Refused`."""

    retry_after_s: float | None
    own: bool = True


@dataclass(frozen=True, slots=True)
class OutcomeUnknown:
    """It may or may not have been created."""

    reason: str


CreateOutcome = Created | Refused | QueueFull | OutcomeUnknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """How full one of the account's rate limits is, as a reply told it."""

    limit: float
    left: float
    reset_s: float  # until all of it is there again


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """One fast request, answered (and paid) or refused for good (and not); `line` is what a batch's result file would say of it."""

    line: bytes
    answered: bool
    status: int
    code: str = ""
    quotas: Mapping[str, Quota] = field(default_factory=dict)  # of `requests` and `tokens`, as far as the provider tells


@dataclass(frozen=True, slots=True, kw_only=True)
class NotNow:
    """A definite no for now: nothing was done and nothing is paid."""

    why: str
    retry_after_s: float | None = None
    quotas: Mapping[str, Quota] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class InDoubt:
    """No readable reply: it may have been answered and paid; `line` says so."""

    line: bytes
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Denied:
    """The key, the project or the billing was refused, or the address leads elsewhere: it holds for every row, and nothing was done."""

    status: int
    code: str


SendOutcome = Settled | NotNow | InDoubt | Denied
# Codes and types that say: no money, no such account, no right to it, in the words of the services and of the gateways before them.
# developers.openai.com/api/docs/guides/error-codes, platform.claude.com/docs/en/api/errors, docs.litellm.ai (budgets), 29 Nov 2026.
NO_ACCESS = frozenset({
    "insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "account_deactivated", "access_terminated",
    "invalid_api_key", "invalid_organization", "organization_restricted", "organization_disabled",
    "authentication_error", "permission_error", "billing_error", "credit_balance_too_low", "insufficient_balance",
    "insufficient_credits", "payment_required", "budget_exceeded", "usage_limit_reached",
})  # fmt: skip

Sender = Callable[[str, bytes], Awaitable[SendOutcome]]
"""A custom_id (for the line; it is not sent) and a request's body -> what came of one HTTP attempt."""


class Encoder(Protocol):
    """Makes request lines of one shard from prompt fragments."""

    @property
    def path(self) -> str:
        """Where a single one of its requests goes, from `/v1` on."""
        ...

    def body(self, fragment: bytes, lane: Lane) -> bytes:
        """What a line asks, as the body of one request in a fast lane.

        Raises:
            InvalidJob: the provider does not sell such requests in that lane.
        """
        ...

    @property
    def overhead_bytes(self) -> int:
        """The most that a line adds to its fragment."""
        ...

    def line(self, position: int, fragment: bytes) -> bytes: ...

    def file(self, lines: Iterator[bytes]) -> Iterator[bytes]:
        """The bytes of the shard's file around its lines."""
        ...


class Provider(Protocol):
    """One account at one provider."""

    name: str
    host: str  # scheme://host[:port], for people and for the ledger
    capabilities: Capabilities

    def ready(self) -> None:
        """Passes if the account has what it takes to be called; calls nobody.

        Raises:
            AccessRefused: its key is not set.
        """
        ...

    def fit(self, question: Question, model: str) -> Fit:
        """Whether that model can be asked this question at all; calls nobody."""
        ...

    def caching(self, model: str) -> Caching:
        """How it caches the beginning of that model's prompts."""
        ...

    def encoder(self, question: Question, model: str, nonce: str, cache: Ttl | None = None) -> Encoder:
        """What makes the request lines of one shard; with `cache`, what its rows share is marked, to be kept for so long."""
        ...

    def upload(self, path: Path, key: str) -> str | None:
        """A reference to the uploaded input; None where the input goes with the create."""
        ...

    def create(self, submission: Submission) -> CreateOutcome: ...

    def sender(self, path: str, timeout_s: float, most: int) -> AbstractAsyncContextManager[Sender]:
        """A client of the running event loop, for at most `most` requests at a time; closed where it was opened."""
        ...

    def doubtful(self, custom_id: str, why: str) -> bytes:
        """A result line that says: sent, and nobody knows what came of it."""
        ...

    def get(self, batch_id: str) -> RemoteBatch | None:
        """None: the provider says it has no such batch (which may be its lag)."""
        ...

    def newest(self) -> str | None:
        """The id of the youngest batch of the list's first page: any create from now on is no older, whatever either clock says."""
        ...

    def batches(self, created_after: datetime, *, until: str | None = None, whole: bool = False, behind: str | None = None) -> Listing:
        """Batches, those that were made after an instant, or after the batch `until`, among them; see `Listing` for what its end proves.

        Args:
            behind: the id of a batch: only what the list has behind it, which proves nothing.
        """
        ...

    def cancel(self, batch_id: str) -> None:
        """Asks; "already ended" is success."""
        ...

    def sample(self, batch: RemoteBatch) -> list[str]:
        """Some custom_ids of a batch that has ended, from the beginning of its results."""
        ...

    def download(self, batch: RemoteBatch, into: Callable[[int], Path], most_bytes: int, *, anew: bool = False) -> list[Path]:
        """All result files, those with the answers first, whole and durable, at `into(0)`, `into(1)`, ...; see `download` for `most_bytes` and `anew`."""
        ...

    def read(self, block: bytes) -> list[Reply]:
        """Replies of a block of whole result lines; a line without a readable id gives none."""
        ...

    def delete_input(self, input_ref: str) -> None:
        """Removes an uploaded input; "not there" is success, a reply that does not say so is none: what is sent again relies upon it."""
        ...

    def close(self) -> None: ...
