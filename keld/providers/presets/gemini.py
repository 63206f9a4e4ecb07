"""Gemini: the Gemini Developer API, generativelanguage.googleapis.com, with a key of AI Studio."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from keld.price import Lane
from keld.providers.base import Traits
from keld.providers.dialects.gemini_embeddings import GeminiEmbeddings
from keld.providers.dialects.gemini_generate import GeminiGenerate
from keld.providers.fault import Meaning
from keld.providers.part import Dialect, Preset, Probe
from keld.providers.presets.common import LINE_BYTES
from keld.providers.transports.gemini import FILE_MISSING, PRECONDITION, GeminiBatches, auth, error_in, versioned
from keld.providers.transports.gemini_lines import GeminiEnvelope
from keld.request import Question
from keld.shard import Limits

GENERATE, EMBEDDINGS = GeminiGenerate(), GeminiEmbeddings()


def dialect_of(question: Question, model: str) -> Dialect:
    return EMBEDDINGS if question.output["kind"] == "embedding" else GENERATE


def _names(body: Mapping[str, Any]) -> list[str]:
    return [str(one.get("name")).removeprefix("models/") for one in body.get("models") or () if isinstance(one, dict)]


PRESET = Preset(
    kind="gemini",
    base_url=lambda account: versioned(account.base_url),
    base_url_env="GOOGLE_GEMINI_BASE_URL",
    api_key_env="GEMINI_API_KEY",
    dialect=dialect_of,
    dialects=(GENERATE, EMBEDDINGS),
    envelope=GeminiEnvelope(),
    batches=GeminiBatches,
    auth=auth,
    error_in=error_in,
    codes={
        # A wrong key, and a project without billing or in a country that is not served, are bad requests: ai.google.dev/gemini-api/docs/troubleshooting.
        (400, "API_KEY_INVALID"): Meaning.ACCESS,
        (400, "API_KEY_EXPIRED"): Meaning.ACCESS,
        (400, PRECONDITION): Meaning.ACCESS,
        (403, FILE_MISSING): Meaning.MISSING,
        # Failed calls are not charged (ai.google.dev/gemini-api/docs/billing, Nov 2026); a flex call without capacity fails so.
        (503, "UNAVAILABLE"): Meaning.NOT_DONE,
    },
    prices="gemini",
    probe=Probe(path="/models?pageSize=1000", names=_names),
    # ai.google.dev/gemini-api/docs/batch-api, Nov 2026: files of 2 GB; a batch that expires after 48 hours "will not have any results to retrieve",
    # and of a cancelled one none are promised.  So shards are small: one of them is what an expiry can cost.  Half of the bytes, since the
    # messages of a conversation grow a little when they become contents.
    traits=Traits(
        limits=Limits(max_requests=2_000, max_bytes=1_000_000_000, max_line_bytes=LINE_BYTES),
        lanes=frozenset(Lane),
        list_page=100,
        marks_batches=True,
        fences=False,
        newest_first=False,
        pages_by_id=False,
        window=timedelta(hours=48),
        keeps_on_cancel=False,
        keeps_on_expiry=False,
    ),
)
