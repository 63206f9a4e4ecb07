"""Page: one page of a list, after or before a cursor, or behind a token of the page before it."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from typing import TypeVar

from .error import ApiError

Item = TypeVar("Item")


def page(
    items: list[Item], key: Callable[[Item], str], *, limit: int, after: str | None = None, before: str | None = None
) -> tuple[list[Item], bool]:
    """At most `limit` items and whether there are more in the direction of paging.

    Raises:
        ApiError: the cursor is not in the list.
    """
    if before is not None:
        head = items[: _index(items, key, before)]
        return head[-limit:], len(head) > limit
    rest = items[_index(items, key, after) + 1 :] if after is not None else items
    return rest[:limit], len(rest) > limit


def token_page(items: list[Item], key: Callable[[Item], str], *, limit: int, token: str | None) -> tuple[list[Item], str | None]:
    """At most `limit` items from the page that `token` names (None: the first), and the token of the next page, if there is one.

    Raises:
        ValueError: this is no token.
        ApiError: its item is not in the list any more.
    """
    after = None if token is None else urlsafe_b64decode(token).decode()
    shown, more = page(items, key, limit=limit, after=after)
    return shown, urlsafe_b64encode(key(shown[-1]).encode()).decode() if more else None


def _index(items: list[Item], key: Callable[[Item], str], cursor: str) -> int:
    for index, item in enumerate(items):
        if key(item) == cursor:
            return index
    raise ApiError(status=400, message=f"No object found with id '{cursor}'.", param="after", code="invalid_value")
