"""OpenAI: files, batches and realtime calls as api.openai.com answers them.

Wire: openai 3.52's types and openai-openapi, Nov 2026; what live traces add (null and `""` file ids, late validation
failures, refusals in the error file with `error: null`) is followed over the specification.
"""

import contextlib
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .answer import Answerer
from .batch import ENDED, Batch, Outcome, Phase, Problem, Rows, Status
from .bill import Provider
from .cache import PromptCache
from .error import ApiError, error_of
from .fault import DOWNLOAD_FAULTS, ROW_FAULTS, Event, row_fate
from .openai_answer import (
    ENDPOINTS,
    count_embedding_inputs,
    entry,
    make,
    model_not_found,
)
from .page import page
from .rate import Level, span
from .store import Store, StoredFile
from .wire import Drop, download

# https://platform.openai.com/docs/guides/batch, Nov 2026; megabytes there are 10^6 bytes.
MAX_REQUESTS = 50_000
MAX_BATCH_BYTES = 200_000_000
MAX_FILE_BYTES = 512_000_000
MAX_EMBEDDING_INPUTS = 50_000

_RATE_HEADERS = {
    "x-ratelimit-limit-requests": "10000",
    "x-ratelimit-limit-tokens": "2000000",
    "x-ratelimit-remaining-requests": "9999",
    "x-ratelimit-remaining-tokens": "1999000",
    "x-ratelimit-reset-requests": "6ms",
    "x-ratelimit-reset-tokens": "30ms",
}
_UNANSWERED = {
    "expired": ("batch_expired", "This request could not be executed before the completion window expired."),
    "cancelled": ("batch_cancelled", "This request was cancelled before it was executed."),
}


class Head(msgspec.Struct, gc=False):
    model: str


class CheckedLine(msgspec.Struct, gc=False):
    """What validation reads of an input line."""

    custom_id: str
    method: str
    url: str
    body: Head


class Most(msgspec.Struct, gc=False):
    """The most an answer may have, in any of the dialects' words."""

    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None


class Line(msgspec.Struct, gc=False):
    custom_id: str
    body: msgspec.Raw


