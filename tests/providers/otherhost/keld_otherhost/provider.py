"""Provider: otherhost for Keld: its own lines, its own client with errors of its own, lists by token, results in several objects.

What another package has to bring, whole: an envelope, batches, a preset.  The dialect is Keld's own, for the bodies are OpenAI's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import msgspec

from keld import http
from keld.outcome import Outcome
from keld.price import Lane
from keld.providers.account import origin
from keld.providers.base import BatchState, RemoteBatch, Submission, Traits
from keld.providers.dialects.openai_chat import OpenAIChat
from keld.providers.download import Piece, ResultFile
from keld.providers.fault import Fault, Meaning, code_of, fault_of_no_reply, fault_of_reply, unreadable
from keld.providers.line import RETRYABLE_STATUS, lines_of
from keld.providers.page import UNREADABLE_TIME, Page
from keld.providers.part import Connection, Dialect, Fixed, Preset
from keld.providers.transports.ranges import piece_of, range_headers
from keld.reply import Reply
from keld.shard import Limits

# -- the lines ------------------------------------------------------------------------------------------------


class Line(msgspec.Struct):
    label: str
    status: int = 0
    answer: Any = None
    fault: Any = None


class OtherLines:
    """`Envelope` of otherhost."""

    def overhead_bytes(self, path: str) -> int:
        return 64

    def wrap(self, custom_id: str, path: str, body: bytes) -> bytes:
        return b'{"label":"%b","request":%b}\n' % (custom_id.encode(), body)

    def around(self, lines: Iterator[bytes]) -> Iterator[bytes]:
        return lines

    def ids(self, block: bytes) -> list[str]:
        return [line.label for line in lines_of(block, Line, "label")]

    def read(self, block: bytes, dialect: Dialect) -> list[Reply]:
        return [_reply(line, dialect) for line in lines_of(block, Line, "label")]


def _reply(line: Line, dialect: Dialect) -> Reply:
    if line.status == 200 and line.answer is not None:
        return dialect.judge(line.label, 200, msgspec.convert(line.answer, dialect.body_type, strict=False))
    fault = line.fault if isinstance(line.fault, dict) else {}
    ends = {"EXPIRED": Outcome.EXPIRED, "STOPPED": Outcome.CANCELLED}
    outcome = ends.get(str(fault.get("code")), Outcome.ERRORED)
    retryable = outcome is not Outcome.ERRORED or line.status in RETRYABLE_STATUS or line.status >= 500
    return Reply(custom_id=line.label, outcome=outcome, error=f"HTTP {line.status} {fault.get('code')}", retryable=retryable)


# -- the client -----------------------------------------------------------------------------------------------


class OtherHostError(Exception):
    """What the vendor's client raises for a reply that is no success."""

    def __init__(self, reply: httpx2.Response) -> None:
        super().__init__(f"otherhost said {reply.status_code}")
        self.reply = reply


class Client:
    """The vendor's own, as small as it can be."""

    def __init__(self, base_url: str, key: str, transport: httpx2.Client) -> None:
        self._base_url, self._transport, self._headers = base_url.rstrip("/"), transport, {"x-otherhost-key": key}

    def call(self, method: str, path: str, **more: Any) -> httpx2.Response:
        headers = self._headers | more.pop("headers", {})
        reply = self._transport.request(method, self._base_url + path, headers=headers, **more)
        if reply.status_code >= 300:
            raise OtherHostError(reply)
        return reply

    @contextmanager
    def stream(self, url: str, headers: dict[str, str]) -> Iterator[httpx2.Response]:
        with self._transport.stream("GET", url, headers=self._headers | headers) as reply:
            if reply.status_code >= 300:
                reply.read()
                raise OtherHostError(reply)
            yield reply

    def close(self) -> None:
        self._transport.close()


# -- the transport --------------------------------------------------------------------------------------------

_STATES = {
    "STOPPING": BatchState.CANCELLING,
    "DONE": BatchState.COMPLETED,
    "FAILED": BatchState.FAILED,
    "EXPIRED": BatchState.EXPIRED,
    "STOPPED": BatchState.CANCELLED,
}


