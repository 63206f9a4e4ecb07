"""Gemini: batch mode of the Gemini Developer API, with requests and responses in files.

One of the transports, over `rest`: google-genai drops a batch's error and counts, cannot resume a download, and sends a create twice if aiohttp is
installed (docs/notes/providers.md).  The mark of a batch is its display name.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import msgspec

from keld import http
from keld.providers.base import NO_STATUS, BatchState, RemoteBatch, Submission
from keld.providers.dialects.gemini_answer import word_of
from keld.providers.download import Piece, ResultFile
from keld.providers.fault import Fault, Sent, scrubbed, unreadable
from keld.providers.page import Page, instant
from keld.providers.part import Auth, Connection, Fixed
from keld.providers.transports.rest import Rest

OFFICIAL = "https://generativelanguage.googleapis.com"
VERSION = "v1beta"  # that of the documentation, ai.google.dev/api, Nov 2026; the official SDK asks v1, which has the same calls
FILE_MISSING = "FILE_NOT_FOUND"  # our word: the service says PERMISSION_DENIED, "... or it may not exist"
PRECONDITION = "FAILED_PRECONDITION"
_PIECE = 8 << 20  # the service takes pieces in multiples of it
_PAUSES_S = (0.5, 1.0)  # before a piece is sent again, and before a file that is being processed is looked at again
_TRIED_AGAIN = frozenset({408, 429})  # and every 5xx
_STATES = {
    "SUCCEEDED": BatchState.COMPLETED,
    "PARTIALLY_SUCCEEDED": BatchState.COMPLETED,
    "FAILED": BatchState.FAILED,
    "CANCELLED": BatchState.CANCELLED,
    "CANCELLING": BatchState.CANCELLING,
    "EXPIRED": BatchState.EXPIRED,
}  # any other state, also one never seen before, is in progress
# The reasons of google.rpc.ErrorInfo with which a request is refused for every row; the status beside them is that of a bad request.
_NO_ACCESS = frozenset(
    ("API_KEY_INVALID", "API_KEY_EXPIRED", "SERVICE_DISABLED", "BILLING_DISABLED", "CONSUMER_SUSPENDED", "CONSUMER_INVALID")
)


def auth(connection: Connection) -> Auth:
    return Fixed({"x-goog-api-key": connection.key()})


def versioned(base_url: str | None) -> str:
    """The base URL with the version of the API at its end: the one that it names, else `VERSION`."""
    base = (base_url or OFFICIAL).rstrip("/")
    return base if base.rpartition("/")[2].startswith("v1") else f"{base}/{VERSION}"


def error_in(body: dict[str, Any], headers: Any) -> Any:
    """A google.rpc.Status as an error in the common shape; its word is the code, or the reason if that says more."""
    error = body.get("error")
    if not isinstance(error, dict):
        return None
    details = [detail for detail in error.get("details") or () if isinstance(detail, dict)]
    reason = next((str(detail["reason"]) for detail in details if detail.get("reason") in _NO_ACCESS), None)
    message = str(error.get("message") or "")
    missing = FILE_MISSING if "File " in message and "may not exist" in message else None
    found = {"code": reason or missing or error.get("status"), "message": message}
    delay = next((str(detail["retryDelay"]) for detail in details if "retryDelay" in detail), "")
    with suppress(ValueError):
        found["retry_after_s"] = float(delay.removesuffix("s"))
    return found


class GeminiBatches:
    """`Batches` of one key."""

    def __init__(self, connection: Connection) -> None:
        self._rest = Rest(connection, auth, error_in)
        root, _, version = connection.base_url.rstrip("/").rpartition("/")
        self._uploads, self._downloads = f"{root}/upload/{version}", f"{root}/download/{version}"

    def stage(self, path: Path, key: str) -> str | None:
        size = path.stat().st_size
        start = self._rest.send(
            "POST",
            f"{self._uploads}/files",
            msgspec.json.encode({"file": {"displayName": f"keld-{key}"}}),
            headers=_upload("start")
            | {
                "x-goog-upload-protocol": "resumable",
                "x-goog-upload-header-content-length": str(size),
                "x-goog-upload-header-content-type": "application/jsonl",
            },
            carried_prompts=False,
        )
        url = start.headers.get("x-goog-upload-url")
        if not url:
            raise unreadable(start.status_code)
        with path.open("rb") as file:
            offset = 0
            while True:
                piece = file.read(_PIECE)
                last = offset + len(piece) >= size
                reply = self._send_piece(url, piece, offset, last=last)
                if last:
                    return self._active(reply)
                offset += len(piece)

    def _send_piece(self, url: str, piece: bytes, offset: int, *, last: bool) -> httpx2.Response:
        """The reply to a piece, sent again at the same offset if it did not arrive: the server takes each offset once.

        Raises:
            Fault: it was refused, or failed again and again; if only the last reply was lost, the upload must begin again, since that has the name.
        """
        headers = _upload("upload, finalize" if last else "upload") | {"x-goog-upload-offset": str(offset)}
        lost: Fault | None = None
        for pause_s in (*_PAUSES_S, 0.0):
            try:
                # `Rest` keeps the path and the query of the address that the server gave, at our own host: the key goes nowhere else.
                return self._rest.send("POST", url, piece, headers=headers)
            except Fault as fault:
                if not _may_pass(fault):
                    raise lost or fault from None
                lost = fault
            time.sleep(pause_s)
            if self._received(url) == offset + len(piece):
                if last:
                    break
                return httpx2.Response(HTTPStatus.OK)  # the piece is there; only the reply was lost
        assert lost is not None
        raise lost

    def _received(self, url: str) -> int | None:
        """Bytes of the upload that have arrived; None if the server does not say."""
        with suppress(Fault, ValueError):
            return int(self._rest.send("POST", url, b"", headers=_upload("query")).headers.get("x-goog-upload-size-received", ""))
        return None

    def _active(self, reply: httpx2.Response) -> str:
        """The name of an uploaded file that a batch can be created from; it may be processed for a moment."""
        file = _decoded(reply).get("file") or {}
        for pause_s in (*_PAUSES_S, 0.0):
            name, state = file.get("name"), file.get("state")
            if isinstance(name, str) and state != "PROCESSING":
                return name
            if not isinstance(name, str):
                break
            time.sleep(pause_s)
            file = self._rest.get(_path(name))
        raise Fault(sent=Sent.ANSWERED, status=reply.status_code, cause="an upload that is not ready")

    def create(self, submission: Submission) -> RemoteBatch:
        method = "asyncBatchEmbedContent" if submission.endpoint.endswith(":embedContent") else "batchGenerateContent"
        body = {"batch": {"displayName": submission.key, "inputConfig": {"fileName": submission.input_ref or ""}}}
        return _remote(self._rest.create(f"/models/{quote(submission.model, safe='')}:{method}", body))

    def get(self, batch_id: str) -> RemoteBatch | None:
        try:
            return _remote(self._rest.get(_path(f"batches/{batch_id}")))
        except Fault as fault:
            if fault.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    def page(self, after: str | None, size: int) -> Page:
        found = self._rest.get("/batches", {"pageSize": size} | ({"pageToken": after} if after else {}))
        listed, token = found.get("operations", []), found.get("nextPageToken")
        # An empty list is `{}`, so only other fields show that it is something else.
        if not isinstance(listed, list) or found.keys() - {"operations", "nextPageToken", "unreachable"} or found.get("unreachable"):
            raise unreadable(HTTPStatus.OK)
        return Page(batches=[_remote(operation) for operation in listed], after=token or None, more=bool(token))

    def cancel(self, batch_id: str) -> None:
        try:
            self._rest.post(_path(f"batches/{batch_id}") + ":cancel")
        except Fault as fault:
            if fault.status not in (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
                raise
            batch = self.get(batch_id)  # a refused key has the same status as "has ended"
            if batch is not None and not batch.state.ended:
                raise

    def results(self, batch: RemoteBatch) -> list[ResultFile]:
        return [ResultFile(id=ref, what=f"result file {ref}") for ref in batch.result_refs]

    def size_bytes(self, file: ResultFile) -> int | None:
        # Beyond the verb's time: a download that has begun is finished, whatever time the verb has left.
        with suppress(Fault, TypeError, ValueError):
            return int(self._rest.get(_path(file.id), bounds=http.asking_beyond_verb).get("sizeBytes") or "")
        return None

    def fetch(self, batch: RemoteBatch, file: ResultFile, start: int, validator: str) -> AbstractContextManager[Piece]:
        return self._rest.open(f"{self._downloads}{_path(file.id)}:download", start, validator, {"alt": "media"})

    def unstage(self, input_ref: str) -> None:
        try:
            self._rest.delete(_path(input_ref))
        except Fault as fault:
            if fault.status != HTTPStatus.NOT_FOUND and fault.code != FILE_MISSING:
                raise

    def close(self) -> None:
        self._rest.close()


def _may_pass(fault: Fault) -> bool:
    """True if the same piece may be accepted a moment later."""
    return fault.status is None or fault.status >= HTTPStatus.INTERNAL_SERVER_ERROR or fault.status in _TRIED_AGAIN


def _upload(command: str) -> dict[str, str]:
    return {"x-goog-upload-command": command}


def _path(name: str) -> str:
    """The path of a resource's name, e.g. `files/abc`."""
    return "/" + quote(name, safe="/")


