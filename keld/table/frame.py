"""Frame: tables that other libraries hold, and rows as dicts."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa

from keld.errors import SourceError
from keld.table.block import CAST_ROWS, Table, plain_schema, table_of


def of_stream(source: Any) -> Table:
    name = f"{type(source).__module__.partition('.')[0]} {type(source).__name__}"
    # The reader that tells the schema also gives the rows: some sources hand out their stream but once.
    opened = [pa.RecordBatchReader.from_stream(source)]
    schema = plain_schema(opened[0].schema, name)

    def blocks() -> Iterator[pa.RecordBatch]:
        if not opened and isinstance(source, pa.RecordBatchReader):
            raise SourceError(f"{name}: it can be read only once, and was. Give a table, or a path.")
        return iter(opened.pop() if opened else pa.RecordBatchReader.from_stream(source))

    return table_of(schema, getattr(source, "num_rows", getattr(source, "height", None)), name, blocks)


def of_pandas(frame: Any) -> Table:
    # A named index is a column to its owner (often the key); the default one is only a count.
    named = any(name is not None for name in frame.index.names)
    try:
        table = pa.Table.from_pandas(frame.reset_index() if named else frame, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise SourceError(f"the pandas frame: {error.args[-1]}. Nothing was sent. Give that column values of one type.") from None
    return replace(of_stream(table), description=f"pandas DataFrame, {len(frame):,} rows")


def of_lazy_polars(frame: Any) -> Table:
    schema = plain_schema(frame.collect_schema().to_frame().to_arrow().schema, "polars LazyFrame")

    def blocks() -> Iterator[pa.RecordBatch]:
        for part in frame.collect_batches(maintain_order=True):
            yield from pa.RecordBatchReader.from_stream(part)

    return table_of(schema, None, "polars LazyFrame", blocks)


def of_dataset(dataset: Any) -> Table:
    def blocks() -> Iterator[pa.RecordBatch]:
        # Without read-ahead: it holds 16 batches of each of 4 files.
        return iter(dataset.to_batches(batch_size=CAST_ROWS, batch_readahead=1, fragment_readahead=1, use_threads=False))

    return table_of(plain_schema(dataset.schema, "pyarrow Dataset"), None, "pyarrow Dataset", blocks)


def of_rows(source: Iterable[Any]) -> Table:
    rows = list(source)
    odd = next((row for row in rows if not isinstance(row, Mapping)), None)
    if odd is not None or not rows:
        what = "no rows, so no columns" if not rows else f"a row is a {type(odd).__name__}, not a dict"
        raise SourceError(
            f"{type(source).__name__} of rows: {what}. Nothing was sent. Give dicts, or an Arrow table, which has columns without rows, too."
        )
    names = dict.fromkeys(name for row in rows for name in row)
    return replace(
        of_stream(pa.table({str(name): _column(name, [row.get(name) for row in rows]) for name in names})),
        description=f"{len(rows):,} rows",
    )


def _column(name: object, values: list[Any]) -> Any:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeError):
        raise SourceError(
            f"column {name!r} of the rows holds values of several types, or one that Arrow has no type for. "
            "Nothing was sent. Give that column values of one type."
        ) from None
