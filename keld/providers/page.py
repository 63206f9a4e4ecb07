"""Page: lists of batches, page by page, as far back as asked.

Beside `base`.  Newest first is custom, not contract, so a list is left only after a whole page of older batches, and one that begins
with the oldest not at all; a host that ignores its cursor gives the same page for ever, so a page without anything new ends it, too;
one that does not say whether there are more is asked until then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from keld.providers.base import RemoteBatch

# In the place of a creation time that cannot be read: never taken for older than anything.
UNREADABLE_TIME = datetime.max.replace(tzinfo=UTC)


def paged(page_after: Callable[[str | None], tuple[list[RemoteBatch], bool | None]], created_after: datetime) -> Iterator[RemoteBatch]:
    """Batches to the end of the first page that is wholly older than `created_after`.

    Args:
        page_after: given the last id of the page before, or None, the batches of a page and whether there are more (None: not said).
    """
    after: str | None = None
    seen: set[str] = set()
    rises = False
    while True:
        page, more = page_after(after)
        fresh = [batch for batch in page if batch.id not in seen]
        rises = rises or (bool(fresh) and fresh[0].created_at < fresh[-1].created_at)
        yield from fresh
        if not fresh or more is False or (not rises and all(batch.created_at < created_after for batch in fresh)):
            return
        seen.update(batch.id for batch in fresh)
        after = page[-1].id


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
