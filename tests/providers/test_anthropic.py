"""Anthropic's own traps: the whole input in the create, no mark on the batch, results at a URL that it names.

The traps are those of docs/notes/providers.md.
"""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from keld import Embedding
from keld.emulator import Emulator
from keld.errors import InvalidJob
from keld.outcome import Outcome
from keld.providers.base import BatchState
from keld.schema import output_schema
from tests.providers.conftest import Wire
from tests.support.ticket_job import Peer, anthropic, fault


@pytest.fixture
def wire(open_wire: Callable[[Peer], Wire]) -> Wire:
    return open_wire(anthropic)


def params(path: Path) -> list[dict[str, Any]]:
    return [request["params"] for request in json.loads(path.read_bytes())["requests"]]


# --- asking -----------------------------------------------------------------------------------------------------------


def test_the_system_prompt_stands_beside_the_messages(wire: Wire) -> None:
    """The Messages API refuses a message whose role is system."""
    (body,) = params(wire.file(["hello"]))
    assert (body["system"], body["messages"]) == ("Be brief.", [{"role": "user", "content": "hello"}])
    assert (body["model"], body["max_tokens"]) == ("claude-haiku-4-5", 256)


def test_a_rows_own_system_message_is_lifted_behind_the_shared_one(wire: Wire) -> None:
    """Conversations made for OpenAI work here, too."""
    said = [{"role": "system", "content": "Row's own."}, {"role": "user", "content": "hello"}]
    (body,) = params(wire.file([said]))
    assert (body["system"], body["messages"]) == ("Be brief.\n\nRow's own.", [{"role": "user", "content": "hello"}])


def test_a_message_that_only_speaks_of_a_system_is_not_lifted(wire: Wire) -> None:
    """The word in a text is no role."""
    said = [{"role": "user", "content": 'what is a "system"?'}]
    (body,) = params(wire.file([said], system=None))
    assert body["messages"] == said
    assert not body.get("system")


def test_mixed_rows_make_one_document(wire: Wire) -> None:
    """Each row in its own form, all in one create."""
    rows = params(
        wire.file(["one", [{"role": "user", "content": "two"}], [{"role": "system", "content": "s"}, {"role": "user", "content": "three"}]])
    )
    assert [row["messages"][-1]["content"] for row in rows] == ["one", "two", "three"]


def test_embeddings_are_refused_before_anything_is_sent(wire: Wire) -> None:
    with pytest.raises(InvalidJob, match="no embeddings"):
        wire.file(["hello"], output=output_schema(Embedding(dimensions=8)).to_json())


def test_a_create_refused_for_one_row_names_the_row_and_not_its_text(wire: Wire) -> None:
    """The field path is the provider's own, the rest may quote a prompt."""
    fault(wire.emulator, "create", "status", status=400, message="requests.7.custom_id: String should match CANARY")
    outcome = wire.provider.create(wire.submission())
    assert outcome.message == "at requests.7.custom_id"  # type: ignore[union-attr]


# --- looking ----------------------------------------------------------------------------------------------------------


def test_counts_that_stay_zero_are_no_progress(wire: Wire) -> None:
    """Trap 14: everything but `processing` is zero until the whole batch has ended."""
    batch = wire.create(10)
    wire.emulator.advance(30)
    assert wire.look(batch).done is None
    wire.emulator.advance(60)
    assert wire.look(batch).done == 10


def test_the_size_of_a_batch_is_known_from_its_first_hour_to_its_last(wire: Wire) -> None:
    """It is all that tells an orphan before it has ended."""
    batch = wire.create(7)
    assert (batch.requests, wire.look(batch).requests) == (7, 7)
    wire.emulator.advance(60)
    assert wire.look(batch).requests == 7


@pytest.mark.parametrize("counts", [{"succeeded": None}, {"processing": 0, "succeeded": 0}, {"expired": 99}])
def test_counts_that_lie_lose_no_answer(wire: Wire, counts: dict[str, int | None]) -> None:
    """Trap 14: counts are claims, lines are facts."""
    fault(wire.emulator, "life", "counts", **counts)
    assert [reply.outcome for reply in wire.replies(wire.ended())] == [Outcome.ANSWERED] * 3


# --- results ----------------------------------------------------------------------------------------------------------


def test_a_results_url_on_another_host_is_not_followed(wire: Wire) -> None:
    """A gateway, or an attacker, may name any host; the key is for ours."""
    with Emulator(frozen=True) as other:
        fault(wire.emulator, "results", "results_url", url=f"{other.url}/v1/messages/batches/x/results")
        assert len(wire.replies(wire.ended())) == 3
        assert other.requests() == []


