"""OpenAI compatible: a host that speaks OpenAI's bodies and has neither files nor batches, as vLLM and Ollama do.

The wire, under `<emulator>/openai_compatible/v1`:

    POST /chat/completions, /responses, /embeddings    bodies and answers as OpenAI's; no rate-limit headers
    GET  /models                                       `{"object": "list", "data": [{"id", "object", "owned_by"}]}`
    anything else, /batches and /files too             404 `{"detail": "Not Found"}`
    errors                                             `{"error": {"message", "type", "param", "code"}}`, `code` is the status as a number
    key                                                `Authorization: Bearer`; none is needed, unless the emulator has keys of its own

No environment variable leads here, so an account says the address: `Account(kind="openai_compatible", base_url=emulator.url_of("openai_compatible"))`.
Shapes as in vLLM's vllm/entrypoints/openai (`ErrorResponse`; the 404 is FastAPI's own), Nov 2026.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..error import ApiError
from ..realtime import realtime_routes
from ..service import Endpoint, Service
from .openai import dialects_of

_ERROR_TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    404: "NotFoundError",
    429: "RateLimitError",
    503: "ServiceUnavailableError",
}


class OpenAICompatible(Service):
    kind = "openai_compatible"
    title = "OpenAI-compatible"
    base = "/openai_compatible/v1"
    owns = "/openai_compatible"

    def routes(self) -> list[Endpoint]:
        models = Endpoint(operation="get", method="GET", path=f"{self.base}/models", handler=self.list_models)
        return [*realtime_routes(self, dialects_of(self.answerer)), models]

    async def list_models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "gpt-oss-120b", "object": "model", "owned_by": "vllm"}]})

    def unknown(self, request: Request) -> Response:
        return JSONResponse({"detail": "Not Found"}, 404)

    def error_body(self, error: ApiError) -> dict[str, Any]:
        kind = _ERROR_TYPES.get(error.status, "InternalServerError")
        return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.status}}

    def key_refused(self, key: str) -> ApiError:
        return ApiError(status=401, message="Unauthorized")
