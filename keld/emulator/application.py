"""Application: the routes of all services and of the control side, as one ASGI application."""

from collections import defaultdict
from collections.abc import Iterable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route, Router
from starlette.types import Receive, Scope, Send

from .control import Control
from .gate import Gate
from .service import Endpoint, Handler, Service


class _HeaderRoute(Route):
    """A route for requests that have a certain header."""

    def __init__(self, endpoint: Endpoint, handler: Handler) -> None:
        super().__init__(endpoint.path, handler, methods=[endpoint.method])
        self._header = endpoint.header.lower().encode() if endpoint.header else None

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if self._header is not None and all(name != self._header for name, _ in scope.get("headers", ())):
            return Match.NONE, {}
        return super().matches(scope)


class _ByRoot(BaseRoute):
    """All endpoints, by the first part of their path; their routes are made at the first request that needs them.

    A test suite starts thousands of emulators, and asks one or two of the services of each; to make all routes is most of a start.
    """

    def __init__(self, endpoints: Iterable[tuple[Service, Endpoint]], gate: Gate) -> None:
        self._gate = gate
        self._endpoints: dict[str, list[tuple[Service, Endpoint]]] = defaultdict(list)
        self._routers: dict[str, Router] = {}
        for service, endpoint in endpoints:
            self._endpoints[_root(endpoint.path)].append((service, endpoint))

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return Match.FULL, {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        root = _root(scope["path"])
        if root not in self._routers:
            made = [_HeaderRoute(endpoint, self._gate.guard(service, endpoint)) for service, endpoint in self._endpoints.get(root, ())]
            self._routers[root] = Router(made)
        await self._routers[root](scope, receive, send)


def application(services: Iterable[Service], gate: Gate, control: Control) -> Starlette:
    """All routes; a path that is none of them is refused by the service that owns it."""
    services = list(services)
    owners = sorted(services, key=lambda service: len(service.owns), reverse=True)

    async def unknown(request: Request, error: Exception) -> Response:
        owner = next((service for service in owners if request.url.path.startswith(service.owns)), services[0])
        response = owner.unknown(request)
        gate.note(request, response)
        return response

    # Starlette takes the first that matches: those that ask for a header come first.
    endpoints = [(service, endpoint) for service in services for endpoint in service.routes()]
    endpoints.sort(key=lambda pair: pair[1].header is None)
    return Starlette(routes=[*control.routes(), _ByRoot(endpoints, gate)], exception_handlers={404: unknown, 405: unknown})


def _root(path: str) -> str:
    return path.lstrip("/").partition("/")[0]
