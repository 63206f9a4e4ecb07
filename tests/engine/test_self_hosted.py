"""A server of one's own, over HTTP: kept full, asked by the names it has, in every dialect it speaks; nothing lost, nothing asked twice in vain."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from keld import CeilingTooLow, Embedding, InvalidJob, Job, Keld, SelfHostedAccount
from keld.emulator import Emulator, Engine
from tests.support.ticket_job import fault, finish, openai, outcomes, tickets, triage
from tests.support.worker_process import KILLED, Time, server

PRICES = {
    "mine:gpt-oss-120b": {"input": 0, "output": 0},
    "mine:e5": {"input": 0},
    "alone:e5": {"input": 0},
    "mine:typo": {"input": 0, "output": 0},
}
ENGINE = Engine(slots=4, queue=4)


def account(emulator: Emulator, **fields: Any) -> SelfHostedAccount:
    return SelfHostedAccount(base_url=emulator.url_of("self_hosted"), **fields)


def job(model: str = "mine:gpt-oss-120b", **terms: Any) -> Job:
    return triage(openai, models=model, prices=PRICES, **terms)


@pytest.fixture
def emulator(open_emulator: Callable[..., Emulator]) -> Emulator:
    return open_emulator(engine=ENGINE)


@pytest.fixture
def mine(open_keld: Callable[..., Keld], emulator: Emulator) -> Keld:
    return open_keld(clock=emulator.now, accounts={"mine": account(emulator)})


def paths(emulator: Emulator) -> Counter[tuple[str, int | None]]:
    return Counter((call.path.removeprefix("/self_hosted"), call.status) for call in emulator.requests())


@pytest.mark.parametrize("endpoint", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
def test_every_row_is_answered_once_in_each_dialect(mine: Keld, emulator: Emulator, endpoint: str) -> None:
    status = finish(mine, emulator, mine.submit(job(endpoint=endpoint), tickets(40)).id)
    assert outcomes(mine, status) == ["answered"] * 40
    assert len(emulator.bill()) == 40
    assert paths(emulator)[endpoint, 200] == 40


def test_the_address_of_the_account_self_hosted_is_in_the_environment(
    open_keld: Callable[..., Keld], emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KELD_SELF_HOSTED_URL", emulator.url_of("self_hosted"))
    keld = open_keld(clock=emulator.now)
    asked = triage(openai, models="self_hosted:e5", prices={"self_hosted:e5": {"input": 0, "output": 0}})
    assert outcomes(keld, finish(keld, emulator, keld.submit(asked, tickets()).id)) == ["answered"] * 6


def test_a_full_queue_is_met_and_only_makes_rows_wait(mine: Keld, emulator: Emulator) -> None:
    """503 costs nothing: the rows come back when there is room, and the number at once is lowered."""
    status = finish(mine, emulator, mine.submit(job(), tickets(60)).id)
    assert outcomes(mine, status) == ["answered"] * 60
    assert len(emulator.bill()) == 60
    assert {status for _, status in paths(emulator)} <= {200, 503}


def test_a_reply_that_is_lost_is_asked_again_in_the_same_run(mine: Keld, emulator: Emulator) -> None:
    """A request costs time of a machine that is paid anyway; it is never `lost` for money's sake."""
    fault(emulator, "realtime", "drop_after", times=3)
    status = finish(mine, emulator, mine.submit(job(), tickets(10)).id)
    assert outcomes(mine, status) == ["answered"] * 10
    assert len(emulator.bill()) == 13


@pytest.mark.parametrize(
    "body",
    [
        '{"id":"x","choices":[{"index":0,"message":{"role":"assistant","content":""},"finish_reason":"abort"}]}',
        '{"choices":[{"message":{"content":""},"finish_reason":{"type":"abort","message":"The request queue is full."}}]}',
        '{"object":"error","message":"The request queue is full.","type":"service_unavailable","code":503}',
    ],
    ids=["vllm", "sglang", "sglang-error"],
)
def test_an_abort_with_status_200_is_no_answer(mine: Keld, emulator: Emulator, body: str) -> None:
    fault(emulator, "realtime", "garbage", status=200, body=body, times=2)
    assert outcomes(mine, finish(mine, emulator, mine.submit(job(), tickets()).id)) == ["answered"] * 6


