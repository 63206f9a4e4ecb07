"""OpenRouter: openrouter.ai, without its batches, which carry no mark and cannot be cancelled."""

from __future__ import annotations

from dataclasses import replace

from keld.providers.presets import openai_compatible
from keld.providers.presets.common import MAX_TOKENS_CHAT
from keld.providers.presets.openai import EMBEDDINGS

PRESET = replace(
    openai_compatible.PRESET,
    kind="openrouter",
    base_url="https://openrouter.ai/api/v1",
    base_url_env="OPENROUTER_BASE_URL",
    api_key_env="OPENROUTER_API_KEY",
    dialect=lambda question, model: EMBEDDINGS if question.output["kind"] == "embedding" else MAX_TOKENS_CHAT,
    dialects=(MAX_TOKENS_CHAT, EMBEDDINGS),
    prices="openrouter",
)
