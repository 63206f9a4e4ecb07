"""Azure batches: files, batches and deployments of an Azure resource, as far as they differ from OpenAI's.

By learn.microsoft.com/azure/foundry/openai/how-to/batch, Nov 2026: a line names a deployment, which is for batches or for single requests; the file
decides about the endpoint; nothing expires; a full queue refuses the create; a batch without an error still has an error file, of no byte.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from ..batch import Batch, Problem
from ..dialect import Conditions, Dialect, Made
from ..error import ApiError
from ..life import ENDED, WINDOW_S, Phase
from ..result import name_results
from ..row import Rows
from ..service import model_of
from ..store import StoredFile
from .openai_batches import Batches
from .openai_files import Files
from .openai_input import CheckedLine, enqueued_tokens, queue_is_full
from .openai_object import batch_object
from .openai_parameter import Create

MAX_REQUESTS = 100_000
MAX_FILES, MAX_EXPIRING_FILES = 500, 10_000
_LEAST_EXPIRY_S, _MOST_EXPIRY_S = 14 * 86_400, 30 * 86_400


@dataclass(frozen=True)
class Deployment:
    """One deployment: the model behind it, and whether its type is one for batches."""

    model: str
    batch: bool


# A resource has a deployment of any name, of the model of that name, and of both types, which no real one is; these are strict.
DEPLOYMENTS = {"mini-batch": Deployment("gpt-5-mini", batch=True), "mini-standard": Deployment("gpt-5-mini", batch=False)}


@dataclass(frozen=True)
class Deployed:
    """A dialect whose bodies name deployments.

    Args:
        name: of the deployment, where the path says it; None: the body says it.
    """

    dialect: Dialect
    name: str | None = None

    def make(self, body: bytes, conditions: Conditions) -> Made:
        name = self.name or model_of(body) or ""
        deployment = DEPLOYMENTS.get(name)
        if deployment is not None and deployment.batch is not conditions.batch:
            message = (
                f"The chatCompletion operation does not work with the specified model, {name}. Please choose different model and try again."
            )
            raise ApiError(status=400, message=message, code="OperationNotSupported")
        model = deployment.model if deployment is not None else name
        if model != model_of(body):
            body = _of_model(body, model)
        try:
            return self.dialect.make(body, conditions)
        except ApiError as error:
            if error.code != "model_not_found" or conditions.batch:
                raise
            message = (
                "The API deployment for this resource does not exist. If you created the deployment within the last 5 minutes, please wait a "
                "moment and try again."
            )
            raise ApiError(status=404, message=message, code="DeploymentNotFound") from None


def _of_model(body: bytes, model: str) -> bytes:
    try:
        read = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body
    return msgspec.json.encode(read | {"model": model}) if isinstance(read, dict) else body


class AzureFiles(Files):
    """The files of a resource: a number of inputs at most, which is higher for those that expire."""

    def check_upload(self, purpose: str, expires_after_s: float | None) -> None:
        if purpose != "batch":
            return
        if expires_after_s is not None and not _LEAST_EXPIRY_S <= expires_after_s <= _MOST_EXPIRY_S:
            message = f"expires_after.seconds must be between {_LEAST_EXPIRY_S} and {_MOST_EXPIRY_S}."
            raise ApiError(status=400, message=message, param="expires_after", code="invalid_value")
        inputs = [file for file in self.store.files(self.kind) if file.purpose == "batch"]
        forever = sum(file.expires_at is None for file in inputs)
        if len(inputs) >= MAX_EXPIRING_FILES or (expires_after_s is None and forever >= MAX_FILES):
            # The words of the service are not documented.
            raise ApiError(status=400, message="The resource has as many batch input files as it may have.", code="quotaExceeded")


class AzureBatches(Batches):
    """The batches of a resource."""

    def check_create(self, file: StoredFile, line: CheckedLine | None) -> None:
        limit = self.store.settings.enqueued_token_limit
        if limit is None or line is None:
            return
        with self.store.lock:
            waiting = enqueued_tokens(self.store, self.kind, line.body.model)
        if waiting + file.size_bytes // 4 > limit:
            raise ApiError(status=400, message=queue_is_full(line.body.model, limit), code="token_limit_exceeded")

    def _make(self, asked: Create, file: StoredFile, path: str, line: CheckedLine | None) -> Batch:
        if line is not None and line.url in self.dialects:
            asked = msgspec.structs.replace(asked, endpoint=line.url)  # the file decides
        batch = super()._make(asked, file, path, line)
        batch.window_s = math.inf
        batch.enqueued_tokens = file.size_bytes // 4  # until its validation, beside this, has counted them: the next create may come before
        return batch

    def check(self, batch: Batch, rows: Rows) -> Sequence[Problem]:
        deployment = DEPLOYMENTS.get(batch.model or "")
        if deployment is not None and not deployment.batch:
            message = f"The deployment {batch.model} is not of type Global-Batch or Data-Zone-Batch."
            return [Problem(code="model_not_found", message=message, line=1, param="body.model")]
        return super().check(batch, rows)

    def shown(self, batch: Batch, phase: Phase) -> dict[str, Any]:
        shown = batch_object(batch, phase, expires_at=batch.created_at + WINDOW_S)  # it is told, and means nothing
        named = {name: shown[name] or "" for name in ("output_file_id", "error_file_id")}
        counts = shown["request_counts"]
        if counts is not None and phase.status == "validating":
            counts = dict.fromkeys(counts)  # null until it is known how many there are
        ended = phase.status in ENDED
        return shown | named | {"request_counts": counts, "endpoint": batch.endpoint if ended else None}

    def _publish(self, batch: Batch, phase: Phase) -> None:
        name_results(self.store, batch, phase, expires_after_s=batch.output_expires_after_s, empty_error_file=True)
