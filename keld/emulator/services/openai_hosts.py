"""OpenAI hosts: hosts that copied OpenAI's API, each with what is its own.

Groq has files and batches: of chat completions only, windows of a day to a week, and a list that is one reply without `has_more`
(groq 1.7, resources/batches.py and types/batch_create_params.py, Nov 2026).  Of the others only the calls that are answered at once are here:
their batches have wires of their own.  xAI's errors are `{"code", "error"}`, and it refuses a wrong key with 400; OpenRouter's `code` is the status.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..answer import Answerer
from ..error import ApiError
from ..store import Store
from .openai import OpenAI
from .openai_batches import Batches
from .openai_compatible import OpenAICompatible
from .openai_object import error_object


class Groq(OpenAI):
    kind = "groq"
    title = "Groq"
    base = "/groq/openai/v1"
    owns = "/groq"
    models = ("openai/gpt-oss-20b", "openai/gpt-oss-120b", "llama-3.1-8b-instant", "llama-3.3-70b-versatile")

    def __init__(self, store: Store, answerer: Answerer) -> None:
        super().__init__(store, answerer)
        chat = "/v1/chat/completions"
        self.dialects = {chat: self.dialects[chat]}
        windows = ("24h", "48h", "72h", "96h", "120h", "144h", "168h", "7d")
        self.batches = Batches(store, self.kind, self.base, self.dialects, windows=windows, pages=False)

    def env(self, base_url: str, api_key: str) -> dict[str, str]:
        return {"GROQ_BASE_URL": base_url, "GROQ_API_KEY": api_key}


class _Realtime(OpenAICompatible):
    """A vendor's host without batches; it needs a key."""

    models: tuple[str, ...] = ()

    def env(self, base_url: str, api_key: str) -> dict[str, str]:
        name = self.kind.upper()
        return {f"{name}_BASE_URL": base_url, f"{name}_API_KEY": api_key}

    async def list_models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": name, "object": "model", "owned_by": self.kind} for name in self.models]})

    def error_body(self, error: ApiError) -> dict[str, Any]:
        return error_object(error)

    def key_missing(self) -> ApiError:
        return ApiError(status=401, message="No credentials were provided.")

    def key_refused(self, key: str) -> ApiError:
        return ApiError(status=401, message="The API key is not valid.", code="invalid_api_key")


class Together(_Realtime):
    kind, title, base, owns = "together", "Together", "/together/v1", "/together"
    models = ("openai/gpt-oss-20b", "openai/gpt-oss-120b")


class Fireworks(_Realtime):
    kind, title, base, owns = "fireworks", "Fireworks", "/fireworks/inference/v1", "/fireworks"
    models = ("accounts/fireworks/models/gpt-oss-20b", "accounts/fireworks/models/gpt-oss-120b")


class DeepInfra(_Realtime):
    kind, title, base, owns = "deepinfra", "DeepInfra", "/deepinfra/v1/openai", "/deepinfra"
    models = ("openai/gpt-oss-20b", "openai/gpt-oss-120b")


class OpenRouter(_Realtime):
    kind, title, base, owns = "openrouter", "OpenRouter", "/openrouter/api/v1", "/openrouter"
    models = ("openai/gpt-oss-20b", "openai/gpt-5-mini")

    def error_body(self, error: ApiError) -> dict[str, Any]:
        return {"error": {"code": error.status, "message": error.message}}


class XAI(_Realtime):
    kind, title, base, owns = "xai", "xAI", "/xai/v1", "/xai"
    models = ("grok-4", "grok-4-fast-non-reasoning", "grok-3-mini")

    def error_body(self, error: ApiError) -> dict[str, Any]:
        return {"code": error.code or "Client specified an invalid argument", "error": error.message}

    def key_refused(self, key: str) -> ApiError:
        return ApiError(status=400, message=f"Incorrect API key provided: {key[:2]}***{key[-2:]}.")
