"""Repeat: which of many 64-bit numbers occur more than once: hashes of keys, halves of fingerprints.

Beside `snapshot` and `duplicate`.  Memory does not grow with the numbers: they lie in a temporary file as they came, and are looked at in parts.
A run of them is sorted and cut at the same bounds as every other run; numbers that are equal are then in the same part, and a part is sorted by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import SpooledTemporaryFile, TemporaryFile
from typing import IO, TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from numpy.typing import NDArray

_RUN = 1 << 19  # numbers that are sorted together: 4 MB
_WIDTH = 8


class Repeats:
    """Takes numbers, in a `with` block; few of them need no file."""

    def __init__(self, folder: Path) -> None:
        """Args: folder: where the file is, if there is one; it has no name, so nothing of it is left, even if the process dies."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._file = SpooledTemporaryFile(max_size=_WIDTH * _RUN, dir=str(folder))  # noqa: SIM115  # closed at the end of the `with` block
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def add(self, numbers: NDArray[np.int64]) -> None:
        self._file.write(numbers.tobytes())
        self._count += len(numbers)

    def found(self) -> NDArray[np.int64]:
        """Every number that came before, as often as it came again, ascending."""
        if self._count <= _RUN:
            return _again(np.concatenate([np.empty(0, dtype=np.int64), *self._runs()]))
        with TemporaryFile(dir=self._folder) as file:
            cuts = [_sorted_into(file, run, self._bounds()) for run in self._runs()]
            parts = (_part(file, cuts, n) for n in range(len(cuts)))
            return np.concatenate([_again(part) for part in parts])

    def first_two(self, number: int) -> tuple[int, int]:
        """Where a number that occurs more than once came first and next, counted from 0."""
        where: list[int] = []
        for n, run in enumerate(self._runs()):
            where += (n * _RUN + np.flatnonzero(run == number)[:2]).tolist()
            if len(where) > 1:
                break
        return where[0], where[1]

    def _bounds(self) -> NDArray[np.int64]:
        """Between parts, of which there are as many as runs; hashes are as likely in one of them as in another."""
        runs = -(-self._count // _RUN)
        return np.array([-(1 << 63) + (n << 64) // runs for n in range(1, runs)], dtype=np.int64)

    def _runs(self) -> Iterator[NDArray[np.int64]]:
        self._file.seek(0)
        while piece := self._file.read(_WIDTH * _RUN):
            yield np.frombuffer(bytearray(piece), dtype=np.int64)


def _sorted_into(file: IO[bytes], run: NDArray[np.int64], bounds: NDArray[np.int64]) -> list[int]:
    """Where each part of the run begins in `file`, in bytes, and where the last one ends."""
    run.sort()
    start = file.tell()
    file.write(run.data)
    return [start + _WIDTH * n for n in [0, *np.searchsorted(run, bounds).tolist(), len(run)]]


def _part(file: IO[bytes], cuts: list[list[int]], n: int) -> NDArray[np.int64]:
    pieces = []
    for cut in cuts:
        file.seek(cut[n])
        pieces.append(np.frombuffer(file.read(cut[n + 1] - cut[n]), dtype=np.int64))
    return np.concatenate(pieces)


def _again(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    numbers.sort()
    again: NDArray[np.int64] = numbers[1:][numbers[1:] == numbers[:-1]]
    return again
