"""Mistral jobs: the routes of the Batch API; an input file in, an output file and an error file out.

Not served: `requests` in the create itself, and several input files.
"""

import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..batch import Batch, Problem
from ..dialect import Dialect
from ..dialects.mistral_body import invalid, invalid_model
from ..error import ApiError
from ..host import Host
from ..life import ENDED, Phase
from ..result import name_results
from ..row import Rows
from ..service import Endpoint, batch_routes
from ..store import Store, StoredFile
from .mistral_envelope import MistralEnvelope
from .mistral_object import job_object

# docs.mistral.ai/resources/known-limitations, 29 Nov 2026: "Maximum requests per batch: 100,000", "Batch results are available for download
# for 24 hours after completion".  Another page has results for 30 days; the shorter time is the one to be ready for.
MAX_REQUESTS = 100_000
RETENTION_S = 86_400.0
_MOST_HOURS = 168
_QUERY = frozenset(("page", "page_size", "model", "agent_id", "created_after", "created_by_me", "status", "order_by"))


class Create(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /batch/jobs."""

    endpoint: str
    input_files: list[str] | None = None
    model: str | None = None
    metadata: dict[str, str] | None = None
    timeout_hours: int = 24
    agent_id: str | None = None
    requests: Any = None


@dataclass(frozen=True)
class Jobs:
    """The batch jobs of one service; `base` is the path before `/batch`, `dialects` those of its endpoints."""

    store: Store
    kind: str
    base: str
    dialects: Mapping[str, Dialect]
    host: Host = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "host", Host(store=self.store, kind=self.kind, publish=self._publish))

    def routes(self) -> list[Endpoint]:
        return batch_routes(f"{self.base}/batch/jobs", self)

    async def create(self, request: Request) -> Response:
        asked = self._asked(await request.body())
        file = self.store.file((asked.input_files or [""])[0], self.kind)
        if file is None:
            raise ApiError(status=404, message="Input file not found.")
        if file.purpose != "batch":
            raise ApiError(status=400, message=f"File {file.id} does not have purpose `batch`.")
        self._check_queue(file)
        return self.host.create(
            lambda: self._make(asked, file, request.url.path),
            lambda batch: self._prepare(batch, file.path),
            lambda batch: job_object(batch, Phase("validating", 0)),
        )

    def _wanted(self, request: Request) -> list[Batch]:
        """The jobs that a list shows, in its order; every name that is no parameter filters by metadata."""
        query = request.query_params
        found = [batch for batch in self.host.listed() if query.get("model") in (None, batch.model)]
        if after := query.get("created_after"):
            since = _instant(after)
            found = [batch for batch in found if batch.created_at >= since]
        for name in set(query) - _QUERY:
            found = [batch for batch in found if (batch.metadata or {}).get(name) == query[name]]
        if statuses := set(query.getlist("status")):
            now = self.host.now()
            found = [batch for batch in found if job_object(batch, batch.phase(now))["status"] in statuses]
        return found[::-1] if query.get("order_by") == "created" else found

    async def list(self, request: Request) -> Response:
        query = request.query_params
        number, size = _number(query.get("page", "0"), "page", 0, 1 << 31), _number(query.get("page_size", "100"), "page_size", 1, 100)
        wanted = self._wanted(request)
        start = number * size
        shown = wanted[start : start + size]
        await self.store.catch_up(shown)
        return JSONResponse({"object": "list", "data": [await self._look(batch) for batch in shown], "total": len(wanted)})

    async def get(self, request: Request) -> Response:
        batch = self._batch(request)
        await self.store.catch_up([batch])
        return JSONResponse(await self._look(batch))

    async def cancel(self, request: Request) -> Response:
        batch = self._batch(request)
        ended = await self.host.cancel(batch)
        if ended is not None:
            raise ApiError(status=400, message="The job has ended already and cannot be cancelled.")
        return JSONResponse(job_object(batch, Phase("cancelling", batch.phase(self.host.now()).done)))

    def _batch(self, request: Request) -> Batch:
        batch = self.host.find(request.path_params["batch_id"])
        if batch is None:
            raise ApiError(status=404, message="Batch job not found.")
        return batch

    async def _look(self, batch: Batch) -> dict[str, Any]:
        phase = await self.host.look(batch)
        shown = job_object(batch, phase)
        named = batch.names_results(self.host.now(), phase)
        return shown if named else {**shown, "output_file": None, "error_file": None}

    # --- a create -----------------------------------------------------------------------------------------------------

    def _asked(self, body: bytes) -> Create:
        """Raises:
        ApiError: the service does not take it.
        """
        try:
            asked = msgspec.json.decode(body, type=Create)
        except msgspec.ValidationError as error:
            raise invalid(str(error)) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ApiError(status=422, message="JSON decode error", code="json_invalid") from error
        if asked.endpoint not in self.dialects:
            raise ApiError(status=422, message=f"Endpoint {asked.endpoint} is not supported", param="body.endpoint")
        if not 1 <= asked.timeout_hours <= _MOST_HOURS:
            raise ApiError(status=422, message=f"Input should be between 1 and {_MOST_HOURS}", param="body.timeout_hours")
        if asked.requests is not None or len(asked.input_files or ()) > 1:
            raise ApiError(status=422, message="The emulator serves jobs of one input file", param="body.input_files")
        if asked.model is not None and "does-not-exist" in asked.model:
            raise invalid_model(asked.model)
        return asked

    def _check_queue(self, file: StoredFile) -> None:
        """Raises:
        ApiError: 429, too much is waiting for the account (`enqueued_token_limit`, with four bytes to a token).
        """
        limit = self.store.settings.enqueued_token_limit
        if limit is None:
            return
        now = self.host.now()
        waiting = sum(batch.enqueued_tokens for batch in self.store.batches(self.kind) if batch.phase(now).status not in ENDED)
        if waiting + file.size_bytes // 4 > limit:
            raise ApiError(status=429, message="Rate limit exceeded", code="1300")

    def _make(self, asked: Create, file: StoredFile, path: str) -> Batch:
        job_id = str(uuid.UUID(bytes=secrets.token_bytes(16), version=4))
        envelope, dialect = MistralEnvelope(asked.model), self.dialects[asked.endpoint]
        batch = self.store.new_batch(job_id, self.kind, envelope=envelope, dialect=dialect, path=path, model=asked.model)
        batch.endpoint, batch.input_file_id, batch.metadata = asked.endpoint, file.id, asked.metadata
        batch.window_s, batch.enqueued_tokens = asked.timeout_hours * 3600.0, file.size_bytes // 4
        return batch

    def _prepare(self, batch: Batch, path: Path) -> None:
        rows = Rows.of_lines(path)
        batch.begin(rows, batch.planned_failure() or _problem(rows, batch.envelope.read))

    def _publish(self, batch: Batch, phase: Phase) -> None:
        name_results(self.store, batch, phase, expires_after_s=RETENTION_S)


def _problem(rows: Rows, read: Any) -> Problem | None:
    """Why a job fails before it begins."""
    if not 1 <= len(rows) <= MAX_REQUESTS:
        return Problem(code="size", message=f"A batch job has between 1 and {MAX_REQUESTS} requests, not {len(rows)}.")
    seen: set[str] = set()
    for number, row in enumerate(rows, 1):
        try:
            custom_id, _ = read(row)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return Problem(code="line", message=f"Line {number} of the input file is not valid.", line=number)
        if custom_id and custom_id in seen:
            return Problem(code="duplicate", message=f"Line {number} repeats the custom_id of another line.", line=number)
        seen.add(custom_id)
    return None


def _instant(given: str) -> float:
    try:
        return datetime.fromisoformat(given).timestamp()
    except ValueError as error:
        raise ApiError(
            status=422, message="Input should be a valid datetime", code="datetime_parsing", param="query.created_after"
        ) from error


def _number(given: str, name: str, least: int, most: int) -> int:
    if not given.isdigit() or not least <= int(given) <= most:
        raise ApiError(
            status=422, message=f"Input should be an integer between {least} and {most}", code="int_parsing", param=f"query.{name}"
        )
    return int(given)
