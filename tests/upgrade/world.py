"""World: the jobs and rows that an earlier version had under way, the same for whoever finishes them."""

from __future__ import annotations

from typing import Any, Literal

import pyarrow as pa
from pydantic import BaseModel

from keld import Job

MODELS = {"openai": "openai:gpt-5-mini", "anthropic": "anthropic:claude-haiku-4-5"}
LATENCY_S = 600.0


class Label(BaseModel):
    category: Literal["billing", "bug", "account", "other"]
    urgent: bool


def job(provider: str, **terms: Any) -> Job:
    """The job of all partitions of a provider."""
    return Job(
        **{
            "name": f"labels_{provider}", "key": "ticket_id", "system": "You triage support tickets.", "prompt": "Classify:\n\n{body}",
            "output_type": Label, "models": MODELS[provider], "max_output_tokens": 256, "max_shard_rows": 3, "ceiling_usd": 5, **terms,
        }
    )  # fmt: skip


def rows(partition: str, *, changed: int | None = None) -> pa.Table:
    """Six rows of a partition, the last with the prompt of the first; the one at `changed` says something else."""
    bodies = [f"{partition}: ticket {n} is about {'a printer' if n == changed else 'an invoice'}" for n in (0, 1, 2, 3, 4, 0)]
    return pa.table({"ticket_id": [f"t-{n}" for n in range(6)], "body": bodies})
