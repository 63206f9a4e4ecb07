"""Spool: many 64-bit numbers, as they came or in ascending order, in memory that does not grow with them.

Beside `snapshot`, `duplicate` and `reuse`: hashes of keys, halves of fingerprints, which row takes the answer of which.  They lie in temporary files without
a name.  To be ordered, they are sorted run by run, each run is cut at the same bounds, and what lies between two bounds is sorted by itself.
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

_RUN = 1 << 18  # numbers that are sorted together: 2 MB
_WIDTH = 8


class Spool:
    """Takes numbers, in a `with` block; few of them need no file."""

    def __init__(self, folder: Path) -> None:
        """Args: folder: where the files are, if there are any; nothing of them is left, even if the process dies."""
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

    def repeated(self) -> NDArray[np.int64]:
        """Every number that came before, as often as it came again, ascending; for numbers of which none is likelier than another, such as hashes."""
        parts = -(-self._count // _RUN)
        bounds = np.array([-(1 << 63) + (n << 64) // parts for n in range(1, parts)], dtype=np.int64)
        return np.concatenate([np.empty(0, dtype=np.int64), *(part[1:][part[1:] == part[:-1]] for part in self.ordered(bounds))])

    def first_two(self, number: int) -> tuple[int, int]:
        """Where a number that occurs more than once came first and next, counted from 0."""
        where: list[int] = []
        for n, run in enumerate(self._runs()):
            where += (n * _RUN + np.flatnonzero(run == number)[:2]).tolist()
            if len(where) > 1:
                break
        return where[0], where[1]

    def ordered(self, bounds: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """The numbers in ascending order: those below the first bound, those from there up to the second, and so on."""
        with TemporaryFile(dir=self._folder) if self._count > _RUN else SpooledTemporaryFile() as file:
            cuts = [_sorted_into(file, run, bounds) for run in self._runs()]
            for n in range(len(bounds) + 1):
                part = np.concatenate([np.empty(0, dtype=np.int64), *(_piece(file, cut[n], cut[n + 1]) for cut in cuts)])
                part.sort()
                yield part

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


def _piece(file: IO[bytes], start: int, stop: int) -> NDArray[np.int64]:
    file.seek(start)
    return np.frombuffer(file.read(stop - start), dtype=np.int64)
