"""OpenAI answer: one request body -> one response body, for chat completions, responses and embeddings.

Batch rows and realtime calls come through here alike.  The bodies are filled-in templates rather than encoded objects:
of the few microseconds a row may cost, the text of the answer should take most.
"""

import base64
import math
import re
from array import array
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256, shake_128
from typing import Literal, NamedTuple, get_args

import msgspec

from .answer import ABSENT, Answer, Answerer, Ask, Usage, present, size_of, tokens_in, tokens_of
from .bill import BillEntry, Lane
from .cache import Piece, PromptCache, Use
from .clock import instant
from .error import ApiError
from .fault import RowFate, twist_of
from .openai_schema import refusal

Endpoint = Literal["/v1/chat/completions", "/v1/responses", "/v1/embeddings"]
ENDPOINTS: tuple[Endpoint, ...] = get_args(Endpoint)
_MESSAGE_TOKENS = 4
_DEFAULT_DIMENSIONS = 1536
_LEAST_CACHED_TOKENS = 1024
_VERSION = re.compile(r"\bgpt-(\d+)(?:\.(\d+))?")


class Breakpoint(msgspec.Struct, gc=False):
    mode: Literal["explicit"]


class CacheOptions(msgspec.Struct, gc=False):
    mode: Literal["implicit", "explicit"] = "implicit"
    ttl: Literal["30m"] = "30m"


class Part(msgspec.Struct, gc=False):
    text: str = ""
    prompt_cache_breakpoint: Breakpoint | None = None


class Message(msgspec.Struct, gc=False):
    role: str = "user"
    content: str | list[Part] | None = None


class JsonSchema(msgspec.Struct, gc=False):
    name: str
    schema: msgspec.Raw = ABSENT
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, gc=False):
    type: str
    json_schema: JsonSchema | None = None


class ChatBody(msgspec.Struct, gc=False):
    model: str
    messages: list[Message]
    response_format: ResponseFormat | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    service_tier: str | None = None
    prompt_cache_options: CacheOptions | None = None
    tools: msgspec.Raw = ABSENT


class TextFormat(msgspec.Struct, gc=False):
    type: str = "text"
    name: str = ""
    schema: msgspec.Raw = ABSENT
    strict: bool | None = None


class TextConfig(msgspec.Struct, gc=False):
    format: TextFormat | None = None


class ResponsesBody(msgspec.Struct, gc=False):
    model: str
    input: str | list[Message]
    instructions: str | None = None
    text: TextConfig | None = None
    max_output_tokens: int | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    service_tier: str | None = None
    prompt_cache_options: CacheOptions | None = None
    tools: msgspec.Raw = ABSENT


class EmbeddingsBody(msgspec.Struct, gc=False):
    model: str
    input: str | list[str | int | list[int]]
    dimensions: int | None = None
    encoding_format: str | None = None


class Made(NamedTuple):
    """A 200."""

    body: str
    model: str
    lane: Lane
    usage: Usage
    digest: str


_chat = msgspec.json.Decoder(ChatBody)
_responses = msgspec.json.Decoder(ResponsesBody)
_embeddings = msgspec.json.Decoder(EmbeddingsBody)
_quoted = msgspec.json.Encoder().encode


def make(
    endpoint: str, body: bytes, answerer: Answerer, cache: PromptCache, *, at: float, batch: bool, fate: RowFate | None = None
) -> Made:
    """What the service answers to `body`.

    Raises:
        ApiError: it does not.
    """
    try:
        match endpoint:
            case "/v1/chat/completions":
                return _make_chat(_chat.decode(body), body, answerer, cache, at, batch, fate)
            case "/v1/responses":
                return _make_response(_responses.decode(body), body, answerer, cache, at, batch, fate)
            case _:
                return _make_embeddings(_embeddings.decode(body), body, batch, fate)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = "We could not parse the JSON body of your request."
        raise ApiError(status=400, message=message) from error


def entry(made: Made, *, batch_id: str | None, custom_id: str | None, at: float) -> BillEntry:
    """What `made` puts on the bill."""
    return BillEntry(
        provider="openai",
        batch_id=batch_id,
        custom_id=custom_id,
        model=made.model,
        lane=made.lane,
        input_tokens=made.usage.input,
        cached_tokens=made.usage.cached,
        cache_write_tokens=made.usage.cache_write,
        cache_write_1h_tokens=0,
        output_tokens=made.usage.output,
        reasoning_tokens=made.usage.reasoning,
        body_sha256=made.digest,
        at=instant(at),
    )


def model_not_found(model: str) -> ApiError:
    message = f"The model `{model}` does not exist or you do not have access to it."
    return ApiError(status=404, message=message, code="model_not_found")


