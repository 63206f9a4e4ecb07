"""Anthropic: api.anthropic.com."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

import httpx2

from keld.price import Lane
from keld.providers.base import Quota, Traits
from keld.providers.call import quotas
from keld.providers.dialects.anthropic_messages import AnthropicMessages
from keld.providers.part import Auth, Batches, Connection, Preset, Probe, names_in_data
from keld.providers.presets.common import LINE_BYTES, NOT_DONE
from keld.providers.transports.anthropic_lines import AROUND_BYTES, AnthropicEnvelope
from keld.shard import Limits

_MESSAGES = AnthropicMessages()


def _batches(connection: Connection) -> Batches:
    from keld.providers.transports.anthropic import AnthropicBatches

    return AnthropicBatches(connection)


def _auth(connection: Connection) -> Auth:
    from keld.providers.transports import anthropic

    return anthropic.auth(connection)


def _quotas(headers: httpx2.Headers) -> dict[str, Quota]:
    return quotas(headers, lambda kind, what: f"anthropic-ratelimit-{kind}-{what}")


def _serves(names: Collection[str], model: str) -> bool:
    """The list has the names with a day; those without one are served, too (platform.claude.com/docs/en/about-claude/models, Nov 2026)."""
    return any(name == model or name.startswith(f"{model}-20") for name in names)


PRESET = Preset(
    kind="anthropic",
    # The paths have the version already, and other hosts' base URLs end with it.
    base_url=lambda account: (account.base_url or "https://api.anthropic.com").rstrip("/").removesuffix("/v1"),
    base_url_env="ANTHROPIC_BASE_URL",
    api_key_env="ANTHROPIC_API_KEY",
    token_env="ANTHROPIC_AUTH_TOKEN",  # noqa: S106  the name of a variable, which gateways tell users of the SDK to set
    dialect=lambda question, model: _MESSAGES,
    dialects=(_MESSAGES,),
    envelope=AnthropicEnvelope(),
    batches=_batches,
    auth=_auth,
    quotas=_quotas,
    codes=NOT_DONE,
    prices="anthropic",
    probe=Probe(path="/v1/models?limit=1000", names=names_in_data, serves=_serves),
    # platform.claude.com/docs/en/build-with-claude/batch-processing, 20 Nov 2026: 100,000 requests or 256 MB, whichever is first.
    # "Most recently created batches are returned first": platform.claude.com/docs/en/api/listing-message-batches, 20 Nov 2026.
    traits=Traits(
        limits=Limits(max_requests=100_000, max_bytes=256_000_000 - AROUND_BYTES, max_line_bytes=LINE_BYTES),
        lanes=frozenset({Lane.BATCH, Lane.STANDARD}),
        list_page=1_000,
        marks_batches=False,
        fences=False,
        newest_first=True,
        window=timedelta(hours=24),
    ),
)
