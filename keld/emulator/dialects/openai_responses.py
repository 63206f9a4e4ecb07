"""OpenAI responses: a body of /v1/responses -> a response."""

from dataclasses import dataclass
from hashlib import sha256

import msgspec

from ..answer import ABSENT, Answer, Answerer, Ask, Usage, present, tokens_in, tokens_of
from ..cache import PromptCache
from ..dialect import Conditions, Made
from ..rule import twist_of
from .openai_body import CacheOptions, Message, cached, check_schema, checked_lane, messages_tokens, quoted, read


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


_responses = msgspec.json.Decoder(ResponsesBody)


@dataclass(frozen=True)
class Responses:
    """The dialect of responses."""

    answerer: Answerer
    cache: PromptCache

    def make(self, body: bytes, conditions: Conditions) -> Made:
        asked = read(_responses, body)
        lane = checked_lane(asked.model, asked.stream, asked.service_tier, conditions)
        form = asked.text.format if asked.text else None
        schema = present(form.schema) if form else None
        if form is not None and schema is not None:
            check_schema(schema, form.name, form.strict, responses=True)
        digest = sha256(body)
        messages = [Message(content=asked.input)] if isinstance(asked.input, str) else asked.input
        first = (present(asked.tools) or b"") + (schema or b"")
        input_tokens = messages_tokens(messages) + tokens_in(asked.instructions or "") + tokens_of(len(first))
        first += (asked.instructions or "").encode("utf-8", "surrogatepass")
        use = cached(asked, messages, first, input_tokens, self.cache, conditions)
        answer = self.answerer.answer(Ask(digest.digest(), body, input_tokens, schema, asked.max_output_tokens), twist_of(conditions.fate))
        usage = Usage(input_tokens, answer.output_tokens, use.read, use.written)
        tier = "flex" if lane == "flex" else "default"
        name = digest.hexdigest()
        return Made(_response(name, asked, answer, usage, tier, int(conditions.at)), asked.model, lane, usage, input_tokens, name)


def _response(name: str, asked: ResponsesBody, answer: Answer, usage: Usage, tier: str, at: int) -> str:
    status = "incomplete" if answer.finish == "length" else "completed"
    details = '{"reason":"max_output_tokens"}' if answer.finish == "length" else "null"
    return (
        f'{{"id":"resp_{name[:48]}","object":"response","created_at":{at},"status":"{status}","error":null,'
        f'"incomplete_details":{details},"instructions":null,"metadata":{{}},"model":{quoted(asked.model).decode()},"output":['
        f'{{"id":"msg_{name[:48]}","type":"message","status":"{status}","role":"assistant","content":['
        f'{_part(answer)}]}}],"parallel_tool_calls":true,"temperature":1.0,"tool_choice":"auto","tools":[],'
        f'"top_p":1.0,"max_output_tokens":{"null" if asked.max_output_tokens is None else asked.max_output_tokens},'
        f'"service_tier":"{tier}","usage":{{"input_tokens":{usage.input},'
        f'"input_tokens_details":{{"cached_tokens":{usage.cached},"cache_write_tokens":{usage.cache_write}}},"output_tokens":{usage.output},'
        f'"output_tokens_details":{{"reasoning_tokens":0}},"total_tokens":{usage.input + usage.output}}}}}'
    )


def _part(answer: Answer) -> str:
    text = quoted(answer.text).decode()
    if answer.finish == "refusal":
        return f'{{"type":"refusal","refusal":{text}}}'
    return f'{{"type":"output_text","annotations":[],"logprobs":[],"text":{text}}}'
