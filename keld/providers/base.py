"""Base: the data types between the runner and a provider: batches, outcomes of creates and requests, limits.

Below `provider` and the runner.  Plain data, the same for every provider; nothing here makes a call.  `RemoteBatch` is a struct: a list has ten thousand.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

import msgspec

from keld.price import Lane
from keld.providers.pack import Pack
from keld.shard import Limits

NO_STATUS = "?"  # the `native` of a batch whose description has none


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What a kind of provider can do, and its limits.

    Args:
        limits: of one batch; the limit of a line holds in the fast lanes, too.
        lanes: those it sells; contains `batch` only if the kind has batches.
        list_page: how many batches are asked for on one page of the list.
        marks_batches: a batch carries our key from the start (metadata, a label, a name); else only the custom_ids in its results show whose it is.
        fences: if the input is removed, a create that arrives later makes no batch.
        newest_first: the documentation of the official host says that its list begins with the newest batch.
        pages_by_id: a page of the list can begin after the id of any batch; else only at the token of the page before.
        window: the time after which the provider expires a batch; None: never.
        replays: the same create, with the same key, may be sent again within this time and makes no second batch; None: it would make one.
        finds: the host looks up our mark itself (`Batches.find`), so a batch without the mark is never ours.
        least_requests: a batch with fewer is refused.
        keeps_on_cancel, keeps_on_expiry: the answers that a batch had before it was cancelled, or expired, can be fetched; if not, they are paid
            and lost.
        repeats_cost: a request that is sent twice may be paid twice; False for a server of the user's own, where a lost reply is just asked again.
        plain_ids: a custom_id is letters and digits only.
        by_goodput: the fast lane has no rate limits, and its concurrency is steered by what is answered a second (`keld/realtime/goodput.py`).
        most_at_once: the most requests of a fast lane in flight together.
        pack: the most that one request holds, where the dialect can hold many rows.
    """

    limits: Limits
    lanes: frozenset[Lane]
    list_page: int = 100
    marks_batches: bool = True
    fences: bool = False
    newest_first: bool = False
    pages_by_id: bool = True
    window: timedelta | None = None
    replays: timedelta | None = None
    finds: bool = False
    least_requests: int = 1
    keeps_on_cancel: bool = True
    keeps_on_expiry: bool = True
    repeats_cost: bool = True
    plain_ids: bool = False
    by_goodput: bool = False
    most_at_once: int = 256
    pack: Pack = field(default_factory=Pack)


class BatchState(StrEnum):
    """The state of a batch, the same for all providers; `RemoteBatch.native` is the provider's own word."""

    IN_PROGRESS = "in_progress"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self not in (BatchState.IN_PROGRESS, BatchState.CANCELLING)


