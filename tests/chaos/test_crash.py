"""A worker is killed at every named point, and another one goes on: no row lost, no row paid twice, no half output.

The first dies in a process of its own (`worker_process`), by SIGKILL; what it leaves is what a crash leaves.
The traps are those of docs/notes/providers.md.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import keld as package
from keld import Keld, failpoint
from keld.emulator import Emulator
from keld.emulator.services import bedrock_input
from keld.ledger import Ledger
from keld.price import Lane
from keld.providers.kinds import preset_of
from keld.state import Event, RunEvent
from tests.support.injected_bugs import BUGS
from tests.support.lane_purchases import listen, paid
from tests.support.ticket_job import (
    HOSTS,
    Peer,
    anthropic,
    azure,
    bedrock,
    bedrock_claude,
    billed_usd,
    creates,
    gemini,
    groq,
    ledger_dump,
    mistral,
    openai,
    outcomes,
    self_hosted,
    vertex,
    vertex_claude,
)
from tests.support.worker_process import KILLED, SCENARIOS, Order, follow, killed, marks_batches

# Every point, under the first scenario that passes it.
POINTS: dict[str, tuple[str, ...]] = {
    "plain": (
        "snapshot.write", "snapshot.done",
        "staging.question.write", "staging.question.fsync", "staging.question.rename", "staging.question.done",
        "staging.positions.write", "staging.positions.fsync", "staging.positions.rename", "staging.positions.done",
        "ledger.open_run.before", "ledger.open_run.after", "lease.claimed", "lease.release",
        "staging.input.write", "staging.input.fsync", "staging.input.rename", "staging.input.done",
        "ledger.staged.before", "ledger.staged.after",
        "upload.send", "upload.received", "ledger.uploaded.before", "ledger.uploaded.after",
        "witness.note", "witness.noted",
        "ledger.sending.before", "ledger.sending.after", "create.send", "create.received", "ledger.created.before", "ledger.created.after",
        "poll.send", "poll.received", "ledger.confirmed.before", "ledger.confirmed.after", "ledger.ended.before", "ledger.ended.after",
        "download.request", "download.chunk", "download.rename", "collect.done", "ledger.collected.before", "ledger.collected.after",
        "ledger.run_writing.before", "ledger.run_writing.after", "sink.write", "sink.written",
        "ledger.run_finished.before", "ledger.run_finished.after",
    ),
    "primed": (
        "ledger.sending.after", "create.send", "create.received", "ledger.created.before", "ledger.created.after", "ledger.ended.after",
        "ledger.collected.before", "ledger.collected.after", "ledger.add_shards.before", "ledger.add_shards.after",
    ),
    "lost": (
        "ledger.outcome_lost.before", "ledger.outcome_lost.after", "create.replay.send", "create.replay.received",
        "look.send", "look.received", "ledger.adopted.before", "ledger.adopted.after"),
    "absent": ("ledger.looked.before", "ledger.looked.after", "fence.send", "fence.received", "ledger.absent.before", "ledger.absent.after"),
    "expired": ("ledger.add_shards.before", "ledger.add_shards.after"),
    "deferred": ("ledger.deferred.before", "ledger.deferred.after", "ledger.retry_due.before", "ledger.retry_due.after"),
    "refused": ("ledger.refused.before", "ledger.refused.after"),
    "rejected": (
        "staging.refusal.write", "staging.refusal.fsync", "staging.refusal.rename", "staging.refusal.done",
        "ledger.rejected.before", "ledger.rejected.after",
    ),
    "doubled": (
        "sibling.cancel.send", "sibling.cancel.received", "ledger.candidate.before", "ledger.candidate.after", "ledger.stray.after",
        "ledger.stray_settled.before",
    ),
    "cancelled": ("cancel.send", "cancel.received", "ledger.cancel_asked.before", "ledger.cancel_asked.after"),
    "dropped": ("ledger.dropped.before", "ledger.dropped.after"),
    "superseded": ("ledger.run_superseded.before", "ledger.run_superseded.after"),
    "standard": (
        "ledger.staged.after", "ledger.sending.before", "ledger.sending.after", "ledger.created.before", "ledger.created.after",
        "realtime.send", "realtime.received", "realtime.journal", "ledger.ended.before", "ledger.ended.after", "collect.done",
        "ledger.collected.before", "ledger.collected.after", "ledger.run_writing.before", "sink.write", "ledger.run_finished.before",
        "ledger.run_finished.after",
    ),
    "escalated": (
        "create.received", "ledger.created.before",
        "cancel.send", "cancel.received", "ledger.cancel_asked.before", "ledger.cancel_asked.after", "ledger.ended.before",
        "ledger.collected.before", "ledger.collected.after", "ledger.add_shards.before", "ledger.add_shards.after",
        "realtime.send", "realtime.received", "realtime.journal",
    ),
    "late": ("sweep.cancel.send", "sweep.cancel.received", "ledger.stray.before", "ledger.stray.after", "ledger.stray_settled.before", "ledger.stray_settled.after"),
}  # fmt: skip
# The kinds whose workers are killed; a new kind is one name here.
KILLED_AT = (openai, anthropic, azure, bedrock, gemini, mistral, vertex)
# Those that share a transport with one of them, or have fast lanes only; and the other dialect of two of them.
ALSO_KILLED_AT = {"bedrock_claude": bedrock_claude, "vertex_claude": vertex_claude, "groq": groq, "self_hosted": self_hosted, **HOSTS}


def not_passed(peer: Peer) -> set[str]:
    """The points that a kind does not come by: what it cannot do, its traits say."""
    traits = preset_of(peer.name, peer.name).traits
    found: set[str] = set()
    if peer is anthropic:  # its input goes with the create, so its refusals may quote prompts and are not kept
        found |= {
            "ledger.uploaded.before",
            "ledger.uploaded.after",
            *(f"staging.refusal.{step}" for step in ("write", "fsync", "rename", "done")),
        }
    if traits.replays is None:
        found |= {"create.replay.send", "create.replay.received"}
    else:  # the reply to the same create says what a look would say
        looks = {f"ledger.{event}.{when}" for event in ("adopted", "looked", "absent") for when in ("before", "after")}
        found |= {"look.send", "look.received", "fence.send", "fence.received", *looks}
    if not traits.fences:
        found |= {"fence.send", "fence.received"}
    if not peer.pages:  # its list may lack a batch at any time, so no create is ever known to have made one batch only
        found |= {"ledger.confirmed.before", "ledger.confirmed.after"}
    if traits.marks_batches:
        found |= {"ledger.candidate.before", "ledger.candidate.after"}
    else:
        found |= {"sweep.cancel.send", "sweep.cancel.received", "sibling.cancel.send", "sibling.cancel.received"}
    return found


# A batch that was adopted proves to be somebody else's: since adoption asks for the proof first, only a provider that mixes up
# its own results comes here.
NEVER = {"ledger.lost_track.before", "ledger.lost_track.after"}
ELSEWHERE = {
    "ledger.hedged.before", "ledger.hedged.after",  # in test_cascade: whoever hedges has a deadline in hours
    "gc.noted",  # in test_retention: no job run is old enough here
    # in test_bucket: staging is a directory here
    "object.put.send", "object.put.received", "object.get.send", "object.get.received", "segment.fence.send", "segment.fence.received",
    "segment.put.send", "segment.put.received", "object.delete",
    "ledger.unsent.before", "ledger.unsent.after",  # in test_runner: the provider goes down between two calls
    "ledger.candidate_released.before", "ledger.candidate_released.after",  # in test_orphan: others have batches here
}  # fmt: skip
DANGEROUS = (
    "ledger.sending.after",
    "create.send",
    "create.received",
    "ledger.created.before",
    "ledger.created.after",
    "ledger.collected.before",
)


def not_played(peer: Peer) -> set[str]:
    """The scenarios that a kind cannot come to."""
    traits = preset_of(peer.name, peer.name).traits
    if Lane.BATCH not in traits.lanes:
        return set(POINTS) - {"standard"}
    never = set() if traits.replays is None else {"absent", "doubled", "late"}  # a second create makes no second batch
    return never | (set() if traits.keeps_on_cancel else {"escalated"})  # it is not cancelled for a deadline


def loses_answers(peer: Peer, scenario: str) -> bool:
    """True if a batch ends in this scenario so that what it answered is paid and not given back."""
    traits = preset_of(peer.name, peer.name).traits
    return (
        not traits.keeps_on_expiry if scenario == "expired" else not traits.keeps_on_cancel and scenario in {"cancelled", "doubled", "late"}
    )


def points_of(peer: Peer) -> list[tuple[str, str]]:
    """Each (scenario, point) that a kind comes by."""
    return [
        (scenario, point)
        for scenario, points in POINTS.items()
        for point in points
        if point not in not_passed(peer) and scenario not in not_played(peer)
    ]


_ALL = [(peer, *at) for peer in KILLED_AT for at in points_of(peer)]


def _is_played(n: int, peer: Peer, scenario: str, point: str) -> bool:
    """Every point around a create and a share of the others at two kinds, and around a plain create at each; `make crash` takes them all."""
    if peer in (openai, anthropic):
        return point in DANGEROUS or n % 8 == 0
    return point in DANGEROUS and scenario == "plain"


def _suites() -> Iterator[tuple[pytest.MarkDecorator, ...]]:
    """The suite of each of `_ALL`: of the share that CI plays, the fast one has each point once and a create without a reply at each kind."""
    seen: set[str] = set()
    for n, (peer, scenario, point) in enumerate(_ALL):
        if not _is_played(n, peer, scenario, point):
            yield (pytest.mark.slow,)
        elif point in seen and (scenario, point) != ("plain", "create.received"):
            yield (pytest.mark.wide,)
        else:
            seen.add(point)
            yield ()


CASES = [pytest.param(*case, id=f"{case[0].name}-{case[1]}-{case[2]}", marks=marks) for case, marks in zip(_ALL, _suites(), strict=True)]


# Killed before its create is sent; where the list of batches proves nothing, the rows are quarantined.
UNSENT = [("plain", "ledger.sending.after"), ("plain", "create.send")]
ALSO = [
    pytest.param(peer, *at, id="-".join((name, *at)), marks=pytest.mark.slow)
    for name, peer in ALSO_KILLED_AT.items()
    for at in points_of(peer)
    if peer.pages or at not in UNSENT
]


def every_kind(scenario: str) -> list[Any]:
    """The kinds that come to a scenario; two of them in the fast suite."""
    return [
        pytest.param(peer, id=peer.name, marks=() if peer in (openai, anthropic) else pytest.mark.slow)
        for peer in KILLED_AT
        if scenario not in not_played(peer)
    ]


# Where the one that mends a lost create may die.
MENDING = [
    pytest.param(peer, point, id=f"{peer.name}-{point}", marks=kind.marks)
    for kind in every_kind("lost")
    for peer in kind.values
    for point in ("ledger.outcome_lost.after", "create.replay.received", "look.received", "ledger.adopted.before", "ledger.adopted.after")
    if point not in not_passed(peer)
]


class Crash:
    """Kills a worker, has this process go on, and says what must then be true."""

    def __init__(self, emulator: Emulator, keld: Keld, folder: Path, note: Callable[[str, object], None]) -> None:
        self.emulator, self.keld, self.folder, self.note = emulator, keld, folder, note
        self.sink = folder / "out.parquet"

    def now(self) -> Any:
        return self.emulator.now()

    __call__ = now

    def advance(self, span: timedelta) -> Any:
        return self.emulator.advance(span)

    def kill(self, peer: Peer, scenario: str, point: str, nth: int = 1, bug: str | None = None) -> None:
        """A worker's life, to `point`."""
        self.note("killed_at", f"{peer.name} {point}")
        assert killed(self.order(peer, scenario, bug), point, nth) == KILLED, f"no worker came by {point}"

    def order(self, peer: Peer, scenario: str, bug: str | None = None) -> Order:
        """What a worker is told."""
        return Order(
            env=self.emulator.env(),
            home=str(self.keld.home),
            ledger_url=self.keld.ledger_url,
            emulator_url=self.emulator.url,
            peer=peer,
            scenario=scenario,
            sink=str(self.sink),
            bug=bug,
        )

    def check(self, peer: Peer, name: str, status: package.Status, deaths: int = 1) -> None:
        scenario, bill, lost = SCENARIOS[name], paid(self.emulator), loses_answers(peer, name)
        table, runs = scenario.table(), self.keld.statuses()  # several, where a worker submitted again what was cancelled
        if scenario.fast:
            return self.check_fast(peer, status, table, deaths)
        if scenario.late:
            assert sorted(bill.values()) == [1] * (3 if marks_batches(peer) else 0) + [2] * (3 if marks_batches(peer) else 6), (
                "as far as it had come"
            )
        else:
            assert max(bill.values(), default=1) <= (max(2, len(runs)) if lost else 1), "a row was paid twice"
        if scenario.bought:
            assert set(bill) == set(range(table.num_rows))
        answered = [outcome == "answered" for outcome in outcomes(self.keld, status)]
        billed = billed_usd(self.emulator, status.created_at)
        cost, reserved = sum(run.cost_usd for run in runs), sum(run.reserved_usd for run in runs)
        if lost:
            assert answered == [scenario.bought] * table.num_rows or len(runs) > 1
            assert cost <= billed <= cost + reserved
        else:
            assert answered == [n in bill for n in range(table.num_rows)]
            assert (cost, reserved) == (billed, 0)
        assert not [call for call in creates(self.emulator, peer) if call.retry_count]
        self.check_output(table.num_rows)
        assert pq.read_table(self.sink).select(table.schema.names).equals(table)

    def check_fast(self, peer: Peer, status: package.Status, table: Any, deaths: int) -> None:
        """Every row is answered; what is paid twice, or without an answer to show for it, is no more than was in flight, is counted and reserved.

        Where a request that is sent again costs nothing, there is nothing to reserve.
        """
        shards = self.keld.ledger.shards(status.id)
        doubts = {shard.id: (shard.error.rows if shard.error else 0) for shard in shards if shard.lane != "batch"}
        traits = preset_of(peer.name, peer.name).traits
        again, costs = sum(count - 1 for count in paid(self.emulator).values()), traits.repeats_cost
        assert outcomes(self.keld, status) == ["answered"] * table.num_rows
        assert again <= sum(doubts.values()) if costs else not any(doubts.values())
        assert max([again, *doubts.values()]) <= 8 * deaths
        billed = billed_usd(self.emulator, status.created_at, peer.prices)
        assert status.cost_usd <= billed <= status.cost_usd + status.reserved_usd
        assert status.reserved_usd == sum(shard.worst_usd * doubts.get(shard.id, 0) / shard.requests for shard in shards)
        replayed = 0 if traits.replays is None else deaths  # the same create, which makes no second batch
        assert len(creates(self.emulator, peer)) <= sum(shard.lane == "batch" for shard in shards) + replayed
        self.check_output(table.num_rows)
        assert pq.read_table(self.sink).select(table.schema.names).equals(table)

    def check_output(self, rows: int) -> None:
        """Absent, or whole."""
        if self.sink.exists():
            assert pq.read_table(self.sink).num_rows == rows
        assert not [path for path in self.folder.iterdir() if path.suffix == ".parquet" and path != self.sink]


