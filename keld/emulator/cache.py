"""Cache: the prompt caches of both services, the one thing in which an answer depends on those before it.

A marked prefix is written by the first request that has it and read by later ones, until its time to live is over on the emulator's
clock; each read prolongs it.  Of several marks in a request the longest cached one is read, and what follows it, up to the last mark, is
written.  OpenAI's older models need no mark: the longest prefix that equals the latest prompt with the same beginning is read, in steps of
128 tokens, and writing costs nothing.  Wire and rules: docs/notes/providers.md.
"""

import threading
from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple

TTL_S = {"5m": 300.0, "30m": 1_800.0, "1h": 3_600.0}
_LEAST_TOKENS, _STEP_TOKENS, _KEPT_S = 1_024, 128, 600.0
_HEAD_BYTES, _STEP_BYTES = _LEAST_TOKENS * 4, 512
_MOST_PROMPTS = 10_000


class Piece(NamedTuple):
    """A part of a prompt, in the order in which the model reads it; `ttl` if a mark follows it."""

    content: bytes
    tokens: int
    ttl: str | None = None


class Use(NamedTuple):
    """What came from the cache and what went there, in tokens."""

    read: int = 0
    written: int = 0
    written_1h: int = 0


class PromptCache:
    """Which prefixes are warm, and until when."""

    def __init__(self) -> None:
        self._warm_until: dict[tuple[str, bytes], float] = {}
        self._prompts: dict[tuple[str, bytes], tuple[bytes, float]] = {}
        self._lock = threading.Lock()

    def marked(self, model: str, pieces: Sequence[Piece], least_tokens: int, at: float, *, miss: bool = False) -> Use:
        """What a request at `at` reads and writes by its marks; afterwards its marked prefixes are warm.

        Args:
            miss: nothing is found, even if it is cached.
        """
        marks = _marks(model, pieces, least_tokens)
        if not marks:
            return Use()
        with self._lock:
            warm = [] if miss else [mark for mark in marks if self._warm_until.get(mark.key, -1.0) >= at]
            for mark in marks:
                self._warm_until[mark.key] = max(at + TTL_S[mark.ttl], self._warm_until.get(mark.key, 0.0))
        read = warm[-1].tokens if warm else 0
        written = written_1h = 0
        for mark in marks:
            more = max(0, mark.tokens - read - written)
            written += more
            written_1h += more if mark.ttl == "1h" else 0
        return Use(read, written, written_1h)

    def unmarked(self, model: str, prompt: bytes, at: float, *, miss: bool = False) -> Use:
        """What a request at `at` reads without any mark; afterwards its prompt is warm."""
        if len(prompt) < _HEAD_BYTES:
            return Use()
        key = (model, sha256(prompt[:_HEAD_BYTES]).digest())
        with self._lock:
            latest, until = self._prompts.get(key, (b"", -1.0))
            if len(self._prompts) >= _MOST_PROMPTS:
                self._prompts.clear()
            self._prompts[key] = (prompt, at + _KEPT_S)
        if miss or until < at:
            return Use()
        tokens = _common(latest, prompt) // 4
        return Use(read=tokens // _STEP_TOKENS * _STEP_TOKENS if tokens >= _LEAST_TOKENS else 0)


class _Mark(NamedTuple):
    key: tuple[str, bytes]
    tokens: int
    ttl: str


def _marks(model: str, pieces: Sequence[Piece], least_tokens: int) -> list[_Mark]:
    """The prefixes that end at a mark and are long enough, the shortest first."""
    if not any(piece.ttl for piece in pieces):
        return []
    found, so_far, tokens = [], sha256(), 0
    for piece in pieces:
        so_far.update(len(piece.content).to_bytes(8, "little") + piece.content)
        tokens += piece.tokens
        if piece.ttl is not None and tokens >= least_tokens:
            found.append(_Mark((model, so_far.digest()), tokens, piece.ttl))
    return found


def _common(one: bytes, other: bytes) -> int:
    """Bytes that both begin with, in whole steps."""
    end = min(len(one), len(other))
    same = 0
    while same < end and one[same : same + _STEP_BYTES] == other[same : same + _STEP_BYTES]:
        same += _STEP_BYTES
    return min(same, end)