class RemoteBatch(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A batch as the provider describes it.

    Args:
        native: the provider's own word for its state; `NO_STATUS`: it gave none.
    """

    id: str
    state: BatchState
    native: str
    created_at: datetime
    key: str | None = None  # our mark, if the provider keeps one
    input_ref: str | None = None  # the upload that it was made from, if the provider says so
    requests: int | None = None
    done: int | None = None
    succeeded: int | None = None  # those that the provider says it answered, and so bills
    errors: tuple[tuple[str, str], ...] = ()  # (code, message) of the batch itself, not of rows; a message may quote a prompt
    result_refs: tuple[str, ...] = ()  # files with answers first
    queue_full: str | None = None  # the error code, if it failed only because too much was enqueued: the file is not at fault

    @property
    def unpaid(self) -> bool:
        """True if it failed only because the account has no money left or is closed: the file is not at fault, and a person must act."""
        return self.state is BatchState.FAILED and any(code in NO_ACCESS for code, _ in self.errors)


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a model can be asked a question.

    Args:
        obstacle: why it cannot, for people; None: it can.
        note: what a person should know about how it is asked.
        not_in: the lanes in which this question cannot be asked, with the reason for people.
    """

    obstacle: str | None = None
    note: str | None = None
    not_in: Mapping[Lane, str] = msgspec.field(default_factory=dict)


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """One create: what is to be sent, and the mark that it carries."""

    key: str
    path: Path  # the shard's file
    input_ref: str | None
    model: str
    endpoint: str
    requests: int


class Created(msgspec.Struct, frozen=True):
    batch: RemoteBatch


class Refused(msgspec.Struct, frozen=True):
    """The create was refused.

    If something was sent this is no proof: a proxy may have answered so although the provider created the batch.

    Args:
        status: None: nothing was sent, so there is no reply.
        permanent: the same file will never be accepted.
        own: the reply has the shape of the provider's own errors; else it is the page of a proxy or a gateway.
        access: the key, the project or the billing is refused, for every row; a person must act.
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


class QueueFull(msgspec.Struct, frozen=True):
    """Refused for now by a rate limit or a queue limit; `own` as in `Refused`."""

    retry_after_s: float | None
    own: bool = True


class OutcomeUnknown(msgspec.Struct, frozen=True):
    """It may or may not have been created."""

    reason: str


CreateOutcome = Created | Refused | QueueFull | OutcomeUnknown


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """How much of one of the account's rate limits is left, as a reply said."""

    limit: float
    left: float
    reset_s: float  # seconds until all of it is available again


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """How busy an engine is, as it says itself."""

    running: float  # requests that it works on
    waiting: float  # requests in its queue
    cache_use: float | None = None  # of its key-value cache, 0..1; None: it does not say


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a fast lane that was answered (and paid) or permanently refused (and not paid); `line` is its line of the journal."""

    line: bytes
    answered: bool
    status: int
    code: str = ""
    quotas: Mapping[str, Quota] = msgspec.field(default_factory=dict)  # of `requests` and `tokens`, as far as the reply says


class NotNow(msgspec.Struct, frozen=True, kw_only=True):
    """Refused for now: nothing was done and nothing is paid."""

    why: str
    retry_after_s: float | None = None
    quotas: Mapping[str, Quota] = msgspec.field(default_factory=dict)


class InDoubt(msgspec.Struct, frozen=True, kw_only=True):
    """No readable reply: the request may have been answered and paid; `line` says so in the journal."""

    line: bytes
    why: str


class Denied(msgspec.Struct, frozen=True, kw_only=True):
    """The key, the project or the billing was refused, or the address redirects: this holds for every row, and nothing was done.

    Args:
        why: the whole error for people, if the host was not even asked, e.g. because there is no token.
    """

    status: int
    code: str
    why: str = ""


SendOutcome = Settled | NotNow | InDoubt | Denied

# Codes and types that mean: no money, no such account, no permission, as providers and gateways spell them.
# developers.openai.com/api/docs/guides/error-codes, platform.claude.com/docs/en/api/errors, docs.litellm.ai (budgets), 29 Nov 2026.
# An obstacle, for people; `whose`: the kind.  Bedrock and Vertex sell embeddings, which Keld does not ask for yet.
NO_EMBEDDINGS = (
    "{whose} makes no embeddings with Keld; name a model of kind gemini, openai, azure or mistral, or of a server of your own, "
    "e.g. models=['gemini:gemini-embedding-001']"
)
NO_ACCESS = frozenset({
    "insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "account_deactivated", "access_terminated",
    "invalid_api_key", "invalid_organization", "organization_restricted", "organization_disabled",
    "authentication_error", "permission_error", "billing_error", "credit_balance_too_low", "insufficient_balance",
    "insufficient_credits", "payment_required", "budget_exceeded", "usage_limit_reached",
})  # fmt: skip

Sender = Callable[[str, bytes], Awaitable[SendOutcome]]
"""A custom_id (for the line; it is not sent) and a request's body -> the outcome of one HTTP attempt."""