@pytest.mark.parametrize(
    "url",
    ["not a url", "file:///etc/passwd", "//other-host.invalid/x", "http://user:pw@other-host.invalid/", "http://[x/y", "http://host:port/x",
     "{ours}/\x01x"],
)  # fmt: skip
def test_a_results_url_that_is_none_is_not_followed(wire: Wire, url: str) -> None:
    """The documented path on our host is asked instead."""
    fault(wire.emulator, "results", "results_url", url=url.replace("{ours}", wire.emulator.url))
    assert len(wire.replies(wire.ended())) == 3


def test_expired_and_cancelled_ends_are_told_apart(wire: Wire) -> None:
    """Trap 15: both are `ended`; the counts and the time of the cancel say which."""
    fault(wire.emulator, "life", "expire", done=0.5)
    expiring, cancelled = wire.create(4), wire.create(4, nonce="b" * 10)
    wire.provider.cancel(cancelled.id)
    wire.emulator.advance(timedelta(hours=25))
    assert (wire.look(expiring).state, wire.look(cancelled).state) == (BatchState.EXPIRED, BatchState.CANCELLED)


TEXT, END = {"type": "text", "text": "x"}, "end_turn"
LINES: list[tuple[str, dict[str, Any], Outcome, bool]] = [
    ("nested error", {"type": "errored", "error": {"type": "error", "error": {"type": "overloaded_error", "message": "m"}}}, Outcome.ERRORED, True),
    ("flat error", {"type": "errored", "error": {"type": "invalid_request_error", "message": "m"}}, Outcome.ERRORED, False),
    ("no error", {"type": "errored"}, Outcome.ERRORED, False),
    ("expired", {"type": "expired"}, Outcome.EXPIRED, True),
    ("canceled", {"type": "canceled"}, Outcome.CANCELLED, True),
    ("unknown", {"type": "paused"}, Outcome.LOST, True),
    ("no message", {"type": "succeeded"}, Outcome.LOST, True),
    ("no content", {"type": "succeeded", "message": {"content": [], "stop_reason": "end_turn"}}, Outcome.INVALID, False),
    ("full context", {"type": "succeeded", "message": {"content": [TEXT], "stop_reason": "model_context_window_exceeded"}}, Outcome.INVALID, False),
    ("an error as an answer", {"type": "succeeded", "message": {"type": "error", "error": {"type": "overloaded_error"}}}, Outcome.ERRORED, True),
    ("tool use", {"type": "succeeded", "message": {"content": [TEXT], "stop_reason": "pause_turn"}}, Outcome.INVALID, False),
    ("error in words", {"type": "errored", "error": {"type": "error", "error": "overloaded"}}, Outcome.ERRORED, False),
    ("a gateway's error field beside an answer", {"type": "succeeded", "message": {"content": [TEXT], "error": "none"}}, Outcome.ANSWERED, False),
    ("a gateway's message field", {"type": "succeeded", "message": {"content": [TEXT], "message": {"a": 1}}}, Outcome.ANSWERED, False),
    ("thinking first", {"type": "succeeded", "message": {"content": [{"type": "thinking"}, TEXT], "stop_reason": END}}, Outcome.ANSWERED, False),
]  # fmt: skip


@pytest.mark.parametrize(("result", "outcome", "retryable"), [case[1:] for case in LINES], ids=[case[0] for case in LINES])
def test_a_line_says_what_became_of_its_row(wire: Wire, result: dict[str, Any], outcome: Outcome, retryable: bool) -> None:
    """Trap 21: the error is nested twice, or once by a gateway."""
    (reply,) = wire.read(json.dumps({"custom_id": "a-0", "result": result}).encode() + b"\n")
    assert (reply.outcome, reply.retryable) == (outcome, retryable)


def test_cached_tokens_are_added_to_the_input_they_were_left_out_of(wire: Wire) -> None:
    """Here `input_tokens` excludes what was cached; a price list's input includes it."""
    usage = {
        "input_tokens": 5,
        "cache_read_input_tokens": 100,
        "cache_creation_input_tokens": 40,
        "cache_creation": {"ephemeral_1h_input_tokens": 30},
        "output_tokens": 2,
    }
    message = {"content": [{"type": "text", "text": "x"}], "stop_reason": "end_turn", "usage": usage}
    (reply,) = wire.read(json.dumps({"custom_id": "a-0", "result": {"type": "succeeded", "message": message}}).encode())
    assert (reply.input_tokens, reply.cached_tokens, reply.cache_write_tokens, reply.cache_write_1h_tokens) == (145, 100, 40, 30)
