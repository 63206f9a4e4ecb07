"""Anthropic: message batches and messages as api.anthropic.com answers them.

Wire: anthropic 2.11's types, Nov 2026.  A batch has one life for both dialects (`batch`); here it is told in
Anthropic's words: three statuses, counts that stay at zero until everything has ended, one results file, no metadata.
"""

import math
import mmap
import re
import secrets
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from .answer import Answerer
from .anthropic_answer import count_tokens, entry, make
from .batch import ENDED, Batch, Outcome, Phase, Rows, Status
from .bill import Provider
from .cache import PromptCache
from .clock import instant
from .error import ApiError, error_of
from .fault import DOWNLOAD_FAULTS, ROW_FAULTS, Event, row_fate
from .openai import model_of
from .page import page
from .rate import Level
from .store import Store
from .wire import Drop, download

# https://platform.claude.com/docs/en/build-with-claude/batch-processing, Nov 2026.
MAX_REQUESTS = 100_000
MAX_BATCH_BYTES = 256_000_000
_CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}", re.ASCII)

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_RATE_HEADERS = {
    "anthropic-ratelimit-requests-limit": "4000",
    "anthropic-ratelimit-requests-remaining": "3999",
    "anthropic-ratelimit-tokens-limit": "2000000",
    "anthropic-ratelimit-tokens-remaining": "1999000",
}


class Item(msgspec.Struct, gc=False):
    custom_id: str
    params: msgspec.Raw


class Create(msgspec.Struct):
    requests: list[Item]


