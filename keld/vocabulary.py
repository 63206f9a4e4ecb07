"""Vocabulary: how many tokens a text is, exactly, where the model's vocabulary is public and the extra `tokens` is installed.

Beside `estimate`.  Pure, and offline.  The dialect says which vocabulary a model has; most vendors publish none, so their tokens are estimated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec

Count = Callable[[str], int]


def tokens_of(fragments: Iterable[bytes], count: Count) -> list[int] | None:
    """The tokens of each of these prompt fragments; None if one holds more than text."""
    found: list[int] = []
    for fragment in fragments:
        tokens = 0
        for text in _texts(msgspec.json.decode(fragment)):
            if text is None:
                return None
            tokens += count(text)
        found.append(tokens)
    return found


def _texts(prompt: str | list[dict[str, object]]) -> Iterator[str | None]:
    """The texts of a prompt, one message or a conversation; None for a part that is no text: an image, a file, a call."""
    for message in [{"content": prompt}] if isinstance(prompt, str) else prompt:
        content = message.get("content")  # a message that calls tools has none
        if isinstance(content, str):
            yield content
        else:
            parts = content if isinstance(content, list) else [content]
            yield from (part["text"] if isinstance(part, dict) and isinstance(part.get("text"), str) else None for part in parts)
