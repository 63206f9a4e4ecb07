"""Mistral: api.mistral.ai."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import httpx2

from keld.price import Lane
from keld.providers.base import Quota, Traits
from keld.providers.dialects.mistral import MistralChat, MistralEmbeddings, error_in
from keld.providers.fault import Meaning
from keld.providers.pack import Pack
from keld.providers.part import Batches, Connection, Dialect, Preset, Probe, names_in_data
from keld.providers.presets.common import LINE_BYTES, NOT_DONE
from keld.providers.transports.mistral_lines import MistralEnvelope
from keld.request import Question
from keld.shard import Limits

_NAMES = {"requests": "req", "tokens": "tokens"}


def _dialect(question: Question, model: str) -> Dialect:
    return MistralEmbeddings(model) if question.output["kind"] == "embedding" else MistralChat(model)


def _batches(connection: Connection) -> Batches:
    from keld.providers.transports.mistral import MistralJobs

    return MistralJobs(connection, error_in)


def _names(body: Mapping[str, Any]) -> list[str]:
    """The models of a list, and their other names."""
    listed = [one for one in body.get("data") or () if isinstance(one, dict)]
    return [*names_in_data(body), *(str(alias) for one in listed for alias in one.get("aliases") or ())]


def _quotas(headers: httpx2.Headers) -> dict[str, Quota]:
    """The limits of a minute, as live replies have them: `x-ratelimit-limit-req-minute`, `x-ratelimit-remaining-tokens-minute` (2026); none
    says when it is full again.
    """
    found = {}
    for kind, name in _NAMES.items():
        limit, left = (headers.get(f"x-ratelimit-{what}-{name}-minute", "") for what in ("limit", "remaining"))
        if limit.isdecimal() and left.isdecimal() and int(limit) > 0:
            found[kind] = Quota(limit=float(limit), left=float(left), reset_s=60.0)
    return found


PRESET = Preset(
    kind="mistral",
    base_url="https://api.mistral.ai/v1",
    base_url_env="MISTRAL_BASE_URL",
    api_key_env="MISTRAL_API_KEY",
    base_holds="/v1",
    dialect=_dialect,
    dialects=(MistralChat(""), MistralEmbeddings("")),
    envelope=MistralEnvelope(),
    batches=_batches,
    quotas=_quotas,
    # 1500 "Invalid model", with 400; 1300 "Rate limit exceeded", which is also what a full queue of batches says (both quoted all over, 2026).
    codes={(400, "1500"): Meaning.MISSING, (None, "1300"): Meaning.QUEUE_FULL, **NOT_DONE},
    error_in=error_in,
    prices="mistral",
    probe=Probe(path="/models", names=_names),
    # docs.mistral.ai/resources/known-limitations, 29 Nov 2026: 512 MB a file (taken for 10^6 bytes), 100,000 requests a batch.
    # The order of the list is that of `order_by`, whose default is the newest first (docs.mistral.ai/api, Nov 2026).
    traits=Traits(
        limits=Limits(max_requests=100_000, max_bytes=512_000_000, max_line_bytes=LINE_BYTES),
        lanes=frozenset({Lane.BATCH, Lane.STANDARD}),
        list_page=100,
        fences=True,
        newest_first=True,
        pages_by_id=False,
        finds=True,
        window=timedelta(hours=24),
        # 512 texts and 16,384 tokens, else 400 with code 3210 (github.com/raphaelmansuy/edgequake-llm/pull/74, .../aurelio-labs/semantic-router/issues/297):
        # no text has more tokens than bytes.
        pack=Pack(rows=64, fragment_bytes=16 << 10),
    ),
)
