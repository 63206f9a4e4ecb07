"""OpenAI: api.openai.com, with files, batches and realtime calls.

Wire: openai 3.52's types and openai-openapi, Nov 2026; what live traces add (null and `""` file ids, late validation
failures, refusals in the error file with `error: null`) is followed over the specification.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..answer import Answerer
from ..batch import Batch
from ..cache import PromptCache
from ..dialect import Dialect
from ..dialects.openai_chat import Chat
from ..dialects.openai_embeddings import Embeddings
from ..dialects.openai_responses import Responses
from ..error import ApiError
from ..life import Phase
from ..rate import Level, span
from ..realtime import realtime_routes
from ..service import Endpoint, Service
from ..store import Store
from .openai_batches import Batches
from .openai_files import Files
from .openai_object import batch_object, error_object, file_object

RATE_HEADERS = {
    "x-ratelimit-limit-requests": "10000",
    "x-ratelimit-limit-tokens": "2000000",
    "x-ratelimit-remaining-requests": "9999",
    "x-ratelimit-remaining-tokens": "1999000",
    "x-ratelimit-reset-requests": "6ms",
    "x-ratelimit-reset-tokens": "30ms",
}
_MODELS = ("gpt-5", "gpt-5-mini", "gpt-5-nano", "text-embedding-3-small", "text-embedding-3-large")


def dialects_of(answerer: Answerer) -> dict[str, Dialect]:
    """The dialects of OpenAI's endpoints, which share one prompt cache."""
    cache = PromptCache()
    return {
        "/v1/chat/completions": Chat(answerer, cache),
        "/v1/responses": Responses(answerer, cache),
        "/v1/embeddings": Embeddings(),
    }


class OpenAI(Service):
    """The whole service; a host that has it under another path is a subclass with another `kind` and `base`."""

    kind = "openai"
    title = "OpenAI"
    base = "/v1"
    owns = "/"
    models: tuple[str, ...] = _MODELS

    def __init__(self, store: Store, answerer: Answerer) -> None:
        super().__init__(store, answerer)
        self.dialects = dialects_of(answerer)
        self.files = Files(store, self.kind, self.base)
        self.batches = Batches(store, self.kind, self.base, self.dialects)

    def routes(self) -> list[Endpoint]:
        models = Endpoint(operation="get", method="GET", path=f"{self.base}/models", handler=self.list_models)
        return [*self.files.routes(), *self.batches.routes(), *realtime_routes(self, self.dialects, RATE_HEADERS), models]

    def env(self, base_url: str, api_key: str) -> dict[str, str]:
        return {"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": api_key}

    def show(self, batch: Batch, phase: Phase, host: str) -> dict[str, Any]:
        return batch_object(batch, phase)

    def show_files(self) -> list[dict[str, Any]]:
        return [file_object(file) for file in self.store.files(self.kind)]

    async def list_models(self, request: Request) -> Response:
        models = [{"id": name, "object": "model", "created": 1_750_000_000, "owned_by": "openai"} for name in self.models]
        return JSONResponse({"object": "list", "data": models})

    # --- refusals -----------------------------------------------------------------------------------------------------

    def error_body(self, error: ApiError) -> dict[str, Any]:
        return error_object(error)

    def key_missing(self) -> ApiError:
        message = "You didn't provide an API key. You need to provide your API key in an Authorization header."
        return ApiError(status=401, message=message)

    def key_refused(self, key: str) -> ApiError:
        shown = f"{key[:3]}***{key[-2:]}"
        return ApiError(status=401, message=f"Incorrect API key provided: {shown}.", code="invalid_api_key")

    def rate_headers(self, levels: dict[str, Level], now: float) -> dict[str, str]:
        headers = {}
        for kind, level in levels.items():
            headers[f"x-ratelimit-limit-{kind}"] = str(level.limit)
            headers[f"x-ratelimit-remaining-{kind}"] = str(level.left)
            headers[f"x-ratelimit-reset-{kind}"] = span(level.reset_s)
        return headers
