"""Vertex: aiplatform.googleapis.com, both versions: batch prediction jobs over Cloud Storage, Gemini by generateContent, Claude by rawPredict.

Projects and locations are kept apart, and exist as soon as they are named.  Tokens are not checked, unless the emulator has keys of its own.  Wire: the
discovery document of aiplatform v1, revision 20261106.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from ..answer import Answerer
from ..batch import Batch
from ..cache import PromptCache
from ..dialect import Dialect
from ..dialects.gemini_body import most_output_tokens
from ..dialects.gemini_generate import Generate
from ..dialects.vertex_messages import VertexMessages
from ..error import ApiError
from ..life import Phase
from ..realtime import answering
from ..service import Asked, Endpoint, Service, most_tokens
from ..store import Store
from .anthropic_object import error_object as anthropic_error
from .vertex_jobs import Jobs
from .vertex_object import error_object

VERSIONS = ("v1", "v1beta1")
_TIER = "x-vertex-ai-llm-shared-request-type"


class Vertex(Service):
    kind = "vertex"
    title = "Vertex AI"
    base = "/vertex"
    owns = "/vertex"

    def __init__(self, store: Store, answerer: Answerer) -> None:
        super().__init__(store, answerer)
        self.cache = PromptCache()
        self.jobs = Jobs(store, self.kind, self.dialect_of)

    def routes(self) -> list[Endpoint]:
        return [endpoint for version in VERSIONS for endpoint in self._routes(version)]

    def _routes(self, version: str) -> list[Endpoint]:
        place = f"{self.base}/{version}/projects/{{project}}/locations/{{location}}"
        google, claude = (f"{place}/publishers/{publisher}/models/{{model}}" for publisher in ("google", "anthropic"))
        return [
            *self.jobs.routes(place),
            Endpoint(operation="realtime", method="POST", path=google + ":generateContent", handler=self.generate),
            Endpoint(operation="realtime", method="POST", path=claude + ":rawPredict", handler=self.raw_predict),
        ]

    def env(self, base_url: str, api_key: str) -> dict[str, str]:
        return {
            "GOOGLE_VERTEX_BASE_URL": base_url,
            "GOOGLE_OAUTH_ACCESS_TOKEN": api_key,
            "GOOGLE_CLOUD_PROJECT": "keld-emulator",
            "GOOGLE_CLOUD_LOCATION": "global",
            "KELD_VERTEX_BUCKET": "gs://keld-emulator/vertex",
        }

    def show(self, batch: Batch, phase: Phase, host: str) -> dict[str, Any]:
        return self.jobs.show(batch, phase)

    def dialect_of(self, publisher: str, model: str) -> Dialect:
        if publisher == "anthropic":
            return VertexMessages(self.answerer, self.cache, model)
        return Generate(self.answerer, self.cache, model, labels=True)

    async def generate(self, request: Request) -> Response:
        flex = request.headers.get(_TIER) == "flex"
        if flex and request.path_params["location"] != "global":
            raise ApiError(status=400, message="Flex is available at the global location only.", code="FAILED_PRECONDITION")
        dialect = Generate(self.answerer, self.cache, request.path_params["model"], labels=True, flex=flex)
        return await answering(self, dialect)(request)

    async def raw_predict(self, request: Request) -> Response:
        """Claude's own API: a refusal by the model's server has its shape, one by the platform Google's."""
        try:
            return await answering(self, self.dialect_of("anthropic", request.path_params["model"]))(request)
        except ApiError as error:
            if error.status == 400:
                return JSONResponse(anthropic_error(error), error.status)
            raise

    # --- refusals -----------------------------------------------------------------------------------------------------

    def error_body(self, error: ApiError) -> dict[str, Any]:
        return error_object(error)

    def unknown(self, request: Request) -> Response:
        return HTMLResponse("<html><title>Error 404 (Not Found)!!1</title></html>", 404)

    def key_missing(self) -> ApiError:
        message = (
            "Request is missing required authentication credential. Expected OAuth 2 access token, login cookie or other valid credential."
        )
        return ApiError(status=401, message=message)

    def key_refused(self, key: str) -> ApiError:
        return ApiError(status=401, message="Request had invalid authentication credentials. Expected OAuth 2 access token.")

    # --- reading a request --------------------------------------------------------------------------------------------

    def asked(self, request: Request, body: bytes) -> Asked:
        model = request.path_params.get("model")
        if request.url.path.endswith(":rawPredict"):
            return Asked(model, most_tokens(body))
        return Asked(model, most_output_tokens(body))
