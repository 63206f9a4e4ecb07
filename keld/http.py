"""HTTP: the two clients of an account, and one time limit for each call.

Beside the road, below `providers`; knows no provider.  No SDK limits a whole call: their timeouts are for one read or one write, so a reply of
one byte a second never times out, and blocks its worker, and that worker's lease, without end.  Here the limit is for the whole call.  It is
kept in a context variable during the call, and the network backend under the client's pool shortens the timeout of every connect, handshake,
read and write to the time that is left.  It raises the transport's own timeouts, so the check whether a request was sent needs no change.

Three kinds of calls.  `asking`: a look, a cancel, a removal; the whole call, retries included, must end within `call_s`, and within the time
of the verb (`asking_beyond_verb`: without the verb's limit).  `sending`: an upload, a create; the body may take any time while it moves, the
reply `reply_s`; tried once only.  `fetching`: a download; may take any time while it moves.  "It moves" means a minimum speed: `least_bytes`
in any `stall_s`.

These calls are made by `client`.  The fast lanes have `async_client`: there the limit is `asyncio.timeout` around the call.  Both keep TCP connections
alive, so that a gateway does not drop a connection on which an answer is awaited for minutes (httpx2 sets nothing; anthropic's SDK does).

Harmless calls are retried here, not by the SDKs: those sleep as long as a server asks them to, twice, without regard to the time left.
httpx2 passes no backend to its pool (2.16), and no socket options to the connections of a proxy, so `_set_backend` sets it there;
`tests/providers/test_http.py` fails if a release changes that.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from threading import Thread
from typing import Any

import httpcore2
import httpx2

from keld.errors import ProviderUnreachable
from keld.patience import Patience

_PIECE = 64 << 10  # bytes of one write: a large write would have one timeout for all of it
_REPLY_BYTES = 64 << 20  # of anything but a download; a page of 1,000 batches is 1 MB
_LEAST_S = 1.0  # a call that begins in time has at least this long, even if its verb has less time left
_PAUSES_S = (0.5, 1.0)  # before a harmless call is retried
_PAUSE_MOST_S = 2.0  # a longer wait is for the next look: this one has a worker that others need
_WAIT_MOST_S = 86_400.0  # more than any host means
_RETRIED_STATUSES = frozenset({408, 429})  # and every 5xx
_CONNECT_S = 30.0
_TRUSTED_S = 3_600.0  # a process that runs for weeks sees new certificates
# Identity: no encoding is offered that cannot be read, and no reply decompresses to more than was received.
_HEADERS = {"accept-encoding": "identity", "user-agent": "keld"}
_READABLE = frozenset({"", "identity", "gzip", "deflate"})


class UnreadableEncoding(httpx2.DecodingError):
    """The reply came in a content-encoding that was not offered and cannot be read."""


_bound: ContextVar[_Bound | None] = ContextVar("keld_call", default=None)
_until: ContextVar[float | None] = ContextVar("keld_verb", default=None)
_on_progress: ContextVar[Callable[[float], None] | None] = ContextVar("keld_pulse", default=None)


@contextmanager
def within(until: float) -> Iterator[None]:
    """Within the block, calls of the kind `asking` must end by `until` (of `time.monotonic()`), and none begins after it."""
    token = _until.set(until)
    try:
        yield
    finally:
        _until.reset(token)


@contextmanager
def reporting_progress(pulse: Callable[[float], None]) -> Iterator[None]:
    """Within the block, `pulse(seconds)` is called when a call begins or moves: from then on it may be silent for that long."""
    token = _on_progress.set(pulse)
    try:
        yield
    finally:
        _on_progress.reset(token)


def beat(silent_s: float) -> None:
    """Tells `reporting_progress` that a call over another library than this one's has moved, and may be silent for that long."""
    if (pulse := _on_progress.get()) is not None:
        pulse(silent_s)


