"""The fast lanes in a job run, over the wire: begun without a change of code, adapted to what a provider allows, paid once, kept through kills."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from keld import Keld, Status
from keld import failpoint as points
from keld.emulator import Emulator
from keld.failpoint import FailpointHit
from keld.state import RunState
from tests.support.lane_purchases import HOUR, PATIENT, bought, check_books, follow, lanes, listen, paid, pass_time, tell, ways
from tests.support.realtime_rows import turning
from tests.support.ticket_job import Peer, billed_usd, creates, fault, openai, outcomes, tickets, triage

pytestmark = pytest.mark.by_turns

MINUTE = timedelta(minutes=1)


@pytest.fixture
def emulator(open_emulator: Callable[..., Emulator], monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """Batches take an hour; a wait of the fast lanes turns the clock, and so does each reply."""
    emulator = listen(open_emulator(latency_s=3_600))
    pass_time(emulator, monkeypatch)
    monkeypatch.setattr("keld.realtime.run.Time", lambda: turning(emulator))
    return emulator


@pytest.fixture
def keld(open_keld: Callable[..., Keld]) -> Keld:
    return open_keld(settings=PATIENT)


# --- which lane -------------------------------------------------------------------------------------------------------


def test_somebody_who_waits_is_answered_at_once(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """A near deadline is all that has to be said; no batch is tried first."""
    table = tickets(40)
    status = tell(keld, emulator, triage(peer, deadline=3 * MINUTE), table)
    assert ways(status) == [(peer.name, "standard", "completed", 40)]
    assert (creates(emulator, peer), bought(emulator)) == ([], Counter((n, "standard") for n in range(40)))
    assert (status.deadline_met, status.lane) == (True, "standard")
    check_books(keld, emulator, status, table)


@pytest.mark.parametrize("lane", ["standard", "flex"])
def test_the_lane_that_is_named_is_taken_with_all_the_time_there_is(keld: Keld, emulator: Emulator, lane: str) -> None:
    table = tickets(12)
    status = tell(keld, emulator, triage(openai, deadline=20 * HOUR, lane=lane), table)
    assert ways(status) == [("openai", lane, "completed", 12)]
    assert bought(emulator) == Counter((n, lane) for n in range(12))
    check_books(keld, emulator, status, table)


def test_a_batch_that_is_insisted_on_is_never_given_up(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """`lane="batch"` is a word about money: late is what it may be."""
    fault(emulator, "life", "stuck", done=0.5)
    table = tickets(12)
    status = keld.submit(triage(peer, deadline=2 * HOUR, lane="batch"), table)
    for _ in range(30):
        status = keld.advance(status.id)
        emulator.advance(10 * MINUTE)
    assert ways(status) == [(peer.name, "batch", "in_progress", 12)]
    assert emulator.now() > status.deadline_at
    assert set(lanes(emulator)) == {"batch"}


# --- flex -------------------------------------------------------------------------------------------------------------

GPT = Peer(name="openai", model="gpt-5", creates=openai.creates)  # dear enough that a worker's time is worth the discount


def test_flex_is_taken_where_it_is_cheaper_and_in_time(keld: Keld, emulator: Emulator) -> None:
    table = tickets(40)
    status = tell(keld, emulator, triage(GPT, deadline=50 * MINUTE), table)
    assert ways(status) == [("openai", "flex", "completed", 40)]
    assert bought(emulator) == Counter((n, "flex") for n in range(40))
    assert (status.deadline_met, status.saved_usd) == (True, status.cost_usd)
    check_books(keld, emulator, status, table)


def test_flex_that_was_served_as_standard_is_paid_and_told_as_standard(keld: Keld, emulator: Emulator) -> None:
    """The tier in the reply is the one on the bill; the ceiling was reckoned with it."""
    fault(emulator, "rows", "standard_tier", fraction=0.3, times=None)
    table = tickets(10)
    job = triage(openai, lane="flex")
    ceiling = next(option.worst_usd for option in keld.plan(job, table).options if option.lane == "flex")
    status = tell(keld, emulator, triage(openai, lane="flex", ceiling_usd=ceiling), table)
    assert lanes(emulator) == {"flex": 7, "standard": 3}
    assert Counter(keld.read(status.id).read_all().column("keld_lane").to_pylist()) == {"flex": 7, "standard": 3}
    check_books(keld, emulator, status, table)


@pytest.mark.parametrize("how", [{"code": "resource_unavailable"}, {"retry_after": 3_000}], ids=str)
def test_flex_without_capacity_gives_way_to_standard_when_the_deadline_nears(
    keld: Keld, emulator: Emulator, how: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has answered is kept; the others are asked in the standard lane, in time."""
    fault(emulator, "realtime", "status", status=429, skip=10, times=None, **how)
    begun = Counter[str]()

    def lift(point: str) -> None:
        """Only flex has no capacity."""
        emulator.advance(0.25 if point == "realtime.received" else 0)
        begun[point] += 1
        if point == "ledger.created.after" and begun[point] == 2:
            emulator.clear_faults()

    monkeypatch.setattr(points, "on_pass", lift)
    table = tickets(40)
    status = tell(keld, emulator, triage(GPT, deadline=15 * MINUTE), table)
    assert ways(status) == [("openai", "flex", "cancelled", 40), ("openai", "standard", "completed", 30)]
    assert lanes(emulator) == {"flex": 10, "standard": 30}
    assert (set(paid(emulator).values()), status.deadline_met) == ({1}, True)
    assert outcomes(keld, status) == ["answered"] * 40
    if "retry_after" in how:
        assert [call.status for call in emulator.requests()].count(429) <= 16, "it came back when it was told to"
    check_books(keld, emulator, status, table)


