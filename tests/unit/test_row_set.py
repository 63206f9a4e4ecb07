"""Sets of rows, a bit each: they hold what a set of numbers would."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from keld.row_set import WINDOW, RowSet

ROWS = 3 * WINDOW + 5
POSITIONS = st.sets(st.one_of(st.integers(0, 40), st.integers(WINDOW - 9, WINDOW + 9), st.integers(0, ROWS - 1)), max_size=40)


def _array(positions: set[int]) -> np.ndarray:
    return np.array(sorted(positions), dtype=np.int64)


@given(first=POSITIONS, more=POSITIONS, gone=POSITIONS)
def test_rows_that_are_added_are_in_it_and_rows_that_are_discarded_are_not(first: set[int], more: set[int], gone: set[int]) -> None:
    rows = RowSet.of(ROWS, _array(first))
    rows.add(_array(more))
    rows.discard(_array(gone))
    expected = (first | more) - gone
    assert rows.positions().tolist() == sorted(expected)
    assert len(rows) == len(expected)


@given(one=POSITIONS, other=POSITIONS)
def test_sets_of_rows_are_joined_as_sets_are(one: set[int], other: set[int]) -> None:
    a, b = RowSet.of(ROWS, _array(one)), RowSet.of(ROWS, _array(other))
    assert [set(found.positions().tolist()) for found in (a & b, a | b, a - b)] == [one & other, one | other, one - other]


@given(rows=st.integers(0, 70), data=st.data())
def test_a_mask_of_any_range_says_which_rows_are_in_it(rows: int, data: st.DataObject) -> None:
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows)), dtype=np.bool_)
    start, stop = sorted((data.draw(st.integers(0, rows)), data.draw(st.integers(0, rows))))
    assert RowSet.of(rows, np.flatnonzero(mask)).mask(start, stop).tolist() == mask[start:stop].tolist()


@given(rows=st.integers(0, 70))
def test_all_rows_are_as_many_as_there_are(rows: int) -> None:
    """The last byte holds fewer than eight."""
    assert RowSet.all(rows).positions().tolist() == list(range(rows))
    assert len(RowSet.all(rows)) == rows
