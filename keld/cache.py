"""Cache: whether the shared beginning of a shard's prompts is marked for the provider's cache, and what that is expected to save.

On the road: `price` -> **`cache`** -> `plan`.  Pure.
All rows of a job begin with the same words: the tools and the schema, then the system prompt.  A provider reads them once and keeps them, at
a higher rate than plain input (1.25 times for minutes, twice for an hour, docs/notes/providers.md), and lets others have them for a tenth.  So a
mark pays only where enough rows read what one has written: never for one row, and not where the beginning is too short to be kept at all.

- The cache of an hour in batches, as Anthropic advises, since they outlive five minutes; that of minutes in a fast lane, where one row
  follows the other.
- Nothing is sold as certain: Anthropic says that between 30 and 98 % of a batch's rows find what was written (best effort).  Before the
  ledger knows better we expect the middle, in every lane.  Where that, or what was learned, makes a mark dearer than plain input, none is set.
- What is learned is forgotten after a fortnight, so that a mark that did not pay once is tried again.
- The worst case is that every row writes and none reads; it is reserved.  Where only that breaks the ceiling, no mark is set.
- A user's own marks win, in `params` or in a row's messages: Keld then sets none, and reserves as if all were written for an hour.
- `Job.cache` has two words.  `never` earns its place: a ceiling close to the plain cost is easier to keep without the reserve, and some
  hosts of a provider's shape refuse fields that they do not know.

Rows are not put in another order for it.  A shard's positions ascend (results are scattered back by them, answers read range by range), all
rows of a job share one beginning anyway, and a provider works on a batch in no order: rows side by side in the file are not so in time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from math import ceil

from keld.price import Lane, Rates

# platform.claude.com/docs/en/build-with-claude/batch-processing, Nov 2026: 30 to 98 % of a batch.  Nobody says what a fast lane has; were more
# taken for granted there than in a batch, jobs would leave the batch lane for a guess.
_HITS = 0.64
_PRIOR_ROWS = 50
# Of texts that were measured only emoji and base64 have fewer (docs/notes/measurements.md); a marked text that is too short costs nothing.
_MARKED_BYTES_A_TOKEN = 3
LEARN_FOR = timedelta(days=14)


class Ttl(StrEnum):
    """How long what is written is kept, at least, after it was read last."""

    MINUTES = "5m"
    HALF_HOUR = "30m"
    HOUR = "1h"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caching:
    """How a provider caches the beginning of one model's prompts.

    Args:
        least_tokens: a shorter beginning is not kept, marked or not.
        by_itself: it may write, and bill, what no request marks.
        ttl: of the marks it takes, by lane; empty: it takes none.
    """

    least_tokens: int
    by_itself: bool
    ttl: Mapping[Lane, Ttl]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """What becomes of the shared beginning of some requests.

    Args:
        ttl: of the mark; None: there is none.
        hits: the share of it that is expected to be read, after the first row's.
        least_tokens: of a beginning that is kept.
        least_requests: for fewer a mark does not pay.
    """

    ttl: Ttl | None = None
    hits: float = 0.0
    least_tokens: int = 0
    least_requests: int = 2

    def of(self, requests: int) -> Cache:
        """The same for so many requests; unmarked where it does not pay for these."""
        return self if self.ttl is None or requests >= self.least_requests else UNMARKED

    def read(self, tokens: int, requests: int) -> int:
        """Tokens of all these shared beginnings together that are expected to be read."""
        if not requests or tokens < requests * self.least_tokens:
            return 0
        return int(tokens * self.hits * (requests - 1) / requests)


UNMARKED = Cache()


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What marked shards reported of late."""

    rows: int = 0
    read_tokens: int = 0
    written_tokens: int = 0


def marked(caching: Caching, lane: Lane, rates: Rates, shared_bytes: int, seen: Read) -> Cache:
    """The mark for requests that share `shared_bytes`, where it is expected to pay; else none.

    >>> from decimal import Decimal; from keld.price import Bracket
    >>> one = Bracket(above=0, input=Decimal(1), cached=Decimal("0.1"), cache_write=Decimal("1.25"), cache_write_1h=Decimal(2), output=Decimal(5))
    >>> kind = Caching(least_tokens=1024, by_itself=False, ttl={Lane.BATCH: Ttl.HOUR, Lane.STANDARD: Ttl.MINUTES})
    >>> marked(kind, Lane.BATCH, Rates(brackets=(one,), source=""), 8_000, Read())
    Cache(ttl=<Ttl.HOUR: '1h'>, hits=0.64, least_tokens=1024, least_requests=6)
    >>> marked(kind, Lane.STANDARD, Rates(brackets=(one,), source=""), 8_000, Read()).least_requests
    2
    """
    ttl = caching.ttl.get(lane)
    if ttl is None or shared_bytes < caching.least_tokens * _MARKED_BYTES_A_TOKEN:
        return UNMARKED
    hits, even = _hits(seen), _even(rates, ttl)
    if hits <= even:
        return UNMARKED
    # Of n rows one writes at least: n - 1 of n times `hits` must be more than `even`.
    return Cache(ttl=ttl, hits=hits, least_tokens=caching.least_tokens, least_requests=max(2, ceil(hits / (hits - even))))


def unmarked(caching: Caching, cached_tokens: int, shared_tokens: float, rows: float) -> Cache:
    """What a provider that caches by itself is expected to: as much as it did for this job; nothing, before that is known."""
    if not caching.by_itself or shared_tokens <= 0 or rows <= 0:
        return UNMARKED
    share = rows / (rows + _PRIOR_ROWS)
    return Cache(hits=share * min(1.0, cached_tokens / shared_tokens), least_tokens=caching.least_tokens)


def without_mark(cache: Cache) -> Cache:
    return replace(cache, ttl=None, hits=0.0) if cache.ttl is not None else cache


def _hits(seen: Read) -> float:
    """The prior, moved by what was seen in proportion to its rows."""
    used = seen.read_tokens + seen.written_tokens
    if not used:
        return _HITS
    share = seen.rows / (seen.rows + _PRIOR_ROWS)
    return (1 - share) * _HITS + share * seen.read_tokens / used


def _even(rates: Rates, ttl: Ttl) -> float:
    """The share of rows that must read for a mark to cost what plain input does."""
    base = rates.base
    write = base.cache_write_1h if ttl is Ttl.HOUR else base.cache_write
    if write <= base.cached:
        return 0.0 if base.cached < base.input else 1.0
    return float((write - base.input) / (write - base.cached))
