"""Azure: one resource of Azure OpenAI (Microsoft Foundry), with files, batches and realtime calls, by its v1 API and by the older one.

The wire, under `<emulator>/azure`, the endpoint of the resource:

    /openai/v1/files, /batches, /chat/completions, /responses, /embeddings, /models    as at OpenAI; a body names a deployment
    /openai/files, /batches                          the same with `?api-version=`
    /openai/deployments/{name}/chat/completions      the same, where the path names the deployment
    GET /msi/token?resource=&api-version=            a token of Entra, as a managed identity of App Service gets one; header `X-IDENTITY-HEADER`
    key                                              `api-key`, or `Authorization: Bearer` with the key or a token
    errors                                           `{"error": {"code", "message"}}`

By learn.microsoft.com/azure/foundry/openai/reference and .../latest, Nov 2026, and by openai 3.57's AzureOpenAI.
"""

import secrets
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..answer import Answerer
from ..batch import Batch
from ..dialect import Dialect
from ..error import ApiError
from ..life import Phase
from ..realtime import answering, realtime_routes
from ..service import Asked, Endpoint, Handler, key_of
from ..store import Store
from .azure_batches import MAX_REQUESTS, AzureBatches, AzureFiles, Deployed
from .openai import RATE_HEADERS, OpenAI, dialects_of

_TOKEN = "keld-entra-"  # noqa: S105  how a token of the emulator begins
_TOKEN_S = 3_600
_CODES = {400: "BadRequest", 403: "Forbidden", 413: "RequestEntityTooLarge"}  # else the status is the code, as a text


class Azure(OpenAI):
    kind = "azure"
    title = "Azure OpenAI"
    base = "/azure/openai/v1"
    owns = "/azure"
    request_id_header = "apim-request-id"

    def __init__(self, store: Store, answerer: Answerer) -> None:
        super().__init__(store, answerer)
        self.dialects = {endpoint: Deployed(dialect) for endpoint, dialect in dialects_of(answerer).items()}
        self._tokens: set[str] = set()
        self.files, self.batches = self._at(self.base)

    def _at(self, base: str) -> tuple[AzureFiles, AzureBatches]:
        """The files and batches under a path; both APIs show the same ones."""
        in_batches = {endpoint: dialect for endpoint, dialect in self.dialects.items() if endpoint != "/v1/embeddings"}
        short = {endpoint.removeprefix("/v1"): dialect for endpoint, dialect in in_batches.items()}
        return AzureFiles(self.store, self.kind, base), AzureBatches(self.store, self.kind, base, in_batches | short, MAX_REQUESTS)

    def routes(self) -> list[Endpoint]:
        models = Endpoint(operation="get", method="GET", path=f"{self.base}/models", handler=self.list_models)
        token = Endpoint(operation="get", method="GET", path=f"{self.owns}/msi/token", handler=self.token)
        v1 = [*self.files.routes(), *self.batches.routes(), *realtime_routes(self, self.dialects, RATE_HEADERS), models]
        files, batches = self._at(f"{self.owns}/openai")
        older = [replace(one, handler=_versioned(one.handler)) for one in (*files.routes(), *batches.routes(), *self._of_deployments())]
        return [*v1, *older, token]

    def _of_deployments(self) -> list[Endpoint]:
        paths = {endpoint: f"{self.owns}/openai/deployments/{{deployment}}{endpoint.removeprefix('/v1')}" for endpoint in self.dialects}
        return [
            Endpoint(operation="realtime", method="POST", path=path, handler=self._of_deployment(self.dialects[endpoint]))
            for endpoint, path in paths.items()
            if endpoint != "/v1/responses"  # it has no path of this form
        ]

    def _of_deployment(self, dialect: Dialect) -> Handler:
        assert isinstance(dialect, Deployed), "of `dialects`"

        async def answer(request: Request) -> Response:
            return await answering(self, Deployed(dialect.dialect, request.path_params["deployment"]), RATE_HEADERS)(request)

        return answer

    async def token(self, request: Request) -> Response:
        if request.query_params.get("resource") not in ("https://ai.azure.com", "https://cognitiveservices.azure.com"):
            raise ApiError(status=400, message="The resource is not known.", code="invalid_resource")
        token = _TOKEN + secrets.token_hex(16)
        self._tokens.add(token)
        expires_on = str(int(self.store.clock.time()) + _TOKEN_S)
        return JSONResponse({
            "access_token": token, "expires_on": expires_on, "resource": request.query_params["resource"], "token_type": "Bearer",
        })  # fmt: skip

    def env(self, base_url: str, api_key: str) -> dict[str, str]:
        return {"AZURE_OPENAI_ENDPOINT": base_url.removesuffix("/openai/v1"), "AZURE_OPENAI_API_KEY": api_key}

    def show(self, batch: Batch, phase: Phase, host: str) -> dict[str, Any]:
        return self.batches.shown(batch, phase)

    # --- reading a request, and refusals ------------------------------------------------------------------------------

    def key_of(self, request: Request) -> str:
        key = request.headers.get("api-key", "").strip() or request.headers.get("x-identity-header", "").strip() or key_of(request)
        if key.startswith(_TOKEN) and key not in self._tokens:
            raise ApiError(status=401, message="The access token is not valid or has expired.", code="Unauthorized")
        return key

    def asked(self, request: Request, body: bytes) -> Asked:
        asked = super().asked(request, body)
        return Asked(request.path_params.get("deployment", asked.model), asked.most_tokens)

    def error_body(self, error: ApiError) -> dict[str, Any]:
        code = error.code or _CODES.get(error.status, str(error.status))
        return {"error": {"code": code, "message": error.message} | ({"param": error.param} if error.param else {})}

    def unknown(self, request: Request) -> Response:
        return self.refusal(ApiError(status=404, message="Resource not found"))

    def key_missing(self) -> ApiError:
        message = (
            "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an active subscription "
            "and use a correct regional API endpoint for your resource."
        )
        return ApiError(status=401, message=message)

    def key_refused(self, key: str) -> ApiError:
        return self.key_missing()


def _versioned(handler: Handler) -> Handler:
    """The handler of the older API, whose requests name its version."""

    async def versioned(request: Request) -> Response:
        if not request.query_params.get("api-version"):
            raise ApiError(status=404, message="Resource not found")
        return await handler(request)

    return versioned
