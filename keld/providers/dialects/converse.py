"""Converse: the one API of Amazon Bedrock that all its models have, in batches and in the fast lanes.

One of the dialects.  The model is in the URL, or in the create of a batch, never in the body.  Wire: docs.aws.amazon.com/bedrock/latest/APIReference/
API_runtime_Converse.html and botocore 1.43's service model, read 29 Nov 2026.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import msgspec

from keld.cache import Caching, Ttl
from keld.errors import InvalidJob
from keld.outcome import ANSWERED, Outcome
from keld.price import Lane
from keld.providers.base import NO_EMBEDDINGS, Fit
from keld.providers.dialects import converse_schema
from keld.providers.fault import code_of, scrubbed
from keld.providers.line import RETRYABLE_STATUS
from keld.providers.template import Hole, Template, template
from keld.providers.word import reply_words
from keld.reply import Reply
from keld.request import Question, one_line
from keld.schema import OutputSchema
from keld.vocabulary import Count

# A job may name models of several vendors, so its `params` have the common names; Converse has others, inside `inferenceConfig`.
_INFERENCE = {"temperature": "temperature", "top_p": "topP", "stop": "stopSequences", "stop_sequences": "stopSequences"}
_FLEX = b',"serviceTier":{"type":"flex"}}'
# docs.aws.amazon.com/bedrock/latest/userguide/prompt-caching.html, 29 Nov 2026: Nova keeps a beginning of 1,024 tokens or more for five minutes.
_CACHED = re.compile(r"amazon\.nova")
_LEAST_CACHED = 1_024
_STOPPED = {
    "max_tokens": (Outcome.INVALID, "cut off at max_output_tokens"),
    "model_context_window_exceeded": (Outcome.INVALID, "the prompt and the answer are longer than the model's context window"),
    "malformed_model_output": (Outcome.INVALID, "the model's output was malformed"),
    "malformed_tool_use": (Outcome.INVALID, "the model's tool use was malformed"),
    "tool_use": (Outcome.INVALID, "stopped for tool_use"),
    "guardrail_intervened": (Outcome.REFUSED, "stopped by the guardrail"),
    "content_filtered": (Outcome.REFUSED, "stopped by the content filter"),
}


@dataclass(frozen=True, slots=True)
class ConverseTemplate:
    """Around one user message, or around a whole conversation, which has its own form here."""

    message: Template
    shared: list[dict[str, Any]]  # the system prompt of all rows, as blocks
    conversation: Template  # without the system prompt, which follows the messages together with the row's own

    @property
    def size_bytes(self) -> int:
        return max(self.message.size_bytes, self.conversation.size_bytes + len(one_line(self.shared)) + len(b',"system":'))

    def fill(self, fragment: bytes) -> bytes:
        if not fragment.startswith(b"["):
            return self.message.fill(fragment)
        system = list(self.shared)
        messages: list[dict[str, Any]] = []
        for message in msgspec.json.decode(fragment):
            blocks = _blocks(message.get("content", ""))
            if message.get("role") == "system":
                system += blocks
            elif messages and messages[-1].get("role") == message.get("role"):  # roles must alternate
                messages[-1]["content"] += blocks
            else:
                messages.append({**message, "content": blocks})
        more = b',"system":' + one_line(system) if system else b""
        return self.conversation.fill(one_line(messages) + more)


class _CacheDetail(msgspec.Struct, gc=False):
    ttl: str | None = None
    inputTokens: int | None = None  # noqa: N815  the names of the wire, as in all structs here


class _Usage(msgspec.Struct, gc=False):
    inputTokens: int | None = None  # noqa: N815
    outputTokens: int | None = None  # noqa: N815
    cacheReadInputTokens: int | None = None  # noqa: N815
    cacheWriteInputTokens: int | None = None  # noqa: N815
    cacheDetails: list[_CacheDetail] | None = None  # noqa: N815


class _Block(msgspec.Struct, gc=False):
    text: str | None = None  # other blocks, such as `reasoningContent`, are no part of the answer


class _Message(msgspec.Struct, gc=False):
    content: list[_Block] | None = None


class _Output(msgspec.Struct, gc=False):
    message: _Message | None = None


class _Tier(msgspec.Struct, gc=False):
    type: str | None = None


class Body(msgspec.Struct, gc=False):
    """An answer or an error; which one, the fields show."""

    output: _Output | None = None
    stopReason: str | None = None  # noqa: N815
    usage: _Usage | None = None
    serviceTier: _Tier | None = None  # noqa: N815
    message: Any = None  # of an error
    error: Any = None


class Converse:
    """`Dialect` of Converse."""

    body_type = Body
    # In `params` they could ask another model, or allow longer answers, than the plan and the ceiling assume.
    own_params = frozenset((
        "model", "modelId", "messages", "system", "input", "max_tokens", "max_completion_tokens", "max_output_tokens", "n", "stream",
        "service_tier", "serviceTier", "inferenceConfig",
    ))  # fmt: skip
    cache_fields = frozenset({"cachePoint"})

    def path(self, model: str) -> str:
        return f"/model/{quote(model, safe='')}/converse"

    def fit(self, question: Question, model: str) -> Fit:
        return converse_schema.fit(OutputSchema.from_json(question.output), model)

    def template(self, question: Question, model: str, cache: Ttl | None) -> ConverseTemplate:
        output = OutputSchema.from_json(question.output)
        if output.kind == "embedding":
            raise InvalidJob(f"{NO_EMBEDDINGS.format(whose='bedrock')}. Nothing was sent.")
        hole = Hole.new()
        bare = (
            _inference(question) | converse_schema.schema_format(output) | {k: v for k, v in question.params.items() if k not in _INFERENCE}
        )
        shared: list[dict[str, Any]] = [{"text": question.system}] if question.system is not None else []
        if shared and cache is not None:
            shared.append(_cache_point(cache.value))
        system = {"system": shared} if shared else {}
        message = {"messages": [{"role": "user", "content": [{"text": hole.mark}]}]}
        return ConverseTemplate(
            message=template(bare | system | message, hole),
            shared=shared,
            conversation=template(bare | {"messages": hole.mark}, hole),
        )

    def in_lane(self, body: bytes, lane: Lane) -> bytes:
        return body[:-1] + _FLEX if lane is Lane.FLEX else body

    def lane_headers(self, lane: Lane) -> dict[str, str]:
        return {}

    def judge(self, custom_id: str, status: int, body: Body) -> Reply:
        if status != 200:
            return _errored(custom_id, status, body)
        usage = body.usage or _Usage()
        read, written = (usage.cacheReadInputTokens or 0), (usage.cacheWriteInputTokens or 0)
        outcome, content, error = _content(body)
        return Reply(
            custom_id=custom_id,
            outcome=outcome,
            content=content,
            error=error,
            tier=body.serviceTier.type if body.serviceTier else None,
            # `inputTokens` excludes cached tokens; `Usage` includes them, as every price list does.
            input_tokens=(usage.inputTokens or 0) + read + written,
            cached_tokens=read,
            cache_write_tokens=written,
            cache_write_1h_tokens=min(written, sum(one.inputTokens or 0 for one in usage.cacheDetails or () if one.ttl == Ttl.HOUR)),
            output_tokens=(usage.outputTokens or 0),
        )

    def caching(self, model: str) -> Caching:
        # No mark in a batch: that its discount and the cache's add up is documented nowhere (29 Nov 2026).
        marks = {Lane.STANDARD: Ttl.MINUTES, Lane.FLEX: Ttl.MINUTES} if _CACHED.search(model) else {}
        return Caching(least_tokens=_LEAST_CACHED, by_itself=False, ttl=marks)

    def counter(self, model: str) -> Count | None:
        return None  # no public vocabulary


def _inference(question: Question) -> dict[str, Any]:
    named = {_INFERENCE[name]: value for name, value in question.params.items() if name in _INFERENCE}
    if isinstance(named.get("stopSequences"), str):  # OpenAI takes one text, too
        named["stopSequences"] = [named["stopSequences"]]
    return {"inferenceConfig": {**named, "maxTokens": question.max_output_tokens}}


def _blocks(content: Any) -> list[dict[str, Any]]:
    """A message's content as Converse's blocks; blocks that are Converse's already stay as they are."""
    if isinstance(content, str):
        return [{"text": content}]
    return [block for part in content for block in _converted(part)]


