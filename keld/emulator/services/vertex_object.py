"""Vertex object: errors and batch prediction jobs as aiplatform.googleapis.com shows them, and a job as its create says it."""

import re
from datetime import UTC, datetime
from typing import Any

import msgspec

from ..batch import Batch
from ..dialects.gemini_body import Message, invalid, read, reader
from ..error import ApiError
from ..life import ENDED, Phase, Status

_WORDS = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 402: "RESOURCE_EXHAUSTED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED", 409: "ABORTED", 413: "INVALID_ARGUMENT", 429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}  # fmt: skip
_NUMBERS = {"INVALID_ARGUMENT": 3, "NOT_FOUND": 5, "PERMISSION_DENIED": 7, "RESOURCE_EXHAUSTED": 8, "FAILED_PRECONDITION": 9}
_STATES: dict[Status, str] = {
    "validating": "PENDING", "in_progress": "RUNNING", "finalizing": "RUNNING", "cancelling": "CANCELLING",
    "completed": "SUCCEEDED", "failed": "FAILED", "cancelled": "CANCELLED", "expired": "EXPIRED",
}  # fmt: skip
_LABEL = re.compile(r"[a-z0-9_-]{0,63}")
_LABELS_MOST = 64
_MODEL = re.compile(r"publishers/(google|anthropic)/models/([A-Za-z0-9.@_-]+)")


class GcsSource(Message):
    uris: list[str] = msgspec.field(default_factory=list)


class InputConfig(Message):
    instances_format: str = ""
    gcs_source: GcsSource | None = None
    bigquery_source: msgspec.Raw | None = None


class GcsDestination(Message):
    output_uri_prefix: str = ""


class OutputConfig(Message):
    predictions_format: str = ""
    gcs_destination: GcsDestination | None = None
    bigquery_destination: msgspec.Raw | None = None


class Create(Message):
    """A BatchPredictionJob as it is sent; fields that the emulator does nothing with are refused as unknown."""

    display_name: str = ""
    model: str = ""
    input_config: InputConfig | None = None
    output_config: OutputConfig | None = None
    labels: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def input_uri(self) -> str:
        assert self.input_config is not None and self.input_config.gcs_source is not None
        return self.input_config.gcs_source.uris[0]

    @property
    def output_uri(self) -> str:
        assert self.output_config is not None and self.output_config.gcs_destination is not None
        return self.output_config.gcs_destination.output_uri_prefix

    @property
    def publisher(self) -> tuple[str, str]:
        """The publisher and the name of the model.

        Raises:
            ApiError: it is none that the service has.
        """
        found = _MODEL.fullmatch(self.model)
        if found is None or "does-not-exist" in self.model or (found[1] == "anthropic") != found[2].startswith("claude"):
            raise ApiError(status=404, message=f"Publisher Model `{self.model}` was not found or your project does not have access to it.")
        return found[1], found[2]


_create = reader(Create)


def create_body(body: bytes) -> Create:
    """Raises:
    ApiError: the job is refused.
    """
    asked = read(_create, body)
    if not asked.display_name or len(asked.display_name) > 128:
        raise invalid("display_name must be set, and have at most 128 characters.")
    given, out = asked.input_config, asked.output_config
    if given is None or given.instances_format != "jsonl" or given.gcs_source is None or len(given.gcs_source.uris) != 1:
        raise invalid("The emulator takes one JSONL file of Cloud Storage: input_config.gcs_source.uris must name it.")
    if out is None or out.predictions_format != "jsonl" or out.gcs_destination is None:
        raise invalid("output_config must have predictions_format `jsonl` and a gcs_destination.")
    for uri in (asked.input_uri, asked.output_uri):
        if not re.fullmatch(r"gs://[a-z0-9._-]+/.+", uri):
            raise invalid(f"{uri} is not a valid Cloud Storage URI.")
    if len(asked.labels) > _LABELS_MOST or not all(_LABEL.fullmatch(word) for pair in asked.labels.items() for word in pair):
        raise invalid("Label keys and values can have at most 63 characters of a-z, 0-9, _ and -.")
    return asked


def error_object(error: ApiError) -> dict[str, Any]:
    inner: dict[str, Any] = {"code": error.status, "message": error.message, "status": error.code or _WORDS.get(error.status, "UNKNOWN")}
    if "retry-after" in error.headers:
        inner["details"] = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{error.headers['retry-after']}s"}]
    return {"error": inner}


def state_of(batch: Batch, phase: Phase, now: float) -> str:
    shown = batch.shown_status(phase.status)
    if shown != phase.status:
        return shown
    if phase.status == "validating" and now <= batch.created_at:
        return "JOB_STATE_QUEUED"
    partly = phase.status == "completed" and 0 < batch.progress.totals(phase.done).ok < batch.size
    return "JOB_STATE_PARTIALLY_SUCCEEDED" if partly else f"JOB_STATE_{_STATES[phase.status]}"


def job_object(batch: Batch, phase: Phase, asked: Create, name: str, now: float, folder: str | None) -> dict[str, Any]:
    """The job at one phase; `folder`: where its output is, if it has one."""
    shown: dict[str, Any] = {
        "name": name,
        "displayName": asked.display_name,
        "model": asked.model,
        "inputConfig": {"instancesFormat": "jsonl", "gcsSource": {"uris": [asked.input_uri]}},
        "outputConfig": {"predictionsFormat": "jsonl", "gcsDestination": {"outputUriPrefix": asked.output_uri}},
        "state": state_of(batch, phase, now),
        "createTime": _stamp(batch.created_at),
        "updateTime": _stamp(phase.ended_at or max(batch.created_at, min(now, batch.started_at))),
    }
    if asked.labels:
        shown["labels"] = asked.labels
    if now >= batch.started_at and phase.status not in ("validating", "failed"):
        shown["startTime"] = _stamp(batch.started_at)
        shown["completionStats"] = _stats(batch, phase)
    if phase.ended_at is not None:
        shown["endTime"] = _stamp(phase.ended_at)
    if folder is not None:
        shown["outputInfo"] = {"gcsOutputDirectory": folder}
    if phase.status in ("failed", "expired"):
        shown["error"] = _why(batch, phase)
    return shown


def _stats(batch: Batch, phase: Phase) -> dict[str, str]:
    """64-bit integers, and so texts; -1: not known, as how many rows are left is until the end.  As everywhere at Google, a zero is left out."""
    done = batch.progress.totals(phase.done)
    counts = batch.shown_counts({"completed": done.ok, "failed": phase.done - done.ok})
    left = batch.size - phase.done if phase.status in ENDED else -1
    named = {"successfulCount": counts["completed"], "failedCount": counts["failed"], "incompleteCount": left}
    return {field: str(-1 if count is None else count) for field, count in named.items() if count != 0}


def _why(batch: Batch, phase: Phase) -> dict[str, Any]:
    if phase.status == "expired":
        return {"code": 4, "message": "The batch prediction job did not end in time."}
    if batch.input_lost:
        return {"code": _NUMBERS["NOT_FOUND"], "message": "The input file could not be read."}
    problem = batch.problems[0] if batch.problems else None
    return {"code": _NUMBERS.get(problem.code if problem else "", 3), "message": problem.message if problem else ""}


def _stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