def _decoded(reply: httpx2.Response) -> dict[str, Any]:
    with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return msgspec.json.decode(reply.content, type=dict[str, Any])
    raise unreadable(reply.status_code)


def _remote(operation: Any) -> RemoteBatch:
    """A batch from its long-running operation; its counts are texts, and a zero is left out."""
    name = operation.get("name") if isinstance(operation, dict) else None
    if not isinstance(name, str) or not name.startswith("batches/"):
        raise unreadable(HTTPStatus.OK)
    metadata = _object(operation.get("metadata"))
    native = str(metadata.get("state") or NO_STATUS)
    state = _STATES.get(native.rpartition("STATE_")[2], BatchState.IN_PROGRESS)
    stats, output = _object(metadata.get("batchStats")), _object(metadata.get("output")) or _object(operation.get("response"))
    requests, succeeded, failed, left = (
        _count(stats, field) for field in ("requestCount", "successfulRequestCount", "failedRequestCount", "pendingRequestCount")
    )
    if state in (BatchState.CANCELLED, BatchState.EXPIRED) and (succeeded or 0) + (failed or 0) + (left or 0) != requests:
        # They do not add up: a zero may be left out, and a count may be late.  These batches give no answers back, so a count of answers that is
        # too low would hide what is paid.
        requests = succeeded = None
    errors = _errors(operation.get("error"))
    full = "RESOURCE_EXHAUSTED"
    file = output.get("responsesFile")
    return RemoteBatch(
        id=name.removeprefix("batches/"),
        state=state,
        native=native,
        created_at=instant(metadata.get("createTime")),
        key=str(metadata.get("displayName") or "") or None,
        input_ref=str(_object(metadata.get("inputConfig")).get("fileName") or "") or None,
        requests=requests,
        succeeded=succeeded if requests is None else succeeded or 0,
        done=_done(native, state, requests, (succeeded or 0) + (failed or 0)),
        errors=errors,
        queue_full=full if state is BatchState.FAILED and any(code == full for code, _ in errors) else None,
        result_refs=(file,) if isinstance(file, str) and file else (),
    )


def _done(native: str, state: BatchState, requests: int | None, counted: int) -> int | None:
    """Requests that are done; None: not known.

    It is not documented whether the counts grow while a batch runs.  A zero taken for "nothing is answered" would have the batch cancelled for a
    deadline, and what it had answered would be lost: only a batch that waits is known to have answered nothing.
    """
    if native.endswith("STATE_PENDING"):
        return 0
    return None if requests is None or (not counted and not state.ended) else counted


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(stats: dict[str, Any], field: str) -> int | None:
    count = stats.get(field)
    return int(count) if isinstance(count, int | str) and str(count).isdigit() else None


def _errors(error: Any) -> tuple[tuple[str, str], ...]:
    found = _object(error)
    return ((word_of(found), scrubbed(str(found.get("message") or ""))),) if found else ()
