"""Host: a server with the files and batches of OpenAI's API that answers at once, as cheaply as Python can; prints its address.

It stands in for the provider in `make bench`, in a process of its own: what a client costs is seen, and the server's share is the same small one
for all.  It checks nothing; that is the emulator's work.  Results are in another order than the requests, as at OpenAI.  Started with the word
`waiting`, its batches stay in progress.
"""

from __future__ import annotations

import json
import random
import re
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count, cycle
from typing import Any
from urllib.parse import parse_qs

from tests.benchmarks.ticket import result

_ID = re.compile(rb'"custom_id": ?"([^"]+)"')
_CHUNK = 1 << 20
_SHAPES = 500  # so many different answers, over and over


def shapes() -> list[tuple[bytes, bytes]]:
    """What stands before and after the custom_id in some hundred different result lines, all answered: a fault would make a second round."""
    dice = random.Random(11)
    lines = ((n, json.dumps(result(dice, n, "X")).encode() + b"\n") for n in range(_SHAPES))
    return [(found[0], found[1]) for n, line in lines if b'"status_code": 200' in line and len(found := line.split(b"X-%08d" % n)) == 2]


class Results:
    """The answers to one batch in another order than its requests; made as they are sent, so that the server's memory does not grow with them."""

    def __init__(self, requests: bytes) -> None:
        self.ids = _ID.findall(requests)
        random.Random(11).shuffle(self.ids)
        around = _AROUND
        self.size_bytes = sum(map(len, self.ids)) + sum(len(a) + len(b) for a, b in (around[n % len(around)] for n in range(len(self.ids))))

    def pieces(self) -> Iterator[bytes]:
        count = len(_AROUND)
        for start in range(0, len(self.ids), 10 * count):
            pairs = zip(cycle(_AROUND), self.ids[start : start + 10 * count], strict=False)
            yield b"".join([part for (head, tail), one in pairs for part in (head, one, tail)])


_AROUND = shapes()


class Files:
    """What the server holds, for all its threads."""

    def __init__(self) -> None:
        self.inputs: dict[str, list[bytes]] = {}
        self.results: dict[str, Results] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.numbers = count()
        self.calls = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    files = Files()
    waiting = "waiting" in sys.argv

    def log_message(self, *_: object) -> None: ...

    def do_POST(self) -> None:
        left, parts = int(self.headers["content-length"]), []
        while left:
            parts.append(self.rfile.read(min(left, _CHUNK)))
            left -= len(parts[-1])
        n = next(self.files.numbers)
        if self.path.endswith("/files"):
            self.files.inputs[f"file-{n}"] = parts
            self._say({"id": f"file-{n}", "object": "file", "bytes": sum(map(len, parts)), "created_at": 1, "filename": "x", "purpose": "batch", "status": "processed"})  # fmt: skip
        elif self.path.endswith("/batches"):
            asked = json.loads(b"".join(parts))
            if self.waiting:
                self._say(self._in_progress(f"batch-{n}", asked))
                return
            found = self.files.results[f"out-{n}"] = Results(b"".join(self.files.inputs.pop(asked["input_file_id"])))
            requests = len(found.ids)
            self.files.batches[f"batch-{n}"] = {
                "id": f"batch-{n}", "object": "batch", "endpoint": asked["endpoint"], "input_file_id": asked["input_file_id"], "completion_window": "24h",
                "status": "completed", "created_at": 1, "completed_at": 2, "output_file_id": f"out-{n}", "metadata": asked.get("metadata"),
                "request_counts": {"total": requests, "completed": requests, "failed": 0},
            }  # fmt: skip
            self._say(self.files.batches[f"batch-{n}"])
        else:
            self._say({})

    def _in_progress(self, batch_id: str, asked: dict[str, Any]) -> dict[str, Any]:
        """A new batch, as large as OpenAI describes one."""
        now = int(time.time())
        empty = ("errors", "output_file_id", "error_file_id", "completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at")
        self.files.batches[batch_id] = {
            "id": batch_id, "object": "batch", "endpoint": asked["endpoint"], "input_file_id": asked["input_file_id"], "completion_window": "24h",
            "status": "in_progress", "created_at": now, "in_progress_at": now, "expires_at": now + 86_400, "finalizing_at": None,
            "metadata": asked.get("metadata"), "request_counts": {"total": 1, "completed": 0, "failed": 0}, **dict.fromkeys(empty),
        }  # fmt: skip
        return self.files.batches[batch_id]

    def _page(self, query: str) -> dict[str, Any]:
        """The newest batches, or those after one."""
        asked = parse_qs(query)
        newest = list(self.files.batches)[::-1]
        start = newest.index(asked["after"][0]) + 1 if "after" in asked else 0
        end = start + int(asked.get("limit", ["100"])[0])
        return {"object": "list", "data": [self.files.batches[one] for one in newest[start:end]], "has_more": end < len(newest)}

    def do_GET(self) -> None:
        self.files.calls += 1
        path, _, query = self.path.partition("?")
        last = path.rpartition("/")[2]
        if last == "calls":
            self._say({"calls": self.files.calls})
        elif last == "content":
            found = self.files.results[path.split("/")[-2]]
            self._head(found.size_bytes, "application/octet-stream")
            for piece in found.pieces():
                self.wfile.write(piece)
        elif last == "batches":
            self._say(self._page(query))
        elif last in self.files.batches:
            self._say(self.files.batches[last])
        else:
            size = self.files.results[last].size_bytes if last in self.files.results else 0
            self._say({"id": last, "object": "file", "bytes": size, "created_at": 1, "filename": "x", "purpose": "batch_output", "status": "processed"})  # fmt: skip

    def do_DELETE(self) -> None:
        self._say({"id": self.path.rpartition("/")[2], "object": "file", "deleted": True})

    def _say(self, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self._head(len(body), "application/json")
        self.wfile.write(body)

    def _head(self, size_bytes: int, kind: str) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(size_bytes))
        self.end_headers()


class Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Says nothing: a tool that has ended may close its connections without a word."""


if __name__ == "__main__":
    server = Server(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_port}/v1", flush=True)
    server.serve_forever()
