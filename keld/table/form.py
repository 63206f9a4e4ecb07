"""Form: which reader reads a file: by its first bytes, then by its suffix; for a form that Keld does not read, the error says what to do.

A suffix may be wrong; the first bytes are not.
"""

from collections.abc import Iterator

import pyarrow as pa

from keld.errors import SourceError
from keld.reading import Reading
from keld.table.block import plain_schema
from keld.table.csv import csv_file
from keld.table.file import File
from keld.table.jsonl import jsonl_file
from keld.table.parquet import parquet_file_of
from keld.table.place import Place, form_of

_PANDAS = "Read it yourself and give the frame as the source, e.g. {}"
# (offset, bytes) -> what it is, and what to do.
_FOREIGN = {
    (0, b"SQLite format 3\0"): ("an SQLite database", _PANDAS.format("pandas.read_sql('select ...', sqlite3.connect(path)).")),
    (8, b"DUCK"): ("a DuckDB database", _PANDAS.format("duckdb.connect(path, read_only=True).sql('select ...').")),
    (0, b"PK\x03\x04"): ("an Excel workbook or another ZIP archive", "Save the sheet as CSV, or give what is in the archive."),
    (0, b"\xd0\xcf\x11\xe0"): ("an old Excel workbook", "Save the sheet as CSV."),
    (0, b"Obj\x01"): ("an Avro file", _PANDAS.format("polars.read_avro(path).")),
    (0, b"ORC"): ("an ORC file", _PANDAS.format("pyarrow.orc.read_table(path).")),
    (0, b"\x89HDF"): ("an HDF5 file", _PANDAS.format("pandas.read_hdf(path).")),
    (0, b"\xfd7zXZ"): ("packed by xz", "Unpack it, or pack it by gzip or zstd."),
}


def open_file(place: Place, reading: Reading) -> File:
    """A file with its schema known.

    Raises:
        SourceError: Keld does not read it; says what it is.
        InvalidJob: `reading` has an option that has no effect on its format.
        FileNotFoundError
    """
    if not place.exists():
        raise FileNotFoundError(place.path)
    head = place.head()
    for (at, magic), (what, way) in _FOREIGN.items():
        if head[at:].startswith(magic):
            raise SourceError(f"{place.uri}: this is {what}, which Keld does not read. Nothing was sent. {way}", source=place.uri)
    if head.startswith(b"ARROW1"):
        reading.check_used(f"{place.uri}, which is an Arrow file")
        return _arrow_file(place)
    match "parquet" if head.startswith(b"PAR1") else form_of(place.path):
        case "parquet":
            reading.check_used(f"{place.uri}, which is a Parquet file")
            return parquet_file_of(place)
        case "csv":
            return csv_file(place, reading)
        case "jsonl":
            reading.check_used(f"{place.uri}, which is JSON Lines", takes=["encoding"])
            return jsonl_file(place, reading)
        case ".json":
            raise SourceError(
                f"{place.uri}: JSON is read as lines, one object on each line, in a file named .jsonl. Nothing was sent. Convert it, e.g. by jq -c '.[]'.",
                source=place.uri,
            )
    raise SourceError(
        f"{place.uri}: not a kind of file Keld reads. Nothing was sent. Give .parquet, .csv, .tsv or .jsonl (also .gz, .zst, .bz2).",
        source=place.uri,
    )


def _arrow_file(place: Place) -> File:
    """Feather and Arrow IPC, which need no other library."""

    def opened() -> pa.RecordBatchFileReader:
        return pa.ipc.open_file(pa.OSFile(place.path) if place.fs is None else pa.PythonFile(place.fs.open(place.path, "rb"), mode="r"))

    def blocks(_: pa.Schema) -> Iterator[pa.RecordBatch]:
        file = opened()
        yield from (file.get_batch(number) for number in range(file.num_record_batches))

    return File(place=place, schema=plain_schema(opened().schema, place.uri), rows=None, blocks=blocks)
