"""Proxy: stands between a client and anything of the two shapes, and drops, delays, trickles, rewrites or repeats what passes.

A request that `lands_s` later is kept, and `deliver`ed once the clock has come so far, when nobody waits for it any more.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from tests.adversary.mode import Fault, Plan, bent, call_of
from tests.adversary.wire import Reply, Request, Wire

_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "content-type"}


class Proxy:
    """A server that hands on to another.

    Args:
        upstream: `http://host:port` of the other.
        plan: what goes wrong on the way.
        clock: gives now; for what is late.
    """

    def __init__(self, upstream: str, plan: Plan, clock: Callable[[], datetime]) -> None:
        self._upstream, self._plan, self._clock, self._began = urlsplit(upstream), plan, clock, clock()
        self._late: list[tuple[datetime, Request]] = []
        self._lock = threading.Lock()
        self.wire = Wire(self.answer)
        self.url = self.wire.url

    def close(self) -> None:
        self.wire.close()

    def answer(self, request: Request) -> Reply:
        """The reply to one request."""
        at, _ = call_of(request)
        with self._lock:
            fault = self._plan.take(at, (self._clock() - self._began).total_seconds())
        return bent(fault, lambda: self._hand_on(request, fault))

    def deliver(self) -> None:
        """Hands on what is late and due; its replies are nobody's."""
        with self._lock:
            due = [request for at, request in self._late if at <= self._clock()]
            self._late = [(at, request) for at, request in self._late if at > self._clock()]
        for request in due:
            self._send(request)

    def _hand_on(self, request: Request, fault: Fault | None) -> Reply:
        if fault is None or not fault.lands_s:
            return self._send(request)
        with self._lock:
            self._late.append((self._clock() + timedelta(seconds=fault.lands_s), request))
        return Reply(status=504, kind="text/html", body=b"<html>gateway timeout</html>")

    def _send(self, request: Request) -> Reply:
        connection = http.client.HTTPConnection(self._upstream.hostname or "", self._upstream.port, timeout=60)
        try:
            headers = {name: value for name, value in request.headers.items() if name not in _HOP - {"content-type"}}
            connection.request(request.method, request.target, request.body, headers)
            reply = connection.getresponse()
            told = {name: value for name, value in reply.getheaders() if name.lower() not in _HOP}
            return Reply(status=reply.status, body=reply.read(), kind=reply.getheader("content-type") or "application/json", headers=told)
        finally:
            connection.close()
