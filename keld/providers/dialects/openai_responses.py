"""OpenAI responses: the Responses API, at OpenAI and at the hosts that have it.

One of the dialects.
"""

from __future__ import annotations

from typing import Any

from keld.cache import Ttl
from keld.providers.dialects import openai_answer, openai_cache, openai_schema, openai_vocabulary
from keld.providers.dialects.openai_chat import OWN_PARAMS, MessageTemplate, in_lane, message_template
from keld.providers.template import Hole
from keld.request import Question
from keld.schema import OutputSchema

PATH = "/v1/responses"


class OpenAIResponses:
    """`Dialect` of the Responses API."""

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
