"""Table: a partition in -> Arrow record batches; enriched batches -> a partition out, absent or complete.

On the road: **`table`** -> `snapshot` ... `enrich` -> **`table`**.  Reads whatever holds a table (paths, URIs, pandas,
Polars, Arrow, rows) and writes Parquet, CSV or JSON Lines.  It never looks at what the rows mean: keys and prompts are
checked elsewhere.  The files, in the order of the data's way:

    source      a path, frame, Arrow object or rows -> a Table
    place       where a table is; the name of a partition in its path
    lake        tables whose files may hold rows that are not theirs: Delta is read, others are refused
    directory   many files as one table
    unify       one schema for many files
    form        which reader reads a file
    parquet     Parquet files in; the files of staging
    csv         CSV in
    quote       a check that quoted fields of CSV end correctly
    jsonl       JSON Lines in
    text        the bytes of a text file as UTF-8
    declared    text as the type that its column is declared to have
    frame       tables of other libraries, and rows
    parts       several sources, one after the other, as one table
    file        one file, its schema known
    block       a partition as bounded blocks of plain types
    sink        a partition out, absent or complete
    writer      blocks as Parquet, CSV, JSON Lines
    landing     a file while it is written
"""

from keld.table.block import ROW_FAULT, Table
from keld.table.parquet import read_parquet, read_ranges, rows_in
from keld.table.parts import Parts
from keld.table.sink import ParquetSink, Written, check_apart, sink_is_file, try_sink, write_table
from keld.table.source import open_table

__all__ = [
    "ROW_FAULT",
    "ParquetSink",
    "Parts",
    "Table",
    "Written",
    "check_apart",
    "open_table",
    "read_parquet",
    "read_ranges",
    "rows_in",
    "sink_is_file",
    "try_sink",
    "write_table",
]
