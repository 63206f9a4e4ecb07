"""Hosts that copied OpenAI's API, with what is their own as data: they answer, their keys and their errors are understood, and what they lack is said."""

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from keld import Embedding, Keld
from keld.emulator import Emulator
from keld.errors import AccessRefused, InvalidJob
from keld.price import Lane
from keld.providers.base import Denied, NotNow, SendOutcome
from keld.providers.dialects.openai_chat import PATH
from keld.request import Question
from keld.schema import output_schema
from tests.providers.conftest import Wire
from tests.support.ticket_job import HOSTS, Label, Peer, check_promise, creates, fault, groq, outcomes, run, tickets, triage


@pytest.fixture(params=[*HOSTS.values(), groq], ids=lambda peer: peer.name)
def peer(request: pytest.FixtureRequest) -> Peer:
    return request.param


def sent(wire: Wire) -> SendOutcome:
    """What comes of one request in the standard lane."""
    encoder = wire.provider.encoder(Question(system=None, output=output_schema(Label).to_json()), wire.peer.model, "a" * 10)

    async def send_one() -> SendOutcome:
        async with wire.provider.sender(encoder.path, lambda: 10.0, 1) as send:
            return await send("a-0", encoder.body(b'"hello"', Lane.STANDARD))

    return asyncio.run(send_one())


def test_a_job_run_in_the_standard_lane_pays_each_row_once(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    status = run(keld, emulator, triage(peer, lane="standard"))
    assert outcomes(keld, status) == ["answered"] * 6
    assert [(entry.provider, entry.model, entry.lane) for entry in emulator.bill()] == [(peer.name, peer.model, "standard")] * 6


def test_an_answer_has_a_limit_that_the_host_knows(open_wire: Callable[[Peer], Wire], peer: Peer) -> None:
    encoder = open_wire(peer).provider.encoder(Question(system=None, output=output_schema(Label).to_json()), peer.model, "a" * 10)
    body = json.loads(encoder.body(b'"hello"', Lane.STANDARD))
    assert ("max_completion_tokens" if peer.name in ("xai", "groq") else "max_tokens") in body
    assert encoder.path == PATH


def test_a_wrong_key_stops_the_lane(open_emulator: Callable[..., Emulator], peer: Peer, tmp_path: Path) -> None:
    """xAI says so with 400, which at other hosts is a fault of the row."""
    wire = Wire(peer, open_emulator(api_keys=["another"]), tmp_path)
    wire.provider = wire.connect(api_key=lambda: "wrong")
    outcome = sent(wire)
    assert isinstance(outcome, Denied)
    assert outcome.code == ("401" if peer.name == "openrouter" else "invalid_api_key")


def test_a_full_host_is_asked_again_later(open_wire: Callable[[Peer], Wire], peer: Peer) -> None:
    """Groq refuses with 498 before any work."""
    wire = open_wire(peer)
    how = {"status": 498, "code": "capacity_exceeded"} if peer.name == "groq" else {"status": 429}
    fault(wire.emulator, "realtime", "status", **how)
    assert isinstance(sent(wire), NotNow)


@pytest.mark.parametrize("peer", [HOSTS["openrouter"], groq], ids=lambda peer: peer.name)
def test_a_rate_limit_that_comes_with_status_200_is_waited_for(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """OpenRouter passes on its providers' so (github.com/UKGovernmentBEIS/inspect_ai/issues/1534): all attempts of a row were used up at once."""
    body = '{"id":null,"choices":null,"usage":null,"error":{"message":"Provider returned error","code":429,"metadata":{"raw":"Too Many Requests"}}}'
    fault(emulator, "realtime", "garbage", status=200, body=body, times=2)
    status = run(keld, emulator, triage(peer, lane="standard", max_attempts=1))
    assert outcomes(keld, status) == ["answered"] * 6
    assert len(emulator.bill()) == 6


def test_a_redirect_of_a_host_is_told_with_what_to_correct(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """The key and the billing are right."""
    fault(emulator, "realtime", "redirect", times=None)
    status = keld.advance(keld.submit(triage(peer, lane="standard"), tickets()).id)
    assert f"Check the base URL of {peer.name}" in (status.problem or "") and "billing" not in (status.problem or "")


@pytest.mark.parametrize("peer", [HOSTS["xai"], groq], ids=lambda peer: peer.name)
def test_a_host_without_embeddings_is_named(open_wire: Callable[[Peer], Wire], peer: Peer) -> None:
    wire = open_wire(peer)
    with pytest.raises(InvalidJob, match="makes no embeddings with Keld"):
        wire.provider.fit(Question(system=None, output=output_schema(Embedding(dimensions=8)).to_json()), peer.model)


def test_a_missing_key_is_named_with_its_variable(open_wire: Callable[[Peer], Wire], peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(f"{peer.name.upper()}_API_KEY")
    with pytest.raises(AccessRefused, match=f"{peer.name.upper()}_API_KEY"):
        open_wire(peer).provider.ready()


# --- Groq's batches ---------------------------------------------------------------------------------------------------


def test_a_batch_of_groq_pays_each_row_once(keld: Keld, emulator: Emulator) -> None:
    status = run(keld, emulator, triage(groq), table := tickets())
    check_promise(keld, emulator, status, table)


def test_a_create_of_groq_that_was_done_is_adopted(keld: Keld, emulator: Emulator) -> None:
    fault(emulator, "create", "drop_after")
    status = run(keld, emulator, triage(groq), table := tickets())
    check_promise(keld, emulator, status, table)
    assert len(creates(emulator, groq)) == 1


def test_a_create_of_groq_that_was_not_done_is_never_sent_again_on_the_word_of_its_list(keld: Keld, emulator: Emulator) -> None:
    """Its list does not say whether there is more of it, so a batch that it does not show may exist; a person decides."""
    run(keld, emulator, triage(groq), tickets(2))
    emulator.advance(timedelta(hours=1))
    fault(emulator, "create", "drop_before")
    status = run(keld, emulator, triage(groq, name="other"), tickets(3), most=300)
    assert len(creates(emulator, groq)) == 2
    assert outcomes(keld, status) == ["quarantined"] * 3
