"""Host: the two providers' batch endpoints, their rows, their bill; and the habits of hosts that are not theirs.

Written from the public pages of both.  A row is what was asked, the prompt's own text: ids differ from attempt to attempt.  Rows are answered
one after the other, evenly over the time that a batch takes, and each is on the bill from that instant on.  Other customers of the same account
have batches in the list, too, of the same sizes; nobody may touch them.
"""

from __future__ import annotations

import gzip
import json
import random
import threading
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from tests.adversary.answerer import answer
from tests.adversary.mode import QUIRKS, TRAP, Fault, Plan, bent, call_of
from tests.adversary.wire import Reply, Request

# USD per million tokens: what a job says its model costs, and what is billed.
PRICES = {"input": 2, "cached": 2, "cache_write": 2, "cache_write_1h": 2, "output": 10}
_TAKES_S = {"batch": 120.0, "cancel": 20.0, "expiry": 86_400.0}
_LAGS_S = {"lags": 40.0, "lags_long": 7_200.0}
_GROWS_S = 40.0
_ODD_S = 75 * 3600.0


class Clock:
    """Now, by the hand of whoever turns it."""

    def __init__(self, at: datetime = datetime(2026, 11, 20, 12, tzinfo=UTC)) -> None:
        self.now = at

    def __call__(self) -> datetime:
        return self.now

    def turn(self, span: timedelta) -> None:
        self.now += span


@dataclass(frozen=True, slots=True)
class Row:
    """One request of a batch."""

    custom_id: str
    prompt: str
    said: str
    input_tokens: int
    output_tokens: int

    @property
    def usd(self) -> Decimal:
        return (Decimal(PRICES["input"]) * self.input_tokens + Decimal(PRICES["output"]) * self.output_tokens) / 10**6


