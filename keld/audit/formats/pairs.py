"""Pairs: plain JSON Lines of requests and responses, `{"request": {...}, "response": {...}, "started_at": ..., "ended_at": ...}`.

The bodies are those of OpenAI's or Anthropic's API, as they were sent and received.  It is the one kind of log from which a whole Job can be made.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from keld.audit.format import Format, needs

_APART = ("cache_read_input_tokens", "cache_creation_input_tokens")  # Anthropic's usage: the input is without these


def _rows(pair: Any) -> Iterator[Mapping[str, Any]]:
    request, response = pair.get("request") or {}, pair.get("response") or {}
    usage = response.get("usage") or {}
    made = usage.get("cache_creation") or {}
    kind = "fresh" if any(name in usage for name in _APART) else "input"
    yield {
        **pair,
        **{name: usage.get(name) for name in _APART},
        "response": None,
        "answer": response.get("id"),
        "model": request.get("model") or response.get("model"),
        kind: usage.get("prompt_tokens", usage.get("input_tokens")),
        "cached": usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {},
        "written_1h": made.get("ephemeral_1h_input_tokens"),
        "output": usage.get("completion_tokens", usage.get("output_tokens")),
        "created": response.get("created") or response.get("created_at"),
        "tier": usage.get("service_tier") or response.get("service_tier") or request.get("service_tier"),
    }


FORMAT = Format(
    name="pairs",
    title="requests and responses",
    needs=needs("request response"),
    unfold=_rows,
    names={
        "at": ("started_at", "created_at", "timestamp", "created"),
        "end": ("ended_at", "completed_at"),
        "duration_s": ("duration_s",),
        "duration_ms": ("duration_ms",),
        "provider": ("provider",),
        "model": ("model",),
        "service": ("service", "api_key_name"),
        "job": ("job", "tags"),
        "operation": ("operation", "endpoint", "path"),
        "user": ("user", "request/user", "request/metadata/user_id"),
        "session": ("session", "session_id"),
        "trace": ("trace", "trace_id"),
        "tags": ("tags",),
        "input": ("input",),
        "fresh": ("fresh",),
        "cached": ("cached/cached_tokens", "cache_read_input_tokens"),
        "written": ("cache_creation_input_tokens",),
        "written_1h": ("written_1h",),
        "output": ("output",),
        "usd": ("cost", "usd"),
        "status": ("status", "status_code"),
        "lane": ("tier",),
        "id": ("answer",),
        "request": ("request",),
    },
)
