"""Part: the parts of a kind of provider, and the preset that names one of each.

Below `provider`, above the dialects and transports that fit these shapes.  A kind of provider is data: a `Preset`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx2

from keld.answer import Reply
from keld.cache import Caching, Ttl
from keld.http import Patience
from keld.price import Lane
from keld.providers.account import Account
from keld.providers.base import Fit, Quota, RemoteBatch, Submission, Traits
from keld.providers.download import Piece, ResultFile
from keld.providers.fault import Codes
from keld.providers.page import Page
from keld.request import Question
from keld.vocabulary import Count


class BodyTemplate(Protocol):
    """The body of a request, but for one row's own words."""

    @property
    def size_bytes(self) -> int:
        """The most that it adds to a prompt fragment."""
        ...

    def fill(self, fragment: bytes) -> bytes:
        """The body for a prompt fragment (see `request`), one line of JSON."""
        ...


class Dialect(Protocol):
    """One family of models: what a request's body says, and what an answer's says.  Pure."""

    @property
    def body_type(self) -> type[Any]:
        """The msgspec struct that an answer's body is read as; takes an error's body, too."""
        ...

    @property
    def own_params(self) -> frozenset[str]:
        """What `Job.params` may not name, since Keld says it itself: the model, the prompt, how many answers and how long."""
        ...

    @property
    def cache_fields(self) -> frozenset[str]:
        """The fields with which a user marks by himself what is to be cached."""
        ...

    def path(self, model: str) -> str:
        """Where a request for the model goes, from the version on, e.g. `/v1/messages`."""
        ...

    def fit(self, question: Question, model: str) -> Fit:
        """Whether that model can be asked this question at all."""
        ...

    def template(self, question: Question, model: str, cache: Ttl | None) -> BodyTemplate:
        """The body of all rows; with `cache`, what they share is marked, to be kept for so long.

        Raises:
            InvalidJob: the model cannot be asked for such an output.
        """
        ...

    def in_lane(self, body: bytes, lane: Lane) -> bytes:
        """The body of one request in a fast lane.

        Raises:
            InvalidJob: such requests are not sold in that lane.
        """
        ...

    def judge(self, custom_id: str, status: int, body: Any) -> Reply:
        """What a body of `body_type` says to the request of that id; `status` is HTTP's, 0 where it is not known."""
        ...

    def caching(self, model: str) -> Caching:
        """How the beginning of that model's prompts is cached."""
        ...

    def counter(self, model: str) -> Count | None:
        """A function from a text to its number of tokens; None where the model's vocabulary is not public, or not installed."""
        ...


class Envelope(Protocol):
    """One batch file: how a line wraps a body and an id, and how a result line says which.  Pure."""

    def overhead_bytes(self, path: str) -> int:
        """The most that a line adds to a body."""
        ...

    def wrap(self, custom_id: str, path: str, body: bytes) -> bytes: ...

    def around(self, lines: Iterator[bytes]) -> Iterator[bytes]:
        """The bytes of the shard's file around its lines."""
        ...

    def ids(self, block: bytes) -> list[str]:
        """The custom_ids of a block of whole result lines."""
        ...

    def read(self, block: bytes, dialect: Dialect) -> list[Reply]:
        """Replies of a block of whole result lines; a line without a readable id gives none."""
        ...


class Batches(Protocol):
    """One account's batches.  Every call is bounded in time (`keld.http`), made once, and raises `Fault` where it does not succeed."""

    def stage(self, path: Path, key: str) -> str | None:
        """A reference to the uploaded input; None where the input goes with the create."""
        ...

    def create(self, submission: Submission) -> RemoteBatch:
        """The one dangerous call: one HTTP attempt."""
        ...

    def get(self, batch_id: str) -> RemoteBatch | None:
        """None: the provider says it has no such batch."""
        ...

    def page(self, after: str | None, size: int) -> Page:
        """A page of the list of batches, behind `Page.after` of the one before."""
        ...

    def cancel(self, batch_id: str) -> None:
        """Asks; "already ended" is success."""
        ...

    def results(self, batch: RemoteBatch) -> Sequence[ResultFile]:
        """All result files or objects, those with the answers first; calls somebody only where the batch does not name them."""
        ...

    def size_bytes(self, file: ResultFile) -> int | None:
        """What the provider says that a result file weighs; None where it does not say."""
        ...

    def fetch(self, batch: RemoteBatch, file: ResultFile, start: int, validator: str) -> AbstractContextManager[Piece]:
        """A result file from byte `start` on, if it still has `validator` ("": any); else from its beginning."""
        ...

    def unstage(self, input_ref: str) -> None:
        """Removes an uploaded input; "not there" is success, a reply that does not say so is none: what is sent again relies upon it."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """What a transport needs to speak for one account."""

    account: Account
    base_url: str
    key: Callable[[], str]  # read at the first call; raises AccessRefused where there is none
    patience: Patience


def bearer(connection: Connection) -> dict[str, str]:
    """The key as most hosts take it; nothing where the account has none."""
    key = connection.key()
    return {"authorization": f"Bearer {key}"} if key else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One kind of provider.

    Args:
        kind: its name, as `Account.kind`.
        dialect: (question, model) -> the dialect in which it is asked; raises `InvalidJob` where there is none.
        dialects: all that `dialect` may give.
        traits: what it can do, and how far.
        envelope, batches: how its batches are written and spoken to; None where it has none.
        auth: the headers of a request of a fast lane, with the key in them.
        base_url: the official host; None: the account must name one.
        base_url_env, api_key_env: the environment variables that give an account's address and key, where it does not name others;
            None: nothing is read, and no key is needed.
        base_holds: what a base URL holds already of a dialect's path, e.g. `/v1`.
        quotas: what a reply's headers say of the account's rate limits.
        codes: what (status, code) means, where that is not what it means everywhere.
        prices: the price list of its models (`genai-prices`, `prices.toml`); None: it has none, and a job gives `prices=`.
        account: the class that its accounts must be of, where they say more than an address and a key.
        batch_page: a batch in the dashboard of the official host, for people, with `{id}` in it.
    """

    kind: str
    dialect: Callable[[Question, str], Dialect]
    dialects: tuple[Dialect, ...]
    traits: Traits
    envelope: Envelope | None = None
    batches: Callable[[Connection], Batches] | None = None
    auth: Callable[[Connection], dict[str, str]] = bearer
    base_url: str | None = None
    base_url_env: str | None = None
    api_key_env: str | None = None
    base_holds: str = ""
    quotas: Callable[[httpx2.Headers], dict[str, Quota]] = field(default=lambda headers: {})
    codes: Codes = field(default_factory=dict)
    prices: str | None = None
    account: type[Account] = Account
    batch_page: str | None = None

    def __post_init__(self) -> None:
        assert (self.batches is None) == (Lane.BATCH not in self.traits.lanes), "a kind sells the batch lane if it has batches"
