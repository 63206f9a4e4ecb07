"""Mistral: chat completions and embeddings of api.mistral.ai.

One of the dialects; the answers are read by the reader of OpenAI's family.  By docs.mistral.ai/api and the types of mistralai 3.7, Nov 2026:

- A batch is of one model, which its create names; a line's body names none.  So a body gets its `model` only in a fast lane.
- Bodies with unknown fields are refused with 422 (`extra_forbidden`), so the length of an answer is `max_tokens` and nothing else.
- Strict mode wants `additionalProperties: false` in every object (github.com/mistralai/client-ts/issues/107) and refuses `$id` and `$schema`
  (github.com/BerriAI/litellm/pull/13389).  Which other keywords it takes is documented nowhere, so only types, enums, `anyOf` and
  references are sent; the rest is written into the description, and checked in every answer by our decoder.
- The beginning of prompts is cached only with a `prompt_cache_key`; writes are free, and reads cost a tenth
  (docs.mistral.ai/inference/conversations/advanced/prompt-caching, 29 Nov 2026), so all rows of a job carry one.
- Errors are flat: `{"object": "error", "message", "type", "code"}`, or `{"detail": ...}` from the validation of a body.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from keld.cache import Caching, Ttl
from keld.errors import InvalidJob, SchemaError
from keld.outcome import Outcome
from keld.price import Lane
from keld.providers.base import Fit
from keld.providers.dialects import openai_answer
from keld.providers.dialects.openai_embeddings import divided
from keld.providers.dialects.openai_family import MessageTemplate, message_template
from keld.providers.fault import code_of, scrubbed
from keld.providers.line import RETRYABLE_STATUS
from keld.providers.template import Hole
from keld.providers.word import reply_words
from keld.reply import Reply
from keld.request import Question, one_line
from keld.schema import OutputSchema, Subset, inlined
from keld.vocabulary import Count

CHAT_PATH, EMBEDDINGS_PATH = "/v1/chat/completions", "/v1/embeddings"
STRICT = Subset(whose="Mistral's strict mode", first_keys_differ=False)
# docs.mistral.ai/capabilities/embeddings, Nov 2026: mistral-embed has 1,024 dimensions and no `output_dimension`; codestral-embed takes it.
_FIXED_DIMENSIONS = {"mistral-embed": 1_024}
_CACHE_BLOCK = 64  # tokens: what is cached is a multiple of it


def error_in(body: Mapping[str, Any], headers: Mapping[str, str]) -> dict[str, Any] | None:
    """The error in a failed reply: `message`, and `code` or `type`; None: there is none of Mistral's shape."""
    detail, message = body.get("detail"), body.get("message")
    match detail if detail is not None else message:
        case [{"msg": str(said), **first}, *_]:
            at = first.get("loc")
            where = ".".join(map(str, at)) if isinstance(at, list) else ""
            return {"message": f"{where}: {said}" if where else said, "type": first.get("type") or "validation_error"}
        case {"detail": inner}:
            return error_in({"detail": inner}, headers)
        case str(said) if detail is not None:
            return {"message": said, "type": "http_error"}
        case str(said):
            return {"message": said, "code": body.get("code"), "type": body.get("type")}
    return None


class Body(openai_answer.Body, gc=False):
    """An answer, or an error in either of its shapes."""

    object: Any = None
    message: Any = None
    type: Any = None
    code: Any = None
    detail: Any = None


def judge(custom_id: str, status: int, body: Body) -> Reply:
    """The outcome, content and usage of an answer."""
    if status != 200:
        flat = {"detail": body.detail, "message": body.message, "code": body.code, "type": body.type}
        # The journal of a fast lane has the error in the common shape (`fault.common_error`).
        common = msgspec.to_builtins(body.error)
        error = (common if isinstance(common, dict) else error_in(flat, {})) or {"message": common or "no reason given"}
        said = f"{reply_words(status, code_of(error.get('code') or error.get('type')))}: {scrubbed(str(error.get('message') or ''))}"
        retryable = status in RETRYABLE_STATUS or status >= 500
        return Reply(custom_id=custom_id, outcome=Outcome.ERRORED, error=said, retryable=retryable)
    return openai_answer.judge(custom_id, status, body)


