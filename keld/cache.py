"""Cache: whether the shared beginning of a shard's prompts is marked for the provider's cache, and what that is expected to save.

On the road: `price` -> **`cache`** -> `plan`.  Pure.
All rows of a job begin with the same text: the tools and the schema, then the system prompt.  A provider reads it once and keeps it, at a
higher rate than plain input (1.25 times for minutes, twice for an hour, docs/notes/providers.md); later reads cost a tenth.  So a mark saves
money only if enough rows read what another one has written: never for one row, and not if the beginning is too short to be kept at all.

How many rows read it depends on what happened before they were asked:

- The rows of a **cold** batch run side by side, and none sees what another one writes: others measured 0 % (docs/notes/providers.md).
  So a cold batch is expected to read nothing, and is not marked: marked for an hour it would cost twice the input.
- A batch is **warm** if another one with the same beginning ended so recently that the cache still has it.  Anthropic says that 30 to 98 % of
  the rows then read it; until the ledger has observations we expect the middle.
- **Priming** makes a batch warm: one row goes ahead as a batch of its own, writes the beginning, and the others follow when it has ended.  That
  takes a turnaround more.  `plan` chooses it where it is expected to cost less and the deadline allows it.
- In a fast lane the first row goes ahead of the others by itself (`realtime`).  We expect the same there, although a test of two requests would
  promise more: of second requests 1 to 60 % missed (docs/notes/providers.md), and jobs must not leave the batch lane because of a guess.

- A cache **without marks** whose writes cost nothing (OpenAI before gpt-5.6, Gemini, Mistral) is not primed.  A cold batch there never costs more than
  plain input, and warms itself while it runs.  One row ahead could spare the first rows only, and what it wrote is gone after minutes without a read,
  before most batches begin.  Before anything was observed we expect no hits there with or without it, so that it saves nothing by the rule above.

What marked shards reported replaces the priors, for cold batches, warm batches and each fast lane apart.  It is forgotten after two weeks, so that
a mark that did not pay once is tried again.

- Batches use the cache of an hour, as Anthropic advises, since they take longer than five minutes; a fast lane uses that of minutes, since
  its rows follow each other closely.  What a batch wrote is not read by a fast lane, nor the other way round.
- The worst case is that every row writes and none reads; it is reserved.  If the ceiling has no room for only that, no mark is set.
- A user's own marks, in `params` or in a row's messages, have precedence: Keld then sets none, and reserves as if all were written for an hour.
- `Job.cache` has two values.  `never` is needed: a ceiling close to the plain cost is easier to keep without the reservation, and some
  hosts of a provider's shape refuse fields that they do not know.

Rows are not reordered for the cache.  A shard's positions ascend (results are put back by them, answers are read range by range), all
rows of a job share one beginning anyway, and a provider works on a batch in no order: neighbours in the file are not neighbours in time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from hashlib import sha256
from math import ceil

import msgspec
from msgspec.structs import replace

from keld.price import Lane, Rates

# The middle of what platform.claude.com/docs/en/build-with-claude/batch-processing says, Nov 2026.
_HITS = 0.64
_PRIOR_ROWS = 50
# Of texts that were measured only emoji and base64 have fewer (docs/notes/measurements.md); a marked text that is too short costs nothing.
_MARKED_BYTES_A_TOKEN = 3
LEARN_FOR = timedelta(days=14)


class Ttl(StrEnum):
    """The least time that a cache entry is kept after its last read."""

    MINUTES = "5m"
    HALF_HOUR = "30m"
    HOUR = "1h"

    @property
    def span(self) -> timedelta:
        return {Ttl.MINUTES: timedelta(minutes=5), Ttl.HALF_HOUR: timedelta(minutes=30), Ttl.HOUR: timedelta(hours=1)}[self]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caching:
    """How a provider caches the beginning of one model's prompts.

    Args:
        least_tokens: a shorter beginning is not kept, marked or not.
        by_itself: it may write to its cache, and bill for it, without a mark in the request.
        ttl: of the marks it takes, by lane; empty: it takes none.
    """

    least_tokens: int
    by_itself: bool
    ttl: Mapping[Lane, Ttl]


class Cache(msgspec.Struct, frozen=True, kw_only=True):
    """How the shared beginning of some requests is cached.

    Args:
        ttl: of the mark; None: there is none.
        hits: the share of the rows that are expected to read it; without `warm`, of the rows after the first, which writes it.
        least_tokens: a shorter beginning is not kept.
        least_requests: for fewer requests a mark does not pay; None: it never pays.
        warm: a batch that ended before has written it.
    """

    ttl: Ttl | None = None
    hits: float = 0.0
    least_tokens: int = 0
    least_requests: int | None = 2
    warm: bool = False

    def of(self, requests: int) -> Cache:
        """The cache for this number of requests; unmarked if a mark does not pay for them."""
        return self if self.ttl is None or (self.least_requests is not None and requests >= self.least_requests) else UNMARKED

    def read(self, tokens: int, requests: int) -> int:
        """Tokens of all these shared beginnings together that are expected to be read."""
        if not requests or tokens < requests * self.least_tokens:
            return 0
        return int(tokens * self.hits * (requests - (not self.warm)) / requests)

    @property
    def forced(self) -> Cache:
        """The same mark for any number of requests, whether it pays or not."""
        return replace(self, least_requests=1)


UNMARKED = Cache()


class Read(msgspec.Struct, frozen=True, kw_only=True):
    """What marked shards reported recently."""

    rows: int = 0
    read_tokens: int = 0
    written_tokens: int = 0


def prefix_of(texts: Sequence[str]) -> str:
    """A digest of the texts that the prompts of some rows begin with: equal where what was written for one is read by another."""
    digest = sha256()
    for text in texts:
        digest.update(len(text.encode()).to_bytes(8, "little") + text.encode())
    return digest.hexdigest()[:16]


def mark_of(caching: Caching, lane: Lane, rates: Rates, shared_bytes: int, seen: Read, *, ahead: bool = False, warm: bool = False) -> Cache:
    """The mark for requests that share `shared_bytes`, whether it pays or not; `UNMARKED` if none can be set, or what they share is too short.

    Args:
        seen: of requests in the same circumstances.
        ahead: one of the requests goes ahead of the others, and writes what they read; always so in a fast lane.
        warm: what they share was written before.

    >>> from decimal import Decimal; from keld.price import Bracket
    >>> one = Bracket(above=0, input=Decimal(1), cached=Decimal("0.1"), cache_write=Decimal("1.25"), cache_write_1h=Decimal(2), output=Decimal(5))
    >>> kind = Caching(least_tokens=1024, by_itself=False, ttl={Lane.BATCH: Ttl.HOUR, Lane.STANDARD: Ttl.MINUTES})
    >>> mark_of(kind, Lane.BATCH, Rates(brackets=(one,), source=""), 8_000, Read())
    Cache(ttl=<Ttl.HOUR: '1h'>, hits=0.0, least_tokens=1024, least_requests=None, warm=False)
    >>> mark_of(kind, Lane.BATCH, Rates(brackets=(one,), source=""), 8_000, Read(), ahead=True)
    Cache(ttl=<Ttl.HOUR: '1h'>, hits=0.64, least_tokens=1024, least_requests=6, warm=False)
    >>> mark_of(kind, Lane.BATCH, Rates(brackets=(one,), source=""), 8_000, Read(), warm=True).least_requests
    1
    >>> mark_of(kind, Lane.STANDARD, Rates(brackets=(one,), source=""), 8_000, Read()).least_requests
    2
    """
    ttl = caching.ttl.get(lane)
    if ttl is None or shared_bytes < caching.least_tokens * _MARKED_BYTES_A_TOKEN:
        return UNMARKED
    cold = lane is Lane.BATCH and not ahead and not warm
    hits, even = _hits(0.0 if cold else _HITS, seen), _even(rates, ttl)
    # Without `warm` one of n rows writes at least: n - 1 of n times `hits` must be more than `even`.
    least = None if hits <= even else 1 if warm else max(2, ceil(hits / (hits - even)))
    return Cache(ttl=ttl, hits=hits, least_tokens=caching.least_tokens, least_requests=least, warm=warm)


def unmarked(caching: Caching, cached_tokens: int, shared_tokens: float, rows: float) -> Cache:
    """The cache of a provider that caches without marks: as many hits as it had for this job; none before that is known."""
    if not caching.by_itself or shared_tokens <= 0 or rows <= 0:
        return UNMARKED
    share = rows / (rows + _PRIOR_ROWS)
    return Cache(hits=share * min(1.0, cached_tokens / shared_tokens), least_tokens=caching.least_tokens)


def without_mark(cache: Cache) -> Cache:
    return replace(cache, ttl=None, hits=0.0) if cache.ttl is not None else cache


def _hits(prior: float, seen: Read) -> float:
    """The expected share of hits: the prior, corrected by what was seen in proportion to its rows."""
    used = seen.read_tokens + seen.written_tokens
    if not used:
        return prior
    share = seen.rows / (seen.rows + _PRIOR_ROWS)
    return (1 - share) * prior + share * seen.read_tokens / used


def _even(rates: Rates, ttl: Ttl) -> float:
    """The share of rows that must read the cache so that a mark costs the same as plain input."""
    base = rates.base
    write = base.cache_write_1h if ttl is Ttl.HOUR else base.cache_write
    if write <= base.cached:
        return 0.0 if base.cached < base.input else 1.0
    return float((write - base.input) / (write - base.cached))