@pytest.mark.parametrize(
    ("how", "outcome"),
    [
        ({"status": 503}, "answered"),
        ({"status": 429}, "answered"),
        ({"status": 400, "code": "exceed_context_size_error"}, "errored"),
    ],
    ids=lambda how: str(how["status"]) if isinstance(how, dict) else "",
)
def test_what_a_status_means_for_the_row(mine: Keld, emulator: Emulator, how: dict[str, Any], outcome: str) -> None:
    """Full is not now; too long, or not supported, is for good, and for that row."""
    fault(emulator, "realtime", "status", times=1, **how)
    status = finish(mine, emulator, mine.submit(job(), tickets()).id)
    assert sorted(outcomes(mine, status)) == sorted(["answered"] * 5 + [outcome])


def test_an_engine_that_cannot_do_it_at_all_is_not_asked_by_every_row(mine: Keld, emulator: Emulator) -> None:
    """llama.cpp without --embeddings says 501 to each."""
    fault(emulator, "realtime", "status", status=501, code="not_supported_error", times=None)
    status = finish(mine, emulator, mine.submit(job(), tickets(200)).id)
    assert set(outcomes(mine, status)) == {"errored"}
    assert paths(emulator)["/v1/chat/completions", 501] <= 100


# --- names ------------------------------------------------------------------------------------------------------------


def test_a_name_that_the_server_does_not_have_is_found_before_the_first_row(mine: Keld, emulator: Emulator) -> None:
    """It would be a 404 for each row; the message says which names there are."""
    status = finish(mine, emulator, mine.submit(job("mine:typo"), tickets(30)).id)
    assert outcomes(mine, status) == ["errored"] * 30
    assert not any("chat" in call.path for call in emulator.requests())
    assert emulator.bill() == []
    (shard,) = mine.ledger.shards(status.id)
    assert shard.error is not None
    assert "has no model 'typo'; it has gpt-oss-120b, gpt-oss-20b, e5" in (shard.error.message or "")


def test_a_server_that_answers_any_name_is_asked_and_the_answers_name_is_kept(
    open_keld: Callable[..., Keld], open_emulator: Callable[..., Emulator]
) -> None:
    """llama.cpp answers whatever is named by the model that is loaded."""
    emulator = open_emulator(engine=Engine(slots=2, any_name=True, models=("/models/smol.gguf",)))
    keld = open_keld(clock=emulator.now, accounts={"mine": account(emulator)})
    status = finish(keld, emulator, keld.submit(job("mine:typo"), tickets()).id)
    assert outcomes(keld, status) == ["answered"] * 6
    assert {row["keld_model"] for row in keld.read(status.id).read_all().to_pylist()} == {"typo"}


def test_a_model_has_another_name_at_the_host(open_keld: Callable[..., Keld], emulator: Emulator) -> None:
    keld = open_keld(clock=emulator.now, accounts={"mine": account(emulator, deployments={"typo": "gpt-oss-20b"})})
    status = finish(keld, emulator, keld.submit(job("mine:typo"), tickets()).id)
    assert outcomes(keld, status) == ["answered"] * 6
    assert {entry.model for entry in emulator.bill()} == {"gpt-oss-20b"}


