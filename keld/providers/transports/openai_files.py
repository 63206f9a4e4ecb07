"""OpenAI files: a batch is created from an uploaded file and gives its results as files; at OpenAI and at every host that copied this.

One of the transports.  Wire: docs/notes/providers.md.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from keld import http
from keld.providers.base import NO_STATUS, BatchState, RemoteBatch, Submission
from keld.providers.download import Piece, ResultFile
from keld.providers.fault import Fault, Sent, code_of, scrubbed
from keld.providers.page import Page, id_of, instant, said
from keld.providers.part import Auth, Connection, Fixed
from keld.providers.transports.ambient import custom_headers, is_meant, named_headers
from keld.providers.transports.rest import Rest, read

_DOMAIN, _HOST_IN = "openai.com", "OPENAI_BASE_URL"
QUEUE_FULL = "token_limit_exceeded"  # the error code of a batch that failed although its file is not at fault
_STATES = {
    "cancelling": BatchState.CANCELLING,
    "completed": BatchState.COMPLETED,
    "failed": BatchState.FAILED,
    "expired": BatchState.EXPIRED,
    "cancelled": BatchState.CANCELLED,
}  # any other status, also one never seen before, is in progress
_KEY = "keld_key"


def auth(connection: Connection) -> Auth:
    """The key; at OpenAI and at the gateway that `OPENAI_BASE_URL` names also the organisation and the project, as its SDK reads them.

    Raises:
        AccessRefused: one of them cannot be sent.
    """
    headers = {"authorization": f"Bearer {connection.key()}"}
    if is_meant(connection.base_url, domain=_DOMAIN, host_in=_HOST_IN):  # another company has no business with them
        headers |= named_headers({"openai-organization": "OPENAI_ORG_ID", "openai-project": "OPENAI_PROJECT_ID"}, "openai")
    return Fixed(headers | custom_headers(connection.base_url, domain=_DOMAIN, host_in=_HOST_IN, headers_in="OPENAI_CUSTOM_HEADERS"))


class OpenAIFiles:
    """`Batches` of one account at OpenAI, or at a host of its shape.

    Args:
        auth: who asks.
        input_kept_s: after so many seconds the host removes an input; None: as the host does it.
    """

    def __init__(self, connection: Connection, auth: Callable[[Connection], Auth] = auth, *, input_kept_s: int | None = None) -> None:
        self._rest = Rest(connection, auth)
        kept = {} if input_kept_s is None else {"expires_after[anchor]": "created_at", "expires_after[seconds]": str(input_kept_s)}
        self._form = {"purpose": "batch", **kept}

    def stage(self, path: Path, key: str) -> str | None:
        with path.open("rb") as file:
            reply = self._rest.upload("/files", data=self._form, files={"file": (f"keld-{key}.jsonl", file)})
        return id_of(read(reply, _File).id)

    def create(self, submission: Submission) -> RemoteBatch:
        body = {
            "input_file_id": submission.input_ref or "",
            "endpoint": submission.endpoint,
            "completion_window": "24h",
            "metadata": {_KEY: submission.key},
        }
        return _remote(read(self._rest.send("POST", "/batches", msgspec.json.encode(body), carried_prompts=False), _Batch))

    def get(self, batch_id: str) -> RemoteBatch | None:
        batch = self._rest.find(f"/batches/{quote(batch_id, safe='')}", _Batch)
        return None if batch is None else _remote(batch)

    def page(self, after: str | None, size: int) -> Page:
        found = read(self._rest.ask("GET", "/batches", params={"limit": size} | ({"after": after} if after else {})), _Page)
        batches = [_remote(batch) for batch in found.data or ()]
        return Page(batches=batches, after=batches[-1].id if batches else None, more=said(found.has_more))

    def cancel(self, batch_id: str) -> None:
        self._rest.cancel(f"/batches/{quote(batch_id, safe='')}/cancel", _Batch)

    def results(self, batch: RemoteBatch) -> list[ResultFile]:
        return [ResultFile(id=ref, what=f"result file {ref}") for ref in batch.result_refs]

    def size_bytes(self, file: ResultFile) -> int | None:
        # `asking_on`: a download that has begun is finished, whatever time the verb has left.  Many hosts give no size.
        with suppress(Fault):
            size = read(self._rest.ask("GET", f"/files/{quote(file.id, safe='')}", bounds=http.asking_beyond_verb), _File).bytes
            return size if isinstance(size, int) else None
        return None

    def fetch(self, batch: RemoteBatch, file: ResultFile, start: int, validator: str) -> AbstractContextManager[Piece]:
        return self._rest.open(f"/files/{quote(file.id, safe='')}/content", start, validator)

    def unstage(self, input_ref: str) -> None:
        path = f"/files/{quote(input_ref, safe='')}"
        try:
            reply = self._rest.ask("DELETE", path)
            if reply.status_code == HTTPStatus.NO_CONTENT or said(read(reply, _Removal).deleted):
                return
            self._rest.ask("GET", path)  # a host whose reply does not say whether it is deleted
        except Fault as fault:
            if fault.status == HTTPStatus.NOT_FOUND:
                return
            raise
        raise Fault(sent=Sent.ANSWERED, cause="the file is still there")

    def close(self) -> None:
        self._rest.close()


# -- the objects ----------------------------------------------------------------------------------------------


_Id = str | int | None  # some hosts use numbers as ids


class _File(msgspec.Struct, gc=False):
    id: _Id
    bytes: Any = None


class _Removal(msgspec.Struct, gc=False):
    deleted: Any = False


class _Batch(msgspec.Struct, gc=False):
    """All fields may be absent: hosts of this shape agree only on the id and the status."""

    id: _Id = None
    status: str | None = None
    created_at: Any = None
    errors: Any = None
    output_file_id: _Id = None
    error_file_id: _Id = None
    request_counts: Any = None
    metadata: Any = None
    input_file_id: _Id = None


class _Page(msgspec.Struct, gc=False):
    data: list[_Batch] | None  # required: an error with status 200 must not pass for an empty list
    has_more: Any = None


def _remote(batch: _Batch) -> RemoteBatch:
    errors = _batch_errors(batch.errors)
    state = _STATES.get((batch.status or "").lower(), BatchState.IN_PROGRESS)
    total, completed, failed = (_count(batch.request_counts, name) for name in ("total", "completed", "failed"))
    return RemoteBatch(
        id=id_of(batch.id),
        state=state,
        native=batch.status or NO_STATUS,
        created_at=instant(batch.created_at),
        key=str(batch.metadata.get(_KEY) or "") or None if isinstance(batch.metadata, dict) else None,
        input_ref=id_of(batch.input_file_id) or None,
        requests=total,
        succeeded=completed,
        done=None if completed is None else completed + (failed or 0),
        errors=errors,
        queue_full=next((code for code, _ in errors if code == QUEUE_FULL), None) if state is BatchState.FAILED else None,
        # "" and null both mean "no such file".
        result_refs=tuple(ref for ref in map(id_of, (batch.output_file_id, batch.error_file_id)) if ref),
    )


def _count(counts: Any, name: str) -> int | None:
    count = counts.get(name) if isinstance(counts, dict) else None
    return count if isinstance(count, int) else None


def _batch_errors(errors: Any) -> tuple[tuple[str, str], ...]:
    listed = errors.get("data") if isinstance(errors, dict) else errors
    known = [error for error in listed if isinstance(error, dict)] if isinstance(listed, list) else []
    return tuple((code_of(error.get("code")), scrubbed(str(error.get("message") or ""))) for error in known)
