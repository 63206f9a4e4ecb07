"""LiteLLM: the table `LiteLLM_SpendLogs`, as rows of JSON, as CSV, or read from its Postgres; and the standard logging payload (S3, GCS).

Names of prisma/schema.prisma and types/utils.py of litellm 1.110.2 (29 Nov 2026).  `completionStartTime` is null, or equal to the end, for a
call that did not stream.  What the proxy books for a batch has the call type `aretrieve_batch`.
"""

from keld.audit.format import Format, needs

_ASKED = {"cache_hit": frozenset(("false", "none"))}  # what the proxy answered from its own cache has tokens, and costs nothing
_USAGE = ("metadata/usage_object", "metadata/additional_usage_values")
_SHARED = {
    "at": ("startTime",),
    "end": ("endTime",),
    "first_at": ("completionStartTime",),
    "provider": ("custom_llm_provider",),
    "model": ("model", "model_group"),
    "service": ("metadata/user_api_key_alias", "metadata/user_api_key_hash", "api_key"),
    "job": ("request_tags",),
    "operation": ("call_type",),
    "tags": ("request_tags",),
    "input": ("prompt_tokens",),
    "output": ("completion_tokens",),
    "cached": (f"{_USAGE[0]}/prompt_tokens_details/cached_tokens", *(f"{usage}/cache_read_input_tokens" for usage in _USAGE)),
    "written": tuple(f"{usage}/cache_creation_input_tokens" for usage in _USAGE),
    "status": ("status",),
}
TABLE = Format(
    name="litellm",
    title="LiteLLM spend logs",
    needs=needs("request_id call_type spend startTime endTime", "request_id api_key spend startTime endTime model"),
    only=_ASKED,
    names=_SHARED
    | {
        "id": ("request_id",),
        "user": ("end_user",),
        "session": ("session_id",),
        "trace": ("session_id",),
        "usd": ("spend",),
        "lane": (f"{_USAGE[0]}/service_tier",),
    },
)
PAYLOAD = Format(
    name="litellm_payload",
    title="LiteLLM standard logging payload",
    needs=needs("id call_type response_cost startTime endTime"),
    only=_ASKED,
    names=_SHARED
    | {
        "id": ("id",),
        "streamed": ("stream",),
        "user": ("end_user",),
        "session": ("session_id", "metadata/requester_metadata/session_id"),
        "trace": ("trace_id",),
        "usd": ("response_cost",),
        "lane": ("model_parameters/service_tier",),
        "request": ("messages",),
    },
)
