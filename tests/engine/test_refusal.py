"""A create that was refused: looked for all the same, told at once where a person can mend it, sent again only when nothing was found."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from keld import Account, Keld, failpoint
from keld.emulator import Emulator
from keld.errors import AccessRefused
from keld.providers.provider import connect
from keld.state import State
from keld.view import status_line
from tests.engine.test_runner import events, states
from tests.support.ticket_job import (
    PEERS,
    Peer,
    anthropic,
    billed_usd,
    check_promise,
    creates,
    fault,
    finish,
    openai,
    outcomes,
    purchases,
    tickets,
    triage,
)

pytestmark = pytest.mark.by_turns


def lists(emulator: Emulator, peer: Peer) -> int:
    """How often the batches were listed."""
    return sum(call.method == "GET" and call.path == peer.creates for call in emulator.requests())


# --- at once ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said", [{"status": 401}, {"status": 403}, {"status": 402}, {"status": 400, "message": "Your credit balance is too low."}], ids=str
)
def test_refused_access_is_told_at_once_and_the_look_comes_before_the_next_try(
    keld: Keld, open_keld: Callable[..., Keld], emulator: Emulator, peer: Peer, said: dict[str, Any]
) -> None:
    fault(emulator, "create", "status", **said)
    with pytest.raises(AccessRefused, match="the list of batches is read"):
        keld.run(triage(peer), tickets())
    assert len(creates(emulator, peer)) == 1
    (shard,) = keld.ledger.shards(keld.statuses()[0].id)
    assert (shard.state, keld.statuses()[0].reserved_usd) == (State.UNKNOWN, shard.worst_usd), "it may have been made all the same"
    emulator.advance(60)
    before, again = lists(emulator, peer), open_keld()
    status = finish(again, emulator, again.submit(triage(peer), tickets()).id)
    assert lists(emulator, peer) > before
    check_promise(again, emulator, status, tickets())


def test_an_account_without_money_is_told_and_not_taken_for_a_full_queue(keld: Keld, emulator: Emulator) -> None:
    """It was retried for ever, and nobody was told."""
    fault(emulator, "create", "status", status=429, code="insufficient_quota", times=None)
    with pytest.raises(AccessRefused, match="insufficient_quota"):
        keld.run(triage(openai), tickets())


def test_a_batch_that_fails_for_want_of_money_is_told_and_sent_again(keld: Keld, emulator: Emulator) -> None:
    """OpenAI may say it only when the file is read; its rows are not at fault."""
    fault(emulator, "life", "fail", code="billing_hard_limit_reached")
    status = keld.submit(triage(openai), tickets())
    keld.advance(status.id)
    emulator.advance(60)
    status = keld.advance(status.id)
    assert (status.problem_kind, status.batches[0].state) == ("AccessRefused", State.DEFERRED)
    check_promise(keld, emulator, finish(keld, emulator, status.id), tickets())


# --- what it leads to -------------------------------------------------------------------------------------------------


def test_a_refusal_keeps_its_words_for_another_process(keld: Keld, open_keld: Callable[..., Keld], emulator: Emulator) -> None:
    """The look is a quarter of a minute later, and whoever makes it tells the rows why."""
    fault(emulator, "create", "status", status=400, code="bad_thing", message="The endpoint is no good.")
    status = keld.advance(keld.submit(triage(openai), tickets()).id)
    assert states(keld, status.id) == [State.UNKNOWN]
    keld.close()
    other = open_keld()
    status = finish(other, emulator, status.id)
    assert outcomes(other, status) == ["rejected"] * 6
    assert set(other.read(status.id).read_all().column("keld_error").to_pylist()) == {"HTTP 400 bad_thing The endpoint is no good."}


def test_a_list_that_cannot_be_read_holds_up_what_a_refusal_leads_to(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """Told as rejected, $0, the rows might have been paid."""
    fault(emulator, "create", "status", status=400, after=True)
    status = keld.advance(keld.submit(triage(peer), tickets()).id)
    fault(emulator, "list", "status", status=503, times=6, retry_after=0.001)
    emulator.advance(20)
    assert keld.advance(status.id).problem_kind == "ProviderUnreachable"
    assert states(keld, status.id) == [State.UNKNOWN]
    status = finish(keld, emulator, status.id)
    check_promise(keld, emulator, status, tickets())


def test_a_full_queue_turns_one_away_and_costs_one_look_for_each_create(
    open_emulator: Callable[..., Emulator], open_keld: Callable[..., Keld], peer: Peer
) -> None:
    """Not a create, and a look, for every shard that waits."""
    emulator = open_emulator(latency_s=60)
    keld = open_keld(clock=emulator.now)
    fault(emulator, "create", "status", status=429, times=3)
    status = keld.submit(triage(peer, max_shard_rows=1), tickets(12))
    keld.advance(status.id)
    assert len(creates(emulator, peer)) == 1
    assert states(keld, status.id) == [State.UNKNOWN] + [State.DEFERRED] * 11
    status = finish(keld, emulator, status.id, most=200)
    assert len(creates(emulator, peer)) == 3 + 12
    assert events(keld, status.id).count("refused") == 3
    check_promise(keld, emulator, status, tickets(12))


def test_a_create_that_never_left_the_machine_is_not_looked_for(
    open_emulator: Callable[..., Emulator], open_keld: Callable[..., Keld], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No connection: nothing can have been made, and nothing is reserved."""
    emulator = open_emulator()
    keld = open_keld(clock=emulator.now)
    status = keld.submit(triage(openai), tickets())
    provider = keld.provider("openai")
    went_down = connect("openai", Account(kind="openai", base_url="http://127.0.0.1:9/v1"))

    def go_down(point: str) -> None:
        if point == "create.send":
            monkeypatch.setattr(provider, "_batches", went_down._batches)

    monkeypatch.setattr(failpoint, "on_pass", go_down)
    status = keld.advance(status.id)
    assert (states(keld, status.id), status.reserved_usd) == ([State.STAGED], 0)
    assert "nothing listens there. Nothing was sent" in (status.problem or "")
    monkeypatch.undo()