def _make_chat(asked: ChatBody, body: bytes, answerer: Answerer, cache: PromptCache, at: float, batch: bool, fate: RowFate | None) -> Made:
    lane = _checked_lane(asked.model, asked.stream, asked.service_tier, batch, fate)
    if not asked.messages:
        raise ApiError(status=400, message="Invalid 'messages': empty array.", param="messages", code="empty_array")
    wanted = asked.response_format.json_schema if asked.response_format else None
    schema = present(wanted.schema) if wanted else None
    if wanted is not None and schema is not None:
        _check_schema(schema, wanted.name, wanted.strict, responses=False)
    if schema is None and asked.response_format and asked.response_format.type == "json_object":
        schema = b'{"type":"object","properties":{"answer":{"type":"string"}}}'
    digest = sha256(body)
    first = (present(asked.tools) or b"") + (schema or b"")
    input_tokens = _messages_tokens(asked.messages) + tokens_of(len(first))
    use = _cached(asked, asked.messages, first, input_tokens, cache, at, fate)
    most = asked.max_completion_tokens if asked.max_completion_tokens is not None else asked.max_tokens
    ask = Ask(digest.digest(), body, input_tokens, schema, most)
    answer = answerer.answer(ask, twist_of(fate))
    name, text = digest.hexdigest(), _quoted(answer.text).decode()
    content, refusal = ("null", text) if answer.finish == "refusal" else (text, "null")
    out = answer.output_tokens
    return Made(
        f'{{"id":"chatcmpl-{name[:24]}","object":"chat.completion","created":{int(at)},"model":{_name(asked.model)},'
        f'"choices":[{{"index":0,"message":{{"role":"assistant","content":{content},"refusal":{refusal},'
        f'"annotations":[]}},"logprobs":null,"finish_reason":"{"length" if answer.finish == "length" else "stop"}"}}],'
        f'"usage":{{"prompt_tokens":{input_tokens},"completion_tokens":{out},"total_tokens":{input_tokens + out},'
        f'"prompt_tokens_details":{{"cached_tokens":{use.read},"cache_write_tokens":{use.written},"audio_tokens":0}},'
        '"completion_tokens_details":{'
        '"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}},'
        f'"service_tier":"{"flex" if lane == "flex" else "default"}","system_fingerprint":"fp_keld"}}',
        asked.model,
        lane,
        Usage(input_tokens, out, use.read, use.written),
        name,
    )


def _make_response(
    asked: ResponsesBody, body: bytes, answerer: Answerer, cache: PromptCache, at: float, batch: bool, fate: RowFate | None
) -> Made:
    lane = _checked_lane(asked.model, asked.stream, asked.service_tier, batch, fate)
    form = asked.text.format if asked.text else None
    schema = present(form.schema) if form else None
    if form is not None and schema is not None:
        _check_schema(schema, form.name, form.strict, responses=True)
    digest = sha256(body)
    messages = [Message(content=asked.input)] if isinstance(asked.input, str) else asked.input
    first = (present(asked.tools) or b"") + (schema or b"")
    input_tokens = _messages_tokens(messages) + tokens_in(asked.instructions or "") + tokens_of(len(first))
    first += (asked.instructions or "").encode("utf-8", "surrogatepass")
    use = _cached(asked, messages, first, input_tokens, cache, at, fate)
    ask = Ask(digest.digest(), body, input_tokens, schema, asked.max_output_tokens)
    answer = answerer.answer(ask, twist_of(fate))
    name, out = digest.hexdigest(), answer.output_tokens
    status = "incomplete" if answer.finish == "length" else "completed"
    details = '{"reason":"max_output_tokens"}' if answer.finish == "length" else "null"
    return Made(
        f'{{"id":"resp_{name[:48]}","object":"response","created_at":{int(at)},"status":"{status}","error":null,'
        f'"incomplete_details":{details},"instructions":null,"metadata":{{}},"model":{_name(asked.model)},"output":['
        f'{{"id":"msg_{name[:48]}","type":"message","status":"{status}","role":"assistant","content":['
        f'{_response_part(answer)}]}}],"parallel_tool_calls":true,"temperature":1.0,"tool_choice":"auto","tools":[],'
        f'"top_p":1.0,"max_output_tokens":{"null" if asked.max_output_tokens is None else asked.max_output_tokens},'
        f'"service_tier":"{"flex" if lane == "flex" else "default"}","usage":{{"input_tokens":{input_tokens},'
        f'"input_tokens_details":{{"cached_tokens":{use.read},"cache_write_tokens":{use.written}}},"output_tokens":{out},'
        f'"output_tokens_details":{{"reasoning_tokens":0}},"total_tokens":{input_tokens + out}}}}}',
        asked.model,
        lane,
        Usage(input_tokens, out, use.read, use.written),
        name,
    )


def _check_schema(schema: bytes, name: str, strict: bool | None, *, responses: bool) -> None:
    refused = refusal(schema, name, bool(strict), responses)
    if refused is not None:
        raise replace(refused)  # kept and shared: each raise takes a traceback of its own


