"""Together: api.together.ai's own host, without its batches: their uploads have a wire of their own, and the batches carry no mark."""

from __future__ import annotations

from dataclasses import replace

from keld.providers.presets import openai_compatible
from keld.providers.presets.common import MAX_TOKENS_CHAT
from keld.providers.presets.openai import EMBEDDINGS

PRESET = replace(
    openai_compatible.PRESET,
    kind="together",
    base_url="https://api.together.xyz/v1",
    base_url_env="TOGETHER_BASE_URL",
    api_key_env="TOGETHER_API_KEY",
    dialect=lambda question, model: EMBEDDINGS if question.output["kind"] == "embedding" else MAX_TOKENS_CHAT,
    dialects=(MAX_TOKENS_CHAT, EMBEDDINGS),
    prices="together",
)
