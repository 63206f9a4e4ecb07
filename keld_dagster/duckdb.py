"""DuckDB: an IO manager that streams a result into a table, where Dagster's own takes a frame; a convenience, never required.

Imported by users only: `from keld_dagster.duckdb import KeldDuckDBIOManager`, with `pip install dagster-duckdb`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import dagster as dg
import pyarrow as pa
import pyarrow.dataset as ds
from dagster_duckdb import DuckDBIOManager
from dagster_duckdb.io_manager import DuckDbClient

if TYPE_CHECKING:
    from dagster._core.storage.db_io_manager import TableSlice


class ArrowTypeHandler:
    """A type handler of Dagster's, whose base class is not public, and not asked for.

    A RecordBatchReader is written batch by batch; a partition is loaded as a Table, or as a Dataset of one.
    """

    def handle_output(self, context: dg.OutputContext, table_slice: TableSlice, obj: Any, connection: Any) -> dict[str, Any]:
        name = f"{table_slice.schema}.{table_slice.table}"
        rows = pa.RecordBatchReader.from_stream(obj)
        columns = _typed(rows.schema).empty_table()  # both are found in this function by their names in the statements
        connection.execute(f"create table if not exists {name} as select * from columns")  # noqa: S608  # names of the user's own
        [count] = connection.execute(f"insert into {name} by name select * from rows").fetchone()  # noqa: S608
        del columns
        return {"dagster/partition_row_count" if context.has_partition_key else "dagster/row_count": count}

    def load_input(self, context: dg.InputContext, table_slice: TableSlice, connection: Any) -> Any:
        found = connection.execute(DuckDbClient.get_select_statement(table_slice)).fetch_arrow_table()
        return ds.dataset(found) if context.dagster_type.typing_type is ds.Dataset else found

    @property
    def supported_types(self) -> Sequence[type]:
        return [pa.RecordBatchReader, pa.Table, ds.Dataset, ds.InMemoryDataset]


def _typed(schema: pa.Schema) -> pa.Schema:
    """The schema with text for all that has had no value yet: DuckDB gives it a type that no later value fits, and casts any value to text."""
    return pa.schema([field.with_type(_text_for_null(field.type)) for field in schema])


def _text_for_null(kind: pa.DataType) -> pa.DataType:
    match kind:
        case pa.ListType():  # of lists that were all empty
            return pa.list_(_text_for_null(kind.value_type))
        case pa.StructType():
            return pa.struct([field.with_type(_text_for_null(field.type)) for field in kind])
        case _:
            return pa.string() if pa.types.is_null(kind) else kind


def _pandas_handler() -> Any:
    """Dagster's own handler of pandas frames, which also makes the table of a frame without rows: without one, what is downstream fails.

    So does the table of a frame one of whose columns has only nulls.

    Raises:
        ImportError: `dagster-duckdb-pandas` is not installed.
    """
    import pandas as pd
    from dagster_duckdb_pandas import DuckDBPandasTypeHandler

    class PandasTypeHandler(DuckDBPandasTypeHandler):
        def handle_output(self, context: dg.OutputContext, table_slice: TableSlice, obj: Any, connection: Any) -> Any:
            kinds = [*map(str, obj.dtypes)]
            # Of a column of objects nobody knows the type before there is one.
            if ("object" in kinds or len(obj)) and str(pd.ArrowDtype(pa.null())) not in kinds:
                return super().handle_output(context, table_slice, obj, connection)
            return ArrowTypeHandler().handle_output(context, table_slice, pa.Table.from_pandas(obj, preserve_index=False), connection)

    return PandasTypeHandler()


class KeldDuckDBIOManager(DuckDBIOManager):
    """`DuckDBIOManager` for Arrow, and for pandas where `dagster-duckdb-pandas` is installed; give the assets `frame="reader"`."""

    @staticmethod
    def type_handlers() -> Sequence[Any]:
        handlers: list[Any] = [ArrowTypeHandler()]
        with suppress(ImportError):
            handlers.append(_pandas_handler())
        return handlers

    @staticmethod
    def default_load_type() -> type | None:
        kind: type = pa.Table
        return kind
