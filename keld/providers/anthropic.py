"""Anthropic: message batches, the whole input in the create.

One of the providers behind `base`.  A batch carries no mark of ours before it has ended, so an unknown create is looked for by its
time and its number of requests, and proven by the nonce in its custom_ids.  Wire: docs/notes/providers.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import anthropic as sdk
import httpx2
import msgspec

from keld import http
from keld.answer import Outcome, Reply
from keld.cache import Caching, Ttl
from keld.errors import InvalidJob, ProviderUnreachable
from keld.price import Lane
from keld.providers.anthropic_schema import obstacle, schema_format
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
from keld.providers.fault import create_outcome, plain_faults, scrubbed
from keld.providers.line import beginning, lines_of, unbroken
from keld.providers.page import Listing, has_id, id_of, instant, youngest
from keld.providers.template import Hole, Template, template
from keld.request import Question
from keld.schema import OutputSchema
from keld.shard import Limits

_PATH = "/v1/messages/batches"
_OPENING, _CLOSING = b'{"requests":[', b"]}"
# platform.claude.com/docs/en/build-with-claude/batch-processing, 20 Nov 2026: 100,000 requests or 256 MB, whichever is first.
_HOST = "https://api.anthropic.com"
_CAPABILITIES = Capabilities(
    limits=Limits(max_requests=100_000, max_bytes=256_000_000 - len(_OPENING) - len(_CLOSING), max_line_bytes=10_000_000),
    list_page=1_000,
    marks_batches=False,
    fences=False,
    window=timedelta(hours=24),
    lanes=frozenset({Lane.BATCH, Lane.STANDARD}),
)
# platform.claude.com/docs/en/build-with-claude/prompt-caching, as others read it between May and Oct 2026: 512 tokens from the fifth Opus on,
# 4,096 of Haiku 4.5 and Opus 4.5 and 4.6, 2,048 of Opus 4.7 and the Haikus before; 1,024 of all others, and of those nobody has seen yet.
_LEAST_CACHED = (
    (re.compile(r"(opus|fable|mythos)-5"), 512),
    (re.compile(r"haiku-4|opus-4-[56]"), 4_096),
    (re.compile(r"opus-4-7|haiku"), 2_048),
)
_TTL = {Lane.BATCH: Ttl.HOUR, Lane.STANDARD: Ttl.MINUTES}
_RETRYABLE = frozenset({"api_error", "overloaded_error", "rate_limit_error", "timeout_error"})
_GLANCE = 20  # batches of a list, to see the youngest
_T = TypeVar("_T")


class Anthropic:
    """One account at Anthropic, or at a host of its shape."""

    def __init__(self, name: str, account: Account, patience: http.Patience) -> None:
        self.name = name
        self.capabilities = _CAPABILITIES
        self._base_url = url_of(account, "ANTHROPIC_BASE_URL")
        self.host = origin(self._base_url or _HOST)
        self._account, self._patience = account, patience

    def ready(self) -> None:
        key_of(self.name, self._account, "ANTHROPIC_API_KEY")

    @cached_property
    def _client(self) -> sdk.Anthropic:
        hush_headers()
        return sdk.Anthropic(
            api_key=key_of(self.name, self._account, "ANTHROPIC_API_KEY"),
            base_url=self._base_url,
            http_client=http.client(self._patience),
            # The SDK would send an unanswered create again, and both would be paid; harmless calls are tried again by `http`.
            max_retries=0,
        )

    # -- asking -----------------------------------------------------------------------------------------------

    def fit(self, question: Question, model: str) -> Fit:
        return Fit(obstacle=obstacle(OutputSchema.from_json(question.output), model))

    def caching(self, model: str) -> Caching:
        least = next((tokens for pattern, tokens in _LEAST_CACHED if pattern.search(model)), 1_024)
        return Caching(least_tokens=least, by_itself=False, ttl=_TTL)

    def encoder(self, question: Question, model: str, nonce: str, cache: Ttl | None = None) -> LineEncoder:
        return _encoder(question, model, nonce, cache)

    def upload(self, path: Path, key: str) -> str | None:
        return None

    def create(self, submission: Submission) -> CreateOutcome:
        size = submission.path.stat().st_size
        try:
            with http.sending(self._patience), submission.path.open("rb") as file:
                headers = {"content-type": "application/json", "content-length": str(size)}
                reply = self._client.post(_PATH, cast_to=httpx2.Response, content=file, options={"headers": headers})
            batch = msgspec.json.decode(reply.content, type=_Batch)
            return Created(_remote(batch)) if has_id(batch) else OutcomeUnknown("a reply without a batch id")
        except (sdk.APIError, sdk.AnthropicError) as error:
            return create_outcome(error, carried_prompts=True)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return OutcomeUnknown("an unreadable reply")

    def sender(self, path: str, timeout_s: float, most: int) -> AbstractAsyncContextManager[Sender]:
        key = key_of(self.name, self._account, "ANTHROPIC_API_KEY")

        def client(transport: httpx2.AsyncClient) -> sdk.AsyncAnthropic:
            # Without retries: the SDK would send an unanswered request again, and both would be paid.
            return sdk.AsyncAnthropic(api_key=key, base_url=self._base_url, http_client=transport, max_retries=0)

        return senders(client, path, timeout_s, most, _WIRE, sdk)

    def doubtful(self, custom_id: str, why: str) -> bytes:
        return _doubtful(custom_id, why)

    # -- looking ----------------------------------------------------------------------------------------------

    def get(self, batch_id: str) -> RemoteBatch | None:
        batch = self._batch(batch_id)
        return None if batch is None else _remote(batch)

    def newest(self) -> str | None:
        with self._plain("the list of batches"):
            raw = self._client.messages.batches.with_raw_response.list(limit=_GLANCE)
            page = self._read(raw.http_response, _Page)
            return youngest([_remote(batch) for batch in page.data or ()])

    def batches(self, created_after: datetime, *, until: str | None = None, whole: bool = False, behind: str | None = None) -> Listing:
        def page_after(after: str | None) -> tuple[list[RemoteBatch], bool | None]:
            with self._plain("the list of batches"):
                raw = self._client.messages.batches.with_raw_response.list(limit=_CAPABILITIES.list_page, after_id=after or sdk.omit)
                page = self._read(raw.http_response, _Page)
            return [_remote(batch) for batch in page.data or ()], page.has_more

        # "Most recently created batches are returned first": platform.claude.com/docs/en/api/listing-message-batches, 20 Nov 2026.
        return Listing(page_after, created_after, until=until, newest_first=self.host == origin(_HOST), whole=whole, behind=behind)

    # -- ending -----------------------------------------------------------------------------------------------

    def cancel(self, batch_id: str) -> None:
        with self._plain("the cancel of a batch"):
            try:
                raw = self._client.messages.batches.with_raw_response.cancel(batch_id)
            except (sdk.BadRequestError, sdk.ConflictError, sdk.NotFoundError):
                return  # ended already; the next look tells how
            self._read(raw.http_response, _Batch)  # a proxy's own page with status 200 is no cancel

    def sample(self, batch: RemoteBatch) -> list[str]:
        with unbroken(self.name, self.host, batch.id), self._results(batch, {"Accept-Encoding": "identity"}) as stream:
            begun = beginning(stream.iter_bytes())
        ids = [line.custom_id for line in lines_of(begun, _Line)]
        told = begun.strip()
        if told and not ids and (told.startswith((b"<", b"{\n", b"{\r")) or (b"\n" not in told and batch.requests != 1)):
            # One document instead of lines: an error with status 200 must not say of a batch of ours that it is another's.
            raise ProviderUnreachable(
                f"{self.name} at {self.host} gave results of {batch.id} without a row in them. They are read again later.",
                account=self.name,
            )
        return ids

    def download(self, batch: RemoteBatch, into: Callable[[int], Path], most_bytes: int, *, anew: bool = False) -> list[Path]:
        def open_stream(headers: dict[str, str]) -> AbstractContextManager[Any]:
            return self._results(batch, headers)

        def complete(part: Path) -> bool:
            return ends_whole(part) and (batch.requests is None or _lines(part) + 1 >= batch.requests)  # the last one may have no newline

        def proven(part: Path) -> bool:
            return batch.requests is not None and _lines(part) >= batch.requests

        return [download(open_stream, into(0), complete, proven, most_bytes, f"the results of {batch.id}", anew=anew)]

    def read(self, block: bytes) -> list[Reply]:
        return [_reply(line) for line in lines_of(block, _Line)]

    def delete_input(self, input_ref: str) -> None:
        return  # the input went with the create

    def close(self) -> None:
        if "_client" in self.__dict__:
            self._client.close()

    def _batch(self, batch_id: str) -> _Batch | None:
        with self._plain("the look at a batch"):
            try:
                raw = self._client.messages.batches.with_raw_response.retrieve(batch_id)
            except sdk.NotFoundError:
                return None
            return self._read(raw.http_response, _Batch)

    @contextmanager
    def _results(self, batch: RemoteBatch, headers: dict[str, str]) -> Iterator[Any]:
        with self._plain("the download of results", http.fetching):
            # What the SDK's own `results()` does, but never to another host than the configured one.
            options: Any = {"headers": headers | {"X-Stainless-Raw-Response": "stream"}}
            stream: Any = self._client.get(self._results_path(batch), cast_to=httpx2.Response, options=options)
            try:
                yield stream
            finally:
                stream.close()

    def _results_path(self, batch: RemoteBatch) -> str:
        """Where the results are, on the configured host only.

        A `results_url` that names another host (a gateway that hands on the provider's own, or a hostile answer) is not followed,
        since the key would go there: the documented path on our host is asked instead.
        """
        url = batch.result_refs[0] if batch.result_refs else ""
        ours = bool(url) and origin(url) == self.host and bool(urlsplit(url).path)
        return url if ours else f"{_PATH}/{quote(batch.id, safe='')}/results"

    @contextmanager
    def _plain(self, doing: str, bounds: Callable[[http.Patience], AbstractContextManager[None]] = http.asking) -> Iterator[None]:
        with plain_faults(self.name, self.host, doing, sdk), bounds(self._patience):
            yield

    def _read(self, response: Any, kind: type[_T]) -> _T:
        with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            found = msgspec.json.decode(response.content, type=kind)
            if has_id(found):
                return found
        raise sdk.APIConnectionError(message="unreadable reply", request=response.request) from None


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))


# -- the wire: requests ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LineEncoder:
    """Elements of the create's `requests` array."""

    nonce: bytes
    message: Template
    shared: list[dict[str, Any]]  # the system prompt of all rows, as blocks
    conversation: Template
    lifted: Template  # as `conversation`, with a second hole's worth of system before the messages
    overhead: int

    @property
    def path(self) -> str:
        return "/v1/messages"

    @property
    def overhead_bytes(self) -> int:
        return self.overhead

    def line(self, position: int, fragment: bytes) -> bytes:
        head = b'{"custom_id":"%b-%08d",' % (self.nonce, position)
        if not fragment.startswith(b"["):
            return b"".join((head, self.message.head, fragment, self.message.tail))
        if b'"system"' not in fragment:
            return head + self.conversation.fill(fragment)
        system, messages = _lift_system(fragment, self.shared)
        return head + self.lifted.fill(msgspec.json.encode(messages) + b',"system":' + msgspec.json.encode(system))

    def body(self, fragment: bytes, lane: Lane) -> bytes:
        if lane is Lane.FLEX:
            raise InvalidJob("anthropic sells no flex lane. Nothing was sent. Ask in a batch or in the standard lane.")
        # The very bytes of the line, without its envelope.
        line = self.line(0, fragment)
        return line[line.index(b'"params":') + 9 : -1]

    def file(self, lines: Iterator[bytes]) -> Iterator[bytes]:
        yield _OPENING
        between = b""
        for line in lines:
            yield between + line
            between = b",\n"
        yield _CLOSING


def _encoder(question: Question, model: str, nonce: str, cache: Ttl | None) -> LineEncoder:
    output = OutputSchema.from_json(question.output)
    if output.kind == "embedding":
        raise InvalidJob("anthropic makes no embeddings. Name an embedding model, e.g. models=['openai:text-embedding-3-small'].")
    hole = Hole.new()
    bare: dict[str, Any] = {"model": model, "max_tokens": question.max_output_tokens} | schema_format(output) | question.params
    shared: list[dict[str, Any]] = [{"type": "text", "text": question.system}] if question.system is not None else []
    if shared and cache is not None:
        shared[0]["cache_control"] = {"type": "ephemeral", "ttl": cache.value}
    system: dict[str, Any] = {"system": _plain_where_it_can_be(shared)} if shared else {}
    message = _params(bare | system | {"messages": [{"role": "user", "content": hole.mark}]}, hole)
    conversation = _params(bare | system | {"messages": hole.mark}, hole)
    return LineEncoder(
        nonce=nonce.encode(),
        message=message,
        shared=shared,
        conversation=conversation,
        lifted=_params(bare | {"messages": hole.mark}, hole),
        overhead=max(message.size_bytes, conversation.size_bytes) + 64,
    )


def _params(params: dict[str, Any], hole: Hole) -> Template:
    made = template({"params": params}, hole)
    return Template(made.head[1:], made.tail)  # its opening brace is written with the custom_id


def _lift_system(fragment: bytes, shared: list[dict[str, Any]]) -> tuple[str | list[dict[str, Any]], list[dict[str, Any]]]:
    """The Messages API takes `system` beside the messages, not as one of them."""
    messages = msgspec.json.decode(fragment)
    own = [block for message in messages if message.get("role") == "system" for block in _blocks(message.get("content", ""))]
    return _plain_where_it_can_be([*shared, *own]), [message for message in messages if message.get("role") != "system"]


def _blocks(content: Any) -> list[dict[str, Any]]:
    """The texts of a message's content: one, unless some are marked by the user."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    parts = [part for part in content if isinstance(part, dict)]
    if any(part.get("cache_control") for part in parts):
        return parts
    return [{"type": "text", "text": "\n".join(part.get("text", "") for part in parts)}]


def _plain_where_it_can_be(blocks: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """One text, unless one of the blocks is marked."""
    return blocks if any(block.get("cache_control") for block in blocks) else "\n\n".join(block["text"] for block in blocks)


# -- the wire: one request at once ----------------------------------------------------------------------------


def _settled(custom_id: str, status: int, body: bytes) -> bytes:
    kind, name = (b"succeeded", b"message") if status == 200 else (b"errored", b"error")
    return b'{"custom_id":"%b","result":{"type":"%b","%b":%b}}\n' % (custom_id.encode(), kind, name, body)


def _doubtful(custom_id: str, why: str) -> bytes:
    error = {"type": "error", "error": {"type": IN_DOUBT, "message": why}}
    return msgspec.json.encode({"custom_id": custom_id, "result": {"type": "errored", "error": error}}) + b"\n"


def _quotas(headers: httpx2.Headers) -> dict[str, Quota]:
    return quotas(headers, lambda kind, what: f"anthropic-ratelimit-{kind}-{what}")


_WIRE = Wire(settled=_settled, doubtful=_doubtful, quotas=_quotas)


# -- the wire: objects and result lines -----------------------------------------------------------------------


class _Counts(msgspec.Struct, gc=False):
    processing: int | None = None
    succeeded: int | None = None
    errored: int | None = None
    canceled: int | None = None
    expired: int | None = None


class _Batch(msgspec.Struct, gc=False):
    id: str | int | None = None  # some hosts number what they make
    processing_status: str | None = None
    created_at: Any = None
    cancel_initiated_at: str | None = None
    request_counts: _Counts | None = None
    results_url: str | None = None


class _Page(msgspec.Struct, gc=False):
    data: list[_Batch] | None  # without it this is an error with status 200, and no empty list
    has_more: bool | None = None


def _remote(batch: _Batch) -> RemoteBatch:
    counts = batch.request_counts or _Counts()
    ended = (counts.succeeded or 0) + (counts.errored or 0) + (counts.canceled or 0) + (counts.expired or 0)
    total = ended + (counts.processing or 0)
    return RemoteBatch(
        id=id_of(batch.id),
        state=_state(batch, counts),
        native=batch.processing_status or "?",
        created_at=instant(batch.created_at),
        requests=total or None,
        succeeded=counts.succeeded,
        done=ended if batch.processing_status == "ended" else None,  # zeros until the very end: no progress
        result_refs=(batch.results_url,) if batch.results_url else (),
    )


def _state(batch: _Batch, counts: _Counts) -> BatchState:
    match batch.processing_status:
        case "ended" if batch.cancel_initiated_at:
            return BatchState.CANCELLED
        case "ended" if counts.expired:
            return BatchState.EXPIRED
        case "ended":
            return BatchState.COMPLETED
        case "canceling":
            return BatchState.CANCELLING
        case _:
            return BatchState.IN_PROGRESS


class _Error(msgspec.Struct, gc=False):
    type: str | None = None
    message: str | None = None
    error: _Inner | None = None


class _Inner(msgspec.Struct, gc=False):
    type: str | None = None
    message: str | None = None


class _CacheCreation(msgspec.Struct, gc=False):
    ephemeral_1h_input_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation: _CacheCreation | None = None
    output_tokens: int | None = None
    service_tier: str | None = None


class _Block(msgspec.Struct, gc=False):
    type: str | None = None
    text: str | None = None


class _Message(msgspec.Struct, gc=False):
    model: str | None = None
    content: list[_Block] | None = None
    stop_reason: str | None = None
    usage: _Usage | None = None


class _Result(msgspec.Struct, gc=False):
    type: str | None = None
    message: _Message | None = None
    error: _Error | None = None


class _Line(msgspec.Struct, gc=False):
    custom_id: str
    result: _Result | None = None


def _reply(line: _Line) -> Reply:
    result = line.result or _Result()
    match result.type:
        case "succeeded" if result.message is not None:
            return _succeeded(line.custom_id, result.message)
        case "errored":
            return _errored(line.custom_id, result.error or _Error())
        case "expired":
            return Reply(custom_id=line.custom_id, outcome=Outcome.EXPIRED, error="the batch expired first", retryable=True)
        case "canceled":
            return Reply(custom_id=line.custom_id, outcome=Outcome.CANCELLED, error="the batch was cancelled first", retryable=True)
        case _:
            return Reply(custom_id=line.custom_id, outcome=Outcome.LOST, error="a result line without a result", retryable=True)


def _succeeded(custom_id: str, message: _Message) -> Reply:
    usage = message.usage or _Usage()
    read, written = (usage.cache_read_input_tokens or 0), (usage.cache_creation_input_tokens or 0)
    outcome, content, error = _content(message)
    return Reply(
        custom_id=custom_id,
        outcome=outcome,
        content=content,
        error=error,
        model=message.model,
        tier=usage.service_tier,
        # Here `input_tokens` leaves out what was cached; `Usage` counts it in, as every price list does.
        input_tokens=(usage.input_tokens or 0) + read + written,
        cached_tokens=read,
        cache_write_tokens=written,
        cache_write_1h_tokens=min(written, (usage.cache_creation.ephemeral_1h_input_tokens or 0) if usage.cache_creation else 0),
        output_tokens=(usage.output_tokens or 0),
    )


def _content(message: _Message) -> tuple[Outcome, Any, str | None]:
    match message.stop_reason:
        case "refusal":
            return Outcome.REFUSED, None, "the model refused"
        case "max_tokens":
            return Outcome.INVALID, None, "cut off at max_output_tokens"
        case "pause_turn" | "tool_use":
            return Outcome.INVALID, None, f"stopped for {message.stop_reason}"
    texts = [block.text for block in message.content or () if block.type in (None, "text") and block.text is not None]
    return (Outcome.ANSWERED, "".join(texts), None) if texts else (Outcome.INVALID, None, "an answer without content")


def _errored(custom_id: str, error: _Error) -> Reply:
    # {"type":"error","error":{"type":...}}: the provider's own nesting; gateways leave the outer one out.
    kind = error.error.type if error.error else error.type
    message = error.error.message if error.error else error.message
    if kind == IN_DOUBT:
        return Reply(custom_id=custom_id, outcome=Outcome.LOST, error=message, retryable=True)
    return Reply(
        custom_id=custom_id, outcome=Outcome.ERRORED, error=f"{kind or 'error'}: {scrubbed(message or '')}", retryable=kind in _RETRYABLE
    )