# --- the body ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "sent"), [({}, "max_tokens"), ({"length_field": "max_completion_tokens"}, "max_completion_tokens")])
def test_the_length_of_an_answer_is_limited_by_the_field_that_the_engine_knows(
    open_keld: Callable[..., Keld], open_emulator: Callable[..., Emulator], given: dict[str, Any], sent: str
) -> None:
    """Ollama ignores `max_completion_tokens` without a word."""
    bodies: list[dict[str, Any]] = []

    def respond(body: dict[str, Any]) -> dict[str, Any]:
        bodies.append(body)
        return {"category": "bug", "urgent": True}

    emulator = open_emulator(responder=respond)
    keld = open_keld(clock=emulator.now, accounts={"mine": account(emulator, **given)})
    finish(keld, emulator, keld.submit(job(), tickets()).id)
    fields = {"max_tokens", "max_completion_tokens"}
    assert [sorted(fields & set(body)) for body in bodies] == [[sent]] * 6


# --- many rows in one request -----------------------------------------------------------------------------------------


def vectors(keld: Keld, emulator: Emulator, texts: list[str], **terms: Any) -> list[dict[str, Any]]:
    table = pa.table({"id": list(range(len(texts))), "text": texts})
    asked = Job(
        name="vectors",
        key="id",
        prompt="{text}",
        output_type=Embedding(dimensions=8),
        **{"models": "mine:e5", "prices": PRICES, "params": {"dimensions": 8}, **terms},
    )
    status = finish(keld, emulator, keld.submit(asked, table).id)
    return keld.read(status.id).read_all().to_pylist()


def test_embeddings_are_asked_many_in_one_request_and_each_row_gets_its_own(mine: Keld, emulator: Emulator) -> None:
    texts = [f"text {n} " + "long " * (n % 7) for n in range(100)]
    packed = vectors(mine, emulator, texts)
    assert paths(emulator)["/v1/embeddings", 200] == 4
    assert [row["keld_outcome"] for row in packed] == ["answered"] * 100
    assert len({tuple(row["embedding"]) for row in packed}) == 100


def test_a_packed_answer_is_the_same_as_one_by_one(open_keld: Callable[..., Keld], emulator: Emulator) -> None:
    accounts = {"mine": account(emulator), "alone": account(emulator, pack_rows=1)}
    keld = open_keld(clock=emulator.now, accounts=accounts)
    texts = [f"text {n}" for n in range(40)]
    packed, alone = (vectors(keld, emulator, texts, models=f"{name}:e5") for name in accounts)
    assert [row["embedding"] for row in packed] == [row["embedding"] for row in alone]
    assert paths(emulator)["/v1/embeddings", 200] == 2 + 40


def test_the_tokens_of_a_request_are_split_exactly(mine: Keld, emulator: Emulator) -> None:
    rows = vectors(mine, emulator, ["a", "b " * 50, "c " * 3], prices={"mine:e5": {"input": 1}})
    paid = sum(entry.input_tokens for entry in emulator.bill())
    assert sum(row["keld_cost_usd"] for row in rows) == Decimal(paid) / 10**6
    assert rows[1]["keld_cost_usd"] > 10 * rows[0]["keld_cost_usd"]


def test_a_bad_row_in_a_request_is_refused_alone(mine: Keld, emulator: Emulator, open_emulator: Callable[..., Emulator]) -> None:
    """A 400 is halved until the bad row stands alone."""
    fault(emulator, "realtime", "status", status=400, times=6)  # 32 -> 16 -> 8 -> 4 -> 2 -> 1
    rows = vectors(mine, emulator, [f"text {n}" for n in range(32)])
    assert Counter(row["keld_outcome"] for row in rows)["answered"] >= 31


# --- the account ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{"gpu_hour_usd": "much"}, {"gpu_hour_usd": -1}, {"pack_rows": 0}, {"most_at_once": 0}], ids=str)
def test_a_wrong_field_is_refused_in_words(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidJob, match="Nothing was sent"):
        SelfHostedAccount(base_url="http://127.0.0.1:8000/v1", **given)


# --- the price of its time --------------------------------------------------------------------------------------------

BY_TIME = pytest.mark.books_open("the emulator's bill is by the token, the price is by the hour")
HOUR = Decimal("3.60")  # a thousandth of a dollar for each second


