"""Mistral: batch jobs made from an uploaded file, with results in an output file and an error file.

One of the transports.  Over `rest`, since the official SDK takes a created job whose reply lacks a field for a failed call, and so would have it
created again.  Wire: docs.mistral.ai/api and the types of mistralai 3.7, Nov 2026.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from datetime import datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

from keld import http
from keld.providers.base import NO_STATUS, BatchState, RemoteBatch, Submission
from keld.providers.download import Piece, ResultFile
from keld.providers.fault import ErrorIn, Fault, Sent, scrubbed, unreadable
from keld.providers.page import Page, instant
from keld.providers.part import Connection, bearer
from keld.providers.transports.rest import Rest, read

TIMEOUT_HOURS = 24
_JOBS = "/batch/jobs"
_KEY = "keld_key"
_FOUND_MOST = 50  # pages of a filtered list: one is enough where the filter is honoured
_SKEW = timedelta(minutes=5)  # between the host's clock and ours
_ENDED_ALREADY = (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY)
_STATES = {
    "CANCELLATION_REQUESTED": BatchState.CANCELLING,
    "SUCCESS": BatchState.COMPLETED,
    "FAILED": BatchState.FAILED,
    "TIMEOUT_EXCEEDED": BatchState.EXPIRED,
    "CANCELLED": BatchState.CANCELLED,
}  # any other status, also one never seen before, is in progress


class MistralJobs:
    """`Batches` of one account at Mistral; `error_in` finds the error in a failed reply."""

    def __init__(self, connection: Connection, error_in: ErrorIn) -> None:
        self._rest = Rest(connection, bearer, error_in)

    def stage(self, path: Path, key: str) -> str | None:
        with path.open("rb") as file:
            reply = self._rest.upload("/files", data={"purpose": "batch"}, files={"file": (f"keld-{key}.jsonl", file)})
        return _id(read(reply, dict))

    def create(self, submission: Submission) -> RemoteBatch:
        body = {
            "input_files": [submission.input_ref],
            "endpoint": submission.endpoint,
            "model": submission.model,
            "metadata": {_KEY: submission.key},
            "timeout_hours": TIMEOUT_HOURS,
        }
        return _remote(self._rest.create(_JOBS, body))

    def get(self, batch_id: str) -> RemoteBatch | None:
        try:
            return _remote(self._rest.get(f"{_JOBS}/{quote(batch_id, safe='')}"))
        except Fault as fault:
            if fault.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    def page(self, after: str | None, size: int) -> Page:
        number = int(after or 0)
        batches, total = self._listed(number, size)
        return Page(batches=batches, after=str(number + 1), more=None if total is None else (number + 1) * size < total)

    def find(self, key: str, since: datetime) -> Iterator[RemoteBatch]:
        """The jobs with this mark, by the host's filter, and if that shows none by the list of all jobs since then.

        Whether the live service honours the filter was never seen.  If it ignores it, the jobs of others are in the answer, and are left out
        here; if it takes it for another filter, the answer is empty: that proves nothing, so the whole list is read, too.
        """
        found = False
        for batch in self._all({_KEY: key}, _FOUND_MOST):
            if batch.key == key:
                found = True
                yield batch
        if not found:
            everything = self._all({"created_after": (since - _SKEW).isoformat()}, None)
            yield from (batch for batch in everything if batch.key == key)

    def _all(self, query: dict[str, str], most: int | None) -> Iterator[RemoteBatch]:
        """All jobs of a filtered list; of a list that does not say how long it is, until an empty page.

        Args:
            most: pages, if an incomplete answer is good enough.

        Raises:
            Fault: the list is not complete.
        """
        seen: set[str] = set()
        number = 0
        while most is None or number < most:
            batches, total = self._listed(number, _PAGE, query)
            fresh = [batch for batch in batches if batch.id not in seen]
            seen.update(batch.id for batch in fresh)
            yield from fresh
            number += 1
            if not batches or (total is not None and number * _PAGE >= total):
                return
            if not fresh:  # the same page again: the host ignores the page's number
                if most is None:
                    raise Fault(sent=Sent.ANSWERED, cause="a list of jobs that does not go on")
                return

    def _listed(self, number: int, size: int, query: dict[str, str] | None = None) -> tuple[list[RemoteBatch], int | None]:
        """A page of the list, and how many jobs there are; None if the reply does not say."""
        found = self._rest.get(_JOBS, {"page": number, "page_size": size, "order_by": "-created", **(query or {})})
        data, total = found.get("data"), found.get("total")
        counted = isinstance(total, int) and total >= 0
        if data is None and counted:  # the SDK's type of a page has none if there is no job
            data = []
        if not isinstance(data, list) or not all(isinstance(job, dict) for job in data):
            raise unreadable(HTTPStatus.OK)  # an error with status 200 must not pass for an empty list
        return [_remote(job) for job in data], total if counted else None

    def cancel(self, batch_id: str) -> None:
        try:
            self._rest.post(f"{_JOBS}/{quote(batch_id, safe='')}/cancel")
        except Fault as fault:
            if fault.status not in _ENDED_ALREADY:
                raise

    def results(self, batch: RemoteBatch) -> list[ResultFile]:
        return [ResultFile(id=ref, what=f"result file {ref}") for ref in batch.result_refs]

    def size_bytes(self, file: ResultFile) -> int | None:
        with suppress(Fault):  # a download that has begun is finished, whatever time the verb has left
            size = self._rest.get(f"/files/{quote(file.id, safe='')}", bounds=http.asking_beyond_verb).get("bytes")
            return size if isinstance(size, int) else None
        return None

    def fetch(self, batch: RemoteBatch, file: ResultFile, start: int, validator: str) -> AbstractContextManager[Piece]:
        return self._rest.open(f"/files/{quote(file.id, safe='')}/content", start, validator)

    def unstage(self, input_ref: str) -> None:
        try:
            removed = self._rest.delete(f"/files/{quote(input_ref, safe='')}")
        except Fault as fault:
            if fault.status == HTTPStatus.NOT_FOUND:
                return
            raise
        if removed.get("deleted") is not True:
            raise Fault(sent=Sent.ANSWERED, cause="a reply that does not say whether the file was removed")

    def close(self) -> None:
        self._rest.close()


# -- the objects ----------------------------------------------------------------------------------------------

_PAGE = 100  # docs.mistral.ai/api, Nov 2026: the default, and the most that is known to be given


def _id(found: dict[str, Any]) -> str:
    """Raises:
    Fault: the object has no id.
    """
    name = found.get("id")
    if not isinstance(name, str) or not name:
        raise unreadable(HTTPStatus.OK)
    return name


def _remote(job: dict[str, Any]) -> RemoteBatch:
    """All fields but the id may be absent."""
    native, metadata, inputs = job.get("status"), job.get("metadata"), job.get("input_files")
    mark = metadata.get(_KEY) if isinstance(metadata, dict) else None
    return RemoteBatch(
        id=_id(job),
        state=_STATES.get(str(native), BatchState.IN_PROGRESS),
        native=str(native or NO_STATUS),
        created_at=instant(job.get("created_at")),
        key=str(mark) if mark else None,
        input_ref=inputs[0] if isinstance(inputs, list) and inputs and isinstance(inputs[0], str) else None,
        requests=_count(job, "total_requests"),
        succeeded=_count(job, "succeeded_requests"),
        done=_count(job, "completed_requests"),
        errors=_errors(job.get("errors")),
        result_refs=tuple(ref for ref in (job.get("output_file"), job.get("error_file")) if isinstance(ref, str) and ref),
    )


def _count(job: dict[str, Any], name: str) -> int | None:
    count = job.get(name)
    return count if isinstance(count, int) else None


def _errors(listed: Any) -> tuple[tuple[str, str], ...]:
    """The messages of the job itself; it gives no codes."""
    known = [error for error in listed if isinstance(error, dict)] if isinstance(listed, list) else []
    return tuple(("error", scrubbed(str(error.get("message") or ""))) for error in known)
