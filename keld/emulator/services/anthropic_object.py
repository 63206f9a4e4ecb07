"""Anthropic object: errors and message batches as api.anthropic.com shows them.

A batch has one life for all services (`batch`); here it is shown in Anthropic's words: three statuses, counts that stay at zero until
everything has ended, one results file, no metadata.
"""

import secrets
from typing import Any

from ..batch import Batch
from ..clock import instant
from ..error import ApiError
from ..life import Phase

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def error_object(error: ApiError) -> dict[str, Any]:
    kind = _ERROR_TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    inner = {"type": kind, "message": error.message}
    return {"type": "error", "error": inner, "request_id": f"req_{secrets.token_hex(12)}"}


def message_batch(batch: Batch, phase: Phase, host: str) -> dict[str, Any]:
    """The batch at one phase; `host` is the host that the client used."""
    ended = phase.ended
    own = f"{host.rstrip('/')}/v1/messages/batches/{batch.id}/results"
    elsewhere = batch.rule("results", "results_url")
    url = str(elsewhere.get("url", f"http://other-host.invalid/{batch.id}/results")) if elsewhere else own
    url = "" if batch.rule("results", "empty_output_id") else url
    return {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": _shown_status(batch, phase),
        "request_counts": _counts(batch, phase),
        "created_at": _stamp(batch.created_at),
        "expires_at": _stamp(batch.expires_at),
        "ended_at": _stamp(phase.ended_at),
        "cancel_initiated_at": _stamp(batch.cancel_at),
        "archived_at": None,
        "results_url": url if ended and batch.rule("results", "no_output_id") is None else None,
    }


def _shown_status(batch: Batch, phase: Phase) -> str:
    shown = "ended" if phase.ended else "canceling" if phase.status == "cancelling" else "in_progress"
    return batch.shown_status(shown)


def _counts(batch: Batch, phase: Phase) -> dict[str, int | None]:
    totals, rest = batch.progress.totals(phase.done), batch.size - phase.done
    counts: dict[str, int | None] = {
        "processing": batch.size,
        "succeeded": 0,
        "errored": 0,
        "canceled": 0,
        "expired": 0,
    }
    if phase.ended:
        counts = {
            "processing": 0,
            "succeeded": totals.ok,
            "errored": phase.done - totals.ok,
            "canceled": rest if phase.status == "cancelled" else 0,
            "expired": rest if phase.status == "expired" else 0,
        }
    return batch.shown_counts(counts)


def _stamp(at: float | None) -> str | None:
    return None if at is None else instant(at).isoformat().replace("+00:00", "Z")
