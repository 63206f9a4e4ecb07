"""OpenAI realtime: a host that speaks OpenAI's bodies and has neither files nor batches, as vLLM and Ollama do.

The wire, under `<emulator>/openai_realtime/v1`:

    POST /chat/completions, /responses, /embeddings    bodies and answers as OpenAI's; no rate-limit headers
    GET  /models                                       `{"object": "list", "data": [{"id": ..}]}`
    anything else (/batches, /files)                   404 `{"detail": "Not Found"}`
    errors                                             `{"error": {"message", "type", "param", "code"}}`, `code` the status as a number
    key                                                `Authorization: Bearer`, any

Error shapes are vLLM's (vllm/entrypoints/openai, as of Nov 2026: `ErrorResponse`, and FastAPI's own 404).
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..error import ApiError
from ..service import Endpoint, Service
from .openai import dialects_of, realtime_routes

_ERROR_TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    404: "NotFoundError",
    429: "RateLimitError",
    503: "ServiceUnavailableError",
}


class OpenAIRealtime(Service):
    kind = "openai_realtime"
    title = "OpenAI realtime"
    base = "/openai_realtime/v1"
    owns = "/openai_realtime"

    def routes(self) -> list[Endpoint]:
        models = Endpoint(operation="get", method="GET", path=f"{self.base}/models", handler=self.list_models)
        return [*realtime_routes(self, dialects_of(self.answerer)), models]

    def env(self, base_url: str, api_key: str) -> dict[str, str]:
        return {"OPENAI_REALTIME_BASE_URL": base_url, "OPENAI_REALTIME_API_KEY": api_key}

    async def list_models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "gpt-oss-120b", "object": "model", "owned_by": "vllm"}]})

    def unknown(self, request: Request) -> Response:
        return JSONResponse({"detail": "Not Found"}, 404)

    def error_body(self, error: ApiError) -> dict[str, Any]:
        kind = _ERROR_TYPES.get(error.status, "InternalServerError")
        return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.status}}

    def key_missing(self) -> ApiError:
        return ApiError(status=401, message="Unauthorized")

    def key_refused(self, key: str) -> ApiError:
        return ApiError(status=401, message="Unauthorized")
