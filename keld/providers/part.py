"""Part: the parts of a kind of provider, and the preset that names one of each.

Below `provider`, above the dialects and transports, which implement these protocols.  A kind of provider is data: a `Preset`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import httpx2
import msgspec

from keld.cache import Caching, Ttl
from keld.objects import Credentials
from keld.patience import Patience
from keld.price import Lane
from keld.pricing import Listed
from keld.providers.account import Account
from keld.providers.base import Fit, Quota, RemoteBatch, Submission, Traits
from keld.providers.download import Piece, ResultFile
from keld.providers.fault import Codes, ErrorIn
from keld.providers.page import Page
from keld.reply import Reply
from keld.request import Question
from keld.vocabulary import Count


class BodyTemplate(Protocol):
    """The body of a request without one row's own prompt."""

    @property
    def size_bytes(self) -> int:
        """The most bytes that it adds to a prompt fragment."""
        ...

    def fill(self, fragment: bytes) -> bytes:
        """The body for a prompt fragment (see `request`), one line of JSON."""
        ...


class Dialect(Protocol):
    """The API of one family of models: the body of a request and the body of an answer.  Pure."""

    @property
    def body_type(self) -> type[Any]:
        """The msgspec struct of an answer's body; it must also decode the body of an error."""
        ...

    @property
    def own_params(self) -> frozenset[str]:
        """The fields that `Job.params` may not name, since Keld sets them: the model, the prompt, the number and length of answers."""
        ...

    @property
    def cache_fields(self) -> frozenset[str]:
        """The fields with which users mark what is to be cached."""
        ...

    def path(self, model: str) -> str:
        """The path of a request for the model, from the version on, e.g. `/v1/messages`."""
        ...

    def fit(self, question: Question, model: str) -> Fit:
        """Whether that model can be asked this question at all."""
        ...

    def template(self, question: Question, model: str, cache: Ttl | None) -> BodyTemplate:
        """The body of all rows; with `cache`, the part that they share is marked to be cached for that time.

        Raises:
            InvalidJob: the model cannot give such an output.
        """
        ...

    def in_lane(self, body: bytes, lane: Lane) -> bytes:
        """The body of one request in a fast lane.

        Raises:
            InvalidJob: the provider does not sell such requests in that lane.
        """
        ...

    def lane_headers(self, lane: Lane) -> Mapping[str, str]:
        """The headers of a request in a fast lane, where the host names the lane in a header; mostly none."""
        ...

    def judge(self, custom_id: str, status: int, body: Any) -> Reply:
        """The reply to the request of that id, from a body of `body_type`; `status` is the HTTP status, 0 if it is not known."""
        ...

    def caching(self, model: str) -> Caching:
        """How the beginning of that model's prompts is cached."""
        ...

    def counter(self, model: str) -> Count | None:
        """A function from a text to its number of tokens; None if the model's vocabulary is not public, or not installed."""
        ...


class Envelope(Protocol):
    """The lines of a batch file: how a line holds a body and a custom_id, and how a result line is read.  Pure."""

    def overhead_bytes(self, path: str) -> int:
        """The most bytes that a line adds to a body."""
        ...

    def wrap(self, custom_id: str, path: str, body: bytes) -> bytes:
        """The line of one request, with its line end if the file needs one."""
        ...

    def around(self, lines: Iterator[bytes]) -> Iterator[bytes]:
        """The bytes of the shard's file around its lines."""
        ...

    def ids(self, block: bytes) -> list[str]:
        """The custom_ids in a block of whole result lines."""
        ...

    def read(self, block: bytes, dialect: Dialect) -> list[Reply]:
        """Replies of a block of whole result lines; a line without a readable id gives none."""
        ...


