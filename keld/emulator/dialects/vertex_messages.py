"""Vertex messages: a Messages body by rawPredict -> a message of Claude; the model is in the URL, or in the create of a batch."""

import re
from dataclasses import dataclass

import msgspec

from ..answer import Answerer
from ..cache import PromptCache
from ..dialect import Conditions, Made
from ..error import ApiError
from .anthropic_body import hosted, read
from .anthropic_messages import Messages

# `vertex-2023-10-16` in the documentation, and the plain version of the API in what the official SDK sends (anthropic 2.14, Nov 2026).
_is_version = re.compile(r"(vertex-)?20\d\d-\d\d-\d\d").fullmatch


@dataclass(frozen=True)
class VertexMessages:
    """The dialect of one model."""

    answerer: Answerer
    cache: PromptCache
    model: str

    def make(self, body: bytes, conditions: Conditions) -> Made:
        if conditions.fate == "model_not_found" or "does-not-exist" in self.model:
            raise ApiError(status=404, message=f"Publisher Model `publishers/anthropic/models/{self.model}` is not found.")
        try:
            whole = hosted(body, self.model.partition("@")[0], "vertex-2023-10-16", _is_version)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ApiError(status=400, message="The request body is not valid JSON.") from error
        return Messages(self.answerer, self.cache).answer(read(whole), body, conditions)._replace(model=self.model)
