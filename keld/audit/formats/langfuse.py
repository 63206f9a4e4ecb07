"""Langfuse: the export of `observations_v2` to a bucket (Parquet, CSV, JSON, JSON Lines); the older `observations` has no users and sessions.

Names of langfuse.com/docs, "blob storage export fields", and the API types of langfuse 5.0.4 (29 Nov 2026).  Kinds of usage exclude each other
there: `input` is without what was read from the cache.
"""

from keld.audit.format import Format, needs

FORMAT = Format(
    name="langfuse",
    title="Langfuse observations",
    needs=needs(
        "trace_id type start_time end_time usage_details",
        "traceId type startTime endTime usageDetails",
        "traceId type startTime endTime usage",
    ),
    only={"type": frozenset(("generation", "embedding"))},
    names={
        "id": ("id",),
        "at": ("start_time", "startTime"),
        "end": ("end_time", "endTime"),
        "ttft_s": ("time_to_first_token", "timeToFirstToken"),
        "model": ("provided_model_name", "model", "providedModelName"),
        "service": ("metadata/service", "environment", "project_id"),
        "job": ("trace_name", "traceName", "name"),
        "user": ("user_id", "userId"),
        "session": ("session_id", "sessionId"),
        "trace": ("trace_id", "traceId"),
        "tags": ("tags",),
        "operation": ("type",),
        "fresh": ("usage_details/input", "usageDetails/input", "usage/input"),
        "cached": (
            "usage_details/input_cached_tokens",
            "usage_details/cache_read_input_tokens",
            "usage_details/input_cache_read",
            "usageDetails/input_cached_tokens",
        ),
        "written": ("usage_details/cache_creation_input_tokens", "usage_details/input_cache_creation"),
        "output": ("usage_details/output", "usageDetails/output", "usage/output"),
        "usd": ("total_cost", "totalCost", "calculatedTotalCost", "cost_details/total", "costDetails/total"),
        "status": ("level",),
        "lane": ("model_parameters/service_tier",),
        "request": ("input",),
    },
)
