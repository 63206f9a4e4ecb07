"""Gemini generate: generateContent, at Gemini and at Vertex.

One of the dialects.  Its path has no version and no publisher: these differ between the two.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from keld.cache import Caching, Ttl
from keld.errors import SchemaError
from keld.price import Lane
from keld.providers.base import Fit
from keld.providers.dialects import gemini_answer
from keld.providers.dialects.gemini_schema import schema_format
from keld.providers.template import Hole, Template, template
from keld.request import Question, one_line
from keld.schema import OutputSchema
from keld.vocabulary import Count

# Fields of `generationConfig` by the names under which other families have them at the top of a body, so that `Job.params` can be the same for all.
_IN_CONFIG = {
    "temperature": "temperature", "top_p": "topP", "topP": "topP", "top_k": "topK", "topK": "topK", "seed": "seed", "stop": "stopSequences",
    "presence_penalty": "presencePenalty", "frequency_penalty": "frequencyPenalty", "thinkingConfig": "thinkingConfig",
}  # fmt: skip
# In `params` they could allow longer or more answers, or another form of them, than the plan and the ceiling assume.
_OWN_CONFIG = frozenset(
    ("maxOutputTokens", "candidateCount", "responseMimeType", "responseSchema", "responseJsonSchema", "_responseJsonSchema")
)
# ai.google.dev/gemini-api/docs/caching, Nov 2026: from 1,024 tokens on for Flash, 4,096 for Pro.  Models before 2.5 do not cache by themselves.
_LEAST_CACHED, _LEAST_CACHED_PRO = 1_024, 4_096
_WITHOUT_CACHE = re.compile(r"gemini-(?:1|2\.0)")


@dataclass(frozen=True, slots=True)
class ContentsTemplate:
    """Around one user message, or around a whole conversation."""

    message: Template
    shared: str | None  # the system prompt of all rows
    conversation: Template  # after it come `contents` and `systemInstruction`

    @property
    def size_bytes(self) -> int:
        return self.message.size_bytes

    def fill(self, fragment: bytes) -> bytes:
        if not fragment.startswith(b"["):
            return self.message.fill(fragment)
        system, contents = _converted(msgspec.json.decode(fragment), self.shared)
        more = b',"systemInstruction":' + one_line({"parts": system}) if system else b""
        return self.conversation.fill(one_line(contents) + more)


class GeminiGenerate:
    """`Dialect` of generateContent."""

    body_type = gemini_answer.Body
    own_params = frozenset(
        (
            "model",
            "contents",
            "messages",
            "input",
            "systemInstruction",
            "system_instruction",
            "generation_config",
            "serviceTier",
            "service_tier",
        ),
    ).union(("max_tokens", "max_completion_tokens", "max_output_tokens", "maxOutputTokens", "n", "candidateCount", "stream"))
    cache_fields = frozenset({"cachedContent", "cached_content"})
    judge = staticmethod(gemini_answer.judge)

    def path(self, model: str) -> str:
        return f"/models/{model}:generateContent"

    def fit(self, question: Question, model: str) -> Fit:
        if "embedding" in model:
            return Fit(obstacle=f"{model} makes embeddings, not answers; name another model, or output_type=Embedding(...)")
        config = question.params.get("generationConfig", {})
        if not isinstance(config, dict) or (taken := sorted(_OWN_CONFIG & config.keys())):
            what = f"names {', '.join(taken)}, which Keld sets itself" if isinstance(config, dict) else "is not an object"
            return Fit(obstacle=f"params['generationConfig'] {what}")
        try:
            schema_format(OutputSchema.from_json(question.output))
        except SchemaError as error:
            return Fit(obstacle=str(error))
        return Fit()

    def template(self, question: Question, model: str, cache: Ttl | None) -> ContentsTemplate:
        output = OutputSchema.from_json(question.output)
        hole = Hole.new()
        given = {_IN_CONFIG[name]: value for name, value in question.params.items() if name in _IN_CONFIG}
        given |= question.params.get("generationConfig", {})
        if isinstance(given.get("stopSequences"), str):  # OpenAI's `stop` may be one text
            given["stopSequences"] = [given["stopSequences"]]
        config = given | {"maxOutputTokens": question.max_output_tokens} | schema_format(output)
        more = {name: value for name, value in question.params.items() if name not in _IN_CONFIG and name != "generationConfig"}
        bare = more | {"generationConfig": config}
        system = {} if question.system is None else {"systemInstruction": {"parts": [{"text": question.system}]}}
        return ContentsTemplate(
            message=template(bare | system | {"contents": [{"role": "user", "parts": [{"text": hole.mark}]}]}, hole),
            shared=question.system,
            conversation=template(bare | {"contents": hole.mark}, hole),
        )

    def in_lane(self, body: bytes, lane: Lane) -> bytes:
        # ai.google.dev/gemini-api/docs/flex-inference, Nov 2026.
        return body[:-1] + b',"serviceTier":"flex"}' if lane is Lane.FLEX else body

    def lane_headers(self, lane: Lane) -> Mapping[str, str]:
        return {}

    def caching(self, model: str) -> Caching:
        """Caching is implicit: no mark, no price for a write.  Cached tokens of 2.5 models cost the same in a batch: the price lists say so."""
        least = _LEAST_CACHED_PRO if "pro" in model else _LEAST_CACHED
        return Caching(least_tokens=least, by_itself=_WITHOUT_CACHE.match(model) is None, ttl={})

    def counter(self, model: str) -> Count | None:
        return None  # no public vocabulary


def _converted(messages: list[dict[str, Any]], shared: str | None) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The parts of the system instruction, and the other messages as contents.

    Messages come in OpenAI's form, `{"role", "content"}`, or in Gemini's, `{"role", "parts"}`.
    """
    system = [{"text": shared}] if shared is not None else []
    contents = []
    for message in messages:
        parts, role = _parts(message), message.get("role")
        if role in ("system", "developer"):
            system += parts
        else:
            contents.append({"role": "model" if role == "assistant" else role, "parts": parts})
    return system, contents


def _parts(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message["parts"] if "parts" in message else message.get("content", "")
    if isinstance(content, str):
        return [{"text": content}]
    # A part of type `text` in OpenAI's words is a part with a text in Gemini's; any other part is sent as the user wrote it.
    return [{"text": part.get("text", "")} if isinstance(part, dict) and part.get("type") == "text" else part for part in content]
