"""Anthropic messages: the Messages API, at Anthropic and at the clouds that host its models.

One of the dialects.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from keld.cache import Caching, Ttl
from keld.errors import InvalidJob
from keld.outcome import ANSWERED, Outcome
from keld.price import Lane
from keld.providers.base import NO_EMBEDDINGS, Fit
from keld.providers.dialects.anthropic_schema import obstacle, schema_format
from keld.providers.fault import code_of, scrubbed
from keld.providers.template import Hole, Template, template
from keld.reply import Reply
from keld.request import Question
from keld.schema import OutputSchema
from keld.vocabulary import Count

PATH = "/v1/messages"
# platform.claude.com/docs/en/build-with-claude/prompt-caching, as quoted by others between May and Oct 2026: 512 tokens from the fifth Opus on,
# 4,096 of Haiku 4.5 and Opus 4.5 and 4.6, 2,048 of Opus 4.7 and the Haikus before; 1,024 of all others, including future models.
_LEAST_CACHED = (
    (re.compile(r"(opus|fable|mythos)-5"), 512),
    (re.compile(r"haiku-4|opus-4-[56]"), 4_096),
    (re.compile(r"opus-4-7|haiku"), 2_048),
)
_TTL = {Lane.BATCH: Ttl.HOUR, Lane.STANDARD: Ttl.MINUTES}
_RETRYABLE = frozenset({"api_error", "overloaded_error", "rate_limit_error", "timeout_error"})


@dataclass(frozen=True, slots=True)
class MessagesTemplate:
    """Around one user message, or around a whole conversation."""

    message: Template
    shared: list[dict[str, Any]]  # the system prompt of all rows, as blocks
    conversation: Template
    lifted: Template  # as `conversation`, without the system prompt, which follows the messages together with the row's own

    @property
    def size_bytes(self) -> int:
        return max(self.message.size_bytes, self.conversation.size_bytes)

    def fill(self, fragment: bytes) -> bytes:
        if not fragment.startswith(b"["):
            return self.message.fill(fragment)
        if b'"system"' not in fragment:
            return self.conversation.fill(fragment)
        system, messages = _lift_system(fragment, self.shared)
        return self.lifted.fill(msgspec.json.encode(messages) + b',"system":' + msgspec.json.encode(system))


class Inner(msgspec.Struct, gc=False):
    type: Any = None
    message: Any = None


class _CacheCreation(msgspec.Struct, gc=False):
    ephemeral_1h_input_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation: _CacheCreation | None = None
    output_tokens: int | None = None
    service_tier: str | None = None


class _Block(msgspec.Struct, gc=False):
    type: str | None = None
    text: str | None = None


class Body(msgspec.Struct, gc=False):
    """A message or an error; which one, the fields show.

    What only an error has is of any type: a gateway may give a message such a field too, and its answer is paid.
    """

    model: str | None = None
    content: list[_Block] | None = None
    stop_reason: str | None = None
    usage: _Usage | None = None
    type: str | None = None
    message: Any = None
    error: Any = None

    @property
    def inner(self) -> Inner:
        """The error itself: `{"type": "error", "error": {"type": ..., "message": ...}}`, or without the outer object, as gateways give it."""
        if isinstance(self.error, dict):
            return Inner(type=self.error.get("type"), message=self.error.get("message"))
        return Inner(type=self.type, message=self.message or self.error)


class AnthropicMessages:
    """`Dialect` of the Messages API."""

    body_type = Body
    # In `params` they could ask another model, or allow longer answers, than the plan and the ceiling assume.
    own_params = frozenset(
        ("model", "messages", "input", "max_tokens", "max_completion_tokens", "max_output_tokens", "n", "stream", "service_tier")
    )
    cache_fields = frozenset({"cache_control"})
    whose = "anthropic"  # models, for people

    def path(self, model: str) -> str:
        return PATH

    def head(self, model: str) -> dict[str, Any]:
        """The fields that say which model is asked; a cloud that has the model in the URL wants the version of the API in their place."""
        return {"model": model}

    def fit(self, question: Question, model: str) -> Fit:
        output = OutputSchema.from_json(question.output)
        return Fit(obstacle=NO_EMBEDDINGS.format(whose=self.whose) if output.kind == "embedding" else obstacle(output, model))

    def template(self, question: Question, model: str, cache: Ttl | None) -> MessagesTemplate:
        output = OutputSchema.from_json(question.output)
        if output.kind == "embedding":
            raise InvalidJob(f"{NO_EMBEDDINGS.format(whose=self.whose)}. Nothing was sent.")
        hole = Hole.new()
        bare: dict[str, Any] = self.head(model) | {"max_tokens": question.max_output_tokens} | schema_format(output) | question.params
        shared: list[dict[str, Any]] = [{"type": "text", "text": question.system}] if question.system is not None else []
        if shared and cache is not None:
            shared[0]["cache_control"] = {"type": "ephemeral", "ttl": cache.value}
        system: dict[str, Any] = {"system": _as_text_if_unmarked(shared)} if shared else {}
        return MessagesTemplate(
            message=template(bare | system | {"messages": [{"role": "user", "content": hole.mark}]}, hole),
            shared=shared,
            conversation=template(bare | system | {"messages": hole.mark}, hole),
            lifted=template(bare | {"messages": hole.mark}, hole),
        )

    def in_lane(self, body: bytes, lane: Lane) -> bytes:
        if lane is Lane.FLEX:
            raise InvalidJob("anthropic sells no flex lane. Nothing was sent. Ask in a batch or in the standard lane.")
        return body

    def lane_headers(self, lane: Lane) -> Mapping[str, str]:
        return {}

    def judge(self, custom_id: str, status: int, body: Body) -> Reply:
        if status != 200 or (body.type == "error" and body.content is None):  # some gateways give an error with status 200
            return _errored(custom_id, body)
        usage = body.usage or _Usage()
        read, written = (usage.cache_read_input_tokens or 0), (usage.cache_creation_input_tokens or 0)
        outcome, content, error = _content(body)
        return Reply(
            custom_id=custom_id,
            outcome=outcome,
            content=content,
            error=error,
            model=body.model,
            tier=usage.service_tier,
            # Anthropic's `input_tokens` excludes cached tokens; `Usage` includes them, as every price list does.
            input_tokens=(usage.input_tokens or 0) + read + written,
            cached_tokens=read,
            cache_write_tokens=written,
            cache_write_1h_tokens=min(written, (usage.cache_creation.ephemeral_1h_input_tokens or 0) if usage.cache_creation else 0),
            output_tokens=(usage.output_tokens or 0),
        )

    def caching(self, model: str) -> Caching:
        least = next((tokens for pattern, tokens in _LEAST_CACHED if pattern.search(model)), 1_024)
        return Caching(least_tokens=least, by_itself=False, ttl=_TTL)

    def counter(self, model: str) -> Count | None:
        return None  # no public vocabulary


def _lift_system(fragment: bytes, shared: list[dict[str, Any]]) -> tuple[str | list[dict[str, Any]], list[dict[str, Any]]]:
    """The system prompt and the other messages: the Messages API takes `system` as a field of its own, not as a message."""
    messages = msgspec.json.decode(fragment)
    own = [block for message in messages if message.get("role") == "system" for block in _blocks(message.get("content", ""))]
    return _as_text_if_unmarked([*shared, *own]), [message for message in messages if message.get("role") != "system"]


def _blocks(content: Any) -> list[dict[str, Any]]:
    """The text blocks of a message's content: joined into one, unless the user has marked some."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    parts = [part for part in content if isinstance(part, dict)]
    if any(part.get("cache_control") for part in parts):
        return parts
    return [{"type": "text", "text": "\n".join(part.get("text", "") for part in parts)}]


def _as_text_if_unmarked(blocks: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """The blocks as one text, unless one of them is marked."""
    return blocks if any(block.get("cache_control") for block in blocks) else "\n\n".join(block["text"] for block in blocks)


def _content(body: Body) -> tuple[Outcome, Any, str | None]:
    match body.stop_reason:
        case "refusal":
            return Outcome.REFUSED, None, "the model refused"
        case "max_tokens":
            return Outcome.INVALID, None, "cut off at max_output_tokens"
        case "model_context_window_exceeded":
            return Outcome.INVALID, None, "the prompt and the answer are longer than the model's context window"
        case "pause_turn" | "tool_use":
            return Outcome.INVALID, None, f"stopped for {body.stop_reason}"
    texts = [block.text for block in body.content or () if block.type in (None, "text") and block.text is not None]
    return (ANSWERED, "".join(texts), None) if texts else (Outcome.INVALID, None, "an answer without content")


def _errored(custom_id: str, error: Body) -> Reply:
    kind, message = code_of(error.inner.type), str(error.inner.message or "")
    return Reply(custom_id=custom_id, outcome=Outcome.ERRORED, error=f"{kind}: {scrubbed(message)}", retryable=kind in _RETRYABLE)