@dataclass(slots=True)
class Batch:
    """One batch."""

    id: str
    at: datetime
    rows: list[Row]
    endpoint: str
    input_id: str | None = None
    metadata: Any = None
    cancelled_at: datetime | None = None
    others: bool = False  # another customer's
    fetched: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the bill."""

    batch_id: str | None
    custom_id: str | None
    prompt: str
    usd: Decimal


@dataclass(slots=True)
class Host:
    """One host of one shape.

    Args:
        shape: `openai` or `anthropic`; that of `gemini` is `google.GeminiHost`.
        quirks: names of `QUIRKS`.
        heals_s: after so long by its clock its results are as they should be; None: never.
    """

    shape: str
    clock: Clock
    quirks: frozenset[str] = frozenset()
    plan: Plan = field(default_factory=Plan)
    heals_s: float | None = None
    batches: dict[str, Batch] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    removed: dict[str, datetime] = field(default_factory=dict)
    asked: list[Entry] = field(default_factory=list)  # single requests
    journal: list[tuple[datetime, str, str, Fault | None]] = field(default_factory=list)
    wrongs: list[str] = field(default_factory=list)  # what no client may do
    lock: threading.RLock = field(default_factory=threading.RLock)
    _made: int = 0
    _began: datetime = field(init=False)
    url: str = ""

    def __post_init__(self) -> None:
        assert self.quirks <= set(QUIRKS), self.quirks - set(QUIRKS)
        self._began = self.clock()

    # -- the bill ---------------------------------------------------------------------------------------------

    def bill(self) -> list[Entry]:
        """What has been answered by now, of everything that was bought here by the customer under test."""
        with self.lock:
            ours = [batch for batch in self.batches.values() if not batch.others]
            return [Entry(batch.id, row.custom_id, row.prompt, row.usd) for batch in ours for row in self.answered(batch)] + self.asked

    def creates(self) -> int:
        return sum(at == "create" for _, at, _, _ in self.journal)

    def calls(self) -> Counter[str]:
        return Counter(at for _, at, _, _ in self.journal)

    # -- the life of a batch ----------------------------------------------------------------------------------

    def is_there(self, batch: Batch) -> bool:
        """Whether it has landed: a create that comes late finds no input that was removed before."""
        if self.clock() < batch.at:
            return False
        gone = self.removed.get(batch.input_id or "")
        return gone is None or gone >= batch.at

    def answered(self, batch: Batch) -> list[Row]:
        """The rows that are answered by now."""
        if not self.is_there(batch) or "fails" in self.quirks:
            return []
        if "eager" in self.quirks:
            return batch.rows
        until = self.clock()
        if batch.cancelled_at is not None and "no_cancel" not in self.quirks:
            until = min(until, batch.cancelled_at)
        share = (until - batch.at).total_seconds() / _TAKES_S["batch"]
        if "stuck" in self.quirks or "expires" in self.quirks:
            share = min(share, 0.5)
        return batch.rows[: int(max(0.0, min(share, 1.0)) * len(batch.rows))]

    def ended_at(self, batch: Batch) -> datetime | None:
        """When it has said its last word; None: not yet."""
        done = batch.at + timedelta(seconds=_TAKES_S["batch"])
        if "stuck" in self.quirks:
            done = datetime.max.replace(tzinfo=UTC)
        elif "expires" in self.quirks:
            done = batch.at + timedelta(seconds=_TAKES_S["expiry"])
        if batch.cancelled_at is not None and "no_cancel" not in self.quirks:
            done = min(done, batch.cancelled_at + timedelta(seconds=_TAKES_S["cancel"]))
        return done if done <= self.clock() else None

    def make(self, rows: list[Row], endpoint: str, *, at: datetime, **more: Any) -> Batch:
        self._made += 1
        batch = Batch(
            str(7_000 + self._made) if "integer_ids" in self.quirks else f"{_PREFIX[self.shape]}{self._made:04d}",
            at,
            rows,
            endpoint,
            **more,
        )
        self.batches[batch.id] = batch
        return batch

    def crowd(self, count: int, rows: int) -> None:
        """`count` batches of other customers, that are long over; and one that is under way."""
        for n in range(count + 1):
            at = self.clock() - timedelta(hours=3 * (count - n)) - timedelta(seconds=30)
            theirs = [Row(f"theirs-{n}-{i}", f"theirs {n} {i}", "re: theirs", 10, 5) for i in range(rows)]
            self.make(theirs, "/v1/chat/completions", at=at, input_id=f"file-theirs-{n}", metadata={"project": "another"}, others=True)

    # -- in and out -------------------------------------------------------------------------------------------

    def answer(self, request: Request) -> Reply:
        """The reply to one request, and a line in the journal."""
        with self.lock:
            at, name = call_of(request)
            fault = self.plan.take(at, (self.clock() - self._began).total_seconds())
            self.journal.append((self.clock(), at, name, fault))
            return bent(fault, lambda: self._carry_out(request, at, name, fault))

    def _carry_out(self, request: Request, at: str, name: str, fault: Fault | None) -> Reply:
        match at:
            case "create":
                return self._create(request, 0.0 if fault is None else fault.lands_s)
            case "list":
                return self._list(request, name)
            case "get":
                return self._get(name)
            case "cancel":
                return self._cancel(name)
            case "upload":
                return self._upload(request)
            case "size":
                return self._size(name)
            case "download":
                return self._download(request, name)
            case "delete":
                return self._delete(name)
            case "ask":
                return self._ask(request)
            case _:
                if TRAP in request.target:
                    self.wrongs.append(f"a redirect was followed to {request.target}, with {sorted(request.headers)}")
                return _missing()

    # -- what costs money -------------------------------------------------------------------------------------

    def _create(self, request: Request, lands_s: float) -> Reply:
        asked = json.loads(request.body)
        at = self._later(lands_s)
        if self.shape == "anthropic":
            batch = self.make([_row(one["custom_id"], one["params"]) for one in asked["requests"]], "/v1/messages", at=at)
            return as_json(self.shown(batch))
        content = self.files.get(str(asked["input_file_id"]))
        if content is None:
            return as_json({"error": {"message": "No such File object", "type": "invalid_request_error", "code": "not_found"}}, 404)
        lines = [json.loads(line) for line in content.split(b"\n") if line]
        rows = [_row(line["custom_id"], line["body"]) for line in lines]
        batch = self.make(rows, asked["endpoint"], at=at, input_id=str(asked["input_file_id"]), metadata=asked.get("metadata"))
        return as_json(self.shown(batch))

    def _later(self, seconds: float) -> datetime:
        return self.clock() + timedelta(seconds=seconds)

    def _ask(self, request: Request) -> Reply:
        row = _row("", json.loads(request.body))
        self.asked.append(Entry(None, None, row.prompt, row.usd))
        return as_json(_chat(row) if self.shape == "openai" else _message(row))

    # -- what is looked at ------------------------------------------------------------------------------------

    def _get(self, name: str) -> Reply:
        batch = self.batches.get(name)
        odd = batch is not None and (self.clock() - batch.at).total_seconds() < _ODD_S
        if "life_500" in self.quirks and odd:
            return as_json({"error": {"message": "internal", "type": "api_error"}}, 500)
        if batch is None or not self.is_there(batch) or ("denies" in self.quirks and odd):
            return _missing()
        return as_json(self.shown(batch))

    def _list(self, request: Request, after: str) -> Reply:
        q = self.quirks
        if "list_404" in q:
            return _missing()
        if after and "fails_later" in q:
            return as_json({"error": {"message": "internal", "type": "api_error"}}, 500)
        lag = max((_LAGS_S[quirk] for quirk in _LAGS_S if quirk in q), default=0.0)
        there = [batch for batch in self.batches.values() if self.is_there(batch) and self.clock() >= batch.at + timedelta(seconds=lag)]
        there.sort(key=lambda batch: (batch.at, batch.id), reverse="oldest_first" not in q)
        names = [self._name_in_list(batch) for batch in there]
        small = {"pages_of_two", "fails_later", "ignores_after_all_new"} & q
        size = 2 if small else int(request.query.get("limit") or 20)
        start = names.index(after) + 1 if after in names and not {"ignores_after", "ignores_after_all_new"} & q else 0
        page = there[start : start + size]
        more = start + size < len(there) or bool(after and {"ignores_after", "ignores_after_all_new"} & q)
        shown = [self.shown(batch) | {"id": self._id(self._name_in_list(batch))} for batch in page]
        told = {
            "object": "list",
            "data": shown,
            "has_more": more,
            "first_id": shown[0]["id"] if shown else None,
            "last_id": shown[-1]["id"] if shown else None,
        }
        if {"no_has_more", "null_list"} & q:
            del told["has_more"]
        return as_json(told | {"data": None} if not shown and "null_list" in q else told)

    def _name_in_list(self, batch: Batch) -> str:
        return f"{batch.id}-raw" if "other_ids" in self.quirks else batch.id

    def _id(self, name: str) -> Any:
        return int(name) if "integer_ids" in self.quirks and name.isdigit() else name

    def _time(self, at: datetime | None) -> Any:
        if at is None or "no_time" in self.quirks:
            return None
        return int(at.timestamp()) if self.shape == "openai" else at.isoformat().replace("+00:00", "Z")

    def shown(self, batch: Batch) -> dict[str, Any]:
        """A batch as its shape has it."""
        return self._as_openai(batch) if self.shape == "openai" else self._as_anthropic(batch)

    def _as_openai(self, batch: Batch) -> dict[str, Any]:
        ended, done = self.ended_at(batch), len(self.answered(batch))
        status = "in_progress" if batch.cancelled_at is None or "no_cancel" in self.quirks else "cancelling"
        if ended is not None:
            status = "cancelled" if batch.cancelled_at is not None and "no_cancel" not in self.quirks else "completed"
            status = "expired" if status == "completed" and "expires" in self.quirks else status
            status = "failed" if "fails" in self.quirks else status
        told = {
            "id": self._id(batch.id), "object": "batch", "endpoint": batch.endpoint, "status": status, "completion_window": "24h",
            "created_at": self._time(batch.at), "completed_at": self._time(ended), "input_file_id": batch.input_id, "metadata": batch.metadata,
            "output_file_id": f"{batch.id}-output" if ended and done else None,
            "error_file_id": f"{batch.id}-errors" if ended and self._errors(batch) else None,
            "errors": {"data": [{"code": "invalid_json_line", "message": "line 1", "line": 1}]} if status == "failed" else None,
            "request_counts": {"total": len(batch.rows), "completed": done, "failed": 0},
        }  # fmt: skip
        for quirk, name in (("no_metadata", "metadata"), ("no_input_id", "input_file_id"), ("no_counts", "request_counts")):
            if quirk in self.quirks:
                del told[name]
        return told

    def _as_anthropic(self, batch: Batch) -> dict[str, Any]:
        ended, done, rows = self.ended_at(batch), len(self.answered(batch)), len(batch.rows)
        status = "canceling" if batch.cancelled_at is not None and "no_cancel" not in self.quirks else "in_progress"
        left = {"canceled": rows - done if batch.cancelled_at else 0, "expired": 0 if batch.cancelled_at else rows - done}
        told = {
            "id": self._id(batch.id), "type": "message_batch", "processing_status": "ended" if ended else status, "created_at": self._time(batch.at),
            "ended_at": self._time(ended), "cancel_initiated_at": self._time(batch.cancelled_at),
            "request_counts": {"processing": 0 if ended else rows, "succeeded": done if ended else 0, "errored": 0, **(left if ended else {})},
            "results_url": f"{self.url}/v1/messages/batches/{quote(batch.id)}/results" if ended else None,
        }  # fmt: skip
        if "no_counts" in self.quirks:
            del told["request_counts"]
        return told

    # -- what ends --------------------------------------------------------------------------------------------

    def _named(self, name: str) -> Batch | None:
        return self.batches.get(name.removesuffix("-raw"))

    def _cancel(self, name: str) -> Reply:
        batch = self._named(name)
        if batch is None or not self.is_there(batch):
            return _missing()
        if batch.others:
            self.wrongs.append(f"another customer's batch {name} was cancelled")
        if self.ended_at(batch) is None and batch.cancelled_at is None:
            batch.cancelled_at = self.clock()
        return as_json(self.shown(batch))

    def _delete(self, name: str) -> Reply:
        if "no_delete" in self.quirks:
            return as_json({"error": {"message": "no", "code": "method_not_allowed"}}, 405)
        if "theirs" in name:
            self.wrongs.append(f"another customer's file {name} was removed")
        found = self.files.pop(name, None)
        self.removed.setdefault(name, self.clock())
        return as_json({"id": name, "object": "file", "deleted": True}) if found is not None else _missing()

    # -- files ------------------------------------------------------------------------------------------------

    def _upload(self, request: Request) -> Reply:
        boundary = request.headers["content-type"].partition("boundary=")[2].strip('"').encode()
        part = next(part for part in request.body.split(b"--" + boundary) if b'name="file"' in part)
        content = part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
        self._made += 1
        name = str(9_000 + self._made) if "integer_ids" in self.quirks else f"file-{self._made:04d}"
        self.files[name] = content
        return as_json({"id": self._id(name), "object": "file", "bytes": len(content), "purpose": "batch", "filename": "in.jsonl"})

    def _size(self, name: str) -> Reply:
        batch = self.batches.get(name.rpartition("-")[0])
        content = self.files.get(name) if batch is None else self._results(batch) if name.endswith("-output") else self._errors(batch)
        if content is None or "no_size" in self.quirks:
            return _missing()
        return as_json({"id": self._id(name), "object": "file", "bytes": len(content), "purpose": "batch_output"})

    def _download(self, request: Request, name: str) -> Reply:
        batch = self.batches.get(name) or self.batches.get(name.rpartition("-")[0])
        if batch is None or self.ended_at(batch) is None:
            return _missing()
        if name.endswith("-errors"):
            return Reply(body=self._errors(batch), kind="application/octet-stream")
        batch.fetched += 1
        odd = {quirk for quirk in self.quirks if quirk.startswith("res_")} if not self._healed(batch) else set()
        if "res_redirect" in odd:
            return Reply(status=302, headers={"location": f"{self.url}{TRAP}"})
        if "res_404" in odd:
            return _missing()
        content, kind = self._results(batch), "application/octet-stream"
        if "res_coded_gzip" in odd:
            return Reply(body=gzip.compress(content), kind=kind, headers={"content-encoding": "gzip"})
        if "res_br" in odd:
            return Reply(body=b"\x8b\x05\x80" + content[::-1], kind=kind, headers={"content-encoding": "br"})
        if "res_html" in odd:
            return Reply(body=b"<html><body>one moment, please</body></html>", kind="text/html")
        start = int((request.headers.get("range") or "bytes=0-").partition("=")[2].partition("-")[0])
        if start and "no_range" not in self.quirks:
            if start >= len(content):
                return Reply(status=416, headers={"content-range": f"bytes */{len(content)}"})
            span = {"content-range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            return Reply(status=206, body=content[start:], kind=kind, headers=span)
        return Reply(body=content, kind=kind, how="half" if "res_shuffled" in odd and batch.fetched == 1 else "whole")

    def _healed(self, batch: Batch) -> bool:
        ended = self.ended_at(batch)
        return self.heals_s is not None and ended is not None and (self.clock() - ended).total_seconds() >= self.heals_s

    def _results(self, batch: Batch) -> bytes:
        """The result file as this host gives it now."""
        lines = [self._line(batch, row) for row in batch.rows]
        whole = b"".join(line + b"\n" for line in lines if line)
        odd = {quirk for quirk in self.quirks if quirk.startswith("res_")}
        if self._healed(batch) or not odd:
            return whole
        lines = [line for line in lines if line]
        if "res_foreign" in odd:
            lines = [self._line(batch, Row(f"theirs-{n}", "theirs", "re: theirs", 10, 5), whole=True) for n in range(len(batch.rows))]
        if "res_part" in odd:
            lines = lines[:-1]
        if "res_growing" in odd:
            grown = (self.clock() - (self.ended_at(batch) or self.clock())).total_seconds() / _GROWS_S
            lines = lines[: int(min(grown, 1.0) * len(lines))]
        if "res_twice" in odd:
            lines = [line for line in lines for _ in range(2)]
        if "res_shuffled" in odd:
            random.Random(batch.fetched).shuffle(lines)
        content = b"".join(line + b"\n" for line in lines)
        if "res_no_newline" in odd:
            content = content.removesuffix(b"\n")
        single = {
            "res_text": b"The results will be available shortly.", "res_empty": b"", "res_gzip": gzip.compress(content, mtime=0), "res_null": b"null",
            "res_array": b"[]", "res_error": b'{"error": {"message": "overloaded", "type": "overloaded_error"}}',
        }  # fmt: skip
        return next((body for quirk, body in single.items() if quirk in odd), content)

    def _errors(self, batch: Batch) -> bytes:
        """The error file of the OpenAI shape: the rows that were not answered."""
        if self.shape != "openai" or "silent" in self.quirks or "fails" in self.quirks:
            return b""
        code = "batch_cancelled" if batch.cancelled_at is not None else "batch_expired"
        error = {"code": code, "message": "This request could not be executed."}
        left = [row for row in batch.rows if row not in self.answered(batch)]
        return b"".join(json.dumps({"custom_id": row.custom_id, "response": None, "error": error}).encode() + b"\n" for row in left)

    def _line(self, batch: Batch, row: Row, *, whole: bool = False) -> bytes:
        """A row's line in the results; empty where it has none."""
        answered = whole or row in self.answered(batch)
        if answered and self.shape == "openai":
            response = {"status_code": 200, "request_id": "q", "body": _chat(row)}
            told: dict[str, Any] = {"id": f"r-{row.custom_id}", "custom_id": row.custom_id, "response": response, "error": None}
        elif answered:
            told = {"custom_id": row.custom_id, "result": {"type": "succeeded", "message": _message(row)}}
        elif self.shape == "openai" or "silent" in self.quirks:
            return b""
        else:
            told = {"custom_id": row.custom_id, "result": {"type": "canceled" if batch.cancelled_at else "expired"}}
        return json.dumps(told).encode()


