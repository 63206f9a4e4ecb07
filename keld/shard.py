"""Shard: the slice of a job run's requests that becomes one batch; cut within one provider's limits.

On the road: `snapshot` -> **`shard`** -> `runner`.  Pure: sizes come in, ranges go out; the bytes are written by `staging`.
The boundaries of all shards are known exactly before the first byte is encoded, since every row's size was recorded when
its prompt was rendered.  So each shard is encoded by itself, from the snapshot, when it is sent, and the disk holds one
shard file at a time, not a second copy of the partition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from keld.size import Sizes

if TYPE_CHECKING:
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


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """Consecutive askable rows, positions `start` to `stop` exclusive, of which `requests` are asked, in `size_bytes`."""

    start: int
    stop: int
    requests: int
    size_bytes: int


def fitting(sizes: NDArray[np.int64], overhead_bytes: int, limits: Limits) -> NDArray[np.bool_]:
    """Which rows are asked at all: those with a prompt whose line is not too long for any batch."""
    return (sizes > 0) & (sizes + overhead_bytes <= limits.max_line_bytes)


def cut(sizes: Sizes, overhead_bytes: int, limits: Limits) -> list[Slice]:
    """The rows of a partition cut into slices, each within `limits`, in order, as full as possible.

    Args:
        overhead_bytes: what a request line adds to a fragment.
    """
    slices: list[Slice] = []
    start = requests = size_bytes = 0
    for low, block in sizes.numbered():
        asked = np.flatnonzero(fitting(block, overhead_bytes, limits))
        total = np.concatenate([[0], np.cumsum(block[asked] + overhead_bytes)])
        first = 0
        while (end := _end(total, first, requests, size_bytes, limits)) < len(asked):
            stop = low + int(asked[end])
            size_bytes += int(total[end] - total[first])
            slices.append(Slice(start=start, stop=stop, requests=requests + end - first, size_bytes=size_bytes))
            first, start, requests, size_bytes = end, stop, 0, 0
        requests += len(asked) - first
        size_bytes += int(total[-1] - total[first])
    return [*slices, Slice(start=start, stop=sizes.rows, requests=requests, size_bytes=size_bytes)] if requests else slices


def _end(total: NDArray[np.int64], first: int, requests: int, size_bytes: int, limits: Limits) -> int:
    """Where a slice that has so many requests and bytes is full, from the request `first` on; one request fits into an empty slice."""
    room = int(np.searchsorted(total, total[first] + limits.max_bytes - size_bytes, side="right")) - 1
    return max(min(room, first + limits.max_requests - requests), first if requests else first + 1)


def cut_evenly(sizes: Sizes, overhead_bytes: int, limits: Limits, least: int) -> list[Slice]:
    """As `cut`, for a host that takes no batch of fewer than `least` requests: as few slices, of nearly the same number of requests each.

    So no small one is left at the end.  If the limit in bytes allows no such cut, the slices are those of `cut`, and some may have fewer.
    """
    asked, all_bytes = _sums(sizes, overhead_bytes, limits)
    if not asked:
        return []
    parts = max(-(-asked // limits.max_requests), -(-all_bytes // limits.max_bytes))
    while parts == 1 or asked // parts >= least:
        ranks = np.arange(parts + 1) * asked // parts
        edges, before = _at(sizes, overhead_bytes, limits, ranks[1:-1])
        edges, slice_bytes = [0, *edges, sizes.rows], np.diff([0, *before, all_bytes])
        if slice_bytes.max() <= limits.max_bytes:
            requests = np.diff(ranks).tolist()
            return [
                Slice(start=edges[n], stop=edges[n + 1], requests=requests[n], size_bytes=int(slice_bytes[n])) for n in range(parts)
            ]  # fmt: skip
        parts += max(1, parts // 50)  # many, if a few rows are far longer than the others
    return cut(sizes, overhead_bytes, limits)


def _sums(sizes: Sizes, overhead_bytes: int, limits: Limits) -> tuple[int, int]:
    """How many rows are asked, and the bytes of their lines."""
    asked = all_bytes = 0
    for block in sizes.blocks():
        lines = block[fitting(block, overhead_bytes, limits)] + overhead_bytes
        asked, all_bytes = asked + len(lines), all_bytes + int(lines.sum())
    return asked, all_bytes


def _at(sizes: Sizes, overhead_bytes: int, limits: Limits, ranks: NDArray[np.int64]) -> tuple[list[int], list[int]]:
    """The positions of the rows that are number `ranks` (ascending) of those that are asked, and the bytes of all lines before each of them."""
    positions: list[int] = []
    before: list[int] = []
    asked = all_bytes = 0
    for start, block in sizes.numbered():
        here = np.flatnonzero(fitting(block, overhead_bytes, limits))
        total = np.concatenate([[0], np.cumsum(block[here] + overhead_bytes)])
        wanted = ranks[np.searchsorted(ranks, asked) : np.searchsorted(ranks, asked + len(here))] - asked
        positions += (start + here[wanted]).tolist()
        before += (all_bytes + total[wanted]).tolist()
        asked, all_bytes = asked + len(here), all_bytes + int(total[-1])
    return positions, before
