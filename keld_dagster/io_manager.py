"""IO manager: `KeldParquetIOManager`, one Parquet file a partition, streamed both ways.

Beside the road: a convenience, never required; any IO manager works.  A `RecordBatchReader` is written as it is read, and
a `pyarrow.dataset.Dataset` is loaded without reading its rows, so that a partition may be larger than memory.  The table libraries are imported where
rows are read or written: definitions name it, and every process of Dagster loads those.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, get_args

import dagster as dg
from pydantic import Field

from keld_dagster.frame import as_frame

if TYPE_CHECKING:
    import pyarrow as pa
    from upath import UPath

_ROWS_A_GROUP = 131_072
_LOCAL = ("", "file", "local")


class KeldParquetIOManager(dg.ConfigurableIOManagerFactory["_ParquetIOManager"]):
    """Parquet under `base_dir`: `<asset>/<partition>.parquet`.

    Takes a RecordBatchReader, a pyarrow Table, a pandas or a Polars DataFrame; returns the type that the input is annotated with: one of these
    (except the reader), or a `pyarrow.dataset.Dataset`.  Without an annotation it returns a pyarrow Table.
    """

    base_dir: str = Field(description="A path or URI (s3://, gs://, abfs://).")

    def create_io_manager(self, context: dg.InitResourceContext) -> _ParquetIOManager:
        from upath import UPath

        return _ParquetIOManager(UPath(self.base_dir))


class _ParquetIOManager(dg.UPathIOManager):
    extension = ".parquet"

    def dump_to_path(self, context: dg.OutputContext, obj: Any, path: UPath) -> None:
        import pyarrow.parquet as pq

        rows = _stream(obj)
        with _landing(path) as file, pq.ParquetWriter(file, rows.schema, compression="zstd") as writer:
            for batch in rows:
                writer.write_batch(batch, row_group_size=_ROWS_A_GROUP)

    def load_from_path(self, context: dg.InputContext, path: UPath) -> Any:
        import pyarrow.dataset as ds

        asked = _asked(context)
        found = ds.dataset(path.path, filesystem=None if path.protocol in _LOCAL else path.fs, format="parquet")
        if asked is ds.Dataset:
            return found
        match getattr(asked, "__module__", "").partition(".")[0]:
            case "pandas" | "polars" as frame:
                return as_frame(found.scanner().to_reader(), "pandas" if frame == "pandas" else "polars")
            case _:
                return found.to_table()


def _stream(obj: Any) -> pa.RecordBatchReader:
    """A table of any kind, as record batches."""
    import pyarrow as pa

    if type(obj).__module__.startswith("pandas."):
        obj = pa.Table.from_pandas(obj, preserve_index=False)
    return pa.RecordBatchReader.from_stream(obj)


def _asked(context: dg.InputContext) -> Any:
    """The type that the input is annotated with; of Dagster's `dict[str, type]` for several partitions, the type."""
    annotation = context.dagster_type.typing_type
    return get_args(annotation)[-1] if get_args(annotation) else annotation


@contextmanager
def _landing(path: UPath) -> Iterator[IO[bytes]]:
    """A file that appears at `path` whole or not at all."""
    if path.protocol not in _LOCAL:
        with path.open("wb") as file:  # an object store shows it when it is closed
            yield file
        return
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
