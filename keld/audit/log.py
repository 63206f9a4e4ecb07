"""Log: a file of any format -> calls, a few thousand at a time.

The format of a file is known by its content: its first document, or its header.  A line that cannot be read costs that line.  JSON Lines,
CSV and Parquet stream; other JSON (an array, pages, objects over many lines) is read whole.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from keld.audit.chunk import Batch, Chunk, Columns, Layout, Lines, Rows, has, top
from keld.audit.document import documents, records
from keld.audit.format import FIELDS, Format
from keld.audit.formats import FORMATS
from keld.audit.reader import Read, paths_of, read
from keld.audit.repeat import Contents
from keld.audit.stream import opened
from keld.errors import SourceError, SourceUnavailable
from keld.table.place import Place, is_pattern, place_of

_HEAD_BYTES = 1 << 18
_BLOCK_BYTES = 4 << 20
_ROWS = 20_000  # of a chunk: large enough for arrays to pay, small enough for any machine
_NAME_MOST = 40  # characters of a field that are shown: where a document is not of records, its keys may be anybody's text
_TRIED = 20  # lines of a file that are tried, to know what it is
_ALIKE = {name.lower(): name for form in FORMATS.values() for name in (*map(top, paths_of(form)), *chain.from_iterable(form.needs))}


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Some calls of a file; `bytes_read` since the piece before."""

    form: Format
    found: Read
    bytes_read: int


@dataclass(frozen=True, slots=True)
class Twin:
    """In place of the calls of a file: the file of the same content, which was read before."""

    of: Place


def files(logs: Sequence[str]) -> list[Place]:
    """The files that paths, directories, patterns and URIs name, each once.

    Raises:
        SourceUnavailable: one of them names none.
    """
    found: dict[str, Place] = {}
    for log in logs:
        place = place_of(log)
        named = place.matches() if is_pattern(place) else place.files() if place.is_dir() else [place] if place.exists() else []
        named = [one for one in named if not one.path.endswith(("_input.json.gz", "_output.json.gz"))]  # Bedrock's large bodies
        if not named:
            raise SourceUnavailable(f"{log}: there is no such file, and no directory or pattern with files in it.", source=log)
        found |= {one.uri: one for one in named}
    return list(found.values())


def pieces(place: Place, contents: Contents, form: Format | None = None) -> Iterator[Piece | Twin]:
    """The calls of a file, in its order.

    Args:
        contents: of the files that were read before.
        form: None: it is known by the content.

    Raises:
        SourceError: it is of no format that is known, or cannot be read to its end.
    """
    try:
        with closing(opened(place)) as stream:
            head = _head(stream)
            start = head.lstrip()
            if (twin := contents.twin(place, head) if start else None) is not None:
                yield Twin(twin)
            elif start.startswith(b"PAR1"):
                yield from _parquet(place, form)
            elif start[:1] in (b"{", b"[", b"\x1e") or start[:2] == b'"{':
                yield from _json(place, stream, head, form)
            elif start:
                yield from _csv(place, head, form)
    except (OSError, pa.ArrowException, msgspec.DecodeError) as error:
        raise SourceError(f"{place.uri}: it cannot be read: {_reason(error)}", source=place.uri) from None


def _reason(error: Exception) -> str:
    if "runcated" in str(error) or "unexpected end" in str(error).lower():
        return "its end is missing, as of a file that is still being written or was not copied whole. Copy it again, or leave it out."
    return f"{error}."


def _head(stream: Any) -> bytes:
    """The beginning of a file, with its first line whole, without a byte order mark."""
    head: bytes = stream.read(_HEAD_BYTES)
    while b"\n" not in head[len(head) - _BLOCK_BYTES :] and (more := stream.read(_BLOCK_BYTES)):
        head += more
    return head.removeprefix(b"\xef\xbb\xbf")


def known(document: Any, among: Iterable[Format] = FORMATS.values()) -> Format | None:
    """The format with the most fields that a document has, of those that it has all of; None: it is of no format that is known."""
    fitting = [(len(names), form) for form in among for names in form.needs if all(has(document, name) for name in names)]
    return max(fitting, key=lambda one: one[0])[1] if fitting else None