@pytest.fixture
def emulator(open_emulator: Callable[..., Emulator], monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """Batches take no longer than the runner waits before its first look; there are two hundred tests here."""
    monkeypatch.setattr(bedrock_input, "LEAST_RECORDS", 1)  # a table here has six rows
    return listen(open_emulator(latency_s=10, cancel_s=5))


@pytest.fixture
def crash(emulator: Emulator, keld: Keld, tmp_path: Path, record_property: Callable[[str, object], None]) -> Crash:
    return Crash(emulator, keld, tmp_path, record_property)


def prove(crash: Crash, peer: Peer, scenario: str, point: str) -> None:
    crash.emulator.faults(SCENARIOS[scenario].plan(peer))
    crash.kill(peer, scenario, point)
    crash.check_output(SCENARIOS[scenario].rows)
    status = follow(crash.keld, crash, SCENARIOS[scenario], peer, str(crash.sink))
    crash.check(peer, scenario, status)


@pytest.mark.parametrize(("peer", "scenario", "point"), [*CASES, *ALSO])
def test_a_worker_killed_anywhere_costs_no_row_and_no_cent(crash: Crash, peer: Peer, scenario: str, point: str) -> None:
    """Trap 2 and 25: whatever it was about to do is found and finished by the next one."""
    prove(crash, peer, scenario, point)


@pytest.mark.share(2)
@pytest.mark.parametrize(("scenario", "point"), UNSENT)
def test_rows_of_a_worker_killed_before_its_create_are_quarantined_where_no_list_shows_all_batches(
    crash: Crash, scenario: str, point: str
) -> None:
    """A person decides: the other shard's batch shows that there are batches, and Groq's list does not say whether it is whole."""
    crash.kill(groq, scenario, point)
    status = follow(crash.keld, crash, SCENARIOS[scenario], groq, str(crash.sink), most=300)
    assert outcomes(crash.keld, status) == ["quarantined"] * 4 + ["answered"] * 2
    assert paid(crash.emulator) == Counter({4: 1, 5: 1})
    assert status.reserved_usd > 0
    crash.check_output(6)


@pytest.mark.share(3)
@pytest.mark.parametrize("peer", every_kind("escalated"))
@pytest.mark.parametrize(
    "point", ["ledger.staged.after", "ledger.sending.after", "ledger.created.after", "ledger.ended.before", "collect.done"]
)
def test_a_worker_killed_in_a_rescue_costs_no_more_than_was_in_flight(crash: Crash, peer: Peer, point: str) -> None:
    """The second pass of these points is the stretch's; the batch was cancelled and harvested by then."""
    crash.emulator.faults(SCENARIOS["escalated"].plan(peer))
    crash.kill(peer, "escalated", point, nth=2)
    crash.check(peer, "escalated", follow(crash.keld, crash, SCENARIOS["escalated"], peer, str(crash.sink)))


@pytest.mark.slow
@pytest.mark.books_open("the bug buys twice, and nobody knows")
@pytest.mark.parametrize(
    ("bug", "scenario", "point"), [("intent_after_create", "plain", "create.received"), ("creates_retried", "lost", "poll.send")]
)
def test_a_kill_shows_a_bug_that_buys_twice(
    crash: Crash, peer: Peer, bug: str, scenario: str, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand kills that break nothing prove something only if they would have broken it."""
    crash.emulator.faults(SCENARIOS[scenario].plan(peer))
    crash.kill(peer, scenario, point, bug=bug)
    with BUGS[bug](monkeypatch), pytest.raises(AssertionError):
        crash.check(peer, scenario, follow(crash.keld, crash, SCENARIOS[scenario], peer, str(crash.sink)))


@pytest.mark.share(2)
@pytest.mark.parametrize("point", DANGEROUS)
@pytest.mark.parametrize("scenario", ["plain"])
def test_a_worker_killed_around_a_create_costs_nothing_on_postgres(
    crash: Crash, peer: Peer, scenario: str, point: str, request: pytest.FixtureRequest
) -> None:
    """The same promise upon the other database; all points in the slow suite."""
    upon_postgres(crash, request)
    prove(crash, peer, scenario, point)


@pytest.mark.slow
@pytest.mark.parametrize(("peer", "scenario", "point"), CASES)
def test_a_worker_killed_anywhere_costs_nothing_on_postgres(
    crash: Crash, peer: Peer, scenario: str, point: str, request: pytest.FixtureRequest
) -> None:
    """As on SQLite."""
    upon_postgres(crash, request)
    prove(crash, peer, scenario, point)


def upon_postgres(crash: Crash, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue("postgres")()
    crash.keld.close()
    crash.keld = Keld(home=crash.folder / "home", ledger_url=url, clock=crash.emulator.now)
    request.addfinalizer(crash.keld.close)


@pytest.mark.share(3)
@pytest.mark.parametrize(("peer", "second"), MENDING)
@pytest.mark.parametrize("first", ["create.received", "ledger.outcome_lost.before"])
def test_a_worker_killed_twice_costs_nothing(crash: Crash, peer: Peer, first: str, second: str) -> None:
    """The one that came to mend it dies as well."""
    crash.emulator.faults(SCENARIOS["lost"].plan(peer))
    crash.kill(peer, "lost", first)
    crash.kill(peer, "lost", second)
    status = follow(crash.keld, crash, SCENARIOS["lost"], peer, str(crash.sink))
    crash.check(peer, "lost", status)


@pytest.mark.parametrize(
    "peer", [pytest.param(peer, id=peer.name, marks=pytest.mark.slow if peer is not openai else ()) for peer in KILLED_AT]
)
@pytest.mark.parametrize("scenario", POINTS)
def test_every_point_is_passed_where_the_table_says(crash: Crash, peer: Peer, scenario: str) -> None:
    """Else a kill test would prove nothing, or a point would have none."""
    if scenario in not_played(peer):
        return
    crash.emulator.faults(SCENARIOS[scenario].plan(peer))
    failpoint.seen.clear()
    follow(crash.keld, crash, SCENARIOS[scenario], peer, str(crash.sink))
    assert set(POINTS[scenario]) - not_passed(peer) <= failpoint.seen


def test_every_point_in_the_source_has_its_kill() -> None:
    """A point added without a scenario is a promise nobody keeps."""
    source = "\n".join(path.read_text() for path in Path(package.__file__).parent.rglob("*.py"))
    literal = set(re.findall(r'failpoint\("([a-z_.]+)"\)', source))
    files = {f"{name}.{step}" for name in re.findall(r'"(staging\.[a-z]+)"', source) for step in ("write", "fsync", "rename", "done")}
    kinds = {RunEvent[name].value for name in re.findall(r"record_run\(\s*context\.lease,\s*[a-z.()]+,\s*RunEvent\.([A-Z_]+)", source)}
    runs = {f"ledger.run_{kind}.{when}" for kind in kinds for when in ("before", "after")}
    events = {f"ledger.{event.value}.{when}" for event in Event for when in ("before", "after")}
    assert kinds >= {"writing", "finished", "superseded"}
    assert literal | files | runs | events == {point for points in POINTS.values() for point in points} | NEVER | ELSEWHERE


@pytest.mark.parametrize("point", ["staging.input.write", "staging.input.fsync", "staging.input.rename", "download.chunk"])
def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_room(
    crash: Crash, peer: Peer, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that was paid is lost, and nothing is paid twice."""
    monkeypatch.setenv("KELD_FAILPOINT", f"{point}:enospc")
    failpoint._passes.clear()
    with pytest.raises(package.KeldError, match="No space left"):
        follow(crash.keld, crash, SCENARIOS["plain"], peer, str(crash.sink))
    monkeypatch.delenv("KELD_FAILPOINT")
    status = follow(crash.keld, crash, SCENARIOS["plain"], peer, str(crash.sink))
    crash.check(peer, "plain", status)


def test_the_lease_of_a_dead_worker_is_not_waited_for(crash: Crash) -> None:
    """On the same host its process is known to be gone."""
    crash.kill(openai, "plain", "create.received")
    (run,) = crash.keld.statuses()
    lease_until = Ledger(crash.keld.ledger_url).run(run.id).lease_until
    assert lease_until is not None
    assert lease_until > crash.emulator.now()
    crash.keld.advance(run.id)
    assert "outcome_lost" in ledger_dump(crash.keld.ledger_url)


@pytest.mark.share(3)
@pytest.mark.parametrize("peer", every_kind("plain"))
@pytest.mark.parametrize("scenario", ["plain", "primed"])
@pytest.mark.parametrize("point", ["create.send", "create.received", "ledger.collected.before"])
def test_a_worker_killed_at_its_second_shard_costs_nothing(crash: Crash, peer: Peer, point: str, scenario: str) -> None:
    """The first one's batch is under way, and known; or it was one row, and is collected."""
    crash.kill(peer, scenario, point, nth=2)
    status = follow(crash.keld, crash, SCENARIOS[scenario], peer, str(crash.sink))
    crash.check(peer, scenario, status)
    assert [batch.requests for batch in status.batches] == ([1, 5] if scenario == "primed" else [4, 2])
