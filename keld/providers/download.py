"""Download: a result file, whole and durable, however often the connection breaks.

Beside `base`; the same for a file behind HTTP and for an object of a store, which only open it in their own way.  Bytes go straight to a `.part`
file, of one download alone, which is kept between tries: a broken download goes on where it stopped, also in another process tomorrow.  A
result that was paid for is never held only in memory.

The rest belongs behind a beginning only if both are of the same file, byte by byte: a host that writes its rows in another order for each request would
else give a mixture, with rows missing, or one row's answer under another's id.  So the rest is asked for from a little before the end of what is
there, and must begin with the same bytes; and the validators (ETag, version, date) must agree, where there are any.  Before rows are called lost the
file is fetched `again`: in one piece, or in pieces that a validator proves to be of one.
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

from keld.errors import ProviderUnreachable
from keld.failpoint import failpoint
from keld.providers.fault import Fault
from keld.staging import fsync_dir

log = logging.getLogger("keld")

TRIES = 4
_BUFFER = 1 << 20
_CUT_OFF, _STALLED = "it is larger than it can be", "it stalled"
_OVERLAP = 512  # bytes that are fetched twice: less than two answers of the shortest kind, and with the ids of one of them


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultFile:
    """One result file or object of a batch.

    Args:
        id: its name at the provider.
        what: the file as people call it: in errors, and in the names of its parts, as a digest.
        size_bytes, lines: how much of it there is at least, where the provider says so.
    """

    id: str
    what: str
    size_bytes: int | None = None
    lines: int | None = None

    def looks_whole(self, part: Path) -> bool:
        """Whether what a stream brought to its end is all there is."""
        sized = not self.size_bytes or part.stat().st_size >= self.size_bytes
        return ends_whole(part) and sized and (self.lines is None or _lines(part) + 1 >= self.lines)  # the last one may have no newline

    def is_proven_whole(self, part: Path) -> bool:
        """Whether a file that may be cut off at any byte is all there is; a closing brace or a whole line proves nothing."""
        if self.size_bytes:
            return self.looks_whole(part)
        return self.lines is not None and _lines(part) >= self.lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A result file from some byte on, as it comes.

    Args:
        resumed: it begins where it was asked to; else with the first byte.
        validator: what distinguishes this file's bytes from another's of the same name (a strong ETag, a version, a date); "" if nothing does.
        chunks: the bytes; raises `Broken` where they break off.
    """

    resumed: bool
    validator: str
    chunks: Iterator[bytes]


class Broken(Exception):
    """A stream that broke off; `stalled`: it had all the time it may have."""

    def __init__(self, why: str, *, stalled: bool = False) -> None:
        super().__init__(why)
        self.stalled = stalled


Open = Callable[[int, str], AbstractContextManager[Piece]]
"""(first byte, validator that it must have, or "") -> the file from there on; raises `Fault`."""