@pytest.fixture
def slow(open_emulator: Callable[..., Emulator]) -> Callable[[float], Emulator]:
    """A server whose clock goes on by some seconds with each answer."""

    def start(seconds: float) -> Emulator:
        def respond(body: dict[str, Any]) -> dict[str, Any]:
            emulator.advance(seconds)
            return {"category": "bug", "urgent": True}

        emulator = open_emulator(responder=respond)
        return emulator

    return start


def hourly(open_keld: Callable[..., Keld], emulator: Emulator) -> Keld:
    return open_keld(clock=emulator.now, accounts={"mine": account(emulator, gpu_hour_usd=HOUR)})


def unpriced(**terms: Any) -> Job:
    return triage(openai, models="mine:gpt-oss-120b", **terms)


@BY_TIME
def test_answers_cost_the_time_that_the_host_was_busy_split_over_the_rows(
    open_keld: Callable[..., Keld], slow: Callable[[float], Emulator], ledger_url: str
) -> None:
    emulator = slow(2)
    keld = hourly(open_keld, emulator)
    status = finish(keld, emulator, keld.submit(unpriced(), tickets(30)).id)
    assert outcomes(keld, status) == ["answered"] * 30
    assert status.cost_usd == Decimal("0.060")
    costs = keld.read(status.id).read_all().column("keld_cost_usd").to_pylist()
    assert sum(costs) == status.cost_usd
    assert min(costs) > 0
    report = keld.spend("model").total
    assert (report.paid_usd, report.saved_usd, report.in_flight_usd) == (status.cost_usd, 0, 0)


@BY_TIME
def test_a_plan_says_that_the_cost_is_unknown_until_the_first_run_has_shown_it(
    open_keld: Callable[..., Keld], slow: Callable[[float], Emulator]
) -> None:
    emulator = slow(2)
    keld = hourly(open_keld, emulator)
    before = keld.plan(unpriced(), tickets(30))
    assert "unknown before its first run, at most $" in before.notes["mine:gpt-oss-120b"]
    finish(keld, emulator, keld.submit(unpriced(), tickets(30)).id)
    after = keld.plan(unpriced(name="other"), tickets(30))
    assert "at 0.5 rows/s as measured" in after.notes["mine:gpt-oss-120b"]
    assert after.chosen is not None
    assert after.chosen.expected_usd == Decimal("0.06")


@BY_TIME
def test_the_run_ends_itself_when_its_reservation_is_used_up(open_keld: Callable[..., Keld], slow: Callable[[float], Emulator]) -> None:
    """The worst case of time is exact: rate x (end - now); what is not asked by then is over the ceiling."""
    emulator = slow(4)
    keld = hourly(open_keld, emulator)
    ceiling = Decimal("0.50")  # 500 s: 125 answers, fewer by those that the last minute leaves no time for
    status = finish(keld, emulator, keld.submit(unpriced(ceiling_usd=ceiling), tickets(200)).id)
    found = Counter(outcomes(keld, status))
    assert set(found) == {"answered", "over_ceiling"}
    assert 75 <= found["answered"] <= 125
    assert Decimal("0.30") <= status.cost_usd <= ceiling


@BY_TIME
def test_a_clock_that_is_set_back_does_not_lengthen_a_run(open_keld: Callable[..., Keld], open_emulator: Callable[..., Emulator]) -> None:
    """What is reserved is a span of the host's time: by the clock alone it would last an hour more, and nobody would see its cost."""
    asked: list[None] = []

    def respond(body: dict[str, Any]) -> dict[str, Any]:
        emulator.advance(20)
        asked.append(None)
        return {"category": "bug", "urgent": True}

    emulator = open_emulator(responder=respond)
    keld = open_keld(
        clock=lambda: emulator.now() - timedelta(hours=1 if len(asked) > 5 else 0),
        accounts={"mine": account(emulator, gpu_hour_usd=HOUR)},
    )
    ceiling = Decimal("0.50")  # 500 s: 25 answers, and those in flight at the moments when the clock is set back and when the run ends
    finish(keld, emulator, keld.submit(unpriced(ceiling_usd=ceiling), tickets(100)).id)
    assert 15 <= len(asked) <= 45


