"""Bedrock: Amazon Bedrock in one region, with batch inference jobs over S3, Converse, and InvokeModel for Claude.

The wire, under `<emulator>/bedrock`, which is the endpoint of both `bedrock` and `bedrock-runtime`; jobs read and write the emulator's own S3.
Signatures are not checked; the access key counts as the API key.  Wire: botocore 1.43's service models, Nov 2026.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..answer import Answerer
from ..batch import Batch
from ..cache import PromptCache
from ..dialect import Dialect
from ..dialects.bedrock_messages import BedrockMessages
from ..dialects.converse import Converse, model_unknown
from ..error import ApiError
from ..life import Phase
from ..realtime import answering
from ..service import Asked, Endpoint, Service, most_tokens
from ..store import Store
from .bedrock_jobs import Jobs
from .bedrock_object import error_headers, error_object
from .s3 import access_key_of

_MODELS = ("anthropic.claude-haiku-4-5-20251001-v1:0", "amazon.nova-lite-v1:0", "amazon.nova-micro-v1:0", "openai.gpt-oss-20b-1:0")
_TIER = "x-amzn-bedrock-service-tier"


class Bedrock(Service):
    """The whole service."""

    kind = "bedrock"
    title = "Bedrock"
    base = "/bedrock"
    owns = "/bedrock"
    request_id_header = "x-amzn-requestid"

    def __init__(self, store: Store, answerer: Answerer) -> None:
        super().__init__(store, answerer)
        self.cache = PromptCache()
        self.jobs = Jobs(store, self.kind, self.base, self.dialect_of)

    def routes(self) -> list[Endpoint]:
        # An id may be an ARN with slashes in it, which Starlette decodes before it routes.
        one = f"{self.base}/model/{{model:path}}"
        return [
            *self.jobs.routes(),
            Endpoint(operation="get", method="GET", path=f"{self.base}/foundation-models", handler=self.list_models),
            Endpoint(operation="realtime", method="POST", path=one + "/converse", handler=self.converse),
            Endpoint(operation="realtime", method="POST", path=one + "/invoke", handler=self.invoke),
        ]

    def env(self, base_url: str, api_key: str) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL_BEDROCK": base_url,
            "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": base_url,
            "KELD_BEDROCK_BUCKET": "s3://keld-emulator/bedrock",
            "KELD_BEDROCK_ROLE": "arn:aws:iam::123456789012:role/keld-emulator",
        }

    def show(self, batch: Batch, phase: Phase, host: str) -> dict[str, Any]:
        return self.jobs.show(batch, phase)

    def dialect_of(self, model: str, *, invoked: bool, flex: bool = False) -> Dialect:
        """The dialect of a model in one of the two calls.

        Raises:
            ApiError: there is no such model, or the emulator does not know its own API.
        """
        if "does-not-exist" in model:
            raise model_unknown()
        if not invoked:
            return Converse(self.answerer, self.cache, model)
        if "anthropic." not in model:
            message = f"keld emulator: InvokeModel is there for Claude only; ask {model} by Converse."
            raise ApiError(status=400, message=message, code="ValidationException")
        return BedrockMessages(self.answerer, self.cache, model, flex)

    async def list_models(self, request: Request) -> Response:
        arn = "arn:aws:bedrock:us-east-1::foundation-model/"
        return JSONResponse({"modelSummaries": [{"modelArn": arn + name, "modelId": name} for name in _MODELS]})

    async def converse(self, request: Request) -> Response:
        return await answering(self, self.dialect_of(request.path_params["model"], invoked=False))(request)

    async def invoke(self, request: Request) -> Response:
        flex = request.headers.get(_TIER) == "flex"
        dialect = self.dialect_of(request.path_params["model"], invoked=True, flex=flex)
        return await answering(self, dialect, {_TIER: "flex" if flex else "default"})(request)

    # --- refusals -----------------------------------------------------------------------------------------------------

    def error_body(self, error: ApiError) -> dict[str, Any]:
        return error_object(error)

    def refusal(self, error: ApiError) -> Response:
        return JSONResponse(error_object(error), error.status, {**error_headers(error), **error.headers})

    def unknown(self, request: Request) -> Response:
        message = "Unable to determine service/operation name to be authorized"
        return self.refusal(ApiError(status=404, message=message, code="UnknownOperationException"))

    def key_missing(self) -> ApiError:
        return ApiError(status=403, message="Missing Authentication Token", code="MissingAuthenticationTokenException")

    def key_refused(self, key: str) -> ApiError:
        return ApiError(status=403, message="The security token included in the request is invalid.", code="UnrecognizedClientException")

    # --- reading a request --------------------------------------------------------------------------------------------

    def key_of(self, request: Request) -> str:
        return access_key_of(request) or super().key_of(request)

    def batch_id_of(self, request: Request) -> str:
        return str(request.path_params.get("batch_id", "")).rpartition("/")[2]

    def asked(self, request: Request, body: bytes) -> Asked:
        return Asked(request.path_params.get("model"), most_tokens(body))
