"""Worker schedule: workers that run one at a time, from failpoint to failpoint, in random orders that Hypothesis chooses.

The runner, the ledger, the SDKs and the emulator are the real ones.  A worker is a thread that is held at every failpoint until the
schedule lets it go on; it is frozen by turning the clock meanwhile, and killed by never letting it go on again: what SIGKILL leaves
on disk and in the ledger is what such a thread leaves, for no failpoint lies inside a transaction.  What must be true is reckoned
from the provider's side: its batches, its bill, its log of calls.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import random
import re
import secrets
import shutil
import sqlite3
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from pydantic import BaseModel

from keld import Job, Keld, KeldError, Settings, Status, failpoint
from keld.emulator import BillEntry, Call, Emulator
from keld.ledger import Ledger
from keld.outcome import Outcome
from keld.providers.kinds import preset_of
from keld.providers.provider import Provider
from keld.runner.finding import Verdict
from keld.state import RunState, State
from tests.support import bill_check
from tests.support.progress_wait import wait_while_it_moves
from tests.support.ticket_job import Peer, anthropic, billed_usd, creates, openai

START = datetime(2026, 11, 20, 12, tzinfo=UTC)
_LATENCY_S = 30
_TICKS_MOST = 150  # until a job run must be over, when nothing goes wrong any more
_TICK_LEAST = timedelta(seconds=30)
_PATIENT_TICKS = 50  # those after them are hours apart: only a batch that never ends by itself is still under way
_STEPS = 30
_SHARD = 8 if "KELD_SCHEDULES" not in os.environ else 80  # schedules a seed
_TOLD = ("adopted", "absent", "deferred", "round", "stray", "lost_track")  # events that are counted, to show what the schedules come to
COUNTS: Counter[str] = Counter()


class Violation(AssertionError):
    """A promise that was broken."""


# --- workers --------------------------------------------------------------------------------------------------------


class _Killed(SystemExit):
    """Ends the thread of a worker that is dead; no `except` of Keld's catches it, and no event loop goes on behind it."""


class Worker(threading.Thread):
    """One verb in a thread of its own, held at every failpoint until `step`."""

    def __init__(self, name: str, act: Callable[[], object]) -> None:
        super().__init__(name=name, daemon=True)
        self._act, self._go, self._held = act, threading.Semaphore(0), threading.Semaphore(0)
        self.at: str | None = "begin"  # the failpoint it is held at; None: it has come to its end
        self.fault: BaseException | None = None
        self._dead = False
        self.start()

    def __repr__(self) -> str:
        return f"<Worker {self.name} at {self.at}>"

    def run(self) -> None:
        self._go.acquire()
        try:
            if not self._dead:
                self._act()
        except (_Killed, KeldError):
            pass  # an error in Keld's words is an answer
        except BaseException as error:
            self.fault = error
        finally:
            self.at = None
            self._held.release()

    def hold(self, point: str) -> None:
        """Called in the thread itself, at each failpoint."""
        if not self._dead:
            self.at = point
            self._held.release()
            self._go.acquire()
        if self._dead:
            raise _Killed

    def step(self) -> None:
        """Lets it go on to its next failpoint."""
        COUNTS["steps"] += 1
        self._go.release()
        if not wait_while_it_moves(lambda seconds: self._held.acquire(timeout=seconds), lambda: round(time.process_time(), 1)):
            raise Violation(f"{self!r} neither came to a failpoint nor to its end, and nothing moves any more")

    def bury(self) -> None:
        """Ends the thread, without another write of it."""
        self._dead = True
        self._go.release()
        self.join(30)


# --- the provider's side --------------------------------------------------------------------------------------------


class Echo(BaseModel):
    """An answer that says whose it is."""

    ticket: str


_TICKET = re.compile(r"<[a-z0-9-]+>")
_BROKEN = b"keld_emulator"  # what the emulator answers that breaks the schema


