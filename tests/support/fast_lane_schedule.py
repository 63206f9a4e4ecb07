"""Fast lane schedule: random schedules whose job runs use the fast lanes: from the start, or as the rescue of a late batch.

A stretch runs in its worker's own thread, event loop and all: held at a failpoint, all of it is held, as by SIGSTOP; killed there, all
that was in flight is in flight for ever.  What a dead process lets go by itself, the lock of its journal, is let go for it.
What must be true is reckoned from the bill, and from the requests as they were begun and came back.
"""

from __future__ import annotations

import asyncio
import fcntl
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock
from weakref import WeakKeyDictionary

import httpx2
import pyarrow.compute as pc
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from keld import Settings
from keld.emulator import BillEntry, Call
from keld.outcome import Outcome
from keld.price import Lane
from keld.providers import call
from keld.realtime import Options, Time
from keld.realtime.journal_file import JournalFile
from keld.reply import Reply
from keld.request import position_of
from keld.runner.context import RunContext
from keld.state import Event, State
from tests.support.ticket_job import Peer, anthropic, openai
from tests.support.worker_schedule import (
    _BROKEN,
    COUNTS,
    POINTS,
    START,
    TO_THE_END,
    Purchase,
    Schedule,
    Worker,
    _faults,
    _http,
    _skews,
    _spans,
)

_REPLY_S = 0.25  # what each reply takes
_PATHS = ("/v1/chat/completions", "/v1/messages")
_MINUTE = timedelta(minutes=1)

# --- what is asked, and what goes wrong -----------------------------------------------------------------------------

_BOTH = [openai.models, anthropic.models]
TERMS: list[dict[str, Any]] = [
    {"lane": "standard"},
    {"lane": "standard", "deadline": START + 120 * _MINUTE},
    {"deadline": START + 4 * _MINUTE},
    {"deadline": START + 75 * _MINUTE},
    {"deadline": START + 75 * _MINUTE},
    {"deadline": START + 120 * _MINUTE},
    {"deadline": START + 75 * _MINUTE, "models": _BOTH},
    {"deadline": START + 75 * _MINUTE, "models": _BOTH, "accept": pc.field("ticket") > "<p0-1>"},
    {"models": _BOTH, "accept": pc.field("ticket") > "<p0-1>"},
    {"deadline": START + 75 * _MINUTE, "hedge": True},
    {"deadline": START + 75 * _MINUTE, "probe": True},
]
_NOT_ACCEPTED = {"<p0-0>", "<p0-1>"}  # of the first model of a cascade
_ROWS = [
    *({"do": "error", "status": status} for status in (500, 400)),
    *({"do": do} for do in ("refusal", "length", "invalid")),
]
REQUESTS: list[dict[str, Any]] = [
    # Not a 503 that says when to come back, after the work was done: who says so has not taken the request (`providers.call`).
    *(fault for fault in _http("realtime", times=(1, 3, 30)) if not (fault.get("after") and "retry_after" in fault)),
    *({"at": "realtime", "do": "status", "status": 503, "after": True, "times": n} for n in (1, 3)),
    *({"at": "realtime", "do": "drop_after", "times": n} for n in (1, 2, 5)),
    *({"at": "realtime", "do": "status", "status": 429, "times": n, "retry_after": wait} for n in (1, 30) for wait in (1, 40, 4_000)),
    *({"at": "realtime", "do": "status", "status": 503, "times": n, "retry_after": wait} for n in (1, 30) for wait in (2, 600)),
    *({"at": "realtime", "do": "status", "status": status, "times": n} for n in (1, 30) for status in (400, 404, 408, 409, 500, 529)),
    {"at": "realtime", "do": "status", "status": 502, "after": True, "times": 2},
    {"at": "realtime", "do": "redirect"},
    {"at": "realtime", "do": "delay", "delay_s": 0.02, "times": 2},
    *({"at": "rows", "match": {"lane": "realtime"}, "times": n, **fault} for n in (1, 4) for fault in _ROWS),
    {"at": "rows", "do": "standard_tier", "match": {"provider": "openai", "lane": "realtime"}, "times": 4},
]
_HEEDLESS = {"at": "life", "do": "stuck", "status": "cancelling"}
SLOW: list[dict[str, Any]] = [
    {"at": "life", "do": "stuck", "done": 0},
    {"at": "life", "do": "stuck", "done": 0.5},
    _HEEDLESS,
    {"at": "life", "do": "expire", "done": 0.5, "after_s": 3_000},
]
_any_fault = st.sampled_from(REQUESTS) | st.sampled_from(SLOW) | _faults
_STRETCH = ("realtime.send", "realtime.received", "realtime.journal")
_until_point = st.one_of(st.integers(1, 4), st.sampled_from(_STRETCH), st.sampled_from([*POINTS, *_STRETCH]), st.just(TO_THE_END))


