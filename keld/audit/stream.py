"""Stream: the bytes of a log as UTF-8, in whatever encoding they were saved; what is no text is refused, with what to do.

A spreadsheet saves "Unicode text" as UTF-16, and PowerShell writes every file so.
"""

from __future__ import annotations

import codecs
import io
import os
import stat
from typing import Any

from keld.errors import SourceError
from keld.table.place import Place

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
_OTHERS = (
    (b"PK\x03\x04", "a ZIP archive or an Excel file: unpack it, or save its sheet as CSV"),
    (b"\xfd7zXZ", "packed with xz: unpack it"),
    (b"7z\xbc\xaf", "packed with 7-Zip: unpack it"),
    (b"\x04\x22\x4d\x18", "packed with lz4: unpack it"),
    (b"SQLite format 3", "a SQLite database: export its table as CSV"),
    (b"Obj\x01", "Avro: save it as Parquet or JSON lines"),
    (b"ORC", "ORC: save it as Parquet"),
    (b"%PDF", "a PDF: ask for the CSV of it"),
    (b"\xd0\xcf\x11\xe0", "an old Excel file: save its sheet as CSV"),
)
_LONGEST = 16


def _of_windows(error: UnicodeError) -> tuple[str, int]:
    """Bytes that are no UTF-8, as a spreadsheet in the west saves them."""
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("cp1252", "replace"), error.end


codecs.register_error("keld.cp1252", _of_windows)


def opened(place: Place, *, whole: bool = False) -> Any:
    """A file as UTF-8, decompressed; Parquet as it is.

    Args:
        whole: nothing in it is no UTF-8, and it has no byte order mark; else one line may be neither.

    Raises:
        SourceError: it is of a kind that has to be unpacked or saved in another way.
    """
    if place.fs is None and stat.S_ISFIFO(os.stat(place.path).st_mode):
        raise SourceError(f"{place.uri} is a pipe, which can be read only once: save it to a file first.", source=place.uri)
    first = place.head()[:_LONGEST]
    if (what := next((what for magic, what in _OTHERS if first.startswith(magic)), None)) is not None:
        raise SourceError(f"{place.uri} is {what}. Nothing of it was read.", source=place.uri)
    encoding = _encoding(first)
    encoding = encoding or ("utf-8-sig" if whole else None)
    return place.open() if encoding is None else _Recoded(place.open(), encoding)


def _encoding(first: bytes) -> str | None:
    """The encoding by the first bytes; None: UTF-8, or what is like it."""
    marked = next((name for mark, name in _MARKS if first.startswith(mark)), None)
    if marked is None and first[1:2] == b"\0" and first[:1].isascii() and first[2:3] != b"\0":
        return "utf-16-le"  # without a mark, as a part of a larger file
    return marked


class _Recoded(io.RawIOBase):
    """A stream of text as UTF-8."""

    def __init__(self, stream: Any, encoding: str) -> None:
        self._stream, self._decoder = (
            stream,
            codecs.getincrementaldecoder(encoding)("keld.cp1252" if encoding.startswith("utf-8") else "replace"),
        )
        self._ready, self._done = b"", False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready and not self._done:
            block = self._stream.read(max(len(buffer), 1 << 16))
            self._done = not block
            self._ready = self._decoder.decode(block, final=self._done).encode("utf-8", "replace")
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size

    def close(self) -> None:
        self._stream.close()
        super().close()
