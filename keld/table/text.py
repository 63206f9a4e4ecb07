"""Text: the bytes of a text file as UTF-8, and the error if they are not text.

UTF-8, with or without a byte order mark, and UTF-16 with one are read as they are; anything else is refused with the line and the byte, unless
its encoding is declared.  No encoding is guessed: even a good library takes German for Central European, without an error.
"""

import codecs
import io
from collections.abc import Callable
from contextlib import closing

from keld.errors import SourceError
from keld.table.place import Place

TEXT_BLOCK = 2 << 20  # bytes that are read at once, and the largest row of a CSV file
_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


class Text(io.RawIOBase):
    """The text of a file as bytes of UTF-8, without a mark.

    Args:
        encoding: the declared one; None: by the byte order mark, else UTF-8.
        watch: called with all bytes, in their order.

    Bytes that cannot be decoded end the file and set `broken`: an exception would be raised in Arrow's read-ahead thread.
    """

    def __init__(self, place: Place, encoding: str | None, watch: Callable[[bytes], None] = lambda data: None) -> None:
        self._file, self._watch, self.broken = place.open(), watch, False
        self._rest = b""
        raw = self._file.read(TEXT_BLOCK)
        self.encoding = encoding or next((name for mark, name in _MARKS.items() if raw.startswith(mark)), "utf-8")
        plain = codecs.lookup(self.encoding).name in ("utf-8", "utf-8-sig", "ascii")
        self._decoder = None if plain else codecs.getincrementaldecoder(self.encoding)()
        self._rest = self._text(raw).removeprefix(codecs.BOM_UTF8)
        self._watch(self._rest)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """The next `size` bytes, or fewer at the end."""
        parts, length = [self._rest], len(self._rest)
        while (size < 0 or length < size) and not self.broken and (raw := self._file.read(TEXT_BLOCK)):
            parts.append(self._text(raw))
            self._watch(parts[-1])
            length += len(parts[-1])
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        found, self._rest = (data, b"") if size < 0 else (data[:size], data[size:])
        return found

    def readinto(self, buffer: "memoryview[int]") -> int:  # type: ignore[override]  # of what is written into
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _text(self, raw: bytes) -> bytes:
        if self._decoder is None:
            return raw
        try:
            return self._decoder.decode(raw).encode()
        except UnicodeError:
            self.broken = True
            return b""

    def close(self) -> None:
        self._file.close()
        super().close()


def encoding_fault(place: Place, encoding: str | None) -> SourceError | None:
    """The error about the encoding, with its line and byte; None if the text decodes."""
    with closing(Text(place, encoding)) as text:
        encoding = text.encoding
    decoder, line, at = codecs.getincrementaldecoder(encoding)(), 1, 0
    with closing(place.open()) as file:
        while True:
            raw = file.read(TEXT_BLOCK)
            pending = len(decoder.getstate()[0])
            try:
                line += decoder.decode(raw, final=not raw).count("\n")
            except UnicodeError as error:
                start = getattr(error, "start", 0)
                line += bytes(getattr(error, "object", b""))[:start].decode(encoding, "replace").count("\n")
                return _not_text(place, encoding, line, at - pending + start)
            if not raw:
                return None
            at += len(raw)


def _not_text(place: Place, encoding: str, line: int, at: int) -> SourceError:
    is_default = codecs.lookup(encoding).name == "utf-8"
    what = "UTF-8" if is_default else encoding
    way = "Declare its encoding, e.g. encoding='cp1252', or save it as UTF-8." if is_default else "Correct encoding=, or the file."
    return SourceError(f"{place.uri}: line {line} is not {what} (at byte offset {at:,}). Nothing was sent. {way}", source=place.uri)


def check_no_nul(place: Place, head: bytes) -> None:
    """Passes if the text does not look like UTF-16 or UTF-32 without a byte order mark, which for English text is valid UTF-8.

    Raises:
        SourceError: every second byte at the beginning is NUL.
    """
    sample = head[:4096]
    for first, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        zeros = sample[first::2]
        if len(zeros) > 2 and zeros.count(0) * 2 > len(zeros):
            raise SourceError(
                f"{place.uri}: every second byte is NUL: this is UTF-16 without its mark, not UTF-8. Nothing was sent. "
                f"Declare encoding='{name}', or save it as UTF-8.",
                source=place.uri,
            )


def line_at(place: Place, encoding: str | None, byte: int) -> int:
    """The number of the line, counted from 1, that holds a byte of the text (as UTF-8)."""
    line = 1
    with closing(Text(place, encoding)) as text:
        while byte > 0 and (data := text.read(min(byte, TEXT_BLOCK))):
            line += data.count(b"\n") or data.count(b"\r")
            byte -= len(data)
    return line
