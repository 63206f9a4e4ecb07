"""Cache: the prompt caches of both services, the one thing in which an answer depends on those before it.

A marked prefix is written by the first request that has it and read by those that begin after its answer did, until its time to live is over
on the emulator's clock; each read prolongs it.  Requests that run side by side all write: so do the rows of one batch, which begin together.
Batches and calls that are answered at once have caches apart.  Of several marks in a request the longest cached one is read, and what follows
it, up to the last mark, is written.  OpenAI's older models need no mark: the longest prefix that equals the latest prompt with the same
beginning is read, in steps of 128 tokens, and writing costs nothing.  Wire and rules: docs/notes/providers.md.
"""

import itertools
import threading
from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple

from .dialect import Conditions

TTL_S = {"5m": 300.0, "30m": 1_800.0, "1h": 3_600.0}
_LEAST_TOKENS, _STEP_TOKENS, _KEPT_S = 1_024, 128, 600.0
_HEAD_BYTES, _STEP_BYTES = _LEAST_TOKENS * 4, 512
_MOST_PROMPTS = 10_000
_ticks = itertools.count(1)


def tick() -> int:
    """The next number of an order in time that is finer than the emulator's clock, which may stand still."""
    return next(_ticks)


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


class _Kept(NamedTuple):
    """A prefix that is kept: from when and until when, in unix seconds; who wrote it, and at which tick."""

    since: float
    until: float
    batch_id: str | None
    tick: int

    def is_seen(self, by: Conditions) -> bool:
        """True if a request finds it: it was there before the request began."""
        if by.batch:
            return self.since <= by.begun <= self.until and self.batch_id != by.batch_id
        return self.since <= by.at <= self.until and (by.arrived is None or self.tick < by.arrived)

    def again(self, by: Conditions, ttl: str) -> "_Kept":
        """The same after one more request with its mark; a new one if it was not kept any more."""
        until = by.at + TTL_S[ttl]
        return _kept(by, ttl) if self.until < by.begun else self._replace(since=min(self.since, by.at), until=max(self.until, until))


def _kept(by: Conditions, ttl: str) -> _Kept:
    return _Kept(by.at, by.at + TTL_S[ttl], by.batch_id, tick())


class PromptCache:
    """Which prefixes are warm, and until when."""

    def __init__(self) -> None:
        self._kept: dict[tuple[bool, str, bytes], _Kept] = {}
        self._prompts: dict[tuple[str, bytes], tuple[bytes, float]] = {}
        self._lock = threading.Lock()

    def marked(self, model: str, pieces: Sequence[Piece], least_tokens: int, by: Conditions) -> Use:
        """What a request reads and writes by its marks; afterwards its marked prefixes are warm."""
        marks = _marks(model, pieces, least_tokens)
        if not marks:
            return Use()
        with self._lock:
            found = [self._kept.get((by.batch, *mark.key)) for mark in marks]
            miss = by.fate == "cache_miss"
            warm = [] if miss else [mark for mark, kept in zip(marks, found, strict=True) if kept is not None and kept.is_seen(by)]
            for mark, kept in zip(marks, found, strict=True):
                self._kept[by.batch, *mark.key] = _kept(by, mark.ttl) if kept is None else kept.again(by, mark.ttl)
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
