"""Log: a file of any format -> calls, a few thousand at a time.

The format of a file is known by its content: its first document, or its header.  A line that cannot be read costs that line.  JSON Lines,
CSV and Parquet stream; other JSON (an array, pages, objects over many lines) is read whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import msgspec
import pyarrow as pa

from keld.audit.format import Format
from keld.audit.line import json_pieces
from keld.audit.piece import BLOCK_BYTES, NoLog, Passed, Piece
from keld.audit.repeat import Contents
from keld.audit.sheet import csv_pieces, parquet_pieces
from keld.audit.stream import opened
from keld.errors import SourceError, SourceUnavailable
from keld.table.place import Place, is_pattern, place_of

_HEAD_BYTES = 1 << 18


def files(logs: Sequence[str]) -> list[tuple[Place, bool]]:
    """The files that paths, directories, patterns and URIs name, each once; True for those that are named themselves.

    Raises:
        SourceUnavailable: one of them names none.
    """
    found: dict[str, tuple[Place, bool]] = {}
    for log in logs:
        place = place_of(log)
        many = is_pattern(place) or place.is_dir()
        named = (place.matches() if is_pattern(place) else place.files()) if many else [place] if place.exists() else []
        named = [one for one in named if not one.path.endswith(("_input.json.gz", "_output.json.gz"))]  # Bedrock's large bodies
        if not named:
            raise SourceUnavailable(f"{log}: there is no such file, and no directory or pattern with files in it.", source=log)
        found |= {one.uri: (one, not many or found.get(one.uri, (one, False))[1]) for one in named}
    return list(found.values())


def logs_on_disk(logs: Sequence[str], form: Format | None) -> Iterator[tuple[str, Iterator[Piece | Passed]]]:
    """The name of each file, and its calls.

    A file that is no log is refused if it is named itself, or if no other one in its directory or pattern is a log; else it is passed over.

    Raises:
        SourceError: a file is refused, or cannot be read to its end.
    """
    contents, found = Contents(), files(logs)
    are_logs: list[bool] = []
    for place, is_named in found:

        def read(place: Place = place, is_named: bool = is_named) -> Iterator[Piece | Passed]:
            try:
                yield from pieces(place, contents, form)
                are_logs.append(True)
            except NoLog:
                are_logs.append(False)
                if is_named or (len(are_logs) == len(found) and not any(are_logs)):
                    raise
                yield Passed("passed over: of none of the formats that are known; named itself, it is refused with what it lacks")

        yield place.name, read()


def pieces(place: Place, contents: Contents, form: Format | None = None) -> Iterator[Piece | Passed]:
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
                yield Passed(f"the same content as {twin.name}, which is counted once")
            elif start.startswith(b"PAR1"):
                yield from parquet_pieces(place, form)
            elif start[:1] in (b"{", b"[", b"\x1e") or start[:2] == b'"{':
                yield from json_pieces(place, stream, head, form)
            elif start:
                yield from csv_pieces(place, head, form)
    except (OSError, pa.ArrowException, msgspec.DecodeError) as error:
        raise SourceError(f"{place.uri}: it cannot be read: {_reason(error)}", source=place.uri) from None


def _reason(error: Exception) -> str:
    if "runcated" in str(error) or "unexpected end" in str(error).lower():
        return "its end is missing, as of a file that is still being written or was not copied whole. Copy it again, or leave it out."
    return f"{error}."


def _head(stream: Any) -> bytes:
    """The beginning of a file, with its first line whole, without a byte order mark."""
    head: bytes = stream.read(_HEAD_BYTES)
    while b"\n" not in head[len(head) - BLOCK_BYTES :] and (more := stream.read(BLOCK_BYTES)):
        head += more
    return head.removeprefix(b"\xef\xbb\xbf")
