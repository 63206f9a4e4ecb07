"""OpenAI compatible: a host with OpenAI's requests and without its batches: a server of the user's own, a gateway.  It has the standard lane only."""

from __future__ import annotations

from keld.price import Lane
from keld.providers.base import Traits
from keld.providers.part import MODELS, Preset
from keld.providers.presets.common import LINE_BYTES, NOT_DONE, turned_away
from keld.providers.presets.openai import CHAT, EMBEDDINGS, RESPONSES, dialect_of, quotas_of
from keld.shard import Limits

PRESET = Preset(
    kind="openai_compatible",
    base_holds="/v1",
    dialect=dialect_of,
    dialects=(CHAT, RESPONSES, EMBEDDINGS),
    quotas=quotas_of,
    codes=NOT_DONE,
    probe=MODELS,
    aborted=turned_away,
    traits=Traits(
        limits=Limits(max_requests=50_000, max_bytes=200_000_000, max_line_bytes=LINE_BYTES),
        lanes=frozenset({Lane.STANDARD}),
    ),
)
