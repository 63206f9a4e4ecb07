"""Mistral chat: a body of Mistral's /v1/chat/completions -> a chat completion.

Fields as mistralai 3.7's ChatCompletionRequest has them; bounds and complaints as people quoted the service's replies in 2026.
"""

from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

import msgspec

from ..answer import ABSENT, Answer, Answerer, Ask, Usage, present, size_of, tokens_of
from ..cache import PromptCache
from ..dialect import Conditions, Made
from ..error import ApiError
from ..rule import twist_of
from .mistral_body import check_number, checked_lane, read
from .mistral_schema import refusal
from .openai_body import quoted

_ANY_OBJECT = b'{"type":"object","properties":{"answer":{"type":"string"}}}'
_MESSAGE_TOKENS = 4


class JsonSchema(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    name: str
    schema: msgspec.Raw
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None


class Chunk(msgspec.Struct, gc=False):
    type: str
    text: str = ""


class Message(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[Chunk] | None = None
    tool_calls: Any = None
    tool_call_id: str | None = None
    name: str | None = None
    prefix: bool = False


class ChatBody(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    model: str
    messages: list[Message]
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    stream: bool = False
    stop: str | list[str] | None = None
    random_seed: int | None = None
    metadata: Any = None
    response_format: ResponseFormat | None = None
    tools: msgspec.Raw = ABSENT
    tool_choice: Any = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    top_k: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    prompt_logprobs: bool | None = None
    top_prompt_logprobs: int | None = None
    n: int | None = None
    prediction: Any = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    prompt_mode: str | None = None
    guardrails: Any = None
    prompt_cache_key: str | None = None
    service_tier: str | None = None
    safe_prompt: bool = False


_chat = msgspec.json.Decoder(ChatBody)


@dataclass(frozen=True)
class MistralChat:
    """The dialect of chat completions."""

    answerer: Answerer
    cache: PromptCache

    def make(self, body: bytes, conditions: Conditions) -> Made:
        asked = read(_chat, body)
        lane = checked_lane(asked.model, conditions)
        _check(asked)
        schema = _checked_schema(asked.response_format)
        digest = sha256(body)
        texts = [_text(message) for message in asked.messages]
        first = (present(asked.tools) or b"") + (schema or b"")
        input_tokens = sum(tokens_of(size_of(text)) + _MESSAGE_TOKENS for text in texts) + tokens_of(len(first))
        cached = self._cached(asked, first, texts, conditions)
        answer = self.answerer.answer(Ask(digest.digest(), body, input_tokens, schema, asked.max_tokens), twist_of(conditions.fate))
        usage = Usage(input_tokens, answer.output_tokens, cached)
        name = digest.hexdigest()
        return Made(_completion(name, asked.model, answer, usage, int(conditions.at)), asked.model, lane, usage, input_tokens, name)

    def _cached(self, asked: ChatBody, first: bytes, texts: list[str], conditions: Conditions) -> int:
        """Tokens that come from the cache: only with a key, and only of prompts with the same key; writes cost nothing."""
        if asked.prompt_cache_key is None:
            return 0
        prompt = b"".join([first, *(text.encode("utf-8", "surrogatepass") for text in texts)])
        name = f"{asked.model} {asked.prompt_cache_key}"
        return self.cache.unmarked(name, prompt, conditions.at, miss=conditions.fate == "cache_miss").read


def _text(message: Message) -> str:
    content = message.content
    return content if isinstance(content, str) else "".join(chunk.text for chunk in content or ())


def _check(asked: ChatBody) -> None:
    """Raises:
    ApiError: a parameter is outside of what the service takes.
    """
    if asked.stream:
        raise ApiError(status=400, message="Streaming is not supported here.")
    if not asked.messages:
        raise ApiError(status=400, message="Conversation must have at least one message", code="3230")
    last = asked.messages[-1]
    if last.role not in ("user", "tool") and not last.prefix:
        said = f"Expected last role User or Tool (or Assistant with prefix True) for serving but got {last.role}"
        raise ApiError(status=400, message=said, code="3230")
    check_number("temperature", asked.temperature, least=0, most=1.5)
    check_number("top_p", asked.top_p, above=0, most=1)
    check_number("max_tokens", asked.max_tokens, least=0, most=1 << 31)


def _checked_schema(form: ResponseFormat | None) -> bytes | None:
    """The schema that the answer must fit.

    Raises:
        ApiError: the service does not take it.
    """
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return _ANY_OBJECT
    if form.json_schema is None:
        raise ApiError(status=422, message="Field required", code="missing", param="body.response_format.json_schema")
    schema = bytes(form.json_schema.schema)
    refused = refusal(schema, bool(form.json_schema.strict))
    if refused is not None:
        raise ApiError(status=refused.status, message=refused.message)  # the kept one is shared: each raise takes a traceback of its own
    return schema


def _completion(name: str, model: str, answer: Answer, usage: Usage, at: int) -> str:
    finish = "length" if answer.finish == "length" else "stop"  # there is no word for a refusal
    return (
        f'{{"id":"{name[:32]}","object":"chat.completion","created":{at},"model":{quoted(model).decode()},'
        f'"choices":[{{"index":0,"message":{{"role":"assistant","tool_calls":null,"content":{quoted(answer.text).decode()},"prefix":false}},'
        f'"finish_reason":"{finish}"}}],"usage":{{"prompt_tokens":{usage.input},"completion_tokens":{usage.output},'
        f'"total_tokens":{usage.input + usage.output},"num_cached_tokens":{usage.cached},'
        f'"prompt_tokens_details":{{"cached_tokens":{usage.cached}}}}}}}'
    )
