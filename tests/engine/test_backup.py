"""Two providers, over the wire: what one cannot do in time the other does; nothing is bought there while it may still be paid for here."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from keld import Keld
from keld.emulator import Emulator
from tests.support.lane_purchases import HOUR, PATIENT, check_books, fast, follow, lanes, listen, paid, pass_time, sellers, tell, ways
from tests.support.realtime_rows import turning
from tests.support.ticket_job import Peer, anthropic, fault, openai, outcomes, tickets, triage

pytestmark = pytest.mark.by_turns

BOTH = [openai.models, anthropic.models]
OPENAI, ANTHROPIC = {"provider": "openai"}, {"provider": "anthropic"}


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


def test_the_rows_of_a_stalled_provider_go_where_they_are_cheapest_in_time(keld: Keld, emulator: Emulator) -> None:
    """To whichever acceptable model's fast lane that is."""
    fault(emulator, "life", "stuck", done=0.25, match=OPENAI)
    table = tickets(40)
    status = tell(keld, emulator, triage(openai, models=BOTH, deadline=4 * HOUR), table)
    assert ways(status) == [("openai", "batch", "cancelled", 40), ("openai", "flex", "completed", 30)]
    assert (set(paid(emulator).values()), status.deadline_met) == ({1}, True)
    check_books(keld, emulator, status, table)


@pytest.mark.wide
def test_where_the_fast_lanes_of_the_stalled_provider_are_down_too_the_other_takes_over(keld: Keld, emulator: Emulator) -> None:
    """An incident has all of a provider: its rows go to the other one's, in time, and each is paid once."""
    fault(emulator, "life", "stuck", done=0.25, match=OPENAI)
    fault(emulator, "realtime", "status", status=503, retry_after=600, times=None, match=OPENAI)
    table = tickets(40)
    status = tell(keld, emulator, triage(openai, models=BOTH, deadline=4 * HOUR), table)
    assert sellers(emulator) == {("openai", "batch"): 10, ("anthropic", "standard"): 30}
    assert (set(paid(emulator).values()), status.deadline_met) == ({1}, True)
    assert outcomes(keld, status) == ["answered"] * 40
    check_books(keld, emulator, status, table)


@pytest.mark.share(2)
@pytest.mark.parametrize("do", [{"do": "drop_before"}, {"do": "status", "status": 503}], ids=lambda how: how["do"])
def test_while_a_provider_cannot_be_reached_its_rows_are_bought_nowhere_else(keld: Keld, emulator: Emulator, do: dict[str, object]) -> None:
    """Nobody knows what it goes on answering, and bills: late is better than twice.  When it is back, it is asked at once."""
    fault(emulator, "life", "stuck", done=0.25, match=OPENAI)
    table = tickets(40)
    status = keld.submit(triage(openai, models=BOTH, deadline=4 * HOUR), table)
    keld.advance(status.id)
    emulator.advance(3 * HOUR)
    for at in ("list", "get", "cancel"):
        emulator.faults({"rules": [{"at": at, "times": None, "match": OPENAI, **do}]})
    for _ in range(8):
        status = keld.advance(status.id)
        emulator.advance(12 * timedelta(minutes=1))
    assert ways(status) == [("openai", "batch", "in_progress", 40)]
    assert set(lanes(emulator)) == {"batch"}
    assert status.problem_kind == "ProviderUnreachable"
    assert emulator.now() > status.deadline_at
    emulator.clear_faults()
    emulator.advance(30 * HOUR)
    status = follow(keld, emulator, status.id)
    assert (status.deadline_met, set(paid(emulator).values())) == (False, {1})
    assert outcomes(keld, status) == ["answered"] * 40
    check_books(keld, emulator, status, table)


@pytest.mark.wide
def test_a_batch_that_heeds_no_cancel_does_not_cost_the_others_the_deadline(
    open_emulator: Callable[..., Emulator], open_keld: Callable[..., Keld], peer: Peer
) -> None:
    """What the others have left is rescued in time; its own rows are bought nowhere else until it has said its last word."""
    emulator = listen(open_emulator(latency_s=5 * 3_600, cancel_s=120))
    fault(emulator, "life", "stuck", status="cancelling", match={"batch": 2})
    keld, table = open_keld(settings=PATIENT, clock=emulator.now), tickets(40)
    status = keld.submit(triage(peer, deadline=4 * HOUR, max_shard_rows=20), table)
    for _ in range(90):
        status = keld.advance(status.id)
        if len(status.batches) == 3 and status.batches[2].ended:
            break
        emulator.advance(max((status.next_check_at or emulator.now()) - emulator.now(), timedelta(seconds=1)))
    rescued = status.batches[-1].requests
    assert ways(status) == [
        (peer.name, "batch", "cancelled", 20), (peer.name, "batch", "cancelling", 20), (peer.name, fast(peer), "completed", rescued)
    ]  # fmt: skip
    assert emulator.now() < status.deadline_at
    assert lanes(emulator)[fast(peer)] == rescued < 10
    for _ in range(90):
        status = keld.advance(status.id)
        emulator.advance(3 * HOUR)
        if status.over:
            break
    assert outcomes(keld, status) == ["answered"] * 20 + ["quarantined"] * 20
    assert max(paid(emulator).values()) == 1


def test_a_cancel_that_fails_is_asked_again(keld: Keld, emulator: Emulator) -> None:
    """By `advance` and by `poll`; neither raises it."""
    fault(emulator, "life", "stuck", done=0.25)
    fault(emulator, "cancel", "status", status=503, times=9)
    table = tickets(40)
    status = keld.submit(triage(openai, deadline=4 * HOUR), table)
    keld.advance(status.id)
    emulator.advance(3.8 * HOUR)
    (status,) = keld.poll([status.id])
    assert (ways(status)[0][2], status.problem_kind) == ("in_progress", "ProviderUnreachable")
    status = follow(keld, emulator, status.id)
    assert lanes(emulator) == {"batch": 10, "standard": 30}
    assert (set(paid(emulator).values()), status.deadline_met) == ({1}, True)
    check_books(keld, emulator, status, table)


def test_a_deadline_that_passes_is_told_and_the_batch_is_harvested_all_the_same(
    open_emulator: Callable[..., Emulator], open_keld: Callable[..., Keld], peer: Peer
) -> None:
    """Nobody looked until it was too late: a rescue would only cost more, and what the batch answers is paid and kept."""
    emulator = open_emulator(latency_s=5 * 3_600)
    listen(emulator)
    keld, table = open_keld(settings=PATIENT, clock=emulator.now), tickets(40)
    status = keld.submit(triage(peer, deadline=4 * HOUR), table)
    keld.advance(status.id)
    emulator.advance(4.1 * HOUR)
    status = follow(keld, emulator, status.id)
    assert (status.deadline_met, lanes(emulator)) == (False, {"batch": 40})
    assert ways(status) == [(peer.name, "batch", "completed", 40)]
    assert outcomes(keld, status) == ["answered"] * 40
    check_books(keld, emulator, status, table)
