"""OpenAI's usage: pages of the usage API saved as JSON, and the CSV of the dashboard.  Buckets of a minute, an hour or a day.

Names of openai 3.52.0, `types/admin/organization`, and of two public write-ups of the CSV (29 Nov 2026).  `user_id` is a member of the
organization, not the person who waits.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from keld.audit.format import Format, needs


def _rows(document: Any) -> Iterator[Mapping[str, Any]]:
    for bucket in document.get("data") or [document]:
        for result in bucket.get("results") or ():
            lane = "batch" if result.get("batch") is True else result.get("service_tier")
            item = str(result.get("line_item") or "")
            model = result.get("model") or item.partition(",")[0]
            yield {**result, "model": model, "start_time": bucket.get("start_time"), "end_time": bucket.get("end_time"), "lane": lane}


_NAMES: dict[str, tuple[str, ...]] = {
    "at": ("start_time",),
    "end": ("end_time",),
    "model": ("model",),
    "service": ("api_key_name", "api_key_id", "project_name", "project_id"),
    "operation": ("line_item", "api_source", "object"),
    "input": ("input_tokens", "n_context_tokens_total"),
    "cached": ("input_cached_tokens",),
    "written": ("input_cache_write_tokens",),
    "output": ("output_tokens", "n_generated_tokens_total"),
    "requests": ("num_model_requests", "n_requests"),
}
PAGES = Format(
    name="openai_usage",
    title="OpenAI usage API",
    needs=needs("data/0/start_time data/0/results", "start_time end_time results"),
    unfold=_rows,
    names=_NAMES | {"lane": ("lane",), "usd": ("amount/value",)},
    buckets=True,
    provider="openai",
)
TABLE = Format(
    name="openai_csv",
    title="OpenAI dashboard CSV",
    needs=needs("start_time end_time start_time_iso end_time_iso", "n_requests n_context_tokens_total n_generated_tokens_total"),
    names=_NAMES | {"lane": ("batch", "service_tier"), "at": ("start_time", "timestamp")},
    buckets=True,
    provider="openai",
)