def test_flex_without_capacity_waits_where_nothing_presses(keld: Keld, emulator: Emulator) -> None:
    fault(emulator, "realtime", "status", status=429, code="resource_unavailable", times=200)
    table = tickets(6)
    status = tell(keld, emulator, triage(openai, lane="flex"), table)
    assert ways(status) == [("openai", "flex", "completed", 6)]
    assert bought(emulator) == Counter((n, "flex") for n in range(6))
    check_books(keld, emulator, status, table)


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.share(2)
@pytest.mark.parametrize("limit", [{"requests_per_minute": 60}, {"tokens_per_minute": 20_000}], ids=str)
def test_rate_limits_are_kept_and_all_rows_are_answered(
    open_emulator: Callable[..., Emulator],
    open_keld: Callable[..., Keld],
    peer: Peer,
    monkeypatch: pytest.MonkeyPatch,
    limit: dict[str, int],
) -> None:
    """The headers say when to go on: hardly a request is turned away."""
    emulator = listen(open_emulator(**limit))
    monkeypatch.setattr("keld.realtime.run.Time", lambda: turning(emulator))
    keld, table = open_keld(settings=PATIENT, clock=emulator.now), tickets(150)
    status = tell(keld, emulator, triage(peer, lane="standard"), table)
    assert outcomes(keld, status) == ["answered"] * 150
    assert set(paid(emulator).values()) == {1}
    assert [call.status for call in emulator.requests()].count(429) <= 10
    check_books(keld, emulator, status, table)


