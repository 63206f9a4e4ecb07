"""OpenAI family: the common part of chat completions, responses and embeddings.

A part of the dialects of OpenAI's family.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keld.price import Lane
from keld.providers.dialects import openai_answer, openai_cache, openai_schema, openai_vocabulary
from keld.providers.template import Hole, Template, template


class OpenAIFamily:
    """The common part of the family's dialects; each adds `path` and `template`."""

    body_type = openai_answer.Body
    # In `params` they could ask another model, or allow more or longer answers, than the plan and the ceiling assume.
    own_params = frozenset(
        ("model", "messages", "input", "max_tokens", "max_completion_tokens", "max_output_tokens", "n", "stream", "service_tier")
    )
    cache_fields = openai_cache.FIELDS
    fit = staticmethod(openai_schema.fit)
    judge = staticmethod(openai_answer.judge)
    caching = staticmethod(openai_cache.caching)
    counter = staticmethod(openai_vocabulary.counter)

    def in_lane(self, body: bytes, lane: Lane) -> bytes:
        """The body of a request in a lane: flex is a field of it."""
        return body[:-1] + b',"service_tier":"flex"}' if lane is Lane.FLEX else body

    def lane_headers(self, lane: Lane) -> Mapping[str, str]:
        return {}


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
    """The template of a conversation: inside `"messages":[...]` the fragment has only its closing bracket left; elsewhere both."""
    if made.tail.startswith(b"]"):
        return Template(made.head, made.tail[1:])
    return Template(made.head + b"[", made.tail)
