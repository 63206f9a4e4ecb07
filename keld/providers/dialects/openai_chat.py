"""OpenAI chat: chat completions, at OpenAI and at every host that has them.

One of the dialects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from keld.cache import Ttl
from keld.price import Lane
from keld.providers.dialects import openai_answer, openai_cache, openai_schema, openai_vocabulary
from keld.providers.template import Hole, Template, template
from keld.request import Question
from keld.schema import OutputSchema

PATH = "/v1/chat/completions"
# One of them in `params` would ask another model, more answers or longer ones than the plan and the ceiling were reckoned with.
OWN_PARAMS = frozenset(
    ("model", "messages", "input", "max_tokens", "max_completion_tokens", "max_output_tokens", "n", "stream", "service_tier")
)


@dataclass(frozen=True, slots=True)
class MessageTemplate:
    """Around one user message, or around a whole conversation."""

    message: Template
    conversation: Template  # its opening bracket is in the template

    @property
    def size_bytes(self) -> int:
        return max(self.message.size_bytes, self.conversation.size_bytes)

    def fill(self, fragment: bytes) -> bytes:
        if fragment.startswith(b"["):
            return b"".join((self.conversation.head, fragment[1:], self.conversation.tail))
        return b"".join((self.message.head, fragment, self.message.tail))


def message_template(message: dict[str, Any], conversation: dict[str, Any], hole: Hole) -> MessageTemplate:
    """The template of two bodies that hold `hole.mark` where a row's own JSON goes."""
    return MessageTemplate(template(message, hole), _opened(template(conversation, hole)))


def _opened(made: Template) -> Template:
    """The template of a conversation: inside `"messages":[...]` the fragment brings its own closing bracket; elsewhere both."""
    if made.tail.startswith(b"]"):
        return Template(made.head, made.tail[1:])
    return Template(made.head + b"[", made.tail)


def in_lane(body: bytes, lane: Lane) -> bytes:
    """A body as it is asked in a lane: flex is a field of it."""
    return body[:-1] + b',"service_tier":"flex"}' if lane is Lane.FLEX else body


class OpenAIChat:
    """`Dialect` of chat completions."""

    body_type = openai_answer.Body
    own_params = OWN_PARAMS
    cache_fields = openai_cache.FIELDS
    fit = staticmethod(openai_schema.fit)
    in_lane = staticmethod(in_lane)
    judge = staticmethod(openai_answer.judge)
    caching = staticmethod(openai_cache.caching)
    counter = staticmethod(openai_vocabulary.counter)

    def path(self, model: str) -> str:
        return PATH

    def template(self, question: Question, model: str, cache: Ttl | None) -> MessageTemplate:
        hole, cache = Hole.new(), cache if openai_cache.takes_marks(model) else None
        said = question.system if question.system is None or cache is None else openai_cache.marked(question.system, "text")
        system = [{"role": "system", "content": said}] if said is not None else []
        common = {"model": model, "max_completion_tokens": question.max_output_tokens} | _format(OutputSchema.from_json(question.output))
        more = openai_cache.options(question, model, cache)
        message = {"messages": [*system, {"role": "user", "content": hole.mark}]}
        conversation = {"messages": [*system, hole.mark]}
        return message_template(common | more | message | question.params, common | more | conversation | question.params, hole)


def _format(output: OutputSchema) -> dict[str, Any]:
    if output.kind != "object":
        return {}
    return {"response_format": {"type": "json_schema", "json_schema": openai_schema.schema_format(output)}}
