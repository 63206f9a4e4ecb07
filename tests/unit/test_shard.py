"""Shards: every row that can be asked stands in exactly one, in order, within the limits."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keld.shard import Limits, Slice, cut, cut_evenly, fitting
from keld.size import Sizes

LIMITS = Limits(max_requests=3, max_bytes=100, max_line_bytes=60)


def _cut(sizes: Sequence[int], overhead: int = 0, limits: Limits = LIMITS) -> list[tuple[int, int, int, int]]:
    return [(s.start, s.stop, s.requests, s.size_bytes) for s in cut(Sizes.of(np.array(sizes, dtype=np.int64)), overhead, limits)]


@st.composite
def _cases(draw: st.DrawFn) -> tuple[list[int], int, Limits]:
    max_bytes = draw(st.integers(1, 200))
    limits = Limits(max_requests=draw(st.integers(1, 6)), max_bytes=max_bytes, max_line_bytes=draw(st.integers(1, max_bytes)))
    return draw(st.lists(st.integers(-1, 120), max_size=60)), draw(st.integers(0, 20)), limits


def _asked(slices: list[Slice], sizes: list[int], overhead: int, limits: Limits) -> list[int]:
    fits = fitting(np.array(sizes, dtype=np.int64), overhead, limits)
    return [n for part in slices for n in range(part.start, part.stop) if fits[n]]


@given(_cases())
def test_every_row_that_can_be_asked_is_asked_once_in_order(case: tuple[list[int], int, Limits]) -> None:
    sizes, overhead, limits = case
    slices = cut(Sizes.of(np.array(sizes, dtype=np.int64)), overhead, limits)
    assert _asked(slices, sizes, overhead, limits) == [n for n, size in enumerate(sizes) if 0 < size <= limits.max_line_bytes - overhead]


@given(_cases())
def test_no_slice_is_beyond_a_limit_or_lies_about_itself(case: tuple[list[int], int, Limits]) -> None:
    sizes, overhead, limits = case
    for part in cut(Sizes.of(np.array(sizes, dtype=np.int64)), overhead, limits):
        lines = [sizes[n] + overhead for n in _asked([part], sizes, overhead, limits)]
        assert (part.requests, part.size_bytes) == (len(lines), sum(lines))
        assert 0 < part.requests <= limits.max_requests
        assert part.size_bytes <= limits.max_bytes


@given(_cases())
def test_slices_follow_each_other_without_gap_or_overlap(case: tuple[list[int], int, Limits]) -> None:
    sizes, overhead, limits = case
    slices = cut(Sizes.of(np.array(sizes, dtype=np.int64)), overhead, limits)
    assert [part.start for part in slices] == [0, *(part.stop for part in slices[:-1])][: len(slices)]


@given(_cases())
def test_a_slice_ends_only_where_the_next_row_does_not_fit(case: tuple[list[int], int, Limits]) -> None:
    """As full as they go: fewer batches, fewer creates."""
    sizes, overhead, limits = case
    slices = cut(Sizes.of(np.array(sizes, dtype=np.int64)), overhead, limits)
    for part, following in pairwise(slices):
        line = sizes[_asked([following], sizes, overhead, limits)[0]] + overhead
        assert part.requests == limits.max_requests or part.size_bytes + line > limits.max_bytes


def test_a_partition_without_askable_rows_has_no_slice() -> None:
    assert _cut([]) == _cut([0, -1, 0]) == []


def test_the_number_of_requests_limits_a_slice() -> None:
    assert _cut([1, 1, 1, 1]) == [(0, 3, 3, 3), (3, 4, 1, 1)]


def test_the_bytes_limit_a_slice_to_the_last_one() -> None:
    assert _cut([50, 50, 1]) == [(0, 2, 2, 100), (2, 3, 1, 1)]


def test_the_overhead_of_a_line_counts() -> None:
    assert _cut([40, 40], overhead=11) == [(0, 1, 1, 51), (1, 2, 1, 51)]


def test_a_row_too_large_for_any_batch_is_not_asked_and_harms_no_other() -> None:
    assert _cut([10, 61, 10]) == [(0, 3, 2, 20)]
    assert fitting(np.array([10, 61, 60, 0]), 0, LIMITS).tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    ("requests", "size", "lowered"),
    [(None, None, (3, 100, 60)), (2, None, (2, 100, 60)), (9, 999, (3, 100, 60)), (None, 50, (3, 50, 50)), (1, 70, (1, 70, 60))],
)
def test_a_user_can_only_lower_the_limits(requests: int | None, size: int | None, lowered: tuple[int, int, int]) -> None:
    found = LIMITS.lowered(requests, size)
    assert (found.max_requests, found.max_bytes, found.max_line_bytes) == lowered


# --- a least number of requests -----------------------------------------------------------------------------------------


@given(_cases(), st.integers(2, 8))
def test_an_even_cut_asks_every_row_once_in_order_and_within_the_limits(case: tuple[list[int], int, Limits], least: int) -> None:
    sizes, overhead, limits = case
    slices = cut_evenly(Sizes.of(np.array(sizes, dtype=np.int64)), overhead, limits, least)
    assert _asked(slices, sizes, overhead, limits) == [n for n, size in enumerate(sizes) if 0 < size <= limits.max_line_bytes - overhead]
    assert [part.start for part in slices] == [0, *(part.stop for part in slices[:-1])][: len(slices)]
    for part in slices:
        lines = [sizes[n] + overhead for n in _asked([part], sizes, overhead, limits)]
        assert (part.requests, part.size_bytes) == (len(lines), sum(lines))
        assert part.requests <= limits.max_requests
        assert part.size_bytes <= limits.max_bytes


@given(rows=st.integers(0, 400), least=st.integers(1, 20), more=st.integers(0, 50))
def test_an_even_cut_has_no_small_slice(rows: int, least: int, more: int) -> None:
    """Any number of rows that is enough for one batch can be cut so, if a batch holds nearly twice the least; and in as few as possible."""
    limits = Limits(max_requests=2 * least - 1 + more, max_bytes=10**9, max_line_bytes=10**6)
    found = [part.requests for part in cut_evenly(Sizes.of(np.full(rows, 10, dtype=np.int64)), 0, limits, least)]
    assert sum(found) == rows
    assert len(found) == -(-rows // limits.max_requests)
    if rows >= least:
        assert min(found) >= least
        assert max(found) - min(found) <= 1


def test_long_rows_make_more_slices_as_long_as_each_is_large_enough() -> None:
    """Fifty long rows and fifty short ones: two halves would be too large for the limit in bytes."""
    sizes = np.array([90] * 50 + [10] * 50, dtype=np.int64)
    limits = Limits(max_requests=100, max_bytes=3_000, max_line_bytes=1_000)
    found = cut_evenly(Sizes.of(sizes), 0, limits, 20)
    assert [part.requests for part in found] == [33, 33, 34]
    assert all(part.size_bytes <= 3_000 for part in found)