@dataclass(frozen=True, slots=True)
class _Mistral:
    """The common part; each dialect adds `path`, `fit` and `template`."""

    model: str

    body_type = Body
    # In `params` they could ask another model, or allow more or longer answers, than the plan and the ceiling assume.
    own_params = frozenset(("model", "messages", "input", "max_tokens", "min_tokens", "n", "stream", "service_tier"))
    cache_fields = frozenset(("prompt_cache_key",))
    judge = staticmethod(judge)

    def lane_headers(self, lane: Lane) -> Mapping[str, str]:
        return {}

    def in_lane(self, body: bytes, lane: Lane) -> bytes:
        if lane is Lane.FLEX:
            raise InvalidJob("mistral sells no flex lane. Nothing was sent. Ask in a batch or in the standard lane.")
        return body[:-1] + b',"model":%b}' % one_line(self.model)

    def caching(self, model: str) -> Caching:
        return Caching(least_tokens=_CACHE_BLOCK, by_itself=True, ttl={})

    def counter(self, model: str) -> Count | None:
        return None  # its vocabularies are public, but in no library that works offline


@dataclass(frozen=True, slots=True)
class MistralChat(_Mistral):
    """`Dialect` of chat completions with one model."""

    def path(self, model: str) -> str:
        return CHAT_PATH

    def fit(self, question: Question, model: str) -> Fit:
        output = OutputSchema.from_json(question.output)
        loose = _why_loose(output) if output.kind == "object" else None
        return Fit(note=None if loose is None else f"asked without strict mode; each answer is still checked: {loose}")

    def template(self, question: Question, model: str, cache: Ttl | None) -> MessageTemplate:
        hole = Hole.new()
        system = [{"role": "system", "content": question.system}] if question.system is not None else []
        common = {"max_tokens": question.max_output_tokens} | _format(OutputSchema.from_json(question.output)) | _cache_key(question)
        message = {"messages": [*system, {"role": "user", "content": hole.mark}]}
        conversation = {"messages": [*system, hole.mark]}
        return message_template(common | message | question.params, common | conversation | question.params, hole)


@dataclass(frozen=True, slots=True)
class MistralEmbeddings(_Mistral):
    """`Dialect` of embeddings with one model."""

    divided = staticmethod(divided)

    def path(self, model: str) -> str:
        return EMBEDDINGS_PATH

    def fit(self, question: Question, model: str) -> Fit:
        wanted, fixed = OutputSchema.from_json(question.output).dimensions, _FIXED_DIMENSIONS.get(model)
        if fixed is None or wanted == fixed:
            return Fit()
        return Fit(obstacle=f"{model} gives vectors of {fixed:,} dimensions, not of {wanted:,}; use Embedding({fixed}), or codestral-embed")

    def template(self, question: Question, model: str, cache: Ttl | None) -> MessageTemplate:
        hole = Hole.new()
        sized = {} if model in _FIXED_DIMENSIONS else {"output_dimension": OutputSchema.from_json(question.output).dimensions}
        # No `encoding_format`: the SDK's own type of an answer reads lists of numbers only.
        body = {"input": hole.mark} | sized | question.params
        return message_template(body, body, hole)


def _format(output: OutputSchema) -> dict[str, Any]:
    if output.kind != "object":
        return {}
    assert output.json_schema is not None, "of an object"
    try:
        form = {"name": output.name, "strict": True, "schema": output.strict_json_schema(STRICT)}
    except SchemaError:  # the model only sees the schema; we check every answer in any case
        form = {"name": output.name, "strict": False, "schema": _unnamed(inlined(output.json_schema, output.json_schema))}
    return {"response_format": {"type": "json_schema", "json_schema": form}}


def _why_loose(output: OutputSchema) -> str | None:
    """Why strict mode may not accept the schema, for people; None if it does."""
    try:
        output.strict_json_schema(STRICT)
    except SchemaError as error:
        return str(error)
    return None


def _unnamed(schema: dict[str, Any]) -> dict[str, Any]:
    return {key: part for key, part in schema.items() if key not in ("$id", "$schema")}


def _cache_key(question: Question) -> dict[str, str]:
    """The key of the prompts that begin with this question's own words; none without such words."""
    if question.system is None:
        return {}
    digest = hashlib.sha256(one_line([question.system, question.output])).hexdigest()
    return {"prompt_cache_key": f"keld-{digest[:24]}"}
