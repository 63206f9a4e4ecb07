"""Frame: what the rows of a partition are loaded and handed over as.

Between `keld`, which streams Arrow record batches, and the user's IO managers, each of which takes its own kinds of table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, assert_never, get_args

if TYPE_CHECKING:
    import pyarrow as pa

Frame = Literal["pandas", "polars", "pyarrow", "reader"]
FRAMES: tuple[Frame, ...] = get_args(Frame)


def frame_like(annotation: Any) -> Frame:
    """The frame that matches an asset's return annotation; pandas where it says nothing."""
    module = getattr(annotation, "__module__", "")
    if module.startswith("polars"):
        return "polars"
    if module.startswith("pyarrow"):
        return "reader" if annotation.__name__ in ("Dataset", "RecordBatchReader") else "pyarrow"
    return "pandas"


def python_type(frame: Frame) -> Any:
    """What an IO manager is asked to load an upstream partition as."""
    match frame:
        case "pandas":
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
        case "pandas":
            return rows.read_pandas()
        case "polars":
            import polars as pl

            return pl.from_arrow(rows.read_all())
        case "pyarrow":
            return rows.read_all()
        case "reader":
            return rows
        case _:
            assert_never(frame)
