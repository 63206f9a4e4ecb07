"""Gemini object: errors, files and batches as generativelanguage.googleapis.com shows them."""

from datetime import UTC, datetime
from typing import Any

from ..batch import Batch
from ..error import ApiError
from ..life import ENDED, Phase
from ..store import StoredFile

# The word of google.rpc.Code for an HTTP status, and its number, which result lines have.
WORDS = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 402: "RESOURCE_EXHAUSTED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 408: "DEADLINE_EXCEEDED",
    409: "ABORTED", 413: "INVALID_ARGUMENT", 429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip
NUMBERS = {
    "CANCELLED": 1, "INVALID_ARGUMENT": 3, "DEADLINE_EXCEEDED": 4, "NOT_FOUND": 5, "PERMISSION_DENIED": 7, "RESOURCE_EXHAUSTED": 8,
    "FAILED_PRECONDITION": 9, "ABORTED": 10, "INTERNAL": 13, "UNAVAILABLE": 14, "UNAUTHENTICATED": 16,
}  # fmt: skip
KEY_INVALID = "API_KEY_INVALID"
_TYPE = "type.googleapis.com/google.ai.generativelanguage.v1beta."
_STATES = {
    "validating": "BATCH_STATE_PENDING",
    "in_progress": "BATCH_STATE_RUNNING",
    "finalizing": "BATCH_STATE_RUNNING",
    "cancelling": "BATCH_STATE_RUNNING",  # there is no state between a cancel and its end
    "completed": "BATCH_STATE_SUCCEEDED",
    "failed": "BATCH_STATE_FAILED",
    "cancelled": "BATCH_STATE_CANCELLED",
    "expired": "BATCH_STATE_EXPIRED",
}


def error_object(error: ApiError) -> dict[str, Any]:
    inner: dict[str, Any] = {"code": error.status, "message": error.message, "status": error.code or WORDS.get(error.status, "UNKNOWN")}
    if error.code == KEY_INVALID:
        info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": KEY_INVALID, "domain": "googleapis.com"}
        inner |= {"status": "INVALID_ARGUMENT", "details": [info]}
    if "retry-after" in error.headers:  # the service says it in the body, and not in a header
        inner["details"] = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{error.headers['retry-after']}s"}]
    return {"error": inner}


def line_error(error: ApiError) -> dict[str, Any]:
    """The error of a result line: with the number of google.rpc.Code, and without its word."""
    return {"code": NUMBERS.get(error.code or WORDS.get(error.status, ""), 2), "message": error.message}


def file_name(file: StoredFile) -> str:
    return f"files/{file.id.removeprefix('file-')}"


def file_object(file: StoredFile, base_url: str) -> dict[str, Any]:
    made = {
        "name": file_name(file),
        "displayName": file.filename,
        "mimeType": "application/jsonl",
        "sizeBytes": str(file.size_bytes),
        "createTime": instant(file.created_at),
        "updateTime": instant(file.created_at),
        "uri": f"{base_url}/{file_name(file)}",
        "state": "ACTIVE",
        "source": "GENERATED" if file.purpose == "batch_output" else "UPLOADED",
    }
    return made if file.expires_at is None else made | {"expirationTime": instant(file.expires_at)}


def operation(batch: Batch, phase: Phase) -> dict[str, Any]:
    """The batch at one phase, as a long-running operation."""
    kind = "EmbedContentBatch" if batch.endpoint == "asyncBatchEmbedContent" else "GenerateContentBatch"
    ended = phase.status in ENDED
    metadata: dict[str, Any] = {
        "@type": _TYPE + kind,
        "model": f"models/{batch.model}",
        "displayName": (batch.metadata or {}).get("displayName", ""),
        "inputConfig": {"fileName": (batch.metadata or {}).get("fileName", "")},
        "createTime": instant(batch.created_at),
        "updateTime": instant(phase.ended_at or batch.created_at),
        "batchStats": _stats(batch, phase),
        "state": _STATES.get(shown := batch.shown_status(phase.status), shown),
        "name": f"batches/{batch.id}",
    }
    if phase.ended_at is not None:
        metadata["endTime"] = instant(phase.ended_at)
    made: dict[str, Any] = {"name": f"batches/{batch.id}", "metadata": metadata}
    if ended:
        made["done"] = True
    if phase.status == "completed":
        output = {} if batch.output_file_id is None else {"responsesFile": batch.output_file_id}
        metadata["output"] = output
        made["response"] = {"@type": f"{_TYPE}{kind}Output", **output}
    elif ended:
        made["error"] = _why(batch, phase)
    return made


def _stats(batch: Batch, phase: Phase) -> dict[str, Any]:
    """64-bit integers, and so texts; as everywhere at Google, a zero is left out."""
    done = batch.progress.totals(phase.done)
    counts = batch.shown_counts({"total": batch.size, "completed": done.ok, "failed": phase.done - done.ok})
    named = {
        "requestCount": counts["total"],
        "successfulRequestCount": counts["completed"],
        "failedRequestCount": counts["failed"],
        "pendingRequestCount": batch.size - phase.done,
    }
    return {name: str(count) for name, count in named.items() if count}


def _why(batch: Batch, phase: Phase) -> dict[str, Any]:
    match phase.status:
        case "cancelled":
            return {"code": NUMBERS["CANCELLED"], "message": "The batch was cancelled."}
        case "expired":
            return {"code": NUMBERS["DEADLINE_EXCEEDED"], "message": "The batch was not completed within 48 hours."}
        case _:
            problem = batch.problems[0] if batch.problems else None
            word = problem.code if problem else "NOT_FOUND"
            return {"code": NUMBERS.get(word, 3), "message": problem.message if problem else "The input file was deleted."}


def instant(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
