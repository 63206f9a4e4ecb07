"""Anthropic answer: one Messages body -> one message."""

from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from typing import Literal, NamedTuple

import msgspec

from .answer import ABSENT, Answerer, Ask, Usage, present, size_of, tokens_of
from .anthropic_schema import refusal
from .bill import BillEntry, Lane
from .cache import Piece, PromptCache
from .clock import instant
from .error import ApiError
from .fault import RowFate, twist_of

_MESSAGE_TOKENS = 4
# https://platform.claude.com/docs/en/build-with-claude/prompt-caching, 2026; a shorter prefix is not kept, and nothing says so.  Else 1,024.
_MOST_MARKS = 4
_LEAST_CACHED = {
    "opus-5": 512, "haiku-4-5": 4096, "opus-4-5": 4096, "opus-4-6": 4096, "opus-4-7": 2048, "3-5-haiku": 2048, "3-haiku": 2048,
}  # fmt: skip


class CacheControl(msgspec.Struct, gc=False):
    type: Literal["ephemeral"] = "ephemeral"
    ttl: Literal["5m", "1h"] = "5m"


class Block(msgspec.Struct, gc=False):
    text: str = ""
    cache_control: CacheControl | None = None


class Message(msgspec.Struct, gc=False):
    role: str
    content: str | list[Block]


class Format(msgspec.Struct, gc=False):
    type: str
    schema: msgspec.Raw = ABSENT


class OutputConfig(msgspec.Struct, gc=False):
    format: Format | None = None


class MessagesBody(msgspec.Struct, gc=False):
    model: str
    max_tokens: int
    messages: list[Message]
    system: str | list[Block] | None = None
    output_config: OutputConfig | None = None
    stream: bool | None = None
    temperature: float | None = None
    cache_control: CacheControl | None = None
    tools: msgspec.Raw = ABSENT


class CountBody(msgspec.Struct, gc=False):
    model: str
    messages: list[Message]
    system: str | list[Block] | None = None
    tools: msgspec.Raw = ABSENT
    output_config: OutputConfig | None = None


class Made(NamedTuple):
    """A 200."""

    body: str
    model: str
    lane: Lane
    usage: Usage
    digest: str


_messages = msgspec.json.Decoder(MessagesBody)
_count = msgspec.json.Decoder(CountBody)
_quoted = msgspec.json.Encoder().encode


