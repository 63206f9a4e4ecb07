"""Size: how many bytes the prompt of each row has, looked at block by block; 0 for a row that is not asked.

On the road: `snapshot` -> **`size`** -> `sample`, `shard`, `plan`.  Pure: where the blocks come from, `snapshot` knows.
An array of the sizes of all rows would be the largest thing in memory; they lie in the snapshot, and ten million are read again in a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np

from keld.row_set import RowSet

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FINE = 12  # bits of a size that are left out at the first, coarse count


@dataclass(frozen=True)
class Sizes:
    """The fragment sizes in bytes of N rows.

    Args:
        blocks: gives them in order, each time anew; 0 or less for a row that is not asked.
    """

    blocks: Callable[[], Iterator[NDArray[np.int64]]]

    @classmethod
    def of(cls, sizes: NDArray[np.int64]) -> Self:
        """Those of an array."""
        return cls(lambda: iter((sizes,)))

    def only(self, rows: RowSet) -> Sizes:
        """The same for these rows; no other is asked."""
        return Sizes(lambda: (np.where(rows.mask(start, start + len(block)), block, 0) for start, block in self.numbered()))

    def without(self, rows: RowSet) -> Sizes:
        """The same, but none of these rows is asked."""
        return Sizes(lambda: (np.where(rows.mask(start, start + len(block)), 0, block) for start, block in self.numbered()))

    def longer(self, rows: RowSet, more_bytes: int) -> Sizes:
        """The same, with so many bytes more in each of these rows that is asked."""
        return Sizes(
            lambda: (block + more_bytes * ((block > 0) & rows.mask(start, start + len(block))) for start, block in self.numbered())
        )

    def numbered(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """(position of its first row, block) of all blocks."""
        start = 0
        for block in self.blocks():
            yield start, block
            start += len(block)

    @property
    def rows(self) -> int:
        """N."""
        return self._sums[0]

    @property
    def requests(self) -> int:
        """How many rows are asked."""
        return self._sums[1]

    @property
    def total_bytes(self) -> int:
        """Of all prompts."""
        return self._sums[2]

    @property
    def longest_bytes(self) -> int:
        """The largest of the sizes; 0 if no row is asked."""
        return self._sums[3]

    @cached_property
    def _sums(self) -> tuple[int, int, int, int]:
        rows = requests = total = longest = 0
        for block in self.blocks():
            rows, requests = rows + len(block), requests + int((block > 0).sum())
            total, longest = total + int(block.sum(dtype=np.int64)), max(longest, int(block.max(initial=0)))
        return rows, requests, total, longest

    def asked(self) -> Iterator[NDArray[np.int64]]:
        """The positions of the rows that are asked, ascending, block by block."""
        for start, block in self.numbered():
            yield start + np.flatnonzero(block > 0)

    def at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The sizes of the rows at `positions`, ascending."""
        found = [np.empty(0, dtype=np.int64)]
        for start, block in self.numbered():
            first, after = np.searchsorted(positions, (start, start + len(block)))
            found.append(block[positions[first:after] - start])
        return np.concatenate(found)

    def ranked(self, rank: int) -> int:
        """The position of the row that is number `rank`, counted from 0, if those that are asked are ordered by size and then by position."""
        high, rank = self._counted(lambda block: block >> _FINE, rank)
        low, rank = self._counted(lambda block: block[block >> _FINE == high] - (high << _FINE), rank)
        for start, block in self.numbered():
            here = np.flatnonzero(block == (high << _FINE) + low)
            if rank < len(here):
                return start + int(here[rank])
            rank -= len(here)
        raise IndexError("there are no so many rows")

    def _counted(self, part: Callable[[NDArray[np.int64]], NDArray[np.int64]], rank: int) -> tuple[int, int]:
        """The value of `part` of the row of that rank, and its rank among those of the same value."""
        counts = np.zeros(max(self.longest_bytes >> _FINE, (1 << _FINE) - 1) + 1, dtype=np.int64)
        for block in self.blocks():
            counts += np.bincount(part(block[block > 0]), minlength=len(counts))
        ends = np.cumsum(counts)
        found = int(np.searchsorted(ends, rank, side="right"))
        return found, rank - int(ends[found] - counts[found])
