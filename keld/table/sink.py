"""Sink: enriched blocks -> a partition out, absent or complete."""

import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from keld.errors import KeldError, SinkError, SinkRefused, SourceError, StagingError
from keld.path import check_writer, segment
from keld.table.lake import lake_at
from keld.table.landing import Landing
from keld.table.place import PathLike, Place, delimiter_of, form_of, is_pattern, place_of
from keld.table.writer import WRITERS, CsvWriter, ParquetWriter, Writer

# Staging is written once and read once or twice: lz4 without dictionaries takes half the time of zstd to write, a third to read.
_STAGING: dict[str, Any] = {
    "group_bytes": 8 << 20,
    "compression": "lz4",
    "use_dictionary": False,
    "write_statistics": ["keld_position"],  # of answers: where a file begins
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A partition that is complete at `uri`."""

    uri: str
    rows: int
    size_bytes: int
    sha256: str


def write_table(sink: PathLike, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, partition: str | None = None) -> Written:
    """The partition written to `sink`: completely, or (on any exception) not at all, and an earlier file there is unchanged.

    Args:
        sink: a path, UPath or URI, with `{partition}` in it or not; the suffix decides the format (.parquet, .csv,
            .jsonl, .ndjson).  Without a suffix, or ending in "/", a directory: `<partition or "part">.parquet` in it.
        schema: of every batch.

    Raises:
        SinkError: it cannot be written; an exception of `batches` is not changed.
    """
    place, form = _sink_place(sink, partition)
    rows = 0
    with Landing(place, _sink_error) as landing:
        writer = _writer(landing, schema, place, form, _PAID)
        for batch in batches:
            with _form_faults(place, form, _PAID):
                writer.write(batch)
            rows += batch.num_rows
        writer.close()
    return Written(uri=place.uri, rows=rows, size_bytes=landing.tell(), sha256=landing.sha256)


def try_sink(sink: PathLike, schema: pa.Schema, *, partition: str | None = None) -> None:
    """Passes if rows of this schema can be written to `sink`, as tried with a file without rows; an earlier file there is unchanged.

    Raises:
        SinkError: the place cannot be written.
        SinkRefused: the format has no type for a column, there is no writer for the suffix, or the place is inside of a lake table.
    """
    place, form = _sink_place(sink, partition)
    if place.fs is None and place.is_dir():  # the temporary file would be written beside it, and only the rename would fail
        raise _unsent_error(place, IsADirectoryError(errno.EISDIR, ""))
    try:
        lake = lake_at(place)
    except Exception as error:  # every fsspec file system has its own
        raise _unsent_error(place, error) from error
    if lake is not None:
        raise SinkRefused(
            f"{place.uri}: this is inside of a {lake.kind} table, whose readers would never see the file, and whose clean-up would remove it. Nothing was "
            "sent. Name a directory or file outside of the table, and load it from there.",
            sink=place.uri,
        )
    with suppress(_Writable), Landing(place, _unsent_error) as landing:
        writer = _writer(landing, schema, place, form, _UNSENT)
        with _form_faults(place, form, _UNSENT):
            writer.write(pa.RecordBatch.from_pylist([], schema=schema))
        writer.close()
        raise _Writable  # so that no file appears


class _Writable(Exception):
    """Raised to end a successful try without a file."""


def sink_is_file(sink: PathLike, partition: str | None = None) -> bool:
    """True if a sink names the same file for every partition, not a directory or a template; opens no file.

    Raises:
        SinkError: there is no writer for its suffix.
    """
    _sink_place(sink, partition)
    return "{partition}" not in str(sink) and not str(sink).endswith("/") and form_of(str(sink)) is not None


def check_apart(source: Any, sink: str | None, partition: str | None) -> None:
    """Passes if the file written to `sink` is not part of `source`, as far as their paths show; opens no source.

    Else the output would overwrite the rows that were asked, or would be read as rows of the source the next time.

    Raises:
        SinkRefused: it is one of the source's files, or would be; nothing was sent.
    """
    if sink is None:
        return
    target = _sink_place(sink, partition)[0].uri
    for path in source if isinstance(source, list | tuple) else [source]:
        if not isinstance(path, str | os.PathLike):
            continue
        text = os.fspath(path)
        place = (Place(text) if "://" in text and not text.startswith("file:") else place_of(text)).filled(partition, SourceError)
        if _holds(place, target):
            raise SinkRefused(
                f"The sink {target} is part of the source {path}: it would be overwritten, or read as rows of it the next time. "
                "Nothing was sent. Name a sink beside the source."
            )


def _holds(place: Place, target: str) -> bool:
    """True if a file of that URI belongs to a path, a directory or a pattern."""
    source, target = (path if "://" in path else os.path.realpath(path) for path in (place.path, target))
    if target == source:
        return True
    if target.rpartition("/")[2][:1] in "._":  # hidden from patterns and directories
        return False
    if is_pattern(place):
        from fsspec.utils import glob_translate

        return re.match(glob_translate(source), target) is not None
    within = target.removeprefix(source.rstrip("/") + "/")
    return within != target and not any(part[:1] in "._" for part in within.split("/"))


class ParquetSink:
    """A Parquet file, quick to write and to read, that appears when the `with` block ends without an error, and never otherwise.

    Raises:
        StagingError: it cannot be written; nothing of it is left, and an earlier file there is unchanged.
    """

    def __init__(self, path: PathLike, schema: pa.Schema) -> None:
        self._landing = Landing(place_of(path, StagingError), _staging_error)
        self._schema = schema

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        self._stack.enter_context(self._landing)
        self._writer = ParquetWriter(self._landing, self._schema, **_STAGING)
        self._stack.push(self._finish)
        return self

    @property
    def sha256(self) -> str:
        """The digest of the bytes that were written."""
        return self._landing.sha256

    def write(self, batch: pa.RecordBatch) -> None:
        self._writer.write(batch)

    def _finish(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._writer.close()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, trace)


# What became of the rows if a form cannot hold them: at the end of a job run, and before its beginning.
_PAID = "Nothing of it was kept; all answers are safe in staging and are not asked again."
_UNSENT = "Nothing was sent."


def _writer(landing: Landing, schema: pa.Schema, place: Place, form: str, then: str) -> Writer:
    with _form_faults(place, form, then):
        return CsvWriter(landing, schema, delimiter=delimiter_of(place.path)) if form == "csv" else WRITERS[form](landing, schema)


@contextmanager
def _form_faults(place: Place, form: str, then: str) -> Iterator[None]:
    """Turns a writer's error about a type that it cannot write into a `SinkRefused`."""
    try:
        yield
    except (pa.ArrowException, TypeError, ValueError) as error:  # also raised by JSON's encoder
        raise SinkRefused(
            f"{place.uri}: {form} cannot hold these columns: {error}. {then} Take another sink, e.g. one that ends in .parquet.",
            sink=place.uri,
        ) from error


def _sink_place(sink: PathLike, partition: str | None) -> tuple[Place, str]:
    template = place_of(sink, SinkError)
    place = template.filled(partition, SinkError)
    check_writer(str(sink), place.uri)
    form = None if str(sink).endswith("/") else form_of(template.path.replace("{partition}", "key"))
    if form is None:
        name = "part" if partition is None else segment(partition)
        return replace(place, path=f"{place.path.rstrip('/')}/{name}.parquet"), "parquet"
    return place, form


def _sink_error(place: Place, error: Exception) -> KeldError:
    return SinkError(
        f"{place.uri}: cannot be written: {_cause(error)}. Nothing of it was kept; an earlier file there is "
        "unchanged, and the answers are safe in staging. Correct the sink and run again: nothing is asked or paid twice.",
        sink=place.uri,
    )


def _unsent_error(place: Place, error: Exception) -> KeldError:
    return SinkError(
        f"{place.uri}: cannot be written: {_cause(error)}. Nothing was sent. Correct the sink, or name another one.", sink=place.uri
    )


def _staging_error(place: Place, error: Exception) -> KeldError:
    return StagingError(
        f"{place.uri}: staging cannot be written: {_cause(error)}. Nothing of this file was kept; an earlier file "
        "there is unchanged. Correct the place and run again."
    )


def _cause(error: Exception) -> str:
    number = getattr(error, "errno", None)
    return f"{os.strerror(number)} ({errno.errorcode.get(number, number)})" if isinstance(number, int) else repr(error)
