"""Host: one vendor's batch endpoints, its rows, its bill; and the habits of hosts that are not the vendor's.

The wire is the shape's.  A row is what was asked, the prompt's own text: ids differ from attempt to attempt.  Rows are answered
one after the other, evenly over the time that a batch takes, and each is on the bill from that instant on.  Other customers of the same account
have batches in the list, too, of the same sizes; nobody may touch them.
"""

from __future__ import annotations

import gzip
import json
import random
import threading
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.adversary.cloud import CLOUDS
from tests.adversary.mode import MOVED, QUIRKS, TRAP, Fault, Plan, bent
from tests.adversary.record import Batch, Entry, Row
from tests.adversary.shape import Anthropic, OpenAI, Shape, told
from tests.adversary.wire import Reply, Request

SHAPES: dict[str, Shape] = {shape.name: shape for shape in (OpenAI(), Anthropic(), *CLOUDS)}
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


@dataclass(slots=True)
class Host:
    """One host of one shape.

    Args:
        shape: the name of one of `SHAPES`.
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
            str(7_000 + self._made) if "integer_ids" in self.quirks else f"{SHAPES[self.shape].prefix}{self._made:04d}",
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
            at, name = self.wire.call_of(request)
            fault = self.plan.take(at, (self.clock() - self._began).total_seconds())
            self.journal.append((self.clock(), at, name, fault))
            reply = bent(fault, lambda: self._carry_out(request, at, name, fault))
            if at == "download" and "location" in reply.headers:
                return replace(reply, headers={**reply.headers, "location": MOVED})
            return reply

    def _carry_out(self, request: Request, at: str, name: str, fault: Fault | None) -> Reply:
        own = self.wire.carried_out(self, request, at, name)
        if own is not None:
            return own
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
                # obstore follows what a bucket's host says, as S3's own redirects need, and has no setting against it; it alone names a referer.  What it
                # takes to another host is in tests/edges/test_objects.py.
                if TRAP in request.target and "referer" not in request.headers:
                    self.wrongs.append(f"a redirect was followed to {request.target}, with {sorted(request.headers)}")
                return self.wire.missing()

    # -- what costs money -------------------------------------------------------------------------------------

    def _create(self, request: Request, lands_s: float) -> Reply:
        asked = self.wire.purchase(self, request)
        if asked is None:
            return self.wire.missing()
        again = next((batch for batch in self.batches.values() if asked.token and batch.token == asked.token), None)
        at = self.clock() + timedelta(seconds=lands_s)
        batch = again or self.make(asked.rows, asked.endpoint, at=at, input_id=asked.input_id, metadata=asked.metadata, token=asked.token)
        return self.wire.created(self, batch)

    def _ask(self, request: Request) -> Reply:
        row = self.wire.row("", json.loads(request.body))
        self.asked.append(Entry(None, None, row.prompt, row.usd))
        return told(self.wire.answer(row))

    # -- what is looked at ------------------------------------------------------------------------------------

    def _get(self, name: str) -> Reply:
        batch = self.batches.get(name)
        odd = batch is not None and (self.clock() - batch.at).total_seconds() < _ODD_S
        if "life_500" in self.quirks and odd:
            return told({"error": {"message": "internal", "type": "api_error"}}, 500)
        if batch is None or not self.is_there(batch) or ("denies" in self.quirks and odd):
            return self.wire.missing()
        return told(self.shown(batch))

    def _list(self, request: Request, after: str) -> Reply:
        q = self.quirks
        if "list_404" in q:
            return self.wire.missing()
        if after and "fails_later" in q:
            return told({"error": {"message": "internal", "type": "api_error"}}, 500)
        lag = max((_LAGS_S[quirk] for quirk in _LAGS_S if quirk in q), default=0.0)
        there = [batch for batch in self.batches.values() if self.is_there(batch) and self.clock() >= batch.at + timedelta(seconds=lag)]
        there.sort(key=lambda batch: (batch.at, batch.id), reverse="oldest_first" not in q)
        there = [batch for batch in there if "no_filter" in q or self.wire.is_listed(request, batch)]
        names = [self._name_in_list(batch) for batch in there]
        small = {"pages_of_two", "fails_later", "ignores_after_all_new"} & q
        start, size = self.wire.start_and_size(request, names, after)
        size = 2 if small else size
        start = 0 if {"ignores_after", "ignores_after_all_new"} & q else start
        page = there[start : start + size]
        more = start + size < len(there) or bool(after and {"ignores_after", "ignores_after_all_new"} & q)
        shown = [self.wire.renamed(self.shown(batch), self.id(self._name_in_list(batch))) for batch in page]
        found = self.wire.page(shown, names[start : start + size], more=more, total=len(there))
        if {"no_has_more", "null_list"} & q:
            found.pop("has_more", None)
        return told(found | {"data": None} if not shown and "null_list" in q else found)

    def _name_in_list(self, batch: Batch) -> str:
        return f"{batch.id}-raw" if "other_ids" in self.quirks else batch.id

    def id(self, name: str) -> Any:
        return int(name) if "integer_ids" in self.quirks and name.isdigit() else name

    def shown(self, batch: Batch) -> dict[str, Any]:
        """A batch as its shape has it."""
        return self.wire.shown(self, batch)

    def status(self, batch: Batch) -> str:
        """The status of a batch, in OpenAI's words."""
        cancels = batch.cancelled_at is not None and "no_cancel" not in self.quirks
        if self.ended_at(batch) is None:
            return "cancelling" if cancels else "in_progress"
        if "fails" in self.quirks or not self.is_there(batch):
            return "failed"
        return "cancelled" if cancels else "expired" if "expires" in self.quirks else "completed"

    # -- what ends --------------------------------------------------------------------------------------------

    def _named(self, name: str) -> Batch | None:
        return self.batches.get(name.removesuffix("-raw"))

    def _cancel(self, name: str) -> Reply:
        batch = self._named(name)
        if batch is None or not self.is_there(batch):
            return self.wire.missing()
        if batch.others:
            self.wrongs.append(f"another customer's batch {name} was cancelled")
        if self.ended_at(batch) is None and batch.cancelled_at is None:
            batch.cancelled_at = self.clock()
        return self.wire.cancelled(self, batch)

    def _delete(self, name: str) -> Reply:
        if "no_delete" in self.quirks:
            return told({"error": {"message": "no", "code": "method_not_allowed"}}, 405)
        if "theirs" in name:
            self.wrongs.append(f"another customer's file {name} was removed")
        found = self.files.pop(name, None)
        self.removed.setdefault(name, self.clock())
        return told(self.wire.removed(name)) if found is not None else self.wire.missing()

    # -- files ------------------------------------------------------------------------------------------------

    def _upload(self, request: Request) -> Reply:
        boundary = request.headers["content-type"].partition("boundary=")[2].strip('"').encode()
        part = next(part for part in request.body.split(b"--" + boundary) if b'name="file"' in part)
        content = part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
        self._made += 1
        name = str(9_000 + self._made) if "integer_ids" in self.quirks else f"file-{self._made:04d}"
        self.files[name] = content
        return told(self.wire.file(self.id(name), len(content)))

    def _size(self, name: str) -> Reply:
        batch = self.batches.get(name.rpartition("-")[0])
        content = self.files.get(name) if batch is None else self.results(batch) if name.endswith("-output") else self._errors(batch)
        if content is None or "no_size" in self.quirks:
            return self.wire.missing()
        return told(self.wire.file(self.id(name), len(content)))

    def _download(self, request: Request, name: str) -> Reply:
        batch = self.batches.get(name) or self.batches.get(name.rpartition("-")[0])
        if batch is None or self.ended_at(batch) is None:
            return self.wire.missing()
        if name.endswith("-errors"):
            return Reply(body=self._errors(batch), kind="application/octet-stream")
        batch.fetched += 1
        odd = {quirk for quirk in self.quirks if quirk.startswith("res_")} if not self._healed(batch) else set()
        if "res_redirect" in odd:
            return Reply(status=302, headers={"location": f"{self.url}{TRAP}"})
        if "res_404" in odd:
            return self.wire.missing()
        content, kind = self.results(batch), "application/octet-stream"
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

    def results(self, batch: Batch) -> bytes:
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
        return self.wire.left(self, batch)

    def _line(self, batch: Batch, row: Row, *, whole: bool = False) -> bytes:
        """A row's line in the results; empty where it has none."""
        line = self.wire.line(self, batch, row, answered=whole or row in self.answered(batch))
        return b"" if line is None else json.dumps(line).encode()

    @property
    def wire(self) -> Shape:
        return SHAPES[self.shape]
