"""OpenAI input: what the validation of a batch finds in its input file.

It happens after the create was answered: a batch that fails here is `failed`, and its create was not refused.
"""

import contextlib
from pathlib import Path

import msgspec

from ..batch import Batch, Problem
from ..dialects.openai_body import model_not_found
from ..dialects.openai_embeddings import count_inputs
from ..life import ENDED
from ..row import Rows
from ..store import Store
from .openai_envelope import OpenAIEnvelope

# https://platform.openai.com/docs/guides/batch, Nov 2026; megabytes there are 10^6 bytes.
MAX_REQUESTS = 50_000
MAX_BATCH_BYTES = 200_000_000
MAX_EMBEDDING_INPUTS = 50_000

_envelope = OpenAIEnvelope()


class Head(msgspec.Struct, gc=False):
    model: str


class CheckedLine(msgspec.Struct, gc=False):
    """What validation reads of an input line."""

    custom_id: str
    method: str
    url: str
    body: Head


_checked_line = msgspec.json.Decoder(CheckedLine)


def first_line(path: Path) -> CheckedLine | None:
    """The first line; None where it cannot be read."""
    with path.open("rb") as file, contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
        return _checked_line.decode(file.readline())
    return None


def problems(store: Store, batch: Batch, rows: Rows, max_requests: int = MAX_REQUESTS) -> list[Problem]:
    """Why the batch fails validation; empty: it does not."""
    planned = batch.planned_failure()
    if planned is not None:
        return [planned]
    return _check(batch, rows, max_requests) or _over_limit(store, batch, batch.rule("life", "token_limit") is not None)


def _over_limit(store: Store, batch: Batch, planned: bool) -> list[Problem]:
    """True if the model's queue is full: tokens count from validation until their batch has ended."""
    limit = store.settings.enqueued_token_limit
    if limit is None and not planned:
        return []  # else each create would look at all batches there are
    with store.lock:
        waiting = enqueued_tokens(store, batch.provider, batch.model, but=batch)
        if not planned and (limit is None or waiting + batch.enqueued_tokens <= limit):
            return []
        batch.enqueued_tokens = 0
    return [Problem(code="token_limit_exceeded", message=queue_is_full(batch.model, limit or 0))]


def enqueued_tokens(store: Store, kind: str, model: str | None, but: Batch | None = None) -> int:
    """The tokens of a model that wait in batches that have not ended."""
    others = [other for other in store.batches(kind) if other is not but and other.model == model]
    now = store.clock.time()
    return sum(other.enqueued_tokens for other in others if other.phase(now).status not in ENDED)


def queue_is_full(model: str | None, limit: int) -> str:
    return (
        f"Enqueued token limit reached for {model} in organization org-keld-emulator. Limit: {limit:,} "
        "enqueued tokens. Please try again once some in_progress batches have been completed."
    )


def _check(batch: Batch, rows: Rows, max_requests: int) -> list[Problem]:
    """What validation finds in the input file; also counts its tokens."""
    if rows.path.stat().st_size > MAX_BATCH_BYTES:
        return [Problem(code="file_too_large", message="The input file is larger than 200 MB.")]
    if not len(rows):
        return [Problem(code="empty_file", message="The input file is empty. Please ensure it contains requests.")]
    if len(rows) > max_requests:
        return [Problem(code="too_many_tasks", message=f"The batch has {len(rows)} requests; the limit is {max_requests}.")]
    seen: set[str] = set()
    inputs = size = 0
    for number, row in enumerate(rows, 1):
        problem = _line_problem(batch, row, number, seen)
        if problem is not None:
            return [problem]
        size += len(row)
        if batch.endpoint == "/v1/embeddings":
            inputs += count_inputs(_envelope.read(row)[1])
    if inputs > MAX_EMBEDDING_INPUTS:
        return [Problem(code="too_many_tasks", message=f"The batch has {inputs} embedding inputs; the limit is 50000.")]
    batch.enqueued_tokens = size // 4
    return []


def _line_problem(batch: Batch, row: bytes, number: int, seen: set[str]) -> Problem | None:
    try:
        line = _checked_line.decode(row)
    except msgspec.ValidationError as error:
        return Problem(code="invalid_request", message=str(error), line=number)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Problem(code="invalid_json_line", message="This line is not parseable as valid JSON.", line=number)
    if line.custom_id in seen:
        message = f"The custom_id for this request is a duplicate of another request: '{line.custom_id}'."
        return Problem(code="duplicate_custom_id", message=message, line=number, param="custom_id")
    seen.add(line.custom_id)
    if line.method != "POST":
        return Problem(code="invalid_method", message="The method must be POST.", line=number, param="method")
    if line.url != batch.endpoint:
        message = "The URL provided for this request does not match the batch endpoint."
        return Problem(code="url_mismatch", message=message, line=number, param="url")
    if line.body.model != batch.model:
        message = f"The model '{line.body.model}' does not match the batch's model '{batch.model}'."
        return Problem(code="model_mismatch", message=message, line=number, param="body.model")
    if "does-not-exist" in line.body.model:
        message = model_not_found(line.body.model).message
        return Problem(code="model_not_found", message=message, line=number, param="body.model")
    return None
