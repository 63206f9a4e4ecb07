"""Sizes of rows: whatever blocks they come in, all that is asked of them is as of one array."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keld.row_set import RowSet
from keld.size import Sizes

SIZES = st.lists(st.one_of(st.just(0), st.integers(1, 30), st.integers(4_000, 4_200), st.integers(1, 10**6)), min_size=1, max_size=60)


def _in_blocks(sizes: list[int], rows: int) -> Sizes:
    array = np.array(sizes, dtype=np.int64)
    return Sizes(lambda: (array[start : start + rows] for start in range(0, len(array), rows)))


@given(sizes=SIZES, rows=st.integers(1, 20), data=st.data())
def test_sums_and_places_do_not_depend_on_the_blocks(sizes: list[int], rows: int, data: st.DataObject) -> None:
    found = _in_blocks(sizes, rows)
    asked = [n for n, size in enumerate(sizes) if size > 0]
    assert (found.rows, found.requests, found.total_bytes, found.longest_bytes) == (len(sizes), len(asked), sum(sizes), max(sizes))
    assert np.concatenate(list(found.asked())).tolist() == asked
    at = sorted(data.draw(st.sets(st.sampled_from(range(len(sizes))))))
    assert found.at(np.array(at, dtype=np.int64)).tolist() == [sizes[n] for n in at]


@given(sizes=SIZES, rows=st.integers(1, 20))
def test_the_row_of_a_rank_is_that_of_the_sorted_rows(sizes: list[int], rows: int) -> None:
    """Rows of the same size are in the order of the table."""
    found = _in_blocks(sizes, rows)
    ordered = sorted((size, n) for n, size in enumerate(sizes) if size > 0)
    assert [found.ranked(rank) for rank in range(len(ordered))] == [n for _, n in ordered]
    with pytest.raises(IndexError):
        found.ranked(len(ordered))


@given(sizes=SIZES, rows=st.integers(1, 20), data=st.data())
def test_only_some_rows_are_asked_or_are_longer(sizes: list[int], rows: int, data: st.DataObject) -> None:
    """A row that is not asked is not asked because its prompt grew."""
    some = data.draw(st.sets(st.sampled_from(range(len(sizes)))))
    found, chosen = _in_blocks(sizes, rows), RowSet.of(len(sizes), np.array(sorted(some), dtype=np.int64))
    expected = {
        "only": [size if n in some else 0 for n, size in enumerate(sizes)],
        "without": [0 if n in some else size for n, size in enumerate(sizes)],
        "longer": [size + 7 if n in some and size else size for n, size in enumerate(sizes)],
    }
    views = {"only": found.only(chosen), "without": found.without(chosen), "longer": found.longer(chosen, 7)}
    assert {name: np.concatenate(list(view.blocks())).tolist() for name, view in views.items()} == expected