class Create(msgspec.Struct):
    """The body of POST /batches; wrongly typed or missing fields are named by `_create_body`."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None
    output_expires_after: dict[str, str | int] | None = None


_checked_line = msgspec.json.Decoder(CheckedLine)
_line = msgspec.json.Decoder(Line)
_quoted = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class OpenAI:
    """The dialect: its routes are methods, called by `server` after authentication and faults."""

    store: Store
    answerer: Answerer
    cache: PromptCache = field(default_factory=PromptCache)

    provider: Provider = "openai"
    one_file: bool = False

    # --- errors -------------------------------------------------------------------------------------------------------

    @staticmethod
    def error_body(error: ApiError) -> dict[str, Any]:
        code = error.code
        if error.status == 429:
            kind, code = "requests", code or "rate_limit_exceeded"
        else:
            kind = "server_error" if error.status >= 500 else "invalid_request_error"
        return {"error": {"message": error.message, "type": kind, "param": error.param, "code": code}}

    @staticmethod
    def key_missing() -> ApiError:
        message = "You didn't provide an API key. You need to provide your API key in an Authorization header."
        return ApiError(status=401, message=message)

    @staticmethod
    def key_refused(key: str) -> ApiError:
        shown = f"{key[:3]}***{key[-2:]}"
        return ApiError(status=401, message=f"Incorrect API key provided: {shown}.", code="invalid_api_key")

    # --- files --------------------------------------------------------------------------------------------------------

    async def upload(self, request: Request) -> Response:
        async with request.form(max_files=1) as form:
            upload, purpose = form.get("file"), form.get("purpose")
            if not isinstance(upload, UploadFile):
                _missing("file")
            if not isinstance(purpose, str):
                _missing("purpose")
            name = upload.filename or "upload"
            if purpose == "batch" and not name.endswith(".jsonl"):
                raise ApiError(status=400, message="Invalid file format for Batch API. Must be .jsonl")
            if (upload.size or 0) > MAX_FILE_BYTES:
                raise ApiError(status=413, message="File is too large.")
            seconds = form.get("expires_after[seconds]")
            span = float(seconds) if isinstance(seconds, str) else None
            file = await run_in_threadpool(self.store.receive_file, upload.file, filename=name, purpose=purpose, expires_after_s=span)
        return JSONResponse(file_object(file))

    async def list_files(self, request: Request) -> Response:
        files = self.store.files()
        if purpose := request.query_params.get("purpose"):
            files = [file for file in files if file.purpose == purpose]
        if request.query_params.get("order") == "asc":
            files.reverse()
        shown, more = page(files, lambda file: file.id, limit=_limit(request, 10_000, 10_000), after=request.query_params.get("after"))
        return JSONResponse(_list([file_object(file) for file in shown], more))

    async def get_file(self, request: Request) -> Response:
        return JSONResponse(file_object(self._file(request.path_params["file_id"])))

    async def delete_file(self, request: Request) -> Response:
        file = self._file(request.path_params["file_id"])
        self.store.delete_file(file)
        return JSONResponse({"id": file.id, "object": "file", "deleted": True})

    async def file_content(self, request: Request) -> Response:
        file = self._file(request.path_params["file_id"])
        event = Event(provider="openai", path=request.url.path)
        return download(file.path, "application/octet-stream", self.store.faults.take("download", DOWNLOAD_FAULTS, event))

    def _file(self, file_id: str) -> StoredFile:
        file = self.store.file(file_id)
        if file is None:
            raise ApiError(status=404, message=f"No such File object: {file_id}", param="id")
        return file

    @staticmethod
    def rate_headers(levels: dict[str, Level], now: float) -> dict[str, str]:
        told = {}
        for kind, level in levels.items():
            told[f"x-ratelimit-limit-{kind}"] = str(level.limit)
            told[f"x-ratelimit-remaining-{kind}"] = str(level.left)
            told[f"x-ratelimit-reset-{kind}"] = span(level.reset_s)
        return told

    # --- batches ------------------------------------------------------------------------------------------------------

    async def create_batch(self, request: Request) -> Response:
        asked = _create_body(await request.body())
        file = self.store.file(asked.input_file_id)
        if file is None:
            raise ApiError(status=400, message=f"No such File object: {asked.input_file_id}", param="input_file_id")
        if file.purpose != "batch":
            raise ApiError(status=400, message="The input file must have purpose 'batch'.", param="input_file_id")
        model = await run_in_threadpool(_first_model, file.path)
        batch, late, told = self._make(asked, file, request.url.path, model)
        if batch.twice:
            self._make(asked, file, request.url.path, model)
        if late is None:
            return JSONResponse(told)
        if late == 0:
            return Drop()
        raise error_of(late)

    def _make(self, asked: Create, file: StoredFile, path: str, model: str | None) -> tuple[Batch, int | None, dict[str, Any]]:
        """A registered batch, the status a late landing answers, and the batch as its create is answered."""
        batch, late = self.store.new_batch(f"batch_{secrets.token_hex(16)}", dialect=self, path=path, model=model)
        batch.endpoint, batch.input_file_id, batch.metadata = asked.endpoint, file.id, asked.metadata
        expires = asked.output_expires_after
        batch.output_expires_after_s = float(expires["seconds"]) if expires else None
        # Read before the worker starts: the answer to a create is always "validating".
        told = batch_object(batch, Phase("validating", 0))
        self.store.add_batch(batch, lambda made: self._prepare(made, file.path))
        return batch, late, told

    async def get_batch(self, request: Request) -> Response:
        batch = self._batch(request)
        await self.store.catch_up([batch])
        return JSONResponse(await self._look(batch))

    async def list_batches(self, request: Request) -> Response:
        shown, more = page(
            self.store.listed("openai"),
            lambda batch: batch.id,
            limit=_limit(request, 20, 100),
            after=request.query_params.get("after"),
        )
        await self.store.catch_up(shown)
        return JSONResponse(_list([await self._look(batch) for batch in shown], more))

    async def cancel_batch(self, request: Request) -> Response:
        batch = self._batch(request)
        await self.store.catch_up([batch], patience_s=None)
        now = self.store.clock.time()
        status = batch.phase(now).status
        if status in ENDED:
            raise ApiError(status=409, message=f"Cannot cancel a batch with status '{status}'.")
        if batch.cancel_at is None:
            batch.cancel_at = now
        # Even a cancel that takes no time is answered `cancelling`, as the service does.
        return JSONResponse(batch_object(batch, Phase("cancelling", batch.phase(now).done)))

    def _batch(self, request: Request) -> Batch:
        batch_id = request.path_params["batch_id"]
        batch = self.store.batch(batch_id, "openai")
        if batch is None:
            raise ApiError(status=404, message=f"No batch found with id '{batch_id}'.")
        return batch

    async def _look(self, batch: Batch) -> dict[str, Any]:
        now = self.store.clock.time()
        phase = batch.phase(now)
        if phase.status in ENDED and not batch.sealed:
            await run_in_threadpool(self._seal, batch, phase)
        told = batch_object(batch, phase)
        return told if batch.names_results(now, phase) else {**told, "output_file_id": None, "error_file_id": None}

    def _seal(self, batch: Batch, phase: Phase) -> None:
        with batch.lock:
            if batch.sealed:
                return
            batch.seal(phase)
            if batch.rows is not None and phase.status != "failed":
                batch.output_file_id = self._result_file(batch, batch.out_path, "output", phase)
                batch.error_file_id = self._result_file(batch, batch.error_path, "error", phase)

    def _result_file(self, batch: Batch, path: Path, kind: str, phase: Phase) -> str | None:
        names = {rule.do for rule in batch.rules_at("results")}
        if f"empty_{kind}_id" in names:
            return ""
        if f"no_{kind}_id" in names:
            return None
        if kind == "error" and "zero_byte_error" in names:
            path.write_bytes(b"")
        elif path.stat().st_size == 0 and f"zero_byte_{kind}" not in names:
            return None
        return self.store.add_file(
            path,
            filename=f"{batch.id}_{kind}.jsonl",
            purpose="batch_output",
            expires_after_s=batch.output_expires_after_s,
            at=phase.ended_at,
        ).id

    # --- rows ---------------------------------------------------------------------------------------------------------

    def _prepare(self, batch: Batch, path: Path) -> None:
        rows = Rows.of_lines(path)
        if problems := self._problems(batch, rows):
            batch.problems = problems
            return
        batch.rows = rows
        batch.answer()

    def _problems(self, batch: Batch, rows: Rows) -> list[Problem]:
        planned = batch.rule("life", "fail", "token_limit")
        if planned is not None and planned.do == "fail":
            code = str(planned.get("code", "invalid_request"))
            message = str(planned.get("message", "The batch failed validation."))
            return [Problem(code=code, message=message, line=planned.get("line", None), param=planned.get("param", None))]
        return check(batch, rows) or self._over_limit(batch, planned is not None)

    def _over_limit(self, batch: Batch, planned: bool) -> list[Problem]:
        """Whether the model's queue is full: tokens count from validation until their batch has ended."""
        limit = self.store.settings.enqueued_token_limit
        if limit is None and not planned:
            return []  # else each create would look at all batches there are
        with self.store.lock:
            others = [other for other in self.store.batches("openai") if other is not batch and other.model == batch.model]
            now = self.store.clock.time()
            waiting = sum(other.enqueued_tokens for other in others if other.phase(now).status not in ENDED)
            if not planned and (limit is None or waiting + batch.enqueued_tokens <= limit):
                return []
            batch.enqueued_tokens = 0
        message = (
            f"Enqueued token limit reached for {batch.model} in organization org-keld-emulator. Limit: {limit or 0:,} "
            "enqueued tokens. Please try again once some in_progress batches have been completed."
        )
        return [Problem(code="token_limit_exceeded", message=message)]

    def answer_row(self, row: bytes, rank: int, at: float, batch: Batch) -> Outcome:
        line = _line.decode(row)
        body = bytes(line.body)
        head = f'{{"id":"batch_req_{batch.id[-12:]}{rank:08x}","custom_id":{_quoted(line.custom_id).decode()},"response":'
        try:
            fate = row_fate(batch.rules_at("rows"), rank, line.custom_id) if batch.rules else None
            made = make(batch.endpoint, body, self.answerer, self.cache, at=at, batch=True, fate=fate)
        except ApiError as error:
            refused = _quoted(self.error_body(error)).decode()
            text = f'{head}{{"status_code":{error.status},"request_id":"req_{rank:032x}","body":{refused}}},"error":null}}'
            return Outcome(text.encode(), False, None, None)
        text = f'{head}{{"status_code":200,"request_id":"req_{made.digest[:32]}","body":{made.body}}},"error":null}}'
        paid = entry(made, batch_id=batch.id, custom_id=line.custom_id, at=at)
        return Outcome(text.encode(), True, paid, made.usage)

    def unanswered_row(self, row: bytes, status: Status) -> bytes:
        code, message = _UNANSWERED[status]
        name = f"batch_req_{secrets.token_hex(10)}"
        error = {"code": code, "message": message}
        return _quoted({"id": name, "custom_id": self.custom_id(row), "response": None, "error": error})

    def custom_id(self, row: bytes) -> str:
        return _line.decode(row).custom_id

    # --- realtime -----------------------------------------------------------------------------------------------------

    async def realtime(self, request: Request) -> Response:
        body = await request.body()
        content = await run_in_threadpool(self._answer_now, request.url.path, body)
        return Response(content, media_type="application/json", headers=_RATE_HEADERS)

    def _answer_now(self, path: str, body: bytes) -> str:
        event = Event(provider="openai", path=path, model=model_of(body), lane="realtime")
        rules = self.store.faults.take("rows", ROW_FAULTS, event)
        fate = next((row_fate([rule], rule.seen - 1, "") for rule in rules), None)
        at = self.store.clock.time()
        made = make(path, body, self.answerer, self.cache, at=at, batch=False, fate=fate)
        self.store.realtime_bill.add(entry(made, batch_id=None, custom_id=None, at=at))
        return made.body

    async def list_models(self, request: Request) -> Response:
        names = ("gpt-5", "gpt-5-mini", "gpt-5-nano", "text-embedding-3-small", "text-embedding-3-large")
        models = [{"id": name, "object": "model", "created": 1_750_000_000, "owned_by": "openai"} for name in names]
        return JSONResponse({"object": "list", "data": models})


