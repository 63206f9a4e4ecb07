"""A sample of the rows: bounded, seeded, everywhere in the table, and honest about how far off it may be."""

import doctest
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keld import sample
from keld.size import Sizes


def _sum_of_sample(sizes: np.ndarray, tokens: np.ndarray) -> tuple[float, float]:
    """(tokens of all rows as reckoned from a sample, the error that it says)."""
    runs = sample.drawn(Sizes.of(sizes))
    run_bytes, run_tokens = [int(sizes[run].sum()) for run in runs], [int(tokens[run].sum()) for run in runs]
    share = sum(map(len, runs)) / int((sizes > 0).sum())
    return sum(run_tokens) * int(sizes.sum()) / sum(run_bytes), sample.error(run_bytes, run_tokens, share)


def test_what_the_docstrings_reckon_is_so() -> None:
    assert doctest.testmod(sample).failed == 0


@given(st.lists(st.integers(0, 5_000), min_size=1, max_size=sample.ROWS))
def test_where_the_rows_are_few_all_that_are_asked_are_counted(sizes: list[int]) -> None:
    [run] = sample.drawn(Sizes.of(np.array(sizes, dtype=np.int64)))
    assert run.tolist() == [n for n, size in enumerate(sizes) if size > 0]
    assert sample.error([sum(sizes)], [1], 1.0) == 0.0


@pytest.mark.parametrize(("rows", "size"), [(3_000, 500), (1_000_000, 1_000), (1_000_000, 100_000), (5, 50 << 20)])
def test_a_sample_is_bounded_in_rows_and_bytes_however_large_the_table_is(rows: int, size: int) -> None:
    sizes = np.full(rows, size, dtype=np.int64)
    positions = np.concatenate(sample.drawn(Sizes.of(sizes)))
    assert 2 <= len(positions) <= sample.ROWS
    assert len(positions) == 2 or int(sizes[positions].sum()) <= sample.BYTES
    assert all(before < after for before, after in pairwise(positions.tolist())), "each row once, in order"


def test_the_same_rows_give_the_same_sample() -> None:
    """A plan that is made again is the same plan."""
    sizes = np.arange(100_000, dtype=np.int64) % 700
    assert [run.tolist() for run in sample.drawn(Sizes.of(sizes))] == [run.tolist() for run in sample.drawn(Sizes.of(sizes.copy()))]


def test_rows_that_are_not_asked_are_not_drawn() -> None:
    sizes = np.where(np.arange(50_000) % 3 == 0, 0, 400).astype(np.int64)
    assert all((sizes[run] > 0).all() for run in sample.drawn(Sizes.of(sizes)))


def test_a_table_that_is_sorted_is_met_in_all_its_parts() -> None:
    """First the Chinese rows with two bytes a token, then the English ones with four: neither is taken for the whole."""
    sizes = np.full(200_000, 1_000, dtype=np.int64)
    tokens = np.where(np.arange(200_000) < 60_000, 500, 250)
    found, error = _sum_of_sample(sizes, tokens)
    assert found == pytest.approx(tokens.sum(), rel=0.02)
    assert 0 < error < 0.1


def test_the_error_that_is_told_holds_for_nineteen_tables_in_twenty() -> None:
    """Rows of very different lengths and languages in runs, as tables are that are filled day by day."""
    held = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        sizes = random.lognormal(6, 0.8, 60_000).astype(np.int64) + 1
        language = np.repeat(random.uniform(1.8, 5.0, 600), 100)
        tokens = (sizes / language * random.normal(1.0, 0.1, 60_000).clip(0.5, 1.5)).astype(np.int64) + 1
        found, error = _sum_of_sample(sizes, tokens)
        assert 0 < error < 0.15
        held += abs(found / tokens.sum() - 1) <= error
    assert held >= 88, "a binomial of 100 at 95 % is below it once in 600 seeds, and these seeds are fixed"
