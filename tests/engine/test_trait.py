"""Traits: what the runner does with what few hosts can do, over the wire of `rarehost`, whose emulator has each of them."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from keld import Account, Keld, Settings, Status
from keld import failpoint as points
from keld.emulator import Emulator
from keld.errors import PriceUnknown
from keld.failpoint import FailpointHit
from keld.price import Lane
from keld.request import shard_named
from tests.support.realtime_rows import turning
from tests.support.ticket_job import Peer, creates, finish, outcomes, purchases, run, tickets, triage

PACKAGES = [str(Path(__file__).parent.parent / "providers" / name) for name in ("otherhost", "rarehost")]
RARE = Peer(name="rare", model="gpt-5-mini", creates="/rarehost/v1/jobs")
HERE, THERE = {"provider": "rarehost"}, {"provider": "otherhost"}
PRICES = {"input": 1, "output": 2}
HOUR = timedelta(hours=1)


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch, open_emulator: Callable[..., Emulator]) -> Emulator:
    """With the two services of the packages."""
    for package in PACKAGES:
        monkeypatch.syspath_prepend(package)
    return open_emulator(latency_s=3_600)


@pytest.fixture
def keld(open_keld: Callable[..., Keld], emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Keld:
    """With an account of each of the two kinds."""
    monkeypatch.setattr("keld.realtime.run.Time", lambda: turning(emulator))
    accounts = {"rare": Account(kind="rarehost"), "other": Account(kind="otherhost")}
    settings = Settings(poll_least=timedelta(seconds=60), poll_most=timedelta(minutes=30))
    return open_keld(clock=emulator.now, accounts=accounts, settings=settings)


def job(*names: str, **terms: Any) -> Any:
    """The job of the tests at these accounts; `rare` if none is named."""
    models = [f"{name}:gpt-5-mini" for name in names or ("rare",)]
    return triage(RARE, models=models, prices=dict.fromkeys(models, PRICES), **terms)


def fault(emulator: Emulator, at: str, do: str, *, match: dict[str, str] = HERE, **more: Any) -> None:
    emulator.faults({"rules": [{"at": at, "do": do, "match": match, **more}]})


def events(keld: Keld, status: Status) -> list[str]:
    return [event.kind for event in keld.ledger.events(status.id)]


def paths(emulator: Emulator, method: str = "GET") -> list[str]:
    return [call.path for call in emulator.requests() if call.method == method]


# --- a create may be sent again -----------------------------------------------------------------------------------------


@pytest.mark.share(3)
@pytest.mark.parametrize("do", ["drop_before", "drop_after", "garbage"])
def test_a_create_without_a_reply_is_sent_again_with_the_same_key(keld: Keld, emulator: Emulator, do: str) -> None:
    """Whether it was done or not, the second reply names the one batch: nothing has to be looked for."""
    fault(emulator, "create", do, times=1)
    status = run(keld, emulator, job())
    assert outcomes(keld, status) == ["answered"] * 6
    assert set(purchases(emulator).values()) == {1}
    assert len(creates(emulator, RARE)) == 2
    assert "looked" not in events(keld, status)
    assert "outcome_lost" not in events(keld, status)


def test_a_create_is_sent_again_twice_and_then_looked_for(keld: Keld, emulator: Emulator) -> None:
    """Three lost replies; the first was of a create that was done."""
    fault(emulator, "create", "drop_after", times=3)
    status = run(keld, emulator, job())
    assert outcomes(keld, status) == ["answered"] * 6
    assert set(purchases(emulator).values()) == {1}
    assert len(creates(emulator, RARE)) == 4, "the last one before the first look"
    assert "adopted" in events(keld, status)


def test_a_create_is_not_sent_again_after_its_window(keld: Keld, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host has forgotten the key: the same create would make a second batch."""

    def hang(point: str) -> None:
        if point == "create.received":
            emulator.advance(601)

    monkeypatch.setattr(points, "on_pass", hang)
    fault(emulator, "create", "drop_after", times=1)
    status = run(keld, emulator, job())
    assert set(purchases(emulator).values()) == {1}
    assert len(creates(emulator, RARE)) == 1
    assert "adopted" in events(keld, status)


