"""Table: a partition in -> Arrow record batches; enriched batches -> a partition out, absent or complete.

On the road: **`table`** -> `snapshot` ... `enrich` -> **`table`**.  Reads whatever holds a table (paths, URIs, pandas,
Polars, Arrow, rows) and writes Parquet, CSV or JSON Lines.  It never looks at what the rows mean: keys and prompts are
checked elsewhere.  The reader decides the memory: blocks are cut by bytes, never by row groups or rows alone, and local
files go to Arrow's own reader, not through fsspec's Python layer.
"""

import csv
import errno
import hashlib
import io
import os
import re
import secrets
from base64 import b64encode
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias
from urllib.parse import quote, unquote, urlsplit
from urllib.request import url2pathname

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from keld.errors import KeldError, SinkError, SinkRefused, SourceError, SourceUnavailable, StagingError
from keld.staging import fsync_dir

PathLike: TypeAlias = "str | os.PathLike[str]"  # a UPath too, though a remote one is no os.PathLike

_BLOCK_BYTES = 2 << 20  # the most a block holds, unless one row alone is larger
_BLOCK_ROWS = 16_384
_PROBE_ROWS = 64
_CAST_ROWS = 1_024  # a dictionary or view column shows its size only once it is plain: convert few rows at a time
_TEXT_BLOCK = 2 << 20  # CSV and JSONL: what types are inferred from, and the largest row
_GROUP_BYTES, _GROUP_ROWS = 16 << 20, 131_072
# Staging is written once and read once or twice: lz4 without dictionaries takes half the time of zstd to write, a third to read.
_STAGING: dict[str, Any] = {
    "group_bytes": 8 << 20,
    "compression": "lz4",
    "use_dictionary": False,
    "write_statistics": False,
}
_SEGMENT = 150  # bytes of a key in a path; file systems end a name at 255
_FORMATS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".ndjson": "jsonl",
    ".ndjson.gz": "jsonl",
}
# Object stores whose fsspec file appears when it is closed, in one step; on others a temporary name is moved.
_WHOLE_ON_CLOSE = frozenset(("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl"))


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
                yield from _plain(block, self.schema)
        except (pa.ArrowException, OSError) as error:
            raise SourceUnavailable(f"{self.description}: reading stopped: {error}. Repair the source and run again.") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A partition that lies complete at `uri`."""

    uri: str
    rows: int
    size_bytes: int
    sha256: str


def open_table(source: Any, *, partition: str | None = None) -> Table:
    """`source` as a table.

    Args:
        source: a path, UPath or URI of a Parquet, CSV or JSONL file or of a directory of them (`{partition}` in it is
            filled); a pandas or Polars frame; an Arrow table, batch, reader or dataset; anything with
            `__arrow_c_stream__`; rows as dicts; or a function that gives one of these, called only where the table is needed.
        partition: the key; percent-encoded, so that it stays one segment of the path whatever it holds.

    Raises:
        SourceError: there is nothing to read, or it cannot be read; names the path and what to do.
    """
    if callable(source):
        source = source()
    if isinstance(source, str | os.PathLike) or _is_upath(source):
        return _open_place(_place(source).filled(partition, SourceError))
    library = type(source).__module__.partition(".")[0]
    if library == "pandas":
        return _of_pandas(source)
    if library == "polars" and hasattr(source, "collect_batches"):
        return _of_lazy_polars(source)
    if library == "pyarrow" and hasattr(source, "scanner"):
        return _of_dataset(source)
    if hasattr(source, "__arrow_c_stream__"):
        return _of_stream(source)
    if isinstance(source, Iterable) and not isinstance(source, Mapping | bytes):
        return _of_rows(source)
    raise SourceError(
        f"a {type(source).__name__} is no table. Nothing was sent. "
        "Give a path, a pandas or Polars frame, an Arrow object, or rows as dicts."
    )


def write_table(sink: PathLike, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, partition: str | None = None) -> Written:
    """The partition written to `sink`: wholly, or (on any exception) not at all, and what stood there before stays.

    Args:
        sink: a path, UPath or URI, with `{partition}` in it or not; the suffix tells the format (.parquet, .csv,
            .jsonl, .ndjson).  Without a suffix, or ending in "/", a directory: `<partition or "part">.parquet` in it.
        schema: of every batch.

    Raises:
        SinkError: it cannot be written; what `batches` raises passes through.
    """
    place, form = _sink_place(sink, partition)
    rows = 0
    with _Landing(place, _sink_error) as landing:
        writer = _WRITERS[form](landing, schema)
        for batch in batches:
            writer.write(batch)
            rows += batch.num_rows
        writer.close()
    return Written(uri=place.uri, rows=rows, size_bytes=landing.tell(), sha256=landing.sha256)


def sink_is_file(sink: PathLike, partition: str | None = None) -> bool:
    """Whether a sink names one file for whatever partition is written to it, not a directory or a template; touches nothing.

    Raises:
        SinkError: nothing can write its suffix.
    """
    _sink_place(sink, partition)
    return "{partition}" not in str(sink) and not str(sink).endswith("/") and _form(str(sink)) is not None


class ParquetSink:
    """A Parquet file, quick to write and to read, that appears when the `with` block ends well, and never otherwise.

    Raises:
        StagingError: it cannot be written; nothing of it is left, and what stood there before stays.
    """

    def __init__(self, path: PathLike, schema: pa.Schema) -> None:
        self._landing = _Landing(_place(path, StagingError), _staging_error)
        self._schema = schema

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        self._stack.enter_context(self._landing)
        self._writer = _ParquetWriter(self._landing, self._schema, **_STAGING)
        self._stack.push(self._finish)
        return self

    def write(self, batch: pa.RecordBatch) -> None:
        self._writer.write(batch)

    def _finish(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._writer.close()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, trace)


def read_parquet(path: PathLike, columns: Sequence[str] | None = None, start: int = 0, stop: int | None = None) -> Iterator[pa.RecordBatch]:
    """The rows `start` <= i < `stop` of a staging file, only `columns`, in order, in blocks of about 3 MB.

    Row groups outside of the range are not touched; memory does not depend on how large they are.

    Raises:
        StagingError: the file is missing or broken.
    """
    place = _place(path, StagingError)
    try:
        yield from _read(place, columns, start, stop)
    except (pa.ArrowException, OSError) as error:
        raise StagingError(f"{place.uri}: staging cannot be read: {error}. Restore the file, or ask for the job run anew.") from error


# ---- places: where a table lies


@dataclass(frozen=True, slots=True)
class _Place:
    """A path; `fs` is its fsspec file system, or None for a local one."""

    path: str
    fs: Any = None

    @property
    def uri(self) -> str:
        return os.path.abspath(self.path) if self.fs is None else str(self.fs.unstrip_protocol(self.path))

    def filled(self, partition: str | None, error: type[KeldError]) -> "_Place":
        if "{partition}" not in self.path:
            return self
        if partition is None:
            raise error(f"{self.uri}: the path asks for a partition and there is none. Give partition=, or a whole path.")
        return replace(self, path=self.path.replace("{partition}", _segment(partition)))

    def is_dir(self) -> bool:
        return os.path.isdir(self.path) if self.fs is None else bool(self.fs.isdir(self.path))

    def files(self) -> list["_Place"]:
        """All below a directory, sorted by path; hidden ones (`.` or `_` first, as Spark has it) left out."""
        if self.fs is None:
            found = [os.path.join(folder, name) for folder, _, names in os.walk(self.path) for name in names]
        else:
            found = self.fs.find(self.path)
        places = [replace(self, path=path) for path in sorted(found)]
        return [place for place in places if not any(part[:1] in "._" for part in self.parts_to(place))]

    def parts_to(self, file: "_Place") -> list[str]:
        return [part for part in file.path[len(self.path) :].replace(os.sep, "/").split("/") if part]

    def open(self) -> Any:
        """Its bytes, unzipped; reads ahead as a text reader wants it."""
        file = pa.OSFile(self.path, mode="r") if self.fs is None else pa.PythonFile(self.fs.open(self.path, "rb"), mode="r")
        return pa.CompressedInputStream(file, "gzip") if self.path.endswith(".gz") else file


def _is_upath(source: Any) -> bool:
    return hasattr(source, "protocol") and hasattr(source, "fs") and hasattr(source, "path")


def _place(source: Any, fault: type[KeldError] = SourceError) -> _Place:
    """Where `source` is.  The partition is filled in later: unquoting a `file:` URI must never touch the key."""
    if not _is_upath(source):
        text = os.fspath(source)
        if text.startswith("file:"):
            return _Place(url2pathname(urlsplit(text).path))
        if "://" not in text:
            return _Place(text)
        from upath import UPath  # brings fsspec, which a local path does without

        source = UPath(text)
    if source.protocol in ("", "file", "local"):
        return _Place(source.path)
    try:
        source.fs.invalidate_cache()  # a listing from before the upstream wrote would hide its files
    except Exception as error:
        raise fault(f"{source}: the file system does not open: {error}. Check its package and access.") from error
    return _Place(source.path, source.fs)


def _segment(key: str) -> str:
    """A key as one path segment, two keys never the same: percent-encoded, no leading dot, at most 150 bytes."""
    text = quote(key, safe="=@+, ", errors="surrogatepass").replace(" ", "%20")
    if text.startswith("."):
        text = "%2E" + text[1:]
    if len(text) > _SEGMENT:  # `%-` follows no rule of percent-encoding, so that no other key can spell it
        return f"{text[:100]}%-{hashlib.sha256(key.encode(errors='surrogatepass')).hexdigest()[:32]}"
    return text or "%-"


def _form(path: str) -> str | None:
    """The format by the suffix; None without a suffix."""
    name = path.replace(os.sep, "/").rsplit("/", 1)[-1].lower()
    known = next((form for suffix, form in _FORMATS.items() if name.endswith(suffix)), None)
    return known or (os.path.splitext(name.lstrip("."))[1] or None)


def _sink_place(sink: PathLike, partition: str | None) -> tuple[_Place, str]:
    template = _place(sink, SinkError)
    place = template.filled(partition, SinkError)
    # By the template: a key like "2026.11" is no suffix.
    form = None if str(sink).endswith("/") else _form(template.path.replace("{partition}", "key"))
    if form is None:
        name = "part" if partition is None else _segment(partition)
        return replace(place, path=f"{place.path.rstrip('/')}/{name}.parquet"), "parquet"
    if form not in _WRITERS or place.path.endswith(".gz"):
        raise SinkRefused(f"{place.uri}: no writer for this suffix. End it in .parquet, .csv or .jsonl, or in / for a directory.")
    return place, form


def _unreadable(place: _Place, error: Exception) -> SourceError:
    if isinstance(error, FileNotFoundError) and "*" in place.path:
        return SourceError(f"{place.uri}: no such file, and patterns are not expanded. Nothing was sent. Give the directory.")
    if isinstance(error, FileNotFoundError):
        return SourceUnavailable(f"{place.uri}: no such file. Nothing was sent. Check the path and the partition's key.")
    return SourceUnavailable(f"{place.uri}: cannot be read: {error}. Nothing was sent. Check access, and that it is whole.")


# ---- files in


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """A file with its plain schema known."""

    place: _Place
    schema: pa.Schema
    rows: int | None
    blocks: Callable[[], Iterator[pa.RecordBatch]]


def _open_place(place: _Place) -> Table:
    try:
        if place.is_dir():
            return _of_directory(place)
        file = _open_file(place, None)
    except SourceError:
        raise
    except Exception as error:  # every fsspec file system has its own
        raise _unreadable(place, error) from error
    return _table(file.schema, file.rows, place.uri, file.blocks)


def _open_file(place: _Place, like: pa.Schema | None) -> _File:
    match _form(place.path):
        case "parquet":
            return _parquet(place)
        case "csv" | "jsonl" as form:
            return _text(place, like, _TEXT_FORMS[form])
    if place.fs is None and not os.path.exists(place.path):
        raise FileNotFoundError(place.path)
    raise SourceError(f"{place.uri}: not a kind of file Keld reads. Give .parquet, .csv, .jsonl (or .gz of the latter two).")


def _of_directory(root: _Place) -> Table:
    places = [place for place in root.files() if _form(place.path) in _WRITERS]
    if not places:
        raise SourceError(f"{root.uri}: no Parquet, CSV or JSONL file in this directory. Nothing was sent. Check the path.")
    if len({_form(place.path) for place in places}) > 1:
        raise SourceError(f"{root.uri}: files of several formats in one directory. Nothing was sent. Leave one.")
    # All of them now: a file that does not fit must be known before anything is paid.
    first = _open_file(places[0], None)
    files = [first, *(_open_file(place, first.schema) for place in places[1:])]
    hive = [_hive(root, file) for file in files]
    for file, keys in zip(files, hive, strict=True):
        _check_alike(first, file)
        if keys.keys() != hive[0].keys():
            raise SourceError(f"{file.place.uri}: its directories name other columns than {first.place.uri} does. Mend them.")
    schema = pa.schema([*first.schema, *((name, pa.string()) for name in hive[0])])
    rows = sum(file.rows for file in files if file.rows is not None) if first.rows is not None else None

    def blocks() -> Iterator[pa.RecordBatch]:
        for file, keys in zip(files, hive, strict=True):
            for block in file.blocks():
                for name, value in keys.items():
                    block = block.append_column(name, pa.repeat(pa.scalar(value, type=pa.string()), block.num_rows))
                yield block

    return _table(schema, rows, f"{root.uri} ({len(files)} files)", blocks)


def _hive(root: _Place, file: _File) -> dict[str, str | None]:
    """`a=x/b=y/` -> columns of strings, where the file itself has none of that name."""
    pairs = [part.split("=", 1) for part in root.parts_to(file.place)[:-1] if "=" in part]
    values = {name: None if value == "__HIVE_DEFAULT_PARTITION__" else unquote(value) for name, value in pairs}
    return {name: value for name, value in values.items() if name not in file.schema.names}


def _check_alike(first: _File, file: _File) -> None:
    ours, theirs = ({column.name: column.type for column in one.schema} for one in (first, file))
    for name in dict.fromkeys((*ours, *theirs)):
        if ours.get(name) != theirs.get(name):
            raise SourceError(
                f"{file.place.uri}: mixed schemas: column {name!r} is {theirs.get(name, 'absent')} here and "
                f"{ours.get(name, 'absent')} in {first.place.uri}. Nothing was sent. Write the files with one schema."
            )


def _parquet_file(place: _Place) -> pq.ParquetFile:
    # Not the defaults: those prefetch whole row groups (measured at 1M rows: 487 MB against 151, and slower).
    if place.fs is None:
        return pq.ParquetFile(pa.OSFile(place.path, mode="r"), pre_buffer=False, buffer_size=1 << 20)
    file = place.fs.open(place.path, "rb", cache_type="none")  # columns are far apart: a shared read-ahead would thrash
    return pq.ParquetFile(file, pre_buffer=False, buffer_size=4 << 20)


def _parquet(place: _Place) -> _File:
    with _parquet_file(place) as file:
        schema, rows = _plain_schema(file.schema_arrow, place.uri), file.metadata.num_rows
    return _File(place=place, schema=schema, rows=rows, blocks=lambda: _read(place, None, 0, None))


def _read(place: _Place, columns: Sequence[str] | None, start: int, stop: int | None) -> Iterator[pa.RecordBatch]:
    with _parquet_file(place) as file:
        last = file.metadata.num_rows
        yield from _range(file, columns, start, last if stop is None else min(stop, last))


def _range(file: Any, columns: Sequence[str] | None, start: int, stop: int) -> Iterator[pa.RecordBatch]:
    rows, probing = _PROBE_ROWS, True
    while start < stop:
        groups, skip = _groups(file.metadata, start, stop)
        for batch in file.iter_batches(rows, row_groups=groups, columns=columns, use_threads=False):
            if skip >= batch.num_rows:
                skip -= batch.num_rows
                continue
            piece = batch.slice(skip, stop - start)
            yield piece
            start, skip = start + piece.num_rows, 0
            if start >= stop:
                return
            if probing or batch.nbytes > 2 * _BLOCK_BYTES:
                probing, before, rows = False, rows, _fitting_rows(batch)
                if rows != before:
                    break  # a reader takes one size for all its batches: another one begins from here


def _fitting_rows(batch: pa.RecordBatch) -> int:
    """Rows in about 3 MB, as they are in memory.

    The file's metadata cannot tell: it has the size of the encoding, in which a long text repeated weighs nothing.
    """
    rows: int = _BLOCK_BYTES * 3 // 4 * batch.num_rows // max(batch.nbytes, 1)
    return max(1, min(_BLOCK_ROWS, rows))


def _groups(metadata: pq.FileMetaData, start: int, stop: int) -> tuple[list[int], int]:
    """The row groups that hold the range, and how many rows of the first of them come before it."""
    groups: list[int] = []
    skip = first = 0
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        if first < stop and first + rows > start:
            skip = skip if groups else start - first
            groups.append(group)
        first += rows
    return groups, skip


# ---- CSV and JSON Lines: the types are those of the first 2 MB, and hold for the rest


@dataclass(frozen=True, slots=True)
class _TextForm:
    """Args: `reader` of a place with these types (None: found by itself); `fault`, what to say when it stops."""

    reader: Callable[[_Place, pa.Schema | None], Any]
    column_type: Callable[[pa.DataType], pa.DataType]
    fault: Callable[[_Place, pa.Schema, Exception], SourceError]


def _text(place: _Place, like: pa.Schema | None, form: _TextForm) -> _File:
    try:
        with closing(form.reader(place, like)) as reader:
            found = reader.schema
    except pa.ArrowInvalid as error:
        raise form.fault(place, like or pa.schema([]), error) from None
    schema = _plain_schema(pa.schema([(column.name, form.column_type(column.type)) for column in found]), place.uri)

    def blocks() -> Iterator[pa.RecordBatch]:
        try:
            with closing(form.reader(place, schema)) as reader:
                yield from reader
        except pa.ArrowInvalid as error:
            raise form.fault(place, schema, error) from None  # Arrow's own message quotes the row

    return _File(place=place, schema=schema, rows=None, blocks=blocks)


def _csv_reader(place: _Place, schema: pa.Schema | None) -> Any:
    from pyarrow import csv as arrow_csv

    return arrow_csv.open_csv(
        place.open(),
        read_options=arrow_csv.ReadOptions(use_threads=False, block_size=_TEXT_BLOCK),
        parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
        # Only an empty field without quotes is null: "NA" and "null" may be what a text says.
        convert_options=arrow_csv.ConvertOptions(
            column_types=schema, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
        ),
    )


def _csv_type(kind: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_null(kind) else kind  # empty so far: it may yet hold text


_CSV_TYPE_FAULT = re.compile(r"CSV column #(\d+): (?:Row #(\d+): )?CSV conversion error to ([^:]+)")
_CSV_WIDTH_FAULT = re.compile(r"Row #(\d+): (Expected \d+ columns, got \d+)")


def _csv_fault(place: _Place, schema: pa.Schema, error: Exception) -> SourceError:
    if found := _CSV_TYPE_FAULT.search(str(error)):
        with io.TextIOWrapper(io.BufferedReader(_Raw(place.open())), encoding="utf-8-sig") as text:
            name = next(csv.reader(text))[int(found[1])]
        return SourceError(
            f"{place.uri}: column {name!r} is {found[3]} in the first rows, and row {found[2] or '?'} is not. "
            "Nothing was sent. Write all its values alike, or give Parquet, whose types are declared."
        )
    if found := _CSV_WIDTH_FAULT.search(str(error)):
        return SourceError(f"{place.uri}: row {found[1]}: {found[2]}. Nothing was sent. Quote or mend the row.")
    return _text_fault(place, error)


def _text_fault(place: _Place, error: Exception) -> SourceError:
    if "straddling" in str(error):
        return SourceError(f"{place.uri}: a row is larger than 2 MB. Nothing was sent. Give the table as Parquet.")
    if "Empty" in str(error):
        return SourceError(f"{place.uri}: no rows and no column names. Nothing was sent. Give an empty table as Parquet.")
    return SourceError(f"{place.uri}: this is not UTF-8 text in the form its suffix says. Nothing was sent. Repair it.")


def _jsonl_reader(place: _Place, schema: pa.Schema | None) -> Any:
    from pyarrow import json as arrow_json

    rules = arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error") if schema else None
    options = arrow_json.ReadOptions(use_threads=False, block_size=_TEXT_BLOCK)
    return arrow_json.open_json(place.open(), read_options=options, parse_options=rules)


def _jsonl_type(kind: pa.DataType) -> pa.DataType:
    """JSON's strings stay strings, however much the first ones look like times."""
    if pa.types.is_null(kind) or pa.types.is_timestamp(kind):
        return pa.string()
    return _nested(kind, _jsonl_type)


