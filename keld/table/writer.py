"""Writer: enriched blocks as Parquet, CSV or JSON Lines."""

from base64 import b64encode
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Protocol

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from keld.table.block import nested, plain, plain_type

_GROUP_BYTES, _GROUP_ROWS = 16 << 20, 131_072


class Writer(Protocol):
    def write(self, batch: pa.RecordBatch, /) -> None: ...
    def close(self) -> None: ...


class ParquetWriter:
    """Row groups of so many bytes or 131,072 rows, whichever comes first: what the writer holds in memory."""

    def __init__(self, landing: Any, schema: pa.Schema, *, group_bytes: int = _GROUP_BYTES, **options: Any) -> None:
        self._schema = schema
        self._group_bytes = group_bytes
        self._writer = pq.ParquetWriter(landing, schema, **(options or {"compression": "zstd"}))
        self._held: list[pa.RecordBatch] = []
        self._bytes = self._rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        self._held.append(batch)
        self._bytes += batch.nbytes
        self._rows += batch.num_rows
        if self._bytes >= self._group_bytes or self._rows >= _GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_batches(self._held, schema=self._schema), row_group_size=_GROUP_ROWS)
        self._held, self._bytes, self._rows = [], 0, 0

    def close(self) -> None:
        if self._held:
            self._flush()
        self._writer.close()


class _CsvWriter:
    """Nested values as JSON text, decimals in plain digits, binary as base64; null is empty, and no text is `""`."""

    def __init__(self, landing: Any, schema: pa.Schema) -> None:
        from pyarrow import csv as arrow_csv

        self._schema = pa.schema([(column.name, _csv_column_type(column.type)) for column in schema])
        options = arrow_csv.WriteOptions(quoting_style="needed")
        self._writer = arrow_csv.CSVWriter(landing, self._schema, write_options=options)

    def write(self, batch: pa.RecordBatch) -> None:
        columns = [_csv_column(column) for column in batch.columns]
        self._writer.write(pa.RecordBatch.from_arrays(columns, schema=self._schema))

    def close(self) -> None:
        self._writer.close()


def _csv_column_type(kind: pa.DataType) -> pa.DataType:
    types = pa.types
    plain = plain_type(kind)
    texts = types.is_nested(plain) or types.is_decimal(plain) or types.is_binary(plain) or types.is_time(plain)
    return pa.string() if texts else plain


def _csv_column(column: Any) -> Any:
    kind = _csv_column_type(column.type)
    if kind != pa.string() or pa.types.is_string(plain_type(column.type)):
        return column.cast(kind)
    values = _jsonable(column).to_pylist()
    return pa.array([None if value is None else _csv_text(value) for value in values], type=kind)


def _csv_text(value: Any) -> str:
    match value:
        case Decimal():
            return format(value, "f")
        case bytes():
            return b64encode(value).decode()
        case list() | dict():
            return _json.encode(value).decode()
    return str(value)


class _JsonlWriter:
    """Decimals as numbers with all digits, times as ISO 8601, binary as base64; NaN, which JSON lacks, as null."""

    def __init__(self, landing: Any, schema: pa.Schema) -> None:
        self._landing, self._schema = landing, schema

    def write(self, batch: pa.RecordBatch) -> None:
        for block in plain(batch, self._schema):
            columns = [_jsonable(column) for column in block.columns]
            rows = pa.RecordBatch.from_arrays(columns, names=self._schema.names).to_pylist()
            self._landing.write(_json.encode_lines(rows))

    def close(self) -> None:
        """Nothing: a line is whole when it is written."""


_json = msgspec.json.Encoder(decimal_format="number")


def _jsonable(column: Any) -> Any:
    """Python has no nanoseconds: such times go as text."""
    return column.cast(_without_nanoseconds(column.type))


def _without_nanoseconds(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.TimestampType | pa.Time64Type) and kind.unit == "ns":
        return pa.string()
    return nested(kind, _without_nanoseconds)


WRITERS: dict[str, Callable[[Any, pa.Schema], Writer]] = {
    "parquet": ParquetWriter,
    "csv": _CsvWriter,
    "jsonl": _JsonlWriter,
}
