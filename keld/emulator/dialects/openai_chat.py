"""OpenAI chat: a body of /v1/chat/completions -> a chat completion.

The answer is a template that is filled in, not an object that is encoded: of the few microseconds a row may cost, the text of the
answer should take most.
"""

from dataclasses import dataclass
from hashlib import sha256

import msgspec

from ..answer import ABSENT, Answer, Answerer, Ask, Usage, present, tokens_of
from ..cache import PromptCache
from ..dialect import Conditions, Made
from ..error import ApiError
from ..rule import twist_of
from .openai_body import CacheOptions, Message, cached, check_schema, checked_lane, messages_tokens, quoted, read

_ANY_OBJECT = b'{"type":"object","properties":{"answer":{"type":"string"}}}'


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


_chat = msgspec.json.Decoder(ChatBody)


@dataclass(frozen=True)
class Chat:
    """The dialect of chat completions."""

    answerer: Answerer
    cache: PromptCache

    def make(self, body: bytes, conditions: Conditions) -> Made:
        asked = read(_chat, body)
        lane = checked_lane(asked.model, asked.stream, asked.service_tier, conditions)
        if not asked.messages:
            raise ApiError(status=400, message="Invalid 'messages': empty array.", param="messages", code="empty_array")
        schema = _checked_schema(asked.response_format)
        digest = sha256(body)
        first = (present(asked.tools) or b"") + (schema or b"")
        input_tokens = messages_tokens(asked.messages) + tokens_of(len(first))
        use = cached(asked, asked.messages, first, input_tokens, self.cache, conditions)
        most = asked.max_completion_tokens if asked.max_completion_tokens is not None else asked.max_tokens
        answer = self.answerer.answer(Ask(digest.digest(), body, input_tokens, schema, most), twist_of(conditions.fate))
        usage = Usage(input_tokens, answer.output_tokens, use.read, use.written)
        tier = "flex" if lane == "flex" else "default"
        name = digest.hexdigest()
        return Made(_completion(name, asked.model, answer, usage, tier, int(conditions.at)), asked.model, lane, usage, input_tokens, name)


def _checked_schema(form: ResponseFormat | None) -> bytes | None:
    """The schema that the answer must fit.

    Raises:
        ApiError: the service does not take it.
    """
    wanted = form.json_schema if form else None
    schema = present(wanted.schema) if wanted else None
    if wanted is not None and schema is not None:
        check_schema(schema, wanted.name, wanted.strict, responses=False)
    return _ANY_OBJECT if schema is None and form is not None and form.type == "json_object" else schema


def _completion(name: str, model: str, answer: Answer, usage: Usage, tier: str, at: int) -> str:
    text = quoted(answer.text).decode()
    content, refusal = ("null", text) if answer.finish == "refusal" else (text, "null")
    return (
        f'{{"id":"chatcmpl-{name[:24]}","object":"chat.completion","created":{at},"model":{quoted(model).decode()},'
        f'"choices":[{{"index":0,"message":{{"role":"assistant","content":{content},"refusal":{refusal},'
        f'"annotations":[]}},"logprobs":null,"finish_reason":"{"length" if answer.finish == "length" else "stop"}"}}],'
        f'"usage":{{"prompt_tokens":{usage.input},"completion_tokens":{usage.output},"total_tokens":{usage.input + usage.output},'
        f'"prompt_tokens_details":{{"cached_tokens":{usage.cached},"cache_write_tokens":{usage.cache_write},"audio_tokens":0}},'
        '"completion_tokens_details":{'
        '"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}},'
        f'"service_tier":"{tier}","system_fingerprint":"fp_keld"}}'
    )
