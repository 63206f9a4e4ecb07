"""Ranges: a result file behind HTTP, from any byte on.

A part of the transports whose results are files behind HTTP.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import httpx2

from keld.providers.download import Broken, Piece

_UNFOLDED_BYTES = 1 << 20  # at once, of what came compressed


def range_headers(start: int, validator: str) -> dict[str, str]:
    """The headers that ask for a file from byte `start` on, if it still has `validator`."""
    # Identity: a Range counts the bytes that are sent, so a compressed one could not be resumed.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    return headers | ({"If-Range": validator} if start and validator else {})


def piece_of(response: httpx2.Response) -> Piece:
    """A reply, opened and not yet read, as a piece of the file."""
    return Piece(resumed=response.status_code == 206, validator=_validator(response.headers), chunks=_chunks(response))


def _validator(headers: httpx2.Headers) -> str:
    """A strong ETag, else the date; "" if neither is there."""
    tag = str(headers.get("etag", ""))
    return tag if tag and not tag.startswith("W/") else str(headers.get("last-modified", ""))


def _chunks(response: httpx2.Response) -> Iterator[bytes]:
    try:
        yield from _unfolded(response)
    except httpx2.TimeoutException as late:
        raise Broken(type(late).__name__, stalled=True) from late
    except (httpx2.HTTPError, zlib.error) as broken:
        raise Broken(type(broken).__name__) from broken


def _unfolded(response: httpx2.Response) -> Iterator[bytes]:
    """The body.  What comes compressed, though identity was asked for, unfolds a megabyte at a time: a bomb, or one in another, would fill the memory.

    Another encoding than these was refused when the reply began (`http.check_encoding`).
    """
    if response.headers.get("content-encoding", "identity").strip().lower() in ("", "identity"):
        yield from response.iter_bytes()
        return
    unfold = zlib.decompressobj(zlib.MAX_WBITS | 32)
    for raw in response.iter_raw():
        while raw and not unfold.eof:
            yield unfold.decompress(raw, _UNFOLDED_BYTES)
            raw = unfold.unconsumed_tail
