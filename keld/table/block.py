"""Block: a partition as blocks of plain rows: bounded in bytes, types that every later room knows.

Dictionaries are decoded, large and view types become ordinary ones; blocks are cut by bytes, never by row groups or rows alone.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from keld.errors import SourceError, SourceUnavailable

BLOCK_BYTES = 2 << 20  # the most a block holds, unless one row alone is larger
BLOCK_ROWS = 16_384
CAST_ROWS = 1_024  # a dictionary or view column shows its size only once it is plain: convert few rows at a time


@dataclass(frozen=True, kw_only=True)
class Table:
    """A partition, not yet read.

    Args:
        schema: plain types: dictionaries decoded, large and view types as ordinary ones; names are unique.
        rows: when known without reading.
        description: for people: what it is and how large.
    """

    schema: pa.Schema
    rows: int | None
    description: str
    _blocks: Callable[[], Iterator[pa.RecordBatch]] = field(repr=False, compare=False)

    def without(self, names: Collection[str]) -> "Table":
        """The same rows without the columns of these names, where there are such."""
        kept = [name for name in self.schema.names if name not in names]
        if len(kept) == len(self.schema):
            return self
        blocks = self._blocks
        schema = pa.schema([self.schema.field(name) for name in kept])
        return replace(self, schema=schema, _blocks=lambda: (block.select(kept) for block in blocks()))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows in order, in blocks of at most 2 MB and 16,384 rows; reads as it goes.

        Raises:
            SourceError: the source cannot be read on, changes its types on the way, or could be read only once.
        """
        try:
            for block in self._blocks():
                yield from plain(block, self.schema)
        except (pa.ArrowException, OSError) as error:
            raise SourceUnavailable(f"{self.description}: reading stopped: {error}. Repair the source and run again.") from error


def plain_schema(schema: pa.Schema, name: str) -> pa.Schema:
    twice = [column for column in dict.fromkeys(schema.names) if schema.names.count(column) > 1]
    if twice:
        raise SourceError(f"{name}: two columns of the name {twice[0]!r}. Nothing was sent. Rename one.")
    return pa.schema([(column.name, plain_type(column.type)) for column in schema])


def plain_type(kind: pa.DataType) -> pa.DataType:
    types = pa.types
    if isinstance(kind, pa.DictionaryType):
        return plain_type(kind.value_type)
    if types.is_large_string(kind) or types.is_string_view(kind):
        return pa.string()
    if types.is_large_binary(kind) or types.is_binary_view(kind):
        return pa.binary()
    return nested(kind, plain_type)


def nested(kind: pa.DataType, plain: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """`kind` with its parts made plain; lists of every layout become ordinary ones."""
    if isinstance(kind, pa.FixedSizeListType):
        return pa.list_(plain(kind.value_type), kind.list_size)
    if isinstance(kind, pa.ListType | pa.LargeListType | pa.ListViewType | pa.LargeListViewType):
        return pa.list_(plain(kind.value_type))
    if isinstance(kind, pa.StructType):
        return pa.struct([(part.name, plain(part.type)) for part in kind])
    return kind


def plain(block: pa.RecordBatch, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    as_it_is = block.schema.names == schema.names and block.schema.types == schema.types
    step = BLOCK_ROWS if as_it_is else CAST_ROWS
    for start in range(0, block.num_rows, step):
        piece = block.slice(start, step)
        columns = [_decoded(piece.column(column.name), column.type) for column in schema]
        yield from _halved(pa.RecordBatch.from_arrays(columns, schema=schema))


def _decoded(column: Any, kind: pa.DataType) -> Any:
    if isinstance(column, pa.DictionaryArray):  # by hand: Arrow has no cast from a dictionary of views (Polars' categories)
        return _decoded(column.dictionary, kind).take(column.indices)
    return column.cast(kind)


def _halved(block: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    if block.num_rows <= 1 or block.nbytes <= BLOCK_BYTES:
        yield block
        return
    middle = block.num_rows // 2
    yield from _halved(block.slice(0, middle))
    yield from _halved(block.slice(middle))


def table_of(schema: pa.Schema, rows: int | None, description: str, blocks: Callable[[], Iterator[pa.RecordBatch]]) -> Table:
    size = "" if rows is None else f", {rows:,} rows"
    return Table(schema=schema, rows=rows, description=description + size, _blocks=blocks)