_item = msgspec.json.Decoder(Item)
_quoted = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Anthropic:
    """The dialect: its routes are methods, called by `server` after authentication and faults."""

    store: Store
    answerer: Answerer
    cache: PromptCache = field(default_factory=PromptCache)

    provider: Provider = "anthropic"
    one_file: bool = True

    # --- errors -------------------------------------------------------------------------------------------------------

    @staticmethod
    def error_body(error: ApiError) -> dict[str, Any]:
        kind = _ERROR_TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
        inner = {"type": kind, "message": error.message}
        return {"type": "error", "error": inner, "request_id": f"req_{secrets.token_hex(12)}"}

    @staticmethod
    def key_missing() -> ApiError:
        return ApiError(status=401, message="x-api-key header is required")

    @staticmethod
    def key_refused(key: str) -> ApiError:
        return ApiError(status=401, message="invalid x-api-key")

    @staticmethod
    def rate_headers(levels: dict[str, Level], now: float) -> dict[str, str]:
        told = {}
        for kind, level in levels.items():
            told[f"anthropic-ratelimit-{kind}-limit"] = str(level.limit)
            told[f"anthropic-ratelimit-{kind}-remaining"] = str(level.left)
            told[f"anthropic-ratelimit-{kind}-reset"] = instant(math.ceil(now + level.reset_s)).isoformat().replace("+00:00", "Z")
        return told

    # --- batches ------------------------------------------------------------------------------------------------------

    async def create_batch(self, request: Request) -> Response:
        folder = self.store.folder
        received = await _receive(request, folder / f"{secrets.token_hex(8)}.body")
        rows = await run_in_threadpool(_rows_of, received, folder / f"{secrets.token_hex(8)}.requests")
        model = model_of(bytes(_item.decode(rows[0]).params))
        batch, late = self._make(rows, request.url.path, model)
        told = message_batch(batch, Phase("in_progress", 0), str(request.base_url))
        if batch.twice:
            self._make(rows, request.url.path, model)
        if late is None:
            return JSONResponse(told)
        if late == 0:
            return Drop()
        raise error_of(late)

    def _make(self, rows: Rows, path: str, model: str | None) -> tuple[Batch, int | None]:
        """A registered batch, and the status a late landing answers."""
        batch, late = self.store.new_batch(f"msgbatch_{secrets.token_hex(12)}", dialect=self, path=path, model=model)
        batch.rows = rows
        self.store.add_batch(batch, lambda made: made.answer())
        return batch, late

    async def get_batch(self, request: Request) -> Response:
        batch = self._batch(request)
        await self.store.catch_up([batch])
        return JSONResponse(await self._look(batch, request))

    async def list_batches(self, request: Request) -> Response:
        query = request.query_params
        shown, more = page(
            self.store.listed("anthropic"),
            lambda batch: batch.id,
            limit=_limit(request),
            after=query.get("after_id"),
            before=query.get("before_id"),
        )
        await self.store.catch_up(shown)
        data = [await self._look(batch, request) for batch in shown]
        ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
        return JSONResponse({"data": data, "has_more": more, **ends})

    async def cancel_batch(self, request: Request) -> Response:
        batch = self._batch(request)
        await self.store.catch_up([batch], patience_s=None)
        now = self.store.clock.time()
        if batch.phase(now).status in ENDED:
            raise ApiError(status=400, message=f"Batch {batch.id} cannot be canceled because it has already ended.")
        if batch.cancel_at is None:
            batch.cancel_at = now
        return JSONResponse(message_batch(batch, Phase("cancelling", 0), str(request.base_url)))

    async def delete_batch(self, request: Request) -> Response:
        batch = self._batch(request)
        await self.store.catch_up([batch])
        if batch.phase(self.store.clock.time()).status not in ENDED:
            raise ApiError(status=400, message=f"Batch {batch.id} cannot be deleted before it has ended; cancel it first.")
        batch.deleted = True
        return JSONResponse({"id": batch.id, "type": "message_batch_deleted"})

    async def results(self, request: Request) -> Response:
        batch = self._batch(request)
        await self.store.catch_up([batch])
        if (await self._look(batch, request))["results_url"] is None:
            message = f"Results for batch {batch.id} are not available until its processing has ended."
            raise ApiError(status=404, message=message)
        event = Event(provider="anthropic", path=request.url.path, batch=batch.ordinal, model=batch.model)
        return download(batch.out_path, "application/x-jsonl", self.store.faults.take("download", DOWNLOAD_FAULTS, event))

    def _batch(self, request: Request) -> Batch:
        batch_id = request.path_params["batch_id"]
        batch = self.store.batch(batch_id, "anthropic")
        if batch is None:
            raise ApiError(status=404, message=f"Message batch not found: {batch_id}")
        return batch

    async def _look(self, batch: Batch, request: Request) -> dict[str, Any]:
        now = self.store.clock.time()
        phase = batch.phase(now)
        if phase.status in ENDED and not batch.sealed:
            await run_in_threadpool(batch.seal, phase)
        told = message_batch(batch, phase, str(request.base_url))
        return told if batch.names_results(now, phase) else {**told, "results_url": None}

    # --- rows ---------------------------------------------------------------------------------------------------------

    def answer_row(self, row: bytes, rank: int, at: float, batch: Batch) -> Outcome:
        item = _item.decode(row)
        head = f'{{"custom_id":{_quoted(item.custom_id).decode()},"result":'
        try:
            fate = row_fate(batch.rules_at("rows"), rank, item.custom_id) if batch.rules else None
            made = make(bytes(item.params), self.answerer, self.cache, at=at, batch=True, fate=fate)
        except ApiError as error:
            refused = _quoted(self.error_body(error)).decode()
            return Outcome(f'{head}{{"type":"errored","error":{refused}}}}}'.encode(), False, None, None)
        paid = entry(made, batch_id=batch.id, custom_id=item.custom_id, at=at)
        return Outcome(f'{head}{{"type":"succeeded","message":{made.body}}}}}'.encode(), True, paid, made.usage)

    def unanswered_row(self, row: bytes, status: Status) -> bytes:
        kind = "expired" if status == "expired" else "canceled"
        return _quoted({"custom_id": self.custom_id(row), "result": {"type": kind}})

    def custom_id(self, row: bytes) -> str:
        return _item.decode(row).custom_id

    # --- realtime -----------------------------------------------------------------------------------------------------

    async def realtime(self, request: Request) -> Response:
        body = await request.body()
        content = await run_in_threadpool(self._answer_now, request.url.path, body)
        return Response(content, media_type="application/json", headers=_RATE_HEADERS)

    def _answer_now(self, path: str, body: bytes) -> str:
        event = Event(provider="anthropic", path=path, model=model_of(body), lane="realtime")
        rules = self.store.faults.take("rows", ROW_FAULTS, event)
        fate = next((row_fate([rule], rule.seen - 1, "") for rule in rules), None)
        at = self.store.clock.time()
        made = make(body, self.answerer, self.cache, at=at, batch=False, fate=fate)
        self.store.realtime_bill.add(entry(made, batch_id=None, custom_id=None, at=at))
        return made.body

    async def count_tokens(self, request: Request) -> Response:
        return JSONResponse({"input_tokens": count_tokens(await request.body())})

    async def list_models(self, request: Request) -> Response:
        names = ("claude-haiku-4-5", "claude-sonnet-4-5", "claude-opus-4-5")
        models = [
            {
                "id": name,
                "type": "model",
                "display_name": name,
                "created_at": "2025-10-01T00:00:00Z",
                "lifecycle": "active",
            }
            for name in names
        ]
        return JSONResponse({"data": models, "has_more": False, "first_id": names[0], "last_id": names[-1]})


# --- shapes -----------------------------------------------------------------------------------------------------------


