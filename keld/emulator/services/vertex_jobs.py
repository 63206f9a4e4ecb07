"""Vertex jobs: the routes of batch prediction jobs; an object of Cloud Storage in, several objects out, in a folder that the job names itself."""

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..batch import Batch, Problem
from ..bucket import place_of
from ..dialect import Dialect
from ..dialects.gemini_body import invalid
from ..error import ApiError
from ..host import Host
from ..life import ENDED, Phase
from ..row import Rows
from ..service import Endpoint
from ..store import Store
from .google_page import google_page
from .vertex_envelope import Labelled, Line, VertexEnvelope
from .vertex_object import Create, create_body, job_object, state_of

# docs.cloud.google.com/vertex-ai/generative-ai/docs, the pages multimodal/batch-prediction-gemini and partner-models/claude/batch, Nov 2026.
MAX_REQUESTS, MAX_BYTES = 200_000, 1 << 30
CLAUDE_AT_ONCE = 4  # jobs of Claude's models in one project
WINDOW_S = 96 * 3_600.0  # 72 hours in the queue, and 24 hours of work
_OUTPUTS = 3
_MOST_A_PAGE = 100
_line, _labelled = msgspec.json.Decoder(Line), msgspec.json.Decoder(Labelled)


@dataclass
class _Job:
    """What a create said, and where its job is."""

    asked: Create
    place: str  # `projects/p/locations/l`
    batch: Batch
    folder: str | None = None  # of its output, when it is there