def _jsonl_fault(place: _Place, schema: pa.Schema, error: Exception) -> SourceError:
    """Arrow names neither line nor column, and quotes the value: look for the line once more, slowly."""
    types = {column.name: column.type for column in schema}
    with io.BufferedReader(_Raw(place.open())) as lines:
        for number, line in enumerate(lines, start=1):
            odd = _oddity(line, types) if line.strip() else None
            if odd and types:
                return SourceError(
                    f"{place.uri}: line {number}: {odd}. Nothing was sent. "
                    "Give every line the fields and types of the first ones, or give Parquet, whose types are declared."
                )
    return _text_fault(place, error)


def _oddity(line: bytes, types: dict[str, pa.DataType]) -> str | None:
    try:
        document = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError):
        return "it is not a JSON object"
    for name, value in document.items():
        if name not in types:
            return f"the field {name!r} is not in the first lines"
        try:
            pa.array([value], type=types[name])
            pa.array([value]).cast(types[name])  # the first takes 1.5 for an integer, the second 1 for a string
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            return f"column {name!r} is {types[name]} in the first lines and something else here"
    return None


_TEXT_FORMS = {
    "csv": _TextForm(_csv_reader, _csv_type, _csv_fault),
    "jsonl": _TextForm(_jsonl_reader, _jsonl_type, _jsonl_fault),
}


