"""Anthropic: api.anthropic.com, with message batches and messages.

Wire: anthropic 2.11's types, Nov 2026.
"""

import math
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..answer import Answerer
from ..batch import Batch
from ..cache import PromptCache
from ..clock import instant
from ..dialects.anthropic_body import count_tokens
from ..dialects.anthropic_messages import Messages
from ..error import ApiError
from ..life import Phase
from ..rate import Level
from ..realtime import answering
from ..service import Endpoint, Service
from ..store import Store
from .anthropic_batches import Batches
from .anthropic_object import error_object, message_batch

_RATE_HEADERS = {
    "anthropic-ratelimit-requests-limit": "4000",
    "anthropic-ratelimit-requests-remaining": "3999",
    "anthropic-ratelimit-tokens-limit": "2000000",
    "anthropic-ratelimit-tokens-remaining": "1999000",
}


class Anthropic(Service):
    """The whole service."""

    kind = "anthropic"
    title = "Anthropic"
    base = ""
    owns = "/v1/messages"
    request_id_header = "request-id"

    def __init__(self, store: Store, answerer: Answerer) -> None:
        super().__init__(store, answerer)
        self.messages = Messages(answerer, PromptCache())
        self.batches = Batches(store, self.kind, f"{self.base}/v1/messages", self.messages)

    def routes(self) -> list[Endpoint]:
        messages, models = f"{self.base}/v1/messages", f"{self.base}/v1/models"
        return [
            *self.batches.routes(),
            Endpoint(operation="realtime", method="POST", path=messages, handler=answering(self, self.messages, _RATE_HEADERS)),
            Endpoint(operation="get", method="POST", path=f"{messages}/count_tokens", handler=self.count_tokens),
            # Both services have this path; only Anthropic's clients name their version.
            Endpoint(operation="get", method="GET", path=models, handler=self.list_models, header="anthropic-version"),
        ]

    def env(self, base_url: str, api_key: str) -> dict[str, str]:
        return {"ANTHROPIC_BASE_URL": base_url, "ANTHROPIC_API_KEY": api_key}

    def show(self, batch: Batch, phase: Phase, host: str) -> dict[str, Any]:
        return message_batch(batch, phase, host)

    async def count_tokens(self, request: Request) -> Response:
        return JSONResponse({"input_tokens": count_tokens(await request.body())})

    async def list_models(self, request: Request) -> Response:
        names = ("claude-haiku-4-5", "claude-sonnet-4-5", "claude-opus-4-5")
        models = [
            {
                "id": name,
                "type": "model",
                "display_name": name,
                "created_at": "2025-10-01T00:00:00Z",
                "lifecycle": "active",
            }
            for name in names
        ]
        return JSONResponse({"data": models, "has_more": False, "first_id": names[0], "last_id": names[-1]})

    # --- refusals -----------------------------------------------------------------------------------------------------

    def error_body(self, error: ApiError) -> dict[str, Any]:
        return error_object(error)

    def key_missing(self) -> ApiError:
        return ApiError(status=401, message="x-api-key header is required")

    def key_refused(self, key: str) -> ApiError:
        return ApiError(status=401, message="invalid x-api-key")

    def rate_headers(self, levels: dict[str, Level], now: float) -> dict[str, str]:
        headers = {}
        for kind, level in levels.items():
            headers[f"anthropic-ratelimit-{kind}-limit"] = str(level.limit)
            headers[f"anthropic-ratelimit-{kind}-remaining"] = str(level.left)
            headers[f"anthropic-ratelimit-{kind}-reset"] = instant(math.ceil(now + level.reset_s)).isoformat().replace("+00:00", "Z")
        return headers
