"""Play: a Keld against one host, verb by verb; what must be true at any time and in the end, reckoned from the host's bill.

A worker dies at a failpoint, or never; a new one takes over, with another Keld on the same ledger and staging.  Time passes when the clock is
turned, never by itself; whether a client hung up by its own limit is seen by the host, which sits out a slow reply for longer than any limit.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import sqlite3
import tempfile
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa

from keld import Account, Finding, Job, Keld, KeldError, Settings, Status, failpoint, http
from keld.ledger import Ledger
from keld.providers.account import TYPES
from keld.spend import Spend
from tests.adversary.host import SHAPES, Clock, Host
from tests.adversary.mode import SLOW, Fault, Plan
from tests.adversary.record import PRICES, Entry
from tests.adversary.wire import Reply, Request, Wire

START = datetime(2026, 11, 20, 12, tzinfo=UTC)
MODELS = {name: f"{name}:{shape.model}" for name, shape in SHAPES.items()}
# Of one call, in seconds; a tenth of what the host sits out.  Keld's own defaults are minutes.
LIMIT_S = 1.0
_BUDGET_S = 2.0  # of a verb, where replies are slow
_SLOW_MOST = 3  # slow replies in one verb: as many limits as its budget has, and the one that was begun before its end
# By which a job run must be over, whatever goes wrong: a window and a day a round where batches never end (Vertex has one of four days), and rows that
# were not reached are moved on some ten times.
_LAST = timedelta(days=120)
_ASKED_AGAIN = 12  # more often than any fault that ends is met
_PATIENT = 30  # ticks; those after them are ever farther apart
_STEP_MOST = timedelta(hours=6)  # of the clock; later a day


class Killed(SystemExit):
    """What SIGKILL is to a worker; no `except` of Keld's catches it."""


class Bench:
    """What all plays of a process share, since to open it costs more than a play: a server, a ledger, and Keld's clients that lead there."""

    def __init__(self) -> None:
        self.now: Callable[[Request], Reply] = lambda _: Reply(status=503)
        self.wire = Wire(self.answer)
        self.folder = Path(tempfile.mkdtemp(prefix="keld-adversary-"))
        self.ledger = Ledger(f"sqlite:///{self.folder / 'ledger.db'}")
        self.providers: dict[tuple[str, bool], dict[str, Any]] = {}
        atexit.register(self.close)

    def answer(self, request: Request) -> Reply:
        return self.now(request)

    def fresh(self, host: Host) -> None:
        """From now on `host` answers, and the ledger is empty."""
        self.now, host.url = host.answer, self.wire.url
        self.wire.endured = self.wire.slow = 0
        with closing(sqlite3.connect(self.folder / "ledger.db")) as db, db:
            for (table,) in db.execute("SELECT name FROM sqlite_master WHERE name LIKE 'keld%' AND type = 'table'").fetchall():
                if "version" not in table:
                    db.execute(f"DELETE FROM {table}")

    def close(self) -> None:
        self.ledger.close()
        self.wire.close()
        shutil.rmtree(self.folder, ignore_errors=True)


_benches: dict[int, Bench] = {}


def bench() -> Bench:
    """The one of this process."""
    if os.getpid() not in _benches:
        _benches[os.getpid()] = Bench()
    return _benches[os.getpid()]


def patience(*, slow: bool = False, **more: Any) -> Settings:
    """Settings of a worker; where replies are `slow`, with the limits of calls cut to `LIMIT_S`."""
    cut: dict[str, Any] = {}
    if slow:
        limit = timedelta(seconds=LIMIT_S)
        known = {one.name for one in fields(Settings)}
        cut = {name: limit for name in ("call_within", "reply_within", "stalled_after") if name in known}
    return Settings(**{"poll_least": timedelta(seconds=30), **cut, **more})


@contextmanager
def impatient() -> Iterator[None]:
    """Keld pauses in real time before it tries a harmless call again: here it does not."""
    with mock.patch.object(http, "_PAUSES_S", (0.001, 0.001)):
        yield


def table_of(rows: int) -> pa.Table:
    """So many rows, each with a prompt of its own."""
    return pa.table({"id": [f"k{n}" for n in range(rows)], "body": [f"row {n}: {'what' if n % 2 else 'why'}?" for n in range(rows)]})


