"""Vocabulary: how many tokens a text is, exactly, where the model's vocabulary is public and the extra `tokens` is installed.

Beside `estimate`.  Pure, and offline: rs-bpe brings OpenAI's vocabularies with it (tiktoken fetches them, tokenizers and the vendors' own
counters have none; docs/notes/measurements.md).  That OpenAI's newer models still use o200k is assumed; other vendors publish none, and are estimated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

import msgspec

Count = Callable[[str], int]
_O200K = re.compile(r"(ft:)?(gpt-4o|gpt-4\.[15]|gpt-[56]|chatgpt-4o|o[134](-|$))")
_CL100K = re.compile(r"(ft:)?(gpt-4(-|$)|gpt-3\.5|text-embedding-(3|ada-002))")


def counter(model: str) -> Count | None:
    """A function from a text to its number of tokens; None where the model's vocabulary is not public, or the extra is not installed."""
    name = "o200k_base" if _O200K.match(model) else "cl100k_base" if _CL100K.match(model) else None
    if name is None:
        return None
    try:
        from rs_bpe.bpe import openai
    except ImportError:
        return None
    count: Count = getattr(openai, name)().count
    return count


def tokens_of(fragments: Iterable[bytes], count: Count) -> tuple[int, int] | None:
    """(bytes, tokens) of these prompt fragments; None if there is more than text in them."""
    size_bytes = tokens = 0
    for fragment in fragments:
        size_bytes += len(fragment)
        for text in _texts(msgspec.json.decode(fragment)):
            if text is None:
                return None
            tokens += count(text)
    return size_bytes, tokens


def _texts(prompt: str | list[dict[str, object]]) -> Iterator[str | None]:
    """The texts of a prompt, one message or a conversation; None for a part that is no text: an image, a file, a call."""
    for message in [{"content": prompt}] if isinstance(prompt, str) else prompt:
        content = message.get("content")  # a message that calls tools has none
        if isinstance(content, str):
            yield content
        else:
            parts = content if isinstance(content, list) else [content]
            yield from (part["text"] if isinstance(part, dict) and isinstance(part.get("text"), str) else None for part in parts)
