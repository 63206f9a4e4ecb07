"""REST: the calls of one account to a host of JSON objects, without an SDK; each has a time limit, and raises `Fault`.

A part of every transport.  The vendors' SDKs send twice, cannot resume a download, or call a created job an error (docs/notes/providers.md,
section 14); those of OpenAI and Anthropic can be kept from it, but load half a second and a whole second of models that are not used here, take 35 and 60 MB,
and bind every installation beside Keld to their versions (measured 2026-12-01).  So each request is our own; the SDKs drive the emulator in the tests,
which proves the wire.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cached_property
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2
import msgspec

from keld import http
from keld.patience import Patience
from keld.providers.download import Piece
from keld.providers.fault import ErrorIn, Fault, Sent, cause_of, fault_of, unreadable
from keld.providers.log import hide_secrets, hiding_urls
from keld.providers.page import has_id
from keld.providers.part import Auth, Connection, Outgoing
from keld.providers.transports.ranges import piece_of, range_headers

T = TypeVar("T")
Bounds = Callable[[Patience], AbstractContextManager[None]]
Params = Mapping[str, str | int | float | bool | None]
_REDIRECTS_MOST = 5
_ENDED_ALREADY = (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)


class Rest:
    """The calls of one account; the client is opened at the first of them.

    A path begins with "/" and is added to the base URL; a whole URL is asked for at the host of the base URL, whatever host it names: the key goes nowhere
    else.  A redirect is followed for a file only, without the key.

    Args:
        auth: the preset's own; used at the first call.
        error_in: where the error is in a failed reply; None: in the common shape.
    """

    def __init__(self, connection: Connection, auth: Callable[[Connection], Auth], error_in: ErrorIn | None = None) -> None:
        self._connection, self._make_auth, self._error_in = connection, auth, error_in

    def get(self, path: str, params: Params | None = None, *, bounds: Bounds = http.asking) -> dict[str, Any]:
        """The object at that path; harmless, so it may be retried."""
        return _object(self.ask("GET", path, params=params, bounds=bounds))

    def find(self, path: str, kind: type[T]) -> T | None:
        """An object of the API; None: the host says that it does not exist."""
        try:
            return read(self.ask("GET", path), kind)
        except Fault as fault:
            if fault.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    def cancel(self, path: str, kind: type[T]) -> None:
        """Asks to cancel; "has ended", "does not exist" and a reply without a body are success: the next look shows how it ended."""
        try:
            reply = self.ask("POST", path)
            if reply.content.strip():
                read(reply, kind)
        except Fault as fault:
            if fault.status not in _ENDED_ALREADY:
                raise

    def post(self, path: str, body: Any = None, *, params: Params | None = None) -> dict[str, Any]:
        """The reply to a call that may be repeated, such as a cancel; empty if the reply has no body."""
        return _object_or_none(self.ask("POST", path, params=params, content=_json(body)))

    def delete(self, path: str, params: Params | None = None) -> dict[str, Any]:
        """The reply to a removal, which may be repeated; empty if the reply has no body."""
        return _object_or_none(self.ask("DELETE", path, params=params))

    def create(self, path: str, body: Any, *, headers: Mapping[str, str] | None = None, carried_prompts: bool = False) -> dict[str, Any]:
        """The object that was created: one attempt.

        Args:
            carried_prompts: the body has prompts in it.
        """
        return _object(self.send("POST", path, _json(body), headers=headers, carried_prompts=carried_prompts))

    def upload(self, path: str, *, data: Mapping[str, Any], files: Mapping[str, Any]) -> httpx2.Response:
        """The reply to a multipart form with files, streamed; `data` and `files` as httpx2 has them; one attempt."""
        with self._as_faults(carried_prompts=True), http.sending(self._connection.patience):
            return self._send(self._client.build_request("POST", self._url(path), data=dict(data), files=dict(files)))

    def ask(
        self, method: str, path: str, *, params: Params | None = None, content: bytes | None = None, bounds: Bounds = http.asking
    ) -> httpx2.Response:
        """The reply to a harmless call, whatever its body."""
        with self._as_faults(), bounds(self._connection.patience):
            return self._send(self._request(method, path, params=params, content=content))

    def send(
        self,
        method: str,
        path: str,
        content: bytes | Iterable[bytes] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        params: Params | None = None,
        carried_prompts: bool = True,
    ) -> httpx2.Response:
        """The reply to a call that is made once, whatever its body; a content that is no `bytes` is streamed."""
        with self._as_faults(carried_prompts), http.sending(self._connection.patience):
            return self._send(self._request(method, path, params=params, content=content, headers=headers))

    @contextmanager
    def open(self, url: str, start: int, validator: str, params: Params | None = None) -> Iterator[Piece]:
        """A file from byte `start` on, if it still has `validator`, else from its beginning.

        Where the host redirects to it, as gateways do to a signed URL of their bucket, it is fetched there, as the vendors' SDKs do.
        """
        with http.fetching(self._connection.patience):
            with self._as_faults():
                headers = range_headers(start, validator)
                request = self._request("GET", url, params=params, headers=headers)
                try:
                    response = self._send(request, stream=True)
                except _Refused as refused:
                    response = self._elsewhere(refused, headers)
            try:
                yield piece_of(response)
            finally:
                response.close()

    def close(self) -> None:
        if "_client" in self.__dict__:
            self._client.close()

    @cached_property
    def _client(self) -> httpx2.Client:
        hide_secrets()
        return http.client(self._connection.patience)

    @cached_property
    def _auth(self) -> Auth:
        return self._make_auth(self._connection)

    def _url(self, path: str) -> str:
        base = self._connection.base_url.rstrip("/")
        if {".", ".."} & set(path.partition("?")[0].split("/")):  # as an id: the library would ask for the folder above, e.g. remove that
            raise httpx2.InvalidURL("a path leads up")
        if path.startswith("/"):
            return base + path
        try:
            asked, (scheme, netloc, *_) = urlsplit(path), urlsplit(base)
        except ValueError as error:
            raise httpx2.InvalidURL(str(error)) from None
        return f"{scheme}://{netloc}{asked.path}" + (f"?{asked.query}" if asked.query else "")

    def _request(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        content: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx2.Request:
        typed = {"content-type": "application/json"} if isinstance(content, bytes) else {}
        asked = dict(params) if params else None  # an empty one would remove the query that the URL has
        return self._client.build_request(method, self._url(path), params=asked, content=content, headers={**typed, **(headers or {})})

    def _send(self, request: httpx2.Request, *, stream: bool = False) -> httpx2.Response:
        """The reply to a request, with the headers of `Auth`.

        Raises:
            Fault: its status is no success.
            httpx2.HTTPError: there is no whole reply.
        """
        response = self._client.send(self._signed(request), stream=stream)
        if not response.is_success:
            with suppress(httpx2.HTTPError):  # the status says enough
                response.read()
            raise _Refused(response)
        return response

    def _signed(self, request: httpx2.Request) -> httpx2.Request:
        """The request, with the headers of `Auth`."""
        body = request.content if isinstance(request.stream, httpx2.ByteStream) else b""
        outgoing = Outgoing(method=request.method, url=str(request.url), headers=request.headers, body=body)
        request.headers.update(self._auth.headers(outgoing))
        return request

    def _elsewhere(self, refused: _Refused, headers: Mapping[str, str]) -> httpx2.Response:
        """The file at the address that a redirect names; at another host without anything that says who asks, since the address says that itself.

        Raises:
            _Refused: it is no redirect, or to an address without encryption, from one with it.
            Fault: the file is not there; what another host says means nothing for the account.
        """
        response, home = refused.response, refused.response.url
        with hiding_urls():
            for _ in range(_REDIRECTS_MOST):
                target = response.next_request
                if target is None or (target.url.scheme != "https" and home.scheme == "https"):
                    break
                request = self._client.build_request("GET", target.url, headers=headers)
                at_home = (request.url.scheme, request.url.netloc) == (home.scheme, home.netloc)
                try:
                    response = self._client.send(self._signed(request) if at_home else request, stream=True)
                except httpx2.HTTPError as error:
                    raise Fault(
                        sent=Sent.ANSWERED,
                        status=response.status_code,
                        cause=f"a redirect to an address without a reply ({cause_of(error)})",
                    ) from None
                if response.is_success:
                    return response
                response.close()
        if response is refused.response:
            raise refused
        raise Fault(sent=Sent.ANSWERED, status=response.status_code, cause=f"HTTP {response.status_code} (at the address of its redirect)")

    @contextmanager
    def _as_faults(self, carried_prompts: bool = False) -> Iterator[None]:
        """Turns what the HTTP library raises, and a status that is no success, into faults.

        Raises:
            Fault: the call did not succeed.
        """
        self._client  # noqa: B018  outside of the call, as the key is
        if self._auth.due():
            self._auth.renew()
        try:
            yield
        except (_Refused, httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise fault_of(error, carried_prompts=carried_prompts, error_in=self._error_in) from None


class _Refused(Exception):
    """A reply whose status is no success."""

    def __init__(self, reply: httpx2.Response) -> None:
        super().__init__(f"HTTP {reply.status_code}")
        self.response = reply


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


def _json(body: Any) -> bytes | None:
    return None if body is None else msgspec.json.encode(body)


def _object(response: httpx2.Response) -> dict[str, Any]:
    """A reply's JSON object.

    Raises:
        Fault: it is none, e.g. a proxy's page with status 200.
    """
    found: dict[str, Any] = read(response, dict)
    return found


def _object_or_none(response: httpx2.Response) -> dict[str, Any]:
    return _object(response) if response.content.strip() else {}
