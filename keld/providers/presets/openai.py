"""OpenAI: api.openai.com.

Its dialects and its quota headers are those of every host with OpenAI's requests.
"""

from __future__ import annotations

from datetime import timedelta

import httpx2

from keld.errors import InvalidJob
from keld.price import Lane
from keld.providers.base import Quota, Traits
from keld.providers.call import quotas
from keld.providers.dialects.openai_chat import OpenAIChat
from keld.providers.dialects.openai_embeddings import OpenAIEmbeddings
from keld.providers.dialects.openai_responses import OpenAIResponses
from keld.providers.envelope import LINES
from keld.providers.fault import Meaning
from keld.providers.part import MODELS, Auth, Batches, Connection, Dialect, Preset
from keld.providers.presets.common import EMBEDDING_PACK, LINE_BYTES, NOT_DONE, turned_away
from keld.request import Question
from keld.shard import Limits

CHAT, RESPONSES, EMBEDDINGS = OpenAIChat(), OpenAIResponses(), OpenAIEmbeddings()
_BY_ENDPOINT: dict[str, Dialect] = {dialect.path(""): dialect for dialect in (CHAT, RESPONSES)}


def dialect_of(question: Question, model: str) -> Dialect:
    if question.output["kind"] == "embedding":
        return EMBEDDINGS
    if question.endpoint not in _BY_ENDPOINT:
        raise InvalidJob(f"endpoint={question.endpoint!r} is not one of {', '.join(_BY_ENDPOINT)}. Nothing was sent.")
    return _BY_ENDPOINT[question.endpoint]


def _batches(connection: Connection) -> Batches:
    from keld.providers.transports.openai_files import OpenAIFiles

    return OpenAIFiles(connection)


def _auth(connection: Connection) -> Auth:
    from keld.providers.transports import openai_files

    return openai_files.auth(connection)


def quotas_of(headers: httpx2.Headers) -> dict[str, Quota]:
    return quotas(headers, lambda kind, what: f"x-ratelimit-{what}-{kind}")


PRESET = Preset(
    kind="openai",
    base_url="https://api.openai.com/v1",
    base_url_env="OPENAI_BASE_URL",
    api_key_env="OPENAI_API_KEY",
    base_holds="/v1",
    dialect=dialect_of,
    dialects=(CHAT, RESPONSES, EMBEDDINGS),
    envelope=LINES,
    batches=_batches,
    auth=_auth,
    quotas=quotas_of,
    aborted=turned_away,  # of a gateway at its base URL
    codes={(400, "token_limit_exceeded"): Meaning.QUEUE_FULL, **NOT_DONE},
    prices="openai",
    probe=MODELS,
    # platform.openai.com/docs/guides/batch, 20 Nov 2026: 50,000 requests, 200 MB a file (10^6 bytes: larger ones were refused in
    # practice), 50,000 embedding inputs.
    traits=Traits(
        limits=Limits(max_requests=50_000, max_bytes=200_000_000, max_line_bytes=LINE_BYTES),
        lanes=frozenset(Lane),
        list_page=100,
        marks_batches=True,
        fences=True,
        newest_first=True,
        window=timedelta(hours=24),
        pack=EMBEDDING_PACK,
    ),
)
