"""No row lost, no row paid twice, whatever the order in which workers run, freeze and die (see `tests/support/worker_schedule.py`).

`make schedules N=200000` runs that many, spread over the cores; each test is a shard of them with a seed of its own, which is in its name.
Every third seed runs a quarter as many in the fast lanes, too (see `fast_lane_schedule`; these take four times as long).  A failure is shrunk and printed as
the steps to it; `make schedules SEED=...` with the printed seed runs the same again.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from tests.support import ticket_job
from tests.support.cloud_schedule import CloudSchedule
from tests.support.fast_lane_schedule import FastLaneSchedule
from tests.support.injected_bugs import BUGS, IN_FAST_LANE
from tests.support.worker_schedule import SHARDS, START, Schedule, Violation, explore, prepared

pytestmark = pytest.mark.books_open("each schedule has held its own against the bill, and leaves out what nobody can tell to be ours")


@pytest.fixture(autouse=True)
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The SDKs' way to the emulator of this process."""
    with prepared(monkeypatch):
        yield


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("seed", "schedules"), SHARDS, ids=str)
def test_no_schedule_loses_a_row_or_pays_it_twice(seed: int, schedules: int, record_property: Callable[[str, object], None]) -> None:
    for name, count in explore(seed, schedules).items():
        record_property(name, count)


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("seed", "schedules"), [(seed, schedules // 4) for seed, schedules in SHARDS if seed % 3 == 0], ids=str)
def test_no_schedule_in_the_fast_lanes_loses_a_row_or_pays_it_twice(
    seed: int, schedules: int, record_property: Callable[[str, object], None]
) -> None:
    """The same where rows are asked one by one, from the start or for a deadline's sake."""
    for name, count in explore(seed, schedules, kind=FastLaneSchedule).items():
        record_property(name, count)


@pytest.mark.wide
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("seed", "schedules"), [(seed, schedules // 2) for seed, schedules in SHARDS if seed % 3 == 0], ids=str)
def test_no_schedule_at_the_clouds_loses_a_row_or_pays_it_twice(
    seed: int, schedules: int, record_property: Callable[[str, object], None]
) -> None:
    """The same at Azure, Bedrock, Gemini, Mistral and Vertex."""
    for name, count in explore(seed, schedules, kind=CloudSchedule).items():
        record_property(name, count)


@pytest.mark.wide
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("schedules", [4, pytest.param(400, marks=pytest.mark.slow)])
def test_no_schedule_with_staging_in_a_bucket_loses_a_row_or_pays_it_twice(
    schedules: int, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    """Every worker has a folder of its own: they have the ledger and the bucket in common."""
    monkeypatch.setenv("KELD_STAGING", "s3://staging/keld")
    for name, count in explore(7, schedules).items():
        record_property(name, count)


# --- the schedules can fail: faults that they must find -----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("kind", "bug"),
    [(kind, bug) for kind, bugs in ((Schedule, BUGS), (FastLaneSchedule, IN_FAST_LANE), (CloudSchedule, BUGS)) for bug in bugs.values()],
    ids=[*BUGS, *IN_FAST_LANE, *(f"{bug}-clouds" for bug in BUGS)],
)
def test_a_bug_is_found(
    kind: type[Schedule], bug: Any, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    """A thousand schedules that find nothing prove something only if they would have found it."""
    with bug(monkeypatch), pytest.raises(Violation) as found:
        explore(1, 1000, kind=kind, shrink=False)
    record_property("found", str(found.value))


# --- what a schedule in the fast lanes is made of ----------------------------------------------------------------------------------

_IN_TWO_HOURS = {"deadline": START + timedelta(hours=2)}


def in_fast_lane(terms: dict[str, Any], omens: list[dict[str, Any]]) -> FastLaneSchedule:
    """A schedule with one partition of four rows, two of which may be asked at once."""
    schedule = FastLaneSchedule()
    schedule.declare(
        peer=ticket_job.openai, omens=omens, shapes=[(4, 4)], ceiling=None, submitted=True, terms=terms, latency_s=30, at_once=2
    )
    return schedule


def ends(schedule: FastLaneSchedule) -> Counter[str | None]:
    return Counter(request.end for request in schedule.requests)


@pytest.mark.parametrize("point", ["realtime.send", "realtime.received"])
def test_what_is_in_flight_at_a_kill_is_asked_again_and_no_other_row(point: str) -> None:
    """The event loop stands in the worker's own thread: held, none of its requests goes on."""
    schedule = in_fast_lane({"lane": "standard"}, [])
    schedule.break_off(n=0, point=point, passes=2, dies=True, seconds=125)
    killed = ends(schedule)["killed"]
    schedule.teardown()
    assert 1 <= killed <= 2
    assert ends(schedule) == {"killed": killed, "kept": 4}


def test_what_stands_on_disk_at_a_kill_is_not_asked_again() -> None:
    """Its line is written, and the fsync had not returned: a SIGKILL leaves it."""
    schedule = in_fast_lane({"lane": "standard"}, [])
    schedule.break_off(n=0, point="realtime.journal", passes=1, dies=True, seconds=125)
    kept = ends(schedule)["kept"]
    schedule.teardown()
    assert kept >= 1
    assert ends(schedule)["kept"] == 4


def test_who_stands_still_in_a_stretch_keeps_others_out_of_it_and_goes_home() -> None:
    """Its lease is another's by then, and its journal is not."""
    schedule = in_fast_lane({"lane": "standard"}, [])
    schedule.break_off(n=0, point="realtime.received", passes=1, dies=False, seconds=601)
    schedule.tick(n=0, ticks=1)
    assert len(schedule.requests) == 2
    schedule.go_on(n=0, until="end")
    assert ends(schedule) == {"kept": 2}
    schedule.teardown()
    assert ends(schedule) == {"kept": 4}


def test_a_batch_that_is_late_is_rescued_and_its_rescuer_may_die() -> None:
    """What it had answered is bought nowhere else; the rest by itself."""
    schedule = in_fast_lane(_IN_TWO_HOURS, [{"at": "life", "do": "stuck", "done": 0.5}])
    schedule.tick(n=0, ticks=1)
    schedule.turn(seconds=6_000)
    schedule.tick(n=0, ticks=2)  # its latest safe moment comes, and the provider's last word
    schedule.break_off(n=0, point="realtime.received", passes=1, dies=True, seconds=125)
    killed = ends(schedule)["killed"]
    schedule.teardown()
    assert killed >= 1
    assert ends(schedule)["kept"] == 2


# --- single schedules, found once and mended ---------------------------------------------------------

_GARBAGE = {"at": "download", "do": "garbage"}
_LOST_REPLY = {"at": "create", "do": "drop_after"}
MENDED = {
    "a page of HTML instead of results, once: the rest of the file is fetched behind it": (ticket_job.openai, [_GARBAGE]),
    "a page of HTML instead of results, as often as they are fetched": (ticket_job.openai, [{**_GARBAGE, "times": 8}]),
    "the same of a batch without a mark": (ticket_job.anthropic, [{**_GARBAGE, "times": 8}]),
    "a page of HTML instead of the sample that tells whose a batch is": (ticket_job.anthropic, [_LOST_REPLY, _GARBAGE]),
    "all lines of a batch whose create is looked for are lost": (ticket_job.anthropic, [_LOST_REPLY, {"at": "lines", "do": "missing"}]),
    "a page of HTML instead of the removal that keeps a create from landing": (
        ticket_job.openai,
        [{"at": "create", "do": "late_landing", "after_s": 900}, {"at": "delete", "do": "garbage", "times": 3}],
    ),
    "a batch whose create is looked for never ends": (ticket_job.anthropic, [_LOST_REPLY, {"at": "life", "do": "stuck"}]),
    "a batch whose create is looked for lies about its size": (
        ticket_job.anthropic,
        [_LOST_REPLY, {"at": "life", "do": "counts", "processing": 99}],
    ),
}


def test_a_page_of_html_is_never_believed_however_late() -> None:
    """Found by a schedule: ten minutes after the end, what no line told was taken for lost, and bought again."""
    schedule = Schedule()
    schedule.declare(peer=ticket_job.openai, omens=[], shapes=[(3, 2)], ceiling=None, submitted=True)
    schedule.break_(fault=_LOST_REPLY, skip=0)
    schedule.break_(fault={**_GARBAGE, "times": 8}, skip=0)
    schedule.tick(n=0, ticks=3)
    schedule.turn(seconds=601)
    schedule.tick(n=0, ticks=1)
    schedule.teardown()


def test_what_a_orphan_lost_stays_in_reserve() -> None:
    """Found by a schedule: its batch landed after the last look, and some of its lines were lost; what these cost is not known."""
    lines = {"at": "lines", "do": "missing", "fraction": 0.4}
    schedule = Schedule()
    schedule.declare(peer=ticket_job.anthropic, omens=[_LOST_REPLY, lines], shapes=[(3, 3)], ceiling=None, submitted=True)
    schedule.break_(fault={"at": "create", "do": "late_landing", "after_s": 4000}, skip=0)
    schedule.tick(n=0, ticks=1)
    schedule.teardown()


def test_a_batch_that_landed_late_and_never_ends_is_shown() -> None:
    """Found by a schedule: at a host without marks only its results could tell that it is ours, and it has none, long past its own expiry."""
    schedule = Schedule()
    late = {"at": "create", "do": "late_landing", "after_s": 4000}
    schedule.declare(peer=ticket_job.anthropic, omens=[late, {"at": "life", "do": "stuck"}], shapes=[(3, 2)], ceiling=None, submitted=True)
    schedule.tick(n=0, ticks=1)
    schedule.teardown()
    assert len(schedule.unproven) == 1


def replay(peer: ticket_job.Peer, omens: list[dict[str, Any]]) -> None:
    """One partition of one batch, looked at until it is over."""
    schedule = Schedule()
    schedule.declare(peer=peer, omens=omens, shapes=[(3, 6)], ceiling=None, submitted=True)
    for _ in range(12):
        schedule.tick(n=0, ticks=3)
    schedule.teardown()


@pytest.mark.share(2)
@pytest.mark.parametrize("name", MENDED)
def test_what_was_found_stays_mended(name: str) -> None:
    replay(*MENDED[name])
