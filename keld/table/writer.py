"""Writer: enriched blocks as Parquet, CSV or JSON Lines."""

from collections.abc import Callable
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from keld.background import Background
from keld.table.block import plain_blocks
from keld.value import csv_texts, encode_lines, jsonable

_GROUP_BYTES, _GROUP_ROWS = 8 << 20, 131_072


class Writer(Protocol):
    def write(self, batch: pa.RecordBatch, /) -> None: ...
    def close(self) -> None: ...


class ParquetWriter:
    """Writes row groups of `group_bytes` or 131,072 rows, whichever comes first; one is compressed and written while the next one is collected.

    If the partition is given up, a group that is under way comes to a landing that has been given up, too, and keeps nothing of it.
    """

    def __init__(self, landing: Any, schema: pa.Schema, *, group_bytes: int = _GROUP_BYTES, **options: Any) -> None:
        self._schema = schema
        self._group_bytes = group_bytes
        writer = self._writer = pq.ParquetWriter(landing, schema, **(options or {"compression": "zstd"}))
        # Not a method: Arrow's buffers would stay until Python looks for objects that hold each other, after hundreds of files.
        self._background = Background[pa.Table](lambda group: writer.write_table(group, row_group_size=_GROUP_ROWS))
        self._held: list[pa.RecordBatch] = []
        self._bytes = self._rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        self._held.append(batch)
        self._bytes += batch.nbytes
        self._rows += batch.num_rows
        if self._bytes >= self._group_bytes or self._rows >= _GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        self._background.put(pa.Table.from_batches(self._held, schema=self._schema))
        self._held, self._bytes, self._rows = [], 0, 0

    def close(self) -> None:
        with self._background:
            if self._held:
                self._flush()
        self._writer.close()


class CsvWriter:
    """Writes nested values as JSON text, decimals in plain digits, binary as base64, null as an empty field, an empty text as `""`."""

    def __init__(self, landing: Any, schema: pa.Schema, *, delimiter: str = ",") -> None:
        from pyarrow import csv as arrow_csv

        self._schema = pa.schema([(column.name, _csv_type(column.type)) for column in schema])
        options = arrow_csv.WriteOptions(quoting_style="needed", delimiter=delimiter)
        self._writer = arrow_csv.CSVWriter(landing, self._schema, write_options=options)

    def write(self, batch: pa.RecordBatch) -> None:
        columns = [column if _csv_type(column.type) == column.type else csv_texts(column) for column in batch.columns]
        self._writer.write(pa.RecordBatch.from_arrays(columns, schema=self._schema))

    def close(self) -> None:
        self._writer.close()


def _csv_type(kind: pa.DataType) -> pa.DataType:
    """The type itself if Arrow writes it correctly, else text."""
    types = pa.types
    return kind if types.is_integer(kind) or types.is_float32(kind) or types.is_float64(kind) or types.is_boolean(kind) else pa.string()


class _JsonlWriter:
    """Writes decimals as numbers with all digits, times as ISO 8601, binary as base64, and NaN, which JSON does not have, as null."""

    def __init__(self, landing: Any, schema: pa.Schema) -> None:
        self._landing, self._schema = landing, schema

    def write(self, batch: pa.RecordBatch) -> None:
        for block in plain_blocks(batch, self._schema):
            columns = [jsonable(column) for column in block.columns]
            self._landing.write(encode_lines([dict(zip(self._schema.names, row, strict=True)) for row in zip(*columns, strict=True)]))

    def close(self) -> None:
        """Does nothing: each line is complete when it is written."""


WRITERS: dict[str, Callable[[Any, pa.Schema], Writer]] = {
    "parquet": ParquetWriter,
    "csv": CsvWriter,
    "jsonl": _JsonlWriter,
}
