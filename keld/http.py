"""HTTP: one client an account, and one limit a call.

Beside the road, below `providers`; knows no provider.  No SDK bounds a whole call: their timeouts are of one read or one write, so a reply of a
byte a second outlives them all, and holds its worker, and that worker's lease, for ever.  Here the limit is of the call.  It stands in a context
variable while the call lasts, and the network backend under the client's pool shortens every connect, handshake, read and write to what is left
of it; what it raises are the transport's own timeouts, so that whether a request was sent is judged as ever.

Three kinds of calls.  `asking`: a look, a cancel, a removal; all of it, its second tries included, within `call_s`, and within the time of the
verb (`asking_beyond_verb`: not of the verb).  `sending`: an upload, a create;
the body may take as long as it moves, the reply `reply_s`; once only.  `fetching`: a download; may take as long as it moves.  "It moves" is a
least speed, `least_bytes` in any `stall_s`: a byte a second is none.

Harmless calls are tried again here, not by the SDKs: those sleep for as long as a server tells them to, twice, whatever the time.
httpx2 hands no backend on to its pool (2.16), so it is set there, in `_bind_calls`; `tests/providers/test_http.py` fails where a release of it changes that.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import httpcore2
import httpx2

from keld.errors import ProviderUnreachable

_PIECE = 16 << 10  # of one write: a large one has one timeout, however slowly it goes
_REPLY_BYTES = 64 << 20  # of anything but a download; a page of 1,000 batches is 1 MB
_LEAST_S = 1.0  # a call that is begun in time has so long, even where its verb has less left
_PAUSES_S = (0.5, 1.0)  # before a harmless call is tried again
_RETRIED_STATUSES = frozenset({408, 429})  # and every 5xx
_READABLE = frozenset({"", "identity", "gzip", "deflate"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long one call may take.

    Args:
        call_s: a look, a cancel, a removal, all of it.
        reply_s: the reply to an upload or a create, once its body is sent.
        stall_s, least_bytes: a body must move so many bytes in any so many seconds.
    """

    call_s: float = 60.0
    reply_s: float = 300.0
    stall_s: float = 60.0
    least_bytes: int = 64 << 10


class UnreadableEncoding(httpx2.DecodingError):
    """The reply came in a content-encoding that was not offered and cannot be read."""


_bound: ContextVar[_Bound | None] = ContextVar("keld_call", default=None)
_until: ContextVar[float | None] = ContextVar("keld_verb", default=None)
_on_progress: ContextVar[Callable[[float], None] | None] = ContextVar("keld_pulse", default=None)


@contextmanager
def within(until: float) -> Iterator[None]:
    """While it lasts, a call of the kind `asking` has no longer than `time.monotonic() == until`, and none is begun after it."""
    token = _until.set(until)
    try:
        yield
    finally:
        _until.reset(token)


@contextmanager
def reporting_progress(pulse: Callable[[float], None]) -> Iterator[None]:
    """While it lasts, `pulse(seconds)` is called when a call begins or moves: so long it may be silent from then on."""
    token = _on_progress.set(pulse)
    try:
        yield
    finally:
        _on_progress.reset(token)


@contextmanager
def asking(patience: Patience) -> Iterator[None]:
    """Bounds a call that is harmless, small, and may be tried again.

    Raises:
        ProviderUnreachable: the verb's time is over; nothing was sent.
    """
    left_s, until = patience.call_s, _until.get()
    if until is not None:
        if until <= time.monotonic():
            raise ProviderUnreachable("The time for this look was over before all was looked at. The rest is looked at next time.")
        left_s = min(left_s, max(until - time.monotonic(), _LEAST_S))
    with _bounded(_Bound(patience, left_s, retries=True)):
        yield


@contextmanager
def asking_beyond_verb(patience: Patience) -> Iterator[None]:
    """As `asking`, of a call within a step that is finished once it is begun: it has its own time, whatever the verb has left.

    Else the second of two result files could never be fetched where the first takes longer than a verb.
    """
    with _bounded(_Bound(patience, patience.call_s, retries=True)):
        yield


