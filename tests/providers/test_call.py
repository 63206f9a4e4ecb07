"""One request of a fast lane: one HTTP attempt, the line a batch would have written, and what is known of what came of it.

The traps are those of docs/notes/providers.md.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from keld.emulator import Emulator
from keld.errors import AccessRefused, InvalidJob
from keld.outcome import Outcome
from keld.price import Lane
from keld.providers.base import Denied, InDoubt, NotNow, SendOutcome, Settled
from keld.providers.call import one_line_of, quotas
from keld.reply import Reply
from keld.request import Question, custom_id, one_line
from keld.schema import Embedding, output_schema
from tests.providers.conftest import Wire
from tests.support.ticket_job import Label, Peer, fault

NONCE = "a" * 10
OUTPUT = output_schema(Label).to_json()
PROMPT = one_line("ticket 1")
TALK = one_line([{"role": "system", "content": "In French."}, {"role": "user", "content": "ticket 1"}])


def encoder(wire: Wire, **question: Any) -> Any:
    shared = Question(**{"system": "Be brief.", "output": OUTPUT, "max_output_tokens": 256, **question})
    return wire.provider.encoder(shared, wire.peer.model, NONCE)


def send(wire: Wire, *, timeout_s: float = 30, **question: Any) -> SendOutcome:
    """What came of one request."""
    made = encoder(wire, **question)

    async def once() -> SendOutcome:
        async with wire.provider.sender(made.path, lambda: timeout_s, 1) as sender:
            return await sender(custom_id(NONCE, 1), made.body(PROMPT, Lane.STANDARD))

    return asyncio.run(once())


def reply(wire: Wire, line: bytes) -> Reply:
    question = Question(system="Be brief.", output=OUTPUT)
    (one,) = wire.provider.reader(question, wire.peer.model).journal(line)
    return one


# --- what is asked ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fragment", [PROMPT, TALK], ids=["message", "conversation"])
def test_a_body_is_what_the_batch_line_asks(wire: Wire, fragment: bytes) -> None:
    """The same question in every lane: else an answer would depend on how late it was."""
    made = encoder(wire, system='Say "body": or "params": and nothing else.')
    line = json.loads(made.line(1, fragment))
    assert json.loads(made.body(fragment, Lane.STANDARD)) == line["body" if wire.peer.name == "openai" else "params"]


@pytest.mark.parametrize("endpoint", ["/v1/chat/completions", "/v1/responses"])
def test_flex_is_asked_for_in_the_body(open_wire: Callable[[Peer], Wire], endpoint: str) -> None:
    from tests.support.ticket_job import openai

    made = encoder(open_wire(openai), endpoint=endpoint)
    assert made.path == endpoint
    assert json.loads(made.body(PROMPT, Lane.FLEX)) == {**json.loads(made.body(PROMPT, Lane.STANDARD)), "service_tier": "flex"}


def test_flex_of_what_knows_no_flex_is_refused(wire: Wire) -> None:
    """It would be answered at the standard price, or not at all."""
    output = {"output": output_schema(Embedding(dimensions=8)).to_json()} if wire.peer.name == "openai" else {}
    with pytest.raises(InvalidJob, match="Nothing was sent"):
        encoder(wire, **output).body(PROMPT, Lane.FLEX)


# --- what came of it --------------------------------------------------------------------------------------------------


def test_an_answer_reads_as_from_a_batch(wire: Wire) -> None:
    outcome = send(wire)
    assert isinstance(outcome, Settled)
    assert outcome.answered
    assert outcome.line.endswith(b"\n") and outcome.line.count(b"\n") == 1
    found = reply(wire, outcome.line)
    assert (found.custom_id, found.outcome) == (custom_id(NONCE, 1), Outcome.ANSWERED)
    assert found.output_tokens == wire.emulator.bill()[0].output_tokens > 0
    assert found.tier in ("default", "standard")


@pytest.mark.parametrize("status", [400, 404, 405, 413, 422])
def test_a_definite_no_is_the_rows_own(wire: Wire, status: int) -> None:
    fault(wire.emulator, "realtime", "status", status=status)
    outcome = send(wire)
    assert isinstance(outcome, Settled)
    assert not outcome.answered
    found = reply(wire, outcome.line)
    assert (found.outcome, found.retryable) == (Outcome.ERRORED, False)


def test_a_gateway_that_finds_a_row_too_large_has_not_sent_it_on(wire: Wire) -> None:
    fault(wire.emulator, "realtime", "garbage", status=413)
    outcome = send(wire)
    assert isinstance(outcome, Settled)
    assert reply(wire, outcome.line).outcome is Outcome.ERRORED


@pytest.mark.parametrize(("status", "meant"), [(401, Denied), (403, Denied), (407, Denied), (429, NotNow)])
def test_a_gateway_that_refuses_before_it_sends_on_reserves_nothing(wire: Wire, status: int, meant: type[SendOutcome]) -> None:
    """Else a fast lane behind a gateway that refuses all would use up its ceiling."""
    fault(wire.emulator, "realtime", "garbage", status=status)
    assert isinstance(send(wire), meant)


@pytest.mark.parametrize("status", [400, 404, 405, 410, 422])
def test_a_page_in_the_place_of_a_reply_is_in_doubt(wire: Wire, status: int) -> None:
    """A gateway can lose or withhold an answer that was paid for."""
    fault(wire.emulator, "realtime", "garbage", status=status)
    outcome = send(wire)
    assert isinstance(outcome, InDoubt)
    found = reply(wire, outcome.line)
    assert (found.outcome, found.retryable) == (Outcome.LOST, True)
    assert "may have been paid" in (found.error or "")


@pytest.mark.parametrize(
    "how",
    [{"status": 429}, {"status": 429, "retry_after": 7}, {"status": 503, "retry_after": 7}, {"status": 529, "code": "overloaded_error"}],
    ids=str,
)
def test_what_was_turned_away_at_the_door_may_be_sent_again(wire: Wire, how: dict[str, Any]) -> None:
    fault(wire.emulator, "realtime", "status", times=None, **how)
    outcome = send(wire)
    assert isinstance(outcome, NotNow)
    assert outcome.retry_after_s == how.get("retry_after")
    assert len(wire.emulator.requests()) == 1, "one attempt: an SDK would have made three"


def test_a_host_that_is_not_there_may_be_asked_again(wire: Wire) -> None:
    wire.provider = wire.connect(base_url="http://127.0.0.1:9/v1")
    assert isinstance(send(wire), NotNow)


@pytest.mark.parametrize(
    ("do", "how"),
    [
        *[("status", {"status": status}) for status in (408, 409, 500, 502, 503, 504)],
        ("drop_before", {}), ("drop_after", {}), ("garbage", {}), ("garbage", {"body": ""}), ("garbage", {"body": "{", "status": 201}),
    ],
    ids=str,
)  # fmt: skip
def test_silence_is_in_doubt_and_sent_once(wire: Wire, do: str, how: dict[str, Any]) -> None:
    """Trap 1: it may have been answered and paid."""
    fault(wire.emulator, "realtime", do, times=None, **how)
    outcome = send(wire)
    assert isinstance(outcome, InDoubt)
    found = reply(wire, outcome.line)
    assert (found.outcome, found.retryable) == (Outcome.LOST, True)
    assert "may have been paid" in (found.error or "")
    assert len(wire.emulator.requests()) == 1


def test_a_time_out_is_in_doubt(wire: Wire) -> None:
    fault(wire.emulator, "realtime", "delay", delay_s=0.5, times=None)
    assert isinstance(send(wire, timeout_s=0.1), InDoubt)


@pytest.mark.parametrize("how", [{"status": 401}, {"status": 402}, {"status": 403}, {"status": 429, "code": "insufficient_quota"}], ids=str)
def test_a_refused_key_is_told_apart(wire: Wire, how: dict[str, Any]) -> None:
    if wire.peer.name == "anthropic" and "code" in how:
        pytest.skip("Anthropic says 402")
    fault(wire.emulator, "realtime", "status", times=None, **how)
    assert isinstance(send(wire), Denied)


def test_a_redirect_takes_no_key_along(wire: Wire) -> None:
    with Emulator(frozen=True) as other:
        fault(wire.emulator, "realtime", "redirect", location=other.url + "/v1/messages")
        assert isinstance(send(wire), Denied)
        assert other.requests() == []


def test_without_a_key_nothing_is_sent(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(f"{wire.peer.name.upper()}_API_KEY")
    with pytest.raises(AccessRefused, match="No call was made"):
        send(wire)


def test_rate_limits_are_read_from_a_reply(open_emulator: Callable[..., Emulator], open_wire: Callable[[Peer], Wire], peer: Peer) -> None:
    wire = open_wire(peer)
    wire.emulator = open_emulator(requests_per_minute=60, tokens_per_minute=100_000)
    wire.provider = wire.connect()
    outcome = send(wire)
    assert isinstance(outcome, Settled)
    requests, tokens = outcome.quotas["requests"], outcome.quotas["tokens"]
    assert (requests.limit, requests.left, tokens.limit) == (60, 59, 100_000)
    assert 1 <= requests.reset_s <= 3
    assert 99_000 < tokens.left < 100_000


# --- small things -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reset", "seconds"),
    [("6ms", 0.006), ("1s", 1), ("2m59.56s", 179.56), ("6m0s", 360), ("1h2m3s", 3723), ("17", 17), ("2026-11-20T12:00:30Z", 30), ("2026-11-20T11:00:00Z", 0)],
)  # fmt: skip
def test_a_reset_is_a_span_or_an_instant(reset: str, seconds: float) -> None:
    """OpenAI tells a span, Anthropic an instant, by a clock that need not be ours."""
    headers = httpx2.Headers({"a-limit": "10", "a-remaining": "1", "a-reset": reset, "date": "Fri, 20 Nov 2026 12:00:00 GMT"})
    found = quotas(headers, lambda kind, what: f"a-{what}" if kind == "requests" else "none")
    assert found["requests"].reset_s == pytest.approx(seconds)
    assert set(found) == {"requests"}


@pytest.mark.parametrize("odd", [{"reset": "soon"}, {"reset": ""}, {"limit": "0"}, {"remaining": "many"}, {"reset": "-5"}], ids=str)
def test_a_limit_that_is_told_oddly_is_not_believed(odd: dict[str, str]) -> None:
    told = {"limit": "10", "remaining": "1", "reset": "1s", **odd}
    assert quotas(httpx2.Headers({f"requests-{what}": value for what, value in told.items()}), lambda kind, what: f"{kind}-{what}") == {}


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (b'{\n  "a": [1,\r\n 2]\n}\n', b'{"a":[1,2]}'),
        ('{"a":"x\u2028 y"}'.encode(), '{"a":"x\u2028 y"}'.encode()),
        (b"<html>", None),
        (b"", None),
        (b"{", None),
        (b"[" * 200_000 + b"]" * 200_000, None),
        (b'{"a":"x\ny"}', None),
    ],
    ids=["indented", "u2028", "html", "empty", "cut", "deep", "raw line end"],
)
def test_a_body_becomes_one_line_or_none(body: bytes, line: bytes | None) -> None:
    assert one_line_of(body) == line
