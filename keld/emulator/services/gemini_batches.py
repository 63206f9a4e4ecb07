"""Gemini batches: the routes of batch mode, with requests and responses in files; requests inside the create are not taken here."""

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..batch import Batch, Problem
from ..dialect import Dialect
from ..dialects.gemini_body import Message, invalid, read, reader
from ..error import ApiError
from ..host import Host
from ..life import ENDED, Phase
from ..row import Rows
from ..service import Endpoint
from ..store import Store, StoredFile
from .gemini_envelope import GeminiEnvelope, line_of
from .gemini_files import Files, missing_file
from .gemini_object import file_name, operation
from .google_page import google_page

# ai.google.dev/gemini-api/docs/rate-limits, Nov 2026.  Its largest page is not documented; one that is smaller than asked for must be followed.
MAX_AT_ONCE = 100
_MOST_A_PAGE = 50
WINDOW_S = 48 * 3_600.0
_RESULTS_LIFE_S = 42 * 86_400.0


class InputConfig(Message):
    file_name: str | None = None
    requests: msgspec.Raw | None = None


class BatchIn(Message):
    input_config: InputConfig
    display_name: str = ""
    model: str | None = None
    priority: str | int | None = None
    webhook_config: msgspec.Raw | None = None


class Create(Message):
    batch: BatchIn


_create = reader(Create)


@dataclass(frozen=True)
class Batches:
    """The batches of one service.

    Args:
        kind, base: the service's kind, and the path before the version.
        dialects: from a create's method to what makes the dialect of a model.
    """

    store: Store
    kind: str
    base: str
    files: Files
    dialects: dict[str, Callable[[str], Dialect]]
    host: Host = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "host", Host(store=self.store, kind=self.kind, publish=self._publish))

    def routes(self, version: str) -> list[Endpoint]:
        batches, models = f"{self.base}/{version}/batches", f"{self.base}/{version}/models"
        one = batches + "/{batch_id}"
        return [
            *(
                Endpoint(operation="create", method="POST", path=f"{models}/{{model}}:{method}", handler=self.create)
                for method in self.dialects
            ),
            Endpoint(operation="list", method="GET", path=batches, handler=self.list),
            Endpoint(operation="get", method="GET", path=one, handler=self.get),
            Endpoint(operation="cancel", method="POST", path=one + ":cancel", handler=self.cancel),
            Endpoint(operation="delete", method="DELETE", path=one, handler=self.delete),
        ]

    async def create(self, request: Request) -> Response:
        asked, method, model = read(_create, await request.body()).batch, request.url.path.rpartition(":")[2], request.path_params["model"]
        if not asked.display_name:
            raise invalid("* BatchGenerateContentRequest.batch.display_name: required\n")
        if asked.input_config.file_name is None:
            raise invalid("The emulator takes requests in a file: name it in batch.inputConfig.fileName.")
        file = self.files.find(asked.input_config.file_name)
        if file is None:
            raise missing_file(asked.input_config.file_name)
        if "does-not-exist" in model or ("embedding" in model) != (method == "asyncBatchEmbedContent"):
            raise ApiError(status=404, message=f"models/{model} is not found for API version v1beta, or is not supported for {method}.")
        self._check_quota(model, file)
        return self.host.create(
            lambda: self._make(asked, file, request.url.path, method, model),
            self._prepare,
            lambda batch: operation(batch, Phase("validating", 0)),
        )

    def _check_quota(self, model: str, file: StoredFile) -> None:
        """Raises:
        ApiError: too many batches, or too many of the model's tokens, wait already.
        """
        now = self.host.now()
        active = [batch for batch in self.store.batches(self.kind) if batch.phase(now).status not in ENDED]
        waiting = sum(batch.enqueued_tokens for batch in active if batch.model == model)
        limit = self.store.settings.enqueued_token_limit
        if len(active) >= MAX_AT_ONCE or (limit is not None and waiting + file.size_bytes // 4 > limit):
            message = "You exceeded your current quota, please check your plan and billing details."
            raise ApiError(status=429, message=message, code="RESOURCE_EXHAUSTED")

    async def list(self, request: Request) -> Response:
        """In no order that means anything, as far as is known: here by a digest of the name."""
        refused = invalid("Request contains an invalid argument.")
        if "filter" in request.query_params:
            raise refused
        listed = sorted(self.host.listed(), key=lambda batch: sha256(batch.id.encode()).digest())
        return await google_page(request, self.store, listed, self._look, name="operations", most=_MOST_A_PAGE, refused=refused)

    async def get(self, request: Request) -> Response:
        batch = self._batch(request)
        await self.store.catch_up([batch])
        return JSONResponse(await self._look(batch))

    async def cancel(self, request: Request) -> Response:
        ended = await self.host.cancel(self._batch(request))
        if ended is not None:
            raise ApiError(status=400, message="The batch has ended and cannot be cancelled.", code="FAILED_PRECONDITION")
        return JSONResponse({})

    async def delete(self, request: Request) -> Response:
        """Deletes the record; this does not cancel."""
        self._batch(request).deleted = True
        return JSONResponse({})

    def _batch(self, request: Request) -> Batch:
        batch = self.host.find(request.path_params["batch_id"])
        if batch is None:
            raise ApiError(status=404, message="Requested entity was not found.")
        return batch

    async def _look(self, batch: Batch) -> dict[str, Any]:
        phase = await self.host.look(batch)
        shown = operation(batch, phase)
        if "response" in shown and not batch.names_results(self.host.now(), phase):
            shown["metadata"]["output"] = {}
            shown["response"].pop("responsesFile", None)
        return shown

    # --- life ---------------------------------------------------------------------------------------------------------

    def _make(self, asked: BatchIn, file: StoredFile, path: str, method: str, model: str) -> Batch:
        dialect = self.dialects[method](model)
        batch_id = secrets.token_hex(16)
        batch = self.store.new_batch(batch_id, self.kind, envelope=GeminiEnvelope(), dialect=dialect, path=path, model=model)
        batch.endpoint, batch.enqueued_tokens, batch.window_s = method, file.size_bytes // 4, WINDOW_S
        batch.metadata = {"displayName": asked.display_name, "fileName": file_name(file)}
        # A copy that nobody deletes: whether the removal of the input stops a late create is not known, so here it does not.
        os.link(file.path, self._input(batch))
        return batch

    def _input(self, batch: Batch) -> Path:
        return self.store.folder / f"{batch.id}.input.jsonl"

    def _prepare(self, batch: Batch) -> None:
        rows = Rows.of_lines(self._input(batch))
        batch.begin(rows, batch.planned_failure() or _problem(rows))

    def _publish(self, batch: Batch, phase: Phase) -> None:
        """Give the responses a file, if all of them are there: a batch that expired or was cancelled has none."""
        names = {rule.do for rule in batch.rules_at("results")}
        if phase.status == "completed" and "no_output_id" not in names:
            name = f"{batch.id}-responses.jsonl"
            life = {"expires_after_s": _RESULTS_LIFE_S, "at": phase.ended_at}
            file = self.store.add_file(batch.out_path, owner=self.kind, filename=name, purpose="batch_output", **life)
            batch.output_file_id = "" if "empty_output_id" in names else file_name(file)


def _problem(rows: Rows) -> Problem | None:
    """Why the input file makes no batch."""
    if not len(rows):
        return Problem(code="INVALID_ARGUMENT", message="The input file has no requests.")
    for number, row in enumerate(rows, 1):
        try:
            line_of(row)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return Problem(code="INVALID_ARGUMENT", message=f"Line {number} of the input file is no request: {error}", line=number)
    return None
