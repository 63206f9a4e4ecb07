"""Format: one kind of log, as a table of names: which field of the record stands where, and in which unit.

The name of a field says its unit, so that a new kind of log is a table and no code: `duration_ms`, `ttft_s`, `usd_cents`.  Where several
places may hold a field, the first that holds anything is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

# What a table of names may name, and what stands there.
FIELDS = {
    "at": "when the call began, or the bucket",
    "end": "when it ended",
    "duration_s": "how long it took, in seconds",
    "duration_ms": "the same, in milliseconds",
    "first_at": "when the first token came; a call streamed if that is between its begin and its end",
    "ttft_s": "seconds until the first token; logged only of calls that streamed",
    "ttft_ms": "the same, in milliseconds",
    "streamed": "whether it streamed",
    "provider": "who answered",
    "model": "the model",
    "service": "who called: a service, an application, the alias of a key",
    "job": "what the work is called: a tag, the name of its trace",
    "operation": "chat, embeddings, ...",
    "lane": "the service tier: batch, flex, ...",
    "user": "the person for whom it was made",
    "session": "the conversation",
    "trace": "the piece of work it was a part of",
    "tags": "free labels",
    "input": "input tokens, with the cached and the written ones",
    "fresh": "input tokens without them",
    "cached": "input tokens read from the cache",
    "written": "input tokens written to the cache",
    "written_1h": "those of them written for an hour",
    "output": "output tokens",
    "usd": "the cost",
    "usd_cents": "the cost in cents",
    "status": "how it ended: a word, or an HTTP status",
    "ok": "whether it succeeded",
    "requests": "how many calls a bucket holds",
    "request": "the body of the request",
    "id": "what names the call; one with the same id, instant and tokens is the same call, and is counted once",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One kind of log.

    Args:
        name: for `--format`.
        title: for people.
        needs: a file is of this kind if its rows have all fields of one of these sets; of several kinds the one with the larger set.
        names: field of the record -> paths (`chunk.values_at`).
        only: path -> the values, in small letters, of rows that are calls; a row with nothing there counts.
        unfold: a document -> its rows; None: each document is a row.
        columns: the fields of a row that `unfold` gives as a list of values; empty: it gives dicts.
        marks: a line with none of these has no call in it, and is not decoded; empty: each line is.
        document: the type into which a document that is unfolded is decoded.
        buckets: a row is a bucket of calls, of which the clock is known and nothing else.
        provider: who answered, where no row says it.
    """

    name: str
    title: str
    needs: tuple[frozenset[str], ...]
    names: Mapping[str, tuple[str, ...]]
    only: Mapping[str, frozenset[str]] = field(default_factory=dict)
    unfold: Callable[[Any], Iterable[Any]] | None = None
    columns: tuple[str, ...] = ()
    marks: tuple[bytes, ...] = ()
    document: Any = Any
    buckets: bool = False
    provider: str = ""

    def lacks(self) -> tuple[str, ...]:
        """What a log of this kind never has, of what tells who waits; in words."""
        asked = {
            "ends of calls": ("end", "duration_s", "duration_ms"),
            "stream flag": ("streamed", "first_at", "ttft_s", "ttft_ms"),
            "people": ("user",),
            "sessions": ("session",),
        }
        return tuple(word for word, fields in asked.items() if not any(name in self.names for name in fields))


def needs(*sets: str) -> tuple[frozenset[str], ...]:
    """Sets of field names, each given as one text with spaces between."""
    return tuple(frozenset(names.split()) for names in sets)