@contextmanager
def asking(patience: Patience) -> Iterator[None]:
    """Limits a call that is harmless, small, and may be retried.

    Raises:
        ProviderUnreachable: the verb's time is over; nothing was sent.
    """
    left_s, until = patience.call_s, _until.get()
    if until is not None:
        if until <= time.monotonic():
            raise ProviderUnreachable("The time for this look was over before all was looked at. The rest follows at the next look.")
        left_s = min(left_s, max(until - time.monotonic(), _LEAST_S))
    with _bounded(_Bound(patience, left_s, retries=True)):
        yield


@contextmanager
def asking_beyond_verb(patience: Patience) -> Iterator[None]:
    """As `asking`, for a call within a step that must be finished once begun: it has its own time, even if the verb has less left.

    Else the second of two result files could never be fetched if the first takes longer than a verb.
    """
    with _bounded(_Bound(patience, patience.call_s, retries=True)):
        yield


@contextmanager
def sending(patience: Patience) -> Iterator[None]:
    """Limits a call with a large body, which is tried once only."""
    with _bounded(_Bound(patience, patience.stall_s, writes=True)):
        yield


@contextmanager
def fetching(patience: Patience) -> Iterator[None]:
    """Limits a call with a large reply."""
    with _bounded(_Bound(patience, patience.stall_s, reads=True)):
        yield


@contextmanager
def _bounded(bound: _Bound) -> Iterator[None]:
    token = _bound.set(bound)
    try:
        yield
    finally:
        _bound.reset(token)


def client(patience: Patience) -> httpx2.Client:
    """A client whose calls are limited; it follows no redirect, since it would send the key to any host that the redirect names.

    Raises:
        ProviderUnreachable: see `trust`.
    """
    with _proxies_named():
        made = _Client(
            follow_redirects=False,
            timeout=httpx2.Timeout(patience.reply_s, pool=patience.call_s),
            headers=_HEADERS,
            verify=trust(),
            event_hooks={"response": [check_encoding]},
        )
    _set_backend(made, _Backend)
    return made


def trust() -> ssl.SSLContext:
    """The certificates that this machine trusts; read once an hour, which takes 50 to 80 ms, and shared by all clients.

    Raises:
        ProviderUnreachable: they cannot be read, by a setting of the environment.
    """
    try:
        return _trusted(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"), int(time.monotonic() // _TRUSTED_S))
    except OSError:
        raise ProviderUnreachable(
            "No host can be reached, since SSL_CERT_FILE of the environment names no readable file of certificates. No call was made. "
            "Correct it, or unset it."
        ) from None


@lru_cache(maxsize=1)
def _trusted(file: str | None, folder: str | None, hour: int) -> ssl.SSLContext:
    return httpx2.create_ssl_context()


def begin_to_trust() -> None:
    """Begins to read the certificates in a thread of its own, beside work that takes longer; an error is raised by the first call that needs them."""

    def read() -> None:
        with suppress(ProviderUnreachable):
            trust()

    Thread(target=read, name="keld-trust", daemon=True).start()


@contextmanager
def _proxies_named() -> Iterator[None]:
    """Raises:
    ProviderUnreachable: a proxy of the environment cannot be used.
    """
    try:
        yield
    except (ImportError, ValueError, httpx2.InvalidURL) as error:
        # Its address is not shown: it may have a password in it.
        what = "is a SOCKS proxy, which needs the package socksio" if isinstance(error, ImportError) else "is no address of a proxy"
        raise ProviderUnreachable(
            f"No host can be reached, since HTTPS_PROXY, HTTP_PROXY or ALL_PROXY of the environment {what}. No call was made. "
            f"{'Install it, or name' if isinstance(error, ImportError) else 'Name'} a proxy that begins with http://, or unset them."
        ) from None


def async_client(trust: ssl.SSLContext, timeout_s: float) -> httpx2.AsyncClient:
    """A client for the requests of a fast lane; each also needs `asyncio.timeout`, since the library limits one read at a time.

    Args:
        trust: see there.
        timeout_s: of a whole request; a connection must be made within half of it.

    Raises:
        ProviderUnreachable: a proxy of the environment cannot be used.
    """
    # No limit on connections: a request that waits for one would count as sent.  A server that closes an idle connection just as it is
    # used again leaves the request in doubt; the shortest usual idle timeout of servers is 5 s.  A redirect would carry the key to another host.
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=3)
    # Connecting has less than the whole time, so that a connection that was never made is reported as not sent.  The whole is limited in `call`.
    timeout = httpx2.Timeout(None, connect=min(_CONNECT_S, timeout_s / 2))
    with _proxies_named():
        made = httpx2.AsyncClient(follow_redirects=False, limits=limits, verify=trust, timeout=timeout, headers=_HEADERS)
    _set_backend(made, _AsyncBackend)
    return made


