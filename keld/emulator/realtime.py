"""Realtime: a call that is answered at once, and paid.

A service's route -> **`realtime`** -> a dialect.  Rate limits and planned HTTP faults are the gate's.
"""

from collections.abc import Mapping

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from .bill import entry
from .dialect import Conditions, Dialect
from .fault import ROW_FAULTS
from .rule import Event, row_fate
from .service import Endpoint, Handler, Service


def answering(service: Service, dialect: Dialect, headers: Mapping[str, str] | None = None) -> Handler:
    """A handler that gives the dialect's answer, which is on the bill before it is sent; `headers` go with it."""

    async def answer(request: Request) -> Response:
        body = await request.body()
        event = Event(provider=service.kind, path=request.url.path, model=service.asked(request, body).model, lane="realtime")
        content = await run_in_threadpool(_answered, service, dialect, event, body, request.state.arrived)
        return Response(content, media_type="application/json", headers=headers)

    return answer


def realtime_routes(service: Service, dialects: Mapping[str, Dialect], headers: Mapping[str, str] | None = None) -> list[Endpoint]:
    """A route for each of the endpoints that begin with `/v1`, under the service's own base."""
    return [
        Endpoint(
            operation="realtime",
            method="POST",
            path=service.base + endpoint.removeprefix("/v1"),
            handler=answering(service, dialect, headers),
        )
        for endpoint, dialect in dialects.items()
    ]


def _answered(service: Service, dialect: Dialect, event: Event, body: bytes, arrived: int) -> str:
    store = service.store
    rules = store.faults.take("rows", ROW_FAULTS, event)
    fate = next((row_fate([rule], rule.seen - 1, "") for rule in rules), None)
    at = store.clock.time()
    made = dialect.make(body, Conditions(at, False, fate, arrived=arrived))
    store.realtime_bill.add(entry(service.kind, made, batch_id=None, custom_id=None, at=at))
    return made.body