def _refused(place: Place, names: Iterable[str]) -> SourceError:
    seen = sorted(name if len(name) <= _NAME_MOST else f"{name[:_NAME_MOST]}..." for name in names)
    kinds = ", ".join(form.name for form in FORMATS.values())
    return SourceError(
        f"{place.uri} is of none of the formats that are known ({kinds}). It has {', '.join(seen[:30]) or 'no fields'}"
        f"{', ...' if len(seen) > 30 else ''}. Name its format with --format NAME, or write a mapping, --format mapping.toml, with [names]: "
        f"at and model at least; then {', '.join(name for name in FIELDS if name not in ('at', 'model'))} where the file has them.",
        source=place.uri,
    )


# -- JSON -----------------------------------------------------------------------------------------------------


def _json(place: Place, stream: Any, head: bytes, form: Format | None) -> Iterator[Piece]:
    def is_record(document: Any) -> bool:
        """True if a document is one of a log, and not a page of them."""
        if form is None:
            return known(document) is not None
        return form.unfold is not None or any(has(document, path) for path in form.names["at"])

    lines = [] if head.lstrip().startswith(b"[") else _objects(head)
    first = next(filter(is_record, lines), None)
    if first is not None and (found := form or known(first)) is not None:
        yield from _lines(_blocks(stream, head), found)
    elif lines and not records(lines[0], is_record):
        raise _refused(place, lines[0])
    else:
        yield from _document(place, head + stream.read(), form, is_record)


def _objects(head: bytes) -> list[dict[str, Any]]:
    """The first lines that are an object by themselves."""
    found = []
    for line in head.split(b"\n")[:_TRIED]:
        with suppress(msgspec.DecodeError, UnicodeDecodeError):
            found.append(msgspec.json.decode(line))
    return [one for one in found if isinstance(one, dict) and one]


def _document(place: Place, text: bytes, form: Format | None, is_record: Callable[[Any], bool]) -> Iterator[Piece]:
    found, bad = documents(text)
    inside = [records(one, is_record) for one in found]
    objects = [one for within in inside for one in within]
    bad += sum(not within for within in inside) if objects else 0
    form = form or next((of for one in objects[:_TRIED] if (of := known(one)) is not None), None)
    if form is None:
        raise _refused(place, next((one for one in found if isinstance(one, dict)), ()))
    for at in range(0, len(objects), _ROWS):
        rows, worse = _rows_of(objects[at : at + _ROWS], form)
        yield Piece(form=form, found=_read(_chunk(rows, form), form, worse + (0 if at else bad)), bytes_read=0 if at else len(text))


def _blocks(stream: Any, head: bytes) -> Iterator[bytes]:
    """The bytes of a stream, in blocks that end with a line."""
    rest = head
    while block := stream.read(_BLOCK_BYTES):
        cut = block.rfind(b"\n") + 1
        if not cut:
            rest += block
            continue
        yield rest + block[:cut]
        rest = block[cut:]
    if rest:
        yield rest


def _lines(blocks: Iterator[bytes], form: Format) -> Iterator[Piece]:
    layout = Layout([path for path in paths_of(form) if path == top(path)])
    decoder = msgspec.json.Decoder(form.document if form.unfold else layout.kind)
    for block in blocks:
        with _uncollected():
            rows, bad = _decoded(decoder, _marked(block, form.marks))
            if form.unfold is None:
                chunk: Chunk = Lines(rows, layout)
            else:
                rows, worse = _rows_of(rows, form)
                chunk, bad = _chunk(rows, form), bad + worse
            found = _read(chunk, form, bad)
        yield Piece(form=form, found=found, bytes_read=len(block))


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without Python's search for cycles: decoding makes none, and to look at each list of a block again and again took as long as all the rest."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _chunk(rows: list[Any], form: Format) -> Chunk:
    return Columns(rows, form.columns) if form.columns else Rows(rows)


def _marked(block: bytes, marks: Sequence[bytes]) -> bytes:
    """The lines of a block with one of the marks in them, and those that are no whole object, which are counted as such later."""
    if not marks:
        return block
    lines = block.splitlines(keepends=True)
    return b"".join(line for line in lines if any(mark in line for mark in marks) or not line.rstrip().endswith(b"}"))


def _decoded(decoder: msgspec.json.Decoder[Any], block: bytes) -> tuple[list[Any], int]:
    """The rows in a block, and how many lines could not be read."""
    try:
        return decoder.decode_lines(block), 0
    except (msgspec.DecodeError, UnicodeDecodeError):
        rows, bad = [], 0
        for line in block.split(b"\n"):
            if not line.strip():
                continue
            try:
                rows.append(decoder.decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError):
                odd, worse = _converted(line, decoder.type)
                rows, bad = rows + odd, bad + worse
        return rows, bad