# --- shapes -----------------------------------------------------------------------------------------------------------


def file_object(file: StoredFile) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": int(file.created_at),
        "expires_at": None if file.expires_at is None else int(file.expires_at),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def batch_object(batch: Batch, phase: Phase) -> dict[str, Any]:
    """The batch at one phase; what has not been reached is null."""
    started = phase.status not in ("validating", "failed") and batch.rows is not None
    totals = batch.progress.totals(phase.done)
    problems = [msgspec.to_builtins(problem) for problem in _told_problems(batch)]
    ended = {status: None if phase.status != status else _second(phase.ended_at) for status in ENDED}
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model,
        "errors": {"object": "list", "data": problems} if phase.status == "failed" else None,
        "input_file_id": batch.input_file_id,
        "completion_window": "24h",
        "status": _told_status(batch, phase.status),
        "output_file_id": batch.output_file_id if phase.status in ENDED else None,
        "error_file_id": batch.error_file_id if phase.status in ENDED else None,
        "created_at": int(batch.created_at),
        "in_progress_at": _second(batch.started_at) if started else None,
        "expires_at": int(batch.expires_at),
        "finalizing_at": _second(phase.finalizing_at),
        "completed_at": ended["completed"],
        "failed_at": ended["failed"],
        "expired_at": ended["expired"],
        "cancelling_at": _second(batch.cancel_at),
        "cancelled_at": ended["cancelled"],
        "request_counts": _counts(batch, started, totals.ok, phase.done - totals.ok),
        "usage": {
            "input_tokens": totals.input,
            "input_tokens_details": {"cached_tokens": totals.cached},
            "output_tokens": totals.output,
            "output_tokens_details": {"reasoning_tokens": totals.reasoning},
            "total_tokens": totals.input + totals.output,
        },
        "metadata": batch.metadata,
    }


