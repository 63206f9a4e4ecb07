"""Gemini generate: a body of generateContent -> its answer.

The model is in the call's path and not in the body, so there is one dialect for each model (`of`).
"""

import re
from dataclasses import dataclass, replace
from hashlib import sha256

from ..answer import Answer, Answerer, Ask, Usage, present, tokens_of
from ..cache import PromptCache, Use
from ..dialect import Conditions, Lane, Made
from ..error import ApiError
from ..rule import twist_of
from .gemini_body import (
    GenerateBody,
    GenerationConfig,
    check_contents,
    check_model,
    invalid,
    quoted,
    read,
    reader,
    text_of,
    tokens_of_content,
)
from .gemini_schema import json_schema

_MOST_OUTPUT = 65_536
_LEAST_CACHED_TOKENS = 1_024
_THINKS = re.compile(r"gemini-(?:2\.5-(?:pro|flash(?!-lite))|[3-9])")
_THOUGHTS = 8  # tokens of an answer's thoughts, or a quarter of what it may have
_DOCUMENT = b'{"type":"object","properties":{"answer":{"type":"string"}}}'
_TIERS = {"": "standard", "unspecified": "standard", "standard": "standard", "flex": "flex", "priority": "standard"}
_body = reader(GenerateBody)


@dataclass(frozen=True)
class Generate:
    """The dialect of generateContent for one model.

    Args:
        labels: it is Vertex: its requests may have labels, and the tier is asked for in a header and told as `trafficType`.
        flex: that header asks for flex.
    """

    answerer: Answerer
    cache: PromptCache
    model: str = ""
    labels: bool = False
    flex: bool = False

    def of(self, model: str) -> "Generate":
        return replace(self, model=model)

    def make(self, body: bytes, conditions: Conditions) -> Made:
        asked = read(_body, body)
        if asked.labels is not None and not self.labels:
            raise invalid('Invalid JSON payload received. Unknown name "labels": Cannot find field.')
        if asked.service_tier is not None and self.labels:
            raise invalid('Invalid JSON payload received. Unknown name "service_tier": Cannot find field.')
        check_model(self.model, "generateContent", conditions)
        lane = _lane("flex" if self.flex else asked.service_tier, conditions)
        config = asked.generation_config or GenerationConfig()
        schema = _checked(asked, config)
        system, digest = text_of(asked.system_instruction), sha256(body)
        first = (present(asked.tools) or b"") + (schema or b"") + system.encode("utf-8", "surrogatepass")
        whole = tokens_of(len(first)) + sum(map(tokens_of_content, asked.contents))
        use = self._cached(asked, first, whole, conditions)
        thoughts = _thoughts(self.model, config)
        most = None if config.max_output_tokens is None else max(1, config.max_output_tokens - thoughts)
        answer = self.answerer.answer(Ask(digest.digest(), body, whole, schema, most), twist_of(conditions.fate))
        # A refused prompt has no output; which of the two ways of refusing it is, the digest decides.
        blocked = answer.finish == "refusal" and digest.digest()[0] % 2 == 0
        output, thoughts = (0, 0) if blocked else (answer.output_tokens + thoughts, thoughts)
        usage = Usage(whole, output, use.read, reasoning=thoughts)
        name = digest.hexdigest()
        return Made(_response(name, self.model, answer, usage, _tier(lane, self.labels), blocked), self.model, lane, usage, whole, name)

    def _cached(self, asked: GenerateBody, first: bytes, whole: int, conditions: Conditions) -> Use:
        """What is read by implicit caching; a write costs nothing."""
        if whole < _LEAST_CACHED_TOKENS:
            return Use()
        prompt = first + "".join(map(text_of, asked.contents)).encode("utf-8", "surrogatepass")
        return self.cache.unmarked(self.model, prompt, conditions.at, miss=conditions.fate == "cache_miss")


