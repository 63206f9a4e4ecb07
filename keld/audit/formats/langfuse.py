"""Langfuse: the export of `observations_v2` to a bucket (Parquet, CSV, JSON, JSON Lines); the older `observations` has no users and sessions.

Names of langfuse.com/docs, "blob storage export fields", and the API types of langfuse 5.0.4 (29 Nov 2026).  Kinds of usage exclude each other
there: `input` is without what was read from the cache.
"""

from keld.audit.format import Format, needs


def _usage(*kinds: str) -> tuple[str, ...]:
    """Kinds of usage, as the export and as the API name the field that has them."""
    return tuple(f"{field}/{kind}" for field in ("usage_details", "usageDetails") for kind in kinds)


FORMAT = Format(
    name="langfuse",
    title="Langfuse observations",
    needs=needs(
        "trace_id type start_time end_time usage_details",
        "traceId type startTime endTime usageDetails",
        "traceId type startTime endTime usage",
        "traceId startTime endTime promptTokens completionTokens",
    ),
    only={"type": frozenset(("generation", "embedding"))},
    names={
        "id": ("id",),
        "at": ("start_time", "startTime"),
        "end": ("end_time", "endTime"),
        "first_at": ("completion_start_time", "completionStartTime"),
        "ttft_s": ("time_to_first_token", "timeToFirstToken"),
        "model": ("provided_model_name", "model", "providedModelName"),
        "service": ("metadata/service", "environment", "project_id"),
        "job": ("trace_name", "traceName", "name"),
        "user": ("user_id", "userId"),
        "session": ("session_id", "sessionId"),
        "trace": ("trace_id", "traceId"),
        "tags": ("tags",),
        "operation": ("type",),
        "fresh": (*_usage("input", "input_tokens", "prompt_tokens"), "usage/input", "promptTokens"),
        "cached": _usage("input_cached_tokens", "cache_read_input_tokens", "input_cache_read"),
        "written": _usage("cache_creation_input_tokens", "input_cache_creation"),
        "output": (*_usage("output", "output_tokens", "completion_tokens"), "usage/output", "completionTokens"),
        "usd": ("total_cost", "totalCost", "calculatedTotalCost", "cost_details/total", "costDetails/total"),
        "status": ("level",),
        "lane": ("model_parameters/service_tier", "modelParameters/service_tier"),
        "request": ("input",),
    },
)
