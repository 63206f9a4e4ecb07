"""OpenAI vocabulary: exact token counts of OpenAI's models, if the extra `tokens` is installed.

A part of the dialects of OpenAI's family.  Pure, and offline: rs-bpe contains the vocabularies (tiktoken downloads them).  We assume that the newer
models still use o200k.
"""

from __future__ import annotations

import re

from keld.vocabulary import Count

_O200K = re.compile(r"(ft:)?(gpt-4o|gpt-4\.[15]|gpt-[56]|chatgpt-4o|o[134](-|$))")
_CL100K = re.compile(r"(ft:)?(gpt-4(-|$)|gpt-3\.5|text-embedding-(3|ada-002))")


def counter(model: str) -> Count | None:
    """A function from a text to its number of tokens; None if the model's vocabulary is not public, or the extra is not installed."""
    name = "o200k_base" if _O200K.match(model) else "cl100k_base" if _CL100K.match(model) else None
    if name is None:
        return None
    try:
        from rs_bpe.bpe import openai
    except ImportError:
        return None
    count: Count = getattr(openai, name)().count
    return count
