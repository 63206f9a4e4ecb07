"""Parts: several sources, one after the other, as one table.

For partitions whose rows are kept in several places.  One part is held at a time: it is written to a file of this process while it is read,
since the schema of the whole is known only when all parts are; parts differ as the files of a directory may (a column without a value).
"""

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from keld.errors import SourceError
from keld.path import segment
from keld.reading import USUAL
from keld.table.block import Table
from keld.table.directory import of_files
from keld.table.place import place_of
from keld.table.sink import ParquetSink


@dataclass(frozen=True, slots=True)
class Parts:
    """Sources whose rows follow each other in one partition: `Parts({"2026-11-01": load_first, "2026-11-02": load_second})`.

    Args:
        by_name: functions that return a table of any kind, each called once, in this order; the names are shown in errors.
    """

    by_name: Mapping[str, Callable[[], Any]]


class _Spool:
    """A directory that is removed with the object."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="keld-parts-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)

    def file_of(self, name: str) -> Path:
        return self.path / f"{segment(name)}.parquet"


def of_parts(parts: Parts, opened: Callable[[Any], Table]) -> Table:
    """The rows of all parts, in their order.

    Args:
        opened: returns a source as a table.

    Raises:
        SourceError: a part cannot be read, or a column has types in two parts that no type holds unchanged.
    """
    spool = _Spool()
    for name, load in parts.by_name.items():
        _write(opened(load()), spool.file_of(name))
    files = [(place_of(str(spool.file_of(name))), ()) for name in parts.by_name]
    try:
        whole = of_files(files, USUAL, f"{len(files)} parts")
    except SourceError as problem:
        raise SourceError(str(problem).replace(f"{spool.path}/", "").replace(".parquet", "")) from None

    def blocks() -> Iterator[pa.RecordBatch]:
        assert spool.path  # it is kept as long as the table is
        return whole.batches()

    return replace(whole, _blocks=blocks)


def _write(table: Table, path: Path) -> None:
    with ParquetSink(path, table.schema) as sink:
        for block in table.batches():
            sink.write(block)
