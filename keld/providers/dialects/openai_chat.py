"""OpenAI chat: chat completions, at OpenAI and at every host that has them.

One of the dialects.
"""

from __future__ import annotations

from typing import Any

from keld.cache import Ttl
from keld.providers.dialects import openai_cache, openai_schema
from keld.providers.dialects.openai_family import MessageTemplate, OpenAIFamily, message_template
from keld.providers.template import Hole
from keld.request import Question
from keld.schema import OutputSchema

PATH = "/v1/chat/completions"


class OpenAIChat(OpenAIFamily):
    """`Dialect` of chat completions.

    Args:
        length_field: the field that limits an answer; servers that are not OpenAI's may know only the older `max_tokens`.
    """

    def __init__(self, length_field: str = "max_completion_tokens") -> None:
        self._length_field = length_field

    def path(self, model: str) -> str:
        return PATH

    def template(self, question: Question, model: str, cache: Ttl | None) -> MessageTemplate:
        hole, cache = Hole.new(), cache if openai_cache.takes_marks(model) else None
        said = question.system if question.system is None or cache is None else openai_cache.marked(question.system, "text")
        system = [{"role": "system", "content": said}] if said is not None else []
        common = {"model": model, self._length_field: question.max_output_tokens} | _format(OutputSchema.from_json(question.output))
        more = openai_cache.options(question, model, cache)
        message = {"messages": [*system, {"role": "user", "content": hole.mark}]}
        conversation = {"messages": [*system, hole.mark]}
        return message_template(common | more | message | question.params, common | more | conversation | question.params, hole)


def _format(output: OutputSchema) -> dict[str, Any]:
    if output.kind != "object":
        return {}
    return {"response_format": {"type": "json_schema", "json_schema": openai_schema.schema_format(output)}}
