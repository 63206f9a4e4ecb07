"""Repeat: what was read before: a file of the same content, a call of the same id.

A log and its packed copy, a file that is named twice, pages that overlap: each call is counted once.  A file whose beginning is that of another is
compared with it to its end before it is read.  A call is known again by its id, its instant and its tokens; one without an id is never a repeat.
"""

from __future__ import annotations

from contextlib import closing
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from keld.audit.record import Calls, Ints
from keld.audit.stream import opened
from keld.table.place import Place

_BLOCK_BYTES = 4 << 20
_MULTIPLIERS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)
_Keys = NDArray[np.uint64]


class Contents:
    """The contents of the files that were read."""

    def __init__(self) -> None:
        self._beginnings: dict[bytes, list[Place]] = {}

    def twin(self, place: Place, head: bytes) -> Place | None:
        """The file of the same content that was asked about before; None: there is none.

        Args:
            head: how it begins.
        """
        alike = self._beginnings.setdefault(_digest(head), [])
        found = next((other for other in alike if _whole(other) == _whole(place)), None) if alike else None
        if found is None:
            alike.append(place)
        return found


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=16).digest()


def _whole(place: Place) -> bytes:
    found = blake2b(digest_size=16)
    with closing(opened(place)) as stream:
        while block := stream.read(_BLOCK_BYTES):
            found.update(block)
    return found.digest()


class Ids:
    """The calls with an id that were counted.

    They are kept as sorted numbers in a few pieces, each with the time that it covers: a log in the order of time is compared with nothing.
    """

    def __init__(self) -> None:
        self._pieces: list[tuple[int, int, _Keys]] = []

    def fresh(self, calls: Calls) -> NDArray[np.bool_]:
        """True for the calls that were not counted before, and are not twice among these; from now on all of them are counted."""
        named = np.flatnonzero(calls.id)
        new = np.ones(len(calls), dtype=np.bool_)
        if not len(named):
            return new
        keys, first = np.unique(_keys(calls, named), return_index=True)
        at = calls.at[named]
        begin, end = int(at.min()), int(at.max())
        again = np.zeros(len(keys), dtype=np.bool_)
        for since, until, known in self._pieces:
            if since <= end and begin <= until:
                place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
                again |= known[place] == keys
        new[named] = False
        new[named[first[~again]]] = True
        self._keep(begin, end, keys[~again])
        return new

    def _keep(self, begin: int, end: int, keys: _Keys) -> None:
        """Adds a piece; of two neighbours of about the same size one is made, so that there are never many."""
        if not len(keys):
            return
        self._pieces.append((begin, end, keys))
        while len(self._pieces) > 1 and len(self._pieces[-2][2]) <= 2 * len(self._pieces[-1][2]):
            last, before = self._pieces.pop(), self._pieces.pop()
            merged = np.concatenate((before[2], last[2]))
            merged.sort(kind="stable")
            self._pieces.append((min(before[0], last[0]), max(before[1], last[1]), merged))


def _keys(calls: Calls, rows: Ints) -> _Keys:
    """One number for the id, the instant and the tokens of each call."""
    parts = (calls.at[rows], calls.input[rows], calls.output[rows])
    found = calls.id[rows].astype(np.uint64)
    for part, multiplier in zip(parts, _MULTIPLIERS, strict=True):
        found = (found ^ (part.astype(np.uint64) * multiplier)) * _MULTIPLIERS[0]
        found ^= found >> np.uint64(31)
    return found
