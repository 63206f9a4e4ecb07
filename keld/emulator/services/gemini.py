"""Gemini: generativelanguage.googleapis.com, the Gemini Developer API, in both its versions, with files, batches and single calls.

Wire: google-genai 3.6, ai.google.dev/api, Nov 2026.  The OpenAI-compatible layer, interactions, streaming and inline batches are not served.
"""

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from ..answer import Answerer
from ..batch import Batch
from ..cache import PromptCache
from ..dialect import Dialect
from ..dialects.gemini_body import most_output_tokens
from ..dialects.gemini_embeddings import Embed, EmbedMany
from ..dialects.gemini_generate import Generate
from ..error import ApiError
from ..life import Phase
from ..realtime import answering
from ..service import Asked, Endpoint, Handler, Service
from ..store import Store
from .gemini_batches import Batches
from .gemini_files import Files
from .gemini_object import KEY_INVALID, error_object, operation

VERSIONS = ("v1beta", "v1")
_MODELS = ("gemini-2.5-flash", "gemini-2.5-flash-lite", "gemini-2.5-pro", "gemini-3-flash-preview", "gemini-embedding-001")


class Gemini(Service):
    kind = "gemini"
    title = "Gemini"
    base = "/gemini"
    owns = "/gemini"

    def __init__(self, store: Store, answerer: Answerer) -> None:
        super().__init__(store, answerer)
        generate, embed = Generate(answerer, PromptCache()), Embed()
        self._single: dict[str, Callable[[str], Dialect]] = {
            "generateContent": generate.of,
            "embedContent": embed.of,
            "batchEmbedContents": EmbedMany().of,
        }
        self.files = Files(store, self.kind, self.base)
        batched: dict[str, Callable[[str], Dialect]] = {"batchGenerateContent": generate.of, "asyncBatchEmbedContent": embed.of}
        self.batches = Batches(store, self.kind, self.base, self.files, batched)

    def routes(self) -> list[Endpoint]:
        return [endpoint for version in VERSIONS for endpoint in self._routes(version)]

    def _routes(self, version: str) -> list[Endpoint]:
        models = f"{self.base}/{version}/models"
        single = [
            Endpoint(operation="realtime", method="POST", path=f"{models}/{{model}}:{method}", handler=self._answering(of))
            for method, of in self._single.items()
        ]
        listing = [
            Endpoint(operation="get", method="GET", path=models, handler=self.list_models),
            Endpoint(operation="get", method="GET", path=models + "/{model}", handler=self.get_model),
        ]
        return [*single, *self.files.routes(version), *self.batches.routes(version), *listing]

    def _answering(self, of: Callable[[str], Dialect]) -> Handler:
        async def answer(request: Request) -> Response:
            return await answering(self, of(request.path_params["model"]))(request)

        return answer

    def env(self, base_url: str, api_key: str) -> dict[str, str]:
        return {"GOOGLE_GEMINI_BASE_URL": base_url, "GEMINI_API_KEY": api_key}

    def show(self, batch: Batch, phase: Phase, host: str) -> dict[str, Any]:
        return operation(batch, phase)

    def show_files(self) -> list[dict[str, Any]]:
        return self.files.shown()

    async def list_models(self, request: Request) -> Response:
        return JSONResponse({"models": [{"name": f"models/{name}", "displayName": name} for name in _MODELS]})

    async def get_model(self, request: Request) -> Response:
        name = request.path_params["model"]
        if "does-not-exist" in name:
            raise ApiError(status=404, message=f"models/{name} is not found for API version v1beta.")
        return JSONResponse({"name": f"models/{name}", "displayName": name})

    def asked(self, request: Request, body: bytes) -> Asked:
        model = request.path_params.get("model")
        return Asked(model, most_output_tokens(body))

    # --- refusals -----------------------------------------------------------------------------------------------------

    def key_of(self, request: Request) -> str:
        return request.headers.get("x-goog-api-key") or request.query_params.get("key") or self.files.session_key(request)

    def error_body(self, error: ApiError) -> dict[str, Any]:
        return error_object(error)

    def unknown(self, request: Request) -> Response:
        return HTMLResponse("<html><title>Error 404 (Not Found)!!1</title></html>", 404)

    def key_missing(self) -> ApiError:
        message = "Method doesn't allow unregistered callers (callers without established identity)."
        more = "Please use API Key or other form of API consumer identity to call this API."
        return ApiError(status=403, message=f"{message} {more}", code="PERMISSION_DENIED")

    def key_refused(self, key: str) -> ApiError:
        return ApiError(status=400, message="API key not valid. Please pass a valid API key.", code=KEY_INVALID)
