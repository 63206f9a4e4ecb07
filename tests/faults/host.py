"""Host: a server of the providers' shape that is not our emulator, and keeps to their wire only as far as some do.

Written by hand upon `http.server`, so that it shares no habit with the emulator.  A batch is done two minutes after its create, by the
test's clock; what it answered is on `paid`, by custom_id.  `quirks` names what is odd about it.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

QUIRKS = {
    "bare": "leaves out every field that is not id, status, created_at or a file's name",
    "nulls": "sends null for every field that is not id, status, created_at or a file's name",
    "extra": "sends fields nobody knows, nested",
    "millis": "tells time in unix milliseconds",
    "iso": "tells time in ISO 8601",
    "no_time": "tells no time",
    "no_has_more": "does not say whether a list goes on",
    "endless_list": "ignores `after` and `limit`, and says that there is always more",
    "oldest_first": "lists the oldest first, two a page",
    "null_list": "says null for an empty list",
    "accepted": "answers 202 to a create and 201 to an upload",
    "chunked": "sends no content-length",
    "inline": "has errors stand in the output file, beside the answers",
    "late_output": "names the output file only some minutes after `completed`",
    "odd_ids": "makes ids with slashes, spaces, signs and letters beyond ASCII",
    "no_metadata": "keeps no metadata",
    "text_errors": "fails now and then, in plain text",
    "html_errors": "fails now and then, in HTML",
    "empty_errors": "fails now and then, without a body",
    "list_errors": "fails now and then, with a list",
    "ok_errors": "fails now and then, with status 200 and the error in the body",
    "loses_create": "does a create and closes the connection",
    "loses_creates": "never answers a create, and does none of them",
    "odd_create": "answers a create with something that is no batch",
    "no_delete": "answers every removal of a file with 500",
    "no_delete_at_all": "answers every removal of a file with 405",
    "upper": "spells its statuses in capitals",
    "numbers": "numbers its batches and files, as JSON numbers",
    "grows": "gives only the first half of the results until 40 s after the end",
    "shuffles": "writes the results in another order for each request, and breaks off the first one in the middle",
    "list_404": "has no list of batches",
    "odd_lines": "has lines of odd types in its results: numbers for text, text for numbers, nulls, a list, huge numbers",
}
_ERRORS: dict[str, tuple[int, str, bytes]] = {
    "text_errors": (503, "text/plain", b"upstream connect error or disconnect/reset before headers"),
    "html_errors": (502, "text/html", b"<html><h1>502 Bad Gateway</h1></html>"),
    "empty_errors": (500, "application/json", b""),
    "list_errors": (500, "application/json", b'[{"error":{"code":500,"message":"internal"}}]'),
    "ok_errors": (200, "application/json", b'{"error":{"message":"overloaded","type":"overloaded_error"}}'),
}
_DONE, _NAMED = timedelta(minutes=2), timedelta(minutes=5)


class Host:
    """The server's memory; one at a time is served by `serving`."""

    def __init__(self, *quirks: str, clock: Callable[[], datetime]) -> None:
        assert set(quirks) <= set(QUIRKS)
        self.quirks, self.clock = frozenset(quirks), clock
        self.files: dict[str, bytes] = {}
        self.outputs: dict[str, dict[str, Any]] = {}  # the batches by the names of their results
        self.batches: dict[str, dict[str, Any]] = {}
        self.calls: list[tuple[str, str]] = []
        self.lock = threading.Lock()
        self.url = ""

    @property
    def creates(self) -> int:
        return sum(method == "POST" and path.endswith("/batches") for method, path in self.calls)

    def name(self, kind: str) -> str:
        n = len(self.files) + len(self.batches)
        if "numbers" in self.quirks:
            return str(70_000_000_000 + n)
        return f"{kind}/é {n}?a=b#c%2F.." if "odd_ids" in self.quirks else f"{kind}-{n}"

    def time(self, at: datetime) -> Any:
        if "no_time" in self.quirks:
            return None
        if "iso" in self.quirks:
            return at.isoformat()
        return int(at.timestamp() * (1000 if "millis" in self.quirks else 1))

    def make(self, custom_ids: list[str], **more: Any) -> dict[str, Any]:
        batch = {"id": self.name("batch"), "at": self.clock() + timedelta(seconds=len(self.batches)), "rows": custom_ids, **more}
        self.batches[batch["id"]] = batch
        return batch

    @property
    def paid(self) -> Counter[str]:
        """What is on the bill, by custom_id: every row of every batch that was made."""
        return Counter(custom_id for batch in self.batches.values() for custom_id in batch["rows"])

    def results(self, batch: dict[str, Any], line: Callable[[int, str], bytes]) -> tuple[bytes, bool]:
        """The results as they are at this moment, without a newline at the end; and whether their first half is all that is sent."""
        lines = [line(n, custom_id) for n, custom_id in enumerate(batch["rows"])]
        if "grows" in self.quirks and self.clock() < batch["at"] + _DONE + timedelta(seconds=40):
            lines = lines[: len(lines) // 2]
        batch["reads"] = batch.get("reads", 0) + 1
        if "shuffles" not in self.quirks:
            return b"\n".join(lines), False
        turn = batch["reads"] * 2 % max(len(lines), 1)
        return b"\n".join([*lines[turn:], *lines[:turn]]), batch["reads"] == 1

    def is_done(self, batch: dict[str, Any]) -> bool:
        return bool(self.clock() >= batch["at"] + _DONE)

    def is_named(self, batch: dict[str, Any]) -> bool:
        return bool(self.clock() >= batch["at"] + (_NAMED if "late_output" in self.quirks else _DONE))

    def shaped(self, told: dict[str, Any], *kept: str) -> dict[str, Any]:
        """An object as this host likes to send it."""
        optional = [name for name in told if name not in kept]
        if "bare" in self.quirks:
            told = {name: value for name, value in told.items() if name in kept and value is not None}
        if "nulls" in self.quirks:
            told = {name: None if name in optional else value for name, value in told.items()}
        if "numbers" in self.quirks:
            told = {name: int(value) if isinstance(value, str) and value.isdigit() else value for name, value in told.items()}
        if "extra" in self.quirks:
            told |= {"x_shard": [1, {"a": None}], "object": {"kind": 7}, "usage": "none", "expires_at": -1}
        return told


class OpenAIHandler(BaseHTTPRequestHandler):
    """`/v1/files` and `/v1/batches`, more or less."""

    protocol_version = "HTTP/1.1"
    host: Host

    def log_message(self, *_: Any) -> None:
        pass

    # -- in

    def do_GET(self) -> None:
        self._do("GET")

    def do_POST(self) -> None:
        self._do("POST")

    def do_DELETE(self) -> None:
        self._do("DELETE")

    def _do(self, method: str) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length") or 0)) if not self._is_chunked else self._chunks()
        with self.host.lock:
            self.host.calls.append((method, parts.path))
            if self._fails(method):
                return
            self.route(
                method, [unquote(part) for part in parts.path.split("/")[1:]], {k: v[0] for k, v in parse_qs(parts.query).items()}, body
            )

    @property
    def _is_chunked(self) -> bool:
        return self.headers.get("transfer-encoding", "") == "chunked"

    def _chunks(self) -> bytes:
        whole = b""
        while size := int(self.rfile.readline(), 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    def _fails(self, method: str) -> bool:
        """Every third harmless call fails, for hosts that do."""
        for quirk, (status, kind, body) in _ERRORS.items():
            if quirk in self.host.quirks and method == "GET" and len(self.host.calls) % 3 == 1:
                self.send(status, body, kind)
                return True
        return False

    # -- out

    def send(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        if "chunked" in self.host.quirks:
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for n in range(0, len(body), 100):
                piece = body[n : n + 100]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def tell(self, told: Any, status: int = 200) -> None:
        self.send(status, json.dumps(told).encode())

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()

    def missing(self) -> None:
        self.tell({"error": {"message": "no such thing", "code": "not_found"}}, 404)

    # -- the routes

    def route(self, method: str, path: list[str], query: dict[str, str], body: bytes) -> None:
        match method, path[1:]:
            case "POST", ["files"]:
                self.upload(body)
            case "GET", ["files", _]:
                self.missing()  # it does not say how large a file is
            case "GET", ["files", name, "content"] if name in self.host.outputs:
                self.send_results(self.host.outputs[name])
            case "DELETE", ["files", name]:
                self.remove(name)
            case "POST", ["batches"]:
                self.create(json.loads(body))
            case "GET", ["batches"] if "list_404" not in self.host.quirks:
                self.list(query)
            case "GET", ["batches", name] if name in self.host.batches:
                self.tell(self.told(self.host.batches[name]))
            case _:
                self.missing()

    def upload(self, body: bytes) -> None:
        content = body.split(b"\r\n\r\n", 2)
        lines = next(part for part in content if b'{"custom_id"' in part).split(b"\r\n--", 1)[0]
        name = self.host.name("file")
        self.host.files[name] = lines
        self.tell(
            self.host.shaped({"id": name, "bytes": len(lines), "purpose": "batch"}, "id"), 201 if "accepted" in self.host.quirks else 200
        )

    def remove(self, name: str) -> None:
        if "no_delete" in self.host.quirks:
            self.tell({"error": {"message": "not today", "code": "internal"}}, 500)
        elif "no_delete_at_all" in self.host.quirks:
            self.tell({"error": {"message": "no", "code": "method_not_allowed"}}, 405)
        else:
            self.host.files.pop(name, None)
            self.tell({"id": name, "deleted": True})

    def send_results(self, batch: dict[str, Any]) -> None:
        whole, is_cut = self.host.results(batch, self.line)
        begin = int((self.headers.get("range") or "bytes=0-")[6:].partition("-")[0]) if "shuffles" in self.host.quirks else 0
        if is_cut:
            self.send_response(200)
            self.send_header("content-length", str(len(whole)))
            self.end_headers()
            self.wfile.write(whole[: len(whole) * 3 // 5])
            self.hang_up()
        else:
            self.send(206 if begin else 200, whole[begin:], "application/octet-stream")

    def create(self, asked: dict[str, Any]) -> None:
        if "loses_creates" in self.host.quirks:
            self.hang_up()
            return
        lines = [json.loads(line) for line in self.host.files[asked["input_file_id"]].splitlines()]
        batch = self.host.make([line["custom_id"] for line in lines], input=asked["input_file_id"], metadata=asked.get("metadata"))
        lost = self.host.creates == 1
        if "loses_create" in self.host.quirks and lost:
            self.hang_up()
        elif "odd_create" in self.host.quirks and lost:
            self.tell({"status": "queued", "message": "your batch was accepted"})
        else:
            self.tell(self.told(batch), 202 if "accepted" in self.host.quirks else 200)

    def list(self, query: dict[str, str]) -> None:
        quirks = self.host.quirks
        batches = list(self.host.batches.values())
        if "oldest_first" not in quirks:
            batches.reverse()
        size = 2 if "oldest_first" in quirks or "no_has_more" in quirks else int(query.get("limit", 20))
        if "endless_list" in quirks:
            self.tell({"data": [self.told(batch) for batch in batches], "has_more": True})
            return
        names = [batch["id"] for batch in batches]
        start = names.index(query["after"]) + 1 if query.get("after") in names else 0
        page = [self.told(batch) for batch in batches[start : start + size]]
        told = {"object": "list", "data": page or (None if "null_list" in quirks else []), "has_more": start + size < len(batches)}
        if "no_has_more" in quirks:
            del told["has_more"]
        self.tell(told)

    def told(self, batch: dict[str, Any]) -> dict[str, Any]:
        done, named = self.host.is_done(batch), self.host.is_named(batch)
        status = "completed" if done else "in_progress"
        told = {
            "id": batch["id"],
            "status": status.upper() if "upper" in self.host.quirks else status,
            "created_at": self.host.time(batch["at"]),
            "output_file_id": self.output(batch) if named else None,
            "error_file_id": "",
            "errors": [],
            "input_file_id": batch["input"],
            "request_counts": {"total": len(batch["rows"]), "completed": len(batch["rows"]) if done else 0, "failed": 0},
            "metadata": None if "no_metadata" in self.host.quirks else batch["metadata"],
        }
        return self.host.shaped(told, "id", "status", "created_at", "output_file_id", "metadata")

    def output(self, batch: dict[str, Any]) -> str:
        name = str(int(batch["id"]) + 1_000) if "numbers" in self.host.quirks else f"{batch['id']}-output"
        self.host.outputs[name] = batch
        return name

    def line(self, n: int, custom_id: str) -> bytes:
        message = {"role": "assistant", "content": f"answer {n}"}
        body: dict[str, Any] = {"choices": [{"message": message}]}
        told: dict[str, Any] = {"custom_id": custom_id, "response": {"status_code": 200, "body": body}}
        if "bare" not in self.host.quirks:
            body |= {"model": "m", "usage": {"prompt_tokens": 10, "completion_tokens": 5}}
        if "nulls" in self.host.quirks:
            body |= {"usage": None, "model": None}
            told["error"] = None
        if "extra" in self.host.quirks:
            message["content"] = [{"type": "text", "text": f"answer {n}", "annotations": [{}]}]  # type: ignore[assignment]
            told |= {"id": 12, "x": [[]], "error": {}}
        if "inline" in self.host.quirks and n < 2:
            told = {"custom_id": custom_id, "response": None, "error": {"code": 500, "message": "worker died"}}
            told = told if n else {"custom_id": custom_id, "response": {"status_code": 400, "body": {"error": "bad prompt"}}, "error": None}
        if "odd_lines" in self.host.quirks:
            odd = [
                {"usage": {"prompt_tokens": "10", "completion_tokens": 5.0}}, {"usage": []}, {"model": 7, "usage": {"prompt_tokens": 10**30}},
                {"usage": {"prompt_tokens": -5, "completion_tokens": None}}, {"choices": [{"message": message, "index": "0", "logprobs": 1e308}]},
                {"model": None},
            ][n % 6]  # fmt: skip
            body |= odd
        return json.dumps(told).encode()


class AnthropicHandler(OpenAIHandler):
    """`/v1/messages/batches`, more or less."""

    def route(self, method: str, path: list[str], query: dict[str, str], body: bytes) -> None:
        match method, path[3:]:
            case "POST", []:
                self.create(json.loads(body))
            case "GET", [] if "list_404" not in self.host.quirks:
                self.list({"limit": query.get("limit", "20"), "after": query.get("after_id", "")})
            case "GET", [name] if name in self.host.batches:
                self.tell(self.told(self.host.batches[name]))
            case "GET", [name, "results"] if name in self.host.batches:
                self.send_results(self.host.batches[name])
            case _:
                self.missing()

    def create(self, asked: dict[str, Any]) -> None:
        if "loses_creates" in self.host.quirks:
            self.hang_up()
            return
        batch = self.host.make([request["custom_id"] for request in asked["requests"]])
        if "loses_create" in self.host.quirks and self.host.creates == 1:
            self.hang_up()
        elif "odd_create" in self.host.quirks and self.host.creates == 1:
            self.tell({"status": "queued"})
        else:
            self.tell(self.told(batch), 202 if "accepted" in self.host.quirks else 200)

    def told(self, batch: dict[str, Any]) -> dict[str, Any]:
        done, named = self.host.is_done(batch), self.host.is_named(batch)
        rows = len(batch["rows"])
        at = {"millis": int(batch["at"].timestamp() * 1000), "no_time": None}
        told = {
            "id": batch["id"],
            "processing_status": "ended" if done else "in_progress",
            "created_at": next((value for quirk, value in at.items() if quirk in self.host.quirks), batch["at"].isoformat()),
            "request_counts": {
                "processing": 0 if done else rows,
                "succeeded": rows if done else 0,
                "errored": 0,
                "canceled": 0,
                "expired": 0,
            },
            "results_url": f"{self.host.url}/v1/messages/batches/{batch['id']}/results"
            if named and "odd_ids" not in self.host.quirks
            else None,
            "cancel_initiated_at": None,
        }
        kept = ["id", "processing_status", "created_at", "results_url"] + (["request_counts"] if "loses_create" in self.host.quirks else [])
        return self.host.shaped(told, *kept)

    def line(self, n: int, custom_id: str) -> bytes:
        message: dict[str, Any] = {"content": [{"type": "text", "text": f"answer {n}"}]}
        if not {"bare", "nulls"} & self.host.quirks:
            message |= {"model": "m", "stop_reason": "end_turn", "usage": {"input_tokens": 10, "output_tokens": 5}}
        if "nulls" in self.host.quirks:
            message |= {"model": None, "stop_reason": None, "usage": None}
        if "odd_lines" in self.host.quirks:
            message["usage"] = [{"input_tokens": "10"}, [], {"input_tokens": 10**30}, {"input_tokens": -5}, None, {"cache_creation": None}][
                n % 6
            ]
        result: dict[str, Any] = {"type": "succeeded", "message": message}
        if "inline" in self.host.quirks and n < 2:
            result = {
                "type": "errored",
                "error": {"type": "api_error", "message": "flat"} if n else {"error": {"type": "invalid_request_error"}},
            }
        return json.dumps({"custom_id": custom_id, "result": result}).encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        pass  # a connection that it closed itself


@contextmanager
def serving(kind: str, host: Host) -> Iterator[Host]:
    """The host, at `host.url` while the context lasts."""
    base = {"openai": OpenAIHandler, "anthropic": AnthropicHandler}[kind]
    server = _Server(("127.0.0.1", 0), type("Handler", (base,), {"host": host}))
    host.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield host
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def long_ago(host: Host, count: int, rows: int) -> None:
    """Batches of somebody else's, made days before."""
    for n in range(count):
        batch = host.make([f"theirs-{n}-{row}" for row in range(rows)], input=f"theirs-{n}", metadata={"team": "theirs"})
        batch["at"] = datetime(2026, 11, 1, tzinfo=UTC) + timedelta(seconds=n)
