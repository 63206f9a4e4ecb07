"""Row: the request rows of one batch, as bytes on disk, found by index."""

import mmap
from array import array
from collections.abc import Iterator
from pathlib import Path


class Rows:
    """The rows of a file, each from one offset to another."""

    def __init__(self, path: Path, starts: "array[int]", ends: "array[int]") -> None:
        self.path, self._starts, self._ends = path, starts, ends
        self._map = b"" if path.stat().st_size == 0 else _mapped(path)

    @classmethod
    def of_lines(cls, path: Path) -> "Rows":
        """Every line that is not blank."""
        starts, ends = array("q"), array("q")
        size = path.stat().st_size
        if size:
            content = _mapped(path)
            start = 0
            while start < size:
                end = content.find(b"\n", start)
                end = size if end < 0 else end
                if content[start:end].strip():
                    starts.append(start)
                    ends.append(end)
                start = end + 1
        return cls(path, starts, ends)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> bytes:
        return self._map[self._starts[index] : self._ends[index]]

    def __iter__(self) -> Iterator[bytes]:
        return (self[index] for index in range(len(self)))


def _mapped(path: Path) -> "mmap.mmap":
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
