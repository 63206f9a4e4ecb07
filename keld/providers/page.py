"""Page: lists of batches, page by page, and what their end proves.

Beside `base`.  No order is a contract: a gateway may list the oldest first, or in none.  Nor is it that a list goes on: a host that ignores
its cursor gives the same page for ever.  What is not found in a list is sent again, and paid again if it was there after all: so a list
says of itself whether it has shown that nothing is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from keld.providers.base import RemoteBatch

# In the place of a creation time that cannot be read: never taken for older than anything.
UNREADABLE_TIME = datetime.max.replace(tzinfo=UTC)
_SHOWN = 20  # so many batches, each no younger than the one before it, show that the youngest come first
_JITTER = timedelta(minutes=1)  # between the times of batches that were made side by side
_PAGES_MOST = 5_000  # of a list that has ever new batches


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page of a list of batches.

    Args:
        after: what the next page is asked for with: the last id of this one, or a token; None: there is nothing to ask with.
        more: whether there is a next page; None: it is not said.
    """

    batches: Sequence[RemoteBatch]
    after: str | None
    more: bool | None


PageAfter = Callable[[str | None], Page]
"""`Page.after` of the page before, or None for the first one -> a page."""


class Listing:
    """An account's batches as they come; when the iteration is over, `complete` says whether none of those wanted can be missing.

    It is read to its end: the last page says so, or nothing comes behind it.  Sooner, where the youngest come first, to the end of a page
    that is wholly older than `created_after`, or has the batch `until` in it.  That they come so is the provider's own word
    (`newest_first`), or shown by the list.

    Args:
        whole: what is missing shall be proven absent.  Then only the provider's own word for its order is believed, and only where
            something is listed that is younger than `created_after`: else its clock and ours may be far apart.
        behind: where to go on from, as `Page.after`: a part of the list, which is never complete.
    """

    def __init__(
        self,
        page_after: PageAfter,
        created_after: datetime,
        *,
        until: str | None = None,
        newest_first: bool = False,
        whole: bool = False,
        behind: str | None = None,
    ) -> None:
        self._page_after, self._created_after, self._until, self._behind = page_after, created_after, until, behind
        self._newest_first, self._whole = newest_first, whole
        self._seen: set[str] = set()
        self._oldest = UNREADABLE_TIME
        self._rises = self._younger = self._nameless = False
        self.complete = False

    def __iter__(self) -> Iterator[RemoteBatch]:
        after = self._behind
        for _ in range(_PAGES_MOST):
            page = self._page_after(after)
            fresh = [batch for batch in page.batches if batch.id not in self._seen]
            self._note(fresh)
            yield from fresh
            if page.more is False or (page.more is None and not page.batches) or self._is_behind(fresh):
                self.complete = not self._nameless and self._behind is None
                return
            if page.after is None or (not fresh and (page.batches or page.after == after)):
                return  # the same page once more, or one that is said not to be the last and leads nowhere; an empty one may lead on
            after = page.after

    def _note(self, fresh: list[RemoteBatch]) -> None:
        for batch in fresh:
            self._seen.add(batch.id)
            self._nameless |= not batch.id  # it may be any
            self._rises |= batch.created_at > self._oldest + _JITTER if self._oldest < UNREADABLE_TIME else False
            self._oldest = min(self._oldest, batch.created_at)
            self._younger |= batch.created_at >= self._created_after

    def _is_behind(self, fresh: list[RemoteBatch]) -> bool:
        """Whether every batch that is wanted has come by now, so that the rest need not be read."""
        falls = not self._rises and (self._newest_first or (not self._whole and len(self._seen) >= _SHOWN))
        if not fresh or not falls:
            return False
        if any(batch.id == self._until for batch in fresh):
            return True
        older = all(batch.created_at < self._created_after - _JITTER for batch in fresh)
        return older and (self._younger or not self._whole)


def youngest(page: Sequence[RemoteBatch]) -> str | None:
    """The id of the batch of a page that was made last; None if there is none."""
    told = [batch for batch in page if batch.created_at != UNREADABLE_TIME] or page
    return max(told, key=lambda batch: batch.created_at).id if told else None


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
    """An id as text, "" for none: some hosts number what they make."""
    return "" if value is None else str(value)


def has_id(found: Any) -> bool:
    """Whether an object that ought to have an id has one; True of what ought not to, as a list."""
    return getattr(found, "id", True) not in (None, "")
