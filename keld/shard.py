"""Shard: the slice of a job run's requests that becomes one batch; cut within one provider's limits.

On the road: `snapshot` -> **`shard`** -> `runner`.  Pure: sizes come in, ranges go out; the bytes are written by `staging`.
The boundaries of all shards are known exactly before the first byte is encoded, since every row's size was recorded when
its prompt was rendered.  So each shard is encoded by itself, from the snapshot, when it is sent, and the disk holds one
shard file at a time, not a second copy of the partition.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one batch may hold; the provider's own, or lower."""

    max_requests: int
    max_bytes: int
    max_line_bytes: int  # a row with a longer line is not asked; its outcome says so

    def lowered(self, max_requests: int | None, max_bytes: int | None) -> Limits:
        """These limits, or the user's where lower."""
        return Limits(
            max_requests=min(self.max_requests, max_requests or self.max_requests),
            max_bytes=min(self.max_bytes, max_bytes or self.max_bytes),
            max_line_bytes=min(self.max_line_bytes, max_bytes or self.max_line_bytes),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Consecutive askable rows, positions `start` to `stop` exclusive, of which `requests` are asked, in `size_bytes`."""

    start: int
    stop: int
    requests: int
    size_bytes: int


def fitting(sizes: NDArray[np.int64], overhead_bytes: int, limits: Limits) -> NDArray[np.bool_]:
    """Which rows are asked at all: those with a prompt whose line is not too long for any batch."""
    return (sizes > 0) & (sizes + overhead_bytes <= limits.max_line_bytes)


def cut(sizes: Iterable[NDArray[np.int64]], overhead_bytes: int, limits: Limits) -> list[Slice]:
    """The rows of a partition cut into slices, each within `limits`, in order, as full as possible.

    Args:
        sizes: blocks of the rows' fragment sizes in bytes, in order; 0 or less for a row that is not asked.
        overhead_bytes: what a request line adds to a fragment.
    """
    slices: list[Slice] = []
    start, stop, requests, total = 0, 0, 0, 0
    for block in sizes:
        for size in block.tolist():
            line = size + overhead_bytes
            if size > 0 and line <= limits.max_line_bytes:
                if requests and (requests == limits.max_requests or total + line > limits.max_bytes):
                    slices.append(Slice(start=start, stop=stop, requests=requests, size_bytes=total))
                    start, requests, total = stop, 0, 0
                requests += 1
                total += line
            stop += 1
    if requests:
        slices.append(Slice(start=start, stop=stop, requests=requests, size_bytes=total))
    return slices
