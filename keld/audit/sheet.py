"""Sheet: the calls of a table: CSV as databases and spreadsheets save it, and Parquet.  Both stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from keld.audit.chunk import Batch, top
from keld.audit.format import Format
from keld.audit.piece import BLOCK_BYTES, ROWS, Piece, known_names, piece
from keld.audit.reader import paths_of
from keld.audit.stream import opened
from keld.table.place import Place


def parquet_pieces(place: Place, form: Format | None) -> Iterator[Piece]:
    source = place.path if place.fs is None else place.fs.open(place.path, "rb")
    with pq.ParquetFile(source) as file:
        there = file.schema_arrow.names
        names, form = known_names(place, there, form)
        wanted = {named: name for named, name in zip(names, there, strict=True) if named in set(paths_of(form))}
        size = sum(file.metadata.row_group(at).total_byte_size for at in range(file.num_row_groups))
        for batch in file.iter_batches(batch_size=ROWS, columns=list(wanted.values())):
            share = size * batch.num_rows // max(file.metadata.num_rows, 1)
            renamed = batch.rename_columns([named for name in batch.schema.names for named, there in wanted.items() if there == name])
            yield piece(Batch(renamed), form, 0, share)


def csv_pieces(place: Place, head: bytes, form: Format | None) -> Iterator[Piece]:
    lines = head.lstrip().replace(b"\r\n", b"\n").replace(b"\r", b"\n").decode("utf-8", "replace").split("\n")
    told = lines[0].strip('"').lower().removeprefix("sep=") if lines[0].strip('"').lower().startswith("sep=") else ""  # Excel's
    line = lines[1 if told else 0]
    delimiter = told or max(",;\t|", key=line.count)
    names, form = known_names(place, [name.strip().strip('"').strip() for name in line.split(delimiter)], form)
    bad: list[Any] = []

    def skip(row: Any) -> str:
        bad.append(row.number)
        return "skip"

    wanted = [name for name in dict.fromkeys(names) if name in set(paths_of(form)) | {top(path) for path in paths_of(form)}]
    with closing(opened(place, whole=True)) as stream:
        reader = pa.csv.open_csv(
            stream,
            read_options=pa.csv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False, column_names=names, skip_rows=2 if told else 1),
            parse_options=pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=skip),
            convert_options=pa.csv.ConvertOptions(
                include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string()), strings_can_be_null=True, null_values=[""]
            ),
        )
        for batch in chain.from_iterable(_cut(batch) for batch in reader):
            yield piece(Batch(batch), form, len(bad), int(batch.nbytes))
            bad.clear()


def _cut(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    for at in range(0, batch.num_rows, ROWS):
        yield batch.slice(at, ROWS)
