"""Host: a server with the files and batches of OpenAI's API that answers at once, as cheaply as Python can; prints its address.

It stands in for the provider in `make bench`, in a process of its own: what a client costs is seen, and the server's share is the same small one
for all.  It checks nothing; that is the emulator's work.  Results are in another order than the requests, as at OpenAI.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any

from tests.benchmarks.ticket import result

_ID = re.compile(rb'"custom_id": ?"([^"]+)"')
_CHUNK = 1 << 20
_SHAPES = 500  # so many different answers, over and over


def answers_to(requests: Sequence[bytes]) -> bytes:
    """One result line for each custom_id in the parts of an input file, in another order."""
    dice = random.Random(11)
    made = ((n, json.dumps(result(dice, n, "X"))) for n in range(_SHAPES))
    shapes = [line.encode().split(b"X-%08d" % n) for n, line in made if '"status_code": 200' in line]  # without faults: no second round
    ids = [found for part in requests for found in _ID.findall(part)]
    dice.shuffle(ids)
    return b"".join([shapes[n % len(shapes)][0] + one + shapes[n % len(shapes)][1] + b"\n" for n, one in enumerate(ids)])


class Files:
    """What the server holds, for all its threads."""

    def __init__(self) -> None:
        self.inputs: dict[str, list[bytes]] = {}
        self.results: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.numbers = count()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    files = Files()

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
            # Cut at line ends, so that no id is cut in two.
            found = answers_to([b"".join(self.files.inputs.pop(asked["input_file_id"]))])
            self.files.results[f"out-{n}"] = found
            requests = found.count(b"\n")
            self.files.batches[f"batch-{n}"] = {
                "id": f"batch-{n}", "object": "batch", "endpoint": asked["endpoint"], "input_file_id": asked["input_file_id"], "completion_window": "24h",
                "status": "completed", "created_at": 1, "output_file_id": f"out-{n}", "metadata": asked.get("metadata"),
                "request_counts": {"total": requests, "completed": requests, "failed": 0},
            }  # fmt: skip
            self._say(self.files.batches[f"batch-{n}"])
        else:
            self._say({})

    def do_GET(self) -> None:
        path, _, _ = self.path.partition("?")
        last = path.rpartition("/")[2]
        if last == "content":
            self._send(self.files.results[path.split("/")[-2]])
        elif last == "batches":
            self._say({"object": "list", "data": list(self.files.batches.values())[::-1], "has_more": False})
        elif last in self.files.batches:
            self._say(self.files.batches[last])
        else:
            size = len(self.files.results.get(last, b""))
            self._say({"id": last, "object": "file", "bytes": size, "created_at": 1, "filename": "x", "purpose": "batch_output"})

    def do_DELETE(self) -> None:
        self._say({"id": self.path.rpartition("/")[2], "object": "file", "deleted": True})

    def _say(self, answer: dict[str, Any]) -> None:
        self._send(json.dumps(answer).encode(), "application/json")

    def _send(self, body: bytes, kind: str = "application/octet-stream") -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_port}/v1", flush=True)
    server.serve_forever()
