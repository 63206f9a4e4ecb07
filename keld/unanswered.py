"""Unanswered: the rows of a shard that no result has mentioned yet.

Beside `answer`: a byte a row, and a block of results at once, since nearly every row of nearly every shard is mentioned once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Unanswered:
    """The rows that were asked, and which of them have been taken.

    Args:
        positions: N, ascending.
    """

    def __init__(self, positions: NDArray[np.int64]) -> None:
        self._positions = positions
        self._taken = np.zeros(len(positions), dtype=np.bool_)
        self._is_range = len(positions) > 0 and int(positions[-1]) - int(positions[0]) == len(positions) - 1

    def asked(self, position: int) -> bool:
        """True if the row was asked, whether it was taken or not."""
        return len(self._positions) > 0 and bool(self._positions[self._places(np.array([position]))][0] == position)

    def take(self, position: int) -> bool:
        """Takes a row that was asked; False if it had been taken before."""
        return self.take_all(np.array([position]))

    def take_all(self, positions: NDArray[np.int64]) -> bool:
        """Takes these rows, and True, if each of them was asked, was not taken before, and stands there once; else nothing, and False."""
        if not len(self._positions):
            return not len(positions)
        at = self._places(positions)
        if (self._positions[at] != positions).any() or self._taken[at].any():
            return False
        before = np.count_nonzero(self._taken)
        self._taken[at] = True
        if np.count_nonzero(self._taken) == before + len(at):
            return True
        self._taken[at] = False
        return False

    def _places(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where each of these rows is among those that were asked; anywhere for others."""
        last = len(self._positions) - 1
        found: NDArray[np.int64] = positions - self._positions[0] if self._is_range else np.searchsorted(self._positions, positions)
        return found.clip(0, last)

    @property
    def rest(self) -> NDArray[np.int64]:
        """The positions of the rows that have not been taken, ascending."""
        rest: NDArray[np.int64] = self._positions[~self._taken]
        return rest