class _Raw(io.RawIOBase):
    """An Arrow file as one that Python's text layers read lines from."""

    def __init__(self, file: pa.NativeFile) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


# ---- objects in


def _table(schema: pa.Schema, rows: int | None, description: str, blocks: Callable[[], Iterator[pa.RecordBatch]]) -> Table:
    size = "" if rows is None else f", {rows:,} rows"
    return Table(schema=schema, rows=rows, description=description + size, _blocks=blocks)


def _of_stream(source: Any) -> Table:
    name = f"{type(source).__module__.partition('.')[0]} {type(source).__name__}"
    # The reader that tells the schema also gives the rows: some sources hand out their stream but once.
    opened = [pa.RecordBatchReader.from_stream(source)]
    schema = _plain_schema(opened[0].schema, name)

    def blocks() -> Iterator[pa.RecordBatch]:
        if not opened and isinstance(source, pa.RecordBatchReader):
            raise SourceError(f"{name}: it can be read only once, and was. Give a table, or a path.")
        return iter(opened.pop() if opened else pa.RecordBatchReader.from_stream(source))

    return _table(schema, getattr(source, "num_rows", getattr(source, "height", None)), name, blocks)


def _of_pandas(frame: Any) -> Table:
    # A named index is a column to its owner (often the key); the default one is only a count.
    named = any(name is not None for name in frame.index.names)
    try:
        table = pa.Table.from_pandas(frame.reset_index() if named else frame, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise SourceError(f"the pandas frame: {error.args[-1]}. Nothing was sent. Give that column values of one type.") from None
    return replace(_of_stream(table), description=f"pandas DataFrame, {len(frame):,} rows")


def _of_lazy_polars(frame: Any) -> Table:
    schema = _plain_schema(frame.collect_schema().to_frame().to_arrow().schema, "polars LazyFrame")

    def blocks() -> Iterator[pa.RecordBatch]:
        for part in frame.collect_batches(maintain_order=True):
            yield from pa.RecordBatchReader.from_stream(part)

    return _table(schema, None, "polars LazyFrame", blocks)


def _of_dataset(dataset: Any) -> Table:
    def blocks() -> Iterator[pa.RecordBatch]:
        # Without read-ahead: it holds 16 batches of each of 4 files.
        return iter(dataset.to_batches(batch_size=_CAST_ROWS, batch_readahead=1, fragment_readahead=1, use_threads=False))

    return _table(_plain_schema(dataset.schema, "pyarrow Dataset"), None, "pyarrow Dataset", blocks)


def _of_rows(source: Iterable[Any]) -> Table:
    rows = list(source)
    odd = next((row for row in rows if not isinstance(row, Mapping)), None)
    if odd is not None:
        raise SourceError(
            f"{type(source).__name__} of rows: a row is a {type(odd).__name__}, not a dict. Nothing was sent. Give dicts, or an Arrow table."
        )
    names = dict.fromkeys(name for row in rows for name in row)
    return replace(
        _of_stream(pa.table({str(name): _column(name, [row.get(name) for row in rows]) for name in names})),
        description=f"{len(rows):,} rows",
    )


def _column(name: object, values: list[Any]) -> Any:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeError):
        raise SourceError(
            f"column {name!r} of the rows holds values of several types, or one that Arrow has no type for. "
            "Nothing was sent. Give that column values of one type."
        ) from None


