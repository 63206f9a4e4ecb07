"""OpenAI: files + batches, and every host that speaks its shapes by `base_url`.

One of the providers behind `base`.  The official SDK is the transport (auth, retries of harmless calls, multipart, streams); its
per-row models are never used: lines are read with typed structs, block by block.  Wire: docs/notes/providers.md.

Caching, by developers.openai.com/api/docs/guides/prompt-caching and openai 2's types, Nov 2026.  Before gpt-5.6 it goes by itself, by the
longest equal beginning, and a write costs nothing: there is nothing to say.  From gpt-5.6 on a write costs 1.25 times the input, only what
ends at a breakpoint is found again, and the one that is set by itself stands behind the row's own words: every row would write all of its
prompt, and none read.  So there we say `explicit`, which writes nothing but what is marked, and mark the system prompt where that pays, with one
`prompt_cache_key` for all who share it.  Older models are sent no key: all rows begin alike, and are routed by their first 256 tokens as it is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import msgspec
import openai as sdk

from keld import http
from keld.answer import Outcome, Reply
from keld.cache import Caching, Ttl
from keld.errors import InvalidJob
from keld.price import Lane
from keld.providers.base import (
    Account,
    BatchState,
    Capabilities,
    Created,
    CreateOutcome,
    Fit,
    OutcomeUnknown,
    Quota,
    RemoteBatch,
    Sender,
    Submission,
)
from keld.providers.call import IN_DOUBT, Wire, quotas, senders
from keld.providers.client import hush_headers, key_of, origin, url_of
from keld.providers.download import download, ends_whole
from keld.providers.fault import code_of, create_outcome, plain_faults, scrubbed
from keld.providers.line import RETRYABLE_STATUS, beginning, lines_of, unbroken
from keld.providers.openai_schema import obstacle, schema_format, why_loose
from keld.providers.page import Listing, has_id, id_of, instant, youngest
from keld.providers.template import Hole, Template, template
from keld.request import Question, custom_id, one_line
from keld.schema import OutputSchema
from keld.shard import Limits

# platform.openai.com/docs/guides/batch, 20 Nov 2026: 50,000 requests, 200 MB a file (10^6 bytes: larger ones were refused in
# practice), 50,000 embedding inputs.  No limit of one line is documented; a row above 10 MB is no prompt.
_HOST = "https://api.openai.com/v1"
_CAPABILITIES = Capabilities(
    limits=Limits(max_requests=50_000, max_bytes=200_000_000, max_line_bytes=10_000_000),
    list_page=100,
    marks_batches=True,
    fences=True,
    window=timedelta(hours=24),
    lanes=frozenset(Lane),
)
_STATES = {
    "cancelling": BatchState.CANCELLING,
    "completed": BatchState.COMPLETED,
    "failed": BatchState.FAILED,
    "expired": BatchState.EXPIRED,
    "cancelled": BatchState.CANCELLED,
}  # everything else, also a status never seen before, is still in progress
_KEY = "keld_key"
_GLANCE = 20  # batches of a list, to see the youngest
_VERSION = re.compile(r"\bgpt-(\d+)(?:\.(\d+))?")
_LEAST_CACHED = 1_024  # tokens
_EXPLICIT = {"mode": "explicit"}
_T = TypeVar("_T")


class OpenAI:
    """One account at OpenAI, or at a host of its shape."""

    def __init__(self, name: str, account: Account, patience: http.Patience) -> None:
        self.name = name
        self.capabilities = _CAPABILITIES
        self._base_url = url_of(account, "OPENAI_BASE_URL")
        self.host = origin(self._base_url or _HOST)
        self._account, self._patience = account, patience

    def ready(self) -> None:
        key_of(self.name, self._account, "OPENAI_API_KEY")

    @cached_property
    def _client(self) -> sdk.OpenAI:
        hush_headers()
        return sdk.OpenAI(
            api_key=key_of(self.name, self._account, "OPENAI_API_KEY"),
            base_url=self._base_url,
            http_client=http.client(self._patience),
            # The SDK would send an unanswered create again, and both would be paid; harmless calls are tried again by `http`.
            max_retries=0,
        )

    # -- asking -----------------------------------------------------------------------------------------------

    def fit(self, question: Question, model: str) -> Fit:
        output = OutputSchema.from_json(question.output)
        if found := obstacle(output, model):
            return Fit(obstacle=found)
        loose = why_loose(output) if output.kind == "object" else None
        return Fit(note=None if loose is None else f"asked without strict mode, each answer is checked all the same: {loose}")

    def caching(self, model: str) -> Caching:
        # What a host of this shape writes by itself nobody knows: `by_itself` reserves for it in any case.
        ttl = dict.fromkeys(Lane, Ttl.HALF_HOUR) if _takes_marks(model) else {}
        return Caching(least_tokens=_LEAST_CACHED, by_itself=True, ttl=ttl)

    def encoder(self, question: Question, model: str, nonce: str, cache: Ttl | None = None) -> LineEncoder:
        return _encoder(question, model, nonce, cache)

    def upload(self, path: Path, key: str) -> str | None:
        with self._plain("the upload of an input file", http.sending, carried_prompts=True), path.open("rb") as file:
            raw = self._client.files.with_raw_response.create(file=(f"keld-{key}.jsonl", file), purpose="batch")
            return id_of(self._read(raw, _File).id)

    def create(self, submission: Submission) -> CreateOutcome:
        try:
            with http.sending(self._patience):
                raw = self._client.batches.with_raw_response.create(
                    input_file_id=submission.input_ref or "",
                    endpoint=submission.endpoint,  # type: ignore[arg-type]  # the SDK's literal lags behind the hosts' endpoints
                    completion_window="24h",
                    metadata={_KEY: submission.key},
                )
            batch = msgspec.json.decode(raw.http_response.content, type=_Batch)
            return Created(_remote(batch)) if has_id(batch) else OutcomeUnknown("a reply without a batch id")
        except (sdk.APIError, sdk.OpenAIError) as error:
            return create_outcome(error, carried_prompts=False)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return OutcomeUnknown("an unreadable reply")

    def sender(self, path: str, timeout_s: float, most: int) -> AbstractAsyncContextManager[Sender]:
        key = key_of(self.name, self._account, "OPENAI_API_KEY")

        def client(transport: httpx2.AsyncClient) -> sdk.AsyncOpenAI:
            # Without retries: the SDK would send an unanswered request again, and both would be paid.
            return sdk.AsyncOpenAI(api_key=key, base_url=self._base_url, http_client=transport, max_retries=0)

        return senders(client, path.removeprefix("/v1"), timeout_s, most, _WIRE, sdk)

    def doubtful(self, custom_id: str, why: str) -> bytes:
        return _doubtful(custom_id, why)

    # -- looking ----------------------------------------------------------------------------------------------

    def get(self, batch_id: str) -> RemoteBatch | None:
        with self._plain("the look at a batch"):
            try:
                raw = self._client.batches.with_raw_response.retrieve(batch_id)
            except sdk.NotFoundError:
                return None
            return _remote(self._read(raw, _Batch))

    def newest(self) -> str | None:
        with self._plain("the list of batches"):
            page = self._read(self._client.batches.with_raw_response.list(limit=_GLANCE), _Page)
            return youngest([_remote(batch) for batch in page.data or ()])

    def batches(self, created_after: datetime, *, until: str | None = None, whole: bool = False, behind: str | None = None) -> Listing:
        def page_after(after: str | None) -> tuple[list[RemoteBatch], bool | None]:
            with self._plain("the list of batches"):
                raw = self._client.batches.with_raw_response.list(limit=_CAPABILITIES.list_page, after=after or sdk.omit)
                page = self._read(raw, _Page)
            return [_remote(batch) for batch in page.data or ()], page.has_more

        return Listing(page_after, created_after, until=until, newest_first=self.host == origin(_HOST), whole=whole, behind=behind)

    # -- ending -----------------------------------------------------------------------------------------------

    def cancel(self, batch_id: str) -> None:
        with self._plain("the cancel of a batch"):
            try:
                raw = self._client.batches.with_raw_response.cancel(batch_id)
            except (sdk.BadRequestError, sdk.ConflictError, sdk.NotFoundError):
                return  # ended already; the next look tells how
            self._read(raw, _Batch)  # a proxy's own page with status 200 is no cancel

    def sample(self, batch: RemoteBatch) -> list[str]:
        if batch.key is not None:
            return [batch.key]  # its mark says it already
        with unbroken(self.name, self.host, batch.id), self._plain("the download of results", http.fetching):
            for ref in batch.result_refs:
                with self._client.files.with_streaming_response.content(ref, extra_headers={"Accept-Encoding": "identity"}) as stream:
                    found = beginning(stream.iter_bytes())
                if ids := [line.custom_id for line in lines_of(found, _Line)]:
                    return ids
        return []

    def download(self, batch: RemoteBatch, into: Callable[[int], Path], most_bytes: int, *, anew: bool = False) -> list[Path]:
        return [self._download(ref, into(n), most_bytes, anew) for n, ref in enumerate(batch.result_refs)]

    def read(self, block: bytes) -> list[Reply]:
        return [_reply(line) for line in lines_of(block, _Line)]

    def delete_input(self, input_ref: str) -> None:
        with self._plain("the removal of an input file"):
            try:
                raw = self._client.files.with_raw_response.delete(input_ref)
                if raw.http_response.status_code == HTTPStatus.NO_CONTENT or self._read(raw, _Removal).deleted:
                    return
                found = self._client.files.with_raw_response.retrieve(input_ref)  # a host that does not say
            except sdk.NotFoundError:
                return
            raise sdk.APIConnectionError(message="the file is still there", request=found.http_response.request)

    def close(self) -> None:
        if "_client" in self.__dict__:
            self._client.close()

    def _download(self, ref: str, path: Path, most_bytes: int, anew: bool) -> Path:
        size = self._size_bytes(ref)

        @contextmanager
        def open_stream(headers: dict[str, str]) -> Iterator[Any]:
            with (
                self._plain("the download of results", http.fetching),
                self._client.files.with_streaming_response.content(ref, extra_headers=headers) as stream,
            ):
                yield stream

        def complete(part: Path) -> bool:
            return ends_whole(part) and (not size or part.stat().st_size >= size)

        def proven(part: Path) -> bool:
            return bool(size) and complete(part)

        return download(open_stream, path, complete, proven, most_bytes, f"result file {ref}", anew=anew)

    def _size_bytes(self, ref: str) -> int | None:
        """What the provider says the file weighs; None where it does not say (many compatible hosts)."""
        try:
            with http.asking_on(self._patience):
                return msgspec.json.decode(self._client.files.with_raw_response.retrieve(ref).http_response.content, type=_File).bytes
        except (sdk.APIError, msgspec.MsgspecError):
            return None

    @contextmanager
    def _plain(
        self,
        doing: str,
        bounds: Callable[[http.Patience], AbstractContextManager[None]] = http.asking,
        *,
        carried_prompts: bool = False,
    ) -> Iterator[None]:
        with plain_faults(self.name, self.host, doing, sdk, carried_prompts=carried_prompts), bounds(self._patience):
            yield

    def _read(self, raw: Any, kind: type[_T]) -> _T:
        with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            found = msgspec.json.decode(raw.http_response.content, type=kind)
            if has_id(found):
                return found
        raise sdk.APIConnectionError(message="unreadable reply", request=raw.http_response.request) from None


# -- the wire: requests ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LineEncoder:
    """Lines of a batch input file."""

    path: str
    nonce: bytes
    message: Template  # around one user message
    conversation: Template  # around a list of messages, whose opening bracket is in the template

    @property
    def overhead_bytes(self) -> int:
        return max(self.message.size_bytes, self.conversation.size_bytes) + 48  # the custom_id, of a position of any length

    def line(self, position: int, fragment: bytes) -> bytes:
        head = b'{"custom_id":"%b-%08d",' % (self.nonce, position)
        if fragment.startswith(b"["):
            return b"".join((head, self.conversation.head, fragment[1:], self.conversation.tail))
        return b"".join((head, self.message.head, fragment, self.message.tail))

    def body(self, fragment: bytes, lane: Lane) -> bytes:
        # The very bytes of the line, without its envelope.
        line = self.line(0, fragment)
        body = line[line.index(b'"body":') + 7 : -2]
        if lane is not Lane.FLEX:
            return body
        if self.path == "/v1/embeddings":
            raise InvalidJob("openai sells no flex lane for embeddings. Nothing was sent. Ask them in a batch or in the standard lane.")
        return body[:-1] + b',"service_tier":"flex"}'

    def file(self, lines: Iterator[bytes]) -> Iterator[bytes]:
        return lines


def _encoder(question: Question, model: str, nonce: str, cache: Ttl | None) -> LineEncoder:
    output = OutputSchema.from_json(question.output)
    hole, cache = Hole.new(), cache if _takes_marks(model) else None
    if output.kind == "embedding":
        url, common = "/v1/embeddings", {"model": model} | _dimensions(model, output)
        message: dict[str, Any] = {"input": hole.mark}
        conversation = message
    elif question.endpoint == "/v1/responses":
        url = question.endpoint
        common = {"model": model, "max_output_tokens": question.max_output_tokens} | _responses_format(output)
        if question.system is not None and cache is not None:  # `instructions` takes no mark
            system = [{"role": "system", "content": _marked(question.system, "input_text")}]
            message = {"input": [*system, {"role": "user", "content": hole.mark}]}
            conversation = {"input": [*system, hole.mark]}
        else:
            message = conversation = ({"instructions": question.system} if question.system is not None else {}) | {"input": hole.mark}
    else:
        url = question.endpoint
        said = question.system if question.system is None or cache is None else _marked(question.system, "text")
        system = [{"role": "system", "content": said}] if said is not None else []
        common = {"model": model, "max_completion_tokens": question.max_output_tokens} | _chat_format(output)
        message = {"messages": [*system, {"role": "user", "content": hole.mark}]}
        conversation = {"messages": [*system, hole.mark]}
    common |= _cache_options(question, model, cache) if output.kind != "embedding" else {}
    return LineEncoder(
        path=url,
        nonce=custom_id(nonce, 0).split("-")[0].encode(),
        message=_line_template(url, common | message | question.params, hole),
        conversation=_opened(_line_template(url, common | conversation | question.params, hole)),
    )


def _takes_marks(model: str) -> bool:
    """Whether writes cost, and are told where to end: from gpt-5.6 on."""
    version = _VERSION.search(model)
    return version is not None and (int(version[1]), int(version[2] or 0)) >= (5, 6)


def _marked(text: str, kind: str) -> list[dict[str, Any]]:
    return [{"type": kind, "text": text, "prompt_cache_breakpoint": _EXPLICIT}]


def _cache_options(question: Question, model: str, cache: Ttl | None) -> dict[str, Any]:
    if not _takes_marks(model):
        return {}
    options: dict[str, Any] = {"prompt_cache_options": _EXPLICIT}  # without a mark: nothing is written, and nothing paid for it
    if cache is not None:
        digest = hashlib.sha256(one_line([question.system, question.output])).hexdigest()
        options |= {"prompt_cache_key": f"keld-{digest[:24]}"}
    return options


def _line_template(url: str, body: dict[str, Any], hole: Hole) -> Template:
    made = template({"method": "POST", "url": url, "body": body}, hole)
    return Template(made.head[1:], made.tail + b"\n")  # its opening brace is written with the custom_id


def _opened(made: Template) -> Template:
    """The template of a conversation: inside `"messages":[...]` the fragment brings its own closing bracket; elsewhere both."""
    if made.tail.startswith(b"]"):
        return Template(made.head, made.tail[1:])
    return Template(made.head + b"[", made.tail)


def _dimensions(model: str, output: OutputSchema) -> dict[str, Any]:
    # base64 is what the SDK itself asks for: a third of the bytes of decimal text.  ada-002 knows no `dimensions`.
    sized = {} if model.endswith("ada-002") else {"dimensions": output.dimensions}
    return {"encoding_format": "base64"} | sized


def _chat_format(output: OutputSchema) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": schema_format(output)}} if output.kind == "object" else {}


def _responses_format(output: OutputSchema) -> dict[str, Any]:
    return {"text": {"format": {"type": "json_schema"} | schema_format(output)}} if output.kind == "object" else {}


# -- the wire: one request at once ----------------------------------------------------------------------------


def _settled(custom_id: str, status: int, body: bytes) -> bytes:
    return b'{"custom_id":"%b","response":{"status_code":%d,"body":%b},"error":null}\n' % (custom_id.encode(), status, body)


def _doubtful(custom_id: str, why: str) -> bytes:
    return msgspec.json.encode({"custom_id": custom_id, "response": None, "error": {"code": IN_DOUBT, "message": why}}) + b"\n"


def _quotas(headers: httpx2.Headers) -> dict[str, Quota]:
    return quotas(headers, lambda kind, what: f"x-ratelimit-{what}-{kind}")


_WIRE = Wire(settled=_settled, doubtful=_doubtful, quotas=_quotas)


# -- the wire: objects and result lines -----------------------------------------------------------------------


_Id = str | int | None  # some hosts number what they make


class _File(msgspec.Struct, gc=False):
    id: _Id
    bytes: int | None = None


class _Removal(msgspec.Struct, gc=False):
    deleted: bool = False


class _Batch(msgspec.Struct, gc=False):
    """As far as anybody keeps to it: hosts of this shape differ in all but the id and the status."""

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
    data: list[_Batch] | None  # without it this is an error with status 200, and no empty list
    has_more: bool | None = None


def _remote(batch: _Batch) -> RemoteBatch:
    total, completed, failed = (_count(batch.request_counts, name) for name in ("total", "completed", "failed"))
    return RemoteBatch(
        id=id_of(batch.id),
        state=_STATES.get((batch.status or "").lower(), BatchState.IN_PROGRESS),
        native=batch.status or "?",
        created_at=instant(batch.created_at),
        key=str(batch.metadata.get(_KEY) or "") or None if isinstance(batch.metadata, dict) else None,
        input_ref=id_of(batch.input_file_id) or None,
        requests=total,
        succeeded=completed,
        done=None if completed is None else completed + (failed or 0),
        errors=_batch_errors(batch.errors),
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


class _Error(msgspec.Struct, gc=False):
    code: str | int | None = None
    type: str | None = None
    message: str | None = None


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None


class _Part(msgspec.Struct, gc=False):
    type: str | None = None
    text: str | None = None
    refusal: str | None = None


class _Message(msgspec.Struct, gc=False):
    content: str | list[_Part] | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct, gc=False):
    message: _Message | None = None
    finish_reason: str | None = None


class _Item(msgspec.Struct, gc=False):
    type: str | None = None
    content: list[_Part] | None = None


class _Incomplete(msgspec.Struct, gc=False):
    reason: str | None = None


class _Vector(msgspec.Struct, gc=False):
    embedding: list[float] | str | None = None


class _Body(msgspec.Struct, gc=False):
    """Chat, responses, embeddings or an error: whatever came, by the fields that are there."""

    model: str | None = None
    usage: _Usage | None = None
    choices: list[_Choice] | None = None
    output: list[_Item] | None = None
    data: list[_Vector] | None = None
    status: str | None = None
    service_tier: str | None = None
    incomplete_details: _Incomplete | None = None
    error: _Error | str | None = None


class _Response(msgspec.Struct, gc=False):
    status_code: int | None = None
    body: _Body | None = None


class _Line(msgspec.Struct, gc=False):
    custom_id: str
    response: _Response | None = None
    error: _Error | str | None = None


def _reply(line: _Line) -> Reply:
    response = line.response
    if response is None or response.body is None:
        return _unanswered(line)
    body, status = response.body, response.status_code or 0
    usage = body.usage or _Usage()
    details = usage.prompt_tokens_details or usage.input_tokens_details or _Details()
    if status != 200:
        return Reply(
            custom_id=line.custom_id,
            outcome=Outcome.ERRORED,
            error=_said(status, body.error or line.error),
            retryable=status in RETRYABLE_STATUS or status >= 500,
        )
    outcome, content, error = _content(body)
    return Reply(
        custom_id=line.custom_id,
        outcome=outcome,
        content=content,
        error=error,
        model=body.model,
        tier=body.service_tier,
        input_tokens=usage.prompt_tokens or usage.input_tokens or 0,
        cached_tokens=(details.cached_tokens or 0),
        cache_write_tokens=(details.cache_write_tokens or 0),
        output_tokens=usage.completion_tokens or usage.output_tokens or 0,
    )


def _unanswered(line: _Line) -> Reply:
    code = line.error.code if isinstance(line.error, _Error) else None
    match code:
        case "batch_expired":
            return Reply(custom_id=line.custom_id, outcome=Outcome.EXPIRED, error="the batch expired first", retryable=True)
        case "batch_cancelled":
            return Reply(custom_id=line.custom_id, outcome=Outcome.CANCELLED, error="the batch was cancelled first", retryable=True)
        case _ if code == IN_DOUBT and isinstance(line.error, _Error):
            return Reply(custom_id=line.custom_id, outcome=Outcome.LOST, error=line.error.message, retryable=True)
        case None if line.error is None:
            return Reply(custom_id=line.custom_id, outcome=Outcome.LOST, error="a result line without a response", retryable=True)
        case _:
            return Reply(custom_id=line.custom_id, outcome=Outcome.ERRORED, error=_said(0, line.error), retryable=True)


def _content(body: _Body) -> tuple[Outcome, Any, str | None]:
    if body.data is not None:
        vector = body.data[0].embedding if body.data else None
        return (Outcome.ANSWERED, vector, None) if vector else (Outcome.INVALID, None, "an answer without an embedding")
    if body.choices is not None:
        choice = body.choices[0] if body.choices else _Choice()
        message = choice.message or _Message()
        text = message.content if not isinstance(message.content, list) else "".join(part.text or "" for part in message.content)
        return _judged(text, message.refusal, choice.finish_reason)
    parts = [part for item in body.output or () if item.type in (None, "message") for part in item.content or ()]
    text = "".join(part.text or "" for part in parts) or None
    refusal = next((part.refusal for part in parts if part.refusal), None)
    reason = body.incomplete_details.reason if body.incomplete_details else None
    return _judged(text, refusal, {"max_output_tokens": "length"}.get(reason or "", reason))


def _judged(text: str | None, refusal: str | None, finish: str | None) -> tuple[Outcome, Any, str | None]:
    if refusal:
        return Outcome.REFUSED, None, "the model refused"
    if finish == "content_filter":
        return Outcome.REFUSED, None, "stopped by the content filter"
    if finish == "length":
        return Outcome.INVALID, None, "cut off at max_output_tokens"
    return (Outcome.ANSWERED, text, None) if text is not None else (Outcome.INVALID, None, "an answer without content")


def _said(status: int, error: _Error | str | None) -> str:
    if isinstance(error, _Error):
        return f"HTTP {status or '?'} {error.code or error.type or ''}: {scrubbed(error.message or '')}"
    return f"HTTP {status or '?'}: {scrubbed(error or 'no reason given')}"
