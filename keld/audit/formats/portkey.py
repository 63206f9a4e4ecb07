"""Portkey: the export of its logs.

Names of portkey.ai/docs, "export logs" (29 Nov 2026); that `cost` is in cents is said there of the API and was not seen in a real file.
"""

from keld.audit.format import Format, needs

FORMAT = Format(
    name="portkey",
    title="Portkey logs",
    needs=needs("created_at ai_org ai_model req_units res_units"),
    names={
        "id": ("id",),
        "at": ("created_at",),
        "duration_ms": ("response_time",),
        "streamed": ("request/stream",),
        "provider": ("ai_org",),
        "model": ("ai_model",),
        "service": ("metadata/service", "metadata/_service", "config"),
        "job": ("prompt_slug", "metadata/job", "metadata/feature"),
        "operation": ("request_url",),
        "user": ("metadata/_user", "metadata/user"),
        "session": ("metadata/session_id",),
        "trace": ("trace_id",),
        "tags": ("metadata",),
        "input": ("req_units",),
        "output": ("res_units",),
        "usd_cents": ("cost",),
        "status": ("response_status_code",),
        "request": ("request",),
    },
)