def message_batch(batch: Batch, phase: Phase, base_url: str) -> dict[str, Any]:
    """The batch at one phase; `base_url` is the host that the client used."""
    ended = phase.status in ENDED
    own = f"{base_url.rstrip('/')}/v1/messages/batches/{batch.id}/results"
    elsewhere = batch.rule("results", "results_url")
    url = str(elsewhere.get("url", f"http://other-host.invalid/{batch.id}/results")) if elsewhere else own
    url = "" if batch.rule("results", "empty_output_id") else url
    return {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": _told_status(batch, phase.status),
        "request_counts": _counts(batch, phase),
        "created_at": _stamp(batch.created_at),
        "expires_at": _stamp(batch.expires_at),
        "ended_at": _stamp(phase.ended_at),
        "cancel_initiated_at": _stamp(batch.cancel_at),
        "archived_at": None,
        "results_url": url if ended and batch.rule("results", "no_output_id") is None else None,
    }


def _told_status(batch: Batch, status: Status) -> str:
    told = "ended" if status in ENDED else "canceling" if status == "cancelling" else "in_progress"
    odd = batch.rule("life", "status")
    return str(odd.get("value", "paused")) if odd and odd.get("instead_of", "in_progress") == told else told


def _counts(batch: Batch, phase: Phase) -> dict[str, int | None]:
    totals, rest = batch.progress.totals(phase.done), batch.size - phase.done
    counts: dict[str, int | None] = {
        "processing": batch.size,
        "succeeded": 0,
        "errored": 0,
        "canceled": 0,
        "expired": 0,
    }
    if phase.status in ENDED:
        counts = {
            "processing": 0,
            "succeeded": totals.ok,
            "errored": phase.done - totals.ok,
            "canceled": rest if phase.status == "cancelled" else 0,
            "expired": rest if phase.status == "expired" else 0,
        }
    lie = batch.rule("life", "counts")
    return {name: lie.get(name, value) for name, value in counts.items()} if lie else counts


def _stamp(at: float | None) -> str | None:
    return None if at is None else instant(at).isoformat().replace("+00:00", "Z")


# --- reading ----------------------------------------------------------------------------------------------------------


async def _receive(request: Request, path: Path) -> Path:
    """The body, on disk: it may have 256 MB."""
    size = 0
    try:
        with path.open("wb") as file:
            async for chunk in request.stream():
                size += len(chunk)
                if size <= MAX_BATCH_BYTES:
                    file.write(chunk)
    except ClientDisconnect:
        path.unlink()
        raise
    if size > MAX_BATCH_BYTES:
        path.unlink()
        raise ApiError(status=413, message="Request exceeds the maximum size")
    return path


def _rows_of(body: Path, path: Path) -> Rows:
    """The requests of a create's body, each a row of a file.

    Raises:
        ApiError: the body is not a list of requests with good, unique ids.
    """
    try:
        items = _items(body)
        starts, ends = array("q"), array("q")
        with path.open("wb", buffering=1 << 20) as file:
            end = 0
            for item in items:
                written = file.write(b'{"custom_id":"%b","params":%b}' % (item.custom_id.encode(), item.params))
                starts.append(end)
                end += written
                ends.append(end)
    finally:
        body.unlink()
    return Rows(path, starts, ends)


def _items(body: Path) -> list[Item]:
    if body.stat().st_size == 0:
        raise ApiError(status=400, message="requests: Field required")
    with body.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        # The params stay views into the mapped file; only the ids become objects.
        items = msgspec.json.decode(content, type=Create).requests
    except msgspec.ValidationError as error:
        raise ApiError(status=400, message=_said(str(error))) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(status=400, message="The request body is not valid JSON") from error
    if len(items) > MAX_REQUESTS:
        raise ApiError(status=413, message=f"requests: at most {MAX_REQUESTS} requests are allowed; got {len(items)}")
    if not items:
        raise ApiError(status=400, message="requests: List should have at least 1 item after validation, not 0")
    seen: set[str] = set()
    for index, item in enumerate(items):
        if item.custom_id in seen:
            raise ApiError(status=400, message=f"requests.{index}.custom_id: Duplicate custom_id '{item.custom_id}'")
        if not _CUSTOM_ID.fullmatch(item.custom_id):
            raise ApiError(status=400, message=f"requests.{index}.custom_id: {_id_fault(item.custom_id)}")
        seen.add(item.custom_id)
    return items


def _id_fault(custom_id: str) -> str:
    if len(custom_id) > 64:
        return "String should have at most 64 characters"
    if not custom_id:
        return "String should have at least 1 character"
    return "String should match pattern '^[a-zA-Z0-9_-]{1,64}$'"


def _said(said: str) -> str:
    """Msgspec's complaint about a create's body in Anthropic's words."""
    if "missing required field `" in said:
        where = "requests.0." if "$.requests[" in said else ""
        return f"{where}{said.split('`')[1]}: Field required"
    return f"requests: {said}"


def _limit(request: Request) -> int:
    given = request.query_params.get("limit", "20")
    if not given.isdigit() or not 1 <= int(given) <= 1000:
        raise ApiError(status=400, message="limit: Input should be between 1 and 1000")
    return int(given)
