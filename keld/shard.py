"""Shard: the slice of a job run's requests that becomes one batch; cut within one provider's limits.

On the road: `snapshot` -> **`shard`** -> `runner`.  Pure: sizes come in, ranges go out; the bytes are written by `staging`.
The boundaries of all shards are known exactly before the first byte is encoded, since every row's size was recorded when
its prompt was rendered.  So each shard is encoded by itself, from the snapshot, when it is sent, and the disk holds one
shard file at a time, not a second copy of the partition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WINDOW = 1 << 16  # rows that are looked at together: arrays of all of many rows would be large


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


def cut(sizes: NDArray[np.int64], overhead_bytes: int, limits: Limits) -> list[Slice]:
    """The rows of a partition cut into slices, each within `limits`, in order, as full as possible.

    Args:
        sizes: the rows' fragment sizes in bytes, in order; 0 or less for a row that is not asked.
        overhead_bytes: what a request line adds to a fragment.
    """
    slices: list[Slice] = []
    start = requests = size_bytes = 0
    for low in range(0, len(sizes), _WINDOW):
        window = sizes[low : low + _WINDOW]
        asked = np.flatnonzero(fitting(window, overhead_bytes, limits))
        total = np.concatenate([[0], np.cumsum(window[asked] + overhead_bytes)])
        first = 0
        while (end := _end(total, first, requests, size_bytes, limits)) < len(asked):
            stop = low + int(asked[end])
            size_bytes += int(total[end] - total[first])
            slices.append(Slice(start=start, stop=stop, requests=requests + end - first, size_bytes=size_bytes))
            first, start, requests, size_bytes = end, stop, 0, 0
        requests += len(asked) - first
        size_bytes += int(total[-1] - total[first])
    return [*slices, Slice(start=start, stop=len(sizes), requests=requests, size_bytes=size_bytes)] if requests else slices


def _end(total: NDArray[np.int64], first: int, requests: int, size_bytes: int, limits: Limits) -> int:
    """Where a slice that has so many requests and bytes is full, from the request `first` on; one request fits into an empty slice."""
    room = int(np.searchsorted(total, total[first] + limits.max_bytes - size_bytes, side="right")) - 1
    return max(min(room, first + limits.max_requests - requests), first if requests else first + 1)


def cut_evenly(sizes: NDArray[np.int64], overhead_bytes: int, limits: Limits, least: int) -> list[Slice]:
    """As `cut`, for a host that takes no batch of fewer than `least` requests: as few slices, of nearly the same number of requests each.

    So no small one is left at the end.  If the limit in bytes allows no such cut, the slices are those of `cut`, and some may have fewer.
    """
    asked = np.flatnonzero(fitting(sizes, overhead_bytes, limits))
    if not len(asked):
        return []
    total = np.concatenate([[0], np.cumsum(sizes[asked] + overhead_bytes)])
    parts = max(-(-len(asked) // limits.max_requests), -(-int(total[-1]) // limits.max_bytes))
    while parts == 1 or len(asked) // parts >= least:
        bounds = np.arange(parts + 1) * len(asked) // parts
        slice_bytes = np.diff(total[bounds])
        if slice_bytes.max() <= limits.max_bytes:
            edges = [0, *asked[bounds[1:-1]].tolist(), len(sizes)]
            requests = np.diff(bounds).tolist()
            return [
                Slice(start=edges[n], stop=edges[n + 1], requests=requests[n], size_bytes=int(slice_bytes[n])) for n in range(parts)
            ]  # fmt: skip
        parts += max(1, parts // 50)  # many, if a few rows are far longer than the others
    return cut(sizes, overhead_bytes, limits)