def _lane(tier: str | None, conditions: Conditions) -> Lane:
    known = _TIERS.get((tier or "").lower())
    if known is None:
        raise invalid(f"Invalid value at 'service_tier' (type.googleapis.com/google.ai.generativelanguage.v1beta.ServiceTier), \"{tier}\"")
    if conditions.batch:
        return "batch"
    return "flex" if known == "flex" and conditions.fate != "standard_tier" else "standard"


def _checked(asked: GenerateBody, config: GenerationConfig) -> bytes | None:
    """The JSON Schema that the answer must fit.

    Raises:
        ApiError: the request is refused.
    """
    check_contents(asked.contents, "GenerateContentRequest.contents")
    if config.candidate_count not in (None, 1):
        raise invalid("Only one candidate can be specified")
    if config.max_output_tokens is not None and not 1 <= config.max_output_tokens <= _MOST_OUTPUT:
        raise invalid(f"max_output_tokens must be in the range [1, {_MOST_OUTPUT}].")
    if config.temperature is not None and not 0 <= config.temperature <= 2:
        raise invalid("* GenerateContentRequest.generation_config.temperature: must be in the range [0.0, 2.0].\n")
    mime = config.response_mime_type or "text/plain"
    if mime not in ("text/plain", "application/json", "text/x.enum"):
        raise invalid(
            "* GenerateContentRequest.generation_config.response_mime_type: allowed mimetypes are `text/plain`, `application/json`, ...\n"
        )
    given, free = present(config.response_schema), present(config.response_json_schema)
    if given is not None and free is not None:
        raise invalid("* GenerateContentRequest.generation_config: response_schema and response_json_schema can not both be set\n")
    if (given or free) and mime != "application/json":
        raise invalid("* GenerateContentRequest.generation_config.response_mime_type: a response schema needs `application/json`\n")
    if given is None:
        return free or (_DOCUMENT if mime == "application/json" else None)
    schema = json_schema(given)
    if isinstance(schema, ApiError):
        raise replace(schema)  # kept and shared: each raise takes a traceback of its own
    return schema


def _thoughts(model: str, config: GenerationConfig) -> int:
    """Tokens that the model thinks, which count into `maxOutputTokens`."""
    thinking = config.thinking_config
    if not _THINKS.match(model) or (thinking is not None and thinking.thinking_budget == 0):
        return 0
    return _THOUGHTS if config.max_output_tokens is None else min(_THOUGHTS, config.max_output_tokens // 4)


def _tier(lane: Lane, vertex: bool) -> str:
    """How the usage tells the tier."""
    if vertex:
        return '"trafficType":"ON_DEMAND_FLEX"' if lane == "flex" else '"trafficType":"ON_DEMAND"'
    return f'"serviceTier":"{"standard" if lane == "batch" else lane}"'


def _response(name: str, model: str, answer: Answer, usage: Usage, tier: str, blocked: bool) -> str:
    counts = {
        "promptTokenCount": usage.input,
        "candidatesTokenCount": usage.output - usage.reasoning,
        "thoughtsTokenCount": usage.reasoning,
        "cachedContentTokenCount": usage.cached,
        "totalTokenCount": usage.input + usage.output,
    }
    said = "".join(f'"{field}":{count},' for field, count in counts.items() if count)  # as everywhere at Google, a zero is left out
    tokens = f'"usageMetadata":{{{said}{tier}}}'
    rest = f'{tokens},"modelVersion":{quoted(model).decode()},"responseId":"{name[:22]}"'
    if blocked:
        return f'{{"promptFeedback":{{"blockReason":"PROHIBITED_CONTENT"}},{rest}}}'
    if answer.finish == "refusal":
        return f'{{"candidates":[{{"finishReason":"SAFETY","index":0}}],{rest}}}'
    reason = "MAX_TOKENS" if answer.finish == "length" else "STOP"
    content = f'{{"parts":[{{"text":{quoted(answer.text).decode()}}}],"role":"model"}}'
    return f'{{"candidates":[{{"content":{content},"finishReason":"{reason}","index":0}}],{rest}}}'