def download(open_piece: Open, file: ResultFile, path: Path, most_bytes: int, *, again: bool = False) -> Path:
    """The file at `path`, fsynced and renamed there once it looks whole.

    Args:
        open_piece: opens it at the provider: by HTTP with a Range, or as an object of a store.
        most_bytes: more than any answer to what was asked can weigh.  What unfolds beyond it (a compressed bomb, an endless stream) is cut
            off there: the rows whose lines came before stand, the others are told as lost.
        anew: nothing that an earlier download left is used, and no rest that is not proven to belong to its beginning by a validator.

    Raises:
        ProviderUnreachable: it broke off, or was a page of HTML, `TRIES` times, or it stalled; what came so far is kept for the next time.
        Fault: it could not be opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = _own_part(path, file.what)
    broken, of = "", _Of(strict=again)
    if again:
        part.unlink(missing_ok=True)
    elif part.exists() and file.is_proven_whole(part):
        return _publish(part, path)  # an earlier worker died between the last byte and the rename
    for _ in range(TRIES):
        if part.exists() and (not _begins_as_lines(part) or (again and not of.validator)):
            part.unlink()  # a proxy's page with status 200: the rest of the results does not belong behind it; nor an unproven rest
        broken = _tried(open_piece, part, most_bytes, of)
        if broken == _CUT_OFF:
            log.warning("download.cut_off what=%s bytes=%d", file.what, most_bytes)
            return _publish(part, path)
        if broken == _STALLED:
            break  # it has had its time; the other work has not
        if broken:
            continue
        if file.looks_whole(part):
            return _publish(part, path)
        broken = "it came to its end too early"
    if part.exists() and _is_page(part):
        part.unlink()
        broken = "a page of HTML instead of lines"  # however often: it says nothing of what was answered, and paid
    if broken == "it came to its end too early":
        return _publish(part, path)  # the same end, every time: it is what the provider has; missing rows are told as lost
    have = part.stat().st_size if part.exists() else 0
    raise ProviderUnreachable(f"The download of {file.what} broke off ({broken}). {have:,} bytes are kept; it goes on later.")


def _tried(open_piece: Open, part: Path, most_bytes: int, of: _Of) -> str:
    """What broke off a try to bring the rest; "" if it came to its end.

    Raises:
        OSError: our own disk.
        Fault: it could not be opened.
    """
    try:
        return "" if _append(open_piece, part, most_bytes, of) else _CUT_OFF
    except (Fault, _Another) as other:
        if isinstance(other, Fault) and other.status != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        part.unlink(missing_ok=True)  # what we have is not its beginning; at 416 it has become shorter than that
        return "its rest is of another file"
    except Broken as broken:
        return _STALLED if broken.stalled else str(broken)


@dataclass(slots=True)
class _Of:
    """Which file the bytes of a download are of, as far as the replies say."""

    strict: bool  # it must be proven to be the same; else it must not be proven to be another
    validator: str = ""

    def agrees(self, now: str) -> bool:
        """Whether a reply is of the same file as the one before; remembers it."""
        before, self.validator = self.validator, now
        return before == now or (not self.strict and not (before and now))


class _Another(Exception):
    """The rest of a file is not of the file that its beginning is of."""


def _own_part(path: Path, what: str) -> Path:
    """A file of this download's own, with what earlier ones of the same have; copied, since one of them may be asleep with its file still open.

    Of the same: a provider may name a batch's error file first, and one with answers before it the next time.
    """
    source = hashlib.sha256(what.encode()).hexdigest()[:8]
    part = path.with_name(f"{path.name}.{source}.{os.urandom(4).hex()}.part")
    largest = max(_parts(path, source), key=lambda one: one.stat().st_size, default=None)
    if largest is not None:
        shutil.copyfile(largest, part)
        largest.unlink(missing_ok=True)  # asleep or dead, its writer writes to nobody's file any more
    return part


def _parts(path: Path, source: str = "*") -> list[Path]:
    return list(path.parent.glob(f"{path.name}.{source}.*.part"))


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))


def ends_whole(path: Path) -> bool:
    """Whether the last line is a whole one: empty file, a final newline, or a closing brace."""
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


def _append(open_piece: Open, part: Path, most_bytes: int, of: _Of) -> bool:
    """Whether the stream came to its end before `most_bytes`.

    Raises:
        _Another: it is of another file than what is there.
    """
    have = part.stat().st_size if part.exists() else 0
    if have >= most_bytes:
        return False
    start = max(0, have - _OVERLAP)
    failpoint("download.request")
    with open_piece(start, of.validator if start else "") as piece:
        resumed = start > 0 and piece.resumed
        if not of.agrees(piece.validator) and resumed:
            raise _Another
        chunks = _behind(part, start, have, piece.chunks) if resumed else piece.chunks
        with part.open("ab" if resumed else "wb", buffering=_BUFFER) as file:
            written = have if resumed else 0
            # As they come: pieces of a fixed size would be gathered in memory, and lost where the stream breaks off.
            for chunk in chunks:
                written += file.write(chunk[: most_bytes - written])
                failpoint("download.chunk")
                if written >= most_bytes:
                    break
            file.flush()
            os.fsync(file.fileno())
    return written < most_bytes


def _behind(part: Path, start: int, have: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """What comes behind the bytes that are there.

    Raises:
        _Another: those that were fetched twice are not the same.
    """
    with part.open("rb") as file:
        file.seek(start)
        known = file.read(have - start)
    for chunk in chunks:
        same = min(len(known), len(chunk))
        if chunk[:same] != known[:same]:
            raise _Another
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
