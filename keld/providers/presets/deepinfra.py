"""DeepInfra: api.deepinfra.com.  It has no price list here, so a job gives `prices=`."""

from __future__ import annotations

from dataclasses import replace

from keld.providers.presets import openai_compatible
from keld.providers.presets.common import MAX_TOKENS_CHAT
from keld.providers.presets.openai import EMBEDDINGS

PRESET = replace(
    openai_compatible.PRESET,
    kind="deepinfra",
    base_url="https://api.deepinfra.com/v1/openai",
    base_url_env="DEEPINFRA_BASE_URL",
    api_key_env="DEEPINFRA_API_KEY",
    dialect=lambda question, model: EMBEDDINGS if question.output["kind"] == "embedding" else MAX_TOKENS_CHAT,
    dialects=(MAX_TOKENS_CHAT, EMBEDDINGS),
    prices=None,
)