@dataclass(slots=True)
class Play:
    """One job run at one host.

    Args:
        rows: of the partition.
        shard: rows a batch at most; None: as many as there are.
        settings: of every Keld; None: `patience()`.
        terms: of the job.
    """

    host: Host
    rows: int = 4
    shard: int | None = None
    settings: Settings | None = None
    terms: dict[str, Any] = field(default_factory=dict)
    base_url: str | None = None  # where Keld goes instead of the host's own: a proxy
    on_turn: Callable[[], None] = lambda: None
    wire: Wire = field(init=False)
    home: Path = field(init=False)
    keld: Keld = field(init=False)
    run_id: str | None = None
    told: list[str] = field(default_factory=list)  # every problem, in the order of its first time
    violations: list[str] = field(default_factory=list)
    deaths: int = 0
    skew: timedelta = timedelta(0)  # of the workers' clock against the host's
    lost_track: bool = False  # what the host hides for good need not be on our books
    _dies_in: int | None = None
    _dead: bool = False
    _environment: Any = None

    def __post_init__(self) -> None:
        bench().fresh(self.host)
        self.wire = bench().wire
        self.home = Path(tempfile.mkdtemp(prefix="keld-adversary-"))
        self.settings = self.settings or patience(slow=self.is_slow)
        failpoint.on_pass = self._breathe
        # Where the client of a bucket goes, and as whom; the server asks for neither.
        key = {"gcs_base_url": f"{self.wire.url}/gs", "disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
        store = {
            "GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(key),
            "AWS_ENDPOINT_URL_S3": f"{self.wire.url}/s3",
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_REGION": "us-east-1",
        }
        self._environment = mock.patch.dict(os.environ, store)
        self._environment.start()
        self.keld = self.open_keld()

    def close(self) -> None:
        self._dead = False
        failpoint.on_pass = None
        self._lay_down()
        self._environment.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    # -- workers ----------------------------------------------------------------------------------------------

    def open_keld(self) -> Keld:
        account = account_of(self.host.shape, self.base_url or self.host.url)
        ledger = bench().ledger
        keld = Keld(home=self.home, ledger_url=ledger.url, accounts={self.host.shape: account}, clock=self._now, settings=self.settings)
        keld._ledger = ledger
        if self.base_url is None:
            keld._accounts.connected = bench().providers.setdefault((self.host.shape, self.is_slow), {})
        return keld

    def _lay_down(self) -> None:
        """Nobody uses this Keld any more; what is shared stays open."""
        self.keld._ledger = None
        if self.base_url is None:
            self.keld._accounts.connected = {}
        self.keld.close()

    def restart(self) -> None:
        """The worker ends in peace, and another process goes on."""
        self._lay_down()
        self.keld = self.open_keld()

    def dies_in(self, breaths: int | None) -> None:
        """The worker dies at its so-manieth failpoint from now."""
        self._dies_in = breaths

    def _breathe(self, _: str) -> None:
        if self._dead:
            raise Killed
        if self._dies_in is not None:
            self._dies_in -= 1
            if self._dies_in < 0:
                self._dead, self._dies_in = True, None
                raise Killed

    def _now(self) -> datetime:
        if self._dead:
            raise Killed  # a dead worker writes nothing more
        return self.host.clock() + self.skew

    def _bury(self) -> None:
        """The worker is dead: another process goes on."""
        self.deaths += 1
        self._dead = False
        self.restart()
        self.turn(timedelta(seconds=150))  # its lease runs out

    # -- verbs ------------------------------------------------------------------------------------------------

    @property
    def is_slow(self) -> bool:
        return any(fault.how in SLOW for fault in self.host.plan.faults)

    @property
    def budget_s(self) -> float:
        return _BUDGET_S if self.is_slow else 60.0

    def verb(self, act: Callable[[], Any]) -> Any:
        """What a verb gives; None where it fails in Keld's words, or its worker dies."""
        before = self.wire.slow
        try:
            return act()
        except KeldError as problem:
            self._note(type(problem).__name__, str(problem))
        except Killed:
            self._bury()
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            self._violated(f"a verb raised {type(error).__name__}: {error} ({Path(where.filename).name}, {where.name})")
        finally:
            if self.wire.slow - before > _SLOW_MOST:
                self._violated(f"one verb sat through {self.wire.slow - before} slow replies, with {self.budget_s} s to spend")
        return None

    def submit(self) -> Status | None:
        job = Job(
            name="adversary", key="id", prompt="{body}", models=[MODELS[self.host.shape]], max_output_tokens=64, max_shard_rows=self.shard,
            prices={MODELS[self.host.shape]: PRICES}, **self.terms,
        )  # fmt: skip
        status: Status | None = self.verb(lambda: self.keld.submit(job, table_of(self.rows), partition="p"))
        if status is not None:
            self.run_id = status.id
        return status

    def status(self) -> Status | None:
        return self._heard(self.keld.find("adversary", "p"))

    def _heard(self, status: Status | None) -> Status | None:
        if status is not None:
            self.run_id = status.id
            if status.problem:
                self._note(status.problem_kind or "", status.problem)
        return status

    def advance(self) -> Status | None:
        """What the verb gives; where it failed, or its worker died, where the job run stands."""
        run_id = self.run_id
        if run_id is None:
            return None
        return self._heard(self.verb(lambda: self.keld.advance(run_id, budget_s=self.budget_s))) or self.status()

    def poll(self) -> None:
        self.verb(lambda: self.keld.poll(budget_s=self.budget_s))

    def cancel(self) -> None:
        run_id = self.run_id
        if run_id is not None:
            self.verb(lambda: self.keld.cancel(run_id))

    def reconcile(self) -> Sequence[Finding] | None:
        """What it found; None where it failed."""
        found: Sequence[Finding] | None = self.verb(lambda: self.keld.reconcile([self.host.shape]))
        return found

    def turn(self, span: timedelta) -> None:
        self.host.clock.turn(span)
        self.on_turn()

    def tick(self, n: int = 0) -> Status | None:
        """Looks once, as a worker does, and turns the clock to when the job run wants to be looked at again; the `n`-th time, by more."""
        if self.run_id is None and self.status() is None:
            self.submit()
        status = self.advance()
        if status is None or not status.over:
            now = self._now()
            wish = (status.next_check_at or now) - now if status is not None else timedelta(0)
            self.turn(max(wish, _least(n)))
        return status

    def finish(self) -> Status | None:
        """The job run when it is over; looked at, ever less often, until its last instant has passed.

        A queue that is full for ever is the one wait without an end, where the job has no deadline (docs/limits.md): there a person cancels.
        """
        status = self._looked_at_until_over()
        if (status is None or not status.over) and _is_full_for_ever(self.host.plan):
            self.cancel()
            status = self._looked_at_until_over()
        if status is None or not status.over:
            batches = [(batch.state.value, batch.batch_id, batch.error) for batch in status.batches] if status else ""
            self._violated(f"never over: {status!r} {batches}")
        return status

    def _looked_at_until_over(self) -> Status | None:
        self._dies_in = None
        until, n = self.host.clock() + _LAST, 0
        while self.host.clock() < until:
            status = self.tick(n)
            if status is not None and status.over:
                return status
            n += 1
        return status

    def settle(self) -> None:
        """Two days later whatever was on its way has landed, is swept up and counted."""
        for hours in (3, 44):
            self.turn(timedelta(hours=hours))
            self.reconcile()
            self.advance()
        for _ in range(_ASKED_AGAIN):  # as a person does who is told that a batch may be ours, and that its results cannot be read
            found = self.reconcile()
            if found is not None and all(one.verdict != "unproven" for one in found):
                break

    # -- what must be true ------------------------------------------------------------------------------------

    def check(self) -> list[str]:
        """What was promised and is not so."""
        status = self.status()
        if status is None:
            if self.host.bill():
                self._violated("there is a bill and no job run")
            return self.violations
        self._check_rows(status)
        self._check_money()
        for wrong in self.host.wrongs:
            self._violated(wrong)
        if self.wire.endured:
            self._violated(f"{self.wire.endured} slow replies were waited for until the host gave up")
        return self.violations

    def rows_out(self) -> list[dict[str, Any]]:
        """The enriched rows, where the job run is over."""
        status = self.status()
        return self.keld.read(status.id).read_all().to_pylist() if status is not None and status.over else []

    def _check_rows(self, status: Status) -> None:
        if not status.over:
            return
        found = self.rows_out()
        if [(row["id"], row["body"]) for row in found] != [(row["id"], row["body"]) for row in table_of(self.rows).to_pylist()]:
            self._violated(f"rows came out as {[row['id'] for row in found]}")
        for row in found:
            if row["keld_outcome"] is None:
                self._violated(f"{row['id']} has no outcome")
            if (row["keld_outcome"] == "answered") != (row["answer"] is not None):
                self._violated(f"{row['id']} is {row['keld_outcome']} and its answer {row['answer']!r}")
            if row["answer"] is not None and row["answer"] != f"re: {row['body']}":
                self._violated(f"{row['id']} has the answer of another: {row['answer']!r}")

    def spent(self) -> Spend:
        return self.keld.spend().total

    def purchases(self) -> dict[str, list[Entry]]:
        """What is on the bill, by row."""
        bought = defaultdict(list)
        for entry in self.host.bill():
            bought[entry.prompt].append(entry)
        return dict(bought)

    def _check_money(self) -> None:
        told, bought = self.spent(), self.purchases()
        billed = sum((entry.usd for entry in self.host.bill()), Decimal(0))
        self.excess_usd = sum(
            (sum((entry.usd for entry in entries), Decimal(0)) - entries[0].usd for entries in bought.values()), Decimal(0)
        )
        if self.lost_track:
            return
        if billed > told.paid_usd + told.in_flight_usd:
            self._violated(f"the bill says ${billed}, Keld says ${told.paid_usd} and at most ${told.in_flight_usd} more")
        if told.paid_usd > billed:
            self._violated(f"Keld says ${told.paid_usd}, the bill says only ${billed}")
        if self.excess_usd > told.twice_usd + told.in_flight_usd:
            times = {prompt: len(entries) for prompt, entries in bought.items() if len(entries) > 1}
            self._violated(
                f"bought again and not told: {times}, ${self.excess_usd}; told twice ${told.twice_usd}, reserved ${told.in_flight_usd}"
            )

    def _note(self, kind: str, said: str) -> None:
        word = f"{kind}: {said}"
        if word not in self.told:
            self.told.append(word)

    def _violated(self, what: str) -> None:
        if what not in self.violations:
            self.violations.append(what)

    excess_usd: Decimal = Decimal(0)


def account_of(shape: str, url: str) -> Account:
    """The account of a shape at a server."""
    more: dict[str, Any] = {}
    if shape == "bedrock":
        more = {"region": "us-east-1", "bucket": "s3://bucket/keld", "role": "arn:aws:iam::123456789012:role/keld"}
    elif shape == "vertex":
        more = {"project": "p", "location": "us-central1", "bucket": "gs://bucket/keld"}
    kind = TYPES.get(shape, Account)
    return kind(kind=shape, base_url=url + SHAPES[shape].base, api_key=lambda: "sk-adversary-1", **more)


def _least(n: int) -> timedelta:
    """How far the clock is turned at least before the `n`-th look."""
    if n < _PATIENT:
        return timedelta(seconds=1)
    most = _STEP_MOST if n < 2 * _PATIENT else 4 * _STEP_MOST
    return min(timedelta(minutes=1) * 1.5 ** min(n - _PATIENT, 20), most)


def _is_full_for_ever(plan: Plan) -> bool:
    return any(
        fault.at == "create" and fault.how.startswith("429 json") and fault.times is None and fault.for_s is None for fault in plan.faults
    )


def host_of(shape: str, *faults: Fault, quirks: Sequence[str] = (), heals_s: float | None = None, rows: int = 4, crowd: int = 3) -> Host:
    """A host with other customers' batches in its list."""
    host = Host(shape, Clock(START), frozenset(quirks), Plan(list(faults)), heals_s)
    host.crowd(crowd, rows)
    return host