def test_a_ceiling_without_room_for_a_run_is_refused_in_words(open_keld: Callable[..., Keld], slow: Callable[[float], Emulator]) -> None:
    keld = hourly(open_keld, slow(2))
    with pytest.raises(CeilingTooLow, match=r"costs \$0.3000 in the worst case.*Nothing was sent"):
        keld.submit(unpriced(ceiling_usd=Decimal("0.01")), tickets())


def test_a_price_by_token_of_the_job_has_precedence(open_keld: Callable[..., Keld], slow: Callable[[float], Emulator]) -> None:
    emulator = slow(2)
    keld = hourly(open_keld, emulator)
    status = finish(keld, emulator, keld.submit(job(), tickets()).id)
    assert status.cost_usd == 0


@BY_TIME
def test_the_time_of_a_worker_that_died_is_paid_until_it_could_have_been_seen_again(
    open_keld: Callable[..., Keld], slow: Callable[[float], Emulator], ledger_url: str
) -> None:
    """Nobody saw it end: it may have kept the host busy until its next note was due."""
    emulator = slow(1)
    keld = hourly(open_keld, emulator)
    run_id = keld.submit(unpriced(), tickets(10)).id
    (shard,) = keld.ledger.shards(run_id)
    assert shard.answered == 0
    lease = keld.ledger.leases.claim(run_id, "dead", emulator.now())
    assert lease is not None
    stretch, _ = keld.ledger.stretches.begin(lease, shard, emulator.now(), HOUR)
    emulator.advance(100)
    keld.ledger.stretches.see(stretch, emulator.now())
    emulator.advance(1_000)
    status = finish(keld, emulator, run_id)
    assert status.cost_usd == Decimal("0.120"), "100 s of the dead worker, 10 s that nobody saw, and 10 s of the one that finished"


@BY_TIME
def test_a_worker_that_died_near_the_end_of_its_reservation_costs_no_more_than_was_reserved(
    open_keld: Callable[..., Keld], slow: Callable[[float], Emulator]
) -> None:
    """The seconds that nobody saw must not take a job run over its ceiling."""
    emulator = slow(1)
    keld = hourly(open_keld, emulator)
    run_id = keld.submit(unpriced(), tickets(10)).id
    (shard,) = keld.ledger.shards(run_id)
    lease = keld.ledger.leases.claim(run_id, "dead", emulator.now())
    assert lease is not None
    stretch, _ = keld.ledger.stretches.begin(lease, shard, emulator.now(), HOUR)
    emulator.advance(timedelta(hours=float(shard.worst_usd / HOUR), seconds=-4))
    keld.ledger.stretches.see(stretch, emulator.now())
    emulator.advance(1_000)
    lease = keld.ledger.leases.claim(run_id, "next", emulator.now())
    assert lease is not None
    assert keld.ledger.stretches.paid_usd(lease, shard, emulator.now()) == shard.worst_usd, "4 of the 10 s were reserved"


@BY_TIME
def test_a_clock_that_was_set_back_between_two_runs_hides_no_time_of_the_host(
    open_keld: Callable[..., Keld], slow: Callable[[float], Emulator]
) -> None:
    """By the clock the second run lay in time that the first one had paid, and so it cost nothing."""
    emulator = slow(1)
    set_back = [timedelta(0)]
    keld = open_keld(clock=lambda: emulator.now() - set_back[0], accounts={"mine": account(emulator, gpu_hour_usd=HOUR)})
    run_id = keld.submit(unpriced(), tickets(10)).id
    (shard,) = keld.ledger.shards(run_id)
    lease = keld.ledger.leases.claim(run_id, "dead", keld.clock())
    assert lease is not None
    stretch, _ = keld.ledger.stretches.begin(lease, shard, keld.clock(), HOUR)
    emulator.advance(100)
    keld.ledger.stretches.end(stretch, keld.clock())
    keld.ledger.leases.release(lease, None)
    set_back[0] = timedelta(seconds=90)
    status = finish(keld, emulator, run_id)
    assert status.cost_usd == Decimal("0.110"), "100 s of the first and 10 s of the second"


