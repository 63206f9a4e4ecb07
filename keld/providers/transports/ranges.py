"""Ranges: a result file over HTTP, from any byte on.

A part of the transports whose results are files over HTTP.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import httpx2

from keld.providers.download import Broken, Piece

_DECOMPRESSED_BYTES = 1 << 20  # of a compressed body, decompressed at once


def range_headers(start: int, validator: str) -> dict[str, str]:
    """The headers of a request for a file from byte `start` on, if it still has `validator`."""
    # Identity: a Range counts the bytes that are sent, so a compressed file could not be resumed.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    return headers | ({"If-Range": validator} if start and validator else {})


def piece_of(response: httpx2.Response) -> Piece:
    """A reply whose body is not read yet, as a piece of the file."""
    return Piece(resumed=response.status_code == 206, validator=_validator(response.headers), chunks=_chunks(response))


def _validator(headers: httpx2.Headers) -> str:
    """A strong ETag, else the date; "" if neither is there."""
    tag = str(headers.get("etag", ""))
    return tag if tag and not tag.startswith("W/") else str(headers.get("last-modified", ""))


def _chunks(response: httpx2.Response) -> Iterator[bytes]:
    try:
        yield from _decompressed(response)
    except httpx2.TimeoutException as late:
        raise Broken(type(late).__name__, stalled=True) from late
    except (httpx2.HTTPError, zlib.error) as broken:
        raise Broken(type(broken).__name__) from broken


def _decompressed(response: httpx2.Response) -> Iterator[bytes]:
    """The body.  If it is compressed although identity was requested, it is decompressed one megabyte at a time: a decompression bomb would fill the memory.

    Other encodings were refused when the reply began (`http.check_encoding`).
    """
    if response.headers.get("content-encoding", "identity").strip().lower() in ("", "identity"):
        yield from response.iter_bytes()
        return
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)
    for raw in response.iter_raw():
        while raw and not inflater.eof:
            yield inflater.decompress(raw, _DECOMPRESSED_BYTES)
            raw = inflater.unconsumed_tail
