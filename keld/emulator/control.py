"""Control: `/_keld`, the emulator's own side: bill, clock, faults, objects, requests.

Open on loopback; with a token, the token is asked for here as everywhere.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from .bill import Slip, lines, summary
from .fault import UnknownFault
from .gate import Gate
from .service import Handler, Service, key_of
from .store import Store

_LINES_A_CHUNK = 2000


@dataclass(frozen=True, kw_only=True)
class Control:
    """The routes under `/_keld`."""

    store: Store
    gate: Gate
    services: Mapping[str, Service]
    token: str | None

    def routes(self) -> list[Route]:
        return [
            Route("/_keld/bill", self._guard(self.bill)),
            Route("/_keld/clock", self._guard(self.clock), methods=["GET", "POST"]),
            Route("/_keld/faults", self._guard(self.faults), methods=["GET", "POST", "DELETE"]),
            Route("/_keld/objects", self._guard(self.objects)),
            Route("/_keld/requests", self._guard(self.requests)),
        ]

    def _guard(self, handler: Handler) -> Handler:
        async def guarded(request: Request) -> Response:
            if self.token is not None and key_of(request) != self.token:
                return JSONResponse({"error": "the token is missing or wrong"}, 401)
            return await handler(request)

        return guarded

    async def bill(self, request: Request) -> Response:
        slips = await run_in_threadpool(self.store.slips)
        if request.query_params.get("summary"):
            return _json(await run_in_threadpool(summary, slips))
        return StreamingResponse(_array(slips), media_type="application/json")

    async def clock(self, request: Request) -> Response:
        if request.method == "POST":
            try:
                self.store.clock.advance(float((await _body(request))["advance_s"]))
            except (KeyError, TypeError, ValueError) as error:
                return JSONResponse({"error": f"expected {{'advance_s': seconds >= 0}}: {error}"}, 400)
            await run_in_threadpool(self.store.wait)
        return _json({"now": self.store.clock.now()})

    async def faults(self, request: Request) -> Response:
        match request.method:
            case "POST":
                try:
                    self.store.faults.add(await _body(request))
                except (UnknownFault, TypeError, AttributeError) as error:
                    return JSONResponse({"error": str(error)}, 400)
            case "DELETE":
                self.store.faults.clear()
            case _:
                pass
        return _json({"rules": self.store.faults.rules(), "log": self.store.faults.log})

    async def objects(self, request: Request) -> Response:
        files = [file for service in self.services.values() for file in service.show_files()]
        return _json({"files": files, "batches": self.batches(str(request.base_url))})

    async def requests(self, request: Request) -> Response:
        return _json(self.gate.calls)

    def batches(self, host: str) -> list[dict[str, Any]]:
        """Every landed batch as its service would show it, newest first, with its provider."""
        now = self.store.clock.time()
        return [
            {"provider": batch.provider, **self.services[batch.provider].show(batch, batch.phase(now), host)}
            for batch in self.store.batches()
        ]


async def _body(request: Request) -> Any:
    try:
        return msgspec.json.decode(await request.body())
    except msgspec.DecodeError as error:
        raise UnknownFault(f"the body is no JSON: {error}") from error


def _json(content: Any) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")


def _array(slips: list[Slip]) -> Iterator[bytes]:
    """A JSON array, in chunks of many lines: each chunk costs a trip to a thread."""
    yield b"["
    chunk: list[bytes] = []
    first = True
    for line in lines(slips):
        chunk.append(line)
        if len(chunk) == _LINES_A_CHUNK:
            yield (b"" if first else b",") + b",".join(chunk)
            chunk, first = [], False
    if chunk:
        yield (b"" if first else b",") + b",".join(chunk)
    yield b"]"
