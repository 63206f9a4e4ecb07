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
from keld.audit.piece import BLOCK_BYTES, Piece, Twin
from keld.audit.repeat import Contents
from keld.audit.sheet import csv_pieces, parquet_pieces
from keld.audit.stream import opened
from keld.errors import SourceError, SourceUnavailable
from keld.table.place import Place, is_pattern, place_of

_HEAD_BYTES = 1 << 18


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
