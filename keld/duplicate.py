"""Duplicate: rows of a partition with the same prompt are asked once; the others take the same answer, at no cost.

Beside `reuse`, which finds what was answered before.  The first of such rows, the leader, is asked; its duplicates get the same outcome.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keld.reuse import copy_answers, fingerprint_blocks
from keld.row_set import RowSet
from keld.schema import OutputSchema
from keld.spool import Spool
from keld.staging import write_positions

if TYPE_CHECKING:
    from numpy.typing import NDArray


def find_duplicates(snapshot: Path, answered: RowSet) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(duplicates, leaders): the positions, ascending, that repeat the prompt of an earlier asked row, and for each that row's position.

    Args:
        answered: rows that are not asked, beside those that cannot be.
    """
    # Only rows whose fingerprints agree in the first half with that of another row are compared: nearly always none.
    halves = _repeated_halves(snapshot, answered)
    if not len(halves):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    found = [
        (rows[alike], marks[alike]) for rows, marks in _asked(snapshot, answered) if (alike := _is_in(halves, _first_half(marks))).any()
    ]
    asked, marks = (np.concatenate(parts) for parts in zip(*found, strict=True))
    _, first, inverse = np.unique(marks, return_index=True, return_inverse=True)
    leaders = asked[first[inverse]]
    repeats = leaders != asked
    return asked[repeats], leaders[repeats]


def _repeated_halves(snapshot: Path, answered: RowSet) -> NDArray[np.int64]:
    """The first halves of fingerprints that more than one asked row has, ascending."""
    with Spool(snapshot.parent) as halves:
        for _, marks in _asked(snapshot, answered):
            halves.add(_first_half(marks))
        return np.unique(halves.repeated())


def _asked(snapshot: Path, answered: RowSet) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bytes_]]]:
    """The positions and the fingerprints of the rows that are asked, block by block."""
    start = 0
    for block in fingerprint_blocks(snapshot):
        here = np.flatnonzero((block != b"") & ~answered.mask(start, start + len(block)))
        yield start + here, block[here]
        start += len(block)


def _first_half(marks: NDArray[np.bytes_]) -> NDArray[np.int64]:
    return np.ascontiguousarray(marks).view(np.int64)[::2]


def _is_in(values: NDArray[np.int64], numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of `numbers` are among `values`, which are one or more, and ascending."""
    found: NDArray[np.bool_] = values[np.searchsorted(values, numbers).clip(max=len(values) - 1)] == numbers
    return found


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
    by_leader = np.argsort(leaders, kind="stable")
    duplicates, leaders = duplicates[by_leader], leaders[by_leader]
    for path in answers:
        into = path.with_name(f"twins-of-{path.name}")
        copy_answers([path], leaders, duplicates, output, into)
        fanned += [path, into]
    return fanned
