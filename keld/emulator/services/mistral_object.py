"""Mistral object: errors, files, batch jobs and lists as api.mistral.ai shows them.

By the types of mistralai 3.7, whose SDK raises if a required field is missing; errors as people quoted them (2026).
"""

from typing import Any

from ..batch import Batch
from ..error import ApiError
from ..life import ENDED, Phase, Status
from ..store import StoredFile

_STATUSES: dict[Status, str] = {
    "validating": "QUEUED", "in_progress": "RUNNING", "finalizing": "RUNNING", "cancelling": "CANCELLATION_REQUESTED",
    "completed": "SUCCESS", "failed": "FAILED", "expired": "TIMEOUT_EXCEEDED", "cancelled": "CANCELLED",
}  # fmt: skip
_TYPES = {"1500": "invalid_model", "3230": "invalid_request_message_order"}


def error_object(error: ApiError) -> dict[str, Any]:
    """The service has three shapes: of a validated body (422), of its routes (401, 404), and of everything else."""
    status, code = error.status, error.code
    if status == 422:
        place = [int(part) if part.isdigit() else part for part in (error.param or "body").split(".")]
        return {"detail": [{"type": code or "value_error", "loc": place, "msg": error.message}]}
    if status in (401, 404):
        return {"detail": "Unauthorized" if status == 401 and code is None else error.message}
    if status == 429:
        said: dict[str, str | None] = {
            "message": "Rate limit exceeded" if code is None else error.message,
            "type": "rate_limited",
            "code": code or "1300",
        }
    else:
        default = "internal_server_error" if status >= 500 else "invalid_request_error"
        said = {"message": error.message, "type": _TYPES.get(code or "", default), "code": code or ("1000" if status >= 500 else None)}
    return {"object": "error", **said, "param": None, "raw_status_code": status}


def file_object(file: StoredFile) -> dict[str, Any]:
    result = file.purpose == "batch_output"
    sample = "batch_request" if not result else "batch_error" if file.filename.endswith("_error.jsonl") else "batch_result"
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": int(file.created_at),
        "filename": file.filename,
        "purpose": "batch" if result else file.purpose,
        "sample_type": sample,
        "num_lines": None,
        "source": "mistral" if result else "upload",
        "mimetype": "application/jsonl",
        "signature": None,
        "expires_at": None if file.expires_at is None else int(file.expires_at),
        "visibility": "workspace",
    }


def job_object(batch: Batch, phase: Phase) -> dict[str, Any]:
    """The job at one phase."""
    totals, ended = batch.progress.totals(phase.done), phase.status in ENDED
    started = phase.status not in ("validating", "failed") and batch.rows is not None
    native = batch.shown_status(phase.status)
    counts: dict[str, int | None] = {"total": batch.size if started else 0, "completed": totals.ok, "failed": phase.done - totals.ok}
    shown = batch.shown_counts(counts)
    return {
        "id": batch.id,
        "object": "batch",
        "input_files": [batch.input_file_id],
        "metadata": batch.metadata,
        "endpoint": batch.endpoint,
        "model": batch.model,
        "agent_id": None,
        "output_file": batch.output_file_id if ended else None,
        "error_file": batch.error_file_id if ended else None,
        "outputs": None,
        "errors": [{"message": message, "count": 1} for message in _problems(batch)] if phase.status == "failed" else [],
        "status": _STATUSES[phase.status] if native == phase.status else native,
        "created_at": int(batch.created_at),
        "started_at": int(batch.started_at) if started else None,
        "completed_at": None if phase.ended_at is None else int(phase.ended_at),
        "total_requests": shown["total"],
        "completed_requests": _sum(shown["completed"], shown["failed"]),
        "succeeded_requests": shown["completed"],
        "failed_requests": shown["failed"],
    }


def _sum(succeeded: int | None, failed: int | None) -> int | None:
    return None if succeeded is None or failed is None else succeeded + failed


def _problems(batch: Batch) -> list[str]:
    if batch.input_lost:
        return [f"The input file {batch.input_file_id} was deleted before the job began."]
    return [problem.message for problem in batch.problems]
