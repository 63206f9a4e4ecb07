"""Batch: one provider-side batch, as a function of the clock.

The rows are answered once, by a worker, in the order in which they will finish (shuffled by the batch's id), into files
on disk with running totals beside them.  The state at any instant is then a prefix of those files: what is done,
what is paid, what an expired or cancelled batch returns.  Nothing else happens as time passes.
"""

import math
import random
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import msgspec

from .bill import Slip
from .damage import damaged
from .dialect import Dialect
from .envelope import Envelope, answer_row
from .life import WINDOW_S, Pace, Phase
from .progress import Progress
from .row import Rows
from .rule import Rule

_BUFFER_BYTES = 1 << 20


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Why a whole batch failed validation."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


@dataclass(kw_only=True, eq=False)
class Batch:
    """One batch: its requests, its faults, its answers.

    Args:
        provider: the kind of its service.
        endpoint, input_file_id, input_uri, metadata, output_expires_after_s: as the create said, where the service knows such things.
        model: of its rows, or of their first.
        get_from, list_from: when it can be read, and listed, in unix seconds.
        twice: its create makes a second batch.
        late_status: it appears late, and its create gets this status (0: no response); None: it appears at once.
        output_file_id, error_file_id: of its results, once they are named.
    """

    id: str
    ordinal: int
    provider: str
    created_at: float
    pace: Pace
    folder: Path
    envelope: Envelope
    dialect: Dialect
    rules: list[Rule]
    endpoint: str = ""
    input_file_id: str = ""
    input_uri: str = ""
    model: str | None = None
    metadata: dict[str, str] | None = None
    output_expires_after_s: float | None = None
    window_s: float = WINDOW_S
    get_from: float = 0.0
    list_from: float = 0.0
    twice: bool = False
    late_status: int | None = None
    rows: Rows | None = None
    enqueued_tokens: int = 0
    problems: list[Problem] = field(default_factory=list)
    input_lost: bool = False
    cancel_at: float | None = None
    deleted: bool = False
    output_file_id: str | None = None
    error_file_id: str | None = None
    work: "Future[None]" = field(default_factory=Future)
    progress: Progress = field(default_factory=Progress)
    sealed: bool = False
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __repr__(self) -> str:
        return f"<Batch {self.ordinal} {self.provider} {self.id} {len(self.progress):,}/{self.size:,} answered>"

    @property
    def size(self) -> int:
        return len(self.rows) if self.rows is not None else 0

    @property
    def started_at(self) -> float:
        return self.created_at + self.pace.validate_s

    @property
    def expires_at(self) -> float:
        rule = self.rule("life", "expire")
        # A plan may say "expired" of a service that expires nothing by itself.
        window_s = WINDOW_S if rule and math.isinf(self.window_s) else self.window_s
        return self.created_at + (float(rule.get("after_s", window_s)) if rule else window_s)

    @property
    def out_path(self) -> Path:
        return self.folder / f"{self.id}.out.jsonl"

    @property
    def error_path(self) -> Path:
        return self.folder / f"{self.id}.error.jsonl"

    @property
    def bill_path(self) -> Path:
        return self.folder / f"{self.id}.bill.jsonl"

    def rule(self, point: str, *names: str) -> Rule | None:
        """The first rule drawn for this batch at `point`."""
        return next((rule for rule in self.rules if rule.at == point and rule.do in names), None)

    def planned_failure(self) -> Problem | None:
        """Why a fault says that the batch fails validation; None: it does not say so."""
        planned = self.rule("life", "fail")
        if planned is None:
            return None
        code = str(planned.get("code", "invalid_request"))
        message = str(planned.get("message", "The batch failed validation."))
        return Problem(code=code, message=message, line=planned.get("line", None), param=planned.get("param", None))

    def shown_status(self, status: str) -> str:
        """The status in the service's words, or what a fault says in its place."""
        odd = self.rule("life", "status")
        return str(odd.get("value", "paused")) if odd and odd.get("instead_of", "in_progress") == status else status

    def shown_counts(self, counts: dict[str, int | None]) -> dict[str, int | None]:
        """The counts in the service's words, or what a fault says in their place."""
        lie = self.rule("life", "counts")
        return {name: lie.get(name, value) for name, value in counts.items()} if lie else counts

    def rules_at(self, point: str) -> list[Rule]:
        return [rule for rule in self.rules if rule.at == point]

    # --- life ---------------------------------------------------------------------------------------------------------

    def phase(self, now: float) -> Phase:
        """The state of the batch at `now`; while the worker is behind the clock, the worker decides."""
        due = self._by_clock(now)
        if self.work.done():
            self.work.result()  # a worker that crashed must not look like a batch
        if self.work.done() or due.status in ("validating", "failed"):
            return due
        if self.rows is None:
            return Phase("validating", 0)
        return Phase("in_progress", min(due.done, len(self.progress)))

    def is_due(self, now: float) -> bool:
        """True if the clock is past something that the worker has not done yet."""
        return now >= self.started_at and not self.work.done()

    def _by_clock(self, now: float) -> Phase:
        """The state of the batch if the worker is not behind."""
        stuck = self.rule("life", "stuck")
        held = stuck.get("status", "in_progress") if stuck else None
        if self.cancel_at is not None:
            stop = self.cancel_at + self.pace.cancelling_s()
            if now < stop or held == "cancelling":
                return Phase("cancelling", self._done(min(now, stop)))
            return Phase("cancelled", self._done(stop), ended_at=stop)
        if now < self.started_at or held == "validating":
            return Phase("validating", 0)
        if self.problems or self.input_lost:
            return Phase("failed", 0, ended_at=self.started_at)
        return self._running(now, held)

    def _running(self, now: float, held: str | None) -> Phase:
        answered_at = self.started_at + self.pace.duration_s(self.size)
        finished_at = answered_at + self.pace.finalize_s
        done = self._done(min(now, self.expires_at))
        whole = self._most() == self.size
        if held in ("in_progress", "finalizing"):
            finalizing = held == "finalizing" and now >= answered_at
            return Phase("finalizing" if finalizing else "in_progress", done, finalizing_at=answered_at)
        if whole and finished_at <= min(now, self.expires_at):
            return Phase("completed", self.size, ended_at=finished_at, finalizing_at=answered_at)
        if now >= self.expires_at:
            return Phase("expired", done, ended_at=self.expires_at)
        if whole and now >= answered_at:
            return Phase("finalizing", done, finalizing_at=answered_at)
        return Phase("in_progress", done)

    def _most(self) -> int:
        """Rows that will ever finish."""
        expire, stuck = self.rule("life", "expire"), self.rule("life", "stuck")
        if expire:
            return min(self.size - 1, int(self.size * float(expire.get("done", 0.5)) + 1e-9))
        if stuck and stuck.get("status", "in_progress") == "in_progress":
            return int(self.size * float(stuck.get("done", 0.5)) + 1e-9)
        return self.size

    def _done(self, at: float) -> int:
        if at < self.started_at or self.problems or self.input_lost:
            return 0
        duration = self.pace.duration_s(self.size)
        share = 1.0 if duration == 0 else min(1.0, (at - self.started_at) / duration)
        return min(self._most(), math.floor(self.size * share + 1e-6))

    def names_results(self, now: float, phase: Phase) -> bool:
        """True if its results are named yet, once it has ended."""
        late = self.rule("results", "late_ids")
        return phase.ended_at is not None and (late is None or now >= phase.ended_at + float(late.get("for_s", 600)))

    def slip(self, now: float) -> Slip:
        """What is paid until `now`."""
        done = min(self.phase(now).done, len(self.progress))
        return Slip(self.bill_path, self.progress.totals(done).bill_bytes)

    # --- work ---------------------------------------------------------------------------------------------------------

    def begin(self, rows: Rows | None, problem: Problem | None) -> None:
        """Answers `rows`, if there is no problem with them.  Called once, in a worker thread."""
        if problem is not None:
            self.problems = [problem]
            return
        self.rows = rows
        self.answer()

    def answer(self) -> None:
        """Answer every row, in the order of finishing.  Called once, in a worker thread."""
        assert self.rows is not None
        line_rules = self.rules_at("lines")
        end = b"\r\n" if self.rule("lines", "crlf") else b"\n"
        duration = self.pace.duration_s(self.size)
        with _writing(self.out_path) as out, _writing(self.error_path) as error, _writing(self.bill_path) as bill:
            prefix = out.write(b"\xef\xbb\xbf") if self.rule("lines", "bom") else 0
            encode = msgspec.json.Encoder().encode
            for rank, index in enumerate(self._order()):
                at = self.started_at + duration * (rank + 1) / self.size
                outcome = answer_row(self, self.rows[index], rank, at)
                lines = [outcome.line]
                if line_rules:
                    lines = damaged(outcome.line, line_rules, rank, outcome.custom_id, self.envelope.id_field)
                written = b"".join([line + end for line in lines])
                to_out = outcome.ok or self.envelope.one_file
                (out if to_out else error).write(written)
                paid = bill.write(encode(outcome.paid) + b"\n") if outcome.paid is not None else 0
                size = len(written) + (prefix if rank == 0 else 0)
                self.progress.add(outcome.ok, outcome.usage, size if to_out else 0, 0 if to_out else size, paid)

    def _order(self) -> list[int]:
        order = list(range(self.size))
        reorder = self.rule("lines", "reorder")
        if reorder is None:
            random.Random(self.id).shuffle(order)  # noqa: S311  repeatable, not secret
        elif reorder.get("order", "reverse") == "reverse":
            order.reverse()
        return order

    def seal(self, phase: Phase, publish: Callable[[Phase], None] | None = None) -> None:
        """Cut the result files to what was done when the batch ended, and name the rows that were not; a second call does nothing.

        Args:
            publish: gives the result files their names; called before anybody sees the batch as sealed.
        """
        with self.lock:
            if self.sealed:
                return
            if self.rows is not None and phase.status in ("expired", "cancelled"):
                self._cut(phase)
            if self.rule("results", "zero_byte_output") and self.out_path.exists():
                self.out_path.write_bytes(b"")
            if publish is not None:
                publish(phase)
            self.sealed = True

    def _cut(self, phase: Phase) -> None:
        assert self.rows is not None
        totals = self.progress.totals(phase.done)
        for path, size in ((self.out_path, totals.out_bytes), (self.error_path, totals.error_bytes)):
            with path.open("ab") as file:
                file.truncate(size)
        rest = self.out_path if self.envelope.one_file else self.error_path
        with rest.open("ab", buffering=_BUFFER_BYTES) as file:
            for index in self._order()[phase.done :]:
                custom_id, _ = self.envelope.read(self.rows[index])
                line = self.envelope.unanswered(custom_id, phase.status)
                if line is not None:
                    file.write(line + b"\n")


def _writing(path: Path) -> BinaryIO:
    return path.open("wb", buffering=_BUFFER_BYTES)