# --- the requests, as they are begun and come back -------------------------------------------------------------------


@dataclass(kw_only=True, eq=False)
class Request:
    """One request of a fast lane; `end` is None while it is in flight: `unpaid`, `kept` (its reply is on disk), `doubt`, or `killed`."""

    shard: str
    position: int
    ticket: str
    at: float  # unix seconds
    first: bool  # of a cascade: what this model refuses is asked of the next one
    vain: bool  # and so is this row, whatever it answers
    end: str | None = None
    served: bool = False  # the reply that was kept carries the whole answer
    again: bool = True  # it may be asked again, for its own sake

    def __repr__(self) -> str:
        return f"<{self.ticket} in {self.shard} {self.end or 'in flight'}{', served' if self.served else ''}>"

    def keep(self, line: bytes, outcome: Outcome) -> None:
        """Its line is durable."""
        self.end = "doubt" if outcome is Outcome.LOST else "unpaid" if outcome is Outcome.ERRORED else "kept"
        self.served = f'{{\\"ticket\\":\\"{self.ticket}\\"}}'.encode() in line
        self.again = self.end == "doubt" or _BROKEN in line or self.vain or (self.first and not self.served)


class Watched(JournalFile):
    """A journal that tells the schedule what is asked through it."""

    def __init__(self, schedule: FastLaneSchedule, path: Path, nonce: str, read: Callable[[bytes], list[Reply]]) -> None:
        super().__init__(path, nonce, read)
        self.schedule, self.path, self.nonce, self.read = schedule, path, nonce, read
        self.worker = threading.current_thread()
        self.flying: dict[int, Request] = {}
        schedule.journals.append(self)

    def __exit__(self, *raised: Any) -> None:
        self.schedule.journals.remove(self)
        super().__exit__(*raised)

    async def sending(self, *positions: int) -> None:
        for position in positions:
            self.flying[position] = self.schedule.asked(self.nonce, position)
        await super().sending(*positions)

    def not_done(self, *positions: int) -> None:
        super().not_done(*positions)
        for position in positions:
            self.flying.pop(position).end = "unpaid"

    async def keep(self, lines: Mapping[int, bytes], outcome: Outcome) -> None:
        await super().keep(lines, outcome)
        for position in self.flying.keys() & lines:  # else it was in flight at a kill, and has its end
            self.flying.pop(position).keep(lines[position], outcome)

    def die(self) -> int:
        """What the end of its worker's process leaves; how many requests had no line yet."""
        fcntl.flock(self._marks, fcntl.LOCK_UN)
        for line in self.path.read_bytes().splitlines(keepends=True) if self.flying and self.path.exists() else ():
            for reply in self.read(line):
                position = position_of(reply.custom_id, self.nonce)
                if position in self.flying:
                    self.flying.pop(position).keep(line, reply.outcome)
        for request in self.flying.values():
            request.end = "killed"
        return len(self.flying)


class Wire:
    """The requests of one event loop: sent one after the other, their replies read together, so that a schedule runs the same way twice."""

    def __init__(self) -> None:
        self.turn, self.quiet = asyncio.Lock(), asyncio.Event()
        self.under_way = 0


_wires: WeakKeyDictionary[asyncio.AbstractEventLoop, Wire] = WeakKeyDictionary()
_sent = call.call


async def _in_order(*request: Any) -> Any:
    """In place of `providers.call.call`."""
    wire = _wires.setdefault(asyncio.get_running_loop(), Wire())
    wire.under_way += 1
    wire.quiet.clear()
    try:
        async with wire.turn:
            outcome = await _sent(*request)
    finally:
        wire.under_way -= 1
        if not wire.under_way:
            wire.quiet.set()
    await wire.quiet.wait()
    for _ in range(20):  # whoever has something to do does it first, however fast the reply came
        await asyncio.sleep(0)
    return outcome


_trust = cache(httpx2.create_ssl_context)  # a fifth of the time of a schedule, and none of it speaks TLS


