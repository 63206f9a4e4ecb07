"""Duplicate: rows of a partition with the same prompt are asked once; the others take the same answer, at no cost.

Beside `reuse`, which finds what was answered before.  The first of such rows, the leader, is asked; its duplicates get the same outcome.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from keld.reuse import copy_answers, fingerprint_blocks, fingerprints
from keld.schema import OutputSchema
from keld.staging import write_positions

if TYPE_CHECKING:
    from numpy.typing import NDArray


def find_duplicates(snapshot: Path, sizes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(duplicates, leaders): the positions, ascending, that repeat the prompt of an earlier asked row, and for each that row's position.

    Args:
        sizes: N fragment sizes in bytes; 0 for a row that is not asked.
    """
    if _all_differ(snapshot, sizes):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    asked = np.flatnonzero(sizes > 0)
    marks = fingerprints(snapshot)[asked]
    _, first, inverse = np.unique(marks, return_index=True, return_inverse=True)
    leaders = asked[first[inverse]]
    repeats = leaders != asked
    return asked[repeats], leaders[repeats]


def _all_differ(snapshot: Path, sizes: NDArray[np.int64]) -> bool:
    """True if all prompts differ in the first half of their fingerprints: nearly always known without a search for pairs, in an eighth of its memory."""
    halves = np.empty(int((sizes > 0).sum()), dtype=np.uint64)
    start = filled = 0
    for block in fingerprint_blocks(snapshot):
        here = np.ascontiguousarray(block).view(np.uint64)[::2][sizes[start : start + len(block)] > 0]
        halves[filled : filled + len(here)] = here
        start, filled = start + len(block), filled + len(here)
    halves.sort()
    return not (halves[1:] == halves[:-1]).any()


def write_duplicates(path: Path, duplicates: NDArray[np.int64], leaders: NDArray[np.int64]) -> None:
    """Writes which row takes which row's answer to `path`; writes no file if there are no duplicates."""
    if len(duplicates):
        write_positions(path, np.stack([duplicates, leaders]))


def fan_out(kept: Path, answers: Sequence[Path], output: OutputSchema) -> list[Path]:
    """The answers files, each followed by one with the same answers for the duplicates of its rows, if there are any."""
    if not kept.exists():
        return list(answers)
    duplicates, leaders = np.load(kept)
    fanned: list[Path] = []
    for path in answers:
        into = path.with_name(f"twins-of-{path.name}")
        copy_answers([path], leaders, duplicates, output, into, pa.array([], type=pa.string()))
        fanned += [path, into]
    return fanned
