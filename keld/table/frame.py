"""Frame: tables that other libraries hold, and rows as dicts."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass, replace
from decimal import Decimal
from typing import Any

import pyarrow as pa

from keld.errors import SourceError
from keld.table.block import CAST_ROWS, ROW_FAULT, Table, plain_schema, table_of


def of_stream(source: Any) -> Table:
    name = f"{type(source).__module__.partition('.')[0]} {type(source).__name__}"
    # The reader that gives the schema also gives the rows: some sources give their stream only once.
    with _known_types(name):
        opened = [pa.RecordBatchReader.from_stream(source)]
    schema = plain_schema(opened[0].schema, name)

    def blocks() -> Iterator[pa.RecordBatch]:
        if not opened and isinstance(source, pa.RecordBatchReader):
            raise SourceError(f"{name}: it can be read only once, and was. Give a table, or a path.")
        return iter(opened.pop() if opened else pa.RecordBatchReader.from_stream(source))

    return table_of(schema, getattr(source, "num_rows", getattr(source, "height", None)), name, blocks)


@contextmanager
def _known_types(name: str) -> Iterator[None]:
    """Refuses a table with a type that Arrow does not have, such as the Int128 of Polars."""
    try:
        yield
    except pa.ArrowException as error:
        raise SourceError(
            f"{name}: a column has a type that Arrow does not have ({error}). Nothing was sent. Convert that column."
        ) from None


def of_pandas(frame: Any) -> Table:
    if not hasattr(frame, "columns"):
        raise SourceError(f"a pandas {type(frame).__name__} is not a table. Nothing was sent. Give a DataFrame, e.g. .to_frame('body').")
    if not frame.columns.is_unique:
        twice = next(iter(frame.columns[frame.columns.duplicated()]))
        raise SourceError(f"the pandas frame has two columns of the name {twice!r}. Nothing was sent. Rename one.")
    # A named index is meant as a column (often the key); the default one is only a count.
    for name in frame.index.names:
        if name is not None and name in frame.columns:  # of `set_index(name, drop=False)`
            if list(frame.index.get_level_values(name)) != list(frame[name]):
                raise SourceError(
                    f"the pandas frame has an index and a column of the name {name!r} that differ. Nothing was sent. Rename one."
                )
            frame = frame.reset_index(level=name, drop=True)
    named = any(name is not None for name in frame.index.names)
    frame = frame.reset_index() if named else frame
    description = f"pandas DataFrame, {len(frame):,} rows"
    # Arrow has neither type: the number that pandas stores, such as the months since 1970, would stand in the prompt.
    others: dict[Any, Any] = {name: "string" for name, kind in frame.dtypes.items() if str(kind).startswith("period[")}
    others |= {name: kind.subtype for name, kind in frame.dtypes.items() if str(kind).startswith("Sparse[")}
    frame = frame.astype(others) if others else frame
    try:
        table = pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowException, OverflowError, UnicodeError):  # of an `object` column, which may hold anything
        table = _of_cells({str(name): frame[name] for name in frame.columns}, "the pandas frame")
    return replace(of_stream(table), description=description)


def of_lazy_polars(frame: Any) -> Table:
    with _known_types("polars LazyFrame"), _computed():
        empty = frame.collect_schema().to_frame().to_arrow()
    schema = plain_schema(empty.schema, "polars LazyFrame")

    def blocks() -> Iterator[pa.RecordBatch]:
        parts = iter(frame.collect_batches(maintain_order=True))
        while True:
            with _computed():
                part = next(parts, None)
            if part is None:
                return
            yield from pa.RecordBatchReader.from_stream(part)

    return table_of(schema, None, "polars LazyFrame", blocks)


@contextmanager
def _computed() -> Iterator[None]:
    """Refuses a query that fails while it is computed; the message of Polars is not shown, since it may quote a row."""
    from polars.exceptions import PolarsError

    try:
        yield
    except PolarsError as error:
        raise SourceError(
            f"polars LazyFrame: it cannot be computed ({type(error).__name__}). Nothing was sent. Its .collect() says what is wrong."
        ) from None


def of_dataset(dataset: Any) -> Table:
    def blocks() -> Iterator[pa.RecordBatch]:
        # Without read-ahead: it holds 16 batches of each of 4 files.
        return iter(dataset.to_batches(batch_size=CAST_ROWS, batch_readahead=1, fragment_readahead=1, use_threads=False))

    return table_of(plain_schema(dataset.schema, "pyarrow Dataset"), None, "pyarrow Dataset", blocks)


def of_columns(source: Mapping[Any, Any]) -> Table:
    """A dict of columns.

    Raises:
        SourceError: they are not of one length.
    """
    columns = {str(name): values for name, values in source.items()}
    lengths = {name: len(values) if hasattr(values, "__len__") else 1 for name, values in columns.items()}
    if len(set(lengths.values())) > 1 or any(
        not hasattr(values, "__len__") or isinstance(values, str | bytes | Mapping) for values in columns.values()
    ):
        raise SourceError(
            f"a dict is a table if its values are columns of one length; here they are {lengths}. Nothing was sent. "
            "For a single row give [row]."
        )
    return replace(of_stream(_of_cells(columns, "the columns")), description=f"{max(lengths.values(), default=0):,} rows")


def of_rows(source: Iterable[Any]) -> Table:
    """The table of these rows; without rows, an empty partition."""
    rows = [_fields(source, row) for row in source]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {str(name): [row.get(name) for row in rows] for name in names}
    return replace(of_stream(_of_cells(columns, "the rows")), description=f"{len(rows):,} rows")


def _fields(source: Any, row: Any) -> Mapping[Any, Any]:
    """The fields of a row by name: of a dict, `sqlite3.Row`, SQLAlchemy's row, a named tuple, a Pydantic object or a dataclass."""
    if isinstance(row, Mapping):
        return row
    if hasattr(row, "_mapping"):
        return dict(row._mapping)
    if hasattr(row, "_asdict"):
        return dict(row._asdict())
    if hasattr(row, "model_dump"):
        return dict(row.model_dump())
    if is_dataclass(row) and not isinstance(row, type):
        return {one.name: getattr(row, one.name) for one in fields(row)}
    if hasattr(row, "keys"):
        return {name: row[name] for name in row.keys()}  # noqa: SIM118  # sqlite3.Row has only `keys()`
    raise SourceError(
        f"{type(source).__name__} of rows: a row is a {type(row).__name__}, whose fields have no names. Nothing was sent. "
        "Give dicts, named tuples, dataclasses or Pydantic objects, or an Arrow table."
    )


