"""Bedrock object: errors, jobs and manifests as the service shows them."""

from typing import Any

from ..batch import Batch
from ..clock import instant
from ..error import ApiError
from ..life import Phase, Status
from .bedrock_parameter import ACCOUNT, Create

_CODES = {
    400: "ValidationException", 401: "UnrecognizedClientException", 402: "AccessDeniedException", 403: "AccessDeniedException",
    404: "ResourceNotFoundException", 408: "ModelTimeoutException", 424: "ModelErrorException", 429: "ThrottlingException",
    500: "InternalServerException", 503: "ServiceUnavailableException",
}  # fmt: skip
_STATUSES: dict[Status, str] = {
    "validating": "Validating", "in_progress": "InProgress", "finalizing": "InProgress", "completed": "Completed", "failed": "Failed",
    "expired": "PartiallyCompleted", "cancelling": "Stopping", "cancelled": "Stopped",
}  # fmt: skip


def error_object(error: ApiError) -> dict[str, Any]:
    return {"message": error.message}


def error_headers(error: ApiError) -> dict[str, str]:
    """The code of an error is in a header, with the address of its model behind it."""
    fallback = "InternalServerException" if error.status >= 500 else "ValidationException"
    return {"x-amzn-errortype": f"{error.code or _CODES.get(error.status, fallback)}:http://internal.amazon.com/coral/com.amazon.bedrock/"}


def status_of(batch: Batch, phase: Phase, now: float) -> str:
    """The status in the service's words, or what a fault says in its place."""
    shown = batch.shown_status(phase.status)
    if shown != phase.status:
        return shown
    match phase.status:
        case "validating" if now <= batch.created_at:
            return "Submitted"
        case "in_progress" if not phase.done:
            return "Scheduled"
        case "expired" if not phase.done:
            return "Expired"
        case status:
            return _STATUSES[status]


def job_object(batch: Batch, phase: Phase, asked: Create, region: str, now: float) -> dict[str, Any]:
    """The job at one phase; what has not been reached is left out."""
    totals = batch.progress.totals(phase.done)
    known = batch.rows is not None and phase.status not in ("validating", "failed")
    counts = batch.shown_counts({"total": batch.size, "completed": totals.ok, "failed": phase.done - totals.ok}) if known else {}
    processed = {"processed": phase.done} if known and counts.get("completed") is not None else {}
    names = {"total": "total", "completed": "success", "failed": "error", "processed": "processed"}
    shown = {
        "jobArn": f"arn:aws:bedrock:{region}:{ACCOUNT}:model-invocation-job/{batch.id}",
        "jobName": asked.jobName,
        "modelId": asked.modelId,
        "clientRequestToken": asked.clientRequestToken,
        "roleArn": asked.roleArn,
        "status": status_of(batch, phase, now),
        "message": _message(batch) if phase.status == "failed" else None,
        "submitTime": _stamp(batch.created_at),
        "lastModifiedTime": _stamp(phase.ended_at or batch.cancel_at or max(batch.created_at, min(now, batch.started_at))),
        "endTime": _stamp(phase.ended_at),
        "inputDataConfig": asked.inputDataConfig,
        "outputDataConfig": asked.outputDataConfig,
        "timeoutDurationInHours": asked.timeoutDurationInHours or 24,
        "jobExpirationTime": _stamp(batch.expires_at),
        "modelInvocationType": asked.modelInvocationType,
        **{f"{names[name]}RecordCount": count for name, count in {**counts, **processed}.items()},
    }
    return {name: value for name, value in shown.items() if value is not None}


def manifest(batch: Batch, phase: Phase) -> dict[str, int]:
    totals = batch.progress.totals(phase.done)
    return {
        "totalRecordCount": batch.size,
        "processedRecordCount": phase.done,
        "successRecordCount": totals.ok,
        "errorRecordCount": phase.done - totals.ok,
        "inputTokenCount": totals.input,
        "outputTokenCount": totals.output,
    }


def output_name(input_uri: str) -> str:
    return input_uri.rpartition("/")[2] + ".out"


def _message(batch: Batch) -> str:
    if batch.input_lost:
        return "The input was removed before the job was validated."
    return batch.problems[0].message if batch.problems else ""


def _stamp(at: float | None) -> str | None:
    return None if at is None else instant(at).isoformat().replace("+00:00", "Z")
