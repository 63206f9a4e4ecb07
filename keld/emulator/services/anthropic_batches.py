"""Anthropic batches: the routes of message batches."""

import secrets
from dataclasses import dataclass, field
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..batch import Batch
from ..dialect import Dialect
from ..error import ApiError
from ..fault import DOWNLOAD_FAULTS
from ..host import Host
from ..life import Phase
from ..page import page
from ..row import Rows
from ..rule import Event
from ..service import Endpoint, batch_routes, model_of
from ..store import Store
from ..wire import download
from .anthropic_envelope import AnthropicEnvelope
from .anthropic_input import receive, rows_of
from .anthropic_object import message_batch

_envelope = AnthropicEnvelope()


@dataclass(frozen=True)
class Batches:
    """The message batches of one service; `kind` is the service's, `base` the path before `/batches`."""

    store: Store
    kind: str
    base: str
    dialect: Dialect
    host: Host = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "host", Host(store=self.store, kind=self.kind))

    def routes(self) -> list[Endpoint]:
        batches, one = f"{self.base}/batches", f"{self.base}/batches/{{batch_id}}"
        return [
            *batch_routes(batches, self),
            Endpoint(operation="delete", method="DELETE", path=one, handler=self.delete),
            Endpoint(operation="download", method="GET", path=one + "/results", handler=self.results),
        ]

    async def create(self, request: Request) -> Response:
        folder = self.store.folder
        received = await receive(request, folder / f"{secrets.token_hex(8)}.body")
        rows = await run_in_threadpool(rows_of, received, folder / f"{secrets.token_hex(8)}.requests")
        model = model_of(_envelope.read(rows[0])[1])
        return self.host.create(
            lambda: self._make(rows, request.url.path, model),
            lambda batch: batch.answer(),
            lambda batch: message_batch(batch, Phase("in_progress", 0), str(request.base_url)),
        )

    async def list(self, request: Request) -> Response:
        query = request.query_params
        shown, more = page(
            self.host.listed(),
            lambda batch: batch.id,
            limit=_limit(request),
            after=query.get("after_id"),
            before=query.get("before_id"),
        )
        await self.store.catch_up(shown)
        data = [await self._look(batch, request) for batch in shown]
        ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
        return JSONResponse({"data": data, "has_more": more, **ends})

    async def get(self, request: Request) -> Response:
        batch = self._batch(request)
        await self.store.catch_up([batch])
        return JSONResponse(await self._look(batch, request))

    async def cancel(self, request: Request) -> Response:
        batch = self._batch(request)
        if await self.host.cancel(batch) is not None:
            raise ApiError(status=400, message=f"Batch {batch.id} cannot be canceled because it has already ended.")
        return JSONResponse(message_batch(batch, Phase("cancelling", 0), str(request.base_url)))

    async def delete(self, request: Request) -> Response:
        batch = self._batch(request)
        await self.store.catch_up([batch])
        if not batch.phase(self.host.now()).ended:
            raise ApiError(status=400, message=f"Batch {batch.id} cannot be deleted before it has ended; cancel it first.")
        batch.deleted = True
        return JSONResponse({"id": batch.id, "type": "message_batch_deleted"})

    async def results(self, request: Request) -> Response:
        batch = self._batch(request)
        await self.store.catch_up([batch])
        if (await self._look(batch, request))["results_url"] is None:
            message = f"Results for batch {batch.id} are not available until its processing has ended."
            raise ApiError(status=404, message=message)
        event = Event(provider=self.kind, path=request.url.path, batch=batch.ordinal, model=batch.model)
        return download(batch.out_path, "application/x-jsonl", self.store.faults.take("download", DOWNLOAD_FAULTS, event))

    def _batch(self, request: Request) -> Batch:
        batch_id = request.path_params["batch_id"]
        batch = self.host.find(batch_id)
        if batch is None:
            raise ApiError(status=404, message=f"Message batch not found: {batch_id}")
        return batch

    async def _look(self, batch: Batch, request: Request) -> dict[str, Any]:
        phase = await self.host.look(batch)
        shown = message_batch(batch, phase, str(request.base_url))
        return shown if batch.names_results(self.host.now(), phase) else {**shown, "results_url": None}

    def _make(self, rows: Rows, path: str, model: str | None) -> Batch:
        batch_id = f"msgbatch_{secrets.token_hex(12)}"
        batch = self.store.new_batch(batch_id, self.kind, envelope=_envelope, dialect=self.dialect, path=path, model=model)
        batch.rows = rows
        return batch


def _limit(request: Request) -> int:
    given = request.query_params.get("limit", "20")
    if not given.isdigit() or not 1 <= int(given) <= 1000:
        raise ApiError(status=400, message="limit: Input should be between 1 and 1000")
    return int(given)
