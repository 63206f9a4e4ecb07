"""Sample: the rows whose tokens are counted where there are too many to count all, and how far their sum may be off.

Beside `estimate`.  Pure, and seeded: the same rows give the same sample, so a plan that is made again is the same plan.
Only the *expected* cost is taken from a sample; what is reserved under the ceiling is a bound over the bytes of every row.
Rows are drawn in short runs, one run at random in each of equally many parts of the table: neighbours lie in one piece of a file, so 10^6 rows are not
read to count 2,000, and a table that is sorted (by language, by length) is met in all its parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from keld.size import Sizes

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROWS = 2_048  # counting them takes 0.07 s (rs-bpe: docs/notes/measurements.md)
BYTES = 16 << 20  # of their prompts, about: 0.4 s
_RUNS = 128
_SEED = 20_261_130
_NORMAL_95 = 1.96


def drawn(sizes: Sizes) -> list[NDArray[np.int64]]:
    """The positions to count, ascending, in runs; all that are asked, as one run, where they are few."""
    asked = sizes.requests
    rows = min(ROWS, max(2, BYTES * asked // max(sizes.total_bytes, 1)))
    if asked <= rows:
        return [np.concatenate([np.empty(0, dtype=np.int64), *sizes.asked()])]
    runs = min(_RUNS, rows)
    length, random = rows // runs, np.random.default_rng(_SEED)
    bounds = np.arange(runs + 1) * asked // runs
    starts = [int(random.integers(low, max(high - length, low) + 1)) for low, high in pairwise(bounds.tolist())]
    return list(np.split(_numbers(sizes, np.add.outer(starts, np.arange(length)).ravel()), runs))


def _numbers(sizes: Sizes, ranks: NDArray[np.int64]) -> NDArray[np.int64]:
    """The positions of the rows that are number `ranks` (ascending) of those that are asked."""
    found, before = [np.empty(0, dtype=np.int64)], 0
    for here in sizes.asked():
        first, after = np.searchsorted(ranks, (before, before + len(here)))
        found.append(here[ranks[first:after] - before])
        before += len(here)
    return np.concatenate(found)


def error(run_bytes: Sequence[int], run_tokens: Sequence[int], share: float) -> float:
    """The half width of the 95 % interval of the tokens of all rows, as a part of them; 0 if all were counted.

    Args:
        run_bytes, run_tokens: of each run together.
        share: the part of all rows that was counted.

    >>> round(error([100, 100, 100, 100], [20, 30, 25, 25], 0.01), 2)
    0.16
    """
    runs, tokens = len(run_bytes), sum(run_tokens)
    if runs < 2 or not tokens:
        return 0.0
    ratio = tokens / sum(run_bytes)
    off = sum((token - ratio * size) ** 2 for size, token in zip(run_bytes, run_tokens, strict=True))
    return _NORMAL_95 * sqrt(off * runs / (runs - 1) * max(1.0 - share, 0.0)) / tokens
