"""Gate: the checks of every call: the log, the key, the planned HTTP faults, the rate limits, the service's error shape.

The services' routes do not depend on it.
"""

import asyncio
import math
import secrets
import threading
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import format_datetime

from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response

from .cache import tick
from .error import ApiError, error_of
from .fault import HTTP_FAULTS, Faults
from .rate import Rates, span
from .rule import Event, Rule
from .service import Endpoint, Handler, Service
from .store import Store
from .wire import Download, Drop, Truncated

_GARBAGE = "<html><body><h1>It works!</h1></body></html>"


@dataclass(frozen=True, kw_only=True)
class Call:
    """One HTTP call as it came in; `status` is None where the connection was dropped, `range` as the header says it."""

    method: str
    path: str
    status: int | None
    retry_count: int | None
    at: datetime
    range: str | None = None


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Wraps the handlers of endpoints."""

    store: Store
    faults: Faults
    api_keys: frozenset[str] | None
    rates: Rates
    calls: list[Call] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def guard(self, service: Service, endpoint: Endpoint) -> Handler:
        """The endpoint's handler behind the gate."""

        async def guarded(request: Request) -> Response:
            try:
                self._check_key(request, service)
                response = await self._with_faults(request, service, endpoint)
            except ApiError as error:
                response = service.refusal(error)
            except ClientDisconnect:  # the client died in the middle of its request; no response is possible
                response = Drop()
            response.headers[service.request_id_header] = f"req_{secrets.token_hex(12)}"
            response.headers["date"] = format_datetime(self.store.clock.now(), usegmt=True)
            self.note(request, response)
            return response

        return guarded

    def note(self, request: Request, response: Response) -> None:
        """Log a call."""
        retries = request.headers.get("x-stainless-retry-count")
        call = Call(
            method=request.method,
            path=request.url.path,
            status=_status(request, response),
            retry_count=int(retries) if retries and retries.isdigit() else None,
            at=self.store.clock.now(),
            range=request.headers.get("range"),
        )
        with self.lock:
            self.calls.append(call)

    def _check_key(self, request: Request, service: Service) -> None:
        key = service.key_of(request)
        refusal = None if key else service.key_missing()
        if refusal is not None:
            raise refusal
        if self.api_keys is not None and key not in self.api_keys:
            raise service.key_refused(key)

    async def _with_faults(self, request: Request, service: Service, endpoint: Endpoint) -> Response:
        rules = self.faults.take(endpoint.operation, HTTP_FAULTS, await self._event(request, service, endpoint))
        for rule in rules:
            if rule.do == "delay":
                await asyncio.sleep(float(rule.get("delay_s", 1)))
        before = [rule for rule in rules if rule.do != "delay" and not _is_after(rule)]
        if before:
            return _instead(before[0])
        limits: dict[str, str] = {}
        request.state.arrived = tick()
        if endpoint.operation == "realtime":
            limits = self._admit(request, service, await request.body())
            await asyncio.sleep(self.store.settings.realtime_latency_s)
        response = await endpoint.handler(request)
        response.headers.update(limits)
        after = [rule for rule in rules if _is_after(rule)]
        return _instead(after[0]) if after else response

    def _admit(self, request: Request, service: Service, body: bytes) -> dict[str, str]:
        """The headers that say what is left of the rate limits.

        Raises:
            ApiError: 429, nothing is left.
        """
        asked = service.asked(request, body)
        levels = self.rates.admit(service.kind, asked.model or "", -(-len(body) // 4) + asked.most_tokens)
        headers = service.rate_headers(levels, self.rates.clock.time()) if levels else {}
        wait_s = max((level.wait_s for level in levels.values()), default=0.0)
        if wait_s:
            message = f"Rate limit reached. Please try again in {span(wait_s)}."
            raise ApiError(status=429, message=message, headers=headers | {"retry-after": str(math.ceil(wait_s))})
        return headers

    async def _event(self, request: Request, service: Service, endpoint: Endpoint) -> Event:
        realtime, create = endpoint.operation == "realtime", endpoint.operation == "create"
        # The body is read only where a plan exists, and kept by Starlette for the route.
        model = service.asked(request, await request.body()).model if realtime and self.faults.rules() else None
        batch = self.store.batch(service.batch_id_of(request), service.kind)
        ordinal = self.store.next_ordinal(service.kind) if create else batch.ordinal if batch else None
        lane = "realtime" if realtime else "batch"
        return Event(provider=service.kind, path=request.url.path, model=model, batch=ordinal, lane=lane)


def _status(request: Request, response: Response) -> int | None:
    if isinstance(response, Drop):
        return None
    # A file makes out only while it is being sent that a part of it was asked for.
    partial = isinstance(response, Download | Truncated) and "range" in request.headers
    return 206 if partial else response.status_code


def _is_after(rule: Rule) -> bool:
    return rule.do == "drop_after" or bool(rule.get("after", False))


def _instead(rule: Rule) -> Response:
    """The response a fault gives.

    Raises:
        ApiError: the fault is an error status.
    """
    match rule.do:
        case "drop_before" | "drop_after":
            return Drop()
        case "redirect":
            return RedirectResponse(rule.get("location", "http://other-host.invalid"), 307)
        case "garbage":
            encoding = rule.get("encoding", None)
            headers = {} if encoding is None else {"content-encoding": encoding}
            return Response(rule.get("body", _GARBAGE), int(rule.get("status", 200)), headers, media_type="text/html")
        case _:
            error = error_of(int(rule.get("status", 500)), rule.get("message", None), rule.get("code", None))
            wait = rule.get("retry_after", None)
            headers = {} if wait is None else {"retry-after": str(wait)}
            raise ApiError(status=error.status, message=error.message, code=error.code, headers=headers)
