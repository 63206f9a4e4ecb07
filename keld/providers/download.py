"""Download: a result file, complete and on disk, however often the connection breaks.

Beside `base`; the same for a file over HTTP and for an object of a store, which differ only in how they are opened.  Bytes are written at once to a
`.part` file, one for each download, which is kept between tries: an interrupted download continues where it stopped, also in another process
later.  A result that was paid for is never held only in memory.

The rest of a file may be appended only if it is of the same file, byte by byte: a host that writes its rows in another order for each request would
otherwise give a mixture, with rows missing, or one row's answer under another's id.  So the rest is requested from a little before the end of what
we have, and must begin with the same bytes; the validators (ETag, version, date) must agree, if there are any.  Before rows are declared lost the
file is fetched `again`: in one piece, or in pieces that a validator proves to belong to one file.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import msgspec

from keld.errors import ProviderUnreachable
from keld.failpoint import failpoint
from keld.providers.fault import Fault
from keld.staging import fsync_dir

log = logging.getLogger("keld")

TRIES = 4
_BUFFER = 1 << 20
_CUT_OFF, _STALLED, _SHORT = "it is larger than it can be", "it stalled", "it ended too early"
_OVERLAP = 512  # bytes that are fetched twice: fewer than two of the shortest answers have, and enough for the id of one


class ResultFile(msgspec.Struct, frozen=True, kw_only=True):
    """One result file or object of a batch.

    Args:
        id: its name at the provider.
        what: the file's name for people, in errors; its digest is in the names of its parts.
        size_bytes, lines: its least size and number of lines, if the provider says so.
    """

    id: str
    what: str
    size_bytes: int | None = None
    lines: int | None = None

    def looks_whole(self, part: Path) -> bool:
        """True if a file whose stream came to its end looks complete."""
        sized = not self.size_bytes or part.stat().st_size >= self.size_bytes
        return ends_whole(part) and sized and (self.lines is None or _lines(part) + 1 >= self.lines)  # the last one may have no newline

    def is_proven_whole(self, part: Path) -> bool:
        """True if a file that may be cut off at any byte is complete for certain; a closing brace or a complete line proves nothing."""
        if self.size_bytes:
            return self.looks_whole(part)
        return self.lines is not None and _lines(part) >= self.lines


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """A result file from some byte on, as a stream.

    Args:
        resumed: it begins at the requested byte; else at the first one.
        validator: identifies this version of the file (a strong ETag, a version, a date); "" if the reply has none.
        chunks: the bytes; raises `Broken` if the stream breaks.
    """

    resumed: bool
    validator: str
    chunks: Iterator[bytes]


class Broken(Exception):
    """The stream broke; `stalled`: its time was over."""

    def __init__(self, why: str, *, stalled: bool = False) -> None:
        super().__init__(why)
        self.stalled = stalled


Open = Callable[[int, str], AbstractContextManager[Piece]]
"""(first byte, validator that it must have, or "") -> the file from that byte on; raises `Fault`."""


def download(open_piece: Open, file: ResultFile, path: Path, most_bytes: int, *, again: bool = False) -> Path:
    """The file at `path`, fsynced and renamed there once it looks whole.

    Args:
        open_piece: opens the file at the provider: by HTTP with a Range, or as an object of a store.
        most_bytes: more than all answers can have.  What is larger (a decompression bomb, an endless stream) is cut
            off there: rows whose lines came before are kept, the others are lost.
        again: use nothing that an earlier download left, and append a rest only if a validator proves that it belongs to the same file.

    Raises:
        ProviderUnreachable: it broke, or was a page of HTML, `TRIES` times, or it stalled; the bytes so far are kept for the next try.
        Fault: it could not be opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = _own_part(path, file.what)
    broken, identity = "", _FileIdentity(strict=again)
    if again:
        part.unlink(missing_ok=True)
    elif part.exists() and file.is_proven_whole(part):
        return _publish(part, path)  # an earlier worker died between the last byte and the rename
    for _ in range(TRIES):
        if part.exists() and (not _begins_as_lines(part) or (again and not identity.validator)):
            part.unlink()  # a proxy's page with status 200, or a beginning without proof: the rest must not be appended to it
        broken = _tried(open_piece, part, most_bytes, identity)
        if broken == _CUT_OFF:
            log.warning("download.cut_off what=%s bytes=%d", file.what, most_bytes)
            return _publish(part, path)
        if broken == _STALLED:
            break  # it has used its time; other work needs the rest
        if broken:
            continue
        if file.looks_whole(part):
            return _publish(part, path)
        broken = _SHORT
    if part.exists() and _is_page(part):
        part.unlink()
        broken = "a page of HTML instead of lines"  # however often it comes, it does not show which rows were answered and paid
    if broken == _SHORT:
        return _publish(part, path)  # the same end at each try: it is all that the provider has; missing rows are lost
    have = part.stat().st_size if part.exists() else 0
    raise ProviderUnreachable(f"The download of {file.what} was interrupted ({broken}). {have:,} bytes are kept; it continues later.")