# ---- plain blocks


def _plain_schema(schema: pa.Schema, name: str) -> pa.Schema:
    twice = [column for column in dict.fromkeys(schema.names) if schema.names.count(column) > 1]
    if twice:
        raise SourceError(f"{name}: two columns of the name {twice[0]!r}. Nothing was sent. Rename one.")
    return pa.schema([(column.name, _plain_type(column.type)) for column in schema])


def _plain_type(kind: pa.DataType) -> pa.DataType:
    types = pa.types
    if isinstance(kind, pa.DictionaryType):
        return _plain_type(kind.value_type)
    if types.is_large_string(kind) or types.is_string_view(kind):
        return pa.string()
    if types.is_large_binary(kind) or types.is_binary_view(kind):
        return pa.binary()
    return _nested(kind, _plain_type)


def _nested(kind: pa.DataType, plain: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """`kind` with its parts made plain; lists of every layout become ordinary ones."""
    if isinstance(kind, pa.FixedSizeListType):
        return pa.list_(plain(kind.value_type), kind.list_size)
    if isinstance(kind, pa.ListType | pa.LargeListType | pa.ListViewType | pa.LargeListViewType):
        return pa.list_(plain(kind.value_type))
    if isinstance(kind, pa.StructType):
        return pa.struct([(part.name, plain(part.type)) for part in kind])
    return kind


def _plain(block: pa.RecordBatch, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    as_it_is = block.schema.names == schema.names and block.schema.types == schema.types
    step = _BLOCK_ROWS if as_it_is else _CAST_ROWS
    for start in range(0, block.num_rows, step):
        piece = block.slice(start, step)
        columns = [_decoded(piece.column(column.name), column.type) for column in schema]
        yield from _halved(pa.RecordBatch.from_arrays(columns, schema=schema))


def _decoded(column: Any, kind: pa.DataType) -> Any:
    if isinstance(column, pa.DictionaryArray):  # by hand: Arrow has no cast from a dictionary of views (Polars' categories)
        return _decoded(column.dictionary, kind).take(column.indices)
    return column.cast(kind)


def _halved(block: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    if block.num_rows <= 1 or block.nbytes <= _BLOCK_BYTES:
        yield block
        return
    middle = block.num_rows // 2
    yield from _halved(block.slice(0, middle))
    yield from _halved(block.slice(middle))


# ---- files out


def _sink_error(place: _Place, error: Exception) -> KeldError:
    return SinkError(
        f"{place.uri}: cannot be written: {_cause(error)}. Nothing of it was kept; what stood there before is "
        "unchanged, and the answers are safe in staging. Mend the place and run again: nothing is asked or paid twice."
    )


def _staging_error(place: _Place, error: Exception) -> KeldError:
    return StagingError(
        f"{place.uri}: staging cannot be written: {_cause(error)}. Nothing of this file was kept; what stood there "
        "before is unchanged. Mend the place and run again."
    )


def _cause(error: Exception) -> str:
    number = getattr(error, "errno", None)
    return f"{os.strerror(number)} ({errno.errorcode.get(number, number)})" if isinstance(number, int) else repr(error)


class _Landing:
    """A file in the making, as Arrow writes to it: it counts, hashes, and appears whole or not at all."""

    closed = False  # Arrow asks

    def __init__(self, place: _Place, fault: Callable[[_Place, Exception], KeldError]) -> None:
        self._place, self._fault = place, fault
        self._file: Any = None
        self._hash, self._size = hashlib.sha256(), 0
        self._temporary = self._temporary_path()

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def _temporary_path(self) -> str:
        """Beside the target: a rename is one step only within a file system.  Hidden, so that no reader takes it."""
        fs = self._place.fs
        if fs is not None and _WHOLE_ON_CLOSE.intersection([fs.protocol] if isinstance(fs.protocol, str) else fs.protocol):
            return self._place.path
        folder, _, _ = self._place.path.rpartition("/")
        return f"{folder}/.keld-{secrets.token_hex(8)}.tmp" if folder else f".keld-{secrets.token_hex(8)}.tmp"

    def __enter__(self) -> "_Landing":
        try:
            if self._place.fs is None:
                _make_dirs(os.path.dirname(self._temporary) or ".")
                self._file = open(self._temporary, "xb", buffering=1 << 20)
            else:
                self._file = self._place.fs.open(self._temporary, "wb")
        except Exception as error:  # every fsspec file system has its own
            raise self._fault(self._place, error) from error
        return self

    def write(self, data: Any) -> int:
        if self._file is None:  # given up; a Parquet writer still writes its footer when it is collected
            return len(data)
        self._hash.update(data)
        self._size += len(data)
        try:
            self._file.write(data)
        except Exception as error:
            raise self._fault(self._place, error) from error
        return len(data)

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        """Nothing: the end flushes, once."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self._give_up()
            return
        try:
            self._land()
        except Exception as failure:
            self._give_up()
            raise self._fault(self._place, failure) from failure

    def _land(self) -> None:
        if self._place.fs is None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._temporary, self._place.path)
            fsync_dir(os.path.dirname(self._place.path) or ".")
            return
        self._file.close()
        if self._temporary != self._place.path:
            self._place.fs.mv(self._temporary, self._place.path)

    def _give_up(self) -> None:
        file, self._file = self._file, None
        # What failed first is what the user must see: cleaning up may fail for the same reason.
        with suppress(Exception):
            if self._temporary == self._place.path:
                file.discard()
                file.closed = True  # fsspec's finaliser would upload what there is
                return
            with suppress(Exception):
                file.close()
            os.unlink(self._temporary) if self._place.fs is None else self._place.fs.rm(self._temporary)


def _make_dirs(path: str) -> None:
    """As `os.makedirs`, and a power cut does not take the new directories' entries back."""
    if not os.path.isdir(path):
        parent = os.path.dirname(path.rstrip("/")) or "."
        _make_dirs(parent)
        with suppress(FileExistsError):
            os.mkdir(path)
        fsync_dir(parent)


class _Writer(Protocol):
    def write(self, batch: pa.RecordBatch, /) -> None: ...
    def close(self) -> None: ...


class _ParquetWriter:
    """Row groups of so many bytes or 131,072 rows, whichever comes first: what the writer holds in memory."""

    def __init__(self, landing: Any, schema: pa.Schema, *, group_bytes: int = _GROUP_BYTES, **options: Any) -> None:
        self._schema = schema
        self._group_bytes = group_bytes
        self._writer = pq.ParquetWriter(landing, schema, **(options or {"compression": "zstd"}))
        self._held: list[pa.RecordBatch] = []
        self._bytes = self._rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        self._held.append(batch)
        self._bytes += batch.nbytes
        self._rows += batch.num_rows
        if self._bytes >= self._group_bytes or self._rows >= _GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_batches(self._held, schema=self._schema), row_group_size=_GROUP_ROWS)
        self._held, self._bytes, self._rows = [], 0, 0

    def close(self) -> None:
        if self._held:
            self._flush()
        self._writer.close()


class _CsvWriter:
    """Nested values as JSON text, decimals in plain digits, binary as base64; null is empty, and no text is `""`."""

    def __init__(self, landing: Any, schema: pa.Schema) -> None:
        from pyarrow import csv as arrow_csv

        self._schema = pa.schema([(column.name, _csv_column_type(column.type)) for column in schema])
        options = arrow_csv.WriteOptions(quoting_style="needed")
        self._writer = arrow_csv.CSVWriter(landing, self._schema, write_options=options)

    def write(self, batch: pa.RecordBatch) -> None:
        columns = [_csv_column(column) for column in batch.columns]
        self._writer.write(pa.RecordBatch.from_arrays(columns, schema=self._schema))

    def close(self) -> None:
        self._writer.close()


def _csv_column_type(kind: pa.DataType) -> pa.DataType:
    types = pa.types
    plain = _plain_type(kind)
    texts = types.is_nested(plain) or types.is_decimal(plain) or types.is_binary(plain) or types.is_time(plain)
    return pa.string() if texts else plain


def _csv_column(column: Any) -> Any:
    kind = _csv_column_type(column.type)
    if kind != pa.string() or pa.types.is_string(_plain_type(column.type)):
        return column.cast(kind)
    values = _jsonable(column).to_pylist()
    return pa.array([None if value is None else _csv_text(value) for value in values], type=kind)


def _csv_text(value: Any) -> str:
    match value:
        case Decimal():
            return format(value, "f")
        case bytes():
            return b64encode(value).decode()
        case list() | dict():
            return _json.encode(value).decode()
    return str(value)


class _JsonlWriter:
    """Decimals as numbers with all digits, times as ISO 8601, binary as base64; NaN, which JSON lacks, as null."""

    def __init__(self, landing: Any, schema: pa.Schema) -> None:
        self._landing, self._schema = landing, schema

    def write(self, batch: pa.RecordBatch) -> None:
        for block in _plain(batch, self._schema):
            columns = [_jsonable(column) for column in block.columns]
            rows = pa.RecordBatch.from_arrays(columns, names=self._schema.names).to_pylist()
            self._landing.write(_json.encode_lines(rows))

    def close(self) -> None:
        """Nothing: a line is whole when it is written."""


_json = msgspec.json.Encoder(decimal_format="number")


def _jsonable(column: Any) -> Any:
    """Python has no nanoseconds: such times go as text."""
    return column.cast(_without_nanoseconds(column.type))


def _without_nanoseconds(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.TimestampType | pa.Time64Type) and kind.unit == "ns":
        return pa.string()
    return _nested(kind, _without_nanoseconds)


_WRITERS: dict[str, Callable[[Any, pa.Schema], _Writer]] = {
    "parquet": _ParquetWriter,
    "csv": _CsvWriter,
    "jsonl": _JsonlWriter,
}