def check_encoding(response: httpx2.Response) -> None:
    """Passes if the reply's content-encoding can be read.

    Raises:
        UnreadableEncoding: it cannot.
    """
    coding = response.headers.get("content-encoding", "").strip().lower()
    if coding not in _READABLE:
        raise UnreadableEncoding("a content-encoding that was not asked for", request=response.request)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds for which a reply asks to wait: of `retry-after-ms` (OpenAI, Azure), else of `retry-after`; None if it says nothing plausible.

    A date is read by the clock of the reply, if it has one, since ours may be wrong.
    """
    for name, unit in (("retry-after-ms", 1_000), ("retry-after", 1)):
        with suppress(ValueError):
            seconds = float(headers.get(name, "")) / unit
            return seconds if 0 <= seconds <= _WAIT_MOST_S else None
    with suppress(ValueError, TypeError, OverflowError):  # TypeError: one of them has no time zone
        date = headers.get("date")
        left = parsedate_to_datetime(headers.get("retry-after", "")) - (parsedate_to_datetime(date) if date else datetime.now(UTC))
        seconds = max(0.0, left.total_seconds())
        return seconds if seconds <= _WAIT_MOST_S else None
    return None


def _pause(response: httpx2.Response, least_s: float) -> float | None:
    """Seconds until a harmless call that had this reply is made again; as the vendors' SDKs, it heeds what the reply says of that.

    Returns:
        None: it is not made again.
    """
    wanted = {"true": True, "false": False}.get(response.headers.get("x-should-retry", "").lower())
    retried = response.status_code in _RETRIED_STATUSES or response.status_code >= 500 if wanted is None else wanted
    asked_s = retry_after(response.headers) or 0.0
    return max(least_s, asked_s) if retried and not response.is_success and asked_s <= _PAUSE_MOST_S else None


class _Client(httpx2.Client):
    """Retries a harmless call, as long as its limit allows."""

    def send(self, request: httpx2.Request, **how: Any) -> httpx2.Response:
        bound = _bound.get()
        for pause_s in _PAUSES_S if bound is not None and bound.retries else ():
            try:
                response = super().send(request, **how)
            except httpx2.TransportError:
                if bound is None or bound.left_s() <= pause_s:
                    raise
            else:
                asked_s = _pause(response, pause_s)
                if asked_s is None or bound is None or bound.left_s() <= asked_s:
                    return response
                response.close()
                pause_s = asked_s
            time.sleep(pause_s)
        return super().send(request, **how)


class _Bound:
    """The time that one call may still take."""

    def __init__(self, patience: Patience, first_s: float, *, retries: bool = False, writes: bool = False, reads: bool = False) -> None:
        self.retries = retries
        self._patience, self._writes, self._reads = patience, writes, reads
        self._replies = False
        self._moved = self._received = 0
        self._allow(first_s)

    def left_s(self) -> float:
        return self._until - time.monotonic()

    def capped(self, timeout: float | None, error: type[httpcore2.TimeoutException]) -> float:
        """`timeout`, or the time left of the call if that is less.

        Raises:
            error: no time is left.
        """
        left_s = self.left_s()
        if left_s <= 0:
            raise error("the call took longer than it may")
        return left_s if timeout is None else min(timeout, left_s)

    def wrote(self, size: int) -> None:
        if self._writes and not self._replies:
            self._move(size)

    def begin_reply(self) -> None:
        if self._writes and not self._replies:
            self._replies = True
            self._allow(self._patience.reply_s)

    def read(self, size: int) -> None:
        self._received += size
        if self._reads:
            self._move(size)
        elif self._received > _REPLY_BYTES:
            raise httpcore2.ReadError("the reply is larger than any of its kind can be")

    def _move(self, size: int) -> None:
        self._moved += size
        if self._moved >= self._patience.least_bytes:
            self._moved = 0
            self._allow(self._patience.stall_s)

    def _allow(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        beat(seconds)


# -- the network ----------------------------------------------------------------------------------------------


def _keep_alive() -> tuple[Any, ...]:
    """The socket options of all connections: after a minute of silence a probe a minute, five without a reply are a lost connection.

    The values of anthropic's SDK (2.14); macOS has other names for some.
    """
    named = {"TCP_KEEPIDLE": 60, "TCP_KEEPALIVE": 60, "TCP_KEEPINTVL": 60, "TCP_KEEPCNT": 5}
    found = ((socket.IPPROTO_TCP, getattr(socket, name), value) for name, value in named.items() if hasattr(socket, name))
    return ((socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *found)


_KEEP_ALIVE = _keep_alive()


def _set_backend(made: httpx2.Client | httpx2.AsyncClient, backend: Callable[[Any], Any]) -> None:
    """Puts `backend` around that of every pool of a client, those of the environment's proxies included."""
    for transport in (made._transport, *made._mounts.values()):
        pool: Any = getattr(transport, "_pool", None)
        if transport is None:
            continue  # a host without a proxy
        inner = getattr(pool, "_network_backend", None)
        if not isinstance(inner, httpcore2.NetworkBackend | httpcore2.AsyncNetworkBackend):
            raise AssertionError("this release of httpx2 keeps its network backend elsewhere, so its calls would have no limit")
        pool._network_backend = backend(inner)