def test_a_create_is_not_sent_again_by_a_clock_that_was_set_back(
    open_keld: Callable[..., Keld], emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not known how old the key is: the host may have forgotten it."""
    back = [timedelta(0)]
    keld = open_keld(clock=lambda: emulator.now() - back[0], accounts={"rare": Account(kind="rarehost")})

    def set_back(point: str) -> None:
        if point == "create.received":
            emulator.advance(601)
            back[0] = timedelta(hours=1)

    monkeypatch.setattr(points, "on_pass", set_back)
    fault(emulator, "create", "drop_after", times=1)
    status = keld.submit(job(), tickets())
    keld.advance(status.id)
    assert len(creates(emulator, RARE)) == 1
    back[0] = timedelta(0)
    monkeypatch.setattr(points, "on_pass", None)
    status = finish(keld, emulator, status.id)
    assert set(purchases(emulator).values()) == {1}
    assert len(creates(emulator, RARE)) == 1
    assert "adopted" in events(keld, status)


@pytest.mark.share(2)
@pytest.mark.parametrize("point", ["create.send", "create.received", "create.replay.send", "create.replay.received"])
def test_a_worker_that_dies_around_a_create_is_followed_by_one_that_sends_the_same(
    keld: Keld, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    fault(emulator, "create", "drop_after", times=1 if "replay" in point else 0)
    monkeypatch.setenv("KELD_FAILPOINT", f"{point}:raise")
    status = keld.submit(job(), tickets())
    with pytest.raises(FailpointHit):
        keld.advance(status.id)
    monkeypatch.delenv("KELD_FAILPOINT")
    status = finish(keld, emulator, status.id)
    assert outcomes(keld, status) == ["answered"] * 6
    assert set(purchases(emulator).values()) == {1}
    assert events(keld, status).count("sending") == 1, "no second attempt, with another key"


def test_a_worker_that_was_paused_sends_no_create_again(keld: Keld, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another may have sent the next attempt meanwhile, with another key."""
    paused = [True]

    def stand_still(point: str) -> None:
        if point == "create.replay.send" and paused:
            emulator.advance(timedelta(seconds=31))
            paused.clear()

    monkeypatch.setattr(points, "on_pass", stand_still)
    fault(emulator, "create", "drop_after", times=1)
    status = keld.submit(job(), tickets())
    keld.advance(status.id)
    assert len(creates(emulator, RARE)) == 1
    assert set(outcomes(keld, finish(keld, emulator, status.id))) == {"answered"}
    assert set(purchases(emulator).values()) == {1}


# --- the host looks up our mark -----------------------------------------------------------------------------------------


def test_a_lost_create_is_found_by_its_mark_and_no_list_is_read(keld: Keld, emulator: Emulator) -> None:
    """Thousands of jobs of other teams may be in the list of the account."""
    fault(emulator, "create", "drop_after", times=1)
    fault(emulator, "create", "drop_before", times=None, skip=1)
    status = keld.submit(job(), tickets())
    for _ in range(3):
        status = keld.advance(status.id)
        if "adopted" in events(keld, status):
            break
        emulator.advance(timedelta(seconds=16))
    assert "adopted" in events(keld, status)
    emulator.faults({"rules": []})
    assert set(outcomes(keld, finish(keld, emulator, status.id))) == {"answered"}
    assert set(purchases(emulator).values()) == {1}


def test_a_search_that_fails_proves_nothing(keld: Keld, emulator: Emulator) -> None:
    """Nothing is sent again before the host has said that there is no such batch."""
    fault(emulator, "create", "drop_after", times=1)
    fault(emulator, "create", "drop_before", times=3, skip=1)
    fault(emulator, "list", "status", status=503, times=None)
    status = keld.submit(job(), tickets())
    for _ in range(6):
        status = keld.advance(status.id)
        emulator.advance(timedelta(minutes=2))
    assert events(keld, status).count("sending") == 1
    assert "absent" not in events(keld, status)
    emulator.faults({"rules": []})
    assert set(outcomes(keld, finish(keld, emulator, status.id))) == {"answered"}
    assert set(purchases(emulator).values()) == {1}


@pytest.mark.books_open("a batch of other people is on the bill")
def test_a_batch_without_our_mark_is_other_peoples(keld: Keld, emulator: Emulator, open_keld: Callable[..., Keld]) -> None:
    """It was made at the same second and has as many rows: no money is reserved for it, and nobody cancels it."""
    import httpx2

    headers, base = {"x-otherhost-key": emulator.api_key}, emulator.url + "/rarehost/v1"
    status = keld.submit(job(), tickets())
    line = '{"label":"theirs%d","request":{"model":"gpt-5-mini","messages":[{"role":"user","content":"n"}]}}\n'
    body = "".join(line % n for n in range(6)).encode()
    made = httpx2.post(f"{base}/objects", content=body, headers=headers).json()["object"]
    create = {"object": made, "endpoint": "/v1/chat/completions", "model": "gpt-5-mini", "labels": {}}
    theirs = httpx2.post(f"{base}/jobs", json=create, headers=headers).json()["job"]
    status = finish(keld, emulator, status.id)
    assert status.reserved_usd == 0
    assert keld.reconcile(["rare"]) == []
    assert httpx2.get(f"{base}/jobs/{theirs}", headers=headers).json()["state"] == "DONE"
    assert paths(emulator, "POST").count(f"/rarehost/v1/jobs/{theirs}/stop") == 0


# --- ids of letters and digits ------------------------------------------------------------------------------------------


def test_row_ids_are_plain_where_the_host_takes_no_others(keld: Keld, emulator: Emulator) -> None:
    status = run(keld, emulator, job())
    assert outcomes(keld, status) == ["answered"] * 6
    ids = [entry.custom_id or "" for entry in emulator.bill()]
    assert all(len(one) == 18 and one.isalnum() for one in ids), ids
    assert {shard_named(one) for one in ids} == {shard.id for shard in keld.ledger.shards(status.id)}


# --- a least number of requests -----------------------------------------------------------------------------------------


def test_rows_are_cut_into_batches_that_are_all_large_enough(keld: Keld, emulator: Emulator) -> None:
    """22 rows in eights would leave six, and 17 would leave one."""
    status = run(keld, emulator, job(max_shard_rows=8), tickets(17))
    assert [batch.requests for batch in status.batches] == [5, 6, 6]
    assert outcomes(keld, status) == ["answered"] * 17


def test_fewer_rows_than_a_batch_needs_go_to_a_fast_lane_and_the_plan_says_so(keld: Keld, emulator: Emulator) -> None:
    plan = keld.plan(job(), tickets(3))
    assert plan.chosen is not None
    assert plan.chosen.lane is Lane.STANDARD
    assert [option.obstacle for option in plan.options if option.lane is Lane.BATCH] == [
        "a batch at rare has 4 requests or more, and one would have 3"
    ]
    assert "4 requests or more; fewer rows, such as those of a retry, go to a fast lane" in plan.notes["rare:gpt-5-mini"]
    status = run(keld, emulator, job(), tickets(3))
    assert [batch.lane for batch in status.batches] == ["standard"]


def test_the_few_rows_of_a_retry_go_to_a_fast_lane(keld: Keld, emulator: Emulator) -> None:
    """Two failed rows of ten are no batch."""
    fault(emulator, "rows", "error", status=500, count=2, times=1)
    status = run(keld, emulator, job(), tickets(10))
    assert [(batch.lane, batch.requests) for batch in status.batches] == [("batch", 10), ("standard", 2)]
    assert outcomes(keld, status) == ["answered"] * 10


def test_too_few_rows_are_refused_where_only_a_batch_may_take_them(keld: Keld) -> None:
    with pytest.raises(PriceUnknown, match="a batch at rare has 4 requests or more, and one would have 3"):
        keld.plan(job(lane="batch"), tickets(3))


def test_the_few_rows_of_a_retry_are_held_where_only_a_batch_may_take_them(keld: Keld, emulator: Emulator) -> None:
    """The job run comes to its end, and the rows say what became of them."""
    fault(emulator, "rows", "error", status=500, count=2, times=1)
    assert "not asked again" in keld.plan(job(lane="batch"), tickets(10)).notes["rare:gpt-5-mini"]
    status = run(keld, emulator, job(lane="batch"), tickets(10))
    assert [(batch.lane, batch.requests) for batch in status.batches] == [("batch", 10)]
    assert sorted(outcomes(keld, status)) == ["answered"] * 8 + ["errored"] * 2


def test_rows_that_were_held_are_asked_with_those_of_the_next_round(keld: Keld, emulator: Emulator) -> None:
    """A second kind of the job's models has no least number: what one host cannot take, the other does."""
    fault(emulator, "rows", "error", status=500, count=2, times=1)
    status = run(keld, emulator, job("rare", "other", lane="batch"), tickets(10))
    assert [(batch.provider, batch.requests) for batch in status.batches] == [("rare", 10), ("other", 2)]
    assert outcomes(keld, status) == ["answered"] * 10


def test_a_probe_leaves_enough_rows_for_a_batch(keld: Keld, emulator: Emulator) -> None:
    """One of four rows asked ahead would leave three, which nobody takes."""
    status = run(keld, emulator, job(probe=True, lane="batch"), tickets(4))
    assert [batch.requests for batch in status.batches] == [4]
    assert outcomes(keld, status) == ["answered"] * 4


# --- answers that a cancel throws away ----------------------------------------------------------------------------------


def test_a_batch_whose_answers_a_cancel_would_throw_away_is_not_cancelled_for_the_deadline(keld: Keld, emulator: Emulator) -> None:
    """They are paid: late is better than twice."""
    fault(emulator, "life", "stuck", done=0.5)
    status = keld.submit(job(deadline=4 * HOUR, probability=0.1), tickets(10))
    for _ in range(12):
        status = keld.advance(status.id)
        assert status.escalates_at is None
        emulator.advance(timedelta(minutes=30))
    assert status.late
    assert not [path for path in paths(emulator, "POST") if path.endswith("/stop")]
    assert {entry.lane for entry in emulator.bill()} == {"batch"}


def test_a_batch_that_has_answered_nothing_is_rescued_all_the_same(keld: Keld, emulator: Emulator) -> None:
    """By the host's own count there is nothing to throw away."""
    fault(emulator, "life", "stuck", done=0)
    status = run(keld, emulator, job(deadline=4 * HOUR, probability=0.1), tickets(10))
    assert [(batch.lane, batch.ended) for batch in status.batches] == [("batch", "cancelled"), ("standard", "completed")]
    assert (outcomes(keld, status), status.deadline_met) == (["answered"] * 10, True)


@pytest.mark.books_open("the account is billed by another vendor's price list")
def test_a_hedge_asks_its_rows_elsewhere_and_reserves_for_both(
    open_keld: Callable[..., Keld], emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's choice: the deadline is kept, and what the batch answered is paid and lost."""
    monkeypatch.setattr("keld.realtime.run.Time", lambda: turning(emulator))
    half_price = Account(kind="rarehost", prices="openai")  # else a batch with a hedge is never worth it
    settings = Settings(poll_least=timedelta(seconds=60), poll_most=timedelta(minutes=30))
    keld = open_keld(clock=emulator.now, accounts={"rare": half_price}, settings=settings)
    fault(emulator, "life", "stuck", done=0.5)
    status = run(keld, emulator, triage(RARE, deadline=12 * HOUR, hedge=True, ceiling_usd=1), tickets(10))
    assert (outcomes(keld, status), status.deadline_met) == (["answered"] * 10, True)
    assert {entry.lane for entry in emulator.bill()} == {"batch", "standard"}
    worst = sum(shard.worst_usd for shard in keld.ledger.shards(status.id) if shard.lane == "batch")
    assert status.reserved_usd == worst


def test_a_plan_does_not_count_on_a_rescue_that_would_throw_answers_away(keld: Keld, emulator: Emulator) -> None:
    """Elsewhere the same batch may wait, since a rescue fits behind it."""

    def options(**terms: Any) -> dict[str, tuple[str | None, float | None]]:
        plan = keld.plan(job("rare", "other", deadline=6 * HOUR, **terms), tickets(100))
        return {option.provider: (option.rescued_by, option.chance) for option in plan.options if option.lane is Lane.BATCH}

    found, hedged = options(), options(hedge=True)
    assert found["other"][0] is not None
    assert found["rare"][0] is None
    assert hedged["rare"][0] is not None
    assert (found["rare"][1] or 0) < (hedged["rare"][1] or 0)
    notes = keld.plan(job(deadline=6 * HOUR), tickets(100)).notes["rare:gpt-5-mini"]
    assert "is cancelled or expires gives no answers back" in notes
    assert "not cancelled for the deadline" in notes


def test_a_batch_that_the_user_cancels_may_be_paid_and_its_worst_case_stays_reserved(keld: Keld, emulator: Emulator) -> None:
    fault(emulator, "life", "stuck", done=0.5)
    status = keld.submit(job(), tickets(10))
    keld.advance(status.id)
    emulator.advance(HOUR)
    worst = keld.advance(status.id).reserved_usd
    keld.cancel(status.id)
    status = finish(keld, emulator, status.id)
    assert outcomes(keld, status) == ["cancelled"] * 10
    assert status.reserved_usd == worst > 0
    assert status.batches[0].error == "the batch was cancelled, and its provider gives no answers of it back; 10 rows may be paid"


def test_the_rows_of_a_batch_that_expired_without_giving_anything_back_are_asked_again(keld: Keld, emulator: Emulator) -> None:
    fault(emulator, "life", "expire", done=0.5, after_s=7_200, times=1)
    status = run(keld, emulator, job(), tickets(10))
    assert outcomes(keld, status) == ["answered"] * 10
    assert [batch.ended for batch in status.batches] == ["expired", "completed"]
    assert status.reserved_usd == keld.ledger.shards(status.id)[0].worst_usd, "what it answered may be paid"


# --- a host without a window --------------------------------------------------------------------------------------------


@pytest.mark.wide
def test_a_batch_that_never_expires_is_cancelled_for_the_deadline_only(keld: Keld, emulator: Emulator) -> None:
    """A day after the deadline, which nothing faster could keep."""
    fault(emulator, "life", "stuck", done=0.5, match=THERE, times=1)
    status = keld.submit(job("other", lane="batch", deadline=timedelta(hours=72)), tickets(10))
    seen: list[timedelta] = []
    for _ in range(110):
        status = keld.advance(status.id)
        if status.batches[0].state.value == "cancelling":
            break
        seen.append(emulator.now() - status.created_at)
        emulator.advance(HOUR)
    assert timedelta(hours=95) <= seen[-1] <= timedelta(hours=97)
    status = finish(keld, emulator, status.id)
    assert outcomes(keld, status) == ["answered"] * 10
    assert set(purchases(emulator).values()) == {1}


# --- a host where a repeated request costs nothing ----------------------------------------------------------------------


@pytest.fixture
def lost_replies(emulator: Emulator) -> Iterator[None]:
    """Each second reply of the fast lane is lost, in one of three ways."""
    for do, how in (("drop_after", {}), ("status", {"status": 500}), ("garbage", {"after": True})):
        fault(emulator, "realtime", do, times=2, skip=1, **how)
    yield


@pytest.mark.books_open("a repeated request costs nothing at such a host; the emulator bills it")
def test_a_lost_reply_is_simply_asked_again_where_that_costs_nothing(keld: Keld, emulator: Emulator, lost_replies: None) -> None:
    """No row is lost for money's sake, and nothing stays reserved."""
    status = run(keld, emulator, job(lane="standard"), tickets(10))
    assert outcomes(keld, status) == ["answered"] * 10
    assert len(status.batches) == 1, "in the same round"
    assert (status.reserved_usd, status.batches[0].error) == (0, None)


@pytest.mark.books_open("as above")
def test_a_row_that_never_gets_a_reply_does_not_hold_up_the_others(keld: Keld, emulator: Emulator) -> None:
    """A prompt that breaks the server is given up after its tries, in this round and in the next ones."""
    fault(emulator, "realtime", "status", status=500, times=None, skip=6)
    status = run(keld, emulator, job(lane="standard"), tickets(7))
    found = outcomes(keld, status)
    assert found.count("answered") == 6
    assert status.reserved_usd == 0


@pytest.mark.books_open("as above")
def test_rows_in_flight_at_a_kill_are_asked_again_where_that_costs_nothing(
    keld: Keld, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    points._passes.clear()  # they are counted in a process, and other tests ran in this one
    monkeypatch.setenv("KELD_FAILPOINT", "realtime.received:raise:3")
    status = keld.submit(job(lane="standard"), tickets(6))
    with pytest.raises(FailpointHit):
        keld.advance(status.id)
    monkeypatch.delenv("KELD_FAILPOINT")
    status = finish(keld, emulator, status.id)
    assert outcomes(keld, status) == ["answered"] * 6
    assert (len(status.batches), status.reserved_usd, status.batches[0].error) == (1, 0, None)
