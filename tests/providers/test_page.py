"""Lists of batches: which of them prove that a batch is not there."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from keld.providers import page
from keld.providers.base import BatchState, RemoteBatch
from keld.providers.page import Listing, Page, youngest

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def batch(name: str, hours_ago: float) -> RemoteBatch:
    return RemoteBatch(id=name, state=BatchState.COMPLETED, native="completed", created_at=NOON - hours_ago * HOUR)


FALLING = [batch(f"b{n}", n) for n in range(8)]
RISING = FALLING[::-1]
MIXED = [FALLING[n] for n in (3, 0, 5, 1, 7, 2, 6, 4)]


def pages(batches: list[RemoteBatch], size: int, *, says_more: bool = True, heeds: bool = True) -> Any:
    """A list of so many a page; one that does not heed its cursor gives its first page for ever."""

    def page_after(after: str | None) -> Page:
        names = [one.id for one in batches]
        start = names.index(after) + 1 if heeds and after is not None else 0
        more = start + size < len(batches)
        shown = batches[start : start + size]
        return Page(batches=shown, after=shown[-1].id if shown else None, more=more if says_more else None)

    return page_after


def read(page_after: Any, since: float = 100.0, **how: Any) -> tuple[list[str], bool]:
    """The names of what was listed, made in the last so many hours among them, and whether that is all."""
    listing = Listing(page_after, NOON - since * HOUR, **how)
    return [one.id for one in listing], listing.complete


@pytest.mark.parametrize("order", [FALLING, RISING, MIXED], ids=["falling", "rising", "mixed"])
@pytest.mark.parametrize("says_more", [True, False])
def test_a_list_that_is_read_to_its_end_is_complete_in_whatever_order(order: list[RemoteBatch], says_more: bool) -> None:
    found, complete = read(pages(order, 3, says_more=says_more))
    assert (sorted(found), complete) == ([f"b{n}" for n in range(8)], True)


@pytest.mark.parametrize("says_more", [True, False])
def test_a_list_that_ignores_its_cursor_proves_nothing(says_more: bool) -> None:
    """Nobody knows what is behind its first page."""
    assert read(pages(FALLING, 3, says_more=says_more, heeds=False)) == (["b0", "b1", "b2"], False)


@pytest.mark.parametrize("says", [True, None])
def test_an_empty_page_that_is_not_the_last_proves_nothing(says: bool | None) -> None:
    assert read(lambda _: Page(batches=[], after=None, more=says)) == ([], says is None)


def test_a_batch_without_an_id_may_be_any() -> None:
    assert read(lambda _: Page(batches=[batch("", 1)], after=None, more=False)) == ([""], False)


def test_an_order_that_is_not_shown_is_not_believed() -> None:
    """Two old ones before the young: whoever stops there buys again what stands behind."""
    order = [FALLING[5], FALLING[6], FALLING[0]]
    assert read(pages(order, 2), since=2) == (["b5", "b6", "b0"], True)


def test_where_the_youngest_are_shown_to_come_first_old_ones_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "_SHOWN", 4)
    assert read(pages(FALLING, 2), since=1.5) == (["b0", "b1", "b2", "b3"], True)
    assert len(read(pages(FALLING, 2), since=1.5, whole=True)[0]) == 8, "to prove an absence, the list's own word is needed"
    assert read(pages(FALLING, 2), since=1.5, newest_first=True, whole=True) == (["b0", "b1", "b2", "b3"], True)


def test_what_is_older_than_everything_listed_may_be_so_by_another_clock() -> None:
    """Nothing is younger than what is looked for: the clocks are apart, or nothing was made since; only the end tells."""
    assert len(read(pages(FALLING, 2), since=-2, newest_first=True, whole=True)[0]) == 8


def test_a_batch_that_was_there_before_ends_what_can_be_younger() -> None:
    assert read(pages(FALLING, 2), until="b2", newest_first=True, whole=True) == (["b0", "b1", "b2", "b3"], True)
    assert len(read(pages(MIXED, 2), until="b3", whole=True)[0]) == 8


def test_a_list_without_end_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "_PAGES_MOST", 50)
    names = iter(range(1_000))
    assert read(lambda _: Page(batches=[batch(name := f"b{next(names)}", 1)], after=name, more=True))[1] is False


def test_the_youngest_of_a_page_is_told_by_its_time() -> None:
    assert youngest(RISING) == youngest(FALLING) == "b0"
    assert youngest([]) is None