class _AsyncBackend(httpcore2.AsyncNetworkBackend):
    """Keeps its connections alive."""

    def __init__(self, inner: httpcore2.AsyncNetworkBackend) -> None:
        self._inner = inner

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        return await self._inner.connect_tcp(host, port, timeout, local_address, (*_KEEP_ALIVE, *(socket_options or ())))

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore2.AsyncNetworkStream:
        return await self._inner.connect_unix_socket(path, timeout, socket_options)

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


class _Backend(httpcore2.NetworkBackend):
    def __init__(self, inner: httpcore2.NetworkBackend) -> None:
        self._inner = inner

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        socket_options = (*_KEEP_ALIVE, *(socket_options or ()))
        bound = _bound.get()
        if bound is None:
            return _Stream(self._inner.connect_tcp(host, port, timeout, local_address, socket_options))
        addresses = _addresses(host, port)  # first, since a look-up takes time, too
        # A share for each address: the standard library would give each of them the whole time.
        left_s = bound.capped(timeout, httpcore2.ConnectTimeout) / addresses
        return _Stream(self._inner.connect_tcp(host, port, left_s, local_address, socket_options))

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore2.NetworkStream:
        return _Stream(self._inner.connect_unix_socket(path, timeout, socket_options))

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(seconds)


class _Stream(httpcore2.NetworkStream):
    def __init__(self, inner: httpcore2.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        bound = _bound.get()
        if bound is None:
            return self._inner.read(max_bytes, timeout)
        bound.begin_reply()
        piece = self._inner.read(max_bytes, bound.capped(timeout, httpcore2.ReadTimeout))
        bound.read(len(piece))
        return piece

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        bound = _bound.get()
        if bound is None:
            self._inner.write(buffer, timeout)
            return
        for start in range(0, len(buffer), _PIECE):
            piece = buffer[start : start + _PIECE]  # the whole of what an SDK sends at once, uncopied
            self._inner.write(piece, bound.capped(timeout, httpcore2.WriteTimeout))
            bound.wrote(len(piece))

    def close(self) -> None:
        self._inner.close()

    def start_tls(self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None) -> httpcore2.NetworkStream:
        bound = _bound.get()
        left_s = timeout if bound is None else bound.capped(timeout, httpcore2.ConnectTimeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, left_s))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


def _addresses(host: str, port: int) -> int:
    """How many addresses a host has; 1 if its name cannot be resolved: then the connect raises the error."""
    try:
        return len(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)) or 1
    except OSError:
        return 1
