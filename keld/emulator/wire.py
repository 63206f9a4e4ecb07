"""Wire: responses that break or slow a connection.

An ASGI application cannot hang up on its client, so the protocol class keeps the transports by peer address and these
responses close them.
"""

import asyncio
import contextlib
import zlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from .rule import Rule

Connections = dict[tuple[str, int], asyncio.Transport]
_CHUNK_BYTES = 1 << 20


def protocol_class(connections: Connections) -> type[asyncio.Protocol]:
    """Uvicorn's HTTP protocol, which also notes its transport in `connections`."""

    class NotingProtocol(AutoHTTPProtocol):  # type: ignore[valid-type,misc]  # httptools or h11, chosen at run time
        _peer: tuple[str, int]

        def connection_made(self, transport: asyncio.Transport) -> None:
            host, port = transport.get_extra_info("peername")[:2]
            self._peer = (str(host), int(port))
            connections[self._peer] = transport
            super().connection_made(transport)

        def connection_lost(self, error: Exception | None) -> None:
            connections.pop(self._peer, None)
            super().connection_lost(error)

    return NotingProtocol


class Download(FileResponse):
    """A file, with ranges; in larger pieces than usual, since each costs a trip to a thread."""

    chunk_size = _CHUNK_BYTES


class Drop(Response):
    """No response: the connection is closed."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _hang_up(scope, receive, at_once=True)


class Truncated(Response):
    """The head of a whole file, or of the rest that was asked for, the first bytes of its body, and a closed connection."""

    def __init__(self, path: Path, size_bytes: int, headers: Mapping[str, str]) -> None:
        super().__init__(media_type="application/octet-stream", headers=headers)
        self._path, self._size_bytes, self._own = path, size_bytes, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        whole = self._path.stat().st_size
        wanted = Headers(scope=scope).get("range", "")
        start, end = _range(wanted, whole)
        head = [(name.encode(), value.encode()) for name, value in self._own.items()]
        head += [(b"content-type", b"application/octet-stream"), (b"content-length", b"%d" % (end - start))]
        head += [(b"content-range", b"bytes %d-%d/%d" % (start, end - 1, whole))] if wanted else []
        await send({"type": "http.response.start", "status": 206 if wanted else 200, "headers": head})
        with self._path.open("rb") as file:
            file.seek(start)
            body = file.read(min(self._size_bytes, max(end - start - 1, 0)))
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await _hang_up(scope, receive, at_once=False)


def _range(wanted: str, whole: int) -> tuple[int, int]:
    """The first byte that is asked for, and the one behind the last; all of the file where no range is."""
    start, _, last = wanted.removeprefix("bytes=").partition("-")
    return int(start) if start.isdigit() else 0, min(int(last) + 1, whole) if last.isdigit() else whole


async def _hang_up(scope: Scope, receive: Receive, *, at_once: bool) -> None:
    connections: Connections = scope["app"].state.connections
    transport = connections.get(tuple(scope["client"]))
    if transport is not None:
        # abort() throws away what is still to be written, close() sends it first.
        transport.abort() if at_once else transport.close()
    with contextlib.suppress(Exception):
        while (await receive())["type"] != "http.disconnect":
            pass


def download(path: Path, media_type: str, rules: list[Rule], headers: Mapping[str, str] | None = None) -> Response:
    """The file's content, with the download faults applied; `headers` go with it, except where a fault replaces the whole reply."""
    own = dict(headers or {})
    for rule in rules:
        match rule.do:
            case "truncate" if rule.get("clean", False):
                return StreamingResponse(_pieces(path, int(rule.get("bytes", 1000))), headers=own, media_type=media_type)
            case "truncate":
                return Truncated(path, int(rule.get("bytes", 1000)), own)
            case "gzip_bomb":
                before = path if rule.get("after_lines", False) else None
                bomb = _zeros_compressed(int(rule.get("size_mb", 64)), before)
                return StreamingResponse(bomb, media_type=media_type, headers={"content-encoding": "gzip"})
            case "slow":
                pace = float(rule.get("bytes_per_s", 65536))
                return StreamingResponse(_dribble(path, pace), headers=own, media_type=media_type)
            case _:
                pass
    return Download(path, media_type=media_type, headers=own)


async def _pieces(path: Path, size_bytes: int) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        yield file.read(size_bytes)


async def _dribble(path: Path, bytes_per_s: float) -> AsyncIterator[bytes]:
    size = max(1, int(bytes_per_s / 10))
    with path.open("rb") as file:
        while piece := file.read(size):
            yield piece
            await asyncio.sleep(size / bytes_per_s)


async def _zeros_compressed(size_mb: int, before: Path | None) -> AsyncIterator[bytes]:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, 31)
    if before is not None:
        yield squeeze.compress(before.read_bytes())
    zeros = bytes(1_000_000)
    for _ in range(size_mb):
        yield squeeze.compress(zeros)
        await asyncio.sleep(0)
    yield squeeze.flush()
