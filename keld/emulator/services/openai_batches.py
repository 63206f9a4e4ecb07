"""OpenAI batches: the routes of the Batch API; an input file in, an output file and an error file out."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..batch import Batch, Problem
from ..dialect import Dialect
from ..error import ApiError
from ..host import Host
from ..life import Phase
from ..page import page
from ..result import name_results
from ..row import Rows
from ..service import Endpoint, batch_routes
from ..store import Store, StoredFile
from .openai_envelope import OpenAIEnvelope
from .openai_input import MAX_REQUESTS, CheckedLine, first_line, problems
from .openai_object import batch_object, list_object
from .openai_parameter import Create, create_body, limit_of

_DAY_S = 86_400.0


@dataclass(frozen=True)
class Batches:
    """The batches of one service.

    Args:
        kind: the service's.
        base: the path before `/batches`.
        dialects: those of its endpoints.
        max_requests: of one batch.
        windows: the completion windows that it takes.
        pages: the list has pages; else one reply has all batches, whatever is asked for, and does not say whether there are more.
    """

    store: Store
    kind: str
    base: str
    dialects: Mapping[str, Dialect]
    max_requests: int = MAX_REQUESTS
    windows: tuple[str, ...] = ("24h",)
    pages: bool = True
    host: Host = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "host", Host(store=self.store, kind=self.kind, publish=self._publish))

    def routes(self) -> list[Endpoint]:
        return batch_routes(f"{self.base}/batches", self)

    async def create(self, request: Request) -> Response:
        asked = create_body(await request.body(), self.dialects, self.windows)
        file = self.store.file(asked.input_file_id, self.kind)
        if file is None:
            raise ApiError(status=400, message=f"No such File object: {asked.input_file_id}", param="input_file_id")
        if file.purpose != "batch":
            raise ApiError(status=400, message="The input file must have purpose 'batch'.", param="input_file_id")
        line = await run_in_threadpool(first_line, file.path)
        self.check_create(file, line)
        return self.host.create(
            lambda: self._make(asked, file, request.url.path, line),
            lambda batch: self._prepare(batch, file.path),
            lambda batch: self.shown(batch, Phase("validating", 0)),
        )

    def check_create(self, file: StoredFile, line: CheckedLine | None) -> None:
        """Refuses what the service finds wrong at once; here nothing, since the file is looked at later.

        Raises:
            ApiError: it is refused.
        """

    async def list(self, request: Request) -> Response:
        if not self.pages:
            everything = self.host.listed()
            await self.store.catch_up(everything)
            return JSONResponse({"object": "list", "data": [await self._look(batch) for batch in everything]})
        limit, after = limit_of(request, 20, 100), request.query_params.get("after")
        shown, more = page(self.host.listed(), lambda batch: batch.id, limit=limit, after=after)
        await self.store.catch_up(shown)
        return JSONResponse(list_object([await self._look(batch) for batch in shown], more))

    async def get(self, request: Request) -> Response:
        batch = self._batch(request)
        await self.store.catch_up([batch])
        return JSONResponse(await self._look(batch))

    async def cancel(self, request: Request) -> Response:
        batch = self._batch(request)
        ended = await self.host.cancel(batch)
        if ended is not None:
            raise ApiError(status=409, message=f"Cannot cancel a batch with status '{ended}'.")
        # Even a cancel that takes no time is answered `cancelling`, as the service does.
        return JSONResponse(self.shown(batch, Phase("cancelling", batch.phase(self.host.now()).done)))

    def shown(self, batch: Batch, phase: Phase) -> dict[str, Any]:
        """A batch at one phase, as the service shows it."""
        return batch_object(batch, phase)

    def _batch(self, request: Request) -> Batch:
        batch_id = request.path_params["batch_id"]
        batch = self.host.find(batch_id)
        if batch is None:
            raise ApiError(status=404, message=f"No batch found with id '{batch_id}'.")
        return batch

    async def _look(self, batch: Batch) -> dict[str, Any]:
        phase = await self.host.look(batch)
        shown = self.shown(batch, phase)
        named = batch.names_results(self.host.now(), phase)
        return shown if named else {**shown, "output_file_id": None, "error_file_id": None}

    # --- life ---------------------------------------------------------------------------------------------------------

    def _make(self, asked: Create, file: StoredFile, path: str, line: CheckedLine | None) -> Batch:
        model = None if line is None else line.body.model
        batch_id, dialect = f"batch_{secrets.token_hex(16)}", self.dialects[asked.endpoint]
        batch = self.store.new_batch(batch_id, self.kind, envelope=OpenAIEnvelope(), dialect=dialect, path=path, model=model)
        batch.endpoint, batch.input_file_id, batch.metadata = asked.endpoint, file.id, asked.metadata
        batch.window_s = _DAY_S * 7 if asked.completion_window == "7d" else float(asked.completion_window.removesuffix("h")) * 3600
        expires = asked.output_expires_after
        batch.output_expires_after_s = float(expires["seconds"]) if expires else None
        return batch

    def _prepare(self, batch: Batch, path: Path) -> None:
        rows = Rows.of_lines(path)
        batch.problems = [*self.check(batch, rows)]
        if not batch.problems:
            batch.rows = rows
            batch.answer()

    def check(self, batch: Batch, rows: Rows) -> Sequence[Problem]:
        """Why the batch fails validation; empty: it does not."""
        return problems(self.store, batch, rows, self.max_requests)

    def _publish(self, batch: Batch, phase: Phase) -> None:
        name_results(self.store, batch, phase, expires_after_s=batch.output_expires_after_s)
