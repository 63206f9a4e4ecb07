"""Escalation, over the wire: a batch is waited for as long as a rescue fits behind it; then only its unpaid rows move on."""

import shutil
from collections import Counter
from collections.abc import Callable
from decimal import Decimal

import pyarrow as pa
import pytest

from keld import Account, Job, Keld
from keld import failpoint as points
from keld.emulator import Emulator
from keld.state import RunState, State
from tests.support.lane_purchases import HOUR, PATIENT, bought, check_books, fast, lanes, listen, paid, pass_time, tell, ways
from tests.support.ticket_job import Peer, anthropic, fault, outcomes, tickets, triage

pytestmark = pytest.mark.by_turns


@pytest.fixture
def emulator(open_emulator: Callable[..., Emulator], monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """Batches take an hour, a cancel six minutes; the fast lanes answer four rows a second."""
    emulator = listen(open_emulator(latency_s=3_600))
    pass_time(emulator, monkeypatch)
    return emulator


@pytest.fixture
def keld(open_keld: Callable[..., Keld]) -> Keld:
    return open_keld(settings=PATIENT)


def test_a_batch_that_ends_early_is_all_there_is(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """Half price, and nothing else: a deadline costs nothing where the batch keeps it."""
    table = tickets(40)
    status = tell(keld, emulator, triage(peer, deadline=4 * HOUR), table)
    assert ways(status) == [(peer.name, "batch", "completed", 40)]
    assert bought(emulator) == Counter((n, "batch") for n in range(40))
    assert status.deadline_met
    check_books(keld, emulator, status, table)


def test_a_batch_that_stalls_is_rescued_before_the_deadline(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """It is cancelled, its last word is awaited, and the rows are asked one by one; each is paid once."""
    fault(emulator, "life", "stuck", done=0)
    table = tickets(40)
    status = tell(keld, emulator, triage(peer, deadline=4 * HOUR), table)
    assert ways(status) == [(peer.name, "batch", "cancelled", 40), (peer.name, fast(peer), "completed", 40)]
    assert bought(emulator) == Counter((n, fast(peer)) for n in range(40))
    assert (status.state, outcomes(keld, status)) == (RunState.FINISHED, ["answered"] * 40)
    assert status.deadline_met
    assert status.batches[0].ended_at <= status.batches[1].submitted_at
    check_books(keld, emulator, status, table)


def test_only_what_a_batch_has_left_is_rescued(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """What it answered before it stalled is paid, and kept; by live counts (OpenAI) or told at the end only (Anthropic)."""
    fault(emulator, "life", "stuck", done=0.6)
    table = tickets(40)
    status = tell(keld, emulator, triage(peer, deadline=4 * HOUR), table)
    assert ways(status) == [(peer.name, "batch", "cancelled", 40), (peer.name, fast(peer), "completed", 16)]
    assert lanes(emulator) == {"batch": 24, fast(peer): 16}
    assert set(Counter(n for n, _ in bought(emulator).elements()).values()) == {1}
    assert outcomes(keld, status) == ["answered"] * 40
    assert status.deadline_met
    check_books(keld, emulator, status, table)


def test_a_batch_that_ends_while_it_is_cancelled_is_harvested(
    open_emulator: Callable[..., Emulator], open_keld: Callable[..., Keld], peer: Peer
) -> None:
    """All of it was paid by the time of its last word: nothing is left to rescue, and nothing is bought again."""
    emulator = listen(open_emulator(latency_s=3.85 * 3_600, cancel_s=540))
    keld, table = open_keld(settings=PATIENT, clock=emulator.now), tickets(40)
    status = tell(keld, emulator, triage(peer, deadline=4 * HOUR), table)
    assert ways(status) == [(peer.name, "batch", "cancelled", 40)]
    assert bought(emulator) == Counter((n, "batch") for n in range(40))
    assert (outcomes(keld, status), status.deadline_met) == (["answered"] * 40, True)
    check_books(keld, emulator, status, table)


def test_a_cancel_that_comes_too_late_is_no_loss(
    open_emulator: Callable[..., Emulator], open_keld: Callable[..., Keld], peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch ends between the look and the cancel, which is refused."""
    emulator = listen(open_emulator(latency_s=3.8 * 3_600))
    monkeypatch.setattr(points, "on_pass", lambda point: emulator.advance(600) if point == "cancel.send" else None)
    keld, table = open_keld(settings=PATIENT, clock=emulator.now), tickets(40)
    status = tell(keld, emulator, triage(peer, deadline=4 * HOUR), table)
    assert ways(status) == [(peer.name, "batch", "completed", 40)]
    assert bought(emulator) == Counter((n, "batch") for n in range(40))
    assert status.deadline_met
    check_books(keld, emulator, status, table)


# --- the ceiling ------------------------------------------------------------------------------------------------------


def worth(count: int) -> pa.Table:
    """Tickets of which the later ones are worth more."""
    return tickets(count).append_column("worth", pa.array(range(count)))


def ceiling_of(keld: Keld, job: Job, table: pa.Table, lane: str, share: float) -> Decimal:
    """A share of what all rows cost in a lane, at worst."""
    option = next(option for option in keld.plan(job, table).options if option.lane == lane)
    assert option.worst_usd is not None
    return round(option.worst_usd * Decimal(share), 9)


@pytest.mark.parametrize("share", [0.55, pytest.param(0.8, marks=pytest.mark.slow)])
def test_where_not_all_can_be_rescued_the_most_valuable_are(
    open_emulator: Callable[..., Emulator], open_keld: Callable[..., Keld], share: float
) -> None:
    """As many as the ceiling allows at worst, and as many again as these were cheaper than that; the others are told as over it."""
    emulator = listen(open_emulator(latency_s=3_600, responder=lambda body: "x" * 780))
    fault(emulator, "life", "stuck", done=0)
    keld, table, peer = open_keld(settings=PATIENT, clock=emulator.now), worth(40), anthropic  # which sells no flex
    terms = {"deadline": 4 * HOUR, "priority": "worth", "max_output_tokens": 200, "output_type": str}
    ceiling = ceiling_of(keld, triage(peer, **terms), table, "standard", share)
    status = tell(keld, emulator, triage(peer, **terms, ceiling_usd=ceiling), table)
    told = outcomes(keld, status)
    rescued = told.count("answered")
    assert 40 * share - 1 <= rescued < 40
    assert told == ["over_ceiling"] * (40 - rescued) + ["answered"] * rescued, "the least valuable"
    assert bought(emulator) == Counter((n, "standard") for n in range(40 - rescued, 40))
    assert status.cost_usd <= ceiling
    assert all(batch.ended or batch.state is State.DROPPED for batch in status.batches)
    check_books(keld, emulator, status, table)


def test_rows_are_rescued_with_what_the_batch_has_left_of_the_ceiling(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """What the batch answered is spent; what was reserved for the others is free once it has said its last word."""
    fault(emulator, "life", "stuck", done=0.5)
    table = worth(40)
    terms = {"deadline": 4 * HOUR, "priority": "worth"}
    ceiling = ceiling_of(keld, triage(peer, **terms), table, "batch", 1.1)
    status = tell(keld, emulator, triage(peer, **terms, ceiling_usd=ceiling), table)
    assert outcomes(keld, status) == ["answered"] * 40
    assert lanes(emulator) == {"batch": 20, fast(peer): 20}
    assert (set(paid(emulator).values()), status.deadline_met) == ({1}, True)
    check_books(keld, emulator, status, table)


def due_together(keld: Keld, emulator: Emulator, broken: Job, sound: Job) -> list[str]:
    """Two job runs at the provider, whose batches stall; the clock stands at the latest safe moment of both."""
    fault(emulator, "life", "stuck", done=0, times=None)
    runs = [keld.submit(job, tickets(40)) for job in (broken, sound)]
    moments = [keld.advance(run.id).escalates_at for run in runs]
    emulator.advance(max(moment for moment in moments if moment is not None) - emulator.now())
    return [run.id for run in runs]


@pytest.mark.books_open("one job run cannot go on")
def test_a_job_run_whose_files_are_gone_keeps_no_other_from_its_deadline(keld: Keld, emulator: Emulator) -> None:
    """A poll looks at all that is open: what cannot be read of one is that one's problem."""
    gone, sound = due_together(
        keld, emulator, triage(anthropic, name="gone", deadline=4 * HOUR), triage(anthropic, name="sound", deadline=4 * HOUR)
    )
    shutil.rmtree(keld.staging.run(gone).dir)
    keld.poll([gone, sound])
    assert [keld.status(run).batches[0].state for run in (gone, sound)] == [State.IN_PROGRESS, State.CANCELLING]


@pytest.mark.books_open("one job run cannot go on")
def test_a_job_run_whose_account_is_gone_keeps_no_other_from_its_deadline(open_keld: Callable[..., Keld], emulator: Emulator) -> None:
    theirs = Account(kind="anthropic", base_url=emulator.env()["ANTHROPIC_BASE_URL"], api_key=lambda: "any")
    prices = {"theirs:claude-haiku-4-5": {"input": 1, "output": 1}}
    gone, sound = due_together(
        open_keld(settings=PATIENT, accounts={"theirs": theirs}),
        emulator,
        triage(anthropic, name="gone", deadline=4 * HOUR, models="theirs:claude-haiku-4-5", prices=prices),
        triage(anthropic, name="sound", deadline=4 * HOUR),
    )
    keld = open_keld(settings=PATIENT)
    keld.poll([gone, sound])
    assert [keld.status(run).batches[0].state for run in (gone, sound)] == [State.IN_PROGRESS, State.CANCELLING]
    assert "theirs" in (keld.status(gone).problem or "")


def test_a_worker_without_an_account_of_the_models_harvests_what_the_others_have(
    open_keld: Callable[..., Keld], emulator: Emulator
) -> None:
    """It cannot plan, as it does not know what that account could do; the answers that are paid do not wait for it."""
    theirs = Account(kind="anthropic", base_url=emulator.env()["ANTHROPIC_BASE_URL"], api_key=lambda: "any")
    prices = {"theirs:claude-haiku-4-5": {"input": 9, "output": 9}}
    models = ["anthropic:claude-haiku-4-5", "theirs:claude-haiku-4-5"]
    with_all = open_keld(settings=PATIENT, accounts={"theirs": theirs})
    sent = with_all.submit(triage(anthropic, deadline=4 * HOUR, models=models, prices=prices, max_shard_rows=3), tickets())
    with_all.advance(sent.id)
    keld = open_keld(settings=PATIENT)
    status = keld.advance(sent.id)
    assert "the account 'theirs', which is not configured here" in (status.problem or "")
    assert "Nothing was sent" not in (status.problem or "")
    emulator.advance(2 * HOUR)
    assert keld.advance(sent.id).answered == 6


@pytest.mark.books_open("the batch of an account that is not configured is given up")
def test_a_batch_of_an_account_that_is_gone_is_given_up_and_keeps_no_other_from_its_poll(
    open_keld: Callable[..., Keld], emulator: Emulator
) -> None:
    """Its rows are quarantined at their last moment, without the account: a poll that fails there would fail for all, each time."""
    theirs = Account(kind="anthropic", base_url=emulator.env()["ANTHROPIC_BASE_URL"], api_key=lambda: "any")
    prices = {"theirs:claude-haiku-4-5": {"input": 1, "output": 1}}
    with_all = open_keld(settings=PATIENT, accounts={"theirs": theirs})
    gone = with_all.submit(triage(anthropic, name="gone", models="theirs:claude-haiku-4-5", prices=prices), tickets())
    with_all.advance(gone.id)
    emulator.advance(72 * HOUR)
    keld = open_keld(settings=PATIENT)
    sound = keld.submit(triage(anthropic, name="sound"), tickets())
    keld.advance(sound.id)
    emulator.advance(2 * HOUR)
    polled = keld.poll([gone.id, sound.id])
    assert [status.batches[0].state for status in polled] == [State.QUARANTINED, State.ENDED]


@pytest.mark.books_open("what was asked of an account that is not configured is given up")
def test_a_fast_lane_of_an_account_that_is_gone_is_given_up(open_keld: Callable[..., Keld], emulator: Emulator) -> None:
    """Without the account its answers cannot be read; the job run still ends, and nothing is asked or paid again."""
    theirs = Account(kind="anthropic", base_url=emulator.env()["ANTHROPIC_BASE_URL"], api_key=lambda: "any")
    prices = {"theirs:claude-haiku-4-5": {"input": 1, "output": 1}}
    emulator.faults({"rules": [{"at": "realtime", "do": "status", "status": 403, "skip": 3, "times": None}]})
    with_all = open_keld(settings=PATIENT, accounts={"theirs": theirs})
    gone = with_all.submit(triage(anthropic, name="gone", models="theirs:claude-haiku-4-5", prices=prices, lane="standard"), tickets())
    with_all.advance(gone.id)
    assert with_all.status(gone.id).batches[0].state is State.IN_PROGRESS
    paid = len(emulator.bill())
    emulator.advance(72 * HOUR)
    keld = open_keld(settings=PATIENT)
    assert keld.advance(gone.id).batches[0].state is State.QUARANTINED
    assert keld.advance(gone.id).over
    assert len(emulator.bill()) == paid > 0
    assert "'theirs' was not configured" in str(keld.read(gone.id).read_all().column("keld_error")[0])
