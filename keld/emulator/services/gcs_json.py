"""GCS JSON: Google Cloud Storage by its JSON API, which Google's own clients speak; the same objects as by `gcs`.

The wire, under `<emulator>/gcs_json`, as in docs.cloud.google.com/storage/docs/json_api, Nov 2026:

    POST /upload/storage/v1/b/<bucket>/o?uploadType=media|multipart|resumable    and PUT with `upload_id`, in pieces of 256 KiB
    GET  /storage/v1/b/<bucket>/o/<object>?alt=json|media                        also under /download
    GET  /storage/v1/b/<bucket>/o?prefix&delimiter&startOffset&pageToken         a page
    DELETE /storage/v1/b/<bucket>/o/<object>                                     404 where there is none
    GET, POST /storage/v1/b                                                      a bucket is there as soon as it is named

Conditions: `ifGenerationMatch`, 0 for "there is none".  Slashes in an object's name are percent-encoded.
"""

import base64
import re
import secrets
from dataclasses import dataclass
from email import message_from_bytes
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..answer import Answerer
from ..bucket import StoredObject
from ..clock import instant
from ..error import ApiError
from ..fault import DOWNLOAD_FAULTS, UPLOAD_FAULTS
from ..rule import Event
from ..service import Endpoint, Service
from ..store import Store
from ..wire import download
from .gcs import generation_is
from .object_body import receive
from .object_xml import page_of

_QUANTUM_BYTES = 256 << 10
_MOST_ITEMS = 1000
_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)").fullmatch
_REASONS = {400: "invalid", 401: "required", 403: "forbidden", 404: "notFound", 412: "conditionNotMet", 429: "rateLimitExceeded"}
_SCHEME = "gs"
_POLYNOMIAL = 0x82F63B78  # Castagnoli's, its bits reversed


@dataclass(frozen=True, kw_only=True)
class _Session:
    """A resumable upload that has begun."""

    bucket: str
    resource: dict[str, Any]
    generation: int | None
    path: Path


