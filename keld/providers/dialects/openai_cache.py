"""OpenAI cache: how the beginning of prompts is cached at OpenAI, and how it is marked.

A part of the dialects of OpenAI's family.  By developers.openai.com/api/docs/guides/prompt-caching and the types of openai 2, Nov 2026.

Before gpt-5.6 it goes by itself, by the longest equal beginning, and a write costs nothing: there is nothing to say.  From gpt-5.6 on a write
costs 1.25 times the input, only what ends at a breakpoint is found again, and the breakpoint that is set by itself stands behind the row's own
words: every row would write all of its prompt, and none read.  So there we say `explicit`, which writes nothing but what is marked, and mark the
system prompt where that pays, with one `prompt_cache_key` for all who share it.  Older models are sent no key: all rows begin alike, and are routed
by their first 256 tokens anyway.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

from keld.cache import Caching, Ttl
from keld.price import Lane
from keld.request import Question, one_line

# Gateways hand on the mark of another family to its models, so it counts as a user's own here, too.
FIELDS = frozenset({"prompt_cache_breakpoint", "prompt_cache_options", "cache_control"})
_VERSION = re.compile(r"\bgpt-(\d+)(?:\.(\d+))?")
_LEAST_CACHED = 1_024  # tokens
_EXPLICIT = {"mode": "explicit"}


def caching(model: str) -> Caching:
    # What a host of this shape writes by itself nobody knows: `by_itself` reserves for it in any case.
    ttl = dict.fromkeys(Lane, Ttl.HALF_HOUR) if takes_marks(model) else {}
    return Caching(least_tokens=_LEAST_CACHED, by_itself=True, ttl=ttl)


def takes_marks(model: str) -> bool:
    """Whether writes cost, and end where a mark says: from gpt-5.6 on."""
    version = _VERSION.search(model)
    return version is not None and (int(version[1]), int(version[2] or 0)) >= (5, 6)


def marked(text: str, kind: str) -> list[dict[str, Any]]:
    """A text as a content part of that kind, with a mark at its end."""
    return [{"type": kind, "text": text, "prompt_cache_breakpoint": _EXPLICIT}]


def options(question: Question, model: str, cache: Ttl | None) -> dict[str, Any]:
    """What a body says of caching beside its marks."""
    if not takes_marks(model):
        return {}
    said: dict[str, Any] = {"prompt_cache_options": _EXPLICIT}  # without a mark: nothing is written, and nothing paid for it
    if cache is not None:
        digest = hashlib.sha256(one_line([question.system, question.output])).hexdigest()
        said |= {"prompt_cache_key": f"keld-{digest[:24]}"}
    return said