@dataclass
class Jobs:
    """The jobs of one service; `kind` is the service's, `dialect_of` makes the dialect of (publisher, model)."""

    store: Store
    kind: str
    dialect_of: Callable[[str, str], Dialect]
    jobs: dict[str, _Job] = field(default_factory=dict)  # by the batch's id

    def __post_init__(self) -> None:
        self.host = Host(store=self.store, kind=self.kind)

    def routes(self, place: str) -> list[Endpoint]:
        jobs = f"{place}/batchPredictionJobs"
        one = jobs + "/{batch_id}"
        return [
            Endpoint(operation="create", method="POST", path=jobs, handler=self.create),
            Endpoint(operation="list", method="GET", path=jobs, handler=self.list),
            Endpoint(operation="cancel", method="POST", path=one + ":cancel", handler=self.cancel),
            Endpoint(operation="get", method="GET", path=one, handler=self.get),
            Endpoint(operation="delete", method="DELETE", path=one, handler=self.delete),
        ]

    async def create(self, request: Request) -> Response:
        asked, place = create_body(await request.body()), _place(request)
        publisher, model = asked.publisher
        if publisher == "anthropic":
            self._check_quota(place)
        dialect = self.dialect_of(publisher, model)

        def make() -> Batch:
            batch_id = str(secrets.randbelow(9 * 10**18) + 10**18)
            path = request.url.path
            batch = self.store.new_batch(batch_id, self.kind, envelope=VertexEnvelope(), dialect=dialect, path=path, model=model)
            batch.window_s, batch.metadata, batch.input_uri = WINDOW_S, asked.labels, asked.input_uri
            self.jobs[batch.id] = _Job(asked, place, batch)
            return batch

        return self.host.create(make, self._prepare, lambda batch: self.show(batch, Phase("validating", 0)))

    async def list(self, request: Request) -> Response:
        """By the time of creation, the newest first, as it is here; the service promises no order."""
        fits, place = _filter(request.query_params.get("filter", "")), _place(request)
        listed = [batch for batch in self.host.listed() if self.jobs[batch.id].place == place and fits(self._facts(batch))]
        refused = invalid("The page size or the page token is not valid.")
        return await google_page(request, self.store, listed, self._look, name="batchPredictionJobs", most=_MOST_A_PAGE, refused=refused)

    async def get(self, request: Request) -> Response:
        batch = self._batch(request)
        await self.store.catch_up([batch])
        return JSONResponse(await self._look(batch))

    async def cancel(self, request: Request) -> Response:
        batch = self._batch(request)
        if await self.host.cancel(batch) is not None:
            state = state_of(batch, batch.phase(self.host.now()), self.host.now())
            raise ApiError(status=400, message=f"The job is in the state {state} and cannot be cancelled.", code="FAILED_PRECONDITION")
        return JSONResponse({})

    async def delete(self, request: Request) -> Response:
        batch = self._batch(request)
        if not batch.phase(self.host.now()).ended:
            raise ApiError(status=400, message="Only a job that has ended can be deleted.", code="FAILED_PRECONDITION")
        batch.deleted = True
        return JSONResponse({"name": f"{self.jobs[batch.id].place}/operations/{secrets.randbelow(10**18)}", "done": True, "response": {}})

    def show(self, batch: Batch, phase: Phase) -> dict[str, Any]:
        job = self.jobs[batch.id]
        named = batch.names_results(self.host.now(), phase) and batch.rule("results", "no_output_id") is None
        folder = "" if batch.rule("results", "empty_output_id") is not None else job.folder
        name = f"{job.place}/batchPredictionJobs/{batch.id}"
        return job_object(batch, phase, job.asked, name, self.host.now(), folder if named and job.folder is not None else None)

    # --- life ---------------------------------------------------------------------------------------------------------

    def _batch(self, request: Request) -> Batch:
        batch = self.host.find(request.path_params["batch_id"])
        if batch is None or self.jobs[batch.id].place != _place(request):
            raise ApiError(status=404, message=f"BatchPredictionJob {request.path_params['batch_id']} is not found.")
        return batch

    async def _look(self, batch: Batch) -> dict[str, Any]:
        phase = await self.host.look(batch)
        job = self.jobs[batch.id]
        if phase.ended and job.folder is None and batch.rows is not None and (phase.done or phase.status == "completed"):
            await run_in_threadpool(self._publish, job, phase)
        return self.show(batch, phase)

    def _facts(self, batch: Batch) -> dict[str, str]:
        asked = self.jobs[batch.id].asked
        return {
            "display_name": asked.display_name,
            "displayName": asked.display_name,
            "state": state_of(batch, batch.phase(self.host.now()), self.host.now()),
            **{f"labels.{name}": value for name, value in asked.labels.items()},
        }

    def _check_quota(self, place: str) -> None:
        now = self.host.now()
        running = [batch for batch in self.store.batches(self.kind) if batch.phase(now).status not in ENDED]
        mine = [batch for batch in running if self.jobs[batch.id].place == place and (batch.model or "").startswith("claude")]
        if len(mine) >= CLAUDE_AT_ONCE:
            message = "Quota exceeded for aiplatform.googleapis.com/textembedding_gecko_concurrent_batch_prediction_jobs."
            raise ApiError(status=429, message=message, code="RESOURCE_EXHAUSTED")

    def _prepare(self, batch: Batch) -> None:
        asked = self.jobs[batch.id].asked
        found = self.store.objects.find(*place_of(asked.input_uri))
        rows = None if found is None else Rows.of_lines(found.path)
        batch.begin(rows, batch.planned_failure() or _problem(rows, asked))

    def _publish(self, job: _Job, phase: Phase) -> None:
        """Spread the result lines over several objects in the customer's bucket."""
        at = datetime.fromtimestamp(phase.ended_at or 0.0, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        folder = f"{job.asked.output_uri.rstrip('/')}/prediction-model-{at}"
        scheme, bucket, prefix = place_of(folder)
        whole = job.batch.out_path.read_bytes()
        lines = whole.split(b"\n")
        # Damaged lines, which may not end as they should, stay together.
        parts = [whole] if job.batch.rules_at("lines") else [b"\n".join(filter(None, lines[n::_OUTPUTS])) for n in range(_OUTPUTS)]
        for n, part in enumerate(parts):
            self.store.objects.write(scheme, bucket, f"{prefix}/predictions-{n:05d}-of-{len(parts):05d}.jsonl", part)
        job.folder = folder


def _place(request: Request) -> str:
    return f"projects/{request.path_params['project']}/locations/{request.path_params['location']}"


_TERM = re.compile(r'\s*(?P<name>[\w.-]+)\s*(?P<how>!=|=|:)\s*(?:"(?P<quoted>[^"]*)"|(?P<bare>[\w*-]+))\s*')


def _filter(text: str) -> Callable[[dict[str, str]], bool]:
    """What a filter means: terms with AND between them; `:*` is "has it".

    Raises:
        ApiError: it cannot be read.
    """
    terms = []
    for part in text.split(" AND ") if text.strip() else []:
        found = _TERM.fullmatch(part)
        if found is None:
            raise invalid(f"Invalid filter: {text}")
        wanted = found["quoted"] if found["quoted"] is not None else found["bare"]
        terms.append((found["name"], found["how"], wanted))

    def fits(facts: dict[str, str]) -> bool:
        for name, how, wanted in terms:
            value = facts.get(name)
            same = value is not None if (how, wanted) == (":", "*") else value == wanted
            if same == (how == "!="):
                return False
        return True

    return fits


def _problem(rows: Rows | None, asked: Create) -> Problem | None:
    """Why an input makes no job."""
    if rows is None:
        return Problem(code="NOT_FOUND", message=f"The input file {asked.input_uri} was not found.")
    if not 1 <= len(rows) <= MAX_REQUESTS or rows.path.stat().st_size > MAX_BYTES:
        return Problem(
            code="INVALID_ARGUMENT", message=f"An input has from 1 to {MAX_REQUESTS} requests and at most 1 GB; this one has {len(rows)}."
        )
    claude, seen = asked.publisher[0] == "anthropic", set[str]()
    for number, row in enumerate(rows, 1):
        try:
            line = _line.decode(row)
            _labelled.decode(line.request)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return Problem(code="INVALID_ARGUMENT", message=f"Line {number} of the input is no request: {error}", line=number)
        if claude and (not line.custom_id or line.custom_id in seen):
            return Problem(code="INVALID_ARGUMENT", message=f"Line {number} has no custom_id of its own.", line=number)
        seen.add(line.custom_id or "")
    return None