@BY_TIME
def test_jobs_side_by_side_share_the_clock_of_one_host(
    open_keld: Callable[..., Keld], slow: Callable[[float], Emulator], ledger_url: str
) -> None:
    emulator = slow(1)
    keld = hourly(open_keld, emulator)
    runs = [keld.submit(unpriced(name=name), tickets(10)).id for name in ("one", "two")]
    leases, stretches, begun = [], [], emulator.now()
    for run_id in runs:
        lease = keld.ledger.leases.claim(run_id, "worker", emulator.now())
        assert lease is not None
        leases.append(lease)
        stretches.append(keld.ledger.stretches.begin(lease, keld.ledger.shards(run_id)[0], emulator.now(), HOUR)[0])
        emulator.advance(10)
    for stretch in stretches:
        keld.ledger.stretches.see(stretches[1], emulator.now())
        keld.ledger.stretches.end(stretch, emulator.now())
        emulator.advance(10)
    paid = [
        keld.ledger.stretches.paid_usd(lease, keld.ledger.shards(run_id)[0], emulator.now())
        for lease, run_id in zip(leases, runs, strict=True)
    ]
    assert paid == [Decimal("0.015"), Decimal("0.015")], "10 s alone and half of 10 s together, each"
    assert sum(paid) * 1_000 == Decimal((emulator.now() - begun).total_seconds()) - 10


# --- a worker that dies -----------------------------------------------------------------------------------------------


def pay_by_the_hour(home: str, ledger_url: str, url: str, base_url: str, failpoint: str) -> None:
    """A worker that dies at a point."""
    os.environ["KELD_FAILPOINT"] = failpoint
    accounts = {"mine": SelfHostedAccount(base_url=base_url, gpu_hour_usd=HOUR)}
    with Keld(home=home, ledger_url=ledger_url, clock=Time(url), accounts=accounts) as keld:
        keld.advance(keld.submit(unpriced(ceiling_usd=1), tickets(12)).id)


AT_ONCE, LATER = (
    ("realtime.received:kill9:3", "collect.done:kill9"),
    ("ledger.sending.after:kill9", "realtime.send:kill9:3", "realtime.journal:kill9:2"),
)


@BY_TIME
@pytest.mark.parametrize("point", [*AT_ONCE, *(pytest.param(point, marks=pytest.mark.slow) for point in LATER)])
def test_a_worker_that_pays_by_the_hour_is_killed_and_another_goes_on(
    open_keld: Callable[..., Keld], slow: Callable[[float], Emulator], point: str
) -> None:
    """No row is lost, the time of both workers is paid once, and nothing stays reserved."""
    emulator = slow(1)
    keld = hourly(open_keld, emulator)
    where = (str(keld.home), keld.ledger.url, emulator.url, emulator.url_of("self_hosted"))
    process = server().Process(target=pay_by_the_hour, args=(*where, point))
    process.start()
    process.join(120)
    assert process.exitcode == KILLED
    emulator.advance(600)  # the lease of the dead worker ends
    status = finish(keld, emulator, keld.submit(unpriced(ceiling_usd=1), tickets(12)).id)
    assert outcomes(keld, status) == ["answered"] * 12
    assert keld.ledger.run(status.id).reserved_usd == 0
    assert Decimal("0.001") <= status.cost_usd <= Decimal("0.030")
    assert len(emulator.bill()) <= 12 + 8, "only what was in flight is asked again"
