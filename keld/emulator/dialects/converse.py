"""Converse: a Converse body -> an answer of any model on Amazon Bedrock; the model is in the URL, or in the create of a batch."""

import re
from dataclasses import dataclass, replace
from hashlib import sha256

import msgspec

from ..answer import Answer, Answerer, Ask, Finish, Usage, present
from ..cache import PromptCache
from ..dialect import Conditions, Lane, Made
from ..error import ApiError
from ..rule import twist_of
from .anthropic_schema import refusal
from .converse_body import ConverseBody, Inference, invalid, pieces, read, schema_of

_WITHOUT_SCHEMA = re.compile(r"(?:meta|cohere|ai21|amazon)\.(?!nova)")
_CACHES = re.compile(r"anthropic\.|amazon\.nova")
_LEAST_CACHED = 1_024
_STOPS: dict[Finish, str] = {"stop": "end_turn", "length": "max_tokens", "refusal": "content_filtered"}
_quoted = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Converse:
    """The dialect of one model.

    Args:
        model: its id, or that of an inference profile, as the request or the job named it.
    """

    answerer: Answerer
    cache: PromptCache
    model: str

    def make(self, body: bytes, conditions: Conditions) -> Made:
        asked = read(body)
        if conditions.fate == "model_not_found":
            raise model_unknown()
        schema = schema_of(asked)
        self._check(asked, schema)
        digest = sha256(body)
        first = (present(asked.tool_config) or b"") + (schema or b"")
        prompt = list(pieces(asked, first))
        whole = sum(piece.tokens for piece in prompt)
        use = self.cache.marked(self.model, prompt, _LEAST_CACHED, conditions)
        most = (asked.inference_config or Inference()).max_tokens
        answer = self.answerer.answer(Ask(digest.digest(), body, whole, schema, most), twist_of(conditions.fate))
        usage = Usage(whole, answer.output_tokens, use.read, use.written, use.written_1h)
        lane = self._lane(asked, conditions)
        fresh = whole - use.read - use.written
        return Made(_message(asked, answer, usage, fresh, lane), self.model, lane, usage, fresh, digest.hexdigest())

    def _check(self, asked: ConverseBody, schema: bytes | None) -> None:
        marked = any(block.cache_point for blocks in (asked.system or [], *(one.content for one in asked.messages)) for block in blocks)
        if marked and not _CACHES.search(self.model):
            said = (
                "You invoked an unsupported model or your request did not allow prompt caching. See the documentation for more information."
            )
            raise ApiError(status=403, message=said, code="AccessDeniedException")
        if schema is None:
            return
        if _WITHOUT_SCHEMA.search(self.model):
            raise invalid("This model doesn't support the outputConfig.textFormat field. Remove outputConfig.textFormat and try again.")
        try:
            msgspec.json.decode(schema)
        except msgspec.DecodeError as error:
            raise invalid("The schema in outputConfig.textFormat.structure.jsonSchema is not valid JSON.") from error
        unfit = refusal(schema, self.model.rpartition("anthropic.")[2])
        if unfit is not None:
            raise replace(unfit, message=f"The model returned the following errors: {unfit.message}", code="ValidationException")

    @staticmethod
    def _lane(asked: ConverseBody, conditions: Conditions) -> Lane:
        if conditions.batch:
            return "batch"
        wants_flex = asked.service_tier is not None and asked.service_tier.type == "flex"
        return "flex" if wants_flex and conditions.fate != "standard_tier" else "standard"


def model_unknown() -> ApiError:
    return invalid("The provided model identifier is invalid.")


def _message(asked: ConverseBody, answer: Answer, usage: Usage, fresh: int, lane: Lane) -> str:
    total = usage.input + usage.output
    spans = (("5m", usage.cache_write - usage.cache_write_1h), ("1h", usage.cache_write_1h))
    details = ",".join(f'{{"ttl":"{ttl}","inputTokens":{tokens}}}' for ttl, tokens in spans if tokens)
    tier = f',"serviceTier":{{"type":"{"flex" if lane == "flex" else "default"}"}}' if asked.service_tier else ""
    return (
        f'{{"metrics":{{"latencyMs":100}},"output":{{"message":{{"content":[{{"text":{_quoted(answer.text).decode()}}}],"role":"assistant"}}}},'
        f'"stopReason":"{_STOPS[answer.finish]}","usage":{{"cacheReadInputTokens":{usage.cached},"cacheWriteInputTokens":{usage.cache_write},'
        f'"cacheDetails":[{details}],"inputTokens":{fresh},"outputTokens":{usage.output},"totalTokens":{total}}}{tier}}}'
    )
