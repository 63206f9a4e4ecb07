"""Helicone: the export of requests, as JSON Lines; its CSV has the same fields, some of them empty.

Names of the export tool of Helicone/helicone and of its API's schema (29 Nov 2026).
"""

from keld.audit.format import Format, needs

_SERVICES = ("App", "app", "Service", "service", "Environment")
_JOBS = ("Job", "job", "Feature", "feature", "Task", "task")
FORMAT = Format(
    name="helicone",
    title="Helicone requests",
    needs=needs("request_created_at response_id request_properties", "request_created_at response_status request_user_id"),
    names={
        "id": ("request_id", "response_id"),
        "at": ("request_created_at",),
        "end": ("response_created_at",),
        "duration_ms": ("delay_ms", "latency"),
        "ttft_ms": ("time_to_first_token",),
        "provider": ("provider",),
        "model": ("request_model", "response_model", "model"),
        "service": tuple(f"request_properties/{name}" for name in _SERVICES),
        "job": ("prompt_id", *(f"request_properties/{name}" for name in _JOBS)),
        "operation": ("request_path",),
        "user": ("request_user_id",),
        "session": ("request_properties/Helicone-Session-Id",),
        "tags": ("request_properties",),
        "input": ("prompt_tokens",),
        "output": ("completion_tokens",),
        "cached": ("prompt_cache_read_tokens",),
        "written": ("prompt_cache_write_tokens",),
        "usd": ("cost", "costUSD"),
        "status": ("response_status",),
        "lane": ("request_body/service_tier",),
        "request": ("request_body",),
    },
)
