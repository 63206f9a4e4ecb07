"""Self-hosted: an engine with OpenAI's bodies and Anthropic's messages, as vLLM and llama.cpp serve them; it can be full (`engine`).

The wire, under `<emulator>/self_hosted`:

    POST /v1/chat/completions, /v1/responses, /v1/embeddings, /v1/messages    as the vendors' own; no rate-limit headers
    GET  /v1/models       the served names; a model that is not among them is 404; `owned_by: llamacpp` if any name is answered
    GET  /props           `{"total_slots"}`
    GET  /metrics         Prometheus' text with vLLM's names, if the engine has it
    anything else         404 `{"detail": "Not Found"}`
    errors                `{"error": {"message", "type", "param", "code"}}`, `code` is the status as a number

Shapes as in vLLM's vllm/entrypoints/openai and llama.cpp's tools/server, Nov 2026.
"""

from collections.abc import Mapping

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from ..answer import Answerer
from ..cache import PromptCache
from ..dialect import Dialect
from ..dialects.anthropic_messages import Messages
from ..engine import Room
from ..error import ApiError
from ..realtime import answering
from ..service import Endpoint, Handler
from ..store import Store
from .openai import dialects_of
from .openai_compatible import OpenAICompatible

_NAMES = ("gpt-oss-120b", "gpt-oss-20b", "e5")
_METRICS = """# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0"}} {running}.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{{engine="0"}} {waiting}.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{{engine="0"}} {cache:.4f}
"""


class _Usage(msgspec.Struct, gc=False):
    completion_tokens: int | None = None
    output_tokens: int | None = None


class _Answer(msgspec.Struct, gc=False):
    usage: _Usage = msgspec.field(default_factory=_Usage)
    data: list[msgspec.Raw] = []


class SelfHosted(OpenAICompatible):
    kind = "self_hosted"
    title = "Self-hosted"
    base = "/self_hosted/v1"
    owns = "/self_hosted"

    def __init__(self, store: Store, answerer: Answerer) -> None:
        super().__init__(store, answerer)
        self.engine = store.settings.engine
        self.room = None if self.engine is None else Room(self.engine)
        self.names = _NAMES if self.engine is None or self.engine.models is None else self.engine.models

    def env(self, base_url: str, api_key: str) -> dict[str, str]:
        return {"KELD_SELF_HOSTED_URL": base_url}

    def routes(self) -> list[Endpoint]:
        dialects: Mapping[str, Dialect] = {
            **dialects_of(self.answerer),
            "/v1/messages": Messages(self.answerer, PromptCache()),
        }
        calls = [
            Endpoint(operation="realtime", method="POST", path=f"{self.owns}{path}", handler=self._in_a_slot(answering(self, dialect)))
            for path, dialect in dialects.items()
        ]
        pages = {"/v1/models": self.list_models, "/props": self.props, "/metrics": self.metrics}
        return [*calls, *(Endpoint(operation="get", method="GET", path=f"{self.owns}{path}", handler=page) for path, page in pages.items())]

    def _in_a_slot(self, answer: Handler) -> Handler:
        """The handler, for a known model, when the engine has a slot, and not before the answer's last token."""

        async def answered(request: Request) -> Response:
            model = self.asked(request, await request.body()).model
            if not self.answers_any_name and model not in self.names:
                raise ApiError(status=404, message=f"The model `{model}` does not exist.")
            if self.room is None:
                return await answer(request)
            await self.room.enter()
            try:
                response = await answer(request)
                await self.room.work(_tokens(bytes(response.body)))
                return response
            finally:
                await self.room.leave()

        return answered

    @property
    def answers_any_name(self) -> bool:
        return self.engine is not None and self.engine.any_name

    async def list_models(self, request: Request) -> Response:
        owner = "llamacpp" if self.answers_any_name else "vllm"
        return JSONResponse({"object": "list", "data": [{"id": name, "object": "model", "owned_by": owner} for name in self.names]})

    async def props(self, request: Request) -> Response:
        return self.unknown(request) if self.engine is None else JSONResponse({"total_slots": self.engine.slots})

    async def metrics(self, request: Request) -> Response:
        if self.room is None or not self.room.engine.metrics:
            return self.unknown(request)
        running, waiting = self.room.running, self.room.waiting
        return PlainTextResponse(_METRICS.format(running=running, waiting=waiting, cache=running / self.room.engine.slots * 0.9))


def _tokens(answer: bytes) -> int:
    """The tokens that an answer took to write; of embeddings, one for each."""
    read = msgspec.json.decode(answer, type=_Answer)
    return read.usage.completion_tokens or read.usage.output_tokens or len(read.data)
