"""Google: the host of the third shape, the Gemini Developer API: uploads in pieces, operations, a list by token, and no partial results."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tests.adversary.host import Batch, Entry, Host, Row, as_json
from tests.adversary.wire import Reply, Request

MODEL = "gemini-2.5-flash"


@dataclass(slots=True)
class GeminiHost(Host):
    """One host of Google's shape; the removal of an input stops no create."""

    sessions: dict[str, bytearray] = field(default_factory=dict)

    def is_there(self, batch: Batch) -> bool:
        return self.clock() >= batch.at

    # -- what costs money -------------------------------------------------------------------------------------

    def _create(self, request: Request, lands_s: float) -> Reply:
        asked = json.loads(request.body)["batch"]
        name = str(asked["inputConfig"]["fileName"]).removeprefix("files/")
        if name not in self.files:
            return _refused(403, "PERMISSION_DENIED", f"You do not have permission to access the File {name} or it may not exist.")
        lines = [json.loads(line) for line in self.files[name].split(b"\n") if line]
        rows = [_row(line["key"], line["request"]) for line in lines]
        batch = self.make(rows, "batchGenerateContent", at=self._later(lands_s), input_id=name, metadata={"mark": asked["displayName"]})
        return as_json(self.shown(batch))

    def _ask(self, request: Request) -> Reply:
        row = _row("", json.loads(request.body))
        self.asked.append(Entry(None, None, row.prompt, row.usd))
        return as_json(_response(row))

    # -- what is looked at ------------------------------------------------------------------------------------

    def shown(self, batch: Batch) -> dict[str, Any]:
        ended, done, state = self.ended_at(batch), len(self.answered(batch)), self._state(batch)
        stats = {"requestCount": len(batch.rows), "successfulRequestCount": done, "pendingRequestCount": len(batch.rows) - done}
        metadata: dict[str, Any] = {"model": f"models/{MODEL}", "state": f"BATCH_STATE_{state}", "createTime": self._time(batch.at)}
        if "no_metadata" not in self.quirks:
            metadata["displayName"] = batch.metadata.get("mark", "of somebody else")
        if "no_counts" not in self.quirks:
            metadata["batchStats"] = {name: str(count) for name, count in stats.items() if count}
        if state == "SUCCEEDED":
            metadata["output"] = {"responsesFile": f"files/{batch.id}-output"}
        operation: dict[str, Any] = {"name": f"batches/{batch.id}", "metadata": metadata}
        if ended is not None:
            operation |= {"done": True} | ({"response": metadata["output"]} if state == "SUCCEEDED" else {"error": {"code": 1, "message": "m"}})
        return operation

    def _state(self, batch: Batch) -> str:
        if self.ended_at(batch) is None:
            return "RUNNING"
        if "fails" in self.quirks:
            return "FAILED"
        if batch.cancelled_at is not None and "no_cancel" not in self.quirks:
            return "CANCELLED"
        return "EXPIRED" if "expires" in self.quirks else "SUCCEEDED"

    def _time(self, at: datetime | None) -> Any:
        return None if at is None or "no_time" in self.quirks else at.isoformat().replace("+00:00", "Z")

    def _list(self, request: Request, after: str) -> Reply:
        reply = Host._list(self, request, after)
        if reply.status != 200:
            return reply
        page = json.loads(reply.body)
        if page["data"] is None:
            return as_json({"operations": None})
        operations = [{"name": f"batches/{one['id']}", "metadata": one["metadata"]} for one in page["data"]]
        more = {"nextPageToken": page["last_id"]} if page.get("has_more") else {}
        return as_json(({"operations": operations} if operations else {}) | more)

    # -- files ------------------------------------------------------------------------------------------------

    def _upload(self, request: Request) -> Reply:
        command = request.headers["x-goog-upload-command"]
        if command == "start":
            self._made += 1
            session = f"s{self._made}"
            self.sessions[session] = bytearray()
            address = f"https://generativelanguage.googleapis.com{request.target}?upload_id={session}"
            return Reply(headers={"x-goog-upload-url": address, "x-goog-upload-status": "active"})
        held = self.sessions[request.query["upload_id"]]
        if command != "query":
            if int(request.headers["x-goog-upload-offset"]) != len(held):
                return _refused(400, "INVALID_ARGUMENT", "The upload offset does not match.")
            held += request.body
        if "finalize" not in command:
            return Reply(headers={"x-goog-upload-size-received": str(len(held)), "x-goog-upload-status": "active"})
        self._made += 1
        name = f"in{self._made:04d}"
        self.files[name] = bytes(held)
        return as_json({"file": {"name": f"files/{name}", "state": "ACTIVE", "sizeBytes": str(len(held))}})

    def _size(self, name: str) -> Reply:
        reply = Host._size(self, name)
        return as_json({"name": f"files/{name}", "sizeBytes": str(json.loads(reply.body)["bytes"])}) if reply.status == 200 else reply

    def _line(self, batch: Batch, row: Row, *, whole: bool = False) -> bytes:
        answered = whole or row in self.answered(batch)
        return json.dumps({"key": row.custom_id, "response": _response(row)}).encode() if answered else b""


def _refused(code: int, word: str, message: str) -> Reply:
    return as_json({"error": {"code": code, "status": word, "message": message}}, code)


def _row(custom_id: str, body: dict[str, Any]) -> Row:
    prompt = "".join(part["text"] for part in body["contents"][-1]["parts"])
    said = f"re: {prompt}"
    return Row(custom_id, prompt, said, len(json.dumps(body)) // 4, len(said) // 4)


def _response(row: Row) -> dict[str, Any]:
    candidate = {"content": {"parts": [{"text": row.said}], "role": "model"}, "finishReason": "STOP"}
    usage = {"promptTokenCount": row.input_tokens, "candidatesTokenCount": row.output_tokens}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": MODEL}
