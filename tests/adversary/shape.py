"""Shape: the wire of one vendor: which call a request is, and what a batch, a list, a line and an answer look like.

Written from the vendors' public pages.  A shape keeps nothing; the life of a batch, the bill and the habits are the host's.  Here are those of
OpenAI and Anthropic; `cloud` has the others.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tests.adversary.answerer import answer
from tests.adversary.mode import call_of
from tests.adversary.record import Batch, Purchase, Row
from tests.adversary.wire import Reply, Request

if TYPE_CHECKING:
    from tests.adversary.host import Host


class Shape:
    """What all shapes have in common; the defaults are OpenAI's.

    Attributes:
        base: what a client's base URL has behind the address of the server.
        model: the one that is asked.
        prefix: begins the id of a batch.
        least_rows: of a batch.
    """

    name = ""
    base = ""
    model = ""
    prefix = "batch_"
    least_rows = 1

    # -- what comes in ----------------------------------------------------------------------------------------

    def call_of(self, request: Request) -> tuple[str, str]:
        """Which call a request is (see `mode.CALLS`), and the id that it names."""
        return call_of(request)

    def carried_out(self, host: Host, request: Request, at: str, name: str) -> Reply | None:
        """The reply to a call that only this shape has, or has in its own way; None: the host carries it out."""
        return None

    def purchase(self, host: Host, request: Request) -> Purchase | None:
        """What a create asks for; None: its input is not there."""
        raise NotImplementedError

    def row(self, custom_id: str, body: dict[str, Any]) -> Row:
        """What is asked, and what is answered."""
        content = body["messages"][-1]["content"]
        prompt = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
        return row_of(custom_id, prompt, body, body.get("response_format", {}).get("json_schema", {}).get("schema"))

    def is_listed(self, request: Request, batch: Batch) -> bool:
        """Whether a list's filter lets a batch through."""
        return True

    def start_and_size(self, request: Request, names: list[str], after: str) -> tuple[int, int]:
        """Where a page of the list begins, and how long it is."""
        return names.index(after) + 1 if after in names else 0, int(request.query.get("limit") or 20)

    # -- what goes out ----------------------------------------------------------------------------------------

    def shown(self, host: Host, batch: Batch) -> dict[str, Any]:
        """A batch."""
        raise NotImplementedError

    def created(self, host: Host, batch: Batch) -> Reply:
        return told(self.shown(host, batch))

    def cancelled(self, host: Host, batch: Batch) -> Reply:
        return told(self.shown(host, batch))

    def renamed(self, shown: dict[str, Any], name: Any) -> dict[str, Any]:
        return shown | {"id": name}

    def page(self, shown: list[dict[str, Any]], names: list[str], *, more: bool, total: int) -> dict[str, Any]:
        """A page of the list; `names` are those of its batches."""
        ends = {"first_id": shown[0]["id"] if shown else None, "last_id": shown[-1]["id"] if shown else None}
        return {"object": "list", "data": shown, "has_more": more, **ends}

    def file(self, name: Any, size: int) -> dict[str, Any]:
        return {"id": name, "object": "file", "bytes": size, "purpose": "batch"}

    def removed(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "file", "deleted": True}

    def missing(self) -> Reply:
        return told({"type": "error", "error": {"type": "not_found_error", "code": "not_found", "message": "no such thing"}}, 404)

    def line(self, host: Host, batch: Batch, row: Row, *, answered: bool) -> dict[str, Any] | None:
        """A row's line in the results; None if it has none."""
        if not answered:
            return None
        response = {"status_code": 200, "request_id": "q", "body": self.answer(row)}
        return {"id": f"r-{row.custom_id}", "custom_id": row.custom_id, "response": response, "error": None}

    def left(self, host: Host, batch: Batch) -> bytes:
        """The error file: the rows that were not answered."""
        if "silent" in host.quirks or "fails" in host.quirks:
            return b""
        code = "batch_cancelled" if batch.cancelled_at is not None else "batch_expired"
        error = {"code": code, "message": "This request could not be executed."}
        rows = [row for row in batch.rows if row not in host.answered(batch)]
        return b"".join(json.dumps({"custom_id": row.custom_id, "response": None, "error": error}).encode() + b"\n" for row in rows)

    def answer(self, row: Row) -> dict[str, Any]:
        """The answer to one request."""
        usage = {
            "prompt_tokens": row.input_tokens,
            "completion_tokens": row.output_tokens,
            "total_tokens": row.input_tokens + row.output_tokens,
        }
        choice = {"index": 0, "message": {"role": "assistant", "content": row.said, "refusal": None}, "finish_reason": "stop"}
        return {"id": "c", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage}