def _converted(part: Any) -> list[dict[str, Any]]:
    if not isinstance(part, dict) or part.get("type") != "text":
        return [part]
    mark = part.get("cache_control")
    marked = [_cache_point(mark.get("ttl"))] if isinstance(mark, dict) else []
    return [{"text": part.get("text", "")}, *marked]


def _cache_point(ttl: str | None) -> dict[str, Any]:
    # `5m` is the default, and the only one that most models take.
    return {"cachePoint": {"type": "default"} | ({"ttl": ttl} if ttl not in (None, Ttl.MINUTES) else {})}


def _content(body: Body) -> tuple[Outcome, Any, str | None]:
    stopped = _STOPPED.get(body.stopReason or "")
    if stopped is not None:
        return stopped[0], None, stopped[1]
    message = body.output.message if body.output else None
    texts = [block.text for block in (message.content if message else None) or () if block.text is not None]
    return (ANSWERED, "".join(texts), None) if texts else (Outcome.INVALID, None, "an answer without content")


def _errored(custom_id: str, status: int, body: Body) -> Reply:
    inner = body.error if isinstance(body.error, dict) else {}
    said = body.message or inner.get("message") or "no reason given"
    retryable = status in RETRYABLE_STATUS or status >= 500
    code = code_of(inner.get("code")) if inner.get("code") else "error"
    return Reply(
        custom_id=custom_id, outcome=Outcome.ERRORED, error=f"{reply_words(status, code)}: {scrubbed(str(said))}", retryable=retryable
    )
