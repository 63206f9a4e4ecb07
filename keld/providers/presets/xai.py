"""xAI: api.x.ai, without its batches, to which rows are added after the create.

Its errors are `{"code": words, "error": text}`; a wrong key is refused with 400 (github.com/continuedev/continue/issues/10161, Feb 2026).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from keld.providers.presets import openai_compatible
from keld.providers.presets.common import chat_only
from keld.providers.presets.openai import CHAT


def _error_in(body: dict[str, Any], headers: Mapping[str, str]) -> Any:
    said, code = body.get("error"), body.get("code")
    if not isinstance(said, str):
        return None
    return {"message": said, "code": "invalid_api_key" if said.startswith("Incorrect API key") else code or "error"}


PRESET = replace(
    openai_compatible.PRESET,
    kind="xai",
    base_url="https://api.x.ai/v1",
    base_url_env="XAI_BASE_URL",
    api_key_env="XAI_API_KEY",
    dialect=chat_only("xAI", CHAT),
    dialects=(CHAT,),
    error_in=_error_in,
    prices="x-ai",
)
