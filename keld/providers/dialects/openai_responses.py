"""OpenAI responses: the Responses API, at OpenAI and at the hosts that have it.

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

PATH = "/v1/responses"


class OpenAIResponses(OpenAIFamily):
    """`Dialect` of the Responses API."""

    def path(self, model: str) -> str:
        return PATH

    def template(self, question: Question, model: str, cache: Ttl | None) -> MessageTemplate:
        hole, cache = Hole.new(), cache if openai_cache.takes_marks(model) else None
        common = {"model": model, "max_output_tokens": question.max_output_tokens} | _format(OutputSchema.from_json(question.output))
        more = openai_cache.options(question, model, cache)
        message: dict[str, Any]
        conversation: dict[str, Any]
        if question.system is not None and cache is not None:  # `instructions` takes no mark
            system = [{"role": "system", "content": openai_cache.marked(question.system, "input_text")}]
            message = {"input": [*system, {"role": "user", "content": hole.mark}]}
            conversation = {"input": [*system, hole.mark]}
        else:
            message = conversation = ({"instructions": question.system} if question.system is not None else {}) | {"input": hole.mark}
        return message_template(common | more | message | question.params, common | more | conversation | question.params, hole)


def _format(output: OutputSchema) -> dict[str, Any]:
    return {"text": {"format": {"type": "json_schema"} | openai_schema.schema_format(output)}} if output.kind == "object" else {}
