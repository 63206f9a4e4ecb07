"""OpenAI files: the routes of the Files API."""

from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..error import ApiError
from ..fault import DOWNLOAD_FAULTS
from ..page import page
from ..rule import Event
from ..service import Endpoint
from ..store import Store, StoredFile
from ..wire import download
from .openai_object import file_object, list_object
from .openai_parameter import limit_of, missing

# https://platform.openai.com/docs/guides/batch, Nov 2026; megabytes there are 10^6 bytes.
MAX_FILE_BYTES = 512_000_000


@dataclass(frozen=True)
class Files:
    """The files of one service; `kind` is the service's, `base` the path before `/files`."""

    store: Store
    kind: str
    base: str

    def routes(self) -> list[Endpoint]:
        files, one = f"{self.base}/files", f"{self.base}/files/{{file_id}}"
        return [
            Endpoint(operation="upload", method="POST", path=files, handler=self.upload),
            Endpoint(operation="list", method="GET", path=files, handler=self.list),
            Endpoint(operation="download", method="GET", path=one + "/content", handler=self.content),
            Endpoint(operation="get", method="GET", path=one, handler=self.get),
            Endpoint(operation="delete", method="DELETE", path=one, handler=self.delete),
        ]

    async def upload(self, request: Request) -> Response:
        async with request.form(max_files=1) as form:
            upload, purpose = form.get("file"), form.get("purpose")
            if not isinstance(upload, UploadFile):
                missing("file")
            if not isinstance(purpose, str):
                missing("purpose")
            name = upload.filename or "upload"
            if purpose == "batch" and not name.endswith(".jsonl"):
                raise ApiError(status=400, message="Invalid file format for Batch API. Must be .jsonl")
            if (upload.size or 0) > MAX_FILE_BYTES:
                raise ApiError(status=413, message="File is too large.")
            seconds = form.get("expires_after[seconds]")
            span = float(seconds) if isinstance(seconds, str) else None
            self.check_upload(purpose, span)
            file = await run_in_threadpool(
                self.store.receive_file, upload.file, owner=self.kind, filename=name, purpose=purpose, expires_after_s=span
            )
        return JSONResponse(file_object(file))

    def check_upload(self, purpose: str, expires_after_s: float | None) -> None:
        """Refuses what only this service refuses; here nothing.

        Raises:
            ApiError: it is refused.
        """

    async def list(self, request: Request) -> Response:
        files = self.store.files(self.kind)
        if purpose := request.query_params.get("purpose"):
            files = [file for file in files if file.purpose == purpose]
        if request.query_params.get("order") == "asc":
            files.reverse()
        limit, after = limit_of(request, 10_000, 10_000), request.query_params.get("after")
        shown, more = page(files, lambda file: file.id, limit=limit, after=after)
        return JSONResponse(list_object([file_object(file) for file in shown], more))

    async def get(self, request: Request) -> Response:
        return JSONResponse(file_object(self._file(request)))

    async def delete(self, request: Request) -> Response:
        file = self._file(request)
        self.store.delete_file(file)
        return JSONResponse({"id": file.id, "object": "file", "deleted": True})

    async def content(self, request: Request) -> Response:
        file = self._file(request)
        event = Event(provider=self.kind, path=request.url.path)
        return download(file.path, "application/octet-stream", self.store.faults.take("download", DOWNLOAD_FAULTS, event))

    def _file(self, request: Request) -> StoredFile:
        file_id = request.path_params["file_id"]
        file = self.store.file(file_id, self.kind)
        if file is None:
            raise ApiError(status=404, message=f"No such File object: {file_id}", param="id")
        return file
