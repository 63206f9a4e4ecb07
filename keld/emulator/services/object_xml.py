"""Object XML: the calls of the XML API that S3 made, and Google Cloud Storage took over: objects, parts, lists.

`s3` and `gcs` name the headers in which they differ (`Words`).  Names are percent-encoded in the path, their slashes too or not.
"""

import hashlib
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from urllib.parse import quote, unquote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from ..bucket import Check, StoredObject
from ..clock import instant
from ..error import ApiError
from ..fault import DOWNLOAD_FAULTS, UPLOAD_FAULTS
from ..rule import Event
from ..service import Endpoint
from ..store import Store
from ..wire import download
from .object_body import receive

_LEAST_PART_BYTES = 5 << 20  # of all but the last: docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html, Nov 2026; GCS has the same
_MOST_PARTS = 10_000
_MOST_KEYS = 1000
_CODES = {400: "InvalidRequest", 403: "AccessDenied", 404: "NoSuchKey", 409: "OperationAborted", 412: "PreconditionFailed", 503: "SlowDown"}


@dataclass(frozen=True, kw_only=True)
class Words:
    """The headers of one service.

    Args:
        prefix: of its own headers, e.g. `x-amz-`.
        condition: the condition that a write's or a delete's headers state.
        version: the headers that name an object's version, beside its ETag.
    """

    prefix: str
    condition: Callable[[Mapping[str, str]], Check]
    version: Callable[[StoredObject], dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class _Upload:
    """A multipart upload that has begun; `parts`: number -> file and MD5."""

    bucket: str
    name: str
    media_type: str
    metadata: Mapping[str, str]
    parts: dict[int, tuple[Path, str]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class XmlObjects:
    """The routes of one service; `kind` is the service's, `scheme` that of its objects, `base` the path before the bucket."""

    store: Store
    kind: str
    scheme: str
    base: str
    words: Words
    uploads: dict[str, _Upload] = field(default_factory=dict)

    def routes(self) -> list[Endpoint]:
        bucket, one = f"{self.base}/{{bucket}}", f"{self.base}/{{bucket}}/{{name:path}}"
        return [
            Endpoint(operation="get", method="HEAD", path=one, handler=self.read),  # before GET, which is taken for HEAD, too
            Endpoint(operation="download", method="GET", path=one, handler=self.read),
            Endpoint(operation="upload", method="PUT", path=one, handler=self.put),
            Endpoint(operation="upload", method="POST", path=one, handler=self.post),
            Endpoint(operation="delete", method="DELETE", path=one, handler=self.delete),
            Endpoint(operation="get", method="HEAD", path=bucket, handler=self.nothing),
            Endpoint(operation="list", method="GET", path=bucket, handler=self.list),
            Endpoint(operation="upload", method="PUT", path=bucket, handler=self.nothing),
            Endpoint(operation="delete", method="POST", path=bucket, handler=self.delete_many),
        ]

    async def nothing(self, request: Request) -> Response:
        """A bucket: it is there as soon as it is asked for."""
        return Response()

    # --- objects ------------------------------------------------------------------------------------------------------

    async def read(self, request: Request) -> Response:
        found = self._object(*_place(request))
        wanted, unwanted = request.headers.get("if-match"), request.headers.get("if-none-match")
        if wanted and wanted.strip('"') not in ("*", found.etag):
            raise _failed()
        if unwanted and unwanted.strip('"') in ("*", found.etag):
            return Response(status_code=304, headers=self._headers(found))
        rules = [] if request.method == "HEAD" else self.store.faults.take("download", DOWNLOAD_FAULTS, self._event(request))
        return download(found.path, found.media_type, rules, self._headers(found))

    async def put(self, request: Request) -> Response:
        bucket, name = _place(request)
        if "uploadId" in request.query_params:
            return await self._put_part(request)
        if source := request.headers.get(f"{self.words.prefix}copy-source"):
            copied = self._object(*unquote(source).lstrip("/").split("/", 1))
            made = self._keep(request, bucket, name, copied.path, media_type=copied.media_type, metadata=copied.metadata)
            changed = f"<LastModified>{_iso(made.modified_at)}</LastModified>"
            return _xml(f'<CopyObjectResult>{changed}<ETag>"{made.etag}"</ETag></CopyObjectResult>')
        path = self.store.objects.new_path()
        await receive(request, path)
        made = await run_in_threadpool(
            lambda: self._keep(request, bucket, name, path, media_type=_media_type(request), metadata=self._metadata(request))
        )
        return Response(headers={"etag": f'"{made.etag}"', **self.words.version(made)})

    async def post(self, request: Request) -> Response:
        bucket, name = _place(request)
        if "uploads" in request.query_params:
            upload_id = secrets.token_hex(16)
            self.uploads[upload_id] = _Upload(bucket=bucket, name=name, media_type=_media_type(request), metadata=self._metadata(request))
            names = f"<Bucket>{escape(bucket)}</Bucket><Key>{escape(name)}</Key><UploadId>{upload_id}</UploadId>"
            return _xml(f"<InitiateMultipartUploadResult>{names}</InitiateMultipartUploadResult>")
        if "uploadId" in request.query_params:
            return await self._complete(request)
        raise ApiError(
            status=501, code="NotImplemented", message="A header or query you provided implies functionality that is not implemented."
        )

    async def delete(self, request: Request) -> Response:
        if upload_id := request.query_params.get("uploadId"):
            self._upload(request)
            del self.uploads[upload_id]
            return Response(status_code=204)
        existed = self.store.objects.delete(self.scheme, *_place(request), self.words.condition(request.headers))
        if not existed and self.kind != "s3":  # S3 says 204 of what is not there
            raise _missing()
        return Response(status_code=204)

    async def delete_many(self, request: Request) -> Response:
        if "delete" not in request.query_params:
            raise ApiError(status=405, code="MethodNotAllowed", message="The specified method is not allowed against this resource.")
        names = [found.text or "" for found in _parsed(await request.body()).iter() if found.tag.rpartition("}")[2] == "Key"]
        for name in names:
            self.store.objects.delete(self.scheme, request.path_params["bucket"], name)
        return _xml(f"<DeleteResult>{''.join(f'<Deleted><Key>{escape(name)}</Key></Deleted>' for name in names)}</DeleteResult>")

    # --- parts --------------------------------------------------------------------------------------------------------

    async def _put_part(self, request: Request) -> Response:
        upload, number = self._upload(request), request.query_params.get("partNumber", "")
        if not number.isdigit() or not 1 <= int(number) <= _MOST_PARTS:
            raise ApiError(
                status=400, code="InvalidArgument", message=f"Part number must be an integer between 1 and {_MOST_PARTS}, inclusive"
            )
        path = self.store.objects.new_path()
        await receive(request, path)
        md5 = await run_in_threadpool(lambda: hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest())
        upload.parts[int(number)] = (path, md5)
        return Response(headers={"etag": f'"{md5}"'})

    async def _complete(self, request: Request) -> Response:
        upload, body = self._upload(request), await request.body()
        parts = self._parts(upload, body)
        etag = hashlib.md5(b"".join(bytes.fromhex(md5) for _, md5 in parts), usedforsecurity=False).hexdigest() + f"-{len(parts)}"
        whole = self.store.objects.new_path()
        await run_in_threadpool(_join, [path for path, _ in parts], whole)
        made = await run_in_threadpool(
            lambda: self._keep(
                request, upload.bucket, upload.name, whole, media_type=upload.media_type, metadata=upload.metadata, etag=etag
            )
        )
        self.uploads.pop(request.query_params["uploadId"], None)
        names = f"<Bucket>{escape(upload.bucket)}</Bucket><Key>{escape(upload.name)}</Key>"
        reply = _xml(f'<CompleteMultipartUploadResult>{names}<ETag>"{made.etag}"</ETag></CompleteMultipartUploadResult>')
        reply.headers.update(self.words.version(made))
        return reply

    def _parts(self, upload: _Upload, body: bytes) -> list[tuple[Path, str]]:
        """The parts that a complete names, in its order."""
        named = re.findall(r"<PartNumber>(\d+)</PartNumber>", body.decode())
        tags = re.findall(r"<ETag>(?:&quot;|\")?([0-9a-f]+)", body.decode())
        numbers = [int(number) for number in named]
        if not numbers or len(tags) != len(numbers):
            raise ApiError(status=400, code="MalformedXML", message="The XML you provided was not well-formed")
        if numbers != sorted(set(numbers)):
            raise ApiError(status=400, code="InvalidPartOrder", message="The list of parts was not in ascending order.")
        if any(upload.parts.get(number, (None, ""))[1] != tag for number, tag in zip(numbers, tags, strict=True)):
            raise ApiError(status=400, code="InvalidPart", message="One or more of the specified parts could not be found.")
        parts = [upload.parts[number] for number in numbers]
        if any(path.stat().st_size < _LEAST_PART_BYTES for path, _ in parts[:-1]):
            raise ApiError(status=400, code="EntityTooSmall", message="Your proposed upload is smaller than the minimum allowed size")
        return parts

    def _upload(self, request: Request) -> _Upload:
        upload = self.uploads.get(request.query_params["uploadId"])
        if upload is None or (upload.bucket, upload.name) != _place(request):
            raise ApiError(status=404, code="NoSuchUpload", message="The specified multipart upload does not exist.")
        return upload

    # --- lists --------------------------------------------------------------------------------------------------------

    async def list(self, request: Request) -> Response:
        bucket, asked = request.path_params["bucket"], request.query_params
        if asked.get("list-type") != "2":
            raise ApiError(status=501, code="NotImplemented", message="Only version 2 of the list is implemented.")
        prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter", "")
        after = bytes.fromhex(asked.get("continuation-token", "")).decode() or asked.get("start-after", "")
        most = min(int(asked.get("max-keys") or _MOST_KEYS), _MOST_KEYS)
        shown, folders, last = page_of(self.store.objects.listed(self.scheme, bucket, prefix, after), prefix, delimiter, most)
        write = (lambda text: quote(text, safe="/")) if asked.get("encoding-type") == "url" else escape
        entries = [
            f'<Contents><Key>{write(one.name)}</Key><LastModified>{_iso(one.modified_at)}</LastModified><ETag>"{one.etag}"</ETag>'
            f"<Size>{one.size_bytes}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            for one in shown
        ]
        entries += [f"<CommonPrefixes><Prefix>{write(folder)}</Prefix></CommonPrefixes>" for folder in folders]
        more = "" if last is None else f"<NextContinuationToken>{last.encode().hex()}</NextContinuationToken>"
        head = f"<Name>{escape(bucket)}</Name><Prefix>{write(prefix)}</Prefix><KeyCount>{len(entries)}</KeyCount>"
        head += f"<MaxKeys>{most}</MaxKeys><IsTruncated>{'true' if more else 'false'}</IsTruncated>{more}"
        head += "<EncodingType>url</EncodingType>" if asked.get("encoding-type") == "url" else ""
        return _xml(f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{head}{"".join(entries)}</ListBucketResult>')

    # --- common -------------------------------------------------------------------------------------------------------

    def _object(self, bucket: str, name: str) -> StoredObject:
        found = self.store.objects.find(self.scheme, bucket, name)
        if found is None:
            raise _missing()
        return found

    def _keep(
        self, request: Request, bucket: str, name: str, path: Path, *, media_type: str, metadata: Mapping[str, str], etag: str | None = None
    ) -> StoredObject:
        check = self.words.condition(request.headers)
        lag_s = sum(float(rule.get("for_s", 10)) for rule in self.store.faults.take("upload", UPLOAD_FAULTS, self._event(request)))
        return self.store.objects.keep(
            self.scheme, bucket, name, path, check=check, etag=etag, media_type=media_type, metadata=metadata, list_lag_s=lag_s
        )

    def _headers(self, found: StoredObject) -> dict[str, str]:
        own = {f"{self.words.prefix}meta-{name}": value for name, value in found.metadata.items()}
        changed = format_datetime(instant(found.modified_at), usegmt=True)
        kind = {"content-type": found.media_type}  # here, since Starlette would add a charset
        return {"etag": f'"{found.etag}"', "last-modified": changed, **kind, **own, **self.words.version(found)}

    def _metadata(self, request: Request) -> dict[str, str]:
        prefix = f"{self.words.prefix}meta-"
        return {name.removeprefix(prefix): value for name, value in request.headers.items() if name.startswith(prefix)}

    def _event(self, request: Request) -> Event:
        return Event(provider=self.kind, path=request.url.path)


def refusal(error: ApiError) -> Response:
    """A refusal as both services show it."""
    code = error.code or _CODES.get(error.status, "InternalError")
    words = f"<Code>{escape(code)}</Code><Message>{escape(error.message)}</Message>"
    reply = _xml(f"<Error>{words}<RequestId>{secrets.token_hex(8).upper()}</RequestId></Error>", error.status)
    reply.headers.update(error.headers)
    return reply


def page_of(found: list[StoredObject], prefix: str, delimiter: str, most: int) -> tuple[list[StoredObject], list[str], str | None]:
    """The objects and the common prefixes of a page; and where the next one continues, if there is one."""
    shown: list[StoredObject] = []
    folders: dict[str, None] = {}
    last = ""
    for one in found:
        cut = one.name.find(delimiter, len(prefix)) if delimiter else -1
        folder = one.name[: cut + len(delimiter)] if cut >= 0 else None
        if len(shown) + len(folders) == most and folder not in folders:
            return shown, list(folders), last
        last = one.name
        if folder is None:
            shown.append(one)
        else:
            folders[folder] = None
    return shown, list(folders), None


def _place(request: Request) -> tuple[str, str]:
    return request.path_params["bucket"], request.path_params["name"]


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "binary/octet-stream")


def _missing() -> ApiError:
    return ApiError(status=404, code="NoSuchKey", message="The specified key does not exist.")


def _failed() -> ApiError:
    return ApiError(status=412, code="PreconditionFailed", message="At least one of the pre-conditions you specified did not hold")


def _join(paths: list[Path], whole: Path) -> None:
    with whole.open("wb") as file:
        for path in paths:
            file.write(path.read_bytes())


def _parsed(body: bytes) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(body)  # noqa: S314  a client of this machine; entities of other files are not resolved
    except ElementTree.ParseError:
        raise ApiError(status=400, code="MalformedXML", message="The XML you provided was not well-formed") from None


def _iso(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _xml(content: str, status: int = 200) -> Response:
    return Response(f'<?xml version="1.0" encoding="UTF-8"?>\n{content}', status, media_type="application/xml")