class GcsJson(Service):
    kind = "gcs_json"
    title = "Google Cloud Storage (JSON)"
    base = "/gcs_json"
    owns = "/gcs_json"
    request_id_header = "x-guploader-uploadid"

    def __init__(self, store: Store, answerer: Answerer) -> None:
        super().__init__(store, answerer)
        self._sessions: dict[str, _Session] = {}

    def env(self, base_url: str, api_key: str) -> dict[str, str]:
        return {"STORAGE_EMULATOR_HOST": base_url}

    def routes(self) -> list[Endpoint]:
        buckets = f"{self.base}/storage/v1/b"
        objects, uploads = f"{buckets}/{{bucket}}/o", f"{self.base}/upload/storage/v1/b/{{bucket}}/o"
        one, downloads = objects + "/{name:path}", f"{self.base}/download/storage/v1/b/{{bucket}}/o/{{name:path}}"
        return [
            Endpoint(operation="upload", method="POST", path=uploads, handler=self.upload),
            Endpoint(operation="upload", method="PUT", path=uploads, handler=self.continue_upload),
            Endpoint(operation="download", method="GET", path=downloads, handler=self.get),
            Endpoint(operation="get", method="GET", path=one, handler=self.get),
            Endpoint(operation="delete", method="DELETE", path=one, handler=self.delete),
            Endpoint(operation="list", method="GET", path=objects, handler=self.list),
            Endpoint(operation="get", method="GET", path=f"{buckets}/{{bucket}}", handler=self.bucket),
            Endpoint(operation="upload", method="POST", path=buckets, handler=self.bucket),
        ]

    # --- writes -------------------------------------------------------------------------------------------------------

    async def upload(self, request: Request) -> Response:
        bucket, asked = request.path_params["bucket"], request.query_params
        match asked.get("uploadType"):
            case "resumable":
                return await self._open_session(request)
            case "multipart":
                resource, data = _related(request.headers.get("content-type", ""), await request.body())
                path = self.store.objects.new_path()
                path.write_bytes(data)
            case "media":
                resource, path = {"contentType": request.headers.get("content-type")}, self.store.objects.new_path()
                await receive(request, path)
            case other:
                raise ApiError(status=400, message=f"Invalid upload type {other!r}", code="badRequest")
        return await self._keep(request, bucket, _named(resource, asked.get("name")), path, _generation(request))

    async def _open_session(self, request: Request) -> Response:
        body = await request.body()
        resource = msgspec.json.decode(body, type=dict[str, Any]) if body else {}
        resource.setdefault("contentType", request.headers.get("x-upload-content-type"))
        upload_id = secrets.token_hex(16)
        path = self.store.objects.new_path()
        path.touch()
        self._sessions[upload_id] = _Session(
            bucket=request.path_params["bucket"],
            resource=_named(resource, request.query_params.get("name")),
            generation=_generation(request),
            path=path,
        )
        location = f"{str(request.base_url).rstrip('/')}{request.url.path}?uploadType=resumable&upload_id={upload_id}"
        return Response(headers={"location": location})

    async def continue_upload(self, request: Request) -> Response:
        """A piece of a resumable upload, or `bytes */total`: the question how much is here."""
        upload_id = request.query_params.get("upload_id", "")
        session = self._sessions.get(upload_id)
        if session is None:
            raise ApiError(status=404, message="No such upload session.")
        data, said = await request.body(), _RANGE(request.headers.get("content-range", ""))
        have = session.path.stat().st_size
        start, total = (int(said[1] or have), said[3]) if said else (0, str(len(data)))
        if start > have:
            raise ApiError(status=503, message="The piece begins behind the bytes that are here.")
        with session.path.open("ab") as file:
            file.write(data[have - start :])
        have = session.path.stat().st_size
        if total != "*" and have == int(total):
            del self._sessions[upload_id]
            return await self._keep(request, session.bucket, session.resource, session.path, session.generation)
        if len(data) % _QUANTUM_BYTES:
            raise ApiError(status=400, message="A piece must have a multiple of 262144 bytes.")
        return Response(status_code=308, headers={"range": f"bytes=0-{have - 1}"} if have else {})

    async def delete(self, request: Request) -> Response:
        existed = self.store.objects.delete(
            _SCHEME, request.path_params["bucket"], request.path_params["name"], generation_is(_generation(request))
        )
        if not existed:
            raise _missing(request)
        return Response(status_code=204)

    async def _keep(self, request: Request, bucket: str, resource: dict[str, Any], path: Path, generation: int | None) -> Response:
        event = Event(provider=self.kind, path=request.url.path)
        lag_s = sum(float(rule.get("for_s", 10)) for rule in self.store.faults.take("upload", UPLOAD_FAULTS, event))
        made = await run_in_threadpool(
            lambda: self.store.objects.keep(
                _SCHEME,
                bucket,
                resource["name"],
                path,
                check=generation_is(generation),
                media_type=resource.get("contentType") or "application/octet-stream",
                metadata=resource.get("metadata"),
                list_lag_s=lag_s,
            )
        )
        sums = await run_in_threadpool(lambda: {"crc32c": base64.b64encode(_crc32c(made.read()).to_bytes(4, "big")).decode()})
        if resource.get("crc32c", sums["crc32c"]) != sums["crc32c"]:
            self.store.objects.delete(_SCHEME, bucket, made.name)
            raise ApiError(status=400, message="Provided CRC32C does not match the calculated one.")
        return JSONResponse(_resource(request, bucket, made) | sums)

    # --- reads --------------------------------------------------------------------------------------------------------

    async def get(self, request: Request) -> Response:
        bucket, asked = request.path_params["bucket"], request.query_params
        found = self.store.objects.find(_SCHEME, bucket, request.path_params["name"])
        if found is None or asked.get("generation") not in (None, str(found.generation)):
            raise _missing(request)
        generation_is(_generation(request))(found)
        if asked.get("alt") != "media":
            return JSONResponse(_resource(request, bucket, found))
        rules = self.store.faults.take("download", DOWNLOAD_FAULTS, Event(provider=self.kind, path=request.url.path))
        headers = {
            "content-type": found.media_type,
            "etag": found.etag,
            "x-goog-generation": str(found.generation),
            "x-goog-hash": f"md5={_base64(found.md5)}",
        }
        return download(found.path, found.media_type, rules, headers)

    async def list(self, request: Request) -> Response:
        bucket, asked = request.path_params["bucket"], request.query_params
        prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter", "")
        after = bytes.fromhex(asked.get("pageToken", "")).decode()
        found = self.store.objects.listed(_SCHEME, bucket, prefix, after)
        found = [one for one in found if one.name.encode() >= asked.get("startOffset", "").encode()]
        shown, folders, last = page_of(found, prefix, delimiter, min(int(asked.get("maxResults") or _MOST_ITEMS), _MOST_ITEMS))
        more = {} if last is None else {"nextPageToken": last.encode().hex()}
        items = [_resource(request, bucket, one) for one in shown]
        return JSONResponse({"kind": "storage#objects", "items": items, "prefixes": folders, **more})

    async def bucket(self, request: Request) -> Response:
        body = await request.body()
        name = request.path_params.get("bucket") or msgspec.json.decode(body, type=dict[str, Any])["name"]
        return JSONResponse({"kind": "storage#bucket", "id": name, "name": name, "location": "US", "storageClass": "STANDARD"})

    # --- refusals -----------------------------------------------------------------------------------------------------

    def error_body(self, error: ApiError) -> dict[str, Any]:
        reason = _REASONS.get(error.status, "backendError")
        detail = {"message": error.message, "domain": "global", "reason": reason}
        return {"error": {"code": error.status, "message": error.message, "errors": [detail]}}

    def key_refused(self, key: str) -> ApiError:
        return ApiError(status=401, message="Invalid Credentials")


