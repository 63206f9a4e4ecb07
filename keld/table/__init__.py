"""Table: a partition in -> Arrow record batches; enriched batches -> a partition out, absent or complete.

On the road: **`table`** -> `snapshot` ... `enrich` -> **`table`**.  Reads whatever holds a table (paths, URIs, pandas,
Polars, Arrow, rows) and writes Parquet, CSV or JSON Lines.  It never looks at what the rows mean: keys and prompts are
checked elsewhere.  The rooms, in the order of the way:

    source      whatever holds a table -> a Table
    place       where a table lies; the name of a partition in its path
    lake        tables whose files are not all their rows: Delta is read, others are refused
    directory   many files as one table
    unify       one schema for many files
    form        which reader a file has
    parquet     Parquet files in; the files of staging
    csv         CSV in
    quote       whether quoted fields of CSV end where they should
    jsonl       JSON Lines in
    text        the bytes of a text file as UTF-8
    declared    text as the type that its column is declared to have
    frame       tables of other libraries, and rows
    file        one file, its schema known
    block       a partition as plain, bounded blocks
    sink        a partition out, absent or complete
    writer      blocks as Parquet, CSV, JSON Lines
    landing     a file in the making
"""

from keld.table.block import ROW_FAULT, Table
from keld.table.parquet import read_parquet
from keld.table.sink import ParquetSink, Written, check_apart, sink_is_file, try_sink, write_table
from keld.table.source import open_table

__all__ = [
    "ROW_FAULT",
    "ParquetSink",
    "Table",
    "Written",
    "check_apart",
    "open_table",
    "read_parquet",
    "sink_is_file",
    "try_sink",
    "write_table",
]
