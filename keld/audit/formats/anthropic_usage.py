"""Anthropic's usage: pages of the usage report or the analytics API saved as JSON, and the two CSV files of the console.

Names of platform.claude.com/docs, anthropic 2.11.0 and seven public parsers of the CSV (29 Nov 2026).  Input is without what was read from or
written to the cache.  The cost file names models for people, and analytics gives fractional cents.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from keld.audit.format import Format, needs


def _rows(document: Any) -> Iterator[Mapping[str, Any]]:
    for bucket in document.get("data") or [document]:
        for result in bucket.get("results") or ():
            made = result.get("cache_creation") or {}
            hour = made.get("ephemeral_1h_input_tokens") or 0
            written = (made.get("ephemeral_5m_input_tokens") or 0) + hour
            yield {**result, "at": bucket.get("starting_at"), "end": bucket.get("ending_at"), "written": written, "written_1h": hour}


PAGES = Format(
    name="anthropic_usage",
    title="Anthropic usage and cost API",
    needs=needs("data/0/starting_at data/0/results", "starting_at ending_at results"),
    unfold=_rows,
    names={
        "at": ("at",),
        "end": ("end",),
        "model": ("model",),
        "service": ("api_key_id", "workspace_id"),
        "operation": ("cost_type",),
        "fresh": ("uncached_input_tokens",),
        "cached": ("cache_read_input_tokens",),
        "written": ("written",),
        "written_1h": ("written_1h",),
        "output": ("output_tokens",),
        "requests": ("requests",),
        "usd_cents": ("amount",),
        "lane": ("service_tier",),
    },
    buckets=True,
    provider="anthropic",
)
USAGE = Format(
    name="anthropic_csv",
    title="Anthropic console, usage CSV",
    needs=needs("usage_date_utc model_version usage_output_tokens"),
    names={
        "at": ("usage_date_utc",),
        "model": ("model_version",),
        "service": ("api_key", "workspace"),
        "fresh": ("usage_input_tokens_no_cache",),
        "cached": ("usage_input_tokens_cache_read",),
        "written": ("usage_input_tokens_cache_write_5m",),
        "written_1h": ("usage_input_tokens_cache_write_1h",),
        "output": ("usage_output_tokens",),
        "lane": ("usage_type",),
    },
    buckets=True,
    provider="anthropic",
)
COST = Format(
    name="anthropic_cost_csv",
    title="Anthropic console, cost CSV",
    needs=needs("usage_date_utc token_type cost_usd model"),
    names={
        "at": ("usage_date_utc",),
        "model": ("model",),
        "service": ("api_key", "workspace"),
        "operation": ("token_type",),
        "usd": ("cost_usd",),
        "lane": ("usage_type",),
    },
    buckets=True,
    provider="anthropic",
)