async def _in_the_loop(act: Callable[..., Any], *more: Any) -> Any:
    """In place of `asyncio.to_thread`: a worker is one thread, and is held as one.  Who else has a reply by now comes along first."""
    await asyncio.sleep(0)
    return act(*more)


# --- the schedule ---------------------------------------------------------------------------------------------------


class FastLaneSchedule(Schedule):
    """As `Schedule`, with job runs that have a deadline or a fast lane."""

    def __init__(self) -> None:
        super().__init__()
        self.patience = Settings(poll_least=_MINUTE, poll_most=30 * _MINUTE)
        self.keld = self.open_keld(0)
        self.journals: list[Watched] = []  # those that are open
        self.requests: list[Request] = []
        self.wrong: list[str] = []  # what a request broke; a worker cannot raise it
        self.stale: set[threading.Thread] = set()  # workers that stood still for so long that their lease may be another's
        self.at_once = 8
        self._homes: dict[str, tuple[str, list[str]]] = {}  # the provider and the tickets, by shard
        more = [
            mock.patch("keld.realtime.run.Time", lambda: Time(now=self.world.emulator._clock.time, sleep=self._sleep)),
            mock.patch.object(call, "call", _in_order),
            mock.patch("keld.realtime.run.JournalFile", partial(Watched, self)),
            mock.patch("keld.runner.fast_lane.Options", lambda **how: Options(**how, begin_with=self.at_once)),
            mock.patch.object(asyncio, "to_thread", _in_the_loop),
            mock.patch.object(httpx2, "create_ssl_context", _trust),
            mock.patch.object(RunContext, "is_stale", lambda _: threading.current_thread() in self.stale),
        ]
        for patch in more:
            patch.start()
        self._patches += more

    # -- rules --------------------------------------------------------------------------------------------------

    @initialize(
        peer=st.sampled_from([openai, anthropic]),
        omens=st.lists(_any_fault, max_size=3),
        shapes=st.lists(st.tuples(st.integers(3, 6), st.integers(2, 6)), min_size=1, max_size=2),
        ceiling=st.sampled_from([None, None, None, "1.0", "1.3", "2.2"]),
        submitted=st.sampled_from([True, True, True, False]),
        terms=st.sampled_from(TERMS),
        latency_s=st.sampled_from([30, 5_000, 20_000]),
        at_once=st.sampled_from([1, 2, 8]),
    )
    def declare(
        self,
        peer: Peer,
        omens: list[dict[str, Any]],
        shapes: list[tuple[int, int]],
        ceiling: str | None,
        submitted: bool,
        terms: dict[str, Any],
        latency_s: int,
        at_once: int,
    ) -> None:
        """As for batches; the terms, how long a batch takes, and how many requests are in flight at first."""
        self.terms, self.at_once = terms, at_once
        self.peers = [openai, anthropic] if "models" in terms else [peer]
        store = self.world.emulator._live.store
        store.settings = replace(store.settings, pace=replace(store.settings.pace, latency_s=latency_s))
        omens = [*omens, _HEEDLESS] if "hedge" in terms else omens  # else there is nothing to hedge against
        super().declare(peer, omens, shapes, ceiling, submitted or "deadline" in terms)  # one that has passed is refused

    @rule(
        n=st.integers(0, 1), verb=st.sampled_from(["advance", "advance", "advance", "poll", "submit"]), until=_until_point, skew_s=_skews
    )  # fmt: skip
    @precondition(lambda self: len(self.workers) < 4)
    def begin(self, n: int, verb: str, until: int | str, skew_s: int) -> None:
        super().begin(n, verb, until, skew_s)

    @rule(n=st.integers(0, 3), until=_until_point)
    @precondition(lambda self: self.workers)
    def go_on(self, n: int, until: int | str) -> None:
        super().go_on(n, until)

    @rule(n=st.integers(0, 3))
    @precondition(lambda self: self.workers)
    def kill(self, n: int) -> None:
        super().kill(n)
        self._let_go_of_journals(self.dead[-1])

    @rule(n=st.integers(0, 1), point=st.sampled_from(_STRETCH), passes=st.integers(1, 5), dies=st.booleans(), seconds=_spans)
    @precondition(lambda self: len(self.workers) < 4)
    def break_off(self, n: int, point: str, passes: int, dies: bool, seconds: int) -> None:
        """A worker comes into a stretch, and dies there, or stands still for a while."""
        before = list(self.workers)
        self.begin(n, "advance", point, 0)
        for _ in range(passes - 1):
            for worker in self.workers[len(before) :]:
                self._let_go(worker, point)
        if len(self.workers) > len(before):
            COUNTS["broken off"] += 1
            if dies:
                self.kill(len(before))
        self.turn(seconds)

    @rule(seconds=_spans | st.just(3_600))
    def turn(self, seconds: int) -> None:
        super().turn(seconds)

    @rule(fault=_any_fault, skip=st.integers(0, 3))
    def break_(self, fault: dict[str, Any], skip: int) -> None:
        super().break_(fault, skip)

    # -- behind -------------------------------------------------------------------------------------------------

    def hold(self, point: str) -> None:
        emulator, thread = self.world.emulator, threading.current_thread()
        if point == "realtime.received":
            emulator.advance(_REPLY_S)
        since = emulator.now()
        try:
            super().hold(point)
        except SystemExit:
            if point in _STRETCH and (task := asyncio.current_task()):
                task.add_done_callback(lambda task: task.exception())  # else its loop complains of it, whenever it is collected
            raise
        if emulator.now() - since > self.ledger.leases.lease_for * 0.8:
            self.stale.add(thread)

    async def _sleep(self, seconds: float) -> None:
        """A wait of a stretch turns the clock, when what is under way has come back."""
        while (wire := _wires.get(asyncio.get_running_loop())) and wire.under_way:
            await asyncio.sleep(0.0005)
        self.world.emulator.advance(seconds)
        await asyncio.sleep(0)

    def asked(self, shard_id: str, position: int) -> Request:
        """A request that is about to be sent."""
        home = self._homes.get(shard_id)
        if home is None:
            shard = self.ledger.shard(shard_id)
            assert shard is not None
            key = self.ledger.run(shard.run_id).partition
            tickets = next(partition.tickets for partition in self.partitions if partition.key == key)
            home = self._homes[shard_id] = (shard.provider, tickets)
        ticket, at = home[1][position], self.world.emulator._clock.time()
        request = Request(
            shard=shard_id, position=position, ticket=ticket, at=at, first=self._is_first(home[0]), vain=self._is_vain(home[0], ticket)
        )
        for other in self.requests:
            if other.ticket == request.ticket and other.end is None:
                self.wrong.append(f"I3: {request.ticket} is asked while it is in flight: {other} {request}")
            if other.ticket == request.ticket and other.end == "kept" and not other.again:
                self.wrong.append(f"I2: {request.ticket} is asked again, and has its answer: {other} {request}")
        self.requests.append(request)
        COUNTS["requests"] += 1
        return request

    def _is_vain(self, provider: str, ticket: str) -> bool:
        """Whether this model's answer is not accepted, and the next one is asked."""
        return self._is_first(provider) and ticket in _NOT_ACCEPTED

    def _is_first(self, provider: str) -> bool:
        """Whether it is the first model of a cascade: what it refuses is asked of the next one, too."""
        return "accept" in self.terms and provider == openai.name

    def _is_final(self, purchase: Purchase) -> bool:
        provider = purchase.entry.provider
        refused = self._is_first(provider) and not purchase.served
        return super()._is_final(purchase) and not refused and not self._is_vain(provider, purchase.ticket)

    def _let_go_of_journals(self, worker: Worker) -> None:
        for journal in [journal for journal in self.journals if journal.worker is worker]:
            self.journals.remove(journal)
            lost = journal.die()
            COUNTS["killed in flight"] += lost
            if lost > self.at_once + 2:  # a quarter more with each answer, of 6 at most
                self._violated(f"I2: {lost} requests were in flight, and only {self.at_once} may be at first")

    def _paying(self) -> list[Call]:
        return [*super()._paying(), *(call for call in self.world.emulator.requests() if call.path in _PATHS)]

    # -- at every step, and at the end --------------------------------------------------------------------------

    def _check_step(self) -> None:
        super()._check_step()
        if self.wrong:
            self._violated(self.wrong[0])

    def teardown(self) -> None:
        for journal in list(self.journals):  # who hangs in a stretch keeps all others out of it, until somebody kills it
            worker = journal.worker
            assert isinstance(worker, Worker), "the verbs that are called in this thread have come to their end"
            self.workers.remove(worker)
            self.dead.append(worker)
            self._let_go_of_journals(worker)
        super().teardown()

    def _check(self) -> None:
        lost = Counter(request.ticket for request in self.requests if request.end in ("killed", "doubt"))
        if max(lost.values(), default=0) > 1:
            self.quiet = False  # so often in flight at a kill, it is given up
        COUNTS.update(f"stretches in {shard.lane}" for shard in self._stretches())
        for run in self.ledger.catalog.runs("default"):
            ways = {(shard.lane != Lane.BATCH, shard.ended) for shard in self.ledger.shards(run.id)}
            COUNTS["rescued"] += (False, "cancelled") in ways and any(fast for fast, _ in ways)
            COUNTS["hedged"] += any(event.kind == Event.HEDGED for event in self.ledger.events(run.id))
        super()._check()
        self._check_step()
        self._check_requests()
        self._check_lanes()
        self._check_doubts()

    def _stretches(self) -> list[Any]:
        shards = [shard for run in self.ledger.catalog.runs("default") for shard in self.ledger.shards(run.id)]
        return [shard for shard in shards if shard.lane != Lane.BATCH]

    def _singles(self) -> dict[str, list[BillEntry]]:
        """What single requests were billed, by ticket."""
        found = defaultdict(list)
        for entry in self.world.emulator.bill():
            if entry.batch_id is None:
                found[self.world.tickets[entry.body_sha256]].append(entry)
        return found

    def _check_requests(self) -> None:
        """I2: a row is bought again only where its reply was lost, its worker was killed while it was in flight, or its answer was broken."""
        bought, asked = self._singles(), defaultdict(list)
        for request in self.requests:
            asked[request.ticket].append(request)
        COUNTS["single purchases"] += sum(map(len, bought.values()))
        for ticket in asked.keys() | bought.keys():
            ends = Counter(request.end for request in asked[ticket])
            if not ends["kept"] <= len(bought[ticket]) <= ends["kept"] + ends["doubt"] + ends["killed"]:
                self._violated(f"I2: {ticket} was bought {len(bought[ticket])} times by itself: {asked[ticket]}")
        orphans = self._orphans() | self.unproven
        final = Counter(request.ticket for request in self.requests if request.end == "kept" and not request.again)
        final.update(
            purchase.ticket for purchase in self.world.purchases() if purchase.entry.batch_id not in orphans and self._is_final(purchase)
        )
        if twice := [ticket for ticket, times in final.items() if times > 1]:
            self._violated(f"I2: answered, and bought again in another lane: {twice}")

    def _check_lanes(self) -> None:
        """I3: no row is asked by itself while a batch that holds it is under way, unless that was hedged."""
        orphans = self._orphans() | self.unproven
        lives = [life for life in self.world.lives() if life[3] not in orphans]
        for request in self.requests:
            for ticket, since, until, batch_id in lives:
                if ticket == request.ticket and since < request.at < until:
                    self._violated(f"I3: {request} was asked while {batch_id} held it")

    def _check_doubts(self) -> None:
        """I4: each request that may have been paid without an answer to show for it is counted."""
        doubts = Counter(request.shard for request in self.requests if request.end in ("killed", "doubt"))
        COUNTS["in doubt"] += doubts.total()
        for shard in self._stretches():
            told = shard.error.rows if shard.error else 0
            if shard.state is State.COLLECTED and told != doubts[shard.id]:
                self._violated(f"I4: {shard} counts {told} requests in doubt, and {doubts[shard.id]} are")

    def _check_cost(self, delivered: list[BillEntry]) -> None:
        """To the pico-dollar, where each single request that was billed has its reply."""
        kept = Counter(request.ticket for request in self.requests if request.end == "kept")
        bought = self._singles()
        orphans = [orphan for run in self.ledger.catalog.runs("default") for orphan in self.ledger.orphans.of(run.id)]
        unsettled = {orphan.batch_id for orphan in orphans if orphan.settled_at is None}  # hedged, and never ended: covered by the reserve
        delivered = [entry for entry in delivered if entry.batch_id not in unsettled]
        if all(len(entries) == kept[ticket] for ticket, entries in bought.items()):
            super()._check_cost([*delivered, *(entry for entries in bought.values() for entry in entries)])

    def _served(self) -> set[str]:
        return super()._served() | {request.ticket for request in self.requests if request.served}

    def _orphans(self) -> set[str]:
        if self.terms.get("hedge"):
            return {orphan.batch_id for run in self.ledger.catalog.runs("default") for orphan in self.ledger.orphans.of(run.id)}
        return super()._orphans()
