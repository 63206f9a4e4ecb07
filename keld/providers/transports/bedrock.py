"""Bedrock: batch inference jobs at Amazon Bedrock, whose inputs and outputs are objects in the user's own bucket of S3.

One of the transports.  The key of a submission is the job's client token, so a create that is sent again with the same key within some minutes makes no
second job; it is also in the job's name, by which a job can be searched for.  Wire: botocore 1.43's service model, and docs/notes/providers.md.

An output is named by the job's id; the manifest beside it says how many records it has, so an output with fewer is not complete yet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from keld.providers.account import BedrockAccount
from keld.providers.base import NO_STATUS, BatchState, RemoteBatch, Submission
from keld.providers.dialects.bedrock_messages import is_invoked
from keld.providers.download import Piece, ResultFile
from keld.providers.fault import Fault, scrubbed, unreadable
from keld.providers.page import UNREADABLE_TIME, Page, instant
from keld.providers.part import Connection
from keld.providers.transports.bedrock_auth import auth, bucket_options_of, error_in
from keld.providers.transports.rest import Rest
from keld.providers.transports.stored import Stored

HOURS = 24  # until a job times out; the shortest that there is
_NAME = "keld-"  # begins a job's name, before the key
_JOB = "/model-invocation-job"
_STATES = {
    "Stopping": BatchState.CANCELLING,
    "Completed": BatchState.COMPLETED,
    "PartiallyCompleted": BatchState.EXPIRED,  # after it began: it has an output, in which the records that it did not reach have no line
    "Failed": BatchState.FAILED,
    "Stopped": BatchState.CANCELLED,
    "Expired": BatchState.EXPIRED,  # its time was over before it began
}  # any other status, also one never seen before, is in progress
# Why a job failed before it did anything, if the rows are not at fault: the role, the bucket or its region.  AWS gives a text only.
_NOT_ALLOWED = re.compile(r"access ?denied|not authorized|forbidden|permission|assume|bucket.{0,80}region", re.IGNORECASE)
_SKEW = timedelta(minutes=5)


class BedrockBatches:
    """`Batches` of one AWS account in one region."""

    def __init__(self, connection: Connection) -> None:
        assert isinstance(connection.account, BedrockAccount)
        account = connection.account
        self._rest, self._role = Rest(connection, auth, error_in), account.role
        self._objects = Stored(account.bucket, connection.patience, options=bucket_options_of(connection))

    # -- the input ------------------------------------------------------------------------------------------------

    def stage(self, path: Path, key: str) -> str | None:
        return self._objects.put(path, key)

    def unstage(self, input_ref: str) -> None:
        self._objects.remove(input_ref)

    # -- the job --------------------------------------------------------------------------------------------------

    def create(self, submission: Submission) -> RemoteBatch:
        body = {
            "jobName": _NAME + submission.key,
            "clientRequestToken": submission.key,
            "roleArn": self._role,
            "modelId": submission.model,
            "modelInvocationType": "InvokeModel" if is_invoked(submission.model) else "Converse",
            "inputDataConfig": {"s3InputDataConfig": {"s3Uri": submission.input_ref or "", "s3InputFormat": "JSONL"}},
            "outputDataConfig": {"s3OutputDataConfig": {"s3Uri": f"{self._objects.root}/out/"}},
            "timeoutDurationInHours": HOURS,
        }
        reply = self._rest.send("POST", _JOB, msgspec.json.encode(body), carried_prompts=False)
        return RemoteBatch(
            id=_arn_in(reply.content, reply.status_code),
            state=BatchState.IN_PROGRESS,
            native="Submitted",
            created_at=_date_of(reply.headers),  # the reply has nothing but the id
            key=submission.key,
            input_ref=submission.input_ref,
        )

    def get(self, batch_id: str) -> RemoteBatch | None:
        try:
            return _remote(self._rest.get(f"{_JOB}/{quote(batch_id, safe='')}"))
        except Fault as fault:
            if fault.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    def page(self, after: str | None, size: int) -> Page:
        return self._page({"maxResults": str(size)} | ({"nextToken": after} if after else {}))

    def find(self, key: str, since: datetime) -> Iterator[RemoteBatch]:
        """The jobs with this client token, by their name."""
        asked = {"nameContains": _NAME + key, "submitTimeAfter": (since - _SKEW).strftime("%Y-%m-%dT%H:%M:%SZ"), "maxResults": "100"}
        token: str | None = None
        while True:
            page = self._page(asked | ({"nextToken": token} if token else {}))
            yield from (batch for batch in page.batches if batch.key == key)
            if page.after is None:
                return
            if page.after == token:
                raise unreadable(HTTPStatus.OK)  # the same page again: it is not known what the next one has
            token = page.after

    def cancel(self, batch_id: str) -> None:
        try:
            self._rest.post(f"{_JOB}/{quote(batch_id, safe='')}/stop")
        except Fault as fault:
            ended = fault.status == HTTPStatus.BAD_REQUEST and fault.code == "ConflictException"
            if not ended and fault.status not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
                raise

    def _page(self, asked: Mapping[str, str]) -> Page:
        # Written by hand: a signature covers the query with every character but the unreserved ones encoded.
        query = {**asked, "sortBy": "CreationTime", "sortOrder": "Descending"}
        found = self._rest.get(f"{_JOB}s?" + "&".join(f"{name}={quote(value, safe='')}" for name, value in sorted(query.items())))
        jobs = found.get("invocationJobSummaries")
        if not isinstance(jobs, list):  # an error with status 200 must not pass for an empty list
            raise unreadable(HTTPStatus.OK)
        token = found.get("nextToken") or None
        return Page(batches=[_remote(job) for job in jobs], after=token, more=token is not None)

    # -- the results ----------------------------------------------------------------------------------------------

    def results(self, batch: RemoteBatch) -> list[ResultFile]:
        return [ResultFile(id=uri, what=f"the output of {batch.id}", lines=self._records(uri)) for uri in batch.result_refs]

    def size_bytes(self, file: ResultFile) -> int | None:
        found = self._objects.find(file.id)
        return None if found is None else found.size_bytes

    @contextmanager
    def fetch(self, batch: RemoteBatch, file: ResultFile, start: int, validator: str) -> Iterator[Piece]:
        with self._objects.open(file.id, start, validator) as piece:
            yield piece

    def close(self) -> None:
        self._rest.close()

    def _records(self, output_uri: str) -> int | None:
        """The number of records in an output by its manifest; None if there is none yet."""
        manifest = self._objects.read(output_uri.rpartition("/")[0] + "/manifest.json.out")
        try:
            count = msgspec.json.decode(manifest or b"").get("processedRecordCount")
        except (msgspec.MsgspecError, UnicodeDecodeError, AttributeError):
            return None
        return count if isinstance(count, int) else None


# -- the objects ----------------------------------------------------------------------------------------------

_ARN = re.compile(r"arn:aws[a-z-]*:bedrock:[a-z0-9-]+:[0-9]*:model-invocation-job/[a-z0-9]+")


def _arn_in(body: bytes, status: int) -> str:
    try:
        arn = msgspec.json.decode(body).get("jobArn")
    except (msgspec.MsgspecError, UnicodeDecodeError, AttributeError):
        raise unreadable(status) from None
    if not isinstance(arn, str) or not _ARN.fullmatch(arn):
        raise unreadable(status)
    return arn


def _date_of(headers: Mapping[str, str]) -> datetime:
    try:
        return parsedate_to_datetime(headers.get("date", ""))
    except ValueError:
        return UNREADABLE_TIME


def _remote(job: Any) -> RemoteBatch:
    if not isinstance(job, dict) or not isinstance(job.get("jobArn"), str):
        raise unreadable(HTTPStatus.OK)
    state = _STATES.get(str(job.get("status")), BatchState.IN_PROGRESS)
    done = 0 if job.get("status") == "Expired" else _count(job, "processedRecordCount")
    message = str(job.get("message") or "")
    return RemoteBatch(
        id=job["jobArn"],
        state=state,
        native=str(job.get("status") or NO_STATUS),
        created_at=instant(job.get("submitTime")),
        key=job.get("clientRequestToken") or None,
        input_ref=_uri(job, "input"),
        requests=_count(job, "totalRecordCount"),
        done=done,
        succeeded=_count(job, "successRecordCount"),
        errors=(("permission_error" if _NOT_ALLOWED.search(message) else "job_failed", scrubbed(message)),)
        if state is BatchState.FAILED
        else (),
        result_refs=_outputs(job) if _may_have_output(state, done) else (),
    )


def _may_have_output(state: BatchState, done: int | None) -> bool:
    """True if a job may have an output.

    A count that is missing is no zero: rows of a job that was stopped would be asked again although they are answered, and paid.
    """
    if state is BatchState.FAILED:
        return bool(done)
    return state is BatchState.COMPLETED or (state.ended and done != 0)


def _outputs(job: dict[str, Any]) -> tuple[str, ...]:
    """The address of a job's output, which the job does not give itself: its id and the input's name, below the prefix of the create."""
    given, prefix = _uri(job, "input"), _uri(job, "output")
    if given is None or prefix is None:
        return ()
    return (f"{prefix.rstrip('/')}/{job['jobArn'].rpartition('/')[2]}/{given.rpartition('/')[2]}.out",)


def _uri(job: dict[str, Any], which: str) -> str | None:
    config = job.get(f"{which}DataConfig")
    inner = config.get(f"s3{which.capitalize()}DataConfig") if isinstance(config, dict) else None
    uri = inner.get("s3Uri") if isinstance(inner, dict) else None
    return uri if isinstance(uri, str) else None


def _count(job: dict[str, Any], name: str) -> int | None:
    count = job.get(name)
    return count if isinstance(count, int) else None