_PREFIX = {"openai": "batch_", "anthropic": "msgbatch_", "gemini": "g"}


def as_json(body: Any, status: int = 200) -> Reply:
    return Reply(status=status, body=json.dumps(body).encode())


def _missing() -> Reply:
    return as_json({"type": "error", "error": {"type": "not_found_error", "code": "not_found", "message": "no such thing"}}, 404)


def _row(custom_id: str, body: dict[str, Any]) -> Row:
    """What is asked, and what is answered."""
    content = body["messages"][-1]["content"]
    prompt = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    wanted = body.get("response_format", {}).get("json_schema", {}).get("schema")
    wanted = wanted or body.get("output_config", {}).get("format", {}).get("schema") or body.get("output_format", {}).get("schema")
    found = answer(prompt, wanted)
    said = found if isinstance(found, str) else json.dumps(found)
    return Row(custom_id, prompt, said, len(json.dumps(body)) // 4, len(said) // 4)


def _chat(row: Row) -> dict[str, Any]:
    usage = {
        "prompt_tokens": row.input_tokens,
        "completion_tokens": row.output_tokens,
        "total_tokens": row.input_tokens + row.output_tokens,
    }
    choice = {"index": 0, "message": {"role": "assistant", "content": row.said, "refusal": None}, "finish_reason": "stop"}
    return {"id": "c", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage}


def _message(row: Row) -> dict[str, Any]:
    return {
        "id": "m", "type": "message", "role": "assistant", "model": "m", "content": [{"type": "text", "text": row.said}], "stop_reason": "end_turn",
        "usage": {"input_tokens": row.input_tokens, "output_tokens": row.output_tokens},
    }  # fmt: skip
