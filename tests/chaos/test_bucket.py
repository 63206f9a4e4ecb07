"""Staging in a bucket: a worker is killed at every named point, and another one, which shares a database and the bucket only, goes on.

The promise is that of `test_crash`.  Here the second worker is a process too, with a HOME, a working directory, temporary files and scratch of its
own; the paths that each opened are noted, and none is in common.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from keld import Keld
from keld.emulator import Emulator
from keld.emulator.services import bedrock_input
from tests.chaos.test_crash import DANGEROUS, KILLED_AT, Crash, points_of
from tests.support.lane_purchases import listen, paid
from tests.support.ticket_job import Peer, billed_usd, openai, outcomes
from tests.support.worker_process import KILLED, SCENARIOS, Order, finished, follow, killed, opened

BUCKET = "s3://staging/keld"
# Where the files would be renamed on a disk; and the points that only a bucket has, each under a scenario that passes it.
STEPS = [
    ("plain", "object.put.send", 1),  # snapshot, question, positions of both shards, answers of both
    ("plain", "object.put.received", 3),
    ("plain", "object.put.received", 6),
    ("rejected", "object.put.received", 4),
    ("standard", "segment.fence.send", 1),
    ("standard", "segment.fence.received", 1),
    ("standard", "segment.put.send", 2),
    ("standard", "segment.put.received", 1),
    ("standard", "segment.put.received", 2),
    ("escalated", "segment.put.received", 1),
]
# One in each state, and on the way between two.
STATES = [
    ("plain", "ledger.open_run.after"),
    ("plain", "ledger.staged.after"),
    ("plain", "upload.received"),
    ("plain", "create.received"),
    ("plain", "ledger.created.after"),
    ("plain", "ledger.ended.after"),
    ("plain", "collect.done"),
    ("plain", "ledger.collected.after"),
    ("plain", "ledger.run_writing.after"),
    ("lost", "ledger.outcome_lost.after"),
    ("expired", "ledger.add_shards.after"),
    ("deferred", "ledger.deferred.after"),
    ("rejected", "ledger.refused.after"),
    ("cancelled", "ledger.cancel_asked.after"),
    ("standard", "realtime.received"),
    ("escalated", "realtime.received"),
]
SLOW_CASES = [
    pytest.param(peer, scenario, point, id=f"{peer.name}-{scenario}-{point}")
    for peer in KILLED_AT
    for scenario, point in points_of(peer)
    if point != "realtime.journal"
]


class BucketCrash(Crash):
    """Workers whose staging is a bucket, each at a place of its own."""

    def order(self, peer: Peer, scenario: str, bug: str | None = None) -> Order:
        told = super().order(peer, scenario, bug)
        return replace(told, env={**told.env, "KELD_STAGING": BUCKET})

    def at(self, name: str, peer: Peer, scenario: str) -> Order:
        """The order of a worker with no file in common with others: it writes no output, too."""
        place = self.folder / name
        return replace(self.order(peer, scenario), home=str(place / "keld"), place=str(place), sink=None)


@pytest.fixture
def emulator(open_emulator: Callable[..., Emulator], monkeypatch: pytest.MonkeyPatch) -> Emulator:
    monkeypatch.setattr(bedrock_input, "LEAST_RECORDS", 1)  # a table here has six rows
    return listen(open_emulator(latency_s=10, cancel_s=5))


@pytest.fixture
def crash(
    emulator: Emulator, tmp_path: Path, record_property: Callable[[str, object], None], request: pytest.FixtureRequest
) -> Iterator[BucketCrash]:
    """Upon SQLite, unless the test asks for Postgres."""
    url = request.getfixturevalue("postgres")() if "postgres" in request.fixturenames else f"sqlite:///{tmp_path / 'ledger.db'}"
    (tmp_path / "out").mkdir()
    with Keld(home=tmp_path / "home", ledger_url=url, staging=BUCKET, clock=emulator.now) as keld:
        yield BucketCrash(emulator, keld, tmp_path / "out", record_property)


def prove(crash: BucketCrash, peer: Peer, scenario: str, point: str, nth: int = 1) -> None:
    crash.emulator.faults(SCENARIOS[scenario].plan(peer))
    crash.kill(peer, scenario, point, nth)
    crash.check(peer, scenario, follow(crash.keld, crash, SCENARIOS[scenario], peer, str(crash.sink)))


@pytest.mark.share(5)
@pytest.mark.parametrize(
    ("scenario", "point", "nth"), [pytest.param(*case, marks=() if n % 2 == 0 else pytest.mark.slow) for n, case in enumerate(STEPS)]
)
def test_a_worker_killed_at_a_step_of_the_bucket_costs_nothing(crash: BucketCrash, scenario: str, point: str, nth: int) -> None:
    prove(crash, openai, scenario, point, nth)


@pytest.mark.share(2)
@pytest.mark.parametrize("point", [pytest.param(point, marks=() if n % 3 == 2 else pytest.mark.slow) for n, point in enumerate(DANGEROUS)])
def test_a_worker_killed_around_a_create_costs_nothing_in_a_bucket(crash: BucketCrash, point: str) -> None:
    prove(crash, openai, "plain", point)


@pytest.mark.share(2)
@pytest.mark.parametrize(("point", "nth"), [("object.get.send", 1), ("object.get.received", 2)])
def test_a_worker_killed_as_it_fetches_what_another_one_left_costs_nothing(crash: BucketCrash, point: str, nth: int) -> None:
    """The one that made the files needs to fetch none."""
    crash.kill(openai, "plain", "ledger.staged.after")
    crash.kill(openai, "plain", point, nth)
    crash.check(openai, "plain", follow(crash.keld, crash, SCENARIOS["plain"], openai, str(crash.sink)))


@pytest.mark.slow
@pytest.mark.parametrize(("peer", "scenario", "point"), SLOW_CASES)
def test_a_worker_killed_anywhere_costs_nothing_in_a_bucket(crash: BucketCrash, peer: Peer, scenario: str, point: str) -> None:
    """As with a directory."""
    prove(crash, peer, scenario, point)


def test_a_store_that_fails_now_and_then_costs_nothing(crash: BucketCrash) -> None:
    """Lost replies, refused writes, replies that are cut, and lists that lag behind."""
    match = {"match": {"provider": "s3"}, "times": 2}
    rules = [
        {"at": "upload", "do": "drop_after", "skip": 1, **match},
        {"at": "upload", "do": "status", "status": 503, "skip": 7, **match},
        {"at": "download", "do": "truncate", "bytes": 50, **match},
        {"at": "get", "do": "drop_before", **match},
        {"at": "upload", "do": "list_lag", "for_s": 86_400, "times": None, "match": {"provider": "s3"}},
    ]
    crash.emulator.faults({"rules": rules})
    crash.kill(openai, "standard", "segment.put.received")
    crash.check(openai, "standard", follow(crash.keld, crash, SCENARIOS["standard"], openai, str(crash.sink)))


# --- no file in common --------------------------------------------------------------------------------------------------


@pytest.mark.share(4)
@pytest.mark.parametrize(
    ("scenario", "point"), [pytest.param(*case, marks=() if n % 5 == 0 else pytest.mark.slow) for n, case in enumerate(STATES)]
)
def test_a_worker_with_no_file_in_common_takes_over_in_every_state(
    crash: BucketCrash, scenario: str, point: str, postgres: Callable[[], str]
) -> None:
    """A pod that died, and the next one on another node: they share Postgres and the bucket."""
    crash.emulator.faults(SCENARIOS[scenario].plan(openai))
    crash.note("killed_at", f"{openai.name} {point}")
    first, second = crash.at("first", openai, scenario), crash.at("second", openai, scenario)
    assert killed(first, point) == KILLED, f"no worker came by {point}"
    assert finished(second) == 0
    assert sorted(opened(Path(str(first.place))) & opened(Path(str(second.place)))) == []
    assert any("/scratch/" in path for path in opened(Path(str(first.place)))), "the first worker's files were noted"
    status = crash.keld.find("triage")
    assert status is not None
    bill = paid(crash.emulator)
    assert [outcome == "answered" for outcome in outcomes(crash.keld, status)] == [n in bill for n in range(SCENARIOS[scenario].rows)]
    if SCENARIOS[scenario].bought and not SCENARIOS[scenario].fast:
        assert (set(bill), set(bill.values())) == (set(range(SCENARIOS[scenario].rows)), {1})
    assert status.cost_usd <= billed_usd(crash.emulator, status.created_at) <= status.cost_usd + status.reserved_usd
