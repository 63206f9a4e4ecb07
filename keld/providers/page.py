"""Page: lists of batches, page by page, and whether a list is complete.

Beside `base`.  The order of a list is not guaranteed: a gateway may list the oldest first, or in no order.  A next page is not guaranteed either:
a host that ignores the cursor gives the same page for ever.  A batch that is not found in a list is sent again, and paid again if it was there:
so a list says whether it has proven that nothing is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from keld.providers.base import RemoteBatch

# Used for a creation time that cannot be read: it never counts as older than another.
UNREADABLE_TIME = datetime.max.replace(tzinfo=UTC)
_SHOWN = 20  # this many batches, none younger than the one before it, show that the newest come first
_JITTER = timedelta(minutes=1)  # between the times of batches that were created at the same time
_PAGES_MOST = 5_000  # of a list that never ends


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a list of batches.

    Args:
        after: the cursor of the next page: the last id of this one, or a token; None: there is none.
        more: whether there is a next page; None: the reply does not say.
    """

    batches: Sequence[RemoteBatch]
    after: str | None
    more: bool | None


PageAfter = Callable[[str | None], Page]
"""`Page.after` of the page before, or None for the first one -> a page."""


class Listing:
    """An account's batches, page by page; after the iteration, `complete` is True if none of the wanted batches can be missing.

    It is read to its end: the last page says so, or an empty page follows.  If the newest come first, it is read only to the end of a page
    that is wholly older than `created_after`, or that contains the batch `until`.  That order is documented by the provider
    (`newest_first`), or shown by the list.

    Args:
        whole: the caller wants proof that a batch is absent.  Then only a documented order counts, and only if
            the list has a batch younger than `created_after`: otherwise the provider's clock and ours may be far apart.
        after: the cursor to begin at, as `Page.after`: only a part of the list, so never complete.
    """

    def __init__(
        self,
        page_after: PageAfter,
        created_after: datetime,
        *,
        until: str | None = None,
        newest_first: bool = False,
        whole: bool = False,
        after: str | None = None,
    ) -> None:
        self._page_after, self._created_after, self._until, self._start = page_after, created_after, until, after
        self._newest_first, self._whole = newest_first, whole
        self._seen: set[str] = set()
        self._oldest = UNREADABLE_TIME
        self._rises = self._younger = self._nameless = False
        self.complete = False

    def __iter__(self) -> Iterator[RemoteBatch]:
        after = self._start
        for _ in range(_PAGES_MOST):
            page = self._page_after(after)
            fresh = [batch for batch in page.batches if batch.id not in self._seen]
            self._note(fresh)
            yield from fresh
            if page.more is False or (page.more is None and not page.batches) or self._rest_is_older(fresh):
                self.complete = not self._nameless and self._start is None
                return
            if page.after is None or (not fresh and (page.batches or page.after == after)):
                return  # the same page again, or no cursor although it is not the last page; after an empty page more may follow
            after = page.after

    def _note(self, fresh: list[RemoteBatch]) -> None:
        for batch in fresh:
            self._seen.add(batch.id)
            self._nameless |= not batch.id  # it could be any batch
            self._rises |= batch.created_at > self._oldest + _JITTER if self._oldest < UNREADABLE_TIME else False
            self._oldest = min(self._oldest, batch.created_at)
            self._younger |= batch.created_at >= self._created_after

    def _rest_is_older(self, fresh: list[RemoteBatch]) -> bool:
        """True if every wanted batch has been listed by now, so that the rest need not be read."""
        falls = not self._rises and (self._newest_first or (not self._whole and len(self._seen) >= _SHOWN))
        if not fresh or not falls:
            return False
        if any(batch.id == self._until for batch in fresh):
            return True
        older = all(batch.created_at < self._created_after - _JITTER for batch in fresh)
        return older and (self._younger or not self._whole)


def youngest(page: Sequence[RemoteBatch]) -> str | None:
    """The id of the batch that was created last; None for an empty page."""
    dated = [batch for batch in page if batch.created_at != UNREADABLE_TIME] or page
    return max(dated, key=lambda batch: batch.created_at).id if dated else None


def instant(value: object) -> datetime:
    """A creation time, as unix seconds, unix milliseconds or ISO 8601 text, aware; `UNREADABLE_TIME` for anything else."""
    try:
        if isinstance(value, str):
            found = datetime.fromisoformat(value)
            return found if found.tzinfo else found.replace(tzinfo=UTC)
        if isinstance(value, int | float) and value > 0:
            return datetime.fromtimestamp(value / 1000 if value > 10**11 else value, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    return UNREADABLE_TIME


def id_of(value: str | int | None) -> str:
    """An id as text, "" for none: some hosts use numbers as ids."""
    return "" if value is None else str(value)


def said(value: object) -> bool | None:
    """A yes or no of a reply; None if it says neither: some hosts leave it out, or give a text."""
    return value if isinstance(value, bool) else None


def has_id(found: Any) -> bool:
    """True if an object has its id, or is of a type without an id, such as a list."""
    return getattr(found, "id", True) not in (None, "")