def test_a_retry_after_is_waited_for(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """Three times, in the midst of a stretch."""
    for skip in (3, 9, 15):
        fault(emulator, "realtime", "status", status=429, retry_after=45, skip=skip)
    table = tickets(20)
    status = tell(keld, emulator, triage(peer, lane="standard"), table)
    assert outcomes(keld, status) == ["answered"] * 20
    assert set(paid(emulator).values()) == {1}
    assert [call.status for call in emulator.requests()].count(429) == 3
    check_books(keld, emulator, status, table)


# --- faults -----------------------------------------------------------------------------------------------------------


def test_a_fault_that_every_row_meets_stops_the_stretch_after_a_small_loss(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """A wrong parameter: twenty rows say it as well as a thousand."""
    fault(emulator, "realtime", "status", status=400, times=None)
    table = tickets(300)
    status = tell(keld, emulator, triage(peer, lane="standard"), table)
    assert (status.state, set(outcomes(keld, status)), emulator.bill()) == (RunState.FINISHED, {"errored"}, [])
    assert 20 <= len(emulator.requests()) <= 60
    check_books(keld, emulator, status, table)


@pytest.mark.parametrize(
    ("what", "said"),
    [({"do": "status", "status": 502, "code": "error"}, "HTTP 502 Bad Gateway"), ({"do": "garbage"}, "an unreadable reply with HTTP 200")],
    ids=["a bad gateway", "a page"],
)
def test_a_gateway_that_answers_no_row_is_named_in_the_status_of_a_few_rows_and_of_many(
    keld: Keld, emulator: Emulator, peer: Peer, what: dict[str, object], said: str
) -> None:
    """It said that requests have no answer, and not why."""
    emulator.faults({"rules": [{"at": "realtime", "times": None, **what}]})
    few = tell(keld, emulator, triage(peer, lane="standard", name="few"), tickets())
    assert said in str(few.batches[0].error)
    many = keld.submit(triage(peer, lane="standard", name="many"), tickets(60))
    while (many := keld.advance(many.id)).obstacle is None:
        assert not many.over
    assert said in str(many.obstacle) and said in str(many.batches[0].obstacle), many


def test_a_lane_without_capacity_says_what_the_provider_said(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """Any refusal for now was called `rate limits or overload`, and a connection that was refused, too."""
    fault(emulator, "realtime", "status", status=503, code="api_error", retry_after=1, times=None)
    status = keld.advance(keld.submit(triage(peer, lane="standard"), tickets()).id)
    assert "HTTP 503 api_error" in str(status.problem) and "not paid" in str(status.problem), status.problem
    assert "HTTP 503 api_error" in str(status.batches[0].obstacle)


def test_a_row_that_is_refused_costs_the_others_nothing(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """A permanent error is not asked again."""
    fault(emulator, "realtime", "status", status=400, skip=5, times=2)
    table = tickets(20)
    status = tell(keld, emulator, triage(peer, lane="standard"), table)
    assert Counter(outcomes(keld, status)) == {"answered": 18, "errored": 2}
    assert len(emulator.requests()) == 20
    check_books(keld, emulator, status, table)


def test_a_lost_reply_is_counted_and_asked_again_within_the_ceiling(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """It may have been paid: the second request is a decision of the next round, and the worst case of the first stays reserved."""
    fault(emulator, "realtime", "drop_after", skip=4, times=2)
    table = tickets(20)
    status = tell(keld, emulator, triage(peer, lane="standard"), table)
    assert outcomes(keld, status) == ["answered"] * 20
    assert Counter(paid(emulator).values()) == {1: 18, 2: 2}
    assert ways(status) == [(peer.name, "standard", "completed", 20), (peer.name, "standard", "completed", 2)]
    assert status.reserved_usd > 0


# --- workers that stop in the midst of it -----------------------------------------------------------------------------


def break_off(monkeypatch: pytest.MonkeyPatch, at: str, nth: int) -> None:
    """The worker breaks off at the `nth` pass of a point; what it leaves is what a crash leaves."""
    monkeypatch.setenv("KELD_FAILPOINT", f"{at}:raise:{nth}")
    points._passes.clear()


def doubts(keld: Keld, run_id: str) -> int:
    return sum((shard.error.rows if shard.error else 0) for shard in keld.ledger.shards(run_id))


def test_the_ceiling_holds_for_what_a_dead_worker_had_in_flight(
    open_emulator: Callable[..., Emulator], open_keld: Callable[..., Keld], peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be paid: its worst case stays reserved, and what is asked again must fit beside it."""
    emulator = listen(open_emulator(responder=lambda body: "x" * 790))
    keld, table = open_keld(settings=PATIENT, clock=emulator.now), tickets(40)
    terms = {"lane": "standard", "output_type": str, "max_output_tokens": 200}
    ceiling = next(option.worst_usd for option in keld.plan(triage(peer, **terms), table).options if option.lane == "standard")
    status = keld.submit(triage(peer, **terms, ceiling_usd=ceiling), table)
    break_off(monkeypatch, "realtime.received", 20)
    with pytest.raises(FailpointHit):
        keld.advance(status.id)
    monkeypatch.delenv("KELD_FAILPOINT")
    before = paid(emulator)
    status = follow(keld, emulator, status.id)
    assert 1 <= doubts(keld, status.id) <= 8
    assert sum(count - 1 for count in paid(emulator).values()) <= doubts(keld, status.id)
    assert before.keys() <= paid(emulator).keys()
    told = Counter(outcomes(keld, status))
    assert told["answered"] + told["over_ceiling"] == 40
    assert told["over_ceiling"] <= doubts(keld, status.id)
    assert billed_usd(emulator, status.created_at) <= status.cost_usd + status.reserved_usd <= ceiling
    assert status.reserved_usd > 0


def test_a_cancel_in_the_midst_of_a_stretch_keeps_what_was_paid(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """The others are not asked, and not paid; the next run asks them only."""
    table = tickets(40)
    status = keld.submit(triage(peer, lane="standard"), table)
    fault(emulator, "realtime", "status", status=429, skip=15, times=None, retry_after=4_000)
    keld.advance(status.id)
    keld.cancel(status.id)
    status = follow(keld, emulator, status.id)
    assert (status.state, ways(status)) == (RunState.CANCELLED, [(peer.name, "standard", "cancelled", 40)])
    assert Counter(outcomes(keld, status)) == {"answered": 15, "cancelled": 25}
    check_books(keld, emulator, status, table)
    emulator.clear_faults()
    again = tell(keld, emulator, triage(peer, lane="standard"), table)
    assert (again.reused, set(paid(emulator).values()), outcomes(keld, again)) == (15, {1}, ["answered"] * 40)


def test_a_cancel_after_a_crash_counts_what_was_in_flight(
    keld: Keld, emulator: Emulator, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told as lost, not as never asked; its worst case stays reserved."""
    table = tickets(40)
    status = keld.submit(triage(peer, lane="standard"), table)
    break_off(monkeypatch, "realtime.received", 10)
    with pytest.raises(FailpointHit):
        keld.advance(status.id)
    monkeypatch.delenv("KELD_FAILPOINT")
    keld.cancel(status.id)
    status = follow(keld, emulator, status.id)
    told = Counter(outcomes(keld, status))
    assert told["lost"] == doubts(keld, status.id) >= 1
    assert told["answered"] + told["lost"] >= paid(emulator).total()
    assert status.cost_usd + status.reserved_usd >= billed_usd(emulator, status.created_at) > status.cost_usd


def test_two_workers_in_one_stretch_buy_each_row_once(open_keld: Callable[..., Keld], emulator: Emulator, peer: Peer) -> None:
    """One holds the job run, the others go home."""
    table = tickets(60)
    status = open_keld().submit(triage(peer, lane="standard"), table)
    workers = [open_keld(settings=PATIENT) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda worker: worker.advance(status.id), workers))
    status = follow(workers[0], emulator, status.id)
    assert paid(emulator) == Counter(range(60))
    assert outcomes(workers[0], status) == ["answered"] * 60
    check_books(workers[0], emulator, status, table)


def test_a_worker_that_wakes_up_in_a_stretch_sends_nothing_more(
    open_keld: Callable[..., Keld], emulator: Emulator, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen past its lease with the journal in its hands: the next one waits for it, and no row is bought twice."""
    table = tickets(40)
    slow, quick = open_keld(settings=PATIENT), open_keld(settings=PATIENT)
    status = slow.submit(triage(peer, lane="standard"), table)
    passed: list[Status] = []

    def freeze(point: str) -> None:
        if point == "realtime.received" and not passed:
            passed.append(status)
            emulator.advance(10 * MINUTE)
            passed.append(quick.advance(status.id))

    monkeypatch.setattr(points, "on_pass", freeze)
    slow.advance(status.id)
    assert passed[1].state is RunState.OPEN
    done = follow(quick, emulator, status.id)
    assert paid(emulator) == Counter(range(40))
    assert outcomes(quick, done) == ["answered"] * 40
    check_books(quick, emulator, done, table)
