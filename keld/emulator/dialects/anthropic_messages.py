"""Anthropic messages: a Messages body -> a message."""

from dataclasses import dataclass, replace
from hashlib import sha256

import msgspec

from ..answer import Answer, Answerer, Ask, Usage, present
from ..cache import PromptCache
from ..dialect import Conditions, Lane, Made
from ..error import ApiError
from ..rule import RowFate, twist_of
from .anthropic_body import MessagesBody, input_tokens, read, schema_of
from .anthropic_cache import cached
from .anthropic_schema import refusal

# https://platform.claude.com/docs/en/build-with-claude/prompt-caching, 2026.
_MOST_MARKS = 4
_quoted = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Messages:
    """The dialect of messages."""

    answerer: Answerer
    cache: PromptCache

    def make(self, body: bytes, conditions: Conditions) -> Made:
        return self.answer(read(body), body, conditions)

    def answer(self, asked: MessagesBody, body: bytes, conditions: Conditions) -> Made:
        """The answer to `body`, which was read as `asked`."""
        _check(asked, conditions.fate)
        schema = schema_of(asked.output_config)
        unfit = None if schema is None else refusal(schema, asked.model)
        if unfit is not None:
            raise replace(unfit)  # kept and shared: each raise takes a traceback of its own
        digest = sha256(body)
        first = (present(asked.tools) or b"") + (schema or b"")
        whole = input_tokens(asked.system, asked.messages, len(first))
        use = cached(asked, self.cache, first, conditions)
        answer = self.answerer.answer(Ask(digest.digest(), body, whole, schema, asked.max_tokens), twist_of(conditions.fate))
        usage = Usage(whole, answer.output_tokens, use.read, use.written, use.written_1h)
        lane: Lane = "batch" if conditions.batch else "standard"
        fresh, name = whole - use.read - use.written, digest.hexdigest()
        return Made(_message(name, asked.model, answer, usage, fresh, lane), asked.model, lane, usage, fresh, name)


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


def _message(name: str, model: str, answer: Answer, usage: Usage, fresh: int, lane: Lane) -> str:
    refused = answer.finish == "refusal"
    content = "[]" if refused else f'[{{"type":"text","text":{_quoted(answer.text).decode()}}}]'
    stop = "refusal" if refused else "max_tokens" if answer.finish == "length" else "end_turn"
    return (
        f'{{"id":"msg_{name[:24]}","type":"message","role":"assistant","model":{_quoted(model).decode()},'
        f'"content":{content},"stop_reason":"{stop}","stop_sequence":null,"usage":{{"input_tokens":{fresh},'
        f'"cache_creation_input_tokens":{usage.cache_write},"cache_read_input_tokens":{usage.cached},"cache_creation":'
        f'{{"ephemeral_5m_input_tokens":{usage.cache_write - usage.cache_write_1h},'
        f'"ephemeral_1h_input_tokens":{usage.cache_write_1h}}},"output_tokens":{usage.output},'
        f'"service_tier":"{lane}","inference_geo":"global"}}}}'
    )
