"""Auth: secrets that expire, renewed in time and never within an event loop: tokens of Google Cloud and Entra, credentials of AWS.

Beside `provider`, above `part`, whose protocol `Auth` it implements.  The libraries of the clouds get a secret by calls of their own, without a limit
that holds for the whole; so they run in a thread of their own, for which nobody waits longer than `limit_s`.

How long a secret is good is measured by two clocks, and what is over by one of them is over: the wall clock can be set back, and the monotonic one does
not count the hours that a machine was suspended.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Generic, NamedTuple, TypeVar

from keld.errors import AccessRefused
from keld.providers.fault import Fault, Sent, cause_of
from keld.providers.part import Outgoing

T = TypeVar("T")
_EARLY_S = 300.0  # a secret is renewed before it expires: a clock may be wrong, and the request takes time
_PAUSE_S = 15.0  # after a renewal that failed, while the old secret is still good


class Token(NamedTuple):
    """A bearer token; `expires_at` in unix seconds."""

    value: str
    expires_at: float


class Clocks(NamedTuple):
    """The wall clock and the monotonic one, in seconds, at one instant."""

    wall: float
    monotonic: float

    @staticmethod
    def now() -> Clocks:
        return Clocks(time.time(), time.monotonic())

    def after(self, seconds: float) -> Clocks:
        return Clocks(self.wall + seconds, self.monotonic + seconds)

    def reached(self, at: Clocks) -> bool:
        """True if one of the clocks has reached `at`."""
        return self.wall >= at.wall or self.monotonic >= at.monotonic


class Kept(Generic[T]):
    """A secret that expires, renewed by one thread, while the others go on with the old one as long as it is good.

    Args:
        fetch: gets the secret, and until when it is good, in unix seconds; it may block.  It raises `AccessRefused` if a person must act; any other
            exception is a failure for now.
        what: the secret, for people, e.g. "a token of Google Cloud".
        limit_s: how long a request waits for it.
        clocks: the time now.
    """

    def __init__(
        self, fetch: Callable[[], tuple[T, float]], what: str, limit_s: float = 30.0, clocks: Callable[[], Clocks] = Clocks.now
    ) -> None:
        self.secret: T | None = None
        self._fetch, self._what, self._limit_s, self._clocks = fetch, what, limit_s, clocks
        self._renew_at = self._expires_at = Clocks(0.0, 0.0)
        self._lock = threading.Lock()

    def get(self) -> T:
        """The secret as it is; it is not renewed.

        Raises:
            Fault: there is none.
        """
        if self.secret is None:
            raise Fault(sent=Sent.NO, cause=f"{self._what} is missing")
        return self.secret

    def due(self) -> bool:
        return self.secret is None or self._clocks().reached(self._renew_at)

    def renew(self) -> None:
        """Gets the secret anew, unless another thread just did.

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
        return self.secret is not None and not self._clocks().reached(self._expires_at)

    def _renew(self) -> None:
        got = _Fetched(self._fetch)
        got.join(self._limit_s)
        now = self._clocks()
        if got.found is not None:
            secret, expires_at = got.found
            left_s = expires_at - now.wall
            self._expires_at, self._renew_at = now.after(left_s), now.after(max(left_s - _EARLY_S, left_s / 2))
            self.secret = secret
        elif isinstance(got.error, AccessRefused):
            raise got.error
        elif self._is_good():
            self._renew_at = now.after(_PAUSE_S)
        else:
            why = cause_of(got.error) if got.error is not None else f"nothing came within {self._limit_s:,.0f} s"
            raise Fault(sent=Sent.NO, cause=f"{self._what} could not be had: {why}")


class Renewed:
    """`Auth` with a bearer token that expires.

    Args:
        fetch, what, limit_s, clocks: as of `Kept`.
        constant: headers of each request beside the token's.
    """

    def __init__(
        self,
        fetch: Callable[[], Token],
        what: str,
        *,
        limit_s: float = 30.0,
        constant: Mapping[str, str] | None = None,
        clocks: Callable[[], Clocks] = Clocks.now,
    ) -> None:
        self._kept, self._constant = Kept(lambda: _with_its_end(fetch()), what, limit_s, clocks), dict(constant or {})

    def headers(self, outgoing: Outgoing) -> Mapping[str, str]:
        return {**self._constant, "authorization": f"Bearer {self._kept.get().value}"}

    def token(self) -> Token:
        """The token now, renewed if that is due; it may block.

        Raises:
            Fault, AccessRefused: as `renew`.
        """
        if self.due():
            self.renew()
        return self._kept.get()

    def due(self) -> bool:
        return self._kept.due()

    def renew(self) -> None:
        """Gets a new token; see `Kept.renew`.

        Raises:
            Fault, AccessRefused.
        """
        self._kept.renew()


def _with_its_end(token: Token) -> tuple[Token, float]:
    return token, token.expires_at


class _Fetched(threading.Thread, Generic[T]):
    """A call for a secret, in a thread that ends with the process if it hangs."""

    def __init__(self, fetch: Callable[[], tuple[T, float]]) -> None:
        super().__init__(name="keld-secret", daemon=True)
        self.found: tuple[T, float] | None = None
        self.error: Exception | None = None
        self._fetch = fetch
        self.start()

    def run(self) -> None:
        try:
            self.found = self._fetch()
        except Exception as error:  # noqa: BLE001  it is raised again, or told, by the thread that waits
            self.error = error
