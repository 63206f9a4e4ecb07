"""OTLP: OpenTelemetry's traces as JSON lines (the file exporter), with GenAI spans of any generation of the convention, or OpenInference's.

Names of open-telemetry/semantic-conventions-genai, of opentelemetry-semantic-conventions 0.66b2, and of openinference-semantic-conventions 0.1.42
(29 Nov 2026).  No name of the convention is stable, so those of all its generations are read.  A span of an agent repeats the tokens of its calls;
only the calls are counted, and of calls that contain each other the inner ones.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from keld.audit.format import Format, needs

_OPERATIONS = frozenset(("chat", "text_completion", "generate_content", "embeddings"))
_KINDS = frozenset(("LLM", "EMBEDDING"))
_IN, _GEN = "gen_ai.usage.", "gen_ai."


def _value(value: Any) -> Any:
    """The one value of an attribute; integers are texts in OTLP's JSON."""
    for kind, inner in value.items() if isinstance(value, dict) else ():
        return [_value(one) for one in inner.get("values", ())] if kind == "arrayValue" else inner
    return None


def _attributes(given: Any) -> dict[str, Any]:
    return {one["key"]: _value(one.get("value")) for one in given or () if isinstance(one, dict) and "key" in one}


def _is_call(span: Mapping[str, Any]) -> bool:
    return (
        span.get("gen_ai.operation.name") in _OPERATIONS
        or span.get("openinference.span.kind") in _KINDS
        or ("gen_ai.operation.name" not in span and "openinference.span.kind" not in span and "gen_ai.usage.prompt_tokens" in span)
    )


def _rows(document: Any) -> Iterator[Mapping[str, Any]]:
    calls = []
    for resource in document.get("resourceSpans") or ():
        shared = _attributes((resource.get("resource") or {}).get("attributes"))
        for scope in resource.get("scopeSpans") or ():
            for span in scope.get("spans") or ():
                call = shared | _attributes(span.get("attributes"))
                if _is_call(call):
                    calls.append(span | call | {"failed": (span.get("status") or {}).get("code") in (2, "STATUS_CODE_ERROR")})
    parents = {call.get("parentSpanId") for call in calls}
    for call in calls:
        if call.get("spanId") not in parents:
            yield call | {"succeeded": not call["failed"]}


FORMAT = Format(
    name="otlp",
    title="OpenTelemetry traces",
    needs=needs("resourceSpans"),
    unfold=_rows,
    names={
        "at": ("startTimeUnixNano",),
        "end": ("endTimeUnixNano",),
        "streamed": ("gen_ai.request.stream", "llm.is_streaming", "gen_ai.request.streaming"),
        "ttft_s": ("gen_ai.response.time_to_first_chunk", "gen_ai.server.time_to_first_token"),
        "provider": ("gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system"),
        "model": ("gen_ai.request.model", "gen_ai.response.model", "llm.model_name", "embedding.model_name"),
        "service": ("service.name",),
        "job": ("gen_ai.prompt.name", "gen_ai.agent.name", "tag.tags"),
        "operation": ("gen_ai.operation.name", "openinference.span.kind"),
        "user": ("user.id", "enduser.id"),
        "session": ("gen_ai.conversation.id", "session.id"),
        "trace": ("traceId",),
        "input": (f"{_IN}input_tokens", f"{_IN}prompt_tokens", "llm.usage.prompt_tokens", "llm.token_count.prompt"),
        "output": (f"{_IN}output_tokens", f"{_IN}completion_tokens", "llm.usage.completion_tokens", "llm.token_count.completion"),
        "cached": (f"{_IN}cache_read.input_tokens", f"{_IN}cache_read_input_tokens", "llm.token_count.prompt_details.cache_read"),
        "written": (
            f"{_IN}cache_write.input_tokens",
            f"{_IN}cache_creation.input_tokens",
            f"{_IN}cache_creation_input_tokens",
            "llm.token_count.prompt_details.cache_write",
        ),
        "usd": ("llm.cost.total",),
        "lane": (
            "openai.response.service_tier",
            "openai.request.service_tier",
            f"{_GEN}openai.response.service_tier",
            f"{_GEN}openai.request.service_tier",
        ),
        "ok": ("succeeded",),
    },
)
