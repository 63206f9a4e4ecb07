"""OpenAI embeddings: vectors, at OpenAI and at every host that has the endpoint.

One of the dialects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keld.cache import Ttl
from keld.errors import InvalidJob
from keld.price import Lane
from keld.providers.base import Fit
from keld.providers.dialects.openai_family import MessageTemplate, OpenAIFamily, message_template
from keld.providers.template import Hole
from keld.request import Question
from keld.schema import OutputSchema
from keld.spread import shares

PATH = "/v1/embeddings"


def divided(body: Any, weights: Sequence[int]) -> list[dict[str, Any]] | None:
    """The answer to N texts as N answers; see `pack.Packing`."""
    data = body.get("data") if isinstance(body, dict) else None
    if not isinstance(data, list) or len(data) != len(weights) or not all(isinstance(one, dict) for one in data):
        return None
    order = [one.get("index", n) for n, one in enumerate(data)]
    if sorted(order, key=str) != sorted(range(len(data)), key=str):
        return None  # a vector stands twice, and another is missing
    vectors = dict(zip(order, data, strict=True))
    usage = body["usage"] if isinstance(body.get("usage"), dict) else {}
    split = {name: shares(usage[name], weights) for name in ("prompt_tokens", "total_tokens") if isinstance(usage.get(name), int)}
    return [
        body | {"data": [vectors[n] | {"index": 0}], "usage": {name: parts[n] for name, parts in split.items()}} for n in range(len(data))
    ]


class OpenAIEmbeddings(OpenAIFamily):
    """`Dialect` of embeddings.

    Args:
        sends_dimensions: False for engines that refuse the field for most models (vLLM: for all that are not "matryoshka"); the length of the
            vectors is checked when they are read, and `Job.params` may set the field.
    """

    def __init__(self, *, sends_dimensions: bool = True) -> None:
        self._sends_dimensions = sends_dimensions

    def path(self, model: str) -> str:
        return PATH

    def template(self, question: Question, model: str, cache: Ttl | None) -> MessageTemplate:
        hole = Hole.new()
        # base64, as the SDK requests: a third of the bytes of decimal text.
        body = {"model": model, "encoding_format": "base64"} | self._dimensions(question, model) | {"input": hole.mark} | question.params
        return message_template(body, body, hole)

    def _dimensions(self, question: Question, model: str) -> dict[str, Any]:
        if not self._sends_dimensions or model.endswith("ada-002"):  # ada-002 has no `dimensions`
            return {}
        return {"dimensions": OutputSchema.from_json(question.output).dimensions}

    divided = staticmethod(divided)

    def fit(self, question: Question, model: str) -> Fit:
        return Fit(not_in={Lane.FLEX: "embeddings have no flex lane"})

    def in_lane(self, body: bytes, lane: Lane) -> bytes:
        if lane is Lane.FLEX:
            raise InvalidJob("openai sells no flex lane for embeddings. Nothing was sent. Ask them in a batch or in the standard lane.")
        return body
