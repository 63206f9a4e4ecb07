"""OpenAI answer: reads the answer to a chat completion, a response or an embedding.

A part of the dialects of OpenAI's family.  One reader for all three, which looks at the fields that are present: hosts of this shape differ a lot.
"""

from __future__ import annotations

from typing import Any

import msgspec

from keld.outcome import ANSWERED, Outcome
from keld.providers.fault import scrubbed
from keld.providers.line import RETRYABLE_STATUS
from keld.providers.word import reply_words
from keld.reply import Reply

# As `length`: the Messages API's word, which gateways pass on, and Mistral's for a full context.
_CUT_OFF = frozenset(("length", "max_tokens", "model_length"))
# The host broke the answer off: OpenRouter and Mistral; vLLM and SGLang; DeepSeek (docs.rs/ds-api 0.10.7, 1 Dec 2026).
_BROKEN_OFF = frozenset(("error", "abort", "insufficient_system_resource"))


class _Error(msgspec.Struct, gc=False):
    code: str | int | None = None
    type: str | None = None
    message: str | None = None


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None


class _Part(msgspec.Struct, gc=False):
    type: str | None = None
    text: str | None = None
    refusal: str | None = None


class _Message(msgspec.Struct, gc=False):
    content: str | list[_Part] | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct, gc=False):
    message: _Message | None = None
    finish_reason: str | None = None


class _Item(msgspec.Struct, gc=False):
    type: str | None = None
    content: list[_Part] | None = None


class _Incomplete(msgspec.Struct, gc=False):
    reason: str | None = None


class _Vector(msgspec.Struct, gc=False):
    embedding: list[float] | str | None = None
    index: Any = None  # of its text in the request; some hosts leave it out where there is one


class Body(msgspec.Struct, gc=False):
    """Chat, responses, embeddings or an error; which one, the fields show."""

    model: str | None = None
    usage: _Usage | None = None
    choices: list[_Choice] | None = None
    output: list[_Item] | None = None
    data: list[_Vector] | None = None
    status: str | None = None
    service_tier: str | None = None
    incomplete_details: _Incomplete | None = None
    error: _Error | str | None = None


def judge(custom_id: str, status: int, body: Body) -> Reply:
    """The outcome, content and usage of an answer."""
    if status != 200:
        return _errored(custom_id, status, body)
    if body.error and not (body.choices or body.output or body.data):
        # OpenRouter passes on its providers' failures so (github.com/UKGovernmentBEIS/inspect_ai/issues/1534), a failed response comes so, too.
        code = body.error.code if isinstance(body.error, _Error) else None
        return _errored(custom_id, code if isinstance(code, int) else 0, body)
    usage = body.usage or _Usage()
    details = usage.prompt_tokens_details or usage.input_tokens_details or _Details()
    outcome, content, error, retryable = _content(body)
    return Reply(
        custom_id=custom_id,
        outcome=outcome,
        content=content,
        parts=_vectors(body.data) if body.data is not None and len(body.data) > 1 else None,
        error=error,
        retryable=retryable,
        model=body.model,
        tier=body.service_tier,
        input_tokens=usage.prompt_tokens or usage.input_tokens or 0,
        cached_tokens=details.cached_tokens or 0,
        cache_write_tokens=details.cache_write_tokens or 0,
        output_tokens=usage.completion_tokens or usage.output_tokens or 0,
    )


def _errored(custom_id: str, status: int, body: Body) -> Reply:
    retryable = status in RETRYABLE_STATUS or status >= 500
    return Reply(custom_id=custom_id, outcome=Outcome.ERRORED, error=_said(status, body.error), retryable=retryable)


def _content(body: Body) -> tuple[Outcome, Any, str | None, bool]:
    """Outcome, content, reason, and whether another try may end better."""
    if body.data is not None:
        vector = body.data[0].embedding if body.data else None
        return (ANSWERED, vector, None, False) if vector else (Outcome.INVALID, None, "an answer without an embedding", False)
    if body.choices is not None:
        choice = body.choices[0] if body.choices else _Choice()
        message = choice.message or _Message()
        text = message.content if not isinstance(message.content, list) else "".join(part.text or "" for part in message.content)
        return _judged(text, message.refusal, choice.finish_reason)
    if body.output is None:  # OpenRouter's, now and then (github.com/pydantic/pydantic-ai/pull/6885)
        return Outcome.ERRORED, None, "a reply without an answer or an error", True
    parts = [part for item in body.output if item.type in (None, "message") for part in item.content or ()]
    text = "".join(part.text or "" for part in parts) or None
    refusal = next((part.refusal for part in parts if part.refusal), None)
    reason = body.incomplete_details.reason if body.incomplete_details else None
    return _judged(text, refusal, {"max_output_tokens": "length"}.get(reason or "", reason))


def _vectors(data: list[_Vector]) -> list[Any] | None:
    """The vectors in the order of the texts of a request; None if they do not say it: a vector must never go to another row."""
    by_index = {
        number if one.index is None else one.index: one.embedding for number, one in enumerate(data) if type(one.index) in (int, type(None))
    }
    found = [by_index.get(number) for number in range(len(data))]
    return found if all(found) else None


def _judged(text: str | None, refusal: str | None, finish: str | None) -> tuple[Outcome, Any, str | None, bool]:
    if refusal:
        return Outcome.REFUSED, None, "the model refused", False
    if finish == "content_filter":
        return Outcome.REFUSED, None, "stopped by the content filter", False
    if finish in _CUT_OFF:
        return Outcome.INVALID, None, "cut off at max_output_tokens", False
    if finish in _BROKEN_OFF:
        return Outcome.INVALID, None, f"the model stopped with an error ({finish})", True
    return (ANSWERED, text, None, False) if text is not None else (Outcome.INVALID, None, "an answer without content", False)


def _said(status: int, error: _Error | str | None) -> str:
    if isinstance(error, _Error):
        return f"{reply_words(status, error.code or error.type)}: {scrubbed(error.message or '')}"
    return f"{reply_words(status)}: {scrubbed(error or 'no reason given')}"