def _tried(open_piece: Open, part: Path, most_bytes: int, identity: _FileIdentity) -> str:
    """What interrupted a try to fetch the rest; "" if it came to its end.

    Raises:
        OSError: our own disk.
        Fault: it could not be opened.
    """
    try:
        return "" if _append(open_piece, part, most_bytes, identity) else _CUT_OFF
    except (Fault, _OtherFile) as other:
        if isinstance(other, Fault) and other.status != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        part.unlink(missing_ok=True)  # our part is not the beginning of it; 416: the file is now shorter than our part
        return "its rest belongs to another file"
    except Broken as broken:
        return _STALLED if broken.stalled else str(broken)


@dataclass(slots=True)
class _FileIdentity:
    """The file that a download's bytes belong to, as far as the replies say."""

    strict: bool  # True: must be proven the same file; False: must not be proven another
    validator: str = ""

    def agrees(self, now: str) -> bool:
        """True if a reply is of the same file as the one before; remembers its validator."""
        before, self.validator = self.validator, now
        return before == now or (not self.strict and not (before and now))


class _OtherFile(Exception):
    """The rest belongs to another file than the beginning."""


def _own_part(path: Path, what: str) -> Path:
    """A new part file for this download, with the bytes of the largest earlier one of the same result file.

    Copied, since a paused worker may still have the earlier one open.  By result file, since a provider may list a batch's files in another order.
    """
    source = hashlib.sha256(what.encode()).hexdigest()[:8]
    part = path.with_name(f"{path.name}.{source}.{os.urandom(4).hex()}.part")
    largest = max(_parts(path, source), key=lambda one: one.stat().st_size, default=None)
    if largest is not None:
        shutil.copyfile(largest, part)
        largest.unlink(missing_ok=True)  # if its writer wakes up, it writes to a file that nobody reads
    return part


def _parts(path: Path, source: str = "*") -> list[Path]:
    return list(path.parent.glob(f"{path.name}.{source}.*.part"))


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))


def ends_whole(path: Path) -> bool:
    """True if the last line is complete: an empty file, a final newline, or a closing brace."""
    size = path.stat().st_size
    if not size:
        return True
    with path.open("rb") as file:
        file.seek(max(0, size - 16))
        return file.read().rstrip(b"\r ")[-1:] in (b"\n", b"}")


def _begins_as_lines(path: Path) -> bool:
    return _first(path) in (b"{", b"")


def _is_page(path: Path) -> bool:
    return _first(path) == b"<"


def _first(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]


def _append(open_piece: Open, part: Path, most_bytes: int, identity: _FileIdentity) -> bool:
    """True if the stream came to its end before `most_bytes`.

    Raises:
        _OtherFile: it belongs to another file than what we have.
    """
    have = part.stat().st_size if part.exists() else 0
    if have >= most_bytes:
        return False
    start = max(0, have - _OVERLAP)
    failpoint("download.request")
    with open_piece(start, identity.validator if start else "") as piece:
        resumed = start > 0 and piece.resumed
        if not identity.agrees(piece.validator) and resumed:
            raise _OtherFile
        chunks = _new_bytes(part, start, have, piece.chunks) if resumed else piece.chunks
        with part.open("ab" if resumed else "wb", buffering=_BUFFER) as file:
            written = have if resumed else 0
            # Chunks as they arrive: pieces of a fixed size would wait in memory, and be lost if the stream breaks.
            for chunk in chunks:
                written += file.write(chunk[: most_bytes - written])
                failpoint("download.chunk")
                if written >= most_bytes:
                    break
            file.flush()
            os.fsync(file.fileno())
    return written < most_bytes


def _new_bytes(part: Path, start: int, have: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The bytes that follow those that we have.

    Raises:
        _OtherFile: the bytes that were fetched twice differ.
    """
    with part.open("rb") as file:
        file.seek(start)
        known = file.read(have - start)
    for chunk in chunks:
        same = min(len(known), len(chunk))
        if chunk[:same] != known[:same]:
            raise _OtherFile
        known = known[same:]
        if chunk[same:]:
            yield chunk[same:]


def _publish(part: Path, path: Path) -> Path:
    failpoint("download.rename")
    part.replace(path)
    for other in _parts(path):
        other.unlink(missing_ok=True)
    fsync_dir(path.parent)
    return path
