"""Common: what several presets share.

Below the other presets.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from keld.errors import InvalidJob
from keld.providers.base import NO_EMBEDDINGS
from keld.providers.dialects.openai_chat import OpenAIChat
from keld.providers.fault import Codes, Meaning
from keld.providers.pack import Pack
from keld.providers.part import Dialect
from keld.request import Question

# Refused before any work, by their codes, and so not paid: Anthropic's 529, and Groq's 498 for a flex lane without capacity.  Gateways forward both.
NOT_DONE: Codes = {(None, "overloaded_error"): Meaning.NOT_DONE, (None, "capacity_exceeded"): Meaning.NOT_DONE}
# Where one request is the unit of a rate limit.  OpenAI and Azure take 2,048 texts and 300,000 tokens (platform.openai.com/docs/api-reference/embeddings,
# Nov 2026).  Fewer are packed: 64 are enough for the limit of tokens to bind before that of requests, and the reply to 64 is 1 MB.
EMBEDDING_PACK = Pack(rows=64, fragment_bytes=128 << 10)
LINE_BYTES = 10_000_000  # no limit of one line is documented; a row above 10 MB is taken for a mistake
# Hosts that are not OpenAI's may ignore `max_completion_tokens`, and an answer without a limit could cost more than was reserved.
MAX_TOKENS_CHAT = OpenAIChat(length_field="max_tokens")


_FULL = (429, 503)


def turned_away(answer: bytes) -> bool:
    """`Preset.aborted` of a gateway: its own provider's rate limit or full queue, in a reply with status 200 and without an answer.

    OpenRouter's, for one (github.com/UKGovernmentBEIS/inspect_ai/issues/1534).
    """
    if b'"error":{' not in answer or b'"choices":[{' in answer:  # within a text, its quotes would be escaped
        return False
    try:
        return msgspec.json.decode(answer, type=_Failed).error.code in _FULL
    except msgspec.MsgspecError:
        return False


class _Error(msgspec.Struct, gc=False):
    code: object = None


class _Failed(msgspec.Struct, gc=False):
    error: _Error


def chat_only(host: str, chat: Dialect) -> Callable[[Question, str], Dialect]:
    """`Preset.dialect` of a host without embeddings."""

    def dialect(question: Question, model: str) -> Dialect:
        if question.output["kind"] == "embedding":
            raise InvalidJob(f"{NO_EMBEDDINGS.format(whose=host)}. Nothing was sent.")
        return chat

    return dialect
