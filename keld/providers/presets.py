"""Presets: the parts of each built-in kind of provider.

Below `provider`.  Data; a transport and its SDK are imported when an account connects.
"""

from __future__ import annotations

from datetime import timedelta

import httpx2

from keld.errors import InvalidJob
from keld.price import Lane
from keld.providers.base import Quota, Traits
from keld.providers.call import quotas
from keld.providers.dialects.anthropic_messages import AnthropicMessages
from keld.providers.dialects.openai_chat import OpenAIChat
from keld.providers.dialects.openai_embeddings import OpenAIEmbeddings
from keld.providers.dialects.openai_responses import OpenAIResponses
from keld.providers.envelope import LINES
from keld.providers.fault import Codes, Meaning
from keld.providers.part import Batches, Connection, Dialect, Preset
from keld.providers.transports.anthropic_lines import AROUND_BYTES, AnthropicEnvelope
from keld.request import Question
from keld.shard import Limits

# Refused before any work, by their codes, and so not paid: Anthropic's 529, and Groq's 498 for a flex lane without capacity.  Gateways forward both.
_NOT_DONE: Codes = {(None, "overloaded_error"): Meaning.NOT_DONE, (None, "capacity_exceeded"): Meaning.NOT_DONE}
_LINE_BYTES = 10_000_000  # no limit of one line is documented; a row above 10 MB is taken for a mistake

# -- OpenAI's family ------------------------------------------------------------------------------------------

_CHAT, _RESPONSES, _EMBEDDINGS = OpenAIChat(), OpenAIResponses(), OpenAIEmbeddings()
_BY_ENDPOINT: dict[str, Dialect] = {dialect.path(""): dialect for dialect in (_CHAT, _RESPONSES)}


def _openai_dialect(question: Question, model: str) -> Dialect:
    if question.output["kind"] == "embedding":
        return _EMBEDDINGS
    if question.endpoint not in _BY_ENDPOINT:
        raise InvalidJob(f"endpoint={question.endpoint!r} is not one of {', '.join(_BY_ENDPOINT)}. Nothing was sent.")
    return _BY_ENDPOINT[question.endpoint]


def _openai_batches(connection: Connection) -> Batches:
    from keld.providers.transports.openai_files import OpenAIFiles

    return OpenAIFiles(connection)


def _openai_auth(connection: Connection) -> dict[str, str]:
    from keld.providers.transports import openai_files

    return openai_files.auth(connection)


def _openai_quotas(headers: httpx2.Headers) -> dict[str, Quota]:
    return quotas(headers, lambda kind, what: f"x-ratelimit-{what}-{kind}")


OPENAI = Preset(
    kind="openai",
    base_url="https://api.openai.com/v1",
    base_url_env="OPENAI_BASE_URL",
    api_key_env="OPENAI_API_KEY",
    base_holds="/v1",
    dialect=_openai_dialect,
    dialects=(_CHAT, _RESPONSES, _EMBEDDINGS),
    envelope=LINES,
    batches=_openai_batches,
    auth=_openai_auth,
    quotas=_openai_quotas,
    codes={(400, "token_limit_exceeded"): Meaning.QUEUE_FULL, **_NOT_DONE},
    prices="openai",
    batch_page="https://platform.openai.com/batches/{id}",
    # platform.openai.com/docs/guides/batch, 20 Nov 2026: 50,000 requests, 200 MB a file (10^6 bytes: larger ones were refused in
    # practice), 50,000 embedding inputs.
    traits=Traits(
        limits=Limits(max_requests=50_000, max_bytes=200_000_000, max_line_bytes=_LINE_BYTES),
        lanes=frozenset(Lane),
        list_page=100,
        marks_batches=True,
        fences=True,
        newest_first=True,
        window=timedelta(hours=24),
    ),
)

OPENAI_COMPATIBLE = Preset(
    kind="openai_compatible",
    base_holds="/v1",
    dialect=_openai_dialect,
    dialects=(_CHAT, _RESPONSES, _EMBEDDINGS),
    quotas=_openai_quotas,
    codes=_NOT_DONE,
    traits=Traits(
        limits=Limits(max_requests=50_000, max_bytes=200_000_000, max_line_bytes=_LINE_BYTES),
        lanes=frozenset({Lane.STANDARD}),
    ),
)
"""A host with OpenAI's requests and without its batches: a server of the user's own, a gateway.  It has the standard lane only."""

# -- Anthropic's ----------------------------------------------------------------------------------------------

_MESSAGES = AnthropicMessages()


def _anthropic_batches(connection: Connection) -> Batches:
    from keld.providers.transports.anthropic import AnthropicBatches

    return AnthropicBatches(connection)


def _anthropic_auth(connection: Connection) -> dict[str, str]:
    from keld.providers.transports import anthropic

    return anthropic.auth(connection)


def _anthropic_quotas(headers: httpx2.Headers) -> dict[str, Quota]:
    return quotas(headers, lambda kind, what: f"anthropic-ratelimit-{kind}-{what}")


ANTHROPIC = Preset(
    kind="anthropic",
    base_url="https://api.anthropic.com",
    base_url_env="ANTHROPIC_BASE_URL",
    api_key_env="ANTHROPIC_API_KEY",
    dialect=lambda question, model: _MESSAGES,
    dialects=(_MESSAGES,),
    envelope=AnthropicEnvelope(),
    batches=_anthropic_batches,
    auth=_anthropic_auth,
    quotas=_anthropic_quotas,
    codes=_NOT_DONE,
    prices="anthropic",
    # platform.claude.com/docs/en/build-with-claude/batch-processing, 20 Nov 2026: 100,000 requests or 256 MB, whichever is first.
    # "Most recently created batches are returned first": platform.claude.com/docs/en/api/listing-message-batches, 20 Nov 2026.
    traits=Traits(
        limits=Limits(max_requests=100_000, max_bytes=256_000_000 - AROUND_BYTES, max_line_bytes=_LINE_BYTES),
        lanes=frozenset({Lane.BATCH, Lane.STANDARD}),
        list_page=1_000,
        marks_batches=False,
        fences=False,
        newest_first=True,
        window=timedelta(hours=24),
    ),
)
