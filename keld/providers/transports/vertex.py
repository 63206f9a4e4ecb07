"""Vertex: batch prediction jobs of Vertex AI, whose inputs and outputs are objects in the user's own bucket of Cloud Storage.

One of the transports, over `rest`: google-genai drops the labels of a job, which are its mark (docs/notes/providers.md).  The host looks a label up
itself, and the list is asked for jobs with our label only.  A job writes below the prefix of its create, into a folder that it names itself, in as
many objects as it likes.  Wire: the discovery document of aiplatform v1, revision 20261106, and docs/notes/providers.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

from keld.providers.account import VertexAccount
from keld.providers.base import NO_STATUS, BatchState, RemoteBatch, Submission
from keld.providers.dialects.vertex_models import publisher_path
from keld.providers.download import Broken, Piece, ResultFile
from keld.providers.fault import Fault, Sent, code_of, scrubbed, unreadable
from keld.providers.page import Page, instant
from keld.providers.part import Connection
from keld.providers.transports.rest import Params, Rest
from keld.providers.transports.stored import Stored
from keld.providers.transports.vertex_auth import auth, bucket_credentials, error_in
from keld.providers.transports.vertex_lines import LABEL, ids_by_request, is_named, matched

VERSION = "v1"
_STATES = {
    "SUCCEEDED": BatchState.COMPLETED,
    "PARTIALLY_SUCCEEDED": BatchState.COMPLETED,
    "FAILED": BatchState.FAILED,
    "CANCELLING": BatchState.CANCELLING,
    "CANCELLED": BatchState.CANCELLED,
    "EXPIRED": BatchState.EXPIRED,
}  # QUEUED, PENDING, RUNNING, PAUSED, UPDATING, and any state never seen before, are in progress
_NAME = re.compile(r"projects/[^/?#]+/locations/[^/?#]+/batchPredictionJobs/[^/?#]+")
_UNNAMED = "#unnamed"  # marks a result object whose lines do not show the ids of their rows
_CODES = {3: "INVALID_ARGUMENT", 5: "NOT_FOUND", 7: "PERMISSION_DENIED", 8: "RESOURCE_EXHAUSTED", 9: "FAILED_PRECONDITION", 13: "INTERNAL"}


def parent(account: VertexAccount) -> str:
    """The path of everything that belongs to one project in one location."""
    return f"/projects/{account.project}/locations/{account.location}"


class VertexBatches:
    """`Batches` of one project in one location."""

    def __init__(self, connection: Connection) -> None:
        assert isinstance(connection.account, VertexAccount)
        account = connection.account
        self._rest = Rest(connection, auth, error_in)
        self._objects = Stored(account.bucket, connection.patience, credentials=bucket_credentials(connection))
        self._jobs = f"/{VERSION}{parent(account)}/batchPredictionJobs"

    def stage(self, path: Path, key: str) -> str | None:
        return self._objects.put(path, key)

    def unstage(self, input_ref: str) -> None:
        self._objects.remove(input_ref)

    # -- the job --------------------------------------------------------------------------------------------------

    def create(self, submission: Submission) -> RemoteBatch:
        body = {
            "displayName": f"keld-{submission.key}",
            "model": publisher_path(submission.model)[1:],
            "inputConfig": {"instancesFormat": "jsonl", "gcsSource": {"uris": [submission.input_ref or ""]}},
            "outputConfig": {
                "predictionsFormat": "jsonl",
                "gcsDestination": {"outputUriPrefix": f"{self._objects.root}/out/{submission.key}"},
            },
            "labels": {LABEL: submission.key},
        }
        return _remote(self._rest.create(self._jobs, body))

    def get(self, batch_id: str) -> RemoteBatch | None:
        if not _NAME.fullmatch(batch_id):
            return None  # no job has such a name
        try:
            return _remote(self._rest.get(f"/{VERSION}/{batch_id}"))
        except Fault as fault:
            if fault.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    def page(self, after: str | None, size: int) -> Page:
        return self._page(f"labels.{LABEL}:*", after, size)

    def find(self, key: str, since: datetime) -> Iterator[RemoteBatch]:
        token: str | None = None
        while True:
            page = self._page(f'labels.{LABEL}="{key}"', token, 100)
            yield from (batch for batch in page.batches if batch.key == key)
            if page.after is None:
                return
            if page.after == token:
                raise unreadable(HTTPStatus.OK)  # the same page again: it is not known what the next one has
            token = page.after

    def _page(self, wanted: str, after: str | None, size: int) -> Page:
        asked: Params = {"filter": wanted, "pageSize": size, **({"pageToken": after} if after else {})}
        found = self._rest.get(self._jobs, asked)
        jobs, token = found.get("batchPredictionJobs", []), found.get("nextPageToken")
        # An empty list is `{}`, so only other fields show that it is something else.
        if not isinstance(jobs, list) or found.keys() - {"batchPredictionJobs", "nextPageToken"}:
            raise unreadable(HTTPStatus.OK)
        return Page(batches=[_remote(job) for job in jobs], after=token or None, more=bool(token))

    def cancel(self, batch_id: str) -> None:
        if not _NAME.fullmatch(batch_id):
            return
        try:
            self._rest.post(f"/{VERSION}/{batch_id}:cancel", {})
        except Fault as fault:
            if fault.status not in (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
                raise
            batch = self.get(batch_id)  # a refused call may have the same status as "has ended"
            if batch is not None and not batch.state.ended:
                raise

    # -- the results ----------------------------------------------------------------------------------------------

    def results(self, batch: RemoteBatch) -> list[ResultFile]:
        """The objects in the job's own folder; other jobs have others, so nothing is guessed."""
        files = []
        for uri, found in (one for folder in batch.result_refs for one in self._objects.below(folder)):
            what = f"{uri.rpartition('/')[2]} of {batch.id}"
            if self._is_named(uri):
                files.append(ResultFile(id=uri, what=what, size_bytes=found.size_bytes))
            else:
                files.append(ResultFile(id=uri + _UNNAMED, what=what))
        return files

    def size_bytes(self, file: ResultFile) -> int | None:
        return None  # `results` has said it; of lines that are changed on their way it is not known

    @contextmanager
    def fetch(self, batch: RemoteBatch, file: ResultFile, start: int, validator: str) -> Iterator[Piece]:
        uri = file.id.removesuffix(_UNNAMED)
        if uri == file.id:
            with self._objects.open(uri, start, validator) as piece:
                yield piece
            return
        with _broken_is_fault(), self._objects.open(batch.input_ref or "") as given:
            ids = ids_by_request(_lines(given.chunks))
        with self._objects.open(uri) as piece:  # from its beginning: bytes of changed lines have no place in the object
            yield Piece(resumed=False, validator=piece.validator, chunks=(matched(line, ids) for line in _lines(piece.chunks)))

    def _is_named(self, uri: str) -> bool:
        """True if the first line of a result shows the id of its row, or is no line at all."""
        with _broken_is_fault(), self._objects.open(uri) as piece:
            first = next(_lines(piece.chunks), b"")
        return is_named(first) or not first.startswith(b'{"') or b'"request"' not in first

    def close(self) -> None:
        self._rest.close()