# --- the clock --------------------------------------------------------------------------------------------------------


class Moved:
    """A clock that runs some time ahead of the emulator's, or no more."""

    def __init__(self, emulator: Emulator, ahead: timedelta) -> None:
        self.emulator, self.ahead = emulator, ahead

    def __call__(self) -> Any:
        return self.emulator.now() + self.ahead


@pytest.mark.share(3)
@pytest.mark.parametrize(
    "told",
    [{"do": "drop_before"}, {"do": "status", "status": 429, "retry_after": 90}, {"do": "status", "status": 429, "after": True}],
    ids=str,
)
@pytest.mark.parametrize("ahead", [timedelta(days=1), timedelta(hours=2)])
def test_a_clock_that_is_set_back_costs_no_day(
    open_keld: Callable[..., Keld], emulator: Emulator, peer: Peer, told: dict[str, Any], ahead: timedelta
) -> None:
    """A wait is a span: an instant of the clock before lies a day away."""
    clock = Moved(emulator, ahead)
    keld = open_keld(clock=clock)
    emulator.faults({"rules": [{"at": "create", **told}]})
    status = keld.advance(keld.submit(triage(peer), tickets()).id)
    clock.ahead, began = timedelta(0), emulator.now()
    status = finish(keld, emulator, status.id)
    assert outcomes(keld, status) == ["answered"] * 6
    assert emulator.now() - began < timedelta(hours=1)
    assert set(purchases(emulator).values()) == {1}


def test_the_looks_for_a_lost_create_are_no_sooner_for_a_clock_that_is_set_back(open_keld: Callable[..., Keld], emulator: Emulator) -> None:
    """It lands 200 s later: who looks at once, however often, buys it again."""
    clock = Moved(emulator, timedelta(days=1))
    keld = open_keld(clock=clock)
    fault(emulator, "create", "late_landing", after_s=200)
    status = keld.advance(keld.submit(triage(anthropic), tickets()).id)
    for _ in range(4):
        clock.ahead -= timedelta(hours=5)
        emulator.advance(20)
        keld.advance(status.id)
    status = finish(keld, emulator, status.id)
    assert len(creates(emulator, anthropic)) == 1
    assert status.cost_usd == billed_usd(emulator, status.created_at)