def _cached(
    asked: ChatBody | ResponsesBody, messages: list[Message], first: bytes, whole: int, cache: PromptCache, at: float, fate: RowFate | None
) -> Use:
    """What of a prompt comes from the cache, and goes there.  From gpt-5.6 on only what ends at a breakpoint, and a write is billed."""
    if whole < _LEAST_CACHED_TOKENS:
        return Use()
    version = _VERSION.search(asked.model)
    miss = fate == "cache_miss"
    if version is None or (int(version[1]), int(version[2] or 0)) < (5, 6):
        prompt = b"".join([first, *(piece.content for piece in _pieces(messages))])
        return cache.unmarked(asked.model, prompt, at, miss=miss)
    # Where the schema, the tools and the instructions stand, no mark can; they are before the messages.
    pieces = [Piece(first, tokens_of(len(first))), *_pieces(messages)]
    if (asked.prompt_cache_options or CacheOptions()).mode == "implicit":
        pieces[-1] = pieces[-1]._replace(ttl="30m")
    return cache.marked(asked.model, pieces, _LEAST_CACHED_TOKENS, at, miss=miss)


def _pieces(messages: list[Message]) -> Iterator[Piece]:
    for message in messages:
        content = message.content
        parts = [Part(content)] if isinstance(content, str) else content or []
        size = tokens = 0
        for n, part in enumerate(parts):
            size += size_of(part.text)
            mark = "30m" if part.prompt_cache_breakpoint else None
            yield Piece(part.text.encode("utf-8", "surrogatepass"), tokens_of(size) - tokens + (0 if n else _MESSAGE_TOKENS), mark)
            tokens = tokens_of(size)


def _response_part(answer: Answer) -> str:
    text = _quoted(answer.text).decode()
    if answer.finish == "refusal":
        return f'{{"type":"refusal","refusal":{text}}}'
    return f'{{"type":"output_text","annotations":[],"logprobs":[],"text":{text}}}'


def _make_embeddings(asked: EmbeddingsBody, body: bytes, batch: bool, fate: RowFate | None) -> Made:
    _checked_lane(asked.model, None, None, batch, fate)
    inputs = _embedding_inputs(asked.input)
    if not inputs:
        raise ApiError(status=400, message="Invalid 'input': empty array.", param="input", code="empty_array")
    dimensions = asked.dimensions or _DEFAULT_DIMENSIONS
    items = ",".join(
        f'{{"object":"embedding","index":{index},"embedding":{_vector(one, dimensions, asked.encoding_format)}}}'
        for index, one in enumerate(inputs)
    )
    tokens = sum(len(one) if isinstance(one, list) else tokens_in(one) for one in inputs)
    return Made(
        f'{{"object":"list","data":[{items}],"model":{_name(asked.model)},"usage":{{"prompt_tokens":{tokens},"total_tokens":{tokens}}}}}',
        asked.model,
        "batch" if batch else "standard",
        Usage(tokens, 0),
        sha256(body).hexdigest(),
    )


def _embedding_inputs(given: str | list[str | int | list[int]]) -> list[str | list[int]]:
    if isinstance(given, str):
        return [given]
    numbers = [one for one in given if isinstance(one, int)]
    if numbers:
        return [numbers]
    return [one for one in given if not isinstance(one, int)]


def count_embedding_inputs(body: bytes) -> int:
    """Inputs in an embeddings body; 0 where it cannot be read, which its own row will say."""
    try:
        return len(_embedding_inputs(_embeddings.decode(body).input))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return 0


def _vector(text: str | list[int], dimensions: int, encoding: str | None) -> str:
    """A unit vector drawn from the input, as JSON."""
    seed = _quoted(text)
    raw = array("h", shake_128(seed).digest(2 * dimensions))
    norm = math.sqrt(sum(value * value for value in raw)) or 1.0
    values = [value / norm for value in raw]
    if encoding == "base64":
        return f'"{base64.b64encode(array("f", values).tobytes()).decode()}"'
    return msgspec.json.encode(values).decode()


def _checked_lane(model: str, stream: bool | None, tier: str | None, batch: bool, fate: RowFate | None) -> Lane:
    """The lane in which the request runs.

    Raises:
        ApiError: it cannot.
    """
    if stream:
        raise ApiError(status=400, message="Streaming is not supported here.", param="stream", code="unsupported_value")
    if fate == "model_not_found" or "does-not-exist" in model:
        raise model_not_found(model)
    if batch:
        return "batch"
    return "flex" if tier == "flex" and fate != "standard_tier" else "standard"


def _messages_tokens(messages: list[Message]) -> int:
    total = 0
    for message in messages:
        content = message.content
        if isinstance(content, str):
            total += tokens_of(size_of(content))
        elif content is not None:
            total += tokens_of(sum(size_of(part.text) for part in content))
        total += _MESSAGE_TOKENS
    return total


def _name(model: str) -> str:
    return _quoted(model).decode()


def _invalid(said: str) -> ApiError:
    """Msgspec's complaint in OpenAI's words."""
    if "missing required field `" in said:
        name = said.split("`")[1]
        message = f"Missing required parameter: '{name}'."
        return ApiError(status=400, message=message, param=name, code="missing_required_parameter")
    where = said.rpartition("`$.")[2].rstrip("`") if "`$." in said else None
    return ApiError(status=400, message=f"Invalid type: {said}", param=where, code="invalid_type")
