"""Gemini answer: reads an answer of Gemini's models, generated or embedded, and their errors.

A part of the dialects of Gemini, and of Vertex, which has the same messages: ai.google.dev/api/generate-content and ai.google.dev/api/embeddings,
and the types of google-genai 3.6, Nov 2026.
"""

from __future__ import annotations

from typing import Any

import msgspec

from keld.outcome import ANSWERED, Outcome
from keld.providers.fault import code_of, scrubbed
from keld.providers.line import RETRYABLE_STATUS
from keld.reply import Reply

# The model or a filter declined; any other reason but STOP is an answer that cannot be used.
_DECLINED = frozenset(
    ("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "ESCALATION", "MODEL_ARMOR", "PUP_LIMITED_DISABLED"),
).union(("IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION"))
_BY_CHANCE = frozenset(("MALFORMED_RESPONSE", "MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "OTHER"))  # another try may end well
_RETRYABLE = frozenset(("RESOURCE_EXHAUSTED", "UNAVAILABLE", "INTERNAL", "DEADLINE_EXCEEDED", "ABORTED", "CANCELLED", "UNKNOWN"))
# The numbers of google.rpc.Code, which a line of a batch's results has in place of the word.
_RPC = {
    1: "CANCELLED", 2: "UNKNOWN", 3: "INVALID_ARGUMENT", 4: "DEADLINE_EXCEEDED", 5: "NOT_FOUND", 7: "PERMISSION_DENIED", 8: "RESOURCE_EXHAUSTED",
    9: "FAILED_PRECONDITION", 10: "ABORTED", 11: "OUT_OF_RANGE", 12: "UNIMPLEMENTED", 13: "INTERNAL", 14: "UNAVAILABLE", 16: "UNAUTHENTICATED",
}  # fmt: skip
_TRAFFIC = {"ON_DEMAND": "standard", "ON_DEMAND_FLEX": "flex", "ON_DEMAND_PRIORITY": "priority"}  # how Vertex tells the tier
_HTTP = {
    400: "INVALID_ARGUMENT", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 408: "DEADLINE_EXCEEDED", 409: "ABORTED", 429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED", 500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip


class Error(msgspec.Struct, gc=False):
    """A google.rpc.Status; `code` is an HTTP status in a reply, and an rpc code in a result line."""

    code: int | str | None = None
    status: str | None = None
    message: str | None = None


class _Part(msgspec.Struct, gc=False):
    text: str | None = None
    thought: bool | None = None


class _Content(msgspec.Struct, gc=False):
    parts: list[_Part] | None = None


class _Candidate(msgspec.Struct, gc=False, rename="camel"):
    content: _Content | None = None
    finish_reason: str | None = None


class _Feedback(msgspec.Struct, gc=False, rename="camel"):
    block_reason: str | None = None


class _Usage(msgspec.Struct, gc=False, rename="camel"):
    prompt_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int | None = None
    cached_content_token_count: int | None = None
    tool_use_prompt_token_count: int | None = None
    service_tier: str | None = None
    traffic_type: str | None = None  # at Vertex


class _Vector(msgspec.Struct, gc=False):
    values: list[float] | None = None


class Body(msgspec.Struct, gc=False, rename="camel"):
    """An answer, an embedding or an error; which one, the fields show."""

    candidates: list[_Candidate] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: _Usage | None = None
    model_version: str | None = None
    embedding: _Vector | None = None
    token_count: int | str | None = None  # of an embedding in a batch; a 64-bit integer, so a text
    error: Any = None


def judge(custom_id: str, status: int, body: Body) -> Reply:
    """The outcome, content and usage of an answer."""
    if status != 200:
        return errored(custom_id, status, body.error)
    usage = body.usage_metadata or _Usage()
    outcome, content, error, again = _content(body)
    tokens = usage.prompt_token_count if usage.prompt_token_count is not None else _number(body.token_count)
    return Reply(
        custom_id=custom_id,
        outcome=outcome,
        content=content,
        error=error,
        retryable=again,
        model=body.model_version,
        tier=(usage.service_tier or "").lower() or _TRAFFIC.get(usage.traffic_type or ""),
        # `promptTokenCount` includes the cached tokens, but not what tools gave the model to read; thoughts are beside the candidates.
        input_tokens=tokens + (usage.tool_use_prompt_token_count or 0),
        cached_tokens=usage.cached_content_token_count or 0,
        output_tokens=(usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0),
    )


def errored(custom_id: str, status: int, error: Any) -> Reply:
    """The reply of a request that failed, with the error of a reply or of a result line; `status` is 0 if only the error is known."""
    fields = error if isinstance(error, dict) else {}
    word, code = word_of(fields) if fields else f"http_{status}", fields.get("code")
    server = status >= 500 or status in RETRYABLE_STATUS - {0} or (isinstance(code, int) and code >= 500)
    said = f"{word}: {scrubbed(str(fields.get('message') or 'no reason given'))}"
    return Reply(custom_id=custom_id, outcome=Outcome.ERRORED, error=said, retryable=word in _RETRYABLE or server or not fields)


def word_of(error: dict[str, Any]) -> str:
    """The word of an error's code, whether it has the word or a number of google.rpc.Code or of HTTP."""
    code = error.get("code")
    return code_of(error.get("status") or (_RPC.get(code) or _HTTP.get(code) if isinstance(code, int) else None) or code)


def _content(body: Body) -> tuple[Outcome, Any, str | None, bool]:
    """Outcome, content, reason, and whether another try may end better."""
    if body.embedding is not None:
        vector = body.embedding.values
        return (ANSWERED, vector, None, False) if vector else (Outcome.INVALID, None, "an answer without an embedding", False)
    if not body.candidates:
        blocked = body.prompt_feedback.block_reason if body.prompt_feedback else None
        if blocked:
            return Outcome.REFUSED, None, f"the prompt was blocked ({code_of(blocked)})", False
        return Outcome.INVALID, None, "an answer without content", False
    candidate = body.candidates[0]
    reason = candidate.finish_reason or "STOP"
    if reason in _DECLINED:
        return Outcome.REFUSED, None, f"the answer was blocked ({reason})", False
    if reason == "MAX_TOKENS":
        return Outcome.INVALID, None, "cut off at max_output_tokens, which thoughts count into", False
    if reason != "STOP":
        return Outcome.INVALID, None, f"stopped for {code_of(reason)}", reason in _BY_CHANCE
    parts = candidate.content.parts if candidate.content else None
    texts = [part.text for part in parts or () if part.text is not None and not part.thought]
    return (ANSWERED, "".join(texts), None, False) if texts else (Outcome.INVALID, None, "an answer without content", False)


def _number(count: int | str | None) -> int:
    return int(count) if isinstance(count, int) or (count is not None and count.isdigit()) else 0
