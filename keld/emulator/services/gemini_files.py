"""Gemini files: the routes of the Files API: a resumable upload in pieces, files, downloads of responses.

The protocol of an upload: a POST with the command `start` gives an address; each POST there adds a piece at its offset, the last one with
`upload, finalize`; the command `query` says how much has arrived.  The address needs no key.  As seen with google-genai 3.6, and in
developers.google.com's pages on resumable uploads, Nov 2026.
"""

import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..error import ApiError
from ..fault import DOWNLOAD_FAULTS
from ..rule import Event
from ..service import Endpoint
from ..store import Store, StoredFile
from ..wire import download
from .gemini_object import file_object

# ai.google.dev/gemini-api/docs/files, Nov 2026: 2 GB a file; uploads are removed after 48 hours.
MAX_FILE_BYTES = 2 << 30
UPLOAD_LIFE_S = 48 * 3_600.0
PIECE_BYTES = 8 << 20  # all pieces but the last are multiples of it
_OFFICIAL = "https://generativelanguage.googleapis.com/v1beta"


@dataclass(kw_only=True)
class Session:
    """An upload that has begun."""

    key: str
    path: Path
    name: str
    size_bytes: int
    got_bytes: int = 0


@dataclass(frozen=True)
class Files:
    """The files of one service; `kind` is the service's, `base` the path before the version."""

    store: Store
    kind: str
    base: str
    sessions: dict[str, Session] = field(default_factory=dict)

    def routes(self, version: str) -> list[Endpoint]:
        files = f"{self.base}/{version}/files"
        one, uploads = files + "/{file_id}", f"{self.base}/upload/{version}/files"
        content, other_content = one + ":download", f"{self.base}/download/{version}/files/{{file_id}}:download"
        return [
            Endpoint(operation="upload", method="POST", path=uploads, handler=self.upload),
            Endpoint(operation="list", method="GET", path=files, handler=self.list_files),
            Endpoint(operation="download", method="GET", path=content, handler=self.content),
            Endpoint(operation="download", method="GET", path=other_content, handler=self.content),
            Endpoint(operation="get", method="GET", path=one, handler=self.get),
            Endpoint(operation="delete", method="DELETE", path=one, handler=self.delete),
        ]

    def find(self, name: str) -> StoredFile | None:
        """The living file of that name, `files/..`."""
        return self.store.file(f"file-{name.removeprefix('files/')}", self.kind)

    def session_key(self, request: Request) -> str:
        """The key with which the upload began that a call continues; "" if there is none."""
        session = self.sessions.get(request.query_params.get("upload_id", ""))
        return session.key if session else ""

    async def upload(self, request: Request) -> Response:
        command = request.headers.get("x-goog-upload-command", "")
        if command == "start":
            return await self._start(request)
        session = self.sessions.get(request.query_params.get("upload_id", ""))
        if session is None:
            raise ApiError(status=404, message="The upload was not found.")
        if command == "query":
            return Response(headers=_status("active", session))
        if (parts := {part.strip() for part in command.split(",")}) in ({"upload"}, {"upload", "finalize"}):
            return await self._piece(request, session, last="finalize" in parts)
        raise ApiError(status=400, message=f"Invalid upload command: {command!r}")

    async def _start(self, request: Request) -> Response:
        if request.headers.get("x-goog-upload-protocol") != "resumable":
            raise ApiError(status=400, message="Upload protocol is not supported here; use `resumable`.")
        size = request.headers.get("x-goog-upload-header-content-length", "")
        if not size.isdigit() or int(size) > MAX_FILE_BYTES:
            raise ApiError(status=400, message=f"File size {size!r} is missing or larger than 2 GB.")
        body = await request.body()
        said = msgspec.json.decode(body) if body else {}
        name = str((said.get("file") or {}).get("displayName") or "")
        upload_id = secrets.token_hex(24)
        path = self.store.folder / f"{upload_id}.upload"
        path.touch()
        key = request.headers.get("x-goog-api-key") or request.query_params.get("key", "")
        self.sessions[upload_id] = Session(key=key, path=path, name=name, size_bytes=int(size))
        address = f"{str(request.base_url).rstrip('/')}{request.url.path}?upload_id={upload_id}&upload_protocol=resumable"
        return Response(headers=_status("active", self.sessions[upload_id]) | {"x-goog-upload-url": address})

    async def _piece(self, request: Request, session: Session, *, last: bool) -> Response:
        if request.headers.get("x-goog-upload-offset") != str(session.got_bytes):
            raise ApiError(status=400, message="The upload offset does not match.", headers=_status("active", session))
        piece = await request.body()
        if session.got_bytes + len(piece) > session.size_bytes or (last and session.got_bytes + len(piece) < session.size_bytes):
            raise ApiError(status=400, message="The size of the upload is not the one that was announced.")
        if not last and len(piece) % PIECE_BYTES:
            raise ApiError(status=400, message=f"The size of a piece must be a multiple of {PIECE_BYTES}.")
        with session.path.open("ab") as target:
            target.write(piece)
        session.got_bytes += len(piece)
        if not last:
            return Response(headers=_status("active", session))
        file = self.store.add_file(session.path, owner=self.kind, filename=session.name, purpose="batch", expires_after_s=UPLOAD_LIFE_S)
        return JSONResponse({"file": file_object(file, _OFFICIAL)}, headers=_status("final", session))

    def shown(self) -> list[dict[str, Any]]:
        return [file_object(file, _OFFICIAL) for file in self.store.files(self.kind)]

    async def list_files(self, request: Request) -> Response:
        return JSONResponse({"files": self.shown()})

    async def get(self, request: Request) -> Response:
        return JSONResponse(file_object(self._file(request), _OFFICIAL))

    async def delete(self, request: Request) -> Response:
        self.store.delete_file(self._file(request))
        return JSONResponse({})

    async def content(self, request: Request) -> Response:
        file = self._file(request)
        if file.purpose != "batch_output":
            raise ApiError(status=400, message="Only generated files can be downloaded.", code="INVALID_ARGUMENT")
        if request.query_params.get("alt") != "media":
            raise ApiError(status=400, message="A download needs alt=media.")
        event = Event(provider=self.kind, path=request.url.path)
        return download(file.path, "application/octet-stream", self.store.faults.take("download", DOWNLOAD_FAULTS, event))

    def _file(self, request: Request) -> StoredFile:
        name = request.path_params["file_id"]
        file = self.find(name)
        if file is None:
            raise missing_file(name)
        return file


def missing_file(name: str) -> ApiError:
    """The service does not say whether a file is missing or somebody else's."""
    name = name.removeprefix("files/")
    return ApiError(
        status=403, message=f"You do not have permission to access the File {name} or it may not exist.", code="PERMISSION_DENIED"
    )


def _status(status: str, session: Session) -> dict[str, str]:
    return {
        "x-goog-upload-status": status,
        "x-goog-upload-size-received": str(session.got_bytes),
        "x-goog-upload-chunk-granularity": str(PIECE_BYTES),
    }
