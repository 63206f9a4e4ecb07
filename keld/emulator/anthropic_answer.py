"""Anthropic answer: one Messages body -> one message.

Prompt caching is kept here, because it is the one thing in which an answer depends on those before it: the first row
with a `cache_control` prefix writes it, later ones read it until its time to live is over on the emulator's clock.
"""

import threading
from hashlib import sha256
from typing import NamedTuple

import msgspec

from .answer import ABSENT, Answerer, Ask, Usage, present, size_of, tokens_of
from .bill import BillEntry, Lane
from .clock import instant
from .error import ApiError
from .fault import RowFate, twist_of

_MESSAGE_TOKENS = 4
_LEAST_CACHED_TOKENS = 1024  # https://platform.claude.com/docs/en/build-with-claude/prompt-caching, Nov 2026
_TTL_S = {"5m": 300.0, "1h": 3600.0}


class CacheControl(msgspec.Struct, gc=False):
    type: str = "ephemeral"
    ttl: str = "5m"


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


class PromptCache:
    """Which prefixes are warm, and until when."""

    def __init__(self) -> None:
        self._warm_until: dict[tuple[str, bytes], float] = {}
        self._lock = threading.Lock()

    def read(self, model: str, prefix: bytes, ttl: str, at: float) -> bool:
        """Whether the prefix was warm at `at`; it is, afterwards."""
        key = (model, sha256(prefix).digest())
        with self._lock:
            warm = self._warm_until.get(key, 0.0) >= at
            self._warm_until[key] = max(at + _TTL_S.get(ttl, 300.0), self._warm_until.get(key, 0.0))
        return warm


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
    digest = sha256(body)
    whole = input_tokens(asked.system, asked.messages, len(schema or b"") + len(present(asked.tools) or b""))
    usage = _cached_usage(asked, cache, whole, at)
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
    if fate == "model_not_found" or "does-not-exist" in asked.model:
        raise ApiError(status=404, message=f"model: {asked.model}")


def _cached_usage(asked: MessagesBody, cache: PromptCache, whole: int, at: float) -> Usage:
    """Usage before the answer: how much of the input the system prompt's cached prefix is."""
    if not isinstance(asked.system, list):
        return Usage(whole, 0)
    marked = [number for number, block in enumerate(asked.system) if block.cache_control is not None]
    if not marked:
        return Usage(whole, 0)
    control = asked.system[marked[-1]].cache_control or CacheControl()
    prefix = "\x00".join(block.text for block in asked.system[: marked[-1] + 1]).encode("utf-8", "surrogatepass")
    tokens = tokens_of(len(prefix) - marked[-1])
    if tokens < _LEAST_CACHED_TOKENS:
        return Usage(whole, 0)
    if cache.read(asked.model, prefix, control.ttl, at):
        return Usage(whole, 0, cached=tokens)
    return Usage(whole, 0, cache_write=tokens, cache_write_1h=tokens if control.ttl == "1h" else 0)


def _text_bytes(content: str | list[Block] | None) -> int:
    if content is None:
        return 0
    return size_of(content) if isinstance(content, str) else sum(size_of(block.text) for block in content)
