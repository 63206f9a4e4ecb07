"""Emulator: the service of a vendor whose wire resembles nobody's, so that nothing of Keld can take a wire for granted.

The wire, under `<emulator>/otherhost/v1`; the key travels in `x-otherhost-key`:

    POST   /objects                the input, as the raw body        -> `{"object": id, "size_bytes": n}`
    DELETE /objects/{id}           removes an input                  -> `{"object": id, "removed": true}`
    POST   /jobs                   `{"object", "endpoint", "model", "labels": {name: value}}` -> a job.  A label's value is our mark:
                                   at most 63 of a-z 0-9 _ -
    GET    /jobs?page_size&page_token    -> `{"jobs": [..], "next_page_token": token}`, newest first; no token behind the last page
    GET    /jobs/{id}              -> a job
    POST   /jobs/{id}/stop         -> a job; 409 ALREADY_OVER where it has ended
    GET    /store/{id}             one result object, with `Range` and `ETag`
    POST   /chat/completions       one request at once, OpenAI's bodies and answers

    a job          `{"job", "state", "model", "labels", "created", "expires", "ended", "counts": {"total", "succeeded", "failed"},
                   "outputs": [{"url", "size_bytes"}] or null, "problem": {"code", "text"} or null}`; instants are RFC 3339
    states         CHECKING, RUNNING, WRITING, STOPPING; DONE, FAILED, EXPIRED, STOPPED
    an input line  `{"label": id, "request": body}`; one endpoint a job
    a result line  `{"label": id, "status": 200, "answer": body}`, or with `"fault"`, as an error has it, in the place of `answer`;
                   `"status": 0` and code EXPIRED or STOPPED for a row that was not reached.  The lines are spread over three objects.
    errors         `{"fault": {"code", "text"}}`; 429 SLOW_DOWN, 404 UNKNOWN, 401 NO_KEY, 400 BAD_REQUEST, 5xx BROKEN
"""

import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from keld.emulator import ApiError, Endpoint, Service
from keld.emulator.answer import Answerer
from keld.emulator.batch import Batch
from keld.emulator.clock import instant
from keld.emulator.fault import DOWNLOAD_FAULTS
from keld.emulator.host import Host
from keld.emulator.life import Phase, Status
from keld.emulator.page import page
from keld.emulator.realtime import answering
from keld.emulator.row import Rows
from keld.emulator.rule import Event
from keld.emulator.services.openai import dialects_of
from keld.emulator.store import Store, StoredFile
from keld.emulator.wire import download

from .lines import STATES, Envelope, error_object, problem_of

OUTPUTS = 3
_LABEL = re.compile(r"[a-z0-9_-]{1,63}")


class Create(msgspec.Struct):
    object: str
    endpoint: str
    model: str
    labels: dict[str, str] = {}


