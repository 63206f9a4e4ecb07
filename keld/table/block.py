"""Block: a partition as blocks of rows: bounded in bytes, with plain types that all later code handles.

Dictionaries are decoded, large and view types become ordinary ones; blocks are cut by bytes, never by row groups or rows alone.
"""

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow.compute import run_end_decode

from keld.errors import SourceError, SourceUnavailable
from keld.value import as_json, as_text, is_json, is_uuid, json_type, unknown_zone

BLOCK_BYTES = 1 << 19  # the most a block holds, unless one row alone is larger
BLOCK_ROWS = 16_384
ROW_FAULT = "\x01fault"  # a column in which readers say why a single row cannot be asked; null for all other rows
_DEEPEST = 40  # levels of a nested type: two each in Parquet, whose reader takes 100
CAST_ROWS = 1_024  # a dictionary or view column shows its size only after conversion: convert few rows at a time


@dataclass(frozen=True, kw_only=True)
class Table:
    """A partition, not yet read.

    Args:
        schema: plain types: dictionaries decoded, large and view types as ordinary ones; names are unique.
        rows: when known without reading.
        description: for people: what it is and how large.
        notes: shown with the plan: how it is read, if the table itself does not say so.
    """

    schema: pa.Schema
    rows: int | None
    description: str
    notes: tuple[str, ...] = ()
    _blocks: Callable[[], Iterator[pa.RecordBatch]] = field(repr=False, compare=False)

    def without(self, names: Collection[str]) -> "Table":
        """The same rows without the columns of these names, if there are any."""
        kept = [name for name in self.schema.names if name not in names]
        if len(kept) == len(self.schema):
            return self
        blocks = self._blocks
        schema = pa.schema([self.schema.field(name) for name in kept])
        return replace(self, schema=schema, _blocks=lambda: (block.select(kept) for block in blocks()))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows in order, in blocks of at most 2 MB and 16,384 rows; reads as it goes.

        Raises:
            SourceError: reading fails, types change while it is read, or the source can be read only once and was.
        """
        try:
            for block in self._blocks():
                yield from plain_blocks(block, self.schema)
        except (pa.ArrowException, OSError) as error:
            raise SourceUnavailable(
                f"{self.description}: reading stopped: {_without_rows(error)}. Repair the source and run again.", source=self.description
            ) from error


def _without_rows(error: Exception) -> str:
    """The message of an error of Arrow's or of the system, unless it quotes a row: Arrow's reader of CSV does."""
    text = str(error)
    if "CSV" not in text:
        return text
    row = re.search(r"Row #(\d+)", text)
    return f"row {int(row[1]):,} of CSV cannot be read" if row else "CSV that cannot be read"


def plain_schema(schema: pa.Schema, name: str) -> pa.Schema:
    """The columns in plain types.

    Raises:
        SourceError: two columns have one name, or a column a time zone that this machine does not know.
    """
    twice = [column for column in dict.fromkeys(schema.names) if schema.names.count(column) > 1]
    if twice:
        raise SourceError(f"{name}: two columns of the name {twice[0]!r}. Nothing was sent. Rename one.")
    for column in schema:
        if (zone := unknown_zone(column.type)) is not None:
            raise SourceError(
                f"{name}: column {column.name!r} is in the time zone {zone!r}, which this machine does not know. Nothing was sent. "
                "Convert the column, e.g. to UTC, or install the time zone (tzdata)."
            )
    return pa.schema([(column.name, plain_type(column.type)) for column in schema])


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type that a column of this type is kept as: one layout for equal values, and a type that Parquet has.

    A span of months, days and nanoseconds becomes text (ISO 8601); a type that Parquet does not have, at the top or in a nested value
    (an object without fields, a union), or that is too deep for it, becomes JSON.
    """
    types = pa.types
    if isinstance(kind, pa.DictionaryType | pa.RunEndEncodedType):
        return plain_type(kind.value_type)
    if is_json(kind) or is_uuid(kind):
        return kind
    if isinstance(kind, pa.BaseExtensionType):
        return pa.bool_() if isinstance(kind, pa.Bool8Type) else plain_type(kind.storage_type)
    if types.is_interval(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return pa.string()
    if types.is_large_binary(kind) or types.is_binary_view(kind):
        return pa.binary()
    if types.is_decimal32(kind) or types.is_decimal64(kind):
        return pa.decimal128(kind.precision, kind.scale)
    return json_type() if types.is_nested(kind) and (_has_no_type(kind) or _depth(kind) > _DEEPEST) else _nested(kind)


def _has_no_type(kind: pa.DataType) -> bool:
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType) or types.is_interval(kind) or types.is_union(kind):
        return True
    if isinstance(kind, pa.DictionaryType | pa.RunEndEncodedType):
        return _has_no_type(kind.value_type)
    if types.is_struct(kind) and not kind.num_fields:
        return True
    return types.is_nested(kind) and any(_has_no_type(kind.field(number).type) for number in range(kind.num_fields))


