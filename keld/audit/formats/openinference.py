"""OpenInference: spans as Phoenix gives them: a frame saved as CSV, Parquet or JSON Lines, whose columns are attributes joined by dots.

Names of openinference-semantic-conventions 0.1.42 (29 Nov 2026).
"""

from keld.audit.format import Format, needs


def _named(*names: str) -> tuple[str, ...]:
    """An attribute as the frame has it, and as the API's JSON has it."""
    return tuple(path for name in names for path in (f"attributes.{name}", f"attributes/{name}", f"attributes/{name.replace('.', '/')}"))


FORMAT = Format(
    name="openinference",
    title="OpenInference spans (Phoenix)",
    needs=needs("span_kind start_time end_time"),
    only={"span_kind": frozenset(("llm", "embedding"))},
    names={
        "id": ("context.span_id", "context/span_id"),
        "at": ("start_time",),
        "end": ("end_time",),
        "provider": _named("llm.provider", "llm.system"),
        "model": _named("llm.model_name", "embedding.model_name"),
        "service": ("attributes.metadata/service", *_named("metadata.service", "service.name")),
        "job": (*_named("tag.tags"), "name"),
        "operation": ("span_kind",),
        "user": _named("user.id"),
        "session": _named("session.id"),
        "trace": ("context.trace_id", "context/trace_id"),
        "tags": _named("tag.tags"),
        "input": _named("llm.token_count.prompt"),
        "cached": _named("llm.token_count.prompt_details.cache_read"),
        "written": _named("llm.token_count.prompt_details.cache_write"),
        "output": _named("llm.token_count.completion"),
        "usd": _named("llm.cost.total"),
        "status": ("status_code",),
    },
)