def echo(body: dict[str, Any]) -> dict[str, str]:
    """The ticket that the request asks about."""
    return {"ticket": _TICKET.findall(str(body.get("messages") or body["contents"]))[-1]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Purchase:
    """One row that was paid, as the provider's bill and result files have it."""

    ticket: str
    shard: str
    entry: BillEntry
    delivered: bool  # its line can be read
    served: bool  # and carries the whole answer
    broken: bool  # and carries one that breaks the schema: it may be asked again

    def __repr__(self) -> str:
        return f"<{self.entry.batch_id} {self.entry.custom_id}{'' if self.delivered else ', its line lost'}>"


class World:
    """One emulator and the SDK clients that lead there, for all schedules of a process; each begins with `fresh`."""

    def __init__(self) -> None:
        self.emulator = Emulator(frozen=True, latency_s=_LATENCY_S, cancel_s=3, responder=echo).start()
        self.settings = self.emulator._live.store.settings
        # Whose each request was that was answered, by its digest: a bill of single requests tells no more.
        self.tickets: dict[str, str] = {}
        self._listen()
        self.providers: dict[str, Provider] = {}
        self.folder = Path(tempfile.mkdtemp(prefix="keld-schedules-"))
        self.ledger = Ledger(f"sqlite:///{self.folder / 'ledger.db'}")
        atexit.register(self.close)

    def close(self) -> None:
        self.ledger.close()
        self.emulator.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _listen(self) -> None:
        answerer = self.emulator._live.answerer  # of all services
        answer = answerer.answer

        def heard(ask: Any, *more: Any) -> Any:
            self.tickets[ask.digest.hex()] = _TICKET.findall(ask.body.decode())[-1]
            return answer(ask, *more)

        mock.patch.object(answerer, "answer", heard).start()  # as long as the process lives

    def fresh(self) -> None:
        """As it was when it started, at `START`."""
        emulator, live = self.emulator, self.emulator._live
        live.store.wait()
        emulator.clear_faults()
        with live.store.lock:
            live.store._files.clear()
            live.store._batches.clear()
            live.store.objects._objects.clear()
            live.services["bedrock"].jobs.tokens.clear()
            os.truncate(live.store.realtime_bill._path, 0)
            live.store.settings = self.settings
            for path in live.store.folder.iterdir():  # ids are drawn again as before, and the files of a batch have its id
                if path.is_file() and path != live.store.realtime_bill._path:
                    path.unlink()
        live.gate.calls.clear()
        self.tickets.clear()
        emulator._clock._frozen_at, emulator._clock._offset_s = START.timestamp(), 0.0
        # Emptied, not made again: SQLAlchemy compiles its statements once an engine, a third of the time of a schedule.
        with sqlite3.connect(self.folder / "ledger.db") as db:
            for (table,) in db.execute(
                "SELECT name FROM sqlite_master WHERE name LIKE 'keld\\_%' ESCAPE '\\' AND type = 'table'"
            ).fetchall():
                if table != "keld_version":
                    db.execute(f"DELETE FROM {table}")

    def batches(self) -> list[Any]:
        """Every batch that has landed, the oldest first, as the provider holds it; with its rows, which no wire shows."""
        return list(reversed(self.emulator._live.store.batches()))

    def purchases(self) -> list[Purchase]:
        """Every row that was paid."""
        bill = defaultdict(list)
        for entry in self.emulator.bill():
            bill[entry.batch_id].append(entry)
        return [bought for batch in self.batches() if batch.id in bill for bought in _bought(batch, bill[batch.id])]

    def lives(self) -> Iterator[tuple[str, float, float, str]]:
        """(ticket, from, to, batch id) of each row of each batch, in unix seconds; a batch that is under way has no end."""
        now = self.emulator._clock.time()
        for batch in self.batches():
            ended = batch.phase(now).ended_at
            for ticket in _tickets(batch).values():
                yield ticket, batch.created_at, float("inf") if ended is None else ended, batch.id


@cache
def world() -> World:
    """The one of this process."""
    return World()


def _tickets(batch: Any) -> dict[str, str]:
    """Ticket by custom_id."""
    return {batch.envelope.read(row)[0]: _TICKET.findall(row.decode())[-1] for row in batch.rows or ()}


def _bought(batch: Any, entries: Iterable[BillEntry]) -> Iterator[Purchase]:
    tickets, lines = _tickets(batch), _lines(batch)
    for entry in entries:
        ticket, line = tickets[entry.custom_id or ""], lines.get(entry.custom_id or "")
        yield Purchase(
            ticket=ticket,
            shard=_shard_of(entry.custom_id or ""),
            entry=entry,
            delivered=line is not None,
            served=line is not None and f'{{\\"ticket\\":\\"{ticket}\\"}}'.encode() in line,
            broken=line is not None and _BROKEN in line,
        )


def _shard_of(custom_id: str) -> str:
    """Its first ten letters, with a hyphen behind them or without."""
    return custom_id[:10]


def _lines(batch: Any) -> dict[str, bytes]:
    """The result lines that can be read, by custom_id."""
    found: dict[str, bytes] = {}
    traits, status = preset_of(batch.provider, batch.provider).traits, batch.phase(world().emulator._clock.time()).status
    if (status == "expired" and not traits.keeps_on_expiry) or (status == "cancelled" and not traits.keeps_on_cancel):
        return found
    ids = {custom_id: f'"{custom_id}"'.encode() for custom_id in _tickets(batch)}  # each kind has it in a field of its own
    for line in batch.out_path.read_bytes().split(b"\n") + batch.error_path.read_bytes().split(b"\n"):
        with suppress(msgspec.MsgspecError, UnicodeDecodeError):
            msgspec.json.decode(line)
            found.update(dict.fromkeys([custom_id for custom_id, quoted in ids.items() if quoted in line], line))
    return found


def _end_of(batch_id: str) -> str:
    """A batch's id as the bill has it: without the names of projects and regions that stand before it on the wire."""
    return batch_id.rpartition("/")[2]


# --- what goes wrong ------------------------------------------------------------------------------------------------


def _http(at: str, *, times: tuple[int, ...] = (1, 3, 8)) -> list[dict[str, Any]]:
    """The faults of a call that pays nothing; 3 are all the tries the SDK makes."""
    kinds: list[dict[str, Any]] = [
        {"do": "drop_before"},
        {"do": "drop_after"},
        {"do": "status", "status": 500, "retry_after": 0.001},
        {"do": "status", "status": 503, "retry_after": 0.001, "after": True},
        {"do": "status", "status": 429, "retry_after": 0.001},
        {"do": "status", "status": 401},
        {"do": "garbage"},
        {"do": "garbage", "after": True},
    ]
    return [{"at": at, "times": n, **kind} for n in times for kind in kinds]


LAGS_S = (5, 40, 200)  # a list that lags for longer than Keld looks leaves no proof
LANDINGS_S = (5, 20, 80, 200, 380, 500, 900, 4000, 100_000)
# Where nothing can keep it from landing, a create that lands later than Keld waits is bought a second time, known and counted.
_PROVABLE_S = 900

# Done, and refused in the provider's own shape: one look tells, unless the list lags; then it is bought a second time, known and counted.
_COPIED = (400, 403, 404, 429)

_CREATE: list[dict[str, Any]] = [
    {"do": "drop_after"},
    {"do": "drop_before"},
    {"do": "status", "status": 500, "after": True},
    {"do": "status", "status": 502, "after": True},
    {"do": "status", "status": 500},
    {"do": "status", "status": 503},
    {"do": "status", "status": 408},
    {"do": "status", "status": 409},
    {"do": "status", "status": 429, "retry_after": 0.001},
    {"do": "status", "status": 429, "retry_after": 90},
    {"do": "status", "status": 401},
    {"do": "status", "status": 404},
    {"do": "status", "status": 400},
    {"do": "redirect"},
    {"do": "garbage"},
    {"do": "garbage", "after": True},
    *({"do": "garbage", "status": status, "after": after} for status in (400, 403, 404, 413, 429) for after in (False, True)),
    *({"do": "status", "status": status, "after": True, "retry_after": 90} for status in _COPIED),
    {"do": "twice"},
    *({"do": "hidden", "for_s": lag} for lag in LAGS_S),
    *({"do": "list_lag", "for_s": lag} for lag in LAGS_S),
    *({"do": "late_landing", "after_s": after_s} for after_s in LANDINGS_S),
]
_LIFE: list[dict[str, Any]] = [
    *({"at": "life", "do": "expire", "done": share, "after_s": after_s} for share in (0, 0.5, 0.9) for after_s in (40, 86_400)),
    {"at": "life", "do": "status", "value": "paused"},
    *({"at": "rows", "do": "error", "status": status, "fraction": share} for status in (500, 400) for share in (0.5, 1)),
    *({"at": "rows", "do": do, "fraction": share} for do in ("refusal", "length", "invalid") for share in (0.5, 1)),
    {"at": "results", "do": "no_error_id"},
    *({"at": "lines", "do": do, "fraction": share} for do in ("missing", "cut", "garbage", "duplicate", "foreign", "blank") for share in (0.4,)),
    {"at": "lines", "do": "reorder"},
    *({"at": "download", "do": "truncate", "bytes": size, "times": n} for size in (0, 300) for n in (1, 8)),
    {"at": "download", "do": "truncate", "bytes": 300, "times": 1, "clean": True},
]  # fmt: skip
# Anthropic's batches carry no mark: one that lies about its size while it runs cannot be distinguished from another owner's.
_OF_OPENAI = {"match": {"provider": "openai"}}
GRAVE = [{"at": "create", **fault} for fault in _CREATE]
FAULTS = [
    *GRAVE,
    *_LIFE,
    {"at": "life", "do": "stuck"},
    {"at": "life", "do": "stuck", "done": 0},
    {"at": "life", "do": "counts", "completed": 0, "failed": 0, **_OF_OPENAI},
    {"at": "life", "do": "counts", "total": 99, **_OF_OPENAI},
    *({"at": "lines", "do": do, **_OF_OPENAI} for do in ("missing", "cut", "garbage", "duplicate", "foreign", "blank")),
    {"at": "life", "do": "token_limit", **_OF_OPENAI},
    {"at": "life", "do": "fail", **_OF_OPENAI},
    *(fault for at in ("upload", "delete", "get", "list", "cancel") for fault in _http(at)),
    *_http("download"),
]
# Half of the time at the one call that pays.
_faults = st.sampled_from(GRAVE) | st.sampled_from(FAULTS)


# --- the schedule ---------------------------------------------------------------------------------------------------

# Where a worker is worth holding; any other point is reached by small steps.
POINTS = (
    "lease.claimed", "upload.send", "upload.received", "ledger.sending.before", "ledger.sending.after", "create.send", "create.received",
    "ledger.created.before", "ledger.outcome_lost.before", "look.send", "look.received", "ledger.looked.before", "ledger.adopted.before",
    "fence.send", "fence.received", "ledger.absent.before", "poll.send", "poll.received", "ledger.ended.before", "download.request",
    "download.rename", "collect.done", "ledger.collected.before", "ledger.add_shards.before", "sink.write", "sink.written", "lease.release",
    "cancel.send", "cancel.received", "ledger.open_run.before", "staging.input.rename",
)  # fmt: skip
TO_THE_END = "end"
_until = st.one_of(st.integers(1, 4), st.sampled_from(POINTS), st.just(TO_THE_END))
_spans = st.sampled_from([1, 16, 29, 61, 125, 301, 601, 1001, 3600, 90_000, 259_200])
_skews = st.sampled_from([0, 0, 0, 25, -25, 125, -125])


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """One partition that is to be enriched."""

    job: Job
    key: str
    table: pa.Table
    sink: Path

    @property
    def tickets(self) -> list[str]:
        return self.table.column("body").to_pylist()


# What `Schedule.declare` draws beside the provider.
DECLARED: dict[str, Any] = {
    "omens": st.lists(_faults, max_size=3),
    "shapes": st.lists(st.tuples(st.integers(3, 6), st.integers(2, 6)), min_size=1, max_size=2),
    "ceiling": st.sampled_from([None, None, None, "1.0", "1.3", "2.2"]),
    "submitted": st.sampled_from([True, True, True, False]),
    "primed": st.sampled_from([False, False, True]),
}


class Schedule(RuleBasedStateMachine):
    """Rules let workers go on, kill them, turn the clock and break the provider; the end says what must be true then."""

    def __init__(self) -> None:
        super().__init__()
        self.world = world()
        self.world.fresh()
        self.folder = Path(tempfile.mkdtemp(dir=self.world.folder))
        self.ledger = self.world.ledger
        self.patience = Settings(poll_least=timedelta(seconds=_LATENCY_S))
        self.peers: list[Peer] = []  # all that may be asked
        self.terms: dict[str, Any] = {}  # of all jobs, in addition to those of every schedule
        self.keld = self.open_keld(0)
        self.partitions: list[Partition] = []
        self.workers: list[Worker] = []
        self.dead: list[Worker] = []
        self.seen: dict[Path, object] = {}
        self.quiet = True  # nobody broke or cancelled anything
        self.unwritten: set[str] = set()  # partitions that were cancelled when only their output was still to be written
        self.late = False  # a create may land when it was sent again long since
        self.unproven: set[str] = set()  # what `keld reconcile` shows as perhaps ours, in the end
        self.broken = False
        self._names = 0
        # What is drawn in a schedule is the same when it is run again.
        dice = random.Random(1)
        self._patches = [
            mock.patch.object(secrets, "token_hex", lambda size=32: dice.randbytes(size).hex()),
            mock.patch.object(secrets, "choice", dice.choice),
            mock.patch.object(failpoint, "on_pass", self.hold),
        ]
        for patch in self._patches:
            patch.start()

    # -- rules --------------------------------------------------------------------------------------------------

    @initialize(peer=st.sampled_from([openai, anthropic]), **DECLARED)
    def declare(
        self,
        peer: Peer,
        omens: list[dict[str, Any]],
        shapes: list[tuple[int, int]],
        ceiling: str | None,
        submitted: bool,
        primed: bool = False,
    ) -> None:
        """A provider and what will go wrong there; 1 or 2 partitions of (rows, most rows a shard), their ceiling in times of their worst cost.

        Args:
            primed: one row goes ahead as a batch of one, where there are four or more, and writes the prompt cache.
        """
        COUNTS["begun"] += 1
        COUNTS["primed"] += primed
        if primed:
            self.terms = {**self.terms, "probe": "batch", "system": "Echo what you are told, by the handbook. " * 500}
        self.peer, self.peers = peer, self.peers or [peer]
        for n, (rows, most) in enumerate(shapes):
            table = pa.table({"ticket_id": [f"t-{i}" for i in range(rows)], "body": [f"<p{n}-{i}>" for i in range(rows)]})
            terms = {} if ceiling is None else {"ceiling_usd": Decimal(ceiling) * self._worst_usd(table, most)}
            self.partitions.append(Partition(job=self._job(most, **terms), key=f"p{n}", table=table, sink=self.folder / f"out-{n}.parquet"))
            if submitted:
                self._submit(self.keld, self.partitions[-1])
        for fault in omens:
            self.break_(fault, 0)

    @rule(
        n=st.integers(0, 1), verb=st.sampled_from(["advance", "advance", "advance", "poll", "submit"]), until=_until, skew_s=_skews
    )  # fmt: skip
    @precondition(lambda self: len(self.workers) < 4)
    def begin(self, n: int, verb: str, until: int | str, skew_s: int) -> None:
        """A worker, of a clock of its own, does a verb, as far as a point."""
        partition, keld = self._partition(n), self.open_keld(skew_s)
        self._names += 1
        act = {"advance": self._advance, "poll": self._poll, "submit": self._submit}[verb]
        self.workers.append(Worker(f"{self._names}-{verb}-{partition.key}", lambda: act(keld, partition)))
        self._let_go(self.workers[-1], until)

    @rule(n=st.integers(0, 3), until=_until)
    @precondition(lambda self: self.workers)
    def go_on(self, n: int, until: int | str) -> None:
        """A worker goes on to a point."""
        self._let_go(self.workers[n % len(self.workers)], until)

    @rule(n=st.integers(0, 3))
    @precondition(lambda self: self.workers)
    def kill(self, n: int) -> None:
        """A worker dies where it is."""
        COUNTS["kills"] += 1
        self.dead.append(self.workers.pop(n % len(self.workers)))

    @rule(seconds=_spans)
    def turn(self, seconds: int) -> None:
        """Time passes."""
        self.world.emulator.advance(seconds)

    @rule(n=st.integers(0, 1), ticks=st.integers(1, 3))
    def tick(self, n: int, ticks: int) -> None:
        """An orchestrator's sensor: looks whenever the job run wants to be looked at."""
        for _ in range(ticks):
            self.begin_whole(n)
            status = self.keld.find("echo", self._partition(n).key)
            if status is None or status.over:
                return
            self.world.emulator.advance(self._wait(status, timedelta(seconds=1)))

    @rule(fault=_faults, skip=st.integers(0, 1))
    def break_(self, fault: dict[str, Any], skip: int) -> None:
        """The provider will do something odd."""
        self.quiet = False
        fault = self.at_home(fault)
        fenced = all(preset_of(peer.name, peer.name).traits.fences for peer in self.peers)
        if not fenced and fault["at"] == "create" and fault.get("after_s", 0) > _PROVABLE_S:
            self.late = True
        copied = fault["do"] == "status" and fault.get("after") and fault["status"] in _COPIED
        if fault["at"] == "create" and (copied or fault["do"] == "twice"):
            self.late = True
        self.world.emulator.faults({"rules": [{**fault, "skip": skip}]})

    def at_home(self, fault: dict[str, Any]) -> dict[str, Any]:
        """The fault, as it can happen at the provider that is asked."""
        return fault

    @rule(n=st.integers(0, 1), sure=st.integers(0, 2))
    def cancel(self, n: int, sure: int) -> None:
        """The user cancels; one time in three, or no schedule would come far."""
        partition = self._partition(n)
        status = self.keld.find("echo", partition.key)
        if status is not None and not sure:
            self.quiet = False
            if self.keld.cancel(status.id).state is RunState.WRITING:
                self.unwritten.add(partition.key)

    # -- at every step ------------------------------------------------------------------------------------------

    def _check_step(self) -> None:
        """I6 and the ceiling, whenever a worker is held."""
        for partition in self.partitions:
            if partition.sink.exists() and self.seen.get(partition.sink) != (mark := partition.sink.stat().st_mtime_ns):
                self._check_output(partition)
                self.seen[partition.sink] = mark
        if self.partitions[0].job.ceiling is None:
            return
        for run in self.ledger.catalog.runs("default"):
            # What is bought a second time, because its create landed too late to be seen, is counted, and may pass the ceiling.
            orphans = self.ledger.orphans.of(run.id) if self.late else []
            twice = sum(
                (orphan.worst_usd if orphan.cost_usd is None else orphan.cost_usd + orphan.doubtful_usd for orphan in orphans), Decimal(0)
            )
            perhaps = self.ledger.candidates.of(run.id) if self.late else []
            twice += sum((one.worst_usd for one in perhaps if one.settled_at is None), Decimal(0))
            if run.ceiling_usd is not None and run.spent_usd + run.reserved_usd - twice > run.ceiling_usd:
                self._violated(f"ceiling: {run.spent_usd} spent + {run.reserved_usd} reserved > {run.ceiling_usd}")

    # -- at the end ---------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            if self.partitions and not self.broken:
                self._converge()
                self.world.emulator.advance(timedelta(days=2))  # whatever is still on its way lands, and is swept up
                self.keld.reconcile()
                self.world.emulator.advance(timedelta(minutes=5))
                self.keld.reconcile()
                self._converge()
                self._check()
                COUNTS["schedules"] += 1
        finally:
            for worker in [*self.dead, *self.workers]:
                worker.bury()
            for patch in self._patches:
                patch.stop()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _converge(self) -> None:
        """Nothing goes wrong any more; every job run comes to its end."""
        COUNTS["faults"] += len(self.world.emulator.fault_log())
        self.world.emulator.clear_faults()
        for partition in self.partitions:
            if self.keld.find("echo", partition.key) is None:
                self._submit(self.keld, partition)  # the worker that should submit it died before it did
        for n in range(_TICKS_MOST):
            open_runs = self.keld.statuses(open_only=True)
            if not open_runs:
                return
            for status in open_runs:
                with suppress(KeldError):
                    self.keld.advance(status.id, budget_s=10**6)
            least = _TICK_LEAST if n < _PATIENT_TICKS else timedelta(hours=6)
            self.world.emulator.advance(min(self._wait(self.keld.status(status.id), least) for status in open_runs))
        self._violated(f"I7: not over after {_TICKS_MOST} ticks: {[(run, run.problem, run.batches) for run in open_runs]}")

    def _check(self) -> None:
        """The invariants, from the provider's side."""
        events = [event.kind for run in self.ledger.catalog.runs("default") for event in self.ledger.events(run.id)]
        COUNTS.update(kind for kind in events if kind in _TOLD)
        self.unproven = self._unproven()
        self._check_purchases()
        self._check_books()
        self._check_batches()
        for partition in self.partitions:
            self._check_output(partition)
            self._check_run(partition)
        if again := [call for call in self._paying() if call.retry_count]:
            self._violated(f"what pays was sent again by the SDK: {again}")
        self._check_again()

    def _check_purchases(self) -> None:
        """I2, I4: a row is bought again only where its line was lost or broke the schema, and what the ledger says was paid is what the bill says."""
        bought = [purchase for purchase in self.world.purchases() if purchase.entry.batch_id not in self.unproven]
        COUNTS["purchases"] += len(bought)
        runs = {shard.id: run.id for run in self.ledger.catalog.runs("default") for shard in self.ledger.shards(run.id)}
        orphans, by_run = self._orphans(), defaultdict(list)
        for purchase in bought:
            if purchase.entry.batch_id not in orphans:
                by_run[runs[purchase.shard], purchase.ticket].append(purchase)
        for (_, ticket), times in by_run.items():
            if len(times) > 1 + sum(not self._is_final(purchase) for purchase in times):
                self._violated(f"I2: {ticket} was bought {len(times)} times: {times}")
        served = Counter(purchase.ticket for times in by_run.values() for purchase in times if purchase.served and self._is_final(purchase))
        if twice := [ticket for ticket, times in served.items() if times > 1]:
            self._violated(f"I2: answered and bought again: {twice}")
        shown = self._quarantined()  # what these cost is not known, and stays reserved
        self._check_cost([purchase.entry for purchase in bought if purchase.delivered and purchase.shard not in shown])

    def _is_final(self, purchase: Purchase) -> bool:
        """Whether nothing that was bought gives cause to ask again."""
        return purchase.delivered and not purchase.broken

    def _check_cost(self, delivered: list[BillEntry]) -> None:
        spent = sum((run.spent_usd for run in self.ledger.catalog.runs("default")), Decimal(0))
        billed = billed_usd(mock.Mock(bill=lambda: delivered), START)
        if spent != billed:
            self._violated(f"I4: the ledger says {spent}, the bill says {billed}")

    def _check_books(self) -> None:
        """I4, batch by batch: where nothing is in doubt, to the pico-dollar; where something is, within what is reserved for it."""
        bill = [entry for entry in self.world.emulator.bill() if entry.batch_id not in self.unproven]
        try:
            COUNTS[f"books {bill_check.check_one(self.ledger, bill)}"] += 1
        except bill_check.BooksDisagree as found:
            self._violated(f"I4: {found}")

    def _check_batches(self) -> None:
        """I3, I5: no two batches hold a row at one time, and the ledger knows every batch."""
        held: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
        orphans = self._orphans()
        for ticket, since, until, batch_id in self.world.lives():
            if batch_id not in orphans | self.unproven:
                held[ticket].append((since, until, batch_id))
        for ticket, lives in held.items():
            lives.sort()
            for (_, until, first), (since, _, second) in itertools.pairwise(lives):
                if since < until:
                    self._violated(f"I3: {ticket} in {first} and {second} at one time")
        known = bill_check.batches_of(self.ledger)
        for batch in self.world.batches():
            if batch.id not in known and batch.id not in self.unproven and not self._is_reported(batch):
                self._violated(f"I5: the ledger does not know {batch!r}")

    def _orphans(self) -> set[str]:
        """The batches that the ledger counts as bought too often; no row of them may be paid where no create landed too late.

        At a host that makes a late create of a removed input, and fails it, they are listed, and cost nothing.
        """
        orphans = {_end_of(orphan.batch_id) for run in self.ledger.catalog.runs("default") for orphan in self.ledger.orphans.of(run.id)}
        if not self.late and (paid := orphans & {entry.batch_id for entry in self.world.emulator.bill()}):
            self._violated(f"I2: bought too often, though every create could be accounted for: {paid}")
        return orphans

    def _unproven(self) -> set[str]:
        """Batches that landed too late and never end, at a host where only results tell whose they are: nobody may cancel them, but all are shown."""
        if not self.late:
            return set()
        shown = {_end_of(found.batch_id) for found in self.keld.reconcile(dry_run=True) if found.verdict is Verdict.UNPROVEN}
        COUNTS["unproven"] += len(shown)
        return shown

    def _is_reported(self, batch: Any) -> bool:
        """Whether the shard whose rows it holds is shown as quarantined."""
        return bool(self._quarantined() & {_shard_of(custom_id) for custom_id in _tickets(batch)})

    def _quarantined(self) -> set[str]:
        shards = (shard for run in self.ledger.catalog.runs("default") for shard in self.ledger.shards(run.id))
        return {shard.id for shard in shards if shard.state is State.QUARANTINED}

    def _check_run(self, partition: Partition) -> None:
        """I1, I8: every row once, in order, with one outcome, its own answer, and none that was paid thrown away."""
        status = self.keld.find("echo", partition.key)
        assert status is not None
        rows = self.keld.read(status.id).read_all()
        if not rows.select(partition.table.schema.names).equals(partition.table):
            self._violated(f"I1: {partition.key} came back as {rows.select(partition.table.schema.names).to_pylist()}")
        served = self._served()
        for row in rows.to_pylist():
            outcome, answered = Outcome(row["keld_outcome"]), row["ticket"] is not None
            if answered and row["ticket"] != row["body"]:
                self._violated(f"I8: {row['body']} has the answer of {row['ticket']}")
            if outcome is Outcome.QUARANTINED:
                continue  # shown, whatever became of it
            if answered is not (outcome is Outcome.ANSWERED) or answered is not (row["body"] in served):
                self._violated(f"I1: {row['body']} is {outcome}, its answer {row['ticket']}, bought and served: {row['body'] in served}")
            if self.quiet and partition.job.ceiling is None and not answered:
                self._violated(f"I1: nothing went wrong, and {row['body']} is {outcome}")

    def _served(self) -> set[str]:
        """The tickets that were paid and answered, as far as an answer is used."""
        orphans = self._orphans() | self.unproven  # what these answered is counted, or shown, and not used
        return {purchase.ticket for purchase in self.world.purchases() if purchase.served and purchase.entry.batch_id not in orphans}

    def _check_output(self, partition: Partition) -> None:
        if partition.key in self.unwritten and not partition.sink.exists():
            return
        try:
            rows = pq.read_table(partition.sink)
        except (OSError, pa.ArrowException) as error:
            self._violated(f"I6: {partition.sink.name} is not whole: {error}")
        if not rows.select(partition.table.schema.names).equals(partition.table):
            self._violated(f"I6: {partition.sink.name} holds {rows.num_rows} rows of {partition.table.num_rows}")

    def _check_again(self) -> None:
        """I9: what is finished is not bought again."""
        before = len(self._paying())
        for partition in self.partitions:
            status = self.keld.find("echo", partition.key)
            assert status is not None
            if status.answered == status.rows:
                self._submit(self.keld, partition)
            self._advance(self.keld, partition)
        if len(self._paying()) != before:
            self._violated("I9: a job run that was over bought again")

    # -- behind -------------------------------------------------------------------------------------------------

    def hold(self, point: str) -> None:
        """What every failpoint calls."""
        thread = threading.current_thread()
        if isinstance(thread, Worker):
            thread.hold(point)

    def open_keld(self, skew_s: float) -> Keld:
        """An environment of the same ledger and staging, whose clock is wrong by `skew_s`."""
        now, skew = self.world.emulator.now, timedelta(seconds=skew_s)
        keld = Keld(home=self.folder, ledger_url=self.ledger.url, clock=lambda: now() + skew, settings=self.patience)
        keld._ledger, keld._accounts.connected = self.ledger, self.world.providers  # to open them costs more than the schedule
        return keld

    def begin_whole(self, n: int) -> None:
        worker = Worker(f"tick-{n}", lambda: self._advance(self.keld, self._partition(n)))
        self.workers.append(worker)
        self._let_go(worker, TO_THE_END)

    def _let_go(self, worker: Worker, until: int | str) -> None:
        left = until if isinstance(until, int) else -1
        while worker.at is not None and left != 0:
            worker.step()
            left -= 1
            self._check_step()
            if worker.at == until:
                return
        if worker.at is None:
            self.workers.remove(worker)
            if worker.fault is not None:
                self.broken = True
                raise Violation(f"{worker.name} failed: {worker.fault!r}") from worker.fault

    def _partition(self, n: int) -> Partition:
        return self.partitions[n % len(self.partitions)]

    @staticmethod
    def _submit(keld: Keld, partition: Partition) -> None:
        keld.submit(partition.job, partition.table, partition=partition.key, sink=partition.sink)

    @staticmethod
    def _advance(keld: Keld, partition: Partition) -> None:
        status = keld.find("echo", partition.key)
        if status is not None:
            keld.advance(status.id, budget_s=10**6)

    @staticmethod
    def _poll(keld: Keld, _: Partition) -> None:
        keld.poll(budget_s=10**6)

    def _job(self, most: int, **terms: Any) -> Job:
        asked: dict[str, Any] = {
            "name": "echo",
            "key": "ticket_id",
            "prompt": "Echo {body}",
            "output_type": Echo,
            "models": self.peer.models,
        }
        return Job(**{**asked, "max_output_tokens": 64, "max_shard_rows": most, **self.terms, **terms})

    def _paying(self) -> list[Call]:
        """The calls that may cost money."""
        return [call for peer in self.peers for call in creates(self.world.emulator, peer)]

    def _worst_usd(self, table: pa.Table, most: int) -> Decimal:
        chosen = self.keld.plan(self._job(most), table).chosen
        assert chosen is not None
        return chosen.worst_usd

    def _wait(self, status: Status, least: timedelta) -> timedelta:
        now = self.world.emulator.now()
        return max((status.next_check_at or now) - now, least)

    def _violated(self, what: str) -> None:
        self.broken = True
        raise Violation(what)


# --- many of them ---------------------------------------------------------------------------------------------------


def shards(schedules: int, seed: int) -> list[tuple[int, int]]:
    """(seed, how many) of each shard of so many schedules."""
    return [(seed + n, min(_SHARD, schedules - n * _SHARD)) for n in range(-(-schedules // _SHARD))]


SHARDS = shards(int(os.environ.get("KELD_SCHEDULES", "8")), int(os.environ.get("KELD_SEED", "0")))


@contextmanager
def prepared(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The SDKs' environment leads to the emulator of this process."""
    for name, value in world().emulator.env().items():
        monkeypatch.setenv(name, value)
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)  # what pytest keeps of them would outweigh everything else
    yield
    logging.disable(level)


def explore(number: int, schedules: int, *, kind: type[Schedule] = Schedule, shrink: bool = True) -> dict[str, int]:
    """Runs that many schedules of a kind, drawn from the seed `number`; gives what happened in them, counted.

    Raises:
        Violation: of the shortest schedule that was found to break a promise; its notes are the steps.
    """
    COUNTS.clear()
    machine = seed(number)(type(kind.__name__, (kind,), {}))
    chosen = settings(
        max_examples=schedules,
        stateful_step_count=_STEPS,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        print_blob=False,  # the seed and the steps say it all
        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    try:
        run_state_machine_as_test(machine, settings=chosen)
    except Violation as violation:
        violation.add_note(f"Found in schedule {COUNTS['begun']} of seed {number}: make schedules SEED={number} N={schedules}")
        raise
    return dict(COUNTS)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What happened in all shards, where this module is given as a plugin (`make schedules`)."""
    total: Counter[str] = Counter()
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    for report in reports:
        total.update({name: count for name, count in report.user_properties if isinstance(count, int)})
    found = sum(report.failed for report in reports)
    terminalreporter.write_line(f"{', '.join(f'{count:,} {name}' for name, count in sorted(total.items()))}, {found} violations")
