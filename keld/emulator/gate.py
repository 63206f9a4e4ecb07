"""Gate: what every call passes: the log, the key, the planned HTTP faults, the dialect's error shape.

The dialects' routes know nothing of it.
"""

import asyncio
import secrets
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from .error import ApiError, error_of
from .fault import HTTP_FAULTS, Event, Faults, Rule
from .openai import model_of
from .store import Store
from .wire import Download, Drop

Route = Callable[[Request], Awaitable[Response]]
Operation = Literal["upload", "create", "list", "get", "cancel", "download", "delete", "realtime"]
_GARBAGE = "<html><body><h1>It works!</h1></body></html>"


class Dialect(Protocol):
    """What the gate needs of a dialect."""

    def error_body(self, error: ApiError) -> dict[str, Any]: ...

    def key_missing(self) -> ApiError: ...

    def key_refused(self, key: str) -> ApiError: ...


@dataclass(frozen=True, kw_only=True)
class Call:
    """One HTTP call as it came in; `status` is None where the connection was dropped."""

    method: str
    path: str
    status: int | None
    retry_count: int | None
    at: datetime


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Wraps routes."""

    store: Store
    faults: Faults
    api_keys: frozenset[str] | None
    calls: list[Call] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def guard(self, operation: Operation, provider: Literal["openai", "anthropic"], dialect: Dialect, route: Route) -> Route:
        """`route` behind the gate."""

        async def guarded(request: Request) -> Response:
            try:
                self._check_key(request, dialect)
                response = await self._with_faults(operation, provider, request, route)
            except ApiError as error:
                response = JSONResponse(dialect.error_body(error), error.status, error.headers)
            name = f"req_{secrets.token_hex(12)}"
            response.headers["request-id" if provider == "anthropic" else "x-request-id"] = name
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
        )
        with self.lock:
            self.calls.append(call)

    def _check_key(self, request: Request, dialect: Dialect) -> None:
        key = key_of(request)
        if not key:
            raise dialect.key_missing()
        if self.api_keys is not None and key not in self.api_keys:
            raise dialect.key_refused(key)

    async def _with_faults(
        self, operation: Operation, provider: Literal["openai", "anthropic"], request: Request, route: Route
    ) -> Response:
        rules = self.faults.take(operation, HTTP_FAULTS, await self._event(operation, provider, request))
        for rule in rules:
            if rule.do == "delay":
                await asyncio.sleep(float(rule.get("delay_s", 1)))
        before = [rule for rule in rules if rule.do != "delay" and not _is_after(rule)]
        if before:
            return _instead(before[0])
        if operation == "realtime" and self.store.settings.realtime_latency_s:
            await asyncio.sleep(self.store.settings.realtime_latency_s)
        response = await route(request)
        after = [rule for rule in rules if _is_after(rule)]
        return _instead(after[0]) if after else response

    async def _event(self, operation: Operation, provider: Literal["openai", "anthropic"], request: Request) -> Event:
        # The body is read only where a plan exists, and kept by Starlette for the route.
        model = model_of(await request.body()) if operation == "realtime" and self.faults.rules() else None
        batch = self.store.batch(request.path_params.get("batch_id", ""), provider)
        ordinal = self.store.next_ordinal(provider) if operation == "create" else batch.ordinal if batch else None
        lane = "realtime" if operation == "realtime" else "batch"
        return Event(provider=provider, path=request.url.path, model=model, batch=ordinal, lane=lane)


def _status(request: Request, response: Response) -> int | None:
    if isinstance(response, Drop):
        return None
    # A file makes out only while it is being sent that a part of it was asked for.
    partial = isinstance(response, Download) and "range" in request.headers
    return 206 if partial else response.status_code


def key_of(request: Request) -> str:
    """The API key in either header; empty when there is none."""
    bearer = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
    return bearer or request.headers.get("x-api-key", "").strip()


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
            return Response(rule.get("body", _GARBAGE), int(rule.get("status", 200)), media_type="text/html")
        case _:
            error = error_of(int(rule.get("status", 500)), rule.get("message", None), rule.get("code", None))
            wait = rule.get("retry_after", None)
            headers = {} if wait is None else {"retry-after": str(wait)}
            raise ApiError(status=error.status, message=error.message, code=error.code, headers=headers)