def _of_cells(columns: Mapping[str, Any], what: str) -> pa.Table:
    """The table of columns of Python objects; invalid text (a lone surrogate) becomes null, and its row gets the reason."""
    faults: dict[int, str] = {}
    arrays = {name: _column(name, values, what, faults) for name, values in columns.items()}
    if faults:
        rows = max(len(values) for values in columns.values())
        arrays[ROW_FAULT] = pa.array([faults.get(row) for row in range(rows)], type=pa.string())
    return pa.table(arrays)


def _column(name: str, values: Any, what: str, faults: dict[int, str]) -> Any:
    try:
        return pa.array(values, from_pandas=True)
    except UnicodeError:
        cells = [None if _is_no_text(value) else value for value in values]
        for row, (cell, value) in enumerate(zip(cells, values, strict=True)):
            if cell is None and value is not None:
                faults.setdefault(row, f"row {row} (counted from 0): {name!r} holds a lone surrogate, which is no text")
        return _column(name, cells, what, faults)
    except OverflowError:
        if (wide := _wide(values)) is not None:
            return wide
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        pass
    raise SourceError(
        f"column {name!r} of {what} holds values of several types, or one that Arrow has no type for. "
        "Nothing was sent. Give that column values of one type."
    )


def _is_no_text(value: Any) -> bool:
    """True if the value holds a lone surrogate, at any depth."""
    if isinstance(value, str):
        return not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value)
    if isinstance(value, Mapping):
        return any(_is_no_text(part) for pair in value.items() for part in pair)
    return isinstance(value, list | tuple) and any(map(_is_no_text, value))


def _wide(values: Any) -> pa.Array | None:
    """An exact array of whole numbers beyond 64 bits; None if they are not such numbers."""
    numbers = [None if value is None or value != value else value for value in values]  # noqa: PLR0124  # NaN, pandas' null
    if not all(number is None or isinstance(number, int) for number in numbers):
        return None
    for kind in (pa.decimal128(38, 0), pa.decimal256(76, 0)):
        with suppress(pa.ArrowInvalid):
            return pa.array([None if number is None else Decimal(number) for number in numbers], type=kind)
    return None