# --- what a person sees meanwhile -------------------------------------------------------------------------------------


@pytest.mark.share(2)
@pytest.mark.parametrize("kind", ["openai", "mistral"])  # an SDK and our own calls; a list that is read and a mark that is looked up
@pytest.mark.parametrize(
    ("what", "said"),
    [
        ({"do": "status", "status": 401}, "HTTP 401"),
        ({"do": "redirect"}, "HTTP 307 redirect"),
        ({"do": "garbage"}, "an unreadable reply"),
        ({"do": "garbage", "status": 502}, "HTTP 502"),
        ({"do": "drop_before"}, "the connection was closed without a whole reply"),
    ],
    ids=str,
)
def test_a_create_that_is_looked_for_says_what_stands_in_the_way_and_when_it_is_looked_for(
    keld: Keld, emulator: Emulator, kind: str, what: dict[str, Any], said: str
) -> None:
    """The status said `unknown`, and not what Keld waits for; the error of the create itself is gone with the next look."""
    emulator.faults({"rules": [{"at": "create", **what}]})
    run_id = keld.submit(triage(PEERS[kind]), tickets()).id
    keld.advance(run_id)
    status = keld.advance(run_id)
    (batch,) = status.batches
    assert batch.state is State.UNKNOWN
    assert status.problem is None, "nothing was wrong with the latest look"
    assert status.obstacle == batch.obstacle and batch.obstacle is not None
    assert said in batch.obstacle and batch.host in batch.obstacle and f"{batch.not_before:%H:%M:%S} UTC" in batch.obstacle
    assert status_line(status).endswith(batch.obstacle)
    assert finish(keld, emulator, run_id).obstacle is None


def test_results_that_are_not_there_any_more_are_no_fault_of_the_address(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """By that address the batch was looked at just now; its file was removed in the dashboard, or has expired."""
    fault(emulator, "download", "status", status=404, times=None)
    run_id = keld.submit(triage(peer), tickets()).id
    for _ in range(4):
        emulator.advance(3_600)
        status = keld.advance(run_id)
    assert "The host has no such file any more" in (status.problem or "") and "base URL" not in (status.problem or "")
    assert not status.over and len(creates(emulator, peer)) == 1, "what may be paid is not asked again"


@pytest.mark.parametrize(
    ("kind", "at", "said", "advice"),
    [
        ("bedrock", "create", {"status": 403, "code": "AccessDeniedException", "message": "not authorized to perform: iam:PassRole on resource: r"}, "PassRole"),
        ("bedrock", "create", {"status": 400, "code": "ValidationException", "message": "Could not assume the provided service role."}, "trust policy"),
        ("bedrock", "create", {"status": 403, "code": "AccessDeniedException"}, "CreateModelInvocationJob"),
        ("bedrock", "create", {"status": 403, "code": "InvalidSignatureException", "message": "Signature expired: 1 is now earlier than 2"}, "NTP"),
        ("azure", "create", {"status": 404, "code": "DeploymentNotFound"}, "deployments= "),
        ("azure", "realtime", {"status": 404, "code": "DeploymentNotFound"}, "fast_deployments= "),
        ("vertex", "upload", {"status": 403, "code": "AccessDenied"}, "read, write and list"),
    ],
    ids=str,
)  # fmt: skip
def test_what_a_newcomer_of_a_cloud_has_to_grant_is_named_and_no_row_is_refused_for_it(
    keld: Keld, emulator: Emulator, kind: str, at: str, said: dict[str, Any], advice: str
) -> None:
    """It said to check the key, the project and the billing, which were right; a role that Bedrock may not assume cost the rows."""
    fault(emulator, at, "status", times=None, **said)
    run_id = keld.submit(triage(PEERS[kind], lane="standard" if at == "realtime" else "batch"), tickets(120)).id
    for _ in range(2):
        status = keld.advance(run_id)
        assert advice in str(status.obstacle) and status.failed == 0 and not status.over, status.obstacle
