"""Self-hosted: a server of the user's own with OpenAI's requests: vLLM, SGLang, TGI, Ollama, llama.cpp, or a gateway in front of them.

It has the standard lane only, and no rate limits: `realtime/goodput` keeps it full.  One kind for all engines: what differs between them is small, and
is data here or a field of `SelfHostedAccount`.  It is a kind of its own beside `openai_compatible`, because of the money: here a request costs time of
a machine that is paid anyway, so one whose reply was lost is asked again; at a vendor's host of the same shape that would be paid twice.
A host of this shape WITH `/v1/batches` is an account of kind `openai` with its own base URL: the batch lane, and all that it needs, are there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from keld.cache import Caching, Ttl
from keld.price import Lane
from keld.providers.account import Account, SelfHostedAccount
from keld.providers.base import Traits
from keld.providers.dialects.anthropic_messages import PATH as MESSAGES_PATH
from keld.providers.dialects.anthropic_messages import AnthropicMessages
from keld.providers.dialects.openai_chat import OpenAIChat
from keld.providers.dialects.openai_embeddings import OpenAIEmbeddings
from keld.providers.fault import ANY, Meaning
from keld.providers.pack import Pack
from keld.providers.part import MODELS, Dialect, Preset
from keld.providers.presets.common import LINE_BYTES, NOT_DONE
from keld.providers.presets.openai import RESPONSES, dialect_of
from keld.request import Question
from keld.shard import Limits

_PACK_BYTES = 32_000  # of prompts in one request: about 8,000 tokens, half of what TEI takes in one batch by default
# SGLang and vLLM give up a request with status 200 and this reason, e.g. when the queue is full (github.com/sgl-project/sglang/pull/7565,
# github.com/vllm-project/vllm/issues/57082, read 29 Nov 2026); older ones send an error object with status 200.
_ABORT = re.compile(rb'"finish_reason":(?:"abort"|\{"type":"abort")|^\{"object":"error"|^\{"error":[{"]').search


class EngineMessages(AnthropicMessages):
    """The Messages API as engines have it (llama.cpp, vLLM): any model, and a cache of their own that needs no marks and costs nothing."""

    cache_fields = frozenset[str]()

    def caching(self, model: str) -> Caching:
        return Caching(least_tokens=0, by_itself=False, ttl={})

    def template(self, question: Question, model: str, cache: Ttl | None) -> Any:
        return super().template(question, model, None)


MESSAGES, EMBEDDINGS = EngineMessages(), OpenAIEmbeddings(sends_dimensions=False)
CHATS = {name: OpenAIChat(length_field=name) for name in ("max_tokens", "max_completion_tokens")}


def _error_in(body: dict[str, Any], headers: Mapping[str, str]) -> Any:
    """The error in the shapes of the engines: OpenAI's; a text (Ollama, TEI); flat (older vLLM, SGLang); FastAPI's `detail`."""
    error = body.get("error")
    if isinstance(error, dict):
        # vLLM and llama.cpp have the status in `code`, as a number; their type says more.
        return error if isinstance(error.get("code"), str) and not error["code"].isdigit() else error | {"code": error.get("type")}
    if isinstance(error, str):
        return {"message": error, "type": body.get("error_type") or "error"}
    if isinstance(body.get("message"), str):
        return {"message": body["message"], "type": body.get("type") or "error"}
    if body.get("detail"):
        return {"message": str(body["detail"]), "type": "detail"}
    return None


def _dialect_of(chat: OpenAIChat, question: Question, model: str) -> Dialect:
    if question.output["kind"] == "embedding":
        return EMBEDDINGS
    if question.endpoint == MESSAGES_PATH:
        return MESSAGES
    return chat if question.endpoint == chat.path(model) else dialect_of(question, model)


def _for_account(account: Account) -> Preset:
    assert isinstance(account, SelfHostedAccount), "checked when the account connects"
    chat, names = CHATS[account.length_field], account.deployments
    return replace(
        PRESET,
        dialect=lambda question, model: _dialect_of(chat, question, model),
        traits=replace(PRESET.traits, pack=replace(PRESET.traits.pack, rows=account.pack_rows), most_at_once=account.most_at_once),
        deployment=lambda model, lane: names.get(model, model),
    )


PRESET = Preset(
    kind="self_hosted",
    base_url_env="KELD_SELF_HOSTED_URL",
    base_holds="/v1",
    dialect=lambda question, model: _dialect_of(CHATS["max_tokens"], question, model),
    dialects=(*CHATS.values(), RESPONSES, EMBEDDINGS, MESSAGES),
    error_in=_error_in,
    # A full queue or a model that still loads: 503 (llama.cpp, Ollama, vLLM, SGLang) or 429 (TGI, TEI), whatever the code.  501: the model
    # cannot do that at all (llama.cpp: embeddings).
    codes={(503, ANY): Meaning.QUEUE_FULL, (429, ANY): Meaning.QUEUE_FULL, (501, ANY): Meaning.REFUSED, **NOT_DONE},
    account=SelfHostedAccount,
    probe=MODELS,
    aborted=lambda answer: _ABORT(answer) is not None,
    for_account=_for_account,
    traits=Traits(
        limits=Limits(max_requests=50_000, max_bytes=200_000_000, max_line_bytes=LINE_BYTES),
        lanes=frozenset({Lane.STANDARD}),
        by_goodput=True,
        repeats_cost=False,
        pack=Pack(rows=32, fragment_bytes=_PACK_BYTES),
        most_at_once=512,
    ),
)