def _told_problems(batch: Batch) -> list[Problem]:
    if batch.input_lost:
        message = f"The input file {batch.input_file_id} was deleted before the batch was validated."
        return [Problem(code="invalid_request", message=message, param="input_file_id")]
    return batch.problems


def _told_status(batch: Batch, status: Status) -> str:
    odd = batch.rule("life", "status")
    return str(odd.get("value", "paused")) if odd and odd.get("instead_of", "in_progress") == status else status


def _counts(batch: Batch, started: bool, ok: int, failed: int) -> dict[str, int | None] | None:
    counts: dict[str, int | None] = {"total": batch.size if started else 0, "completed": ok, "failed": failed}
    lie = batch.rule("life", "counts")
    return {name: lie.get(name, value) for name, value in counts.items()} if lie else counts


def _second(at: float | None) -> int | None:
    return None if at is None else int(at)


def _list(data: list[dict[str, Any]], more: bool) -> dict[str, Any]:
    ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return {"object": "list", "data": data, **ends, "has_more": more}


# --- reading ----------------------------------------------------------------------------------------------------------


def check(batch: Batch, rows: Rows) -> list[Problem]:
    """What validation finds in the input file; also counts its tokens."""
    if rows.path.stat().st_size > MAX_BATCH_BYTES:
        return [Problem(code="file_too_large", message="The input file is larger than 200 MB.")]
    if not len(rows):
        return [Problem(code="empty_file", message="The input file is empty. Please ensure it contains requests.")]
    if len(rows) > MAX_REQUESTS:
        return [Problem(code="too_many_tasks", message=f"The batch has {len(rows)} requests; the limit is {MAX_REQUESTS}.")]
    seen: set[str] = set()
    inputs = size = 0
    for number, row in enumerate(rows, 1):
        problem = _line_problem(batch, row, number, seen)
        if problem is not None:
            return [problem]
        size += len(row)
        if batch.endpoint == "/v1/embeddings":
            inputs += count_embedding_inputs(bytes(_line.decode(row).body))
    if inputs > MAX_EMBEDDING_INPUTS:
        return [Problem(code="too_many_tasks", message=f"The batch has {inputs} embedding inputs; the limit is 50000.")]
    batch.enqueued_tokens = size // 4
    return []


