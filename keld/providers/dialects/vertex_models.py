"""Vertex models: Gemini by generateContent, and Claude by rawPredict, as Vertex AI asks them.

Two of the dialects, made of Gemini's and Anthropic's.  A path begins behind the project and the location.  Wire:
docs.cloud.google.com/vertex-ai/generative-ai/docs, the pages `flex-paygo` and `partner-models/claude/use-claude`, read 29 Nov 2026.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from keld.cache import Caching
from keld.price import Lane
from keld.providers.base import NO_EMBEDDINGS, Fit
from keld.providers.dialects.anthropic_messages import AnthropicMessages
from keld.providers.dialects.gemini_generate import GeminiGenerate
from keld.request import Question

CLAUDE_PATH = "/publishers/anthropic/"
_VERSION = "vertex-2023-10-16"
_CLAUDE = re.compile(r"claude")


def is_claude(model: str) -> bool:
    return _CLAUDE.match(model) is not None


def publisher_path(model: str) -> str:
    """The resource of a model, e.g. `/publishers/google/models/gemini-2.5-flash`."""
    return f"/publishers/{'anthropic' if is_claude(model) else 'google'}/models/{quote(model, safe='@')}"


class VertexGenerate(GeminiGenerate):
    """`Dialect` of Gemini at Vertex."""

    own_params = GeminiGenerate.own_params | {"labels"}  # a row of a batch has its id there

    def path(self, model: str) -> str:
        return f"{publisher_path(model)}:generateContent"

    def fit(self, question: Question, model: str) -> Fit:
        if question.output["kind"] == "embedding":
            return Fit(obstacle=NO_EMBEDDINGS.format(whose="vertex"))
        return super().fit(question, model)

    def in_lane(self, body: bytes, lane: Lane) -> bytes:
        return body  # the lane is in a header

    def lane_headers(self, lane: Lane) -> dict[str, str]:
        """The headers that ask for Flex PayGo, and not for throughput that the project may have bought."""
        if lane is not Lane.FLEX:
            return {}
        return {"x-vertex-ai-llm-request-type": "shared", "x-vertex-ai-llm-shared-request-type": "flex"}


class VertexMessages(AnthropicMessages):
    """`Dialect` of Claude at Vertex."""

    whose = "vertex"
    own_params = AnthropicMessages.own_params | {"anthropic_version"}

    def path(self, model: str) -> str:
        return f"{publisher_path(model)}:rawPredict"

    def head(self, model: str) -> dict[str, Any]:
        return {"anthropic_version": _VERSION}

    def caching(self, model: str) -> Caching:
        # No mark in a batch: that its discount and the cache's add up at Vertex is documented nowhere (29 Nov 2026).
        caching = super().caching(model)
        return replace(caching, ttl={lane: ttl for lane, ttl in caching.ttl.items() if lane is not Lane.BATCH})
