"""Line: the calls of a file of JSON: a record a line, which streams, or any other shape, which is read whole."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import msgspec

from keld.audit.chunk import Chunk, Columns, Layout, Lines, Rows, has, top
from keld.audit.document import documents, records
from keld.audit.format import Format
from keld.audit.piece import BLOCK_BYTES, ROWS, Piece, known, piece, refused
from keld.audit.reader import paths_of
from keld.table.place import Place

_TRIED = 20  # lines of a file that are tried, to know what it is


def json_pieces(place: Place, stream: Any, head: bytes, form: Format | None) -> Iterator[Piece]:
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
        raise refused(place, lines[0])
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
        raise refused(place, next((one for one in found if isinstance(one, dict)), ()))
    for at in range(0, len(objects), ROWS):
        rows, worse = _rows_of(objects[at : at + ROWS], form)
        yield piece(_chunk(rows, form), form, worse + (0 if at else bad), 0 if at else len(text))


def _blocks(stream: Any, head: bytes) -> Iterator[bytes]:
    """The bytes of a stream, in blocks that end with a line."""
    rest = head
    while block := stream.read(BLOCK_BYTES):
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
            found = piece(chunk, form, bad, len(block))
        yield found


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