def _converted(line: bytes, kind: Any) -> tuple[list[Any], int]:
    """The rows in a line that is no JSON by itself: NaN, two objects; and how many could not be read."""
    found, bad = documents(line)
    rows = []
    for one in found:
        try:
            rows.append(msgspec.convert(one, kind))
        except msgspec.ValidationError:
            bad += 1
    return rows, bad


def _rows_of(documents: Sequence[Any], form: Format) -> tuple[list[Any], int]:
    """The rows of documents, and how many of these could not be read."""
    if form.unfold is None:
        return list(documents), 0
    rows: list[Any] = []
    bad = 0
    for document in documents:
        try:
            rows += form.unfold(msgspec.convert(document, form.document) if isinstance(document, dict) else document)
        except (msgspec.ValidationError, AttributeError, TypeError, KeyError, ValueError):
            bad += 1
    return rows, bad


def _read(chunk: Chunk, form: Format, bad: int) -> Read:
    found = read(chunk, form)
    return Read(calls=found.calls, other=found.other, bad=found.bad + bad)


# -- tables ---------------------------------------------------------------------------------------------------


def _parquet(place: Place, form: Format | None) -> Iterator[Piece]:
    source = place.path if place.fs is None else place.fs.open(place.path, "rb")
    with pq.ParquetFile(source) as file:
        there = file.schema_arrow.names
        names, form = _known_names(place, there, form)
        wanted = {named: name for named, name in zip(names, there, strict=True) if named in set(paths_of(form))}
        size = sum(file.metadata.row_group(at).total_byte_size for at in range(file.num_row_groups))
        for batch in file.iter_batches(batch_size=_ROWS, columns=list(wanted.values())):
            share = size * batch.num_rows // max(file.metadata.num_rows, 1)
            renamed = batch.rename_columns([named for name in batch.schema.names for named, there in wanted.items() if there == name])
            yield Piece(form=form, found=_read(Batch(renamed), form, 0), bytes_read=share)


def _known_names(place: Place, there: Sequence[str], form: Format | None) -> tuple[list[str], Format]:
    """The columns of a table as its format names them, and the format; some databases change the case of a name.

    Raises:
        SourceError: it is of no format that is known.
    """
    if form is not None:
        return list(there), form
    alike = [_ALIKE.get(name.lower(), name) for name in there]
    for names in (list(there), alike if len(set(alike)) == len(alike) else list(there)):
        if (found := known(dict.fromkeys(names))) is not None:
            return names, found
    raise _refused(place, there)


def _csv(place: Place, head: bytes, form: Format | None) -> Iterator[Piece]:
    lines = head.lstrip().replace(b"\r\n", b"\n").replace(b"\r", b"\n").decode("utf-8", "replace").split("\n")
    told = lines[0].strip('"').lower().removeprefix("sep=") if lines[0].strip('"').lower().startswith("sep=") else ""  # Excel's
    line = lines[1 if told else 0]
    delimiter = told or max(",;\t|", key=line.count)
    names, form = _known_names(place, [name.strip().strip('"').strip() for name in line.split(delimiter)], form)
    bad: list[Any] = []

    def skip(row: Any) -> str:
        bad.append(row.number)
        return "skip"

    wanted = [name for name in dict.fromkeys(names) if name in set(paths_of(form)) | {top(path) for path in paths_of(form)}]
    with closing(opened(place)) as stream:
        reader = pa.csv.open_csv(
            stream,
            read_options=pa.csv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False, column_names=names, skip_rows=2 if told else 1),
            parse_options=pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=skip),
            convert_options=pa.csv.ConvertOptions(
                include_columns=wanted, column_types=dict.fromkeys(wanted, pa.binary()), strings_can_be_null=True, null_values=[""]
            ),
        )
        for batch in chain.from_iterable(_cut(batch) for batch in reader):
            text = pa.RecordBatch.from_arrays([_text(column) for column in batch.columns], names=batch.schema.names)
            yield Piece(form=form, found=_read(Batch(text), form, len(bad)), bytes_read=int(batch.nbytes))
            bad.clear()


def _text(column: pa.Array) -> pa.Array:
    """A column as text: UTF-8, or what a spreadsheet in the west saves."""
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([None if value is None else value.decode("cp1252", "replace") for value in column.to_pylist()], pa.string())


def _cut(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    for at in range(0, batch.num_rows, _ROWS):
        yield batch.slice(at, _ROWS)
