"""Service: one vendor's host, as its clients see it: addresses, routes, errors, limits.

The other side of an account's kind.  A service answers by one or several dialects (`dialect`); with batches it has an envelope
(`envelope`), too.  It is plugged in by its kind (`kind`), from here or from another package; everything around it, from the gate to the
bill, knows this class only.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .answer import Answerer
from .batch import Batch
from .error import ApiError
from .life import Phase
from .rate import Level
from .store import Store

Operation = Literal["upload", "create", "list", "get", "cancel", "download", "delete", "realtime"]
Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One route of a service.

    Args:
        operation: the point of the fault table that its calls are.
        path: as Starlette writes it; a batch's id is `{batch_id}` in it.
        header: the route is for requests with this header only; None: for all.  Two services may then have the same path.
    """

    operation: Operation
    method: str
    path: str
    handler: Handler
    header: str | None = None


class BatchCalls(Protocol):
    """What every host of batches can be asked."""

    async def create(self, request: Request) -> Response: ...
    async def list(self, request: Request) -> Response: ...
    async def get(self, request: Request) -> Response: ...
    async def cancel(self, request: Request) -> Response: ...


def batch_routes(path: str, batches: BatchCalls) -> list[Endpoint]:
    """The four calls at `path`, where one batch is `<path>/{batch_id}` and its cancel `.../cancel`, as OpenAI began it."""
    one = path + "/{batch_id}"
    return [
        Endpoint(operation="create", method="POST", path=path, handler=batches.create),
        Endpoint(operation="list", method="GET", path=path, handler=batches.list),
        Endpoint(operation="get", method="GET", path=one, handler=batches.get),
        Endpoint(operation="cancel", method="POST", path=one + "/cancel", handler=batches.cancel),
    ]


class Asked(NamedTuple):
    """What the rate limits need to know of a realtime request; `most_tokens` is 0 where it does not say."""

    model: str | None
    most_tokens: int


class Service(ABC):
    """One host.  A subclass says its wire; nothing here knows one.

    Attributes:
        kind: of the accounts that lead here; on the bill and in fault plans it is the `provider`.
        title: for people.
        base: the path of the URL to which a client is pointed, without a slash at the end.
        owns: the beginning of the paths that are this service's, whether there is a route or not; the longest one wins.
        request_id_header: the response header that has the request's id.
    """

    kind: ClassVar[str]
    title: ClassVar[str]
    base: ClassVar[str]
    owns: ClassVar[str]
    request_id_header: ClassVar[str] = "x-request-id"

    def __init__(self, store: Store, answerer: Answerer) -> None:
        self.store, self.answerer = store, answerer

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.kind} at {self.base or '/'}>"

    @abstractmethod
    def routes(self) -> list[Endpoint]:
        """Everything that can be called."""

    def env(self, base_url: str, api_key: str) -> dict[str, str]:
        """The environment variables that lead a client here; empty where there are none."""
        return {}

    def show(self, batch: Batch, phase: Phase, host: str) -> dict[str, Any]:
        """A batch of this service at one phase, as its clients see it; `host` is the emulator's URL, as the client used it."""
        raise NotImplementedError(f"{self.kind} has no batches")

    def show_files(self) -> list[dict[str, Any]]:
        """The files of this service as its clients see them, newest first."""
        return []

    # --- refusals -----------------------------------------------------------------------------------------------------

    def refusal(self, error: ApiError) -> Response:
        """The reply that refuses a call; a service whose errors are no JSON, or have headers of their own, says it here."""
        return JSONResponse(self.error_body(error), error.status, error.headers)

    @abstractmethod
    def error_body(self, error: ApiError) -> dict[str, Any]:
        """The body of a refusal."""

    def unknown(self, request: Request) -> Response:
        """The response to a path that is no route."""
        error = ApiError(status=404, message=f"Invalid URL ({request.method} {request.url.path})")
        return self.refusal(error)

    def key_missing(self) -> ApiError | None:
        """The refusal of a request without a key; None: it needs none."""
        return None

    @abstractmethod
    def key_refused(self, key: str) -> ApiError:
        """The refusal of a key that the emulator does not accept."""

    # --- reading a request --------------------------------------------------------------------------------------------

    def key_of(self, request: Request) -> str:
        """The API key of a request; empty when there is none."""
        return key_of(request)

    def batch_id_of(self, request: Request) -> str:
        """The id of the batch that a request's path names, as the emulator keeps it; empty when it names none."""
        return str(request.path_params.get("batch_id", ""))

    def asked(self, request: Request, body: bytes) -> Asked:
        """What a realtime request asks for; here by the fields that most families of models have in the body."""
        return Asked(model_of(body), most_tokens(body))

    def rate_headers(self, levels: dict[str, Level], now: float) -> dict[str, str]:
        """The headers that say how much is left of the rate limits; here none."""
        return {}


class _Head(msgspec.Struct, gc=False):
    model: str


class _Most(msgspec.Struct, gc=False):
    """The most an answer may have, in the words of any family."""

    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None


def key_of(request: Request) -> str:
    """The API key as a bearer token or in `x-api-key`; empty when there is none."""
    bearer = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
    return bearer or request.headers.get("x-api-key", "").strip()


def model_of(body: bytes) -> str | None:
    """The model that a body names; None where it names none or cannot be read."""
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
        return msgspec.json.decode(body, type=_Head).model
    return None


def most_tokens(body: bytes) -> int:
    """The most tokens that a body says its answer may have; 0 where it does not say."""
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
        most = msgspec.json.decode(body, type=_Most)
        return most.max_completion_tokens or most.max_output_tokens or most.max_tokens or 0
    return 0