@contextmanager
def _broken_is_fault() -> Iterator[None]:
    """Turns a stream that broke into a fault, where the object is not what is downloaded.

    Raises:
        Fault: it broke.
    """
    try:
        yield
    except Broken as broken:
        raise Fault(sent=Sent.MAYBE, cause=str(broken)) from None


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The lines of a stream, with their line ends."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line + b"\n" for line in lines)
    if rest:
        yield rest


# -- the objects ----------------------------------------------------------------------------------------------


def _remote(job: Any) -> RemoteBatch:
    name = job.get("name") if isinstance(job, dict) else None
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise unreadable(HTTPStatus.OK)
    native = str(job.get("state") or NO_STATUS)
    state = _STATES.get(native.removeprefix("JOB_STATE_"), BatchState.IN_PROGRESS)
    succeeded, failed, left = (_count(job, field) for field in ("successfulCount", "failedCount", "incompleteCount"))
    known = succeeded is not None and failed is not None
    errors = _errors(job.get("error"))
    full = "RESOURCE_EXHAUSTED"
    folder = _object(job.get("outputInfo")).get("gcsOutputDirectory")
    uris = _object(_object(job.get("inputConfig")).get("gcsSource")).get("uris")
    return RemoteBatch(
        id=name,
        state=state,
        native=native,
        created_at=instant(job.get("createTime")),
        key=_object(job.get("labels")).get(LABEL) or None,
        input_ref=uris[0] if isinstance(uris, list) and len(uris) == 1 and isinstance(uris[0], str) else None,
        requests=succeeded + failed + left if succeeded is not None and failed is not None and left is not None else None,
        succeeded=succeeded,
        done=(succeeded or 0) + (failed or 0) if known else None,
        errors=errors,
        queue_full=full if state is BatchState.FAILED and any(code == full for code, _ in errors) else None,
        result_refs=(folder,) if isinstance(folder, str) and folder.startswith("gs://") and state.ended else (),
    )


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(job: dict[str, Any], field: str) -> int | None:
    """A 64-bit integer, and so a text; -1 says that it is not known, and as everywhere at Google a zero is left out."""
    stats = job.get("completionStats")
    if not isinstance(stats, dict):
        return None
    count = str(stats.get(field, 0))
    return int(count) if count.isdigit() else None


def _errors(error: Any) -> tuple[tuple[str, str], ...]:
    found = _object(error)
    if not found:
        return ()
    code = found.get("code")
    return ((code_of(_CODES.get(code, code) if isinstance(code, int) else code), scrubbed(str(found.get("message") or ""))),)
