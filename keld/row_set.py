"""Row_set: some of a partition's rows, by their positions; one bit a row.

Beside the road, below `snapshot`: rows to ask again, rows that were answered before, rows that wait.  An array of positions takes 64 times as much.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

WINDOW = 1 << 16  # rows that are looked at together; a multiple of 8


class RowSet:
    """Some of N rows; none of them at first."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._bits = np.zeros(-(-rows // 8), dtype=np.uint8)

    @classmethod
    def of(cls, rows: int, positions: NDArray[np.int64]) -> Self:
        """The rows at `positions`, ascending."""
        made = cls(rows)
        made.add(positions)
        return made

    @classmethod
    def all(cls, rows: int) -> Self:
        """All N rows."""
        made = cls(rows)
        for start in range(0, rows, WINDOW):
            made.put(start, np.ones(min(WINDOW, rows - start), dtype=np.bool_))
        return made

    def __len__(self) -> int:
        return int(np.bitwise_count(self._bits).sum(dtype=np.int64))

    def __and__(self, other: RowSet) -> RowSet:
        return self._with(self._bits & other._bits)

    def __or__(self, other: RowSet) -> RowSet:
        return self._with(self._bits | other._bits)

    def __sub__(self, other: RowSet) -> RowSet:
        return self._with(self._bits & ~other._bits)

    def _with(self, bits: NDArray[np.uint8]) -> RowSet:
        made = RowSet(0)
        made.rows, made._bits = self.rows, bits
        return made

    def mask(self, start: int, stop: int) -> NDArray[np.bool_]:
        """For each row from `start` to `stop` exclusive, whether it is one of these."""
        first = start // 8
        bits = np.unpackbits(self._bits[first : -(-stop // 8)], bitorder="little")
        return bits[start - 8 * first : stop - 8 * first].view(np.bool_)

    def put(self, start: int, mask: NDArray[np.bool_]) -> None:
        """For the rows from `start` (a multiple of 8) on: `mask` says whether they are of these."""
        self._bits[start // 8 : start // 8 + -(-len(mask) // 8)] = np.packbits(mask, bitorder="little")

    def add(self, positions: NDArray[np.int64]) -> None:
        """Adds the rows at `positions`, ascending."""
        self._set(positions, True)

    def discard(self, positions: NDArray[np.int64]) -> None:
        """Takes out the rows at `positions`, ascending."""
        self._set(positions, False)

    def _set(self, positions: NDArray[np.int64], value: bool) -> None:
        while len(positions):
            start = int(positions[0]) // 8 * 8
            here = positions[: int(np.searchsorted(positions, start + WINDOW))]
            mask = self.mask(start, min(int(here[-1]) // 8 * 8 + 8, self.rows))
            mask[here - start] = value
            self.put(start, mask)
            positions = positions[len(here) :]

    def blocks(self) -> Iterator[NDArray[np.int64]]:
        """The positions, ascending, block by block."""
        for start in range(0, self.rows, WINDOW):
            here = np.flatnonzero(self.mask(start, min(start + WINDOW, self.rows)))
            if len(here):
                yield start + here

    def positions(self) -> NDArray[np.int64]:
        """All positions, ascending."""
        return np.concatenate([np.empty(0, dtype=np.int64), *self.blocks()])
