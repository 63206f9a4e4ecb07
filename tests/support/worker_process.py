"""Worker process: it submits and advances one job run, and can be killed at any failpoint: `KELD_FAILPOINT=name:kill9`.

The kill tests start it through a fork server that has imported everything once.  Its clock is the emulator's, over HTTP.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
import urllib.request
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import genai_prices  # noqa: F401  this and the next five: imported once, before the fork
import pandas  # noqa: F401
import psycopg  # noqa: F401
import pyarrow.parquet  # noqa: F401
import pytest

import keld.providers.transports.anthropic
import keld.providers.transports.openai_files
from keld import Keld, Status
from keld.providers.kinds import preset_of
from keld.state import RunState, State
from tests.support.injected_bugs import BUGS
from tests.support.ticket_job import Peer, tickets, triage

KILLED = -9


def marks_batches(peer: Peer) -> bool:
    """True if a batch of this kind carries our mark."""
    return preset_of(peer.name, peer.name).traits.marks_batches


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What goes wrong around the kill, and what the user does; the same before it and after it."""

    faults: tuple[dict[str, Any], ...] = ()
    by_kind: dict[str, tuple[dict[str, Any], ...]] = field(default_factory=dict)
    others: tuple[dict[str, Any], ...] = ()  # at the kinds that `by_kind` does not name
    marked: tuple[dict[str, Any], ...] = ()  # at the kinds whose batches carry our mark
    until_found: bool = False  # each create that is sent again meets the fault, too
    cancel_at: int | None = None  # seconds after the first step; 0: before it
    change: bool = False  # the table changes before anything is sent
    rows: int = 6
    bought: bool = True  # every row, once
    late: bool = False  # a first create shows only when its shard was sent again: it is swept
    fast: bool = False  # rows are asked one by one: those in flight at a kill may be paid once more, and are counted
    patience: timedelta = timedelta(0)  # between two looks at a batch
    terms: dict[str, Any] = field(default_factory=dict)

    def plan(self, peer: Peer) -> dict[str, Any]:
        marked = self.marked if marks_batches(peer) else ()
        if self.until_found and preset_of(peer.name, peer.name).traits.replays is not None:
            return {"rules": [{**rule, "times": 4} for rule in self.faults]}
        return {"rules": [*self.faults, *self.by_kind.get(peer.name, self.others), *marked]}

    def table(self) -> Any:
        return tickets(self.rows, changed=[0] if self.change else ())


