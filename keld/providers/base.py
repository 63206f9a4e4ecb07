"""Base: the nouns between the runner and a provider: batches, what came of a create or of a request, limits.

Below `provider` and the runner, above nothing but the core.  Plain data, the same for every provider; nothing here calls anybody.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

from keld.price import Lane
from keld.shard import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What a kind of provider can do, and how far.

    Args:
        limits: of one batch; those of a line hold in the fast lanes, too.
        lanes: those it sells; without `batch` where it has no batches.
        list_page: batches on a page of the list.
        marks_batches: a batch carries our key from the start (metadata, a label, a name); else only its custom_ids do, seen when it has ended.
        fences: removing the input keeps a create that is still on its way from making a batch.
        newest_first: the official host says that its list begins with the youngest batch.
        pages_by_id: the list can be read on from the id of any batch; else only from the token of the page before.
        window: after which a batch expires by the provider's own word; None: never.
    """

    limits: Limits
    lanes: frozenset[Lane]
    list_page: int = 100
    marks_batches: bool = True
    fences: bool = False
    newest_first: bool = False
    pages_by_id: bool = True
    window: timedelta | None = None


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
    queue_full: str | None = None  # the code by which it says that it failed only because too much was enqueued: no fault of the file

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
