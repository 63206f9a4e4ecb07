"""Gemini embeddings: embedContent, one vector a request.

One of the dialects.  Vectors of gemini-embedding-001 with fewer than 3,072 dimensions are not of length 1:
ai.google.dev/gemini-api/docs/embeddings, "Quality for smaller dimensions", Nov 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keld.cache import Caching, Ttl
from keld.errors import InvalidJob
from keld.price import Lane
from keld.providers.base import Fit
from keld.providers.dialects import gemini_answer
from keld.providers.template import Hole, Template, template
from keld.request import Question
from keld.schema import OutputSchema
from keld.vocabulary import Count


class GeminiEmbeddings:
    """`Dialect` of embedContent."""

    body_type = gemini_answer.Body
    own_params = frozenset(("model", "content", "input", "outputDimensionality", "output_dimensionality", "dimensions"))
    cache_fields = frozenset[str]()
    judge = staticmethod(gemini_answer.judge)

    def path(self, model: str) -> str:
        return f"/models/{model}:embedContent"

    def fit(self, question: Question, model: str) -> Fit:
        if "embedding" not in model:
            return Fit(obstacle=f"{model} makes no embeddings; name an embedding model, e.g. models=['gemini:gemini-embedding-001']")
        return Fit(not_in={Lane.FLEX: "embeddings have no flex lane"})

    def template(self, question: Question, model: str, cache: Ttl | None) -> Template:
        hole = Hole.new()
        dimensions = OutputSchema.from_json(question.output).dimensions
        body: dict[str, Any] = {"content": {"parts": [{"text": hole.mark}]}, "outputDimensionality": dimensions}
        return template(question.params | body, hole)

    def in_lane(self, body: bytes, lane: Lane) -> bytes:
        if lane is Lane.FLEX:
            raise InvalidJob("gemini sells no flex lane for embeddings. Nothing was sent. Ask them in a batch or in the standard lane.")
        return body

    def lane_headers(self, lane: Lane) -> Mapping[str, str]:
        return {}

    def caching(self, model: str) -> Caching:
        return Caching(least_tokens=1_024, by_itself=False, ttl={})

    def counter(self, model: str) -> Count | None:
        return None  # no public vocabulary