def make(body: bytes, answerer: Answerer, cache: PromptCache, *, at: float, batch: bool, fate: RowFate | None = None) -> Made:
    """What the service answers to `body`.

    Raises:
        ApiError: it does not.
    """
    try:
        asked = _messages.decode(body)
    except msgspec.ValidationError as error:
        raise invalid(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(status=400, message="The request body is not valid JSON") from error
    _check(asked, fate)
    schema = schema_of(asked.output_config)
    unfit = None if schema is None else refusal(schema, asked.model)
    if unfit is not None:
        raise replace(unfit)  # kept and shared: each raise takes a traceback of its own
    digest = sha256(body)
    first = (present(asked.tools) or b"") + (schema or b"")
    whole = input_tokens(asked.system, asked.messages, len(first))
    usage = _cached_usage(asked, cache, whole, first, at, fate == "cache_miss")
    answer = answerer.answer(Ask(digest.digest(), body, whole, schema, asked.max_tokens), twist_of(fate))
    name, out = digest.hexdigest(), answer.output_tokens
    refused = answer.finish == "refusal"
    content = "[]" if refused else f'[{{"type":"text","text":{_quoted(answer.text).decode()}}}]'
    stop = "refusal" if refused else "max_tokens" if answer.finish == "length" else "end_turn"
    fresh = usage.input - usage.cached - usage.cache_write
    return Made(
        f'{{"id":"msg_{name[:24]}","type":"message","role":"assistant","model":{_quoted(asked.model).decode()},'
        f'"content":{content},"stop_reason":"{stop}","stop_sequence":null,"usage":{{"input_tokens":{fresh},'
        f'"cache_creation_input_tokens":{usage.cache_write},"cache_read_input_tokens":{usage.cached},"cache_creation":'
        f'{{"ephemeral_5m_input_tokens":{usage.cache_write - usage.cache_write_1h},'
        f'"ephemeral_1h_input_tokens":{usage.cache_write_1h}}},"output_tokens":{out},'
        f'"service_tier":"{"batch" if batch else "standard"}","inference_geo":"global"}}}}',
        asked.model,
        "batch" if batch else "standard",
        Usage(whole, out, usage.cached, usage.cache_write, usage.cache_write_1h),
        name,
    )


def count_tokens(body: bytes) -> int:
    """Input tokens of a count_tokens body.

    Raises:
        ApiError: it cannot be read.
    """
    try:
        asked = _count.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise invalid(str(error)) from error
    schema = schema_of(asked.output_config)
    return input_tokens(asked.system, asked.messages, len(schema or b"") + len(present(asked.tools) or b""))


def entry(made: Made, *, batch_id: str | None, custom_id: str | None, at: float) -> BillEntry:
    """What `made` puts on the bill; input excludes what came from or went to the cache, as the usage says it."""
    usage = made.usage
    return BillEntry(
        provider="anthropic",
        batch_id=batch_id,
        custom_id=custom_id,
        model=made.model,
        lane=made.lane,
        input_tokens=usage.input - usage.cached - usage.cache_write,
        cached_tokens=usage.cached,
        cache_write_tokens=usage.cache_write,
        cache_write_1h_tokens=usage.cache_write_1h,
        output_tokens=usage.output,
        reasoning_tokens=usage.reasoning,
        body_sha256=made.digest,
        at=instant(at),
    )


def schema_of(config: OutputConfig | None) -> bytes | None:
    form = config.format if config else None
    return present(form.schema) if form else None


def input_tokens(system: str | list[Block] | None, messages: list[Message], extra_bytes: int) -> int:
    total = tokens_of(_text_bytes(system)) + tokens_of(extra_bytes)
    for message in messages:
        total += tokens_of(_text_bytes(message.content)) + _MESSAGE_TOKENS
    return total


def invalid(said: str) -> ApiError:
    """Msgspec's complaint in Anthropic's words."""
    path = said.rpartition("`$.")[2].rstrip("`") + "." if "`$." in said else ""
    if "missing required field `" in said:
        return ApiError(status=400, message=f"{path}{said.split('`')[1]}: Field required")
    return ApiError(status=400, message=f"{path.rstrip('.') or 'body'}: Input is invalid: {said.partition(' - ')[0]}")


def _check(asked: MessagesBody, fate: RowFate | None) -> None:
    if asked.stream:
        raise ApiError(status=400, message="stream: streaming is not supported here")
    if asked.max_tokens < 1:
        raise ApiError(status=400, message="max_tokens: Input should be greater than or equal to 1")
    if not asked.messages:
        raise ApiError(status=400, message="messages: at least one message is required")
    blocks = [
        block
        for content in (asked.system, *(message.content for message in asked.messages))
        if isinstance(content, list)
        for block in content
    ]
    marks = sum(block.cache_control is not None for block in blocks) + (asked.cache_control is not None)
    if marks > _MOST_MARKS:
        raise ApiError(status=400, message=f"A maximum of {_MOST_MARKS} blocks with cache_control may be provided. Found {marks}.")
    if fate == "model_not_found" or "does-not-exist" in asked.model:
        raise ApiError(status=404, message=f"model: {asked.model}")


def _cached_usage(asked: MessagesBody, cache: PromptCache, whole: int, first: bytes, at: float, miss: bool) -> Usage:
    """Usage before the answer: how much of the input comes from the cache, or goes there."""
    use = cache.marked(asked.model, list(_pieces(asked, first)), _least_cached(asked.model), at, miss=miss)
    return Usage(whole, 0, use.read, use.written, use.written_1h)


def _least_cached(model: str) -> int:
    return next((tokens for name, tokens in _LEAST_CACHED.items() if name in model), 1024)


def _pieces(asked: MessagesBody, first: bytes) -> Iterator[Piece]:
    """The prompt in the order in which it is cached: tools and schema, the system prompt, the messages."""
    yield Piece(first, tokens_of(len(first)))
    yield from _parts(asked.system, 0, None)
    last = len(asked.messages) - 1
    for n, message in enumerate(asked.messages):
        yield from _parts(message.content, _MESSAGE_TOKENS, asked.cache_control if n == last else None)


def _parts(content: str | list[Block] | None, more_tokens: int, behind: CacheControl | None) -> Iterator[Piece]:
    """Content block by block; their tokens add up to those of the whole."""
    blocks = content if isinstance(content, list) else [] if content is None else [Block(content)]
    size = tokens = 0
    for n, block in enumerate(blocks):
        size += size_of(block.text)
        control = block.cache_control or (behind if n == len(blocks) - 1 else None)
        yield Piece(
            block.text.encode("utf-8", "surrogatepass"),
            tokens_of(size) - tokens + (0 if n else more_tokens),
            None if control is None else control.ttl,
        )
        tokens = tokens_of(size)


def _text_bytes(content: str | list[Block] | None) -> int:
    if content is None:
        return 0
    return size_of(content) if isinstance(content, str) else sum(size_of(block.text) for block in content)
