"""Probe: one row before all others, as a batch of one or in the standard lane: it finds a wrong parameter, and writes the prompt cache."""

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from keld import Keld, Settings, Status
from keld.emulator import Emulator
from keld.plan import Option
from keld.price import Lane
from keld.view import status_line, status_view
from tests.support.ticket_job import Peer, anthropic, check_promise, creates, fault, finish, gemini, openai, outcomes, run, tickets, triage

pytestmark = pytest.mark.by_turns

LONG = "You triage support tickets by the handbook. " * 500  # 5,500 tokens of the emulator's: above every minimum of a prompt cache
HOUR = timedelta(hours=1)


def lanes(emulator: Emulator) -> Counter[str]:
    return Counter(entry.lane for entry in emulator.bill())


def sizes(status: Status) -> list[tuple[str, int]]:
    return [(batch.lane, batch.requests) for batch in status.batches]


def chosen(keld: Keld, rows: int = 20, **terms: Any) -> Option:
    found = keld.plan(triage(anthropic, **terms), tickets(rows)).chosen
    assert found is not None
    return found


# --- in which lane ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("peer", [openai, anthropic], ids=lambda peer: peer.name)
def test_where_there_is_time_a_probe_is_a_batch_of_one(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """It costs half of what it costs in the standard lane."""
    status = run(keld, emulator, triage(peer, probe=True), tickets(20))
    assert sizes(status) == [("batch", 1), ("batch", 19)]
    check_promise(keld, emulator, status, tickets(20))


@pytest.mark.parametrize("peer", [openai, anthropic], ids=lambda peer: peer.name)
def test_a_probe_may_be_asked_for_in_the_standard_lane(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    status = run(keld, emulator, triage(peer, probe="standard"), tickets(20))
    assert outcomes(keld, status) == ["answered"] * 20
    assert lanes(emulator) == {"standard": 1, "batch": 19}
    assert len({entry.body_sha256 for entry in emulator.bill()}) == 20


def test_where_two_batches_would_be_late_a_probe_goes_in_the_standard_lane_and_the_plan_says_so(keld: Keld, emulator: Emulator) -> None:
    """Of batches half end within the hour; of two, one behind the other, few end within two."""
    due = {"deadline": emulator.now() + 2 * HOUR, "lane": "batch", "probability": 0.5}
    plan = keld.plan(triage(anthropic, probe=True, **due), tickets(20))
    assert plan.chosen is not None
    assert plan.chosen.ahead is Lane.STANDARD
    assert plan.reason.startswith("One row goes ahead in the standard lane")
    assert chosen(keld, probe=True, **due | {"deadline": emulator.now() + 12 * HOUR}).ahead is Lane.BATCH
    assert chosen(keld, probe="batch", **due).ahead is Lane.BATCH, "who asks for a lane gets it"
    assert chosen(keld, probe=False, **due).ahead is None


def test_where_a_cancel_gives_no_answer_back_no_batch_of_one_holds_up_a_deadline(keld: Keld, emulator: Emulator) -> None:
    """It would not be cancelled, and all rows behind it would be late."""
    for terms, ahead in (({}, Lane.BATCH), ({"deadline": emulator.now() + 100 * HOUR}, Lane.STANDARD)):
        found = keld.plan(triage(gemini, probe=True, **terms), tickets(20)).chosen
        assert found is not None
        assert (found.lane, found.ahead) == (Lane.BATCH, ahead)


def test_a_row_in_the_standard_lane_is_reserved_at_the_rates_of_that_lane(keld: Keld, emulator: Emulator) -> None:
    """The ceiling is the worst case of the plan to the cent: the row ahead fits into it, too."""
    worst = {probe: chosen(keld, probe=probe).worst_usd for probe in (False, "standard")}
    assert worst["standard"] > worst[False]  # type: ignore[operator]
    status = run(keld, emulator, triage(anthropic, probe="standard", ceiling_usd=worst["standard"]), tickets(20))
    assert outcomes(keld, status) == ["answered"] * 20


# --- what it finds ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probe", "paths"), [("standard", ["/v1/messages"] * 3), ("batch", ["/v1/messages/batches"] + ["/v1/messages"] * 2)]
)
def test_a_wrong_parameter_costs_three_requests(keld: Keld, emulator: Emulator, probe: str, paths: list[str]) -> None:
    """Anthropic tells of it only at a batch's end; requests that are refused are not billed.  The second attempt does not wait for a batch."""
    fault(emulator, "rows", "error", status=400, times=None)
    status = run(keld, emulator, triage(anthropic, probe=probe), tickets(20))
    assert Counter(outcomes(keld, status)) == {"errored": 20}
    assert not emulator.bill()
    assert [call.path for call in emulator.requests() if call.method == "POST"] == paths
    assert "not asked: every row of the probe was refused" in str(keld.read(status.id).read_all().column("keld_error"))


def test_whoever_demands_batches_gets_batches_only(keld: Keld, emulator: Emulator) -> None:
    fault(emulator, "rows", "error", status=400, times=None)
    status = run(keld, emulator, triage(anthropic, probe="batch", lane="batch"), tickets(20))
    assert Counter(outcomes(keld, status)) == {"errored": 20}
    assert sizes(status) == [("batch", 1), ("batch", 2)]


@pytest.mark.parametrize("probe", ["standard", "batch"])
def test_one_row_that_is_refused_for_its_own_sake_stops_nothing(keld: Keld, emulator: Emulator, probe: str) -> None:
    fault(emulator, "rows", "error", status=400, times=1)
    status = run(keld, emulator, triage(anthropic, probe=probe), tickets(20))
    assert Counter(outcomes(keld, status)) == {"answered": 19, "errored": 1}


def test_a_probe_asks_neither_twins_nor_what_was_answered_before(keld: Keld, emulator: Emulator) -> None:
    run(keld, emulator, triage(openai), tickets(10))
    twins = tickets(2).set_column(0, "ticket_id", pa.array(["x", "y"]))
    run(keld, emulator, triage(openai, probe=True), pa.concat_tables([tickets(14), twins]))
    assert len(emulator.bill()) == 14


# --- what it is worth -------------------------------------------------------------------------------------------------


def test_a_row_goes_ahead_by_itself_only_where_the_others_read_what_it_writes(keld: Keld, emulator: Emulator) -> None:
    """`probe=None`: nobody asked for it, so it must save money."""
    assert chosen(keld, system=LONG).ahead is Lane.BATCH
    assert chosen(keld).ahead is None, "the beginning is too short to be kept"
    assert chosen(keld, rows=5, system=LONG).ahead is None, "too few rows read it"
    assert chosen(keld, system=LONG, cache="never").ahead is None
    assert chosen(keld, system=LONG, probe=False).ahead is None


def test_a_primed_job_pays_one_write_and_every_row_once(keld: Keld, emulator: Emulator) -> None:
    status = run(keld, emulator, triage(anthropic, system=LONG), tickets(20))
    assert sizes(status) == [("batch", 1), ("batch", 19)]
    assert [bool(entry.cache_write_tokens) for entry in emulator.bill()].count(True) == 1
    check_promise(keld, emulator, status, tickets(20))


def test_the_rows_behind_one_that_went_ahead_are_shown_as_still_to_be_asked(
    open_emulator: Callable[..., Emulator], open_keld: Callable[..., Keld]
) -> None:
    """One row at the provider is no job run that is nearly done."""
    emulator = open_emulator(latency_s=60)
    keld = open_keld(clock=emulator.now)
    status = keld.advance(keld.submit(triage(anthropic, system=LONG), tickets(20)).id)
    assert (status.requests, status.settled, status.behind) == (20, 0, 19)
    assert status.stage == "first row at the provider, ahead of the others"
    said = "19 rows follow when the one ahead is back"
    assert said in status_line(status)
    assert said in _text(status_view(status))
    ahead = keld.expected_ends([status])[status.id] - emulator.now()
    alone = keld.advance(keld.submit(triage(anthropic, name="alone", system=LONG), tickets(1)).id)
    assert (alone.behind, alone.stage) == (0, "at the provider")
    assert "rows follow" not in status_line(alone)
    one = keld.expected_ends([alone])[alone.id] - emulator.now()
    assert abs(ahead - 2 * one) < timedelta(minutes=1), "the others take as long again"
    status = finish(keld, emulator, status.id)
    assert (status.requests, status.settled) == (20, 20)


def test_what_is_behind_a_row_is_learned_from_and_the_row_is_timed_apart(keld: Keld, emulator: Emulator) -> None:
    """A batch of one may end sooner than one of ten thousand; and the others are asked for the first time, though in a second round."""
    run(keld, emulator, triage(anthropic, system=LONG), tickets(20))
    history, of = keld.ledger.history, ("anthropic", emulator.url, anthropic.model)
    assert history.observed(*of).rows == 20
    assert [len(history.turnarounds(*of, "batch", emulator.now(), ahead=ahead)[0]) for ahead in (True, False)] == [1, 1]


def test_a_batch_within_the_hour_of_another_with_the_same_beginning_is_warm_and_needs_no_row_ahead(keld: Keld, emulator: Emulator) -> None:
    run(keld, emulator, triage(anthropic, system=LONG), tickets(20), partition="2026-11-18")
    warm = chosen(keld, rows=5, system=LONG)
    assert (warm.ahead, warm.cache.warm, warm.cache.ttl) == (None, True, "1h")
    assert not chosen(keld, system="Not " + LONG).cache.warm
    emulator.advance(61 * timedelta(minutes=1))
    assert chosen(keld, rows=20, system=LONG).ahead is Lane.BATCH, "it is cold again"


def test_a_deadline_without_time_for_two_batches_is_kept_by_one_that_is_not_marked(keld: Keld, emulator: Emulator) -> None:
    due = {"deadline": emulator.now() + 2 * HOUR, "lane": "batch", "probability": 0.5}
    plan = keld.plan(triage(anthropic, system=LONG, **due), tickets(20))
    assert plan.chosen is not None
    assert (plan.chosen.ahead, plan.chosen.cache.ttl) == (None, None)
    assert "and keep the deadline with 27.6%, not 55.0%" in plan.reason


def test_whoever_wants_no_row_ahead_is_told_what_marks_would_cost(keld: Keld, emulator: Emulator) -> None:
    """A thousand rows at half of 1 USD a million: all that is shared is written at twice that."""
    reason = keld.plan(triage(anthropic, system=LONG, probe=False), tickets(1_000)).reason
    assert "not marked for the prompt cache" in reason
    assert "so with marks they would cost $5.7" in reason


# --- when it is late --------------------------------------------------------------------------------------------------


@pytest.mark.wide
def test_a_first_row_that_does_not_come_back_leaves_time_for_all_the_others(
    open_emulator: Callable[..., Emulator], open_keld: Callable[..., Keld]
) -> None:
    """The rows behind it have to be asked in time, too: their number decides when it is given up."""
    emulator = open_emulator(latency_s=60)
    fault(emulator, "life", "stuck", done=0)
    keld = open_keld(clock=emulator.now, settings=Settings(rows_per_s=0.4))  # twelve minutes for all
    due = emulator.now() + 12 * HOUR
    run_id = keld.submit(triage(anthropic, system=LONG, deadline=due), tickets(300)).id
    at_once = keld.submit(triage(anthropic, name="at_once", system=LONG, probe=False, deadline=due), tickets(300)).id
    status, expected = keld.advance(run_id), keld.advance(at_once)
    assert sizes(status) == [("batch", 1)]
    assert status.escalates_at == expected.escalates_at is not None
    keld.cancel(at_once)
    while not (status := keld.advance(run_id)).over and emulator.now() < due:
        emulator.advance(timedelta(minutes=30) if due - emulator.now() > HOUR else timedelta(minutes=1))
    assert status.deadline_met
    assert (status.answered, {lane for lane, _ in sizes(status)[1:]}) == (300, {"standard"})


def test_a_first_row_that_expires_lets_the_others_go_without_marks(
    open_emulator: Callable[..., Emulator], open_keld: Callable[..., Keld]
) -> None:
    emulator = open_emulator(latency_s=60)
    fault(emulator, "life", "expire", done=0.0, after_s=100)
    keld = open_keld(clock=emulator.now)
    status = finish(keld, emulator, keld.submit(triage(anthropic, system=LONG), tickets(20)).id)
    assert sizes(status) == [("batch", 1), ("batch", 20)]
    assert [batch.cache_ttl for batch in status.batches] == ["1h", None]
    check_promise(keld, emulator, status, tickets(20))
    assert len(creates(emulator, anthropic)) == 2


FIRST = {"batch": 1}
FOR_EVER = {
    "in progress": [{"at": "life", "do": "stuck", "done": 0, "match": FIRST}],
    "cancelling": [
        {"at": "life", "do": "expire", "done": 0, "after_s": 864_000, "match": FIRST},
        {"at": "life", "do": "stuck", "status": "cancelling", "match": FIRST},
    ],
}


@pytest.mark.share(4)
@pytest.mark.parametrize("lane", ["auto", "batch"])
@pytest.mark.parametrize("state", FOR_EVER)
def test_rows_behind_one_that_never_comes_back_are_in_time(
    open_emulator: Callable[..., Emulator], open_keld: Callable[..., Keld], lane: str, state: str
) -> None:
    """Neither its batch nor the end of its cancel is awaited: nothing of the others is in it."""
    emulator = open_emulator(latency_s=60)
    emulator.faults({"rules": FOR_EVER[state]})
    keld = open_keld(clock=emulator.now)
    due = emulator.now() + 20 * HOUR
    run_id = keld.submit(triage(anthropic, system=LONG, deadline=due, lane=lane, probability=0.9), tickets(50)).id
    assert (keld.advance(run_id).escalates_at is None) is (lane == "batch")  # there is no faster lane to move to
    while emulator.now() < due:
        found = keld.advance(run_id)
        emulator.advance(timedelta(minutes=1) if due - emulator.now() < HOUR else timedelta(minutes=20))
    assert [batch.requests for batch in found.batches[:2]] == [1, 49]
    assert found.batches[1].lane == ("batch" if lane == "batch" else "standard")
    assert found.answered >= 49
    assert len({entry.body_sha256 for entry in emulator.bill()}) == found.answered == len(emulator.bill())


def test_without_a_deadline_a_first_row_holds_up_the_others_until_it_is_given_up_a_day_after_its_providers_window(
    open_emulator: Callable[..., Emulator], open_keld: Callable[..., Keld]
) -> None:
    """Nobody waits, so nothing is paid for speed; but a batch that is never heard of again ends nothing."""
    emulator = open_emulator(latency_s=60)
    emulator.faults({"rules": FOR_EVER["in progress"]})
    keld = open_keld(clock=emulator.now)
    began = emulator.now()
    run_id = keld.submit(triage(anthropic, system=LONG), tickets(50)).id
    while not (found := keld.advance(run_id)).over and emulator.now() < began + timedelta(days=4):
        emulator.advance(HOUR)
    assert found.answered >= 49
    assert emulator.now() < began + timedelta(days=2, hours=4)


def _text(view: Any) -> str:
    console = Console(width=400)
    with console.capture() as caught:
        console.print(view)
    return caught.get()
