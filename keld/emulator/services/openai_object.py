"""OpenAI object: errors, files, batches and lists as api.openai.com shows them."""

import math
from typing import Any

import msgspec

from ..batch import Batch, Problem
from ..error import ApiError
from ..life import ENDED, Phase
from ..store import StoredFile


def error_object(error: ApiError) -> dict[str, Any]:
    code = error.code
    if error.status == 429:
        kind, code = "requests", code or "rate_limit_exceeded"
    else:
        kind = "server_error" if error.status >= 500 else "invalid_request_error"
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": code}}


def file_object(file: StoredFile) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": int(file.created_at),
        "expires_at": None if file.expires_at is None else int(file.expires_at),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def batch_object(batch: Batch, phase: Phase, expires_at: float | None = None) -> dict[str, Any]:
    """The batch at one phase; what has not been reached is null.

    Args:
        expires_at: what is said of its expiry; None: the truth.
    """
    started = phase.status not in ("validating", "failed") and batch.rows is not None
    totals = batch.progress.totals(phase.done)
    problems = [msgspec.to_builtins(problem) for problem in _problems(batch)]
    ended = {status: None if phase.status != status else _second(phase.ended_at) for status in ENDED}
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model,
        "errors": {"object": "list", "data": problems} if phase.status == "failed" else None,
        "input_file_id": batch.input_file_id,
        "completion_window": "24h" if batch.window_s == math.inf else f"{batch.window_s / 3600:g}h",
        "status": batch.shown_status(phase.status),
        "output_file_id": batch.output_file_id if phase.status in ENDED else None,
        "error_file_id": batch.error_file_id if phase.status in ENDED else None,
        "created_at": int(batch.created_at),
        "in_progress_at": _second(batch.started_at) if started else None,
        "expires_at": int(batch.expires_at if expires_at is None else expires_at),
        "finalizing_at": _second(phase.finalizing_at),
        "completed_at": ended["completed"],
        "failed_at": ended["failed"],
        "expired_at": ended["expired"],
        "cancelling_at": _second(batch.cancel_at),
        "cancelled_at": ended["cancelled"],
        "request_counts": _counts(batch, started, totals.ok, phase.done - totals.ok),
        "usage": {
            "input_tokens": totals.input,
            "input_tokens_details": {"cached_tokens": totals.cached},
            "output_tokens": totals.output,
            "output_tokens_details": {"reasoning_tokens": totals.reasoning},
            "total_tokens": totals.input + totals.output,
        },
        "metadata": batch.metadata,
    }


def _problems(batch: Batch) -> list[Problem]:
    if batch.input_lost:
        message = f"The input file {batch.input_file_id} was deleted before the batch was validated."
        return [Problem(code="invalid_request", message=message, param="input_file_id")]
    return batch.problems


def _counts(batch: Batch, started: bool, ok: int, failed: int) -> dict[str, int | None] | None:
    counts: dict[str, int | None] = {"total": batch.size if started else 0, "completed": ok, "failed": failed}
    return batch.shown_counts(counts)


def _second(at: float | None) -> int | None:
    return None if at is None else int(at)


def list_object(data: list[dict[str, Any]], more: bool) -> dict[str, Any]:
    ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return {"object": "list", "data": data, **ends, "has_more": more}