class OpenAI(Shape):
    name, base, model = "openai", "/v1", "gpt-5-mini"

    def purchase(self, host: Host, request: Request) -> Purchase | None:
        asked = json.loads(request.body)
        content = host.files.get(str(asked["input_file_id"]))
        if content is None:
            return None
        lines = [json.loads(line) for line in content.split(b"\n") if line]
        rows = [self.row(line["custom_id"], line["body"]) for line in lines]
        return Purchase(rows, asked["endpoint"], str(asked["input_file_id"]), asked.get("metadata"))

    def shown(self, host: Host, batch: Batch) -> dict[str, Any]:
        ended, done, status = host.ended_at(batch), len(host.answered(batch)), host.status(batch)
        shown = {
            "id": host.id(batch.id), "object": "batch", "endpoint": batch.endpoint, "status": status, "completion_window": "24h",
            "created_at": self.time(host, batch.at), "completed_at": self.time(host, ended), "input_file_id": batch.input_id,
            "metadata": batch.metadata, "output_file_id": f"{batch.id}-output" if ended and done else None,
            "error_file_id": f"{batch.id}-errors" if ended and self.left(host, batch) else None,
            "errors": {"data": [{"code": "invalid_json_line", "message": "line 1", "line": 1}]} if status == "failed" else None,
            "request_counts": {"total": len(batch.rows), "completed": done, "failed": 0},
        }  # fmt: skip
        for quirk, name in (("no_metadata", "metadata"), ("no_input_id", "input_file_id"), ("no_counts", "request_counts")):
            if quirk in host.quirks:
                del shown[name]
        return shown

    def time(self, host: Host, at: datetime | None) -> Any:
        return None if at is None or "no_time" in host.quirks else int(at.timestamp())


class Anthropic(Shape):
    name, model, prefix = "anthropic", "claude-haiku-4-5", "msgbatch_"

    def purchase(self, host: Host, request: Request) -> Purchase | None:
        return Purchase([self.row(one["custom_id"], one["params"]) for one in json.loads(request.body)["requests"]], "/v1/messages")

    def row(self, custom_id: str, body: dict[str, Any]) -> Row:
        content = body["messages"][-1]["content"]
        prompt = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
        return row_of(custom_id, prompt, body, body.get("output_config", {}).get("format", {}).get("schema"))

    def shown(self, host: Host, batch: Batch) -> dict[str, Any]:
        ended, done, rows = host.ended_at(batch), len(host.answered(batch)), len(batch.rows)
        status = "canceling" if batch.cancelled_at is not None and "no_cancel" not in host.quirks else "in_progress"
        left = {"canceled": rows - done if batch.cancelled_at else 0, "expired": 0 if batch.cancelled_at else rows - done}
        shown = {
            "id": host.id(batch.id), "type": "message_batch", "processing_status": "ended" if ended else status, "created_at": stamp(host, batch.at),
            "ended_at": stamp(host, ended), "cancel_initiated_at": stamp(host, batch.cancelled_at),
            "request_counts": {"processing": 0 if ended else rows, "succeeded": done if ended else 0, "errored": 0, **(left if ended else {})},
            "results_url": f"{host.url}/v1/messages/batches/{quote(batch.id)}/results" if ended else None,
        }  # fmt: skip
        if "no_counts" in host.quirks:
            del shown["request_counts"]
        return shown

    def line(self, host: Host, batch: Batch, row: Row, *, answered: bool) -> dict[str, Any] | None:
        if answered:
            return {"custom_id": row.custom_id, "result": {"type": "succeeded", "message": self.answer(row)}}
        if "silent" in host.quirks:
            return None
        return {"custom_id": row.custom_id, "result": {"type": "canceled" if batch.cancelled_at else "expired"}}

    def left(self, host: Host, batch: Batch) -> bytes:
        return b""

    def answer(self, row: Row) -> dict[str, Any]:
        return {
            "id": "m", "type": "message", "role": "assistant", "model": "m", "content": [{"type": "text", "text": row.said}], "stop_reason": "end_turn",
            "usage": {"input_tokens": row.input_tokens, "output_tokens": row.output_tokens},
        }  # fmt: skip


def row_of(custom_id: str, prompt: str, body: dict[str, Any], wanted: dict[str, Any] | None = None) -> Row:
    """A row whose answer names its prompt."""
    found = answer(prompt, wanted)
    said = found if isinstance(found, str) else json.dumps(found)
    return Row(custom_id, prompt, said, len(json.dumps(body)) // 4, len(said) // 4)


def stamp(host: Host, at: datetime | None) -> str | None:
    return None if at is None or "no_time" in host.quirks else at.isoformat().replace("+00:00", "Z")


def told(body: Any, status: int = 200) -> Reply:
    return Reply(status=status, body=json.dumps(body).encode())
