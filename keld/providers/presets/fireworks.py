"""Fireworks: api.fireworks.ai, without its batches, which are made of data sets."""

from __future__ import annotations

from dataclasses import replace

from keld.providers.presets import openai_compatible
from keld.providers.presets.common import MAX_TOKENS_CHAT
from keld.providers.presets.openai import EMBEDDINGS

PRESET = replace(
    openai_compatible.PRESET,
    kind="fireworks",
    base_url="https://api.fireworks.ai/inference/v1",
    base_url_env="FIREWORKS_BASE_URL",
    api_key_env="FIREWORKS_API_KEY",
    dialect=lambda question, model: EMBEDDINGS if question.output["kind"] == "embedding" else MAX_TOKENS_CHAT,
    dialects=(MAX_TOKENS_CHAT, EMBEDDINGS),
    prices="fireworks",
)