class Batches(Protocol):
    """The batch API of one account.  Every call has a time limit (`keld.http`), is made once, and raises `Fault` if it does not succeed."""

    def stage(self, path: Path, key: str) -> str | None:
        """Uploads the input; a reference to it, or None if the input is sent with the create."""
        ...

    def create(self, submission: Submission) -> RemoteBatch:
        """Creates the batch, which costs money: exactly one HTTP attempt."""
        ...

    def get(self, batch_id: str) -> RemoteBatch | None:
        """The batch; None: the provider says that it has no such batch."""
        ...

    def page(self, after: str | None, size: int) -> Page:
        """The page of the list of batches that begins at `Page.after` of the page before; None: the first one."""
        ...

    def cancel(self, batch_id: str) -> None:
        """Asks the provider to cancel; "already ended" is success."""
        ...

    def results(self, batch: RemoteBatch) -> Sequence[ResultFile]:
        """All result files or objects, those with answers first; makes a call only if the batch does not name them."""
        ...

    def size_bytes(self, file: ResultFile) -> int | None:
        """The size of a result file by the provider; None if it does not say."""
        ...

    def fetch(self, batch: RemoteBatch, file: ResultFile, start: int, validator: str) -> AbstractContextManager[Piece]:
        """Opens a result file at byte `start` if it still has `validator` ("": any), else at its beginning."""
        ...

    def unstage(self, input_ref: str) -> None:
        """Removes an uploaded input.  "Not there" is success; an unclear reply is a `Fault`, since a second create is sent only after this."""
        ...

    def close(self) -> None: ...