class OtherHost(Service):
    kind = "otherhost"
    title = "Otherhost"
    base = "/otherhost/v1"
    owns = "/otherhost"
    request_id_header = "x-otherhost-request"

    def __init__(self, store: Store, answerer: Answerer) -> None:
        super().__init__(store, answerer)
        self.dialects = dialects_of(answerer)
        self.host = Host(store=store, kind=self.kind, publish=self._publish)
        self.outputs: dict[str, list[StoredFile]] = {}

    def routes(self) -> list[Endpoint]:
        objects, jobs, one = f"{self.base}/objects", f"{self.base}/jobs", f"{self.base}/jobs/{{batch_id}}"
        chat = answering(self, self.dialects["/v1/chat/completions"])
        return [
            Endpoint(operation="upload", method="POST", path=objects, handler=self.upload),
            Endpoint(operation="delete", method="DELETE", path=objects + "/{file_id}", handler=self.remove),
            Endpoint(operation="create", method="POST", path=jobs, handler=self.create),
            Endpoint(operation="list", method="GET", path=jobs, handler=self.list_jobs),
            Endpoint(operation="get", method="GET", path=one, handler=self.get),
            Endpoint(operation="cancel", method="POST", path=one + "/stop", handler=self.stop),
            Endpoint(operation="download", method="GET", path=f"{self.base}/store/{{file_id}}", handler=self.fetch),
            Endpoint(operation="realtime", method="POST", path=f"{self.base}/chat/completions", handler=chat),
        ]

    def env(self, base_url: str, api_key: str) -> dict[str, str]:
        return {"OTHERHOST_BASE_URL": base_url, "OTHERHOST_API_KEY": api_key}

    # --- objects ------------------------------------------------------------------------------------------------------

    async def upload(self, request: Request) -> Response:
        body = BytesIO(await request.body())
        file = await run_in_threadpool(
            self.store.receive_file, body, owner=self.kind, filename="input", purpose="input", expires_after_s=None
        )
        return JSONResponse({"object": file.id, "size_bytes": file.size_bytes})

    async def remove(self, request: Request) -> Response:
        file = self._file(request.path_params["file_id"])
        self.store.delete_file(file)
        return JSONResponse({"object": file.id, "removed": True})

    async def fetch(self, request: Request) -> Response:
        file = self._file(request.path_params["file_id"])
        event = Event(provider=self.kind, path=request.url.path)
        return download(file.path, "application/x-ndjson", self.store.faults.take("download", DOWNLOAD_FAULTS, event))

    def _file(self, file_id: str) -> StoredFile:
        file = self.store.file(file_id, self.kind)
        if file is None:
            raise ApiError(status=404, message=f"There is no object {file_id}.")
        return file

    # --- jobs ---------------------------------------------------------------------------------------------------------

    async def create(self, request: Request) -> Response:
        try:
            asked = msgspec.json.decode(await request.body(), type=Create)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ApiError(status=400, message=str(error)) from error
        if asked.endpoint not in self.dialects:
            raise ApiError(status=400, message=f"There is no endpoint {asked.endpoint}.")
        if not all(_LABEL.fullmatch(value) for value in asked.labels.values()):
            raise ApiError(status=400, message="A label has at most 63 characters of a-z, 0-9, _ and -.")
        file, host = self._file(asked.object), str(request.base_url)
        return self.host.create(
            lambda: self._make(asked, request.url.path),
            lambda batch: self._prepare(batch, file.path),
            lambda batch: self.show(batch, Phase("validating", 0), host),
        )

    async def list_jobs(self, request: Request) -> Response:
        size, token = request.query_params.get("page_size", "10"), request.query_params.get("page_token")
        if not size.isdigit() or not 1 <= int(size) <= 50:
            raise ApiError(status=400, message="page_size is from 1 to 50.")
        after = None if token is None else urlsafe_b64decode(token).decode()
        shown, more = page(self.host.listed(), lambda batch: batch.id, limit=int(size), after=after)
        await self.store.catch_up(shown)
        jobs = [await self._look(batch, request) for batch in shown]
        end = {"next_page_token": urlsafe_b64encode(shown[-1].id.encode()).decode()} if more else {}
        return JSONResponse({"jobs": jobs, **end})

    async def get(self, request: Request) -> Response:
        batch = self._batch(request)
        await self.store.catch_up([batch])
        return JSONResponse(await self._look(batch, request))

    async def stop(self, request: Request) -> Response:
        batch = self._batch(request)
        ended = await self.host.cancel(batch)
        if ended is not None:
            raise ApiError(status=409, message=f"The job is {STATES[ended]}.")
        return JSONResponse(self.show(batch, Phase("cancelling", batch.phase(self.host.now()).done), str(request.base_url)))

    def _batch(self, request: Request) -> Batch:
        batch = self.host.find(request.path_params["batch_id"])
        if batch is None:
            raise ApiError(status=404, message="There is no such job.")
        return batch

    async def _look(self, batch: Batch, request: Request) -> dict[str, Any]:
        return self.show(batch, await self.host.look(batch), str(request.base_url))

    def show(self, batch: Batch, phase: Phase, host: str) -> dict[str, Any]:
        ok = batch.progress.totals(phase.done).ok
        problem = next(iter(batch.problems), None) if phase.status == "failed" else None
        return {
            "job": batch.id,
            "state": _state(batch, phase.status),
            "model": batch.model,
            "labels": batch.metadata or {},
            "created": instant(batch.created_at).isoformat(),
            "expires": instant(batch.expires_at).isoformat(),
            "ended": instant(phase.ended_at).isoformat() if phase.ended_at is not None else None,
            "counts": batch.shown_counts({"total": batch.size, "succeeded": ok, "failed": phase.done - ok}),
            "outputs": self._outputs(batch, phase, host),
            "problem": {"code": problem.code, "text": problem.message} if problem else None,
        }

    def _outputs(self, batch: Batch, phase: Phase, host: str) -> list[dict[str, Any]] | None:
        named = batch.names_results(self.host.now(), phase) and batch.rule("results", "no_output_id") is None
        if not named or batch.id not in self.outputs:
            return None
        elsewhere = batch.rule("results", "results_url")
        store = str(elsewhere.get("url", "http://other-host.invalid")) if elsewhere else f"{host.rstrip('/')}{self.base}/store"
        empty = batch.rule("results", "empty_output_id") is not None
        return [
            {"url": "" if empty else f"{store}/{file.id}", "size_bytes": file.size_bytes} for file in self.outputs[batch.id]
        ]  # fmt: skip

    # --- life ---------------------------------------------------------------------------------------------------------

    def _make(self, asked: Create, path: str) -> Batch:
        job, dialect = f"job-{secrets.token_hex(8)}", self.dialects[asked.endpoint]
        batch = self.store.new_batch(job, self.kind, envelope=Envelope(), dialect=dialect, path=path, model=asked.model)
        batch.input_file_id, batch.metadata = asked.object, asked.labels
        return batch

    def _prepare(self, batch: Batch, path: Path) -> None:
        rows = Rows.of_lines(path)
        problem = batch.planned_failure() or problem_of(rows)
        if problem is not None:
            batch.problems = [problem]
            return
        batch.rows = rows
        batch.answer()

    def _publish(self, batch: Batch, phase: Phase) -> None:
        """Spread the result lines over several objects of the store."""
        if batch.rows is None or phase.status == "failed":
            return
        lines = batch.out_path.read_bytes().splitlines(keepends=True)
        parts = [lines[n::OUTPUTS] for n in range(OUTPUTS)]
        self.outputs[batch.id] = [self._result(batch, n, b"".join(part)) for n, part in enumerate(parts)]

    def _result(self, batch: Batch, n: int, content: bytes) -> StoredFile:
        path = batch.folder / f"{batch.id}.part-{n}"
        path.write_bytes(content)
        return self.store.add_file(path, owner=self.kind, filename=path.name, purpose="output")

    # --- refusals -----------------------------------------------------------------------------------------------------

    def key_of(self, request: Request) -> str:
        return request.headers.get("x-otherhost-key", "")

    def error_body(self, error: ApiError) -> dict[str, Any]:
        return error_object(error)

    def key_missing(self) -> ApiError:
        return ApiError(status=401, message="Give a key in x-otherhost-key.")

    def key_refused(self, key: str) -> ApiError:
        return ApiError(status=401, message="The key is not known.")


def _state(batch: Batch, status: Status) -> str:
    shown = batch.shown_status(status)
    return STATES[status] if shown == status else shown
