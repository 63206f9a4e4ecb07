"""SDK: the calls of one account through an official SDK, each with a time limit, each made once; they raise `Fault`.

For vendors whose SDK is of this family: `status_code` and `response` on a status error, the HTTP library's exception as
`__cause__` of a connection error.  The SDK provides auth and address.  Its models are not used: our own structs also read the replies of hosts that
differ from the vendor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cached_property
from http import HTTPStatus
from typing import Any, TypeVar

import httpx2
import msgspec

from keld import http
from keld.patience import Patience
from keld.providers.download import Piece
from keld.providers.fault import Fault, fault_of, unreadable
from keld.providers.log import hide_secrets
from keld.providers.page import has_id
from keld.providers.part import Auth, Outgoing
from keld.providers.transports.ranges import piece_of, range_headers

_ENDED_ALREADY = (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)
T = TypeVar("T")
Bounds = Callable[[Patience], AbstractContextManager[None]]


class Calls:
    """The calls of one account.

    Args:
        connect: makes the SDK's client with an HTTP client and without retries: the SDK would send an unanswered create again, and both would be
            paid; harmless calls are retried by `http`.  Used at the first call.
        auth: who asks, where the SDK cannot say it: its headers replace the SDK's own.  Used at the first call.
        errors: the roots of the SDK's own exceptions.
    """

    def __init__(
        self,
        connect: Callable[[httpx2.Client], Any],
        errors: tuple[type[Exception], ...],
        patience: Patience,
        auth: Callable[[], Auth] | None = None,
    ) -> None:
        self._connect, self._patience, self._make_auth = connect, patience, auth
        self._errors: tuple[type[Exception], ...] = (*errors, httpx2.HTTPError)

    @cached_property
    def _client(self) -> Any:
        hide_secrets()
        made = http.client(self._patience)
        if (auth := self._auth) is not None:
            made.auth = lambda request: _asked_by(auth, request)
        return self._connect(made)

    @cached_property
    def _auth(self) -> Auth | None:
        return None if self._make_auth is None else self._make_auth()

    def close(self) -> None:
        if "_client" in self.__dict__:
            self._client.close()

    def ask(self, method: str, path: str, params: dict[str, Any] | None = None, *, bounds: Bounds = http.asking) -> httpx2.Response:
        """The reply to a harmless call."""
        with self._as_faults(), bounds(self._patience):
            reply: httpx2.Response = self._request(method, path, {"params": params or {}})
            return reply

    def find(self, path: str, kind: type[T]) -> T | None:
        """An object of the API; None: the provider says that it does not exist."""
        try:
            return read(self.ask("get", path), kind)
        except Fault as fault:
            if fault.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    def cancel(self, path: str, kind: type[T]) -> None:
        """Asks to cancel; "has ended" and "does not exist" are success: the next look shows how it ended."""
        try:
            read(self.ask("post", path), kind)
        except Fault as fault:
            if fault.status not in _ENDED_ALREADY:
                raise

    @contextmanager
    def sending(self, *, carried_prompts: bool) -> Iterator[Any]:
        """The SDK's client, for a call with a large body, made once."""
        client = self._client  # outside of the call: an error here is not a fault of the call
        with self._as_faults(carried_prompts), http.sending(self._patience):
            yield client

    @contextmanager
    def fetch(self, path: str, start: int, validator: str) -> Iterator[Piece]:
        """A result file over HTTP from byte `start` on."""
        with http.fetching(self._patience):
            with self._as_faults():
                headers = range_headers(start, validator) | {"X-Stainless-Raw-Response": "stream"}
                response = self._request("get", path, {"headers": headers})
            try:
                yield piece_of(getattr(response, "http_response", response))
            finally:
                response.close()

    def _request(self, method: str, path: str, options: dict[str, Any]) -> Any:
        return getattr(self._client, method)(path, cast_to=httpx2.Response, options=options)

    @contextmanager
    def _as_faults(self, carried_prompts: bool = False) -> Iterator[None]:
        """Turns the SDK's exceptions into faults.

        Raises:
            Fault: the call did not succeed.
        """
        if self._auth is not None and self._auth.due():
            self._auth.renew()
        try:
            yield
        except self._errors as error:
            raise fault_of(error, carried_prompts=carried_prompts) from None


def _asked_by(auth: Auth, request: httpx2.Request) -> httpx2.Request:
    """The request with the headers of `auth` in place of the SDK's key."""
    request.headers.pop("authorization", None)
    request.headers.update(auth.headers(Outgoing(method=request.method, url=str(request.url), headers=request.headers)))
    return request


def headers_of(client: Any) -> dict[str, str]:
    """The headers that an SDK's client sends with each request."""
    return {name: value for name, value in {**client.default_headers, **client.auth_headers}.items() if isinstance(value, str)}


def unconnected() -> httpx2.Client:
    """An HTTP client for an SDK of which only the headers are read; it loads no certificates, which takes 80 ms."""
    return httpx2.Client(transport=httpx2.BaseTransport(), trust_env=False)


def read(response: httpx2.Response, kind: type[T]) -> T:
    """A reply as an object of the API, with its id if its type has one.

    Raises:
        Fault: it cannot be read, e.g. a proxy's own page with status 200.
    """
    with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        found = msgspec.json.decode(response.content, type=kind)
        if has_id(found):
            return found
    raise unreadable(response.status_code)