class OtherBatches:
    """`Batches` of one account at otherhost."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._patience = connection, connection.patience

    @cached_property
    def _client(self) -> Client:
        return Client(self._connection.base_url, self._connection.key(), http.client(self._patience))

    def stage(self, path: Path, key: str) -> str | None:
        with as_faults(), http.sending(self._patience), path.open("rb") as file:
            return str(read(self._client.call("POST", "/objects", content=file))["object"])

    def create(self, submission: Submission) -> RemoteBatch:
        body = {
            "object": submission.input_ref,
            "endpoint": submission.endpoint,
            "model": submission.model,
            "labels": {"keld": submission.key},
        }
        with as_faults(), http.sending(self._patience):
            return remote(read(self._client.call("POST", "/jobs", json=body)))

    def get(self, batch_id: str) -> RemoteBatch | None:
        try:
            with as_faults(), http.asking(self._patience):
                return remote(read(self._client.call("GET", f"/jobs/{batch_id}")))
        except Fault as fault:
            if fault.status == 404:
                return None
            raise

    def page(self, after: str | None, size: int) -> Page:
        with as_faults(), http.asking(self._patience):
            params = {"page_size": size} | ({"page_token": after} if after else {})
            found = read(self._client.call("GET", "/jobs", params=params), "jobs")
        token = found.get("next_page_token")
        return Page(batches=[remote(job) for job in found["jobs"]], after=token, more=token is not None)

    def cancel(self, batch_id: str) -> None:
        try:
            with as_faults(), http.asking(self._patience):
                read(self._client.call("POST", f"/jobs/{batch_id}/stop"))
        except Fault as fault:
            if fault.status not in (404, 409):
                raise

    def results(self, batch: RemoteBatch) -> list[ResultFile]:
        return [
            ResultFile(id=url, what=f"object {n} of {batch.id}", size_bytes=int(size))
            for n, (url, _, size) in enumerate(ref.rpartition(" ") for ref in batch.result_refs)
        ]

    def size_bytes(self, file: ResultFile) -> int | None:
        return file.size_bytes

    @contextmanager
    def fetch(self, batch: RemoteBatch, file: ResultFile, start: int, validator: str) -> Iterator[Piece]:
        # Never to another host than ours: the key would go there.
        at_home = origin(self._connection.base_url) + urlsplit(file.id).path
        stream = self._client.stream(at_home, range_headers(start, validator))
        with http.fetching(self._patience):
            with as_faults():
                reply = stream.__enter__()
            try:
                yield piece_of(reply)
            finally:
                stream.__exit__(None, None, None)

    def unstage(self, input_ref: str) -> None:
        try:
            with as_faults(), http.asking(self._patience):
                if not read(self._client.call("DELETE", f"/objects/{input_ref}"), "removed")["removed"]:
                    raise unreadable(200)
        except Fault as fault:
            if fault.status != 404:
                raise

    def close(self) -> None:
        if "_client" in self.__dict__:
            self._client.close()


@contextmanager
def as_faults() -> Iterator[None]:
    """Turns the client's errors into faults."""
    try:
        yield
    except OtherHostError as error:
        reply = error.reply
        raise fault_of_reply(reply.status_code, reply.headers, reply.content, carried_prompts=True, error_in=_error_in) from None
    except httpx2.HTTPError as error:
        raise fault_of_no_reply(error) from None


def _error_in(body: dict[str, Any], headers: Mapping[str, str]) -> Any:
    """`{"fault": {"code", "text"}}`, as every error of otherhost is written."""
    fault = body.get("fault")
    return {"code": fault.get("code"), "message": fault.get("text")} if isinstance(fault, dict) else None


def read(reply: httpx2.Response, *need: str) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(reply.content)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise unreadable(reply.status_code) from None
    if not isinstance(found, dict) or not any(name in found for name in (need or ("job", "object"))):
        raise unreadable(reply.status_code)
    return found


def remote(job: dict[str, Any]) -> RemoteBatch:
    counts, problem = job.get("counts") or {}, job.get("problem")
    ok, failed = counts.get("succeeded"), counts.get("failed")
    try:
        created = datetime.fromisoformat(str(job.get("created")))
    except ValueError:
        created = UNREADABLE_TIME
    return RemoteBatch(
        id=str(job.get("job") or ""),
        state=_STATES.get(str(job.get("state")), BatchState.IN_PROGRESS),
        native=str(job.get("state")),
        created_at=created,
        key=(job.get("labels") or {}).get("keld"),
        requests=counts.get("total"),
        succeeded=ok,
        done=None if ok is None else ok + (failed or 0),
        errors=((code_of(problem.get("code")), ""),) if isinstance(problem, dict) else (),
        result_refs=tuple(f"{out['url']} {out['size_bytes']}" for out in job.get("outputs") or () if out.get("url")),
    )


# -- the preset -----------------------------------------------------------------------------------------------

_CHAT = OpenAIChat()
PRESET = Preset(
    kind="otherhost",
    base_url="https://api.otherhost.example/v1",
    base_url_env="OTHERHOST_BASE_URL",
    api_key_env="OTHERHOST_API_KEY",
    base_holds="/v1",
    dialect=lambda question, model: _CHAT,
    dialects=(_CHAT,),
    envelope=OtherLines(),
    batches=OtherBatches,
    auth=lambda connection: Fixed({"x-otherhost-key": connection.key()}),
    error_in=_error_in,
    codes={(429, "SLOW_DOWN"): Meaning.QUEUE_FULL},
    batch_page="https://otherhost.example/jobs/{id}",
    traits=Traits(
        limits=Limits(max_requests=20_000, max_bytes=100_000_000, max_line_bytes=10_000_000),
        lanes=frozenset({Lane.BATCH, Lane.STANDARD}),
        list_page=50,
        fences=True,
        pages_by_id=False,
    ),
)
