"""Workers are killed at instants that no failpoint names: before any line of `keld`, or after any span of real time; alone, and two at once.

Each seed is a schedule of its own: who, upon what, killed when and how often.  `KELD_INSTANTS=2000 KELD_SEED=7` plays 2000 of them, from seed 7 on.
"""

import itertools
import os
import random
from bisect import bisect
from collections.abc import Callable
from pathlib import Path

import pytest

from keld import Keld
from keld.emulator import Emulator
from keld.emulator.services import bedrock_input
from tests.chaos.test_bucket import BUCKET, BucketCrash
from tests.chaos.test_crash import ALSO_KILLED_AT, KILLED_AT, Crash, not_played, upon_postgres
from tests.support.injected_bugs import BUGS
from tests.support.kill_instant import Instant, end, start
from tests.support.lane_purchases import listen
from tests.support.ticket_job import Peer, creates, groq
from tests.support.worker_process import SCENARIOS, follow

_FIRST, _COUNT = int(os.environ.get("KELD_SEED", "0")), int(os.environ.get("KELD_INSTANTS", "60"))
_FAST = 4  # of them in the fast suite
SEEDS = [pytest.param(_FIRST + n, marks=() if n < _FAST else pytest.mark.slow) for n in range(_COUNT)]
PLAYED = [name for name, scenario in SCENARIOS.items() if not scenario.late]
PEERS = [*KILLED_AT, *(peer for peer in ALSO_KILLED_AT.values() if peer is not groq)]  # where a create may stay unknown for good
DEATHS_MOST = 4
# A worker passes more than 2,700 lines of `keld` once before its create, counted up to three times some 6,000, in all 12,000 to 60,000.
LINES = {1: 3_600, 3: 6_000, 1_000_000: 30_000}
_LIFE_S = 1.5


@pytest.fixture
def open_crash(
    open_emulator: Callable[..., Emulator],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Crash]:
    """One after the other, each with a provider, a ledger and a folder of its own; the tests of failpoints have the same emulator."""
    monkeypatch.setattr(bedrock_input, "LEAST_RECORDS", 1)  # a table here has six rows
    numbers = itertools.count()

    def start(kind: type[Crash] = Crash, staging: str | None = None) -> Crash:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        emulator = listen(open_emulator(latency_s=10, cancel_s=5))
        keld = Keld(home=folder / "home", ledger_url=f"sqlite:///{folder / 'ledger.db'}", staging=staging, clock=emulator.now)
        request.addfinalizer(keld.close)
        return kind(emulator, keld, folder, record_property)

    return start


def instant(chance: random.Random) -> Instant:
    """Two in three before a line."""
    if chance.random() < 1 / 3:
        return Instant(span_s=chance.uniform(0, _LIFE_S))
    times = chance.choice(list(LINES))
    return Instant(line=chance.randint(1, LINES[times]), times=times)


def die(crash: Crash, peer: Peer, scenario: str, instants: list[Instant], bug: str | None = None) -> int:
    """Workers at once, each until its instant, or its end; how many were killed."""
    order = crash.order(peer, scenario, bug)
    words = [crash.folder / f"last-words-{n}" for n in range(len(instants))]
    workers = [start(order, *told) for told in zip(instants, words, strict=True)]
    killed = [end(worker, instant) for worker, instant in zip(workers, instants, strict=True)]
    for died, word in zip(killed, words, strict=True):
        if died:
            crash.note("killed_at", f"{peer.name} {word.read_text() if word.exists() else 'between lines'}")
        word.unlink(missing_ok=True)
    return sum(killed)


def play(crash: Crash, seed: int, request: pytest.FixtureRequest) -> None:
    """One schedule, and what must be true after it."""
    chance = random.Random(seed)
    peer = chance.choice(PEERS)
    scenario = chance.choice([name for name in PLAYED if name not in not_played(peer)])
    if chance.random() < 1 / 3:
        upon_postgres(crash, request)
    crash.emulator.faults(SCENARIOS[scenario].plan(peer))
    # Two at once turn one clock, and one of them a deadline's hours while the other is in the midst of a step.
    at_once, deaths = [1] if "deadline" in SCENARIOS[scenario].terms else [1, 1, 1, 2], 0
    for _ in range(chance.randint(1, DEATHS_MOST)):
        instants = sorted((instant(chance) for _ in range(chance.choice(at_once))), key=lambda each: each.span_s)
        print(peer.name, scenario, crash.keld.ledger_url, *instants)
        deaths += die(crash, peer, scenario, instants)
        crash.check_output(SCENARIOS[scenario].rows)
    crash.check(peer, scenario, follow(crash.keld, crash, SCENARIOS[scenario], peer, str(crash.sink)), deaths=max(1, deaths))


@pytest.mark.share(2)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_worker_killed_at_any_instant_costs_no_row_and_no_cent(
    open_crash: Callable[[], Crash], seed: int, request: pytest.FixtureRequest
) -> None:
    """A SIGKILL does not wait for a failpoint."""
    play(open_crash(), seed, request)


@pytest.mark.wide
@pytest.mark.parametrize("seed", [pytest.param(_FIRST + n, marks=() if n < 1 else pytest.mark.slow) for n in range(_COUNT)])
def test_a_worker_killed_at_any_instant_costs_nothing_with_staging_in_a_bucket(
    open_crash: Callable[..., Crash], seed: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder is gone with it."""
    monkeypatch.setenv("KELD_STAGING", BUCKET)
    play(open_crash(BucketCrash, BUCKET), seed, request)


@pytest.mark.slow
@pytest.mark.books_open("the bug buys twice, and nobody knows")
def test_instants_show_a_bug_that_buys_twice(open_crash: Callable[[], Crash], peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand kills that break nothing prove something only if they would have broken it: here, before one of the lines after a create."""

    def dead(line: int) -> Crash:
        crash = open_crash()
        die(crash, peer, "plain", [Instant(line=line)], bug="intent_after_create")
        return crash

    lines = range(1, LINES[1])
    bought = lines[bisect(lines, False, key=lambda line: bool(creates(dead(line).emulator, peer)))]
    with BUGS["intent_after_create"](monkeypatch), pytest.raises(AssertionError, match="a row was paid twice"):
        for line in range(bought, bought + 20):
            crash = dead(line)
            crash.check(peer, "plain", follow(crash.keld, crash, SCENARIOS["plain"], peer, str(crash.sink)))
