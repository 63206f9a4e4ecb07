"""Frame: the form in which the rows of a partition are loaded and handed over.

Between `keld`, which streams Arrow record batches, and the user's IO managers, each of which takes its own kinds of table.
A pandas frame must have the same types in every partition, whatever its values are.  numpy turns integers into floats if one is
null, and what it has no type for (decimals, dates, lists) becomes Python objects, whose type an IO manager guesses from the first
partition's values, or from their absence: the table gets a type that is too narrow, and a later partition cannot be written after its rows
were paid (seen with dagster-duckdb and dagster-deltalake, 2026-11).  So these columns are `pandas.ArrowDtype`, with nulls or without.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, assert_never, get_args

if TYPE_CHECKING:
    import pyarrow as pa

Frame = Literal["pandas", "pandas[pyarrow]", "pandas[numpy]", "polars", "pyarrow", "reader"]
"""`pandas[pyarrow]`: every column has an Arrow type; `pandas[numpy]`: none, as pandas does it; `pandas`: the columns that would lose their type."""
FRAMES: tuple[Frame, ...] = get_args(Frame)


def frame_like(annotation: Any) -> Frame:
    """The frame that matches an asset's return annotation; pandas if it has none."""
    module = getattr(annotation, "__module__", "")
    if module.startswith("polars"):
        return "polars"
    if module.startswith("pyarrow"):
        return "reader" if annotation.__name__ in ("Dataset", "RecordBatchReader") else "pyarrow"
    return "pandas"


def python_type(frame: Frame) -> Any:
    """The Python type as which an IO manager loads an upstream partition."""
    match frame:
        case "pandas" | "pandas[pyarrow]" | "pandas[numpy]":
            import pandas as pd

            return pd.DataFrame
        case "polars":
            import polars as pl

            return pl.DataFrame
        case "pyarrow":
            import pyarrow as pa

            return pa.Table
        case "reader":
            import pyarrow.dataset as ds

            return ds.Dataset
        case _:
            assert_never(frame)


def as_frame(rows: pa.RecordBatchReader, frame: Frame) -> Any:
    """The rows, read to their end; as a `reader` they stay a stream."""
    match frame:
        case "pandas" | "pandas[pyarrow]" | "pandas[numpy]":
            return rows.read_pandas(types_mapper=_dtypes(frame))
        case "polars":
            import polars as pl

            return pl.from_arrow(rows.read_all())
        case "pyarrow":
            return rows.read_all()
        case "reader":
            return rows
        case _:
            assert_never(frame)


def _dtypes(frame: Frame) -> Callable[[pa.DataType], Any] | None:
    """Which pandas type a column has, by its Arrow type; None: pandas' own choice."""
    if frame == "pandas[numpy]":
        return None
    import pandas as pd
    import pyarrow as pa

    if frame == "pandas[pyarrow]":
        return pd.ArrowDtype
    kept = [pa.types.is_floating, pa.types.is_timestamp, pa.types.is_duration, pa.types.is_dictionary]
    if int(pd.__version__.partition(".")[0]) >= 3:  # before, text is a column of Python objects, without a type if all are null
        kept += [pa.types.is_string, pa.types.is_large_string]
    return lambda kind: None if any(keeps(kind) for keeps in kept) else pd.ArrowDtype(kind)
