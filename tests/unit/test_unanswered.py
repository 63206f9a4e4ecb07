"""Which rows of a shard have been mentioned: each once, whatever the results say."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from keld.unanswered import Unanswered

POSITIONS = st.lists(st.integers(0, 60), unique=True).map(sorted)
MENTIONED = st.lists(st.lists(st.integers(-1, 70), max_size=6), max_size=8)


@given(asked=POSITIONS, blocks=MENTIONED)
def test_a_block_is_taken_as_a_whole_or_not_at_all(asked: list[int], blocks: list[list[int]]) -> None:
    rows, left = Unanswered(np.array(asked, dtype=np.int64)), set(asked)
    for block in blocks:
        fits = len(set(block)) == len(block) and set(block) <= left
        assert rows.take_all(np.array(block, dtype=np.int64)) is fits
        left -= set(block) if fits else set()
        assert rows.rest.tolist() == sorted(left)


@given(asked=POSITIONS, mentioned=st.lists(st.integers(0, 70)))
def test_a_row_is_taken_once(asked: list[int], mentioned: list[int]) -> None:
    rows, left = Unanswered(np.array(asked, dtype=np.int64)), set(asked)
    for row in mentioned:
        assert rows.asked(row) is (row in asked)
        if row in asked:
            assert rows.take(row) is (row in left)
            left.discard(row)
    assert rows.rest.tolist() == sorted(left)
