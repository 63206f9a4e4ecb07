"""Engine: what a server of the user's own says about itself: the names of its models, its slots, how busy it is.

Beside `provider`; a part of the kinds whose traits say `by_goodput`.  Everything here is optional: a gateway may hide it, and an answer that cannot be
read counts as none.  The names are looked up before the first row, since one wrong name would be a 404 for each row.

    /v1/models   the served names      all; Ollama adds a tag; llama.cpp answers whatever name is asked
    /props       total_slots           llama.cpp
    /metrics     the queue             vLLM; SGLang with --enable-metrics; llama.cpp with --metrics; TGI
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import msgspec

from keld.providers.base import Load
from keld.providers.part import Auth, Outgoing

_WAIT_S = 5.0  # for what is only a help
# docs.vllm.ai (metrics), docs.sglang.ai (production metrics), llama.cpp tools/server/README.md, huggingface.co/docs/text-generation-inference
# (metrics), as read on 29 Nov 2026.  Before V1, vLLM's cache was `gpu_cache_usage_perc`.
_RUNNING = ("vllm:num_requests_running", "sglang:num_running_reqs", "llamacpp:requests_processing", "tgi_batch_current_size")
_WAITING = ("vllm:num_requests_waiting", "sglang:num_queue_reqs", "llamacpp:requests_deferred", "tgi_queue_size")
_CACHE = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", "sglang:token_usage")
_SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{[^}]*\})?\s+([0-9.eE+-]+)(?:\s|$)").match


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """The models that a server has.

    Args:
        names: as `/v1/models` lists them; None: it gives no list.
        any_name: it answers whatever name is asked, by the one model that is loaded, or by a pattern of its own.
    """

    names: tuple[str, ...] | None = None
    any_name: bool = False

    def lacks(self, model: str) -> bool:
        """True if the server certainly has no such model."""
        return self.names is not None and not self.any_name and not {model, f"{model}:latest"} & set(self.names)


def served(body: Any) -> Served:
    """The models in the JSON of `/v1/models`."""
    listed = body.get("data") if isinstance(body, dict) else None
    models = [one for one in listed if isinstance(one, dict) and isinstance(one.get("id"), str)] if isinstance(listed, list) else []
    if not models:
        return Served()
    names = tuple(one["id"] for one in models)
    return Served(names=names, any_name=any(one.get("owned_by") == "llamacpp" or "*" in one["id"] for one in models))


def slots(body: Any) -> int | None:
    """How many requests the engine works on at once, by the JSON of `/props`; None: it does not say."""
    found = body.get("total_slots") if isinstance(body, dict) else None
    return found if isinstance(found, int) and found > 0 else None


def load_of(text: str) -> Load | None:
    """How busy the engine is, by its metrics in Prometheus' text; None: they are not there.  Samples of several models or ranks are added up."""
    sums: dict[str, float] = {}
    most: dict[str, float] = {}
    for line in text.splitlines():
        if (sample := _SAMPLE(line)) is None:
            continue
        name, value = sample[1], _number(sample[2])
        sums[name], most[name] = sums.get(name, 0.0) + value, max(most.get(name, 0.0), value)
    running, waiting, cache = (next((name for name in names if name in sums), None) for names in (_RUNNING, _WAITING, _CACHE))
    if running is None or waiting is None:
        return None
    return Load(running=sums[running], waiting=sums[waiting], cache_use=None if cache is None else most[cache])


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def root_of(base_url: str) -> str:
    """The address beside which an engine has its own pages: its base URL without the version."""
    return base_url.rstrip("/").removesuffix("/v1")


def json_at(url: str, auth: Auth) -> Any:
    """The JSON of a page; None if there is none."""
    try:
        reply = httpx2.get(url, headers=_headers(url, auth), timeout=_WAIT_S, follow_redirects=False)
        return msgspec.json.decode(reply.content) if reply.status_code == 200 else None
    # A proxy, or certificates, of the environment that cannot be used: the client of the requests says so (`http`).
    except (httpx2.HTTPError, httpx2.InvalidURL, msgspec.MsgspecError, RecursionError, ImportError, OSError, ValueError):
        return None


LoadReader = Callable[[], Awaitable[Load | None]]


@asynccontextmanager
async def load_reader(base_url: str, auth: Auth) -> AsyncIterator[LoadReader]:
    """A function that reads how busy the engine is; None: it does not say."""
    url = f"{root_of(base_url)}/metrics"
    async with httpx2.AsyncClient(timeout=_WAIT_S, follow_redirects=False) as client:

        async def read() -> Load | None:
            try:
                reply = await client.get(url, headers=_headers(url, auth))
                return load_of(reply.text) if reply.status_code == 200 else None
            except httpx2.HTTPError:
                return None

        yield read


def _headers(url: str, auth: Auth) -> dict[str, str]:
    return {**auth.headers(Outgoing(method="GET", url=url, headers={}))}
