"""Download: a result file, whole and durable, however often the connection breaks.

Beside `base`.  Bytes go straight to a `.part` file, of one download alone, which is kept between tries: a broken download goes on where it stopped (HTTP
Range), also in another process tomorrow.  A result that was paid for is never held only in memory.

The rest belongs behind a beginning only if both are of the same file, byte by byte: a host that writes its rows in another order for each request would
else give a mixture, with rows missing, or one row's answer under another's id.  So the range begins a little before the end of what is there, and
must begin with the same bytes; and the validators (ETag, Last-Modified) must agree, where there are any.  Before rows are called lost the file is
fetched `anew`: in one piece, or in pieces that a validator proves to be of one.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from keld.errors import KeldError, ProviderRefused, ProviderUnreachable
from keld.failpoint import failpoint
from keld.providers.fault import code_of
from keld.staging import fsync_dir

log = logging.getLogger("keld")

TRIES = 4
_BUFFER = 1 << 20
_CUT_OFF, _STALLED = "it is larger than it can be", "it stalled"
_OVERLAP = 512  # bytes that are fetched twice: less than two answers of the shortest kind, and with the ids of one of them


def download(
    open_stream: Callable[[dict[str, str]], AbstractContextManager[Any]],
    path: Path,
    complete: Callable[[Path], bool],
    proven: Callable[[Path], bool],
    most_bytes: int,
    what: str,
    *,
    anew: bool = False,
) -> Path:
    """The file at `path`, fsynced and renamed there once `complete` says it is.

    Args:
        open_stream: given extra headers, opens the SDK's streaming response.
        complete: looks at what a stream brought to its end, and says whether it is all there.
        proven: whether it is all there, of a file that may be cut off at any byte; a closing brace or a whole line proves nothing.
        most_bytes: more than any answer to what was asked can weigh.  What unfolds beyond it (a compressed bomb, an endless stream) is cut
            off there: the rows whose lines came before stand, the others are told as lost.
        what: the file by its name at the provider: in errors, and in the names of its parts, as a digest.
        anew: nothing that an earlier download left is used, and no rest that is not proven to belong to its beginning by a validator.

    Raises:
        ProviderUnreachable: it broke off, or was a page of HTML, `TRIES` times, or it stalled; what came so far is kept for the next time.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = _own_part(path, what)
    broken, of = "", _Of(strict=anew)
    if anew:
        part.unlink(missing_ok=True)
    elif part.exists() and proven(part):
        return _publish(part, path)  # an earlier worker died between the last byte and the rename
    for _ in range(TRIES):
        if part.exists() and (not _begins_as_lines(part) or (anew and not of.validator)):
            part.unlink()  # a proxy's page with status 200: the rest of the results does not belong behind it; nor an unproven rest
        broken = _tried(open_stream, part, most_bytes, of)
        if broken == _CUT_OFF:
            log.warning("download.cut_off what=%s bytes=%d", what, most_bytes)
            return _publish(part, path)
        if broken == _STALLED:
            break  # it has had its time; the other work has not
        if broken:
            continue
        if complete(part):
            return _publish(part, path)
        broken = "it came to its end too early"
    if part.exists() and _is_page(part):
        part.unlink()
        broken = "a page of HTML instead of lines"  # however often: it says nothing of what was answered, and paid
    if broken == "it came to its end too early":
        return _publish(part, path)  # the same end, every time: it is what the provider has; missing rows are told as lost
    have = part.stat().st_size if part.exists() else 0
    raise ProviderUnreachable(f"The download of {what} broke off ({broken}). {have:,} bytes are kept; it goes on later.")


def _tried(open_stream: Callable[[dict[str, str]], AbstractContextManager[Any]], part: Path, most_bytes: int, of: _Of) -> str:
    """What broke off a try to bring the rest; "" if it came to its end.

    Raises:
        OSError, KeldError: our own disk, or a fault that the caller already put into words.
    """
    try:
        return "" if _append(open_stream, part, most_bytes, of) else _CUT_OFF
    except (ProviderRefused, _Another) as other:
        if isinstance(other, ProviderRefused) and other.status != 416:
            raise
        part.unlink(missing_ok=True)  # what we have is not its beginning; at 416 it has become shorter than that
        return "its rest is of another file"
    except (OSError, KeldError):
        raise
    except httpx2.TimeoutException:
        return _STALLED
    except _Unreadable as unreadable:
        return str(unreadable)
    except Exception as error:  # noqa: BLE001  the transport's own exceptions pass through the SDK's streams, whichever it is
        return type(error).__name__


@dataclass(slots=True)
class _Of:
    """Which file the bytes of a download are of, as far as the replies tell."""

    strict: bool  # it must be told to be the same; else it must not be told to be another
    validator: str = ""

    def agrees(self, headers: httpx2.Headers) -> bool:
        """Whether a reply is of the same file as the one before; remembers it."""
        told = _validator(headers)
        before, self.validator = self.validator, told
        return before == told or (not self.strict and not (before and told))


class _Another(Exception):
    """The rest of a file is not of the file that its beginning is of."""


class _Unreadable(Exception):
    """It came in a content-encoding that nobody asked for."""


def _validator(headers: httpx2.Headers) -> str:
    """What tells one file's bytes from another's: a strong ETag, else its date; "" if neither is told."""
    tag = str(headers.get("etag", ""))
    return tag if tag and not tag.startswith("W/") else str(headers.get("last-modified", ""))


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


def _append(open_stream: Callable[[dict[str, str]], AbstractContextManager[Any]], part: Path, most_bytes: int, of: _Of) -> bool:
    """Whether the stream came to its end before `most_bytes`.

    Raises:
        _Another: it is of another file than what is there.
    """
    have = part.stat().st_size if part.exists() else 0
    if have >= most_bytes:
        return False
    start = max(0, have - _OVERLAP)
    # Identity: a Range counts the bytes that are sent, so a compressed one could not be resumed.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    headers |= {"If-Range": of.validator} if start and of.validator else {}
    failpoint("download.request")
    with open_stream(headers) as stream:
        resumed = start > 0 and stream.status_code == 206
        if not of.agrees(_response(stream).headers) and resumed:
            raise _Another
        chunks = _unfolded(stream)
        if resumed:
            chunks = _behind(part, start, have, chunks)
        with part.open("ab" if resumed else "wb", buffering=_BUFFER) as file:
            written = have if resumed else 0
            # As they come: pieces of a wished size are gathered in the SDK, and what it has gathered is lost when it breaks off.
            for chunk in chunks:
                written += file.write(chunk[: most_bytes - written])
                failpoint("download.chunk")
                if written >= most_bytes:
                    break
            file.flush()
            os.fsync(file.fileno())
    return written < most_bytes


def _unfolded(stream: Any) -> Iterator[bytes]:
    """The body.  What comes compressed, though identity was asked for, unfolds a megabyte at a time: a bomb, or one in another, would fill the memory."""
    response = _response(stream)
    coding = response.headers.get("content-encoding", "identity").strip().lower()
    if coding == "identity":
        yield from stream.iter_bytes()
        return
    if coding not in ("gzip", "deflate"):
        raise _Unreadable(f"content-encoding {code_of(coding)}, which was not asked for and cannot be read")
    unfold = zlib.decompressobj(zlib.MAX_WBITS | 32)
    for raw in response.iter_raw():
        while raw and not unfold.eof:
            yield unfold.decompress(raw, _BUFFER)
            raw = unfold.unconsumed_tail


def _response(stream: Any) -> Any:
    return getattr(stream, "http_response", stream)


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
