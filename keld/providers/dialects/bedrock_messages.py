"""Bedrock messages: the Messages API for Claude on Amazon Bedrock, by InvokeModel; and which models are asked that way.

One of the dialects.  The model is in the URL, or in the create of a batch; the body has the version of the API in its place.  Wire:
docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-anthropic-claude-messages-request-response.html, read 29 Nov 2026.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from keld.cache import Caching
from keld.price import Lane
from keld.providers.dialects.anthropic_messages import AnthropicMessages

_VERSION = "bedrock-2023-05-31"
# Every model on Bedrock has Converse.  Claude is asked by its own API, which has all that Anthropic sells: caches of an hour, and a
# structured output whose subset is known.
_INVOKED = re.compile(r"(?:^|[./])anthropic\.")


def is_invoked(model: str) -> bool:
    """True if a model is asked by InvokeModel, in Anthropic's dialect; False: by Converse."""
    return _INVOKED.search(model) is not None


class BedrockMessages(AnthropicMessages):
    """`Dialect` of Claude by InvokeModel."""

    whose = "bedrock"
    own_params = AnthropicMessages.own_params | {"anthropic_version"}

    def path(self, model: str) -> str:
        return f"/model/{quote(model, safe='')}/invoke"

    def head(self, model: str) -> dict[str, Any]:
        return {"anthropic_version": _VERSION}

    def in_lane(self, body: bytes, lane: Lane) -> bytes:
        return body  # the lane is in a header

    def lane_headers(self, lane: Lane) -> dict[str, str]:
        """The header that asks for the flex tier."""
        return {"x-amzn-bedrock-service-tier": "flex"} if lane is Lane.FLEX else {}

    def caching(self, model: str) -> Caching:
        # No mark in a batch: that its discount and the cache's add up on Bedrock is documented nowhere (29 Nov 2026).
        caching = super().caching(model)
        return replace(caching, ttl={lane: ttl for lane, ttl in caching.ttl.items() if lane is not Lane.BATCH})
