"""Groq: api.groq.com, with OpenAI's files and batches."""

from __future__ import annotations

from dataclasses import replace

from keld.price import Lane
from keld.providers.part import bearer
from keld.providers.presets import openai
from keld.providers.presets.common import chat_only
from keld.providers.presets.openai import CHAT

PRESET = replace(
    openai.PRESET,
    kind="groq",
    base_url="https://api.groq.com/openai/v1",
    base_url_env="GROQ_BASE_URL",
    api_key_env="GROQ_API_KEY",
    dialect=chat_only("Groq", CHAT),  # batches of chat completions only (groq 1.7, types/batch_create_params.py)
    dialects=(CHAT,),
    auth=bearer,
    prices="groq",
    # 100 MB by the SDK, 200 MB by a page of the documentation (Nov 2026): the smaller one.  Its flex lane costs the same as the standard one.
    # Neither the order of the list nor any paging is documented.
    traits=replace(
        openai.PRESET.traits,
        limits=replace(openai.PRESET.traits.limits, max_bytes=100_000_000),
        lanes=frozenset({Lane.BATCH, Lane.STANDARD}),
        newest_first=False,
    ),
)
