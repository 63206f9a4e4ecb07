"""Mistral: api.mistral.ai, with files, batch jobs and realtime calls.

Wire: mistralai 3.7's types and docs.mistral.ai, Nov 2026.  Under `<emulator>/mistral`, where the SDK is pointed (`server_url`):

    POST /v1/files (multipart), GET /v1/files/{id}[/content], DELETE /v1/files/{id}
    POST /v1/batch/jobs, GET /v1/batch/jobs?page&page_size&..., GET /v1/batch/jobs/{id}, POST /v1/batch/jobs/{id}/cancel
    POST /v1/chat/completions, /v1/embeddings; GET /v1/models
"""

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..answer import Answerer
from ..batch import Batch
from ..cache import PromptCache
from ..dialect import Dialect
from ..dialects.mistral_chat import MistralChat
from ..dialects.mistral_embeddings import MistralEmbeddings
from ..error import ApiError
from ..fault import DOWNLOAD_FAULTS
from ..life import Phase
from ..rate import Level
from ..realtime import realtime_routes
from ..rule import Event
from ..service import Endpoint, Service
from ..store import Store, StoredFile
from ..wire import download
from .mistral_jobs import Jobs
from .mistral_object import error_object, file_object, job_object

MAX_FILE_BYTES = 512_000_000  # docs.mistral.ai/resources/known-limitations, 29 Nov 2026
_PURPOSES = ("fine-tune", "batch", "ocr", "agentic_safety")
_MODELS = (
    "mistral-large-latest",
    "mistral-medium-latest",
    "mistral-small-latest",
    "ministral-8b-latest",
    "mistral-embed",
    "codestral-embed",
)
_SHORT = {"requests": "req", "tokens": "tokens"}


class Mistral(Service):
    kind = "mistral"
    title = "Mistral"
    base = "/mistral/v1"
    owns = "/mistral"
    request_id_header = "mistral-correlation-id"

    def __init__(self, store: Store, answerer: Answerer) -> None:
        super().__init__(store, answerer)
        self.dialects: dict[str, Dialect] = {
            "/v1/chat/completions": MistralChat(answerer, PromptCache()),
            "/v1/embeddings": MistralEmbeddings(),
        }
        self.jobs = Jobs(store, self.kind, self.base, self.dialects)

    def routes(self) -> list[Endpoint]:
        files, one = f"{self.base}/files", f"{self.base}/files/{{file_id}}"
        return [
            Endpoint(operation="upload", method="POST", path=files, handler=self.upload),
            Endpoint(operation="download", method="GET", path=one + "/content", handler=self.content),
            Endpoint(operation="get", method="GET", path=one, handler=self.get_file),
            Endpoint(operation="delete", method="DELETE", path=one, handler=self.delete_file),
            Endpoint(operation="get", method="GET", path=f"{self.base}/models", handler=self.list_models),
            *self.jobs.routes(),
            *realtime_routes(self, self.dialects),
        ]

    def env(self, base_url: str, api_key: str) -> dict[str, str]:
        return {"MISTRAL_BASE_URL": base_url, "MISTRAL_API_KEY": api_key}

    def show(self, batch: Batch, phase: Phase, host: str) -> dict[str, Any]:
        return job_object(batch, phase)

    def show_files(self) -> list[dict[str, Any]]:
        return [file_object(file) for file in self.store.files(self.kind)]

    # --- files --------------------------------------------------------------------------------------------------------

    async def upload(self, request: Request) -> Response:
        async with request.form(max_files=1) as form:
            upload, purpose = form.get("file"), form.get("purpose", "fine-tune")
            if not isinstance(upload, UploadFile):
                raise ApiError(status=422, message="Field required", code="missing", param="body.file")
            if purpose not in _PURPOSES:
                raise ApiError(status=422, message=f"Input should be one of {', '.join(_PURPOSES)}", code="enum", param="body.purpose")
            if (upload.size or 0) > MAX_FILE_BYTES:
                raise ApiError(status=413, message="File is larger than 512 MB.")
            file = await run_in_threadpool(
                self.store.receive_file,
                upload.file,
                owner=self.kind,
                filename=upload.filename or "upload",
                purpose=str(purpose),
                expires_after_s=None,
            )
        return JSONResponse(file_object(file))

    async def get_file(self, request: Request) -> Response:
        return JSONResponse(file_object(self._file(request)) | {"deleted": False})

    async def delete_file(self, request: Request) -> Response:
        file = self._file(request)
        self.store.delete_file(file)
        return JSONResponse({"id": file.id, "object": "file", "deleted": True})

    async def content(self, request: Request) -> Response:
        file = self._file(request)
        event = Event(provider=self.kind, path=request.url.path)
        return download(file.path, "application/octet-stream", self.store.faults.take("download", DOWNLOAD_FAULTS, event))

    def _file(self, request: Request) -> StoredFile:
        file = self.store.file(request.path_params["file_id"], self.kind)
        if file is None:
            raise ApiError(status=404, message="File not found.")
        return file

    async def list_models(self, request: Request) -> Response:
        capabilities = {"completion_chat": True, "function_calling": True, "completion_fim": False, "fine_tuning": False, "vision": False}
        shared = {"object": "model", "created": 1_750_000_000, "owned_by": "mistralai", "type": "base", "capabilities": capabilities}
        return JSONResponse({"object": "list", "data": [{"id": name, **shared} for name in _MODELS]})

    # --- refusals -----------------------------------------------------------------------------------------------------

    def error_body(self, error: ApiError) -> dict[str, Any]:
        return error_object(error)

    def key_missing(self) -> ApiError:
        return ApiError(status=401, message="Unauthorized")

    def key_refused(self, key: str) -> ApiError:
        return ApiError(status=401, message="Unauthorized")

    def rate_headers(self, levels: dict[str, Level], now: float) -> dict[str, str]:
        headers = {}
        for kind, level in levels.items():
            headers[f"x-ratelimit-limit-{_SHORT[kind]}-minute"] = str(level.limit)
            headers[f"x-ratelimit-remaining-{_SHORT[kind]}-minute"] = str(level.left)
        return headers