def _depth(kind: pa.DataType) -> int:
    parts = range(kind.num_fields) if pa.types.is_nested(kind) else ()
    return max((1 + _depth(kind.field(n).type) for n in parts), default=0)


def _nested(kind: pa.DataType) -> pa.DataType:
    """`kind` with plain parts; lists of every layout become ordinary lists."""
    if isinstance(kind, pa.FixedSizeListType):
        return pa.list_(plain_type(kind.value_type), kind.list_size)
    if isinstance(kind, pa.ListType | pa.LargeListType | pa.ListViewType | pa.LargeListViewType):
        return pa.list_(plain_type(kind.value_type))
    if isinstance(kind, pa.MapType):
        return pa.map_(plain_type(kind.key_type), plain_type(kind.item_type))
    if isinstance(kind, pa.StructType):
        return pa.struct([(part.name, plain_type(part.type)) for part in kind])
    return kind


def plain_blocks(block: pa.RecordBatch, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    as_it_is = block.schema.names == schema.names and block.schema.types == schema.types
    step = BLOCK_ROWS if as_it_is else CAST_ROWS
    for start in range(0, block.num_rows, step):
        piece = block.slice(start, step)
        columns = [_decoded(piece.column(column.name), column.type) for column in schema]
        yield from _halved(pa.RecordBatch.from_arrays(columns, schema=schema))


def _decoded(column: Any, kind: pa.DataType) -> Any:
    if isinstance(column, pa.DictionaryArray):  # Arrow has no cast from a dictionary of views (Polars' categories)
        return _decoded(column.dictionary, kind).take(column.indices)
    if isinstance(column, pa.RunEndEncodedArray):
        return _decoded(run_end_decode(column), kind)
    if column.type == kind:
        return column
    if is_json(kind):
        return as_json(column)
    if pa.types.is_interval(column.type):
        return as_text(column)
    if isinstance(column, pa.ExtensionArray):
        return _decoded(column.storage, kind)
    if isinstance(column, pa.ListViewArray | pa.LargeListViewArray):
        return _listed(column, kind)
    if _has_view(column.type):
        return pa.array(column.to_pylist(), type=kind)
    return column.cast(kind)


def _listed(column: Any, kind: pa.DataType) -> Any:
    """A list view as an ordinary list; Arrow's own cast of a list view with nulls gives a broken array (26.0.1)."""
    lengths = column.value_lengths()
    ends = np.cumsum([0, *lengths.fill_null(0).to_pylist()], dtype=np.int32)
    starts = pa.array(ends, mask=np.append(lengths.is_null().to_numpy(zero_copy_only=False), False))  # a null offset makes a null list
    return pa.ListArray.from_arrays(starts, _decoded(column.flatten(), kind.value_type), type=kind)


def _has_view(kind: pa.DataType) -> bool:
    """True if the type is or holds a list view."""
    if isinstance(kind, pa.ListViewType | pa.LargeListViewType):
        return True
    return pa.types.is_nested(kind) and any(_has_view(kind.field(number).type) for number in range(kind.num_fields))


def _halved(block: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    if block.num_rows <= 1 or block.nbytes <= BLOCK_BYTES:
        yield block
        return
    middle = block.num_rows // 2
    yield from _halved(block.slice(0, middle))
    yield from _halved(block.slice(middle))


def table_of(
    schema: pa.Schema, rows: int | None, description: str, blocks: Callable[[], Iterator[pa.RecordBatch]], notes: tuple[str, ...] = ()
) -> Table:
    size = "" if rows is None else f", {rows:,} rows"
    return Table(schema=schema, rows=rows, description=description + size, notes=notes, _blocks=blocks)