def _resource(request: Request, bucket: str, found: StoredObject) -> dict[str, Any]:
    """An object as it is shown; its checksum CRC32C only where it was just written, since it takes long to compute."""
    changed = instant(found.modified_at).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    link = f"{str(request.base_url).rstrip('/')}/gcs_json/storage/v1/b/{bucket}/o/{quote(found.name, safe='')}"
    return {
        "kind": "storage#object",
        "id": f"{bucket}/{found.name}/{found.generation}",
        "selfLink": link,
        "mediaLink": f"{link}?alt=media&generation={found.generation}",
        "name": found.name,
        "bucket": bucket,
        "generation": str(found.generation),
        "metageneration": "1",
        "contentType": found.media_type,
        "storageClass": "STANDARD",
        "size": str(found.size_bytes),
        "md5Hash": _base64(found.md5),
        "etag": found.etag,
        "timeCreated": changed,
        "updated": changed,
        "metadata": dict(found.metadata),
    }


def _named(resource: dict[str, Any], name: str | None) -> dict[str, Any]:
    named = {"name": name, **resource} if name else resource
    if not named.get("name"):
        raise ApiError(status=400, message="Required parameter: name")
    return named


def _generation(request: Request) -> int | None:
    wanted = request.query_params.get("ifGenerationMatch")
    return None if wanted is None else int(wanted)


def _related(media_type: str, body: bytes) -> tuple[dict[str, Any], bytes]:
    """The resource and the bytes of a `multipart/related` body."""
    message = message_from_bytes(b"content-type: " + media_type.encode() + b"\r\n\r\n" + body[: 64 << 10])
    boundary = message.get_boundary()
    if boundary is None:
        raise ApiError(status=400, message="Malformed multipart body.")
    # By hand: a parser of mail would change line ends in the bytes.
    first, data = body.split(b"--" + boundary.encode(), 2)[1:]
    resource = msgspec.json.decode(first.partition(b"\r\n\r\n")[2], type=dict[str, Any])
    head, _, data = data.partition(b"\r\n\r\n")
    kind = message_from_bytes(head.lstrip() + b"\r\n\r\n").get_content_type()
    resource.setdefault("contentType", kind)
    return resource, data.rpartition(b"\r\n--" + boundary.encode() + b"--")[0]


def _missing(request: Request) -> ApiError:
    return ApiError(status=404, message=f"No such object: {request.path_params['bucket']}/{request.path_params['name']}")


def _base64(hexadecimal: str) -> str:
    return base64.b64encode(bytes.fromhex(hexadecimal)).decode()


@cache
def _crc32c_table() -> list[int]:
    table = list(range(256))
    for _ in range(8):
        table = [value >> 1 ^ (_POLYNOMIAL if value & 1 else 0) for value in table]
    return table


def _crc32c(data: bytes) -> int:
    table, value = _crc32c_table(), 0xFFFFFFFF
    for byte in data:
        value = table[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF
