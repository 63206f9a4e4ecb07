"""Cloud: the wires of Azure, Mistral, Gemini, Vertex and Bedrock, as far as a client of their batches needs them.

Written from the vendors' public pages (learn.microsoft.com, docs.mistral.ai, ai.google.dev, docs.aws.amazon.com), Nov 2026.
"""

from __future__ import annotations

import hashlib
import json
import re
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

from tests.adversary.mode import call_of
from tests.adversary.record import Batch, Purchase, Row
from tests.adversary.shape import OpenAI, Shape, row_of, stamp, told
from tests.adversary.wire import Reply, Request

if TYPE_CHECKING:
    from tests.adversary.host import Host


class Azure(OpenAI):
    """A resource: no endpoint and no counts at first, an error file without a byte, and nothing that expires."""

    name = "azure"
    base = ""  # the client adds the path of the API to the endpoint

    def call_of(self, request: Request) -> tuple[str, str]:
        path = request.target.removeprefix("/openai/v1")
        return call_of(Request(request.method, f"/v1{path}", request.headers, request.body))

    def shown(self, host: Host, batch: Batch) -> dict[str, Any]:
        shown = super().shown(host, batch)
        if (ended := host.ended_at(batch)) is None and "request_counts" in shown:
            shown |= {"endpoint": None, "request_counts": {"total": None, "completed": None, "failed": None}}
        names = {"output_file_id": shown["output_file_id"] or "", "error_file_id": f"{batch.id}-errors" if ended else ""}
        return shown | names

    def missing(self) -> Reply:
        return told({"error": {"code": "404", "message": "Resource not found"}}, 404)


class Mistral(Shape):
    """Jobs over files; the list has pages by number, and a filter by metadata."""

    name, base, model, prefix = "mistral", "/v1", "mistral-small-latest", "job-"

    def call_of(self, request: Request) -> tuple[str, str]:
        match request.method, request.path[1:]:
            case "POST", ["batch", "jobs"]:
                return "create", ""
            case "GET", ["batch", "jobs"]:
                return "list", request.query.get("page") or "0"
            case "GET", ["batch", "jobs", name]:
                return "get", name
            case "POST", ["batch", "jobs", name, "cancel"]:
                return "cancel", name
            case _:
                return call_of(request)

    def purchase(self, host: Host, request: Request) -> Purchase | None:
        asked = json.loads(request.body)
        content = host.files.get(asked["input_files"][0])
        if content is None:
            return None
        lines = [json.loads(line) for line in content.split(b"\n") if line]
        rows = [self.row(line["custom_id"], line["body"]) for line in lines]
        return Purchase(rows, asked["endpoint"], asked["input_files"][0], asked.get("metadata"))

    def is_listed(self, request: Request, batch: Batch) -> bool:
        wanted = {name: value for name, value in request.query.items() if name.startswith("keld")}
        return all((batch.metadata or {}).get(name) == value for name, value in wanted.items())

    def start_and_size(self, request: Request, names: list[str], after: str) -> tuple[int, int]:
        size = int(request.query.get("page_size") or 100)
        return int(after or 0) * size, size

    def page(self, shown: list[dict[str, Any]], names: list[str], *, more: bool, total: int) -> dict[str, Any]:
        return {"object": "list", "data": shown, "total": total}

    def shown(self, host: Host, batch: Batch) -> dict[str, Any]:
        words = {"cancelling": "CANCELLATION_REQUESTED", "completed": "SUCCESS", "expired": "TIMEOUT_EXCEEDED", "in_progress": "RUNNING"}
        ended, done, status = host.ended_at(batch), len(host.answered(batch)), host.status(batch)
        return {
            "id": host.id(batch.id), "object": "batch", "input_files": [batch.input_id], "metadata": batch.metadata, "endpoint": batch.endpoint,
            "model": self.model, "status": words.get(status, status.upper()), "created_at": int(batch.at.timestamp()), "errors": [],
            "total_requests": len(batch.rows), "completed_requests": done, "succeeded_requests": done, "failed_requests": 0,
            "output_file": f"{batch.id}-output" if ended and done else None, "error_file": None,
        }  # fmt: skip

    def left(self, host: Host, batch: Batch) -> bytes:
        return b""  # what was not reached is in no file

    def missing(self) -> Reply:
        return told({"object": "error", "message": "not found", "type": "not_found", "code": "3700"}, 404)


class Gemini(Shape):
    """Operations over files; a batch that was cancelled, or expired, gives nothing back."""

    name, base, model, prefix = "gemini", "", "gemini-2.5-flash", ""

    def call_of(self, request: Request) -> tuple[str, str]:
        match request.method, [part for part in request.path if part not in ("v1", "v1beta")]:
            case "POST", ["upload", "files"]:
                return "upload", request.query.get("upload_id") or ""
            case "GET", ["download", "files", name]:
                return "download", name.removesuffix(":download")
            case "GET", ["files", name]:
                return "size", name
            case "DELETE", ["files", name]:
                return "delete", name
            case "POST", ["models", method] if method.endswith(":batchGenerateContent"):
                return "create", ""
            case "POST", ["models", method] if method.endswith(":generateContent"):
                return "ask", ""
            case "GET", ["batches"]:
                return "list", request.query.get("pageToken") or ""
            case "GET", ["batches", name]:
                return "get", name
            case "POST", ["batches", name] if name.endswith(":cancel"):
                return "cancel", name.removesuffix(":cancel")
            case _:
                return "odd", request.target

    def carried_out(self, host: Host, request: Request, at: str, name: str) -> Reply | None:
        """An upload: its start gives an address, to which the bytes go."""
        if at != "upload":
            return None
        if not name:
            name = f"in-{len(host.files) + 1:04d}"
            host.files[name] = b""
            return Reply(body=b"{}", headers={"x-goog-upload-url": f"{host.url}/upload/v1beta/files?upload_id={name}"})
        host.files[name] = host.files.get(name, b"")[: int(request.headers.get("x-goog-upload-offset") or 0)] + request.body
        return told({"file": {"name": f"files/{name}", "sizeBytes": str(len(host.files[name])), "state": "ACTIVE"}})

    def purchase(self, host: Host, request: Request) -> Purchase | None:
        asked = json.loads(request.body)["batch"]
        name = asked["inputConfig"]["fileName"].removeprefix("files/")
        content = host.files.get(name)
        if content is None:
            return None
        lines = [json.loads(line) for line in content.split(b"\n") if line]
        return Purchase([self.row(line["key"], line["request"]) for line in lines], "", name, asked.get("displayName"))

    def row(self, custom_id: str, body: dict[str, Any]) -> Row:
        prompt = "".join(part["text"] for part in body["contents"][-1]["parts"])
        return row_of(custom_id, prompt, body, body.get("generationConfig", {}).get("responseSchema"))

    def start_and_size(self, request: Request, names: list[str], after: str) -> tuple[int, int]:
        return names.index(after) + 1 if after in names else 0, int(request.query.get("pageSize") or 50)

    def page(self, shown: list[dict[str, Any]], names: list[str], *, more: bool, total: int) -> dict[str, Any]:
        return ({"operations": shown} if shown else {}) | ({"nextPageToken": names[-1]} if more and names else {})

    def renamed(self, shown: dict[str, Any], name: Any) -> dict[str, Any]:
        return shown | {"name": f"batches/{name}"}

    def shown(self, host: Host, batch: Batch) -> dict[str, Any]:
        words = {"completed": "SUCCEEDED", "in_progress": "RUNNING", "cancelling": "CANCELLED", "cancelled": "CANCELLED"}
        status, done = host.status(batch), str(len(host.answered(batch)))
        stats = {"requestCount": str(len(batch.rows)), "successfulRequestCount": done} if "no_counts" not in host.quirks else {}
        metadata = {
            "state": f"BATCH_STATE_{words.get(status, status.upper())}", "createTime": stamp(host, batch.at), "batchStats": stats,
            "inputConfig": {"fileName": f"files/{batch.input_id}"}, "displayName": batch.metadata,
            "output": {"responsesFile": f"files/{batch.id}-output"} if status == "completed" else None,
        }  # fmt: skip
        for quirk, name in (("no_metadata", "displayName"), ("no_input_id", "inputConfig")):
            if quirk in host.quirks:
                del metadata[name]
        given = {name: value for name, value in metadata.items() if value is not None}
        return {"name": f"batches/{host.id(batch.id)}", "metadata": given, "done": host.ended_at(batch) is not None}

    def cancelled(self, host: Host, batch: Batch) -> Reply:
        return told({})

    def file(self, name: Any, size: int) -> dict[str, Any]:
        return {"name": f"files/{name}", "sizeBytes": str(size), "state": "ACTIVE"}

    def removed(self, name: str) -> dict[str, Any]:
        return {}

    def missing(self) -> Reply:
        return told({"error": {"code": 404, "message": "Requested entity was not found.", "status": "NOT_FOUND"}}, 404)

    def line(self, host: Host, batch: Batch, row: Row, *, answered: bool) -> dict[str, Any] | None:
        return {"key": row.custom_id, "response": self.answer(row)} if answered else None

    def left(self, host: Host, batch: Batch) -> bytes:
        return b""

    def answer(self, row: Row) -> dict[str, Any]:
        usage = {
            "promptTokenCount": row.input_tokens,
            "candidatesTokenCount": row.output_tokens,
            "totalTokenCount": row.input_tokens + row.output_tokens,
        }
        said = {"content": {"role": "model", "parts": [{"text": row.said}]}, "finishReason": "STOP", "index": 0}
        return {"candidates": [said], "usageMetadata": usage, "modelVersion": self.model}


class Bucketed(Shape):
    """What shapes over a bucket share: the calls of S3 and of Cloud Storage's XML API, which are the same."""

    def carried_out(self, host: Host, request: Request, at: str, name: str) -> Reply | None:
        if request.path[0] not in ("s3", "gs"):
            return None
        match at:
            case "upload":
                return self._kept(host, request, name)
            case "size" | "download":
                content = self.object(host, name)
                return _read(host, request, content) if content is not None else _no_object()
            case "delete":
                host.files.pop(name, None)
                host.removed.setdefault(name, host.clock())
                return Reply(status=204)
            case _:
                return self._names(host, request.query.get("prefix") or "")

    def object(self, host: Host, name: str) -> bytes | None:
        """What is stored under a name: an upload, or what a job wrote when it had ended."""
        return host.files.get(name)

    def written(self, host: Host) -> list[str]:
        """The names of the objects that jobs wrote."""
        return []

    def _names(self, host: Host, prefix: str) -> Reply:
        """A list of objects."""
        when = host.clock().strftime("%Y-%m-%dT%H:%M:%S.000Z")
        shown = ""
        for name in sorted({*host.files, *self.written(host)}):
            if name.startswith(prefix) and (content := self.object(host, name)) is not None:
                meta = f"<LastModified>{when}</LastModified><ETag>{_tag(content)}</ETag><Size>{len(content)}</Size>"
                shown += f"<Contents><Key>{name}</Key>{meta}</Contents>"
        return _xml(f"<ListBucketResult>{shown}<IsTruncated>false</IsTruncated></ListBucketResult>")

    def _kept(self, host: Host, request: Request, name: str) -> Reply:
        """An object, or one of its parts."""
        upload, number = request.query.get("uploadId"), int(request.query.get("partNumber") or 0)
        if request.method == "PUT":
            host.files[f"{upload}/{number:05d}" if upload else name] = request.body
            return Reply(headers={"etag": _tag(request.body)})
        if upload is None:
            told_id = f"upload-{len(host.files)}-{name}"
            return _xml(f"<InitiateMultipartUploadResult><UploadId>{told_id}</UploadId></InitiateMultipartUploadResult>")
        parts = sorted(one for one in host.files if one.startswith(f"{upload}/"))
        host.files[name] = b"".join(host.files.pop(part) for part in parts)
        return _xml(f"<CompleteMultipartUploadResult><ETag>{_tag(host.files[name])}</ETag></CompleteMultipartUploadResult>")


_ARN = "arn:aws:bedrock:us-east-1:123456789012:model-invocation-job/"


class Bedrock(Bucketed):
    """Jobs over objects in a bucket; a create with the same token makes no second job."""

    name, base, model, prefix, least_rows = "bedrock", "", "openai.gpt-oss-120b-1:0", "job", 100

    def call_of(self, request: Request) -> tuple[str, str]:
        match request.method, request.path:
            case "POST", ["model-invocation-job"]:
                return "create", ""
            case "GET", ["model-invocation-jobs"]:
                return "list", request.query.get("nextToken") or ""
            case "GET", ["model-invocation-job", arn]:
                return "get", arn.removeprefix(_ARN)
            case "POST", ["model-invocation-job", arn, "stop"]:
                return "cancel", arn.removeprefix(_ARN)
            case "POST", ["model", _, "converse"]:
                return "ask", ""
            case method, ["s3", _, *parts] if parts:
                return {"HEAD": "size", "GET": "download", "DELETE": "delete"}.get(method, "upload"), "/".join(parts)
            case _:
                return "odd", request.target

    # -- the bucket -------------------------------------------------------------------------------------------

    def object(self, host: Host, name: str) -> bytes | None:
        found = re.search(r"/out/(job\d+)/(.+)", f"/{name}")
        if found is None:
            return host.files.get(name)
        batch = host.batches.get(found[1])
        if batch is None or host.ended_at(batch) is None:
            return None
        if found[2] == "manifest.json.out":
            done = len(host.answered(batch))
            return json.dumps({"totalRecordCount": len(batch.rows), "processedRecordCount": done, "successRecordCount": done}).encode()
        return host.results(batch)

    # -- the jobs ---------------------------------------------------------------------------------------------

    def purchase(self, host: Host, request: Request) -> Purchase | None:
        asked = json.loads(request.body)
        name = self._name(asked["inputDataConfig"]["s3InputDataConfig"]["s3Uri"])
        lines = [json.loads(line) for line in host.files.get(name, b"").split(b"\n") if line]
        rows = [self.row(line["recordId"], line["modelInput"]) for line in lines]
        return Purchase(rows, asked["outputDataConfig"]["s3OutputDataConfig"]["s3Uri"], name, asked, asked["clientRequestToken"])

    def _name(self, uri: str) -> str:
        return uri.removeprefix("s3://bucket/")

    def row(self, custom_id: str, body: dict[str, Any]) -> Row:
        return row_of(custom_id, "".join(part["text"] for part in body["messages"][-1]["content"]), body)

    def is_listed(self, request: Request, batch: Batch) -> bool:
        job = batch.metadata.get("jobName", "") if batch.metadata else ""
        since = request.query.get("submitTimeAfter") or ""
        return (request.query.get("nameContains") or "") in job and batch.at.strftime("%Y-%m-%dT%H:%M:%SZ") >= since

    def start_and_size(self, request: Request, names: list[str], after: str) -> tuple[int, int]:
        return names.index(after) + 1 if after in names else 0, int(request.query.get("maxResults") or 100)

    def page(self, shown: list[dict[str, Any]], names: list[str], *, more: bool, total: int) -> dict[str, Any]:
        return {"invocationJobSummaries": shown} | ({"nextToken": names[-1]} if more and names else {})

    def renamed(self, shown: dict[str, Any], name: Any) -> dict[str, Any]:
        return shown | {"jobArn": f"{_ARN}{name}"}

    def created(self, host: Host, batch: Batch) -> Reply:
        date = format_datetime(host.clock(), usegmt=True)
        return Reply(body=json.dumps({"jobArn": f"{_ARN}{batch.id}"}).encode(), headers={"date": date})

    def cancelled(self, host: Host, batch: Batch) -> Reply:
        return told({})

    def shown(self, host: Host, batch: Batch) -> dict[str, Any]:
        words = {
            "in_progress": "InProgress",
            "cancelling": "Stopping",
            "completed": "Completed",
            "cancelled": "Stopped",
            "failed": "Failed",
        }
        done, asked = len(host.answered(batch)), batch.metadata if "jobName" in (batch.metadata or {}) else {}
        own = ("jobName", "clientRequestToken", "roleArn", "modelId", "inputDataConfig", "outputDataConfig")
        told_counts = {"totalRecordCount": len(batch.rows), "processedRecordCount": done, "successRecordCount": done, "errorRecordCount": 0}
        counts = told_counts if "no_counts" not in host.quirks else {}
        return {
            "jobArn": f"{_ARN}{batch.id}", "status": words.get(host.status(batch), "PartiallyCompleted" if done else "Expired"),
            "submitTime": stamp(host, batch.at), **{name: asked[name] for name in own if name in asked}, **counts,
        }  # fmt: skip

    def missing(self) -> Reply:
        reply = told({"message": "The requested resource was not found."}, 404)
        return Reply(status=404, body=reply.body, headers={"x-amzn-errortype": "ResourceNotFoundException"})

    def line(self, host: Host, batch: Batch, row: Row, *, answered: bool) -> dict[str, Any] | None:
        return {"recordId": row.custom_id, "modelInput": {}, "modelOutput": self.answer(row)} if answered else None

    def left(self, host: Host, batch: Batch) -> bytes:
        return b""

    def answer(self, row: Row) -> dict[str, Any]:
        usage = {"inputTokens": row.input_tokens, "outputTokens": row.output_tokens, "totalTokens": row.input_tokens + row.output_tokens}
        return {"output": {"message": {"role": "assistant", "content": [{"text": row.said}]}}, "stopReason": "end_turn", "usage": usage}


_JOBS = "projects/p/locations/us-central1/batchPredictionJobs"


class Vertex(Bucketed, Gemini):
    """Jobs over objects in a bucket, with a label as their mark; what was answered before a cancel is written."""

    name, base, model, prefix = "vertex", "", "gemini-2.5-flash", ""

    def call_of(self, request: Request) -> tuple[str, str]:
        target = "/".join(request.path)
        match request.method, request.path:
            case method, ["gs", _, *parts] if parts:
                return {"HEAD": "size", "GET": "download", "DELETE": "delete"}.get(method, "upload"), "/".join(parts)
            case "POST", _ if target == f"v1/{_JOBS}":
                return "create", ""
            case "GET", _ if target == f"v1/{_JOBS}":
                return "list", request.query.get("pageToken") or ""
            case "GET", _ if target.startswith(f"v1/{_JOBS}/"):
                return "get", request.path[-1]
            case "POST", _ if target.startswith(f"v1/{_JOBS}/") and target.endswith(":cancel"):
                return "cancel", request.path[-1].removesuffix(":cancel")
            case "POST", _ if target.endswith(":generateContent"):
                return "ask", ""
            case _:
                return "odd", request.target

    def object(self, host: Host, name: str) -> bytes | None:
        found = re.search(r"/prediction-(\w+)/predictions\.jsonl$", name)
        if found is None:
            return host.files.get(name)
        batch = host.batches.get(found[1])
        return None if batch is None or host.ended_at(batch) is None else host.results(batch)

    def written(self, host: Host) -> list[str]:
        return [f"{self._folder(batch)}/predictions.jsonl" for batch in host.batches.values() if not batch.others]

    def _folder(self, batch: Batch) -> str:
        prefix = batch.metadata["outputConfig"]["gcsDestination"]["outputUriPrefix"].removeprefix("gs://bucket/")
        return f"{prefix}/prediction-{batch.id}"

    def purchase(self, host: Host, request: Request) -> Purchase | None:
        asked = json.loads(request.body)
        name = asked["inputConfig"]["gcsSource"]["uris"][0].removeprefix("gs://bucket/")
        requests = [json.loads(line)["request"] for line in host.files.get(name, b"").split(b"\n") if line]
        return Purchase([self.row(one["labels"]["keld"], one) for one in requests], "", name, asked)

    def is_listed(self, request: Request, batch: Batch) -> bool:
        mark = (batch.metadata or {}).get("labels", {}).get("keld")
        wanted = re.fullmatch(r'labels\.keld="(.*)"', request.query.get("filter") or "")
        return mark is not None and (wanted is None or wanted[1] == mark)

    def page(self, shown: list[dict[str, Any]], names: list[str], *, more: bool, total: int) -> dict[str, Any]:
        return ({"batchPredictionJobs": shown} if shown else {}) | ({"nextPageToken": names[-1]} if more and names else {})

    def renamed(self, shown: dict[str, Any], name: Any) -> dict[str, Any]:
        return shown | {"name": f"{_JOBS}/{name}"}

    def shown(self, host: Host, batch: Batch) -> dict[str, Any]:
        words = {"completed": "SUCCEEDED", "in_progress": "RUNNING"}
        status, done, asked = host.status(batch), len(host.answered(batch)), batch.metadata or {}
        own = {name: asked[name] for name in ("labels", "inputConfig", "outputConfig") if name in asked}
        stats = {"successfulCount": str(done), "incompleteCount": str(len(batch.rows) - done)} if "no_counts" not in host.quirks else None
        folder = f"gs://bucket/{self._folder(batch)}" if host.ended_at(batch) and done and not batch.others else None
        told_of = {
            "name": f"{_JOBS}/{host.id(batch.id)}", "state": f"JOB_STATE_{words.get(status, status.upper())}", **own,
            "createTime": stamp(host, batch.at), "completionStats": stats,
            "outputInfo": {"gcsOutputDirectory": folder} if folder else None,
        }  # fmt: skip
        return {name: value for name, value in told_of.items() if value is not None}

    def line(self, host: Host, batch: Batch, row: Row, *, answered: bool) -> dict[str, Any] | None:
        if not answered:
            return None
        return {"request": {"labels": {"keld": row.custom_id}}, "status": "", "response": self.answer(row)}


def _read(host: Host, request: Request, content: bytes) -> Reply:
    """An object, or a part of it."""
    headers = {"etag": _tag(content), "last-modified": format_datetime(host.clock(), usegmt=True), "accept-ranges": "bytes"}
    kind = "application/octet-stream"
    if request.method == "HEAD":
        return Reply(kind=kind, headers=headers, length=len(content))
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range") or "")
    if found is None:
        return Reply(body=content, kind=kind, headers=headers)
    first, last = int(found[1]), min(int(found[2] or len(content) - 1), len(content) - 1)
    return Reply(
        status=206,
        body=content[first : last + 1],
        kind=kind,
        headers=headers | {"content-range": f"bytes {first}-{last}/{len(content)}"},
    )


def _tag(content: bytes) -> str:
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'


def _xml(body: str) -> Reply:
    return Reply(body=f'<?xml version="1.0" encoding="UTF-8"?>{body}'.encode(), kind="application/xml")


def _no_object() -> Reply:
    return Reply(status=404, kind="application/xml", body=b"<Error><Code>NoSuchKey</Code></Error>")


CLOUDS: tuple[Shape, ...] = (Azure(), Mistral(), Gemini(), Bedrock(), Vertex())
