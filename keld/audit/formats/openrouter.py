"""OpenRouter: the CSV of its activity page.  Its activity API gives sums of days and is another thing.

Names of a real file's header (29 Nov 2026).
"""

from keld.audit.format import Format, needs

FORMAT = Format(
    name="openrouter",
    title="OpenRouter activity",
    needs=needs("generation_id created_at cost_total model_permaslug"),
    names={
        "id": ("generation_id",),
        "at": ("created_at",),
        "duration_ms": ("generation_time_ms",),
        "streamed": ("streamed",),
        "model": ("model_permaslug",),
        "service": ("api_key_name",),
        "job": ("app_name",),
        "user": ("user",),
        "input": ("tokens_prompt",),
        "cached": ("tokens_cached",),
        "output": ("tokens_completion",),
        "usd": ("cost_total",),
        "status": ("finish_reason_normalized",),
        "lane": ("variant",),
    },
    provider="openrouter",
)
