"""OpenAI cache: how OpenAI caches the beginning of prompts, and how it is marked.

A part of the dialects of OpenAI's family.  By developers.openai.com/api/docs/guides/prompt-caching and the types of openai 2, Nov 2026.

Before gpt-5.6 caching is automatic, by the longest equal beginning, and a write costs nothing: no field is needed.  From gpt-5.6 on a write
costs 1.25 times the input, only a prefix that ends at a breakpoint can be read again, and the automatic breakpoint comes after the row's own
prompt: every row would write its whole prompt, and no row would read.  So for these models we send `explicit`, which writes only marked prefixes, and
mark the system prompt if that saves money, with one `prompt_cache_key` for all rows that share it.  Older models get no key: all rows have the same
beginning, and are routed by their first 256 tokens.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

from keld.cache import Caching, Ttl
from keld.price import Lane
from keld.request import Question, one_line

# Gateways forward the marks of other families to their models, so these fields count as a user's own marks, too.
FIELDS = frozenset({"prompt_cache_breakpoint", "prompt_cache_options", "cache_control"})
_VERSION = re.compile(r"\bgpt-(\d+)(?:\.(\d+))?")
_LEAST_CACHED = 1_024  # tokens
_EXPLICIT = {"mode": "explicit"}


def caching(model: str) -> Caching:
    # It is not known what a host of this shape caches by itself: `by_itself` reserves the cost in any case.
    ttl = dict.fromkeys(Lane, Ttl.HALF_HOUR) if takes_marks(model) else {}
    return Caching(least_tokens=_LEAST_CACHED, by_itself=True, ttl=ttl)


def takes_marks(model: str) -> bool:
    """True if cache writes cost money and end at a mark: from gpt-5.6 on."""
    version = _VERSION.search(model)
    return version is not None and (int(version[1]), int(version[2] or 0)) >= (5, 6)


def marked(text: str, kind: str) -> list[dict[str, Any]]:
    """A text as a content part of that kind, with a mark at its end."""
    return [{"type": kind, "text": text, "prompt_cache_breakpoint": _EXPLICIT}]


def options(question: Question, model: str, cache: Ttl | None) -> dict[str, Any]:
    """The fields of a body about caching, without its marks."""
    if not takes_marks(model):
        return {}
    said: dict[str, Any] = {"prompt_cache_options": _EXPLICIT}  # without a mark nothing is written, and nothing is paid
    if cache is not None:
        digest = hashlib.sha256(one_line([question.system, question.output])).hexdigest()
        said |= {"prompt_cache_key": f"keld-{digest[:24]}"}
    return said
