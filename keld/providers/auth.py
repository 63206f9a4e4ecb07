"""Auth: tokens that expire, renewed in time and never within an event loop.

Beside `provider`, above `part`, whose protocol `Auth` it implements.  The libraries of the clouds get a token by calls of their own, without a limit that
holds for the whole; so they run in a thread of their own, for which nobody waits longer than `limit_s`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from keld.errors import AccessRefused
from keld.providers.fault import Fault, Sent, cause_of
from keld.providers.part import Outgoing

_EARLY_S = 300.0  # a token is renewed before it expires: a clock may be wrong, and the request takes time
_PAUSE_S = 15.0  # after a renewal that failed, while the old token is still good


class Token(NamedTuple):
    """A bearer token; `expires_at` in unix seconds."""

    value: str
    expires_at: float


class Renewed:
    """`Auth` with a bearer token that expires.

    Args:
        fetch: gets a token; it may block.  It raises `AccessRefused` if a person must act; any other exception is a failure for now.
        what: the token, for people, e.g. "a token of Google Cloud".
        limit_s: how long a request waits for a token.
        constant: headers of each request beside the token's.
    """

    def __init__(self, fetch: Callable[[], Token], what: str, *, limit_s: float = 30.0, constant: Mapping[str, str] | None = None) -> None:
        self._fetch, self._what, self._limit_s, self._constant = fetch, what, limit_s, dict(constant or {})
        self._token: Token | None = None
        self._next = 0.0  # unix seconds: when to renew
        self._lock = threading.Lock()

    def headers(self, outgoing: Outgoing) -> Mapping[str, str]:
        if self._token is None:
            raise Fault(sent=Sent.NO, cause=f"there is no {self._what}")
        return {**self._constant, "authorization": f"Bearer {self._token.value}"}

    def token(self) -> Token:
        """The token now, renewed if that is due; it may block.

        Raises:
            Fault, AccessRefused: as `renew`.
        """
        if self.due():
            self.renew()
        assert self._token is not None, "a renewal without a token raises"
        return self._token

    def due(self) -> bool:
        return time.time() >= self._next

    def renew(self) -> None:
        """Gets a new token, unless another thread just did; while one does, the others go on with the old token as long as it is good.

        Raises:
            Fault: none within its time, and the old one has expired; nothing was sent.
            AccessRefused: it was refused.
        """
        if not self._lock.acquire(timeout=0 if self._is_good() else self._limit_s):
            if self._is_good():
                return
            raise Fault(sent=Sent.NO, cause=f"{self._what} did not come within {self._limit_s:,.0f} s")
        try:
            if self.due():
                self._renew()
        finally:
            self._lock.release()

    def _is_good(self) -> bool:
        return self._token is not None and time.time() < self._token.expires_at

    def _renew(self) -> None:
        got = _Fetched(self._fetch)
        got.join(self._limit_s)
        if got.token is not None:
            self._token = got.token
            left_s = got.token.expires_at - time.time()
            self._next = time.time() + max(left_s - _EARLY_S, left_s / 2)
        elif isinstance(got.error, AccessRefused):
            raise got.error
        elif self._is_good():
            self._next = time.time() + _PAUSE_S  # the old token is still good
        else:
            why = cause_of(got.error) if got.error is not None else f"nothing came within {self._limit_s:,.0f} s"
            raise Fault(sent=Sent.NO, cause=f"{self._what} could not be had: {why}")


class _Fetched(threading.Thread):
    """A call for a token, in a thread that ends with the process if it hangs."""

    def __init__(self, fetch: Callable[[], Token]) -> None:
        super().__init__(name="keld-token", daemon=True)
        self.token: Token | None = None
        self.error: Exception | None = None
        self._fetch = fetch
        self.start()

    def run(self) -> None:
        try:
            self.token = self._fetch()
        except Exception as error:  # noqa: BLE001  it is raised again, or told, by the thread that waits
            self.error = error