@contextmanager
def sending(patience: Patience) -> Iterator[None]:
    """Bounds a call with a large body, made once."""
    with _bounded(_Bound(patience, patience.stall_s, writes=True)):
        yield


@contextmanager
def fetching(patience: Patience) -> Iterator[None]:
    """Bounds a call with a large reply."""
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
    """A client whose calls are bounded; follows no redirect, since a key would go to wherever it points."""
    # Identity: what cannot be read is not offered, and nothing unfolds to more than came.
    made = _Client(
        follow_redirects=False,
        timeout=httpx2.Timeout(patience.reply_s, pool=patience.call_s),
        headers={"accept-encoding": "identity"},
        event_hooks={"response": [check_encoding]},
    )
    _bind_calls(made)
    return made


def check_encoding(response: httpx2.Response) -> None:
    """Passes if the reply's content-encoding can be read.

    Raises:
        UnreadableEncoding: it cannot.
    """
    coding = response.headers.get("content-encoding", "").strip().lower()
    if coding not in _READABLE:
        raise UnreadableEncoding("a content-encoding that was not asked for", request=response.request)


class _Client(httpx2.Client):
    """Tries a harmless call again, as long as its limit allows."""

    def send(self, request: httpx2.Request, **how: Any) -> httpx2.Response:
        bound = _bound.get()
        for pause_s in _PAUSES_S if bound is not None and bound.retries else ():
            try:
                response = super().send(request, **how)
            except httpx2.TransportError:
                if bound is None or bound.left_s() <= pause_s:
                    raise
            else:
                status = response.status_code
                if (status not in _RETRIED_STATUSES and status < 500) or bound is None or bound.left_s() <= pause_s:
                    return response
                response.close()
            time.sleep(pause_s)
        return super().send(request, **how)


class _Bound:
    """What one call may still take."""

    def __init__(self, patience: Patience, first_s: float, *, retries: bool = False, writes: bool = False, reads: bool = False) -> None:
        self.retries = retries
        self._patience, self._writes, self._reads = patience, writes, reads
        self._replies = False
        self._moved = self._received = 0
        self._allow(first_s)

    def left_s(self) -> float:
        return self._until - time.monotonic()

    def capped(self, timeout: float | None, error: type[httpcore2.TimeoutException]) -> float:
        """`timeout`, or what is left of the call.

        Raises:
            error: nothing is left.
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
        if (pulse := _on_progress.get()) is not None:
            pulse(seconds)


# -- the network ----------------------------------------------------------------------------------------------


def _bind_calls(made: httpx2.Client) -> None:
    """Puts the bounds under every pool of a client, those of proxies included."""
    for transport in (made._transport, *made._mounts.values()):
        pool: Any = getattr(transport, "_pool", None)
        if transport is None:
            continue  # a host that goes by no proxy
        if not isinstance(getattr(pool, "_network_backend", None), httpcore2.NetworkBackend):
            raise AssertionError("this release of httpx2 keeps its network backend elsewhere, so its calls would have no limit")
        pool._network_backend = _Backend(pool._network_backend)


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
        bound = _bound.get()
        if bound is None:
            return _Stream(self._inner.connect_tcp(host, port, timeout, local_address, socket_options))
        addresses = _addresses(host, port)  # first, since it takes its time, too
        # A share for each address: the standard library would give every one of them the whole.
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
        view = memoryview(buffer)
        for start in range(0, len(view), _PIECE):
            piece = view[start : start + _PIECE]
            self._inner.write(bytes(piece), bound.capped(timeout, httpcore2.WriteTimeout))
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
    """How many addresses a host has; one, where its name cannot be resolved: that is told where it is connected to."""
    try:
        return len(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)) or 1
    except OSError:
        return 1