SCENARIOS = {
    "plain": Scenario(terms={"max_shard_rows": 4}),
    # One row goes ahead as a batch of one; at Anthropic it writes the cache that the others read.
    "primed": Scenario(terms={"probe": "batch", "system": "You triage support tickets by the handbook. " * 500}),
    "lost": Scenario(faults=({"at": "create", "do": "drop_after"},), until_found=True),
    "absent": Scenario(faults=({"at": "create", "do": "drop_before"},), until_found=True),
    "expired": Scenario(faults=({"at": "life", "do": "expire", "done": 0.5, "after_s": 100},)),
    "deferred": Scenario(
        by_kind={"openai": ({"at": "life", "do": "token_limit"},)},
        others=({"at": "create", "do": "status", "status": 429, "retry_after": 30},),
    ),
    "refused": Scenario(faults=({"at": "create", "do": "status", "status": 401},)),
    "rejected": Scenario(faults=({"at": "create", "do": "status", "status": 400},), bought=False),
    "cancelled": Scenario(cancel_at=5, bought=False),
    "dropped": Scenario(cancel_at=0, bought=False),
    "superseded": Scenario(change=True),
    "standard": Scenario(terms={"lane": "standard"}, fast=True),
    # A host without marks ends its batches within its window: whose one is whose create had no reply is shown only by its results.
    "escalated": Scenario(
        faults=({"at": "life", "do": "expire", "done": 0.5},),
        marked=({"at": "life", "do": "stuck", "done": 0.5},),
        terms={"deadline": timedelta(hours=2)},
        fast=True,
        patience=timedelta(minutes=10),
    ),
    # A gateway has two batches made of one create; the second, where its mark tells whose it is, is stuck half-way, to be stopped.
    "doubled": Scenario(
        faults=({"at": "create", "do": "twice"},),
        marked=({"at": "life", "do": "stuck", "done": 0.5, "match": {"batch": 2}},),
        late=True,
    ),
    # Not in the list until the looks are over; and, where its mark tells whose it is before it ends, stuck half-way, to be stopped.
    "late": Scenario(
        faults=({"at": "create", "do": "drop_after"}, {"at": "create", "do": "list_lag", "for_s": 5_000}),
        marked=({"at": "life", "do": "stuck", "done": 0.5, "match": {"batch": 1}},),
        late=True,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a worker process has to do."""

    env: dict[str, str]
    home: str
    ledger_url: str
    emulator_url: str
    peer: Peer
    scenario: str
    sink: str | None
    bug: str | None = None  # one of `bug.BUGS`
    place: str | None = (
        None  # a folder of its own: HOME, working directory, temporary files; the paths it opens are written to `opened` in it
    )


class Time:
    """The emulator's clock, from another process."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/_keld/clock"

    def __call__(self) -> datetime:
        return self._read(None)

    def advance(self, span: timedelta) -> datetime:
        return self._read(json.dumps({"advance_s": span.total_seconds()}).encode())

    def _read(self, body: bytes | None) -> datetime:
        with urllib.request.urlopen(self._url, data=body) as answer:
            return datetime.fromisoformat(json.load(answer)["now"])


def work(order: Order) -> Status:
    """Does what the scenario says, to the end."""
    os.environ.update(order.env)
    if order.place:
        move_to(Path(order.place))
    time, scenario = Time(order.emulator_url), SCENARIOS[order.scenario]
    bug = BUGS[order.bug](pytest.MonkeyPatch()) if order.bug else nullcontext()
    with bug, Keld(home=order.home, ledger_url=order.ledger_url, clock=time) as keld:
        return follow(keld, time, scenario, order.peer, order.sink)


def move_to(place: Path) -> None:
    """Makes this process live in a folder of its own, and note every path that it opens, until it is killed."""
    for name in ("home", "tmp", "cwd", "scratch"):
        (place / name).mkdir(parents=True, exist_ok=True)
    os.environ.update(HOME=str(place / "home"), TMPDIR=str(place / "tmp"), KELD_SCRATCH=str(place / "scratch"))
    tempfile.tempdir = None  # it was found out before the fork
    os.chdir(place / "cwd")
    notes = os.open(place / "opened", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            os.write(notes, os.path.abspath(os.fsencode(arguments[0])) + b"\n")

    sys.addaudithook(note)


def opened(place: Path) -> set[str]:
    """The paths that a worker opened, without the program's own and those of the system."""
    system = ("/proc/", "/dev/null", "/dev/urandom", "/etc/", "/sys/", "/usr/")
    program = (str(Path(__file__).parents[2]), sys.prefix, sys.base_prefix, *system)
    return {path for path in (place / "opened").read_text().splitlines() if not path.startswith(program)}


def follow(keld: Keld, time: Any, scenario: Scenario, peer: Peer, sink: str | None, most: int = 80) -> Status:
    """Submits, advances whenever the job run wants to be looked at, cancels where the scenario does; gives the end.

    Raises:
        AssertionError: after `most` steps it is not over.
    """
    provider = keld.provider(peer.name)
    provider.traits = replace(provider.traits, least_requests=1)  # a table here has six rows
    job = triage(peer, **scenario.terms)
    if scenario.change and keld.find("triage") is None:
        keld.submit(job, tickets(scenario.rows), sink=sink)
    status = keld.submit(job, scenario.table(), sink=sink)
    for _ in range(most):
        # Not while the output is written: a cancel would then mean that none is wanted.
        if status.state in (RunState.OPEN, RunState.CANCELLING) and (scenario.cancel_at == 0 or (scenario.cancel_at and _is_made(status))):
            keld.cancel(status.id)
        status = keld.advance(status.id)
        if status.over and not _unswept(keld, status, late=scenario.late):
            return status
        if status.over:
            time.advance(keld.settings.sweep_every)
            continue
        wish = max((status.next_check_at or time()) - time(), timedelta(seconds=1))
        if all(batch.state is State.IN_PROGRESS and batch.lane == "batch" for batch in status.batches):
            wish = max(wish, scenario.patience)
        time.advance(min(wish, timedelta(seconds=scenario.cancel_at)) if scenario.cancel_at and _is_made(status) else wish)
    raise AssertionError(f"{status!r} does not come to its end: {status.batches} {status.problem}")


def _is_made(status: Status) -> bool:
    """Whether there is a batch to cancel."""
    return any(batch.batch_id for batch in status.batches)


def _unswept(keld: Keld, status: Status, *, late: bool) -> bool:
    """Whether the first create of a late scenario is still to be found, or a second batch to be settled: some hosts take long to cancel it."""
    orphans = keld.ledger.orphans.of(status.id)
    return (late and not orphans) or any(orphan.settled_at is None for orphan in orphans)


def server() -> ForkServerContext:
    """Where workers come from: each a process of its own, forked where everything is imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "tests.support.warm_worker"])
    before = os.environ.get("PYTHONPATH")
    # Before Python 3.13 the server has no other way to find us; and what it finds must be the package that we found.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(keld.__file__).parents[1]), str(Path(__file__).parents[2])])
    forkserver.ensure_running()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before
    return context


def finished(order: Order) -> int | None:
    """The exit code of a worker that does what it is told to the end."""
    process = server().Process(target=work, args=(order,))
    process.start()
    process.join(120)
    return process.exitcode


def killed(order: Order, failpoint: str, nth: int = 1) -> int | None:
    """The exit code of a worker that dies at its `nth` pass of `failpoint`; 0 where it never came by."""
    deadly = replace(order, env={**order.env, "KELD_FAILPOINT": f"{failpoint}:kill9:{nth}"})
    process = server().Process(target=work, args=(deadly,))
    process.start()
    process.join(60)
    return process.exitcode