def _line_problem(batch: Batch, row: bytes, number: int, seen: set[str]) -> Problem | None:
    try:
        line = _checked_line.decode(row)
    except msgspec.ValidationError as error:
        return Problem(code="invalid_request", message=str(error), line=number)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Problem(code="invalid_json_line", message="This line is not parseable as valid JSON.", line=number)
    if line.custom_id in seen:
        message = f"The custom_id for this request is a duplicate of another request: '{line.custom_id}'."
        return Problem(code="duplicate_custom_id", message=message, line=number, param="custom_id")
    seen.add(line.custom_id)
    if line.method != "POST":
        return Problem(code="invalid_method", message="The method must be POST.", line=number, param="method")
    if line.url != batch.endpoint:
        message = "The URL provided for this request does not match the batch endpoint."
        return Problem(code="url_mismatch", message=message, line=number, param="url")
    if line.body.model != batch.model:
        message = f"The model '{line.body.model}' does not match the batch's model '{batch.model}'."
        return Problem(code="model_mismatch", message=message, line=number, param="body.model")
    if "does-not-exist" in line.body.model:
        message = model_not_found(line.body.model).message
        return Problem(code="model_not_found", message=message, line=number, param="body.model")
    return None


def model_of(body: bytes) -> str | None:
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
        return msgspec.json.decode(body, type=Head).model
    return None


def most_tokens(body: bytes) -> int:
    """The most tokens the answer to `body` may have; 0 where it does not say."""
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
        most = msgspec.json.decode(body, type=Most)
        return most.max_completion_tokens or most.max_output_tokens or most.max_tokens or 0
    return 0


def _first_model(path: Path) -> str | None:
    with path.open("rb") as file, contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
        return _checked_line.decode(file.readline()).body.model
    return None


def _create_body(body: bytes) -> Create:
    try:
        asked = msgspec.json.decode(body, type=Create)
    except msgspec.ValidationError as error:
        said = str(error)
        if "missing required field" in said:
            _missing(said.split("`")[1])
        raise ApiError(status=400, message=f"Invalid type: {said}", code="invalid_type") from error
    except msgspec.DecodeError as error:
        raise ApiError(status=400, message="We could not parse the JSON body of your request.") from error
    _one_of("endpoint", asked.endpoint, ENDPOINTS)
    _one_of("completion_window", asked.completion_window, ("24h",))
    metadata = asked.metadata or {}
    if len(metadata) > 16:
        message = f"Invalid 'metadata': too many properties. Expected at most 16, but got {len(metadata)}."
        raise ApiError(status=400, message=message, param="metadata", code="object_above_max_properties")
    for key, value in metadata.items():
        if len(key) > 64 or len(value) > 512:
            message = f"Invalid 'metadata.{key}': string too long. Keys have at most 64 characters, values 512."
            raise ApiError(status=400, message=message, param="metadata", code="string_above_max_length")
    return asked


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        supported = " and ".join(f"'{one}'" for one in allowed)
        message = f"Invalid value: '{value}'. Supported values are: {supported}."
        raise ApiError(status=400, message=message, param=name, code="invalid_value")


def _missing(name: str) -> NoReturn:
    message = f"Missing required parameter: '{name}'."
    raise ApiError(status=400, message=message, param=name, code="missing_required_parameter")


def _limit(request: Request, default: int, most: int) -> int:
    given = request.query_params.get("limit")
    if given is None:
        return default
    if not given.isdigit() or not 1 <= int(given) <= most:
        message = f"Invalid 'limit': must be an integer between 1 and {most}."
        raise ApiError(status=400, message=message, param="limit", code="invalid_value")
    return int(given)
