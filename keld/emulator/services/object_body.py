"""Object body: the bytes of an upload, taken off the wire into a file.

An AWS client may cut a body into chunks with a checksum behind the last one (`aws-chunked`,
docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming-trailers.html, Nov 2026); they are put together and the checksum is compared, as by the service.
"""

import base64
import hashlib
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from starlette.requests import Request

from ..error import ApiError


class _Sum(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def digest(self) -> bytes: ...


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


# Header (or trailer) -> what it is a checksum of; others (CRC32C, CRC64NVME) need code that the standard library does not have.
_SUMS: dict[str, Callable[[], _Sum]] = {
    "content-md5": hashlib.md5,
    "x-amz-checksum-crc32": _Crc32,
    "x-amz-checksum-sha1": hashlib.sha1,
    "x-amz-checksum-sha256": hashlib.sha256,
}


class _Chunks:
    """An `aws-chunked` body, put together as it arrives; `trailers` are complete when the body is."""

    def __init__(self) -> None:
        self.trailers: dict[str, str] = {}
        self.ended = False
        self._raw = bytearray()
        self._left = 0  # bytes of the present chunk that are still to come

    def feed(self, data: bytes) -> bytes:
        """The bytes of the object that are in `data`."""
        self._raw += data
        found = bytearray()
        while self._raw:
            if self._left:
                piece = self._raw[: self._left]
                del self._raw[: len(piece)]
                self._left -= len(piece)
                found += piece
                continue
            line, newline, rest = self._raw.partition(b"\r\n")
            if not newline:
                break
            self._raw = rest
            self._head(line.decode("latin-1"))
        return bytes(found)

    def _head(self, line: str) -> None:
        if self.ended:
            name, _, value = line.partition(":")
            if value:
                self.trailers[name.strip().lower()] = value.strip()
        elif line:  # else it is the end of the chunk before
            self._left = int(line.partition(";")[0], 16)
            self.ended = not self._left


async def receive(request: Request, path: Path) -> None:
    """Write the body of an upload to `path`.

    Raises:
        ApiError: it is not what its checksum says, or it is cut off.
        ClientDisconnect: the client went away before its end.
    """
    headers = request.headers
    signed = headers.get("x-amz-content-sha256", "")
    chunks = _Chunks() if "aws-chunked" in headers.get("content-encoding", "") or signed.startswith("STREAMING-") else None
    trailing = [name.strip().lower() for name in headers.get("x-amz-trailer", "").split(",")]
    sums: dict[str, _Sum] = {name: make() for name, make in _SUMS.items() if name in headers or name in trailing}
    with path.open("wb") as file:
        async for raw in request.stream():
            data = chunks.feed(raw) if chunks else raw
            file.write(data)
            for one in sums.values():
                one.update(data)
        size = file.tell()
    if chunks and (not chunks.ended or size != int(headers.get("x-amz-decoded-content-length", size))):
        raise ApiError(status=400, code="IncompleteBody", message="The request body terminated unexpectedly")
    _compare(sums, {**headers, **(chunks.trailers if chunks else {})})


def _compare(sums: Mapping[str, _Sum], said: Mapping[str, str]) -> None:
    for name, found in sums.items():
        if said.get(name) != base64.b64encode(found.digest()).decode():
            raise ApiError(status=400, code="BadDigest", message=f"The {name} you specified did not match the calculated checksum.")