class Finds(Protocol):
    """The further method of `Batches` at a host that looks up our mark itself (`Traits.finds`)."""

    def find(self, key: str, since: datetime) -> Iterator[RemoteBatch]:
        """The batches whose mark is `key` (`Submission.key`), made after `since`, in any order, by the host's own filter.

        Raises:
            Fault: the answer is not complete, so that a batch may be missing.
        """
        ...


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """What a transport needs to make the calls of one account."""

    account: Account
    base_url: str
    key: Callable[[], str]  # to be called at the first request; raises AccessRefused if there is no key
    patience: Patience


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """A request as it is about to be sent: what a signature covers.

    Args:
        headers: those that are known by then, without the ones of `Auth`.
        body: all of it; empty for an upload that is streamed.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes = b""


class Auth(Protocol):
    """Who asks: the headers of each request of one account, with its key, its token or its signature.  Used by several threads and event loops."""

    def headers(self, outgoing: Outgoing) -> Mapping[str, str]:
        """The headers of that one request; fast, since it is called within the event loop of a fast lane."""
        ...

    def due(self) -> bool:
        """True if `renew` has something to do before the next request; fast."""
        ...

    def renew(self) -> None:
        """Gets what `headers` needs, such as a new token.  It may block, for some seconds at most; called before a request, never in an event loop.

        Raises:
            Fault: it could not be had for now; nothing was sent (`Sent.NO`).
            AccessRefused: it was refused; a person must act.
        """
        ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """`Auth` whose headers are the same for every request."""

    constant: Mapping[str, str] = field(repr=False)

    def headers(self, outgoing: Outgoing) -> Mapping[str, str]:
        return self.constant

    def due(self) -> bool:
        return False

    def renew(self) -> None:
        """Nothing expires."""


def bearer(connection: Connection) -> Auth:
    """The key in the header that most hosts use; no header if the account has no key."""
    key = connection.key()
    return Fixed({"authorization": f"Bearer {key}"} if key else {})


def names_in_data(body: Mapping[str, Any]) -> list[str]:
    """The names in a list of models of OpenAI's shape."""
    listed = body.get("data")
    return [str(one["id"]) for one in listed if isinstance(one, dict) and "id" in one] if isinstance(listed, list) else []


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A call that is not paid, and for which the address and the key must be right; `keld doctor` makes it.

    Args:
        path: of a GET, added to the base URL, with its query; a function makes it from the account.
        names: the names of the models in the reply's JSON; None: it lists no models.
        serves: (the names, a model) -> True if the host serves that model.
    """

    path: str | Callable[[Account], str]
    names: Callable[[Mapping[str, Any]], Collection[str]] | None = None
    serves: Callable[[Collection[str], str], bool] = field(default=lambda names, model: model in names)

    def path_of(self, account: Account) -> str:
        return self.path if isinstance(self.path, str) else self.path(account)


MODELS = Probe(path="/models", names=names_in_data)
"""`Probe` of a host of OpenAI's shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One kind of provider.

    Args:
        kind: its name, the value of `Account.kind`.
        dialect: (question, model) -> the dialect of the request; raises `InvalidJob` if there is none.
        dialects: all dialects that `dialect` can give.
        traits: what it can do, and its limits.
        envelope, batches: the lines of its batch files, and its batch API; None if it has no batches.
        auth: who asks in the fast lanes, made at the first request; `Batches` has its own.
        base_url: the official host; None: the account must name one.  A function makes it from the account (its region, or the address that the
            account or the environment names, in `Account.base_url`), and has the last word.
        base_url_env, api_key_env: the environment variables of the address and the key, if the account names no others;
            None: no variable is read, and no key is needed.
        token_env: the environment variable that is read where that of the key is not set; None: none.
        base_holds: the beginning of a dialect's path that the base URL contains already, e.g. `/v1`.
        url: (connection, a dialect's path) -> the URL of a request of a fast lane; None: the base URL and the path without `base_holds`.
        scope: the part of a host that is the account's own, such as "/projects/p/locations/l", where accounts that share the host share nothing
            else.  `Provider.host` ends with it, so that the ledger keeps their batches apart; "": the host is enough.
        place: what to check if no host has the name that is made from the account's region or location, as a clause; "": the address.
        variables: the environment variables of the account's other fields, by the field's name; all are needed, and read when it connects.
        quotas: the account's rate limits from a reply's headers.
        codes: the meaning of (status, code), if it differs from the common rules in `fault.meaning`.
        error_in: the error in a failed reply of a fast lane, from its JSON body and its headers; None: it is in the common shape,
            `{"error": {...}}`.
        prices: the price list of its models (`genai-prices`, `prices.toml`); None: there is none, and a job must give `prices=`.
        listed: (account, model) -> under which names the price list has the account's model; without it under its own.
        account: the class of its accounts, if they need more than an address and a key.
        aborted: True for an answer with status 200 that says that the request was given up before it was done.
        for_account: the preset of one account, if its own fields change a part; None: all accounts have the same.
        deployment: the name by which the host knows a model in a lane, where that is not the model's own; it goes into the body, while prices, cache rules
            and schemas go by the model.
        key_optional: there is another way to say who asks, such as a token of a cloud; `Connection.key` then gives "" if there is no key.
        batch_page: the URL of a batch in the dashboard of the official host, with `{id}` in it.
        probe: what `keld doctor` asks the host; None: the list of batches.
        bucket: the address of the bucket in which the account's batches have their inputs and outputs; "": they need none.
        bucket_options: the settings with which it is opened, such as its region and keys; it may ask a cloud's library for them.
        bucket_credentials: who asks that bucket; None: the keys in `bucket_options`, else the credentials that obstore finds.
    """

    kind: str
    dialect: Callable[[Question, str], Dialect]
    dialects: tuple[Dialect, ...]
    traits: Traits
    envelope: Envelope | None = None
    batches: Callable[[Connection], Batches] | None = None
    auth: Callable[[Connection], Auth] = bearer
    base_url: str | Callable[[Account], str] | None = None
    base_url_env: str | None = None
    api_key_env: str | None = None
    token_env: str | None = None
    base_holds: str = ""
    url: Callable[[Connection, str], str] | None = None
    scope: Callable[[Account], str] = field(default=lambda account: "")
    place: Callable[[Account], str] = field(default=lambda account: "")
    variables: Mapping[str, str] = field(default_factory=dict)
    quotas: Callable[[httpx2.Headers], dict[str, Quota]] = field(default=lambda headers: {})
    codes: Codes = field(default_factory=dict)
    error_in: ErrorIn | None = None
    prices: str | None = None
    listed: Callable[[Account, str], Listed] = field(default=lambda account, model: Listed(names=(model,)))
    account: type[Account] = Account
    aborted: Callable[[bytes], bool] = field(default=lambda answer: False)
    for_account: Callable[[Account], Preset] | None = None
    deployment: Callable[[str, Lane], str] = field(default=lambda model, lane: model)
    key_optional: bool = False
    batch_page: str | None = None
    probe: Probe | None = None
    bucket: Callable[[Account], str] = field(default=lambda account: "")
    bucket_options: Callable[[Connection], Mapping[str, str]] = field(default=lambda connection: {})
    bucket_credentials: Callable[[Connection], Credentials] | None = None

    def __post_init__(self) -> None:
        assert (self.batches is None) == (Lane.BATCH not in self.traits.lanes), "a kind has the batch lane if and only if it has batches"
