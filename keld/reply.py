"""Reply: one result line in neutral terms, not yet judged.

On the road: `providers` read the wire into it; `answer` judges it.  Whatever a provider's lines look like, everything above sees only this.
"""

from __future__ import annotations

from typing import Any

import msgspec

from keld.outcome import Outcome


class Reply(msgspec.Struct, gc=False, kw_only=True):
    """One result line."""

    custom_id: str
    outcome: Outcome  # ANSWERED: there is content to judge
    content: Any = None  # text, or an embedding as numbers or base64
    parts: list[Any] | None = None  # the contents of a request of many rows, in the order of its rows
    error: str | None = None
    retryable: bool = False
    model: str | None = None
    tier: str | None = None  # the service tier it was answered in, if the provider says it
    input_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    output_tokens: int = 0
