"""Slow server: a server on bare sockets that accepts and never answers, or sends head or body one byte at a time, without end.

It shares no line with the emulator, nor with any HTTP library: what it sends is written here.  `hurried` says which requests are answered at once.
"""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

SILENT, HEAD, BODY, ENDLESS, UNREAD = "silent", "head", "body", "endless", "unread"
MODES = {
    SILENT: "accepts, reads, and never answers",
    HEAD: "gives a header a byte at a time, for ever",
    BODY: "gives the body a byte at a time, for ever",
    ENDLESS: "gives a body without end, as fast as it goes",
    UNREAD: "never reads the request's body",
}
Answer = Callable[[str, str, bytes, bytes], bytes | None]  # (method, path, head, body) -> the reply's body, where it is answered at once


def never(method: str, path: str, head: bytes, body: bytes) -> bytes | None:
    return None


class SlowServer:
    """Counts what it was asked, by (method, path)."""

    def __init__(self, mode: str, answer: Answer = never) -> None:
        self.mode, self.answer = mode, answer
        self.asked: list[tuple[str, str]] = []
        self.over = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(0.05)
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while not self.over.is_set():
            with suppress(TimeoutError):
                connection, _ = self._listening.accept()
                connection.settimeout(0.05)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
        self._listening.close()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while not self.over.is_set() and (head := self._head(connection)):
                method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
                self.asked.append((method, path))
                if self.mode == UNREAD:
                    self.over.wait()
                    return
                body = self.answer(method, path, head, self._body(connection, head))
                if body is None:
                    self._dawdle(connection)
                    return
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    def _head(self, connection: socket.socket) -> bytes:
        head = b""
        while b"\r\n\r\n" not in head and not self.over.is_set():
            with suppress(TimeoutError):
                got = connection.recv(1)
                if not got:
                    return b""
                head += got
        return head

    def _body(self, connection: socket.socket, head: bytes) -> bytes:
        sizes = [int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        body = bytearray()
        while sizes and len(body) < sizes[0] and not self.over.is_set():
            with suppress(TimeoutError):
                got = connection.recv(65_536)
                if not got:
                    raise ConnectionError
                body += got
        return bytes(body)

    def _dawdle(self, connection: socket.socket) -> None:
        if self.mode == SILENT:
            self.over.wait()
        elif self.mode == HEAD:
            connection.sendall(b"HTTP/1.1 200 OK\r\nx-slow: ")
            self._trickle(connection)
        else:
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100000000000\r\n\r\n")
            if self.mode == BODY:
                self._trickle(connection)
            while not self.over.is_set():
                with suppress(TimeoutError):
                    connection.sendall(b" " * 65_536)

    def _trickle(self, connection: socket.socket) -> None:
        while not self.over.wait(0.02):
            connection.sendall(b"a")


@contextmanager
def slow_server(mode: str, answer: Answer = never) -> Iterator[SlowServer]:
    server = SlowServer(mode, answer)
    try:
        yield server
    finally:
        server.over.set()


class OneBatch:
    """As much of either provider as one batch needs: it is done as soon as it is looked at.

    `dawdles` says, by (method, route, head), which requests are not answered at once; routes are files, batches, batch, cancel and results.
    """

    def __init__(self) -> None:
        self.custom_ids: list[str] = []
        self.creates = 0
        self.dawdles: Callable[[str, str, bytes], bool] = lambda method, route, head: False
        self.dawdled = threading.Event()
        self.url = ""

    def answer(self, method: str, path: str, head: bytes, body: bytes) -> bytes | None:
        found = [one.decode() for one in re.findall(rb'"custom_id":"([^"]+)"', body)]
        self.custom_ids = found or self.custom_ids
        route = self._route(path.partition("?")[0])
        if self.dawdles(method, route, head):
            self.dawdled.set()
            return None
        if route == "results":
            return b"".join(map(self._line, self.custom_ids))
        self.creates += (method, route) == ("POST", "batches")
        named = re.search(r"batch_\d+", path)
        reply: object = self._batch(named[0] if named else f"batch_{self.creates}")
        if (method, route) == ("GET", "batches"):
            reply = {"data": [reply] if self.creates else [], "has_more": False}
        elif route == "files":
            reply = {"id": "file-1", "deleted": True}
        return json.dumps(reply).encode()

    @staticmethod
    def _route(path: str) -> str:
        for ending, route in (("/content", "results"), ("/results", "results"), ("/cancel", "cancel"), ("/batches", "batches")):
            if path.endswith(ending):
                return route
        return "files" if "/files" in path else "batch"

    def _batch(self, name: str) -> dict[str, object]:
        n = len(self.custom_ids)
        openai = {"status": "completed", "output_file_id": "file-2", "input_file_id": "file-1"}
        anthropic = {"processing_status": "ended", "results_url": f"{self.url}/v1/messages/batches/{name}/results"}
        counts = {"total": n, "completed": n, "failed": 0, "processing": 0, "succeeded": n, "errored": 0, "canceled": 0, "expired": 0}
        return {"id": name, "created_at": datetime.now(UTC).isoformat(), "request_counts": counts, **openai, **anthropic}

    @staticmethod
    def _line(custom_id: str) -> bytes:
        body = {"choices": [{"message": {"content": "good"}}], "usage": {"prompt_tokens": 5, "completion_tokens": 1}}
        message = {
            "content": [{"type": "text", "text": "good"}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 5, "output_tokens": 1},
        }
        line = {"custom_id": custom_id, "response": {"status_code": 200, "body": body}, "result": {"type": "succeeded", "message": message}}
        return json.dumps(line).encode() + b"\n"


@contextmanager
def one_batch(mode: str = BODY) -> Iterator[tuple[OneBatch, SlowServer]]:
    made = OneBatch()
    with slow_server(mode, made.answer) as server:
        made.url = server.url
        yield made, server
