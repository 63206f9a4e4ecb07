"""Wire: HTTP/1.1 over plain sockets; requests are read whole, replies are sent well or badly.

Knows nothing of batches.  A reply that is never sent, or a byte at a time, is given up after a while by this side, so that no client hangs
for ever; that it had to be given up is noted in `endured`: a client with a time limit of its own has hung up before.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import BinaryIO
from urllib.parse import parse_qs, unquote, urlsplit

_REASONS = {
    200: "OK",
    206: "Partial Content",
    302: "Found",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    429: "Too Many Requests",
}


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came."""

    method: str
    target: str  # path and query, as they were sent
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    @property
    def path(self) -> list[str]:
        """The parts of the path, each unquoted."""
        return [unquote(part) for part in urlsplit(self.target).path.split("/")[1:]]

    @property
    def query(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.target).query).items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What is sent back, and how.

    Args:
        how: `whole`; `dropped`: the connection ends without a word; `half`: in the middle of the body; `never`: nothing is sent, and the
            connection stays open; `trickle`: the head, and the body a byte at a time; `trickled_head`: all of it so.
        length: the content-length to claim; None: the true one.
    """

    status: int = 200
    body: bytes = b""
    kind: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    how: str = "whole"
    length: int | None = None

    def head(self) -> bytes:
        length = len(self.body) if self.length is None else self.length
        lines = [
            f"HTTP/1.1 {self.status} {_REASONS.get(self.status, 'Whatever')}",
            f"content-type: {self.kind}",
            f"content-length: {length}",
        ]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


class Wire:
    """A server of one function.

    Args:
        answer: called for each request, in a thread of its connection.
        patience_s: how long a reply trickles or is withheld before this side gives up; a trickle would take twice as long to its end.
    """

    def __init__(self, answer: Callable[[Request], Reply], *, patience_s: float = 10.0) -> None:
        self._answer, self.patience_s = answer, patience_s
        self.endured = 0  # replies that a client waited for until this side gave up
        self.slow = 0  # replies that were begun to be trickled or withheld
        self._stopping = threading.Event()
        self._open: set[socket.socket] = set()
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, name="adversary", daemon=True).start()

    def close(self) -> None:
        """No connection goes on; who waits for a reply is hung up on."""
        self._stopping.set()
        for one in (self._socket, *list(self._open)):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError, ValueError), connection, connection.makefile("rb") as stream:
            while (request := read_request(stream)) is not None and not self._stopping.is_set():
                if not self._send(connection, self._answer(request)):
                    break
        self._open.discard(connection)

    def _send(self, connection: socket.socket, reply: Reply) -> bool:
        """Whether the connection can be used again."""
        head = reply.head()
        match reply.how:
            case "whole":
                connection.sendall(head + reply.body)
                return True
            case "dropped":
                return False
            case "half":
                connection.sendall(head + reply.body[: len(reply.body) // 2])
                return False
            case "never":
                self._sit_out(connection, b"")
                return False
            case "trickle":
                connection.sendall(head)
                self._sit_out(connection, reply.body)
                return False
            case "trickled_head":
                self._sit_out(connection, head + reply.body)
                return False
            case _:
                raise ValueError(reply.how)

    def _sit_out(self, connection: socket.socket, slowly: bytes) -> None:
        """Sends a byte now and then, and at last nothing any more, until the client or this side has had enough."""
        self.slow += 1
        left, pause_s = self.patience_s, 2 * self.patience_s / max(len(slowly), 100)
        while left > 0 and not self._stopping.is_set():
            if select.select([connection], [], [], pause_s)[0]:
                return  # it hung up: no client sends more while it waits for a reply
            left -= pause_s
            if slowly:
                connection.sendall(slowly[:1])
                slowly = slowly[1:]
        self.endured += not self._stopping.is_set()


def read_request(stream: BinaryIO) -> Request | None:
    """The next request of a connection; None where there is no more."""
    line = stream.readline(1 << 20)
    if not line.strip():
        return None
    method, target, _ = line.decode("latin-1").split(" ", 2)
    headers: dict[str, str] = {}
    while (line := stream.readline(1 << 20)).strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return Request(method, target, headers, _chunks(stream))
    return Request(method, target, headers, stream.read(int(headers.get("content-length") or 0)))


def _chunks(stream: BinaryIO) -> bytes:
    whole = b""
    while size := int(stream.readline().split(b";")[0], 16):
        whole += stream.read(size)
        stream.readline()
    while stream.readline().strip():
        pass
    return whole
