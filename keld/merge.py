"""Merge: answers files, each by position -> the answers of one window of rows after the other.

Beside `answer`; `enrich` and `reuse` read with it.  A file is opened at its first row's turn and holds one block, so memory depends neither on the rows nor,
where files lie one behind the other, on the number of files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from keld.answer import first_position, read_answers
from keld.row_set import WINDOW


def windows(answers: Sequence[Path], rows: int, columns: Sequence[str] | None = None) -> Iterator[tuple[int, int, list[pa.RecordBatch]]]:
    """For each window of rows (start, stop): the answers of these rows, in the order of the files."""
    cursors = [Cursor(path, columns) for path in answers]
    for start in range(0, rows, WINDOW):
        stop = min(start + WINDOW, rows)
        yield start, stop, [part for cursor in cursors for part in cursor.read_until(stop)]


class Cursor:
    """Reads an answers file forward, by position; it is not opened before its first row's turn, since there may be hundreds of them."""

    def __init__(self, path: Path, columns: Sequence[str] | None = None) -> None:
        self._first = first_position(path)
        self._batches = read_answers(path, columns)
        self._held: pa.RecordBatch | None = None

    def read_until(self, stop: int) -> Iterator[pa.RecordBatch]:
        """The next answers, up to but without position `stop`."""
        while stop > self._first:
            batch = self._held if self._held is not None else next(self._batches, None)
            if batch is None:
                return
            n = int(np.searchsorted(batch.column(0).to_numpy(), stop))
            if n:
                yield batch.slice(0, n)
            self._held = batch.slice(n) if n < batch.num_rows else None
            if self._held is not None:
                return
