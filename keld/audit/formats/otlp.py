"""OTLP: OpenTelemetry's traces as JSON lines (the file exporter), with GenAI spans of any generation of the convention, or OpenInference's.

Names of open-telemetry/semantic-conventions-genai, of opentelemetry-semantic-conventions 0.66b2, and of openinference-semantic-conventions 0.1.42
(29 Nov 2026).  No name of the convention is stable, so those of all its generations are read.
"""

from keld.audit.format import Format, needs
from keld.audit.span import Document, Table

_IN, _GEN = "gen_ai.usage.", "gen_ai."
_NAMES: dict[str, tuple[str, ...]] = {
    "at": ("begun",),
    "end": ("ended",),
    "streamed": ("gen_ai.request.stream", "llm.is_streaming", "gen_ai.request.streaming"),
    "ttft_s": ("gen_ai.response.time_to_first_chunk", "gen_ai.server.time_to_first_token"),
    "provider": ("gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system"),
    "model": ("gen_ai.request.model", "gen_ai.response.model", "llm.model_name", "embedding.model_name"),
    "service": ("service.name",),
    "job": ("gen_ai.prompt.name", "gen_ai.agent.name", "tag.tags"),
    "operation": ("gen_ai.operation.name", "openinference.span.kind"),
    "user": ("user.id", "enduser.id"),
    "session": ("gen_ai.conversation.id", "session.id"),
    "trace": ("trace",),
    "id": ("span",),
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
}
_OWN = ("begun", "ended", "trace", "span", "succeeded")
_TABLE = Table([path for paths in _NAMES.values() for path in paths if path not in _OWN])
FORMAT = Format(
    name="otlp",
    title="OpenTelemetry traces",
    needs=needs("resourceSpans"),
    marks=(b"gen_ai.", b"openinference.span.kind"),
    unfold=_TABLE.rows,
    columns=_TABLE.names,
    document=Document,
    names=_NAMES,
)
