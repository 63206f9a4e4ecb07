"""Numbers on disk: repeated ones are found, and all come back in order, as from a list in memory."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keld import spool
from keld.spool import Spool

SHARED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NUMBER = st.one_of(st.integers(-(1 << 63), (1 << 63) - 1), st.integers(-3, 3))


@SHARED
@given(numbers=st.lists(NUMBER, max_size=60), pieces=st.integers(1, 9), run=st.sampled_from([3, 8, 1 << 19]))
def test_numbers_that_came_before_are_found_and_where(tmp_path: Path, numbers: list[int], pieces: int, run: int) -> None:
    with pytest.MonkeyPatch.context() as patch, Spool(tmp_path) as kept:
        patch.setattr(spool, "_RUN", run)
        for start in range(0, len(numbers), pieces):
            kept.add(np.array(numbers[start : start + pieces], dtype=np.int64))
        again = kept.repeated().tolist()
        assert again == sorted((Counter(numbers) - Counter(set(numbers))).elements())
        for number in set(again):
            assert kept.first_two(number) == tuple([n for n, one in enumerate(numbers) if one == number][:2])


@SHARED
@given(numbers=st.lists(NUMBER, max_size=60), bounds=st.sets(NUMBER, max_size=5), run=st.sampled_from([3, 8, 1 << 19]))
def test_the_parts_are_cut_at_the_bounds_and_in_order(tmp_path: Path, numbers: list[int], bounds: set[int], run: int) -> None:
    edges = sorted(bounds)
    with pytest.MonkeyPatch.context() as patch, Spool(tmp_path) as kept:
        patch.setattr(spool, "_RUN", run)
        kept.add(np.array(numbers, dtype=np.int64))
        parts = [part.tolist() for part in kept.ordered(np.array(edges, dtype=np.int64))]
    assert parts == [sorted(n for n in numbers if sum(edge <= n for edge in edges) == part) for part in range(len(edges) + 1)]


def test_nothing_is_left_of_many_numbers(tmp_path: Path) -> None:
    with Spool(tmp_path) as kept:
        kept.add(np.arange(1_200_000, dtype=np.int64) * 7_919)
        assert kept.repeated().tolist() == []
        assert list(tmp_path.iterdir()) == []
    assert list(tmp_path.iterdir()) == []
