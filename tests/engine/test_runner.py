"""The runner against a provider that fails in every known way: no row lost, no row paid twice.

The traps are those of docs/notes/providers.md.
"""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from keld import Column, Embedding, Job, Keld
from keld.emulator import Emulator
from keld.errors import CeilingTooLow
from keld.ledger import Shard
from keld.state import RunState, State
from tests.support.ticket_job import (
    SYSTEM,
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
    run,
    tickets,
    triage,
)

pytestmark = pytest.mark.by_turns

DAY = timedelta(days=1)


def states(keld: Keld, run_id: str) -> list[State]:
    return [batch.state for batch in keld.status(run_id).batches]


def events(keld: Keld, run_id: str) -> list[str]:
    return [event.kind for event in keld.ledger.events(run_id)]


def read(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> int:
    """How many records of shards are made of what the ledger has, while it acts."""
    made = Counter[str]()
    real = Shard.__init__

    def counted(self: Shard, **values: Any) -> None:
        made["shards"] += 1
        real(self, **values)

    with monkeypatch.context() as patch:
        patch.setattr(Shard, "__init__", counted)
        act()
    return made["shards"]


# --- the plain way ----------------------------------------------------------------------------------------------------


def test_every_row_is_answered_once_and_paid_once(keld: Keld, emulator: Emulator, peer: Peer, ledger_url: str) -> None:
    """The promise, where nothing goes wrong; on both databases."""
    status = run(keld, emulator, triage(peer), tickets(10))
    assert status.state is RunState.FINISHED
    assert outcomes(keld, status) == ["answered"] * 10
    check_promise(keld, emulator, status, tickets(10))


def test_a_step_of_a_shard_reads_no_more_shards_however_many_there_are(
    keld: Keld, emulator: Emulator, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job run of a thousand shards would else cost a thousand times a thousand reads."""
    a_shard = {}
    for count in (6, 24):
        run_id = keld.submit(triage(peer, max_shard_rows=1), tickets(count), partition=str(count)).id
        sent = read(monkeypatch, lambda run_id=run_id: keld.advance(run_id))
        emulator.advance(70)
        ended = read(monkeypatch, lambda run_id=run_id: keld.advance(run_id))
        assert keld.status(run_id).over
        a_shard[count] = sent / count, ended / count
    assert a_shard[24] <= a_shard[6]


def test_a_partition_is_cut_into_batches_of_the_wished_size(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """Trap 8: a batch has limits; the rows stay one partition."""
    status = run(keld, emulator, triage(peer, max_shard_rows=3), tickets(10))
    assert [batch.requests for batch in status.batches] == [3, 3, 3, 1]
    check_promise(keld, emulator, status, tickets(10))


def test_a_partition_is_cut_by_bytes_too(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """Trap 8: 200 MB and 256 MB are megabytes of the file that is sent."""
    status = run(keld, emulator, triage(peer, max_shard_bytes=2_000), tickets(6))
    assert len(status.batches) > 1
    check_promise(keld, emulator, status, tickets(6))


def test_a_row_too_large_for_any_batch_is_not_sent_and_stops_no_other(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """Trap 7: one line that the provider refuses would fail the whole file."""
    table = pa.table({"ticket_id": ["a", "b", "c"], "body": ["short", "x" * 5_000, "short, too"]})
    status = run(keld, emulator, triage(peer, max_shard_bytes=3_000), table)
    assert outcomes(keld, status) == ["answered", "unaskable", "answered"]
    check_promise(keld, emulator, status, table, paid={0: 1, 2: 1})


def test_a_row_without_a_prompt_is_not_sent_and_stops_no_other(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """A null is a fault of the row, not of the job."""
    table = pa.table({"ticket_id": ["a", "b"], "body": ["short", None]})
    status = run(keld, emulator, triage(peer), table)
    assert outcomes(keld, status) == ["answered", "unaskable"]
    check_promise(keld, emulator, status, table, paid={0: 1})


def test_plain_text_answers_make_one_column(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    status = run(keld, emulator, triage(peer, output_type=str), tickets(3))
    check_promise(keld, emulator, status, tickets(3))
    added = keld.read(status.id).schema.names[2]
    assert all(keld.read(status.id).read_all().column(added).to_pylist())


def test_a_column_of_conversations_is_asked_as_it_stands(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """With a system message of the row's own, which Anthropic takes in another place."""
    said = [[{"role": "system", "content": f"s{n}"}, {"role": "user", "content": f"u{n}"}] for n in range(3)]
    table = pa.table({"ticket_id": ["a", "b", "c"], "chat": said})
    status = run(keld, emulator, triage(peer, prompt=Column("chat")), table)
    assert outcomes(keld, status) == ["answered"] * 3
    check_promise(keld, emulator, status, table)


def test_a_function_makes_the_prompts(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """None of it means: do not ask this row."""

    def prompt(batch: pa.RecordBatch) -> list[str | None]:
        return [None if body.endswith("1: the invoice is wrong") else f"Label: {body}" for body in batch.column("body").to_pylist()]

    status = run(keld, emulator, triage(peer, prompt=prompt), tickets(3))
    assert outcomes(keld, status) == ["answered", "unaskable", "answered"]
    check_promise(keld, emulator, status, tickets(3), paid={0: 1, 2: 1})


def test_the_responses_endpoint_answers_as_well(keld: Keld, emulator: Emulator) -> None:
    status = run(keld, emulator, triage(openai, endpoint="/v1/responses"), tickets(3))
    assert outcomes(keld, status) == ["answered"] * 3
    check_promise(keld, emulator, status, tickets(3))


def test_embeddings_come_back_as_vectors_of_their_size(keld: Keld, emulator: Emulator) -> None:
    job = Job(
        name="vectors", key="ticket_id", prompt="{body}", models="openai:text-embedding-3-small", output_type=Embedding(dimensions=16)
    )
    status = run(keld, emulator, job, tickets(3))
    check_promise(keld, emulator, status, tickets(3))
    vectors = keld.read(status.id).read_all().column(2)
    assert [len(vector) for vector in vectors.to_pylist()] == [16] * 3


# --- the create -------------------------------------------------------------------------------------------------------


@pytest.mark.share(3)
@pytest.mark.parametrize(
    "do", [{"do": "drop_after"}, {"do": "status", "status": 502, "after": True}, {"do": "garbage", "after": True}], ids=str
)
def test_a_create_whose_reply_was_lost_is_found_and_adopted(
    keld: Keld, emulator: Emulator, peer: Peer, ledger_url: str, do: dict[str, Any]
) -> None:
    """Traps 1, 2, 3: it was done, only we do not know; to send it again would be to pay twice."""
    emulator.faults({"rules": [{"at": "create", **do}]})
    status = run(keld, emulator, triage(peer))
    assert len(creates(emulator, peer)) == 1
    assert "adopted" in events(keld, status.id)
    check_promise(keld, emulator, status, tickets())


@pytest.mark.parametrize("days", [-3, 3])
def test_a_lost_create_is_found_however_far_the_two_clocks_are_apart(tmp_path: Path, emulator: Emulator, peer: Peer, days: int) -> None:
    """Looked for by time alone, it would seem absent, and be bought again."""
    fault(emulator, "create", "drop_after")
    with Keld(home=tmp_path / "apart", clock=lambda: emulator.now() + timedelta(days=days)) as keld:
        status = run(keld, emulator, triage(peer))
    assert (status.answered, len(creates(emulator, peer))) == (6, 1)


@pytest.mark.parametrize("do", [{"do": "drop_before"}, {"do": "status", "status": 500}, {"do": "status", "status": 408}], ids=str)
def test_a_create_that_never_landed_is_sent_again_after_the_last_look(
    keld: Keld, emulator: Emulator, peer: Peer, do: dict[str, Any]
) -> None:
    """Trap 3: not at once, and not after one empty list."""
    emulator.faults({"rules": [{"at": "create", **do}]})
    status = run(keld, emulator, triage(peer))
    assert len(creates(emulator, peer)) == 2
    first, second = (call.at for call in creates(emulator, peer))
    assert second - first >= timedelta(minutes=5)
    assert len([event for event in events(keld, status.id) if event == "looked"]) >= 2
    check_promise(keld, emulator, status, tickets())


def test_a_create_that_shows_in_the_list_only_later_is_adopted(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """Trap 3: an empty list may only be late."""
    fault(emulator, "create", "drop_after")
    fault(emulator, "create", "list_lag", for_s=70)
    status = run(keld, emulator, triage(peer))
    assert len(creates(emulator, peer)) == 1
    check_promise(keld, emulator, status, tickets())


def test_a_create_that_lands_between_the_looks_is_adopted(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """Trap 3: a proxy may still be delivering it."""
    fault(emulator, "create", "late_landing", after_s=200)
    status = run(keld, emulator, triage(peer))
    assert len(creates(emulator, peer)) == 1
    check_promise(keld, emulator, status, tickets())


def test_a_create_without_a_fence_is_waited_for_longer(keld: Keld, emulator: Emulator) -> None:
    """Anthropic's input goes with the create: nothing keeps it from landing, so there is one more look, much later."""
    fault(emulator, "create", "late_landing", after_s=1_000)
    status = run(keld, emulator, triage(anthropic))
    assert len(creates(emulator, anthropic)) == 1
    check_promise(keld, emulator, status, tickets())


@pytest.mark.parametrize("after_s", [800, 3_600])
def test_a_create_that_lands_after_the_looks_meets_the_fence(keld: Keld, emulator: Emulator, after_s: int) -> None:
    """Its input file is gone by then, so it cannot be bought a second time."""
    fault(emulator, "create", "late_landing", after_s=after_s)
    status = run(keld, emulator, triage(openai))
    emulator.advance(after_s)
    assert len(creates(emulator, openai)) == 2
    check_promise(keld, emulator, status, tickets())


@pytest.mark.books_open("others have batches at this provider")
def test_a_batch_of_the_same_size_that_is_not_ours_is_left_alone(keld: Keld, emulator: Emulator) -> None:
    """Anthropic's batches carry no mark; another team's, made a minute before, has as many rows."""
    import anthropic as sdk

    asked = {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": "theirs"}]}
    theirs = sdk.Anthropic().messages.batches.create(requests=[{"custom_id": f"theirs-{n}", "params": asked} for n in range(6)])  # type: ignore[arg-type,list-item]
    emulator.advance(60)
    fault(emulator, "create", "drop_after")
    status = run(keld, emulator, triage(anthropic))
    assert outcomes(keld, status) == ["answered"] * 6
    assert status.batches[0].batch_id != theirs.id


def test_several_lost_creates_of_the_same_size_each_find_their_own(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """Where nothing but the size tells them apart, they must not be taken for one another."""
    fault(emulator, "create", "drop_after", times=3)
    status = run(keld, emulator, triage(peer, max_shard_rows=2), tickets(6))
    assert outcomes(keld, status) == ["answered"] * 6
    assert len(creates(emulator, peer)) == 3
    check_promise(keld, emulator, status, tickets(6))


def test_a_create_that_never_landed_is_not_taken_for_one_that_did(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """Two of a size, both without a reply, one done: its rows must not be bought again for the other's sake."""
    fault(emulator, "create", "drop_before")
    fault(emulator, "create", "drop_after", skip=1)
    status = run(keld, emulator, triage(peer, max_shard_rows=3), tickets(6))
    assert outcomes(keld, status) == ["answered"] * 6
    assert len(creates(emulator, peer)) == 3
    check_promise(keld, emulator, status, tickets(6))


@pytest.mark.books_open("others have batches at this provider")
def test_a_batch_of_somebody_else_is_never_cancelled(keld: Keld, emulator: Emulator) -> None:
    """Our create never landed, and theirs has as many rows; the user cancels our job run."""
    import anthropic as sdk

    asked = {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": "theirs"}]}
    theirs = sdk.Anthropic().messages.batches.create(requests=[{"custom_id": f"theirs-{n}", "params": asked} for n in range(6)])  # type: ignore[arg-type,list-item]
    fault(emulator, "create", "drop_before")
    status = keld.submit(triage(anthropic), tickets())
    keld.advance(status.id)
    keld.cancel(status.id)
    status = finish(keld, emulator, status.id)
    assert outcomes(keld, status) == ["unasked"] * 6
    assert sdk.Anthropic().messages.batches.retrieve(theirs.id).request_counts.succeeded == 6


def test_a_batch_that_get_does_not_know_yet_is_waited_for(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """Trap 18: a 404 right after the create is lag, not loss."""
    fault(emulator, "create", "hidden", for_s=25)
    status = run(keld, emulator, triage(peer))
    assert len(creates(emulator, peer)) == 1
    check_promise(keld, emulator, status, tickets())


def test_a_batch_that_is_never_known_again_is_told_and_not_sent_again(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """Trap 18: a wrong project shows the same 404; the rows may well be paid."""
    fault(emulator, "create", "hidden", for_s=10**9)
    status = keld.submit(triage(peer), tickets())
    for _ in range(5):
        status = keld.advance(status.id)
        emulator.advance(600)
    assert "not sent again" in (status.problem or "")
    for _ in range(10):
        status = keld.advance(status.id)
        emulator.advance(DAY)
    assert outcomes(keld, status) == ["quarantined"] * 6
    assert len(creates(emulator, peer)) == 1


def test_a_refused_file_is_rejected_and_costs_nothing(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """It would be refused again; the rows say why."""
    fault(emulator, "create", "status", status=400, code="bad_thing", message="no")
    status = run(keld, emulator, triage(peer))
    assert outcomes(keld, status) == ["rejected"] * 6
    check_promise(keld, emulator, status, tickets(), paid={})


def test_one_rejected_batch_stops_no_other(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """Trap 7: a whole file fails on one bad line, but only that file."""
    fault(emulator, "create", "status", status=400, skip=1)
    status = run(keld, emulator, triage(peer, max_shard_rows=2), tickets(6))
    assert outcomes(keld, status) == ["answered"] * 2 + ["rejected"] * 2 + ["answered"] * 2
    check_promise(keld, emulator, status, tickets(6), paid={0: 1, 1: 1, 4: 1, 5: 1})


def test_a_rate_limited_create_waits_as_long_as_it_was_told(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """Trap 6: nothing was created, so it needs no look; to come back at once would be refused again."""
    fault(emulator, "create", "status", status=429, retry_after=90)
    status = run(keld, emulator, triage(peer))
    first, second = (call.at for call in creates(emulator, peer))
    assert second - first >= timedelta(seconds=90)
    check_promise(keld, emulator, status, tickets())


# --- validation -------------------------------------------------------------------------------------------------------


def test_validation_that_fails_minutes_later_rejects_the_rows_with_its_code(
    open_emulator: Callable[..., Emulator], open_keld: Callable[..., Keld]
) -> None:
    """Traps 5 and 7: the create was answered with 200, and nothing of the file will ever be answered."""
    emulator = open_emulator(latency_s=60, validate_s=300)
    keld = open_keld(clock=emulator.now)
    fault(emulator, "life", "fail", code="invalid_json_line", message="Line 1 is broken.")
    status = run(keld, emulator, triage(openai))
    assert outcomes(keld, status) == ["rejected"] * 6
    errors = keld.read(status.id).read_all().column("keld_error").to_pylist()
    assert all("invalid_json_line" in error for error in errors)
    check_promise(keld, emulator, status, tickets(), paid={})


def test_a_full_queue_defers_and_sends_the_same_file_again(keld: Keld, emulator: Emulator) -> None:
    """Trap 6: back-pressure is normal; the upload lives, so it is not repeated."""
    fault(emulator, "life", "token_limit", times=2)
    status = run(keld, emulator, triage(openai))
    assert outcomes(keld, status) == ["answered"] * 6
    assert len(creates(emulator, openai)) == 3
    assert len([call for call in emulator.requests() if call.method == "POST" and call.path == "/v1/files"]) == 1
    times = [call.at for call in creates(emulator, openai)]
    assert times[1] - times[0] >= timedelta(seconds=60)
    assert times[2] - times[1] >= timedelta(seconds=120)
    check_promise(keld, emulator, status, tickets())


def test_shards_beyond_the_queue_wait_for_those_before_them(open_emulator: Callable[..., Emulator], open_keld: Callable[..., Keld]) -> None:
    """Trap 6: as tokens come free, what was deferred goes in; nothing is given up."""
    emulator = open_emulator(latency_s=60, enqueued_token_limit=600)
    keld = open_keld(clock=emulator.now)
    status = run(keld, emulator, triage(openai, max_shard_rows=2), tickets(8))
    assert "deferred" in events(keld, status.id)
    check_promise(keld, emulator, status, tickets(8))


# --- looking ----------------------------------------------------------------------------------------------------------


def test_a_status_never_seen_before_is_waited_out(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """Trap 15: neither a crash nor an end."""
    fault(emulator, "life", "status", value="paused_for_review")
    status = keld.submit(triage(peer), tickets())
    for _ in range(3):
        keld.advance(status.id)
        emulator.advance(5)
    assert states(keld, status.id) == [State.IN_PROGRESS]
    check_promise(keld, emulator, finish(keld, emulator, status.id), tickets())


def test_past_its_time_a_batch_is_asked_not_given_up(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """Trap 17: late results do arrive, and they are paid; our clock ends nothing."""
    fault(emulator, "life", "stuck")
    status = keld.submit(triage(peer), tickets())
    keld.advance(status.id)
    emulator.advance(1.5 * DAY)
    keld.advance(status.id)
    assert states(keld, status.id) == [State.IN_PROGRESS]
    assert len(creates(emulator, peer)) == 1


def test_a_batch_that_is_stuck_for_ever_is_cancelled_and_only_what_it_left_is_asked_again(
    keld: Keld, emulator: Emulator, peer: Peer
) -> None:
    """A day past the provider's own window nothing else brings it to an end; what it answered is paid, and kept."""
    fault(emulator, "life", "stuck", done=0.5)
    status = keld.submit(triage(peer), tickets(10))
    while not (status := keld.advance(status.id)).over:
        emulator.advance(3_600 if status.batches[-1].round == 0 else 60)
    assert outcomes(keld, status) == ["answered"] * 10
    assert [batch.requests for batch in status.batches] == [10, 5]
    check_promise(keld, emulator, status, tickets(10))


def test_a_batch_that_heeds_no_cancel_is_quarantined_with_the_reason(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """Nobody knows what it answered, and bills: its rows are shown, not asked again."""
    fault(emulator, "life", "stuck", status="cancelling")
    status = keld.submit(triage(peer), tickets())
    keld.advance(status.id)
    keld.cancel(status.id)
    for _ in range(40):
        status = keld.advance(status.id)
        emulator.advance(3 * 3_600)
    assert outcomes(keld, status) == ["quarantined"] * 6
    assert "has not ended after its cancel" in keld.read(status.id).read_all().column("keld_error").to_pylist()[0]
    assert (len(creates(emulator, peer)), status.reserved_usd > 0) == (1, True)
    again = keld.submit(triage(peer), tickets())
    assert (again.id, again.over) == (status.id, True), "asked for again, it is not bought again"


@pytest.mark.parametrize(
    "counts",
    [{"total": 0, "completed": 0, "failed": 0}, {"total": None, "completed": None, "failed": None}, {"completed": 999, "failed": -1}],
    ids=str,
)
def test_counts_that_lie_change_no_outcome(keld: Keld, emulator: Emulator, counts: dict[str, int | None]) -> None:
    """Trap 14: counts are claims, lines are facts."""
    fault(emulator, "life", "counts", **counts)
    status = run(keld, emulator, triage(openai))
    assert outcomes(keld, status) == ["answered"] * 6
    check_promise(keld, emulator, status, tickets())


@pytest.mark.parametrize("counts", [{"processing": None}, {"succeeded": 999}, {"succeeded": 0, "expired": 6}], ids=str)
def test_counts_that_lie_at_anthropic_change_no_outcome(keld: Keld, emulator: Emulator, counts: dict[str, int | None]) -> None:
    """Trap 14: the same, in its words."""
    fault(emulator, "life", "counts", **counts)
    status = run(keld, emulator, triage(anthropic))
    assert outcomes(keld, status) == ["answered"] * 6
    check_promise(keld, emulator, status, tickets())


def test_many_open_batches_are_looked_at_by_list_pages(keld: Keld, emulator: Emulator, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap 13: not one GET a batch and minute; and not only the first page of the list."""
    provider = keld.provider(peer.name)
    monkeypatch.setattr(provider, "traits", replace(provider.traits, list_page=5))
    look_at_many(keld, emulator, peer, rows=12, pages=3)


@pytest.mark.slow
def test_more_open_batches_than_a_whole_page_are_looked_at(keld: Keld, emulator: Emulator) -> None:
    """Trap 13: as above, with the page that OpenAI really has."""
    look_at_many(keld, emulator, openai, rows=105, pages=2)


def look_at_many(keld: Keld, emulator: Emulator, peer: Peer, *, rows: int, pages: int) -> None:
    status = keld.submit(triage(peer, max_shard_rows=1), tickets(rows))
    keld.advance(status.id)
    emulator.advance(10)
    before = len(emulator.requests())
    keld.advance(status.id)
    assert len(emulator.requests()) - before <= pages
    status = finish(keld, emulator, status.id)
    check_promise(keld, emulator, status, tickets(rows))


def test_a_poll_uploads_and_pays_nothing(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """Sensors and triggers call it, and must stay light."""
    status = keld.submit(triage(peer), tickets())
    keld.poll()
    assert emulator.requests() == []
    keld.advance(status.id)
    emulator.advance(60)
    before = len(emulator.requests())
    (polled,) = keld.poll()
    assert states(keld, status.id) == [State.ENDED]
    assert polled.ready
    assert {call.method for call in emulator.requests()[before:]} == {"GET"}
    assert not [call for call in emulator.requests() if call.path.endswith(("/content", "/results"))]
    check_promise(keld, emulator, finish(keld, emulator, status.id), tickets())


# --- results ----------------------------------------------------------------------------------------------------------


def test_an_expired_batch_keeps_what_was_paid_and_asks_only_the_rest(keld: Keld, emulator: Emulator, peer: Peer, ledger_url: str) -> None:
    """Trap 22: a provider bills what it answered; asking that again would pay twice."""
    fault(emulator, "life", "expire", done=0.5, after_s=600)
    status = run(keld, emulator, triage(peer), tickets(10))
    assert [batch.requests for batch in status.batches] == [10, 5]
    assert outcomes(keld, status) == ["answered"] * 10
    check_promise(keld, emulator, status, tickets(10))


def test_a_batch_cancelled_by_somebody_else_keeps_what_was_paid(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """Trap 22: in the provider's console, by a person; the rest is asked again."""
    status = keld.submit(triage(peer), tickets(10))
    keld.advance(status.id)
    emulator.advance(30)
    keld.provider(peer.name).cancel(keld.status(status.id).batches[0].batch_id or "")
    status = finish(keld, emulator, status.id)
    assert outcomes(keld, status) == ["answered"] * 10
    assert len(status.batches) == 2
    check_promise(keld, emulator, status, tickets(10))


def test_rows_that_no_round_answers_end_with_their_reason(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """`max_attempts` is the end of patience; then the row says why."""
    fault(emulator, "rows", "error", status=500, times=None)
    status = run(keld, emulator, triage(peer, max_attempts=2))
    assert outcomes(keld, status) == ["errored"] * 6
    assert len(creates(emulator, peer)) == 2
    check_promise(keld, emulator, status, tickets(), paid={})


@pytest.mark.parametrize("status_code", [429, 500, 503])
def test_a_row_that_the_provider_failed_is_asked_again_by_itself(keld: Keld, emulator: Emulator, peer: Peer, status_code: int) -> None:
    """Trap 24: it was not paid, and may well succeed."""
    fault(emulator, "rows", "error", status=status_code, count=2)
    status = run(keld, emulator, triage(peer))
    assert [batch.requests for batch in status.batches] == [6, 2]
    check_promise(keld, emulator, status, tickets())


@pytest.mark.parametrize("status_code", [400, 404, 413])
def test_a_row_that_is_at_fault_itself_is_not_asked_again(keld: Keld, emulator: Emulator, peer: Peer, status_code: int) -> None:
    """Trap 24: it would be refused again."""
    fault(emulator, "rows", "error", status=status_code, count=2)
    status = run(keld, emulator, triage(peer))
    assert Counter(outcomes(keld, status)) == {"answered": 4, "errored": 2}
    assert len(creates(emulator, peer)) == 1


def test_a_model_that_no_row_finds_is_not_asked_for_again(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """Trap 24: a fault of the configuration, in every line; not 50,000 retries."""
    fault(emulator, "rows", "model_not_found", times=None)
    status = run(keld, emulator, triage(peer))
    assert outcomes(keld, status) == ["errored"] * 6
    assert len(creates(emulator, peer)) == 1
    check_promise(keld, emulator, status, tickets(), paid={})


def test_completed_with_every_row_failed_loses_no_row(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """Traps 15 and 20: `completed` is no success, and names no output file."""
    fault(emulator, "rows", "error", status=400)
    status = run(keld, emulator, triage(peer))
    assert outcomes(keld, status) == ["errored"] * 6
    check_promise(keld, emulator, status, tickets(), paid={})


@pytest.mark.parametrize(("do", "outcome"), [("refusal", "refused"), ("length", "invalid"), ("invalid", "invalid")])
def test_a_paid_answer_that_is_none_is_an_outcome(keld: Keld, emulator: Emulator, peer: Peer, do: str, outcome: str) -> None:
    """Trap 28: HTTP 200 is no success; it is paid and told."""
    fault(emulator, "rows", do, count=2)
    status = run(keld, emulator, triage(peer, max_attempts=1))
    assert Counter(outcomes(keld, status)) == {"answered": 4, outcome: 2}
    enriched = keld.read(status.id).read_all()
    assert enriched.column("category").null_count == 2
    check_promise(keld, emulator, status, tickets())


@pytest.mark.parametrize("how", ["no_error_id", "empty_error_id", "zero_byte_error"])
def test_an_error_file_that_is_none_loses_no_answer(keld: Keld, emulator: Emulator, how: str) -> None:
    """Trap 20: null, the empty string and zero bytes all mean: no errors."""
    fault(emulator, "results", how)
    status = run(keld, emulator, triage(openai))
    assert outcomes(keld, status) == ["answered"] * 6
    check_promise(keld, emulator, status, tickets())


def test_a_results_url_on_another_host_is_not_followed(keld: Keld, emulator: Emulator) -> None:
    """The key is for the configured host."""
    with Emulator(frozen=True) as other:
        fault(emulator, "results", "results_url", url=f"{other.url}/v1/messages/batches/x/results")
        status = run(keld, emulator, triage(anthropic))
        assert other.requests() == []
    check_promise(keld, emulator, status, tickets())


HARMLESS = [
    {"do": "blank"},
    {"do": "foreign"},
    {"do": "nan"},
    {"do": "duplicate_key"},
    {"do": "surrogate"},
    {"do": "surrogate", "inside": "answer"},
    {"do": "u2028"},
    {"do": "huge", "size_mb": 3},
    {"do": "bom"},
    {"do": "crlf"},
    {"do": "duplicate"},
    {"do": "reorder"},
]


@pytest.mark.share(2)
@pytest.mark.parametrize("line", HARMLESS, ids=lambda line: "-".join(map(str, line.values())))
def test_odd_lines_cost_no_row_its_answer(keld: Keld, emulator: Emulator, peer: Peer, line: dict[str, Any]) -> None:
    """Traps 12, 19, 23: what a result file may hold besides answers; the rows are in it, whole."""
    fault(emulator, "lines", **line, count=3) if line["do"] not in ("bom", "crlf", "reorder") else fault(emulator, "lines", **line)
    status = run(keld, emulator, triage(peer, output_type=str))
    assert outcomes(keld, status) == ["answered"] * 6
    assert len(creates(emulator, peer)) == 1
    check_promise(keld, emulator, status, tickets())


def test_a_raw_line_separator_inside_an_answer_is_part_of_it(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """Trap 12: U+2028 ends no line of JSON; `splitlines` would cut the answer in two."""
    fault(emulator, "lines", "u2028", inside="answer")
    status = run(keld, emulator, triage(peer, output_type=str))
    assert outcomes(keld, status) == ["answered"] * 6
    answers = keld.read(status.id).read_all().column(2).to_pylist()
    assert all(answer.startswith("\u2028") for answer in answers)


@pytest.mark.parametrize("do", ["missing", "cut", "garbage", "deep"])
def test_a_row_whose_line_cannot_be_read_is_lost_and_stops_no_other(keld: Keld, emulator: Emulator, peer: Peer, do: str) -> None:
    """Trap 23: it was paid and its answer is gone; it is told, counted and asked once more, the others stand."""
    fault(emulator, "lines", do, count=2)
    status = run(keld, emulator, triage(peer, max_attempts=1))
    found = Counter(outcomes(keld, status))
    assert found["answered"] == 4 or (do == "deep" and found["answered"] == 6)
    assert found["lost"] == 6 - found["answered"]


def test_a_lost_row_is_asked_again_and_the_second_purchase_is_recorded(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """Trap 23: the one row that is paid twice by need; never hidden, and once only."""
    fault(emulator, "lines", "missing", count=2)
    status = run(keld, emulator, triage(peer))
    assert outcomes(keld, status) == ["answered"] * 6
    assert [batch.requests for batch in status.batches] == [6, 2]
    assert sorted(purchases(emulator).values()) == [1, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("clean", [False, True])
def test_a_truncated_download_loses_no_row(keld: Keld, emulator: Emulator, peer: Peer, clean: bool) -> None:
    """Traps 18 and 25: it goes on where it broke."""
    fault(emulator, "download", "truncate", bytes=900, clean=clean, times=2)
    status = run(keld, emulator, triage(peer))
    assert outcomes(keld, status) == ["answered"] * 6
    check_promise(keld, emulator, status, tickets())


def test_a_download_goes_on_in_another_process(open_keld: Callable[..., Keld], emulator: Emulator, peer: Peer) -> None:
    """Trap 25: what came before the process died is not asked for again."""
    fault(emulator, "download", "truncate", bytes=2_000, times=4)
    first = open_keld()
    status = first.submit(triage(peer), tickets(20))
    first.advance(status.id)
    emulator.advance(60)
    first.advance(status.id)
    first.close()
    second = open_keld()
    before = len(emulator.requests())
    status = finish(second, emulator, status.id)
    assert 206 in [call.status for call in emulator.requests()[before:]]
    check_promise(second, emulator, status, tickets(20))


def test_nothing_is_removed_at_the_provider_before_it_is_on_our_disk(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """Trap 26: a result that is deleted too early was paid for nothing."""
    status = run(keld, emulator, triage(peer))
    assert not [call for call in emulator.requests() if call.method == "DELETE"]
    assert status.state is RunState.FINISHED


def test_results_are_fetched_as_soon_as_they_are_there(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """Trap 27: they are kept for days only, at some for hours."""
    status = keld.submit(triage(peer), tickets())
    keld.advance(status.id)
    emulator.advance(60)
    assert keld.advance(status.id).over


# --- a provider that will not -----------------------------------------------------------------------------------------


def test_a_refused_key_sends_nothing_and_the_run_goes_on_when_it_is_mended(
    keld: Keld, open_keld: Callable[..., Keld], emulator: Emulator, peer: Peer
) -> None:
    """A person can mend it; the job run waits, and is the same one afterwards."""
    emulator.faults({"rules": [{"at": "any", "do": "status", "status": 401, "times": None}]})
    status = keld.advance(keld.submit(triage(peer), tickets()).id)
    assert status.problem_kind == "AccessRefused"
    assert not status.over
    emulator.clear_faults()
    emulator.advance(60)
    again = open_keld()
    done = finish(again, emulator, again.submit(triage(peer), tickets()).id)
    assert done.id == status.id
    assert done.problem is None
    check_promise(again, emulator, done, tickets())


def test_a_key_refused_while_the_batch_is_under_way_loses_nothing(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """Keys are rotated; what is at the provider stays there and is not sent again."""
    status = keld.submit(triage(peer), tickets())
    keld.advance(status.id)
    emulator.faults({"rules": [{"at": "any", "do": "status", "status": 401, "times": None}]})
    emulator.advance(60)
    assert keld.advance(status.id).problem_kind == "AccessRefused"
    emulator.clear_faults()
    done = finish(keld, emulator, status.id)
    assert len(creates(emulator, peer)) == 1
    check_promise(keld, emulator, done, tickets())


@pytest.mark.parametrize("at", ["upload", "create", "get", "download"])
def test_a_provider_that_is_down_is_tried_again_later(keld: Keld, emulator: Emulator, peer: Peer, at: str) -> None:
    """Nothing is lost by waiting, at whichever call it went down."""
    if (at, peer.name) == ("upload", "anthropic"):
        pytest.skip("Anthropic has no uploads: the input goes with the create")
    fault(emulator, at, "status", status=503, times=1 if at == "create" else 3, retry_after=0.001)
    status = run(keld, emulator, triage(peer))
    assert outcomes(keld, status) == ["answered"] * 6
    check_promise(keld, emulator, status, tickets())


def test_a_base_url_that_changed_in_flight_is_refused_not_sent_again(
    keld: Keld, open_keld: Callable[..., Keld], emulator: Emulator, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new host does not know the batch, which says nothing of whether the old one bills it."""
    status = keld.submit(triage(peer), tickets())
    keld.advance(status.id)
    emulator.advance(60)
    with Emulator(frozen=True) as other:
        for name, value in other.env().items():
            monkeypatch.setenv(name, value)
        moved = open_keld()
        told = moved.advance(status.id)
        assert told.problem_kind == "ProviderRefused"
        assert "Restore the base URL" in (told.problem or "")
        assert other.requests() == []
    for name, value in emulator.env().items():
        monkeypatch.setenv(name, value)
    emulator.advance(60)
    back = open_keld()
    done = finish(back, emulator, status.id)
    assert len(creates(emulator, peer)) == 1
    check_promise(back, emulator, done, tickets())


def test_one_provider_that_is_down_stops_no_other(keld: Keld, emulator: Emulator) -> None:
    """Two job runs polled together."""
    ours = keld.submit(triage(openai, name="ours"), tickets())
    theirs = keld.submit(triage(anthropic, name="theirs"), tickets())
    for status in (ours, theirs):
        keld.advance(status.id)
    emulator.advance(60)
    fault(emulator, "get", "status", status=503, times=None, match={"provider": "openai"}, retry_after=0.001)
    polled = {status.job: status for status in keld.poll()}
    assert polled["theirs"].ready
    assert polled["ours"].problem_kind == "ProviderUnreachable"


# --- money ------------------------------------------------------------------------------------------------------------


def test_a_ceiling_that_the_worst_case_exceeds_sends_nothing(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """Better said before than after."""
    with pytest.raises(CeilingTooLow, match="Nothing was sent"):
        keld.submit(triage(peer, ceiling_usd="0.000001"), tickets())
    assert emulator.requests() == []


def test_the_ceiling_holds_though_line_after_line_is_lost(keld: Keld, emulator: Emulator, peer: Peer, ledger_url: str) -> None:
    """What is in no file may be on the bill: before it is asked again, its worst case must still fit."""
    terms: dict[str, Any] = {"output_type": str, "max_output_tokens": 16, "max_attempts": 6}
    plan = keld.plan(triage(peer, **terms), tickets())
    ceiling = plan.chosen.worst_usd if plan.chosen else None
    assert ceiling is not None
    fault(emulator, "lines", "missing", fraction=0.5, times=None)
    status = run(keld, emulator, triage(peer, ceiling_usd=ceiling, **terms), most=200)
    assert 0 < billed_usd(emulator, status.created_at) <= ceiling
    assert {"answered"} < set(outcomes(keld, status)) <= {"answered", "lost", "over_ceiling", "quarantined"}


def test_the_ceiling_holds_through_every_round(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """What was spent on answers of no use leaves less for the rows that are asked again; those that do not fit are told."""
    fault(emulator, "rows", "error", status=500, match={"custom_id": "5"}, times=None)
    plan = keld.plan(triage(peer), tickets())
    ceiling = plan.chosen.worst_usd if plan.chosen else None
    assert ceiling is not None
    status = keld.submit(triage(peer, ceiling_usd=ceiling, max_attempts=9), tickets())
    for _ in range(200):
        status = keld.advance(status.id)
        assert status.cost_usd + status.reserved_usd <= ceiling
        assert billed_usd(emulator, status.created_at) <= ceiling
        if status.over:
            break
        emulator.advance(60)
    assert status.over
    check_promise(keld, emulator, status, tickets(), paid=dict.fromkeys(range(5), 1))


def test_the_ledgers_cost_is_the_bill_to_the_pico_dollar(keld: Keld, emulator: Emulator, peer: Peer, ledger_url: str) -> None:
    """With refused, cut, failed and retried rows in it."""
    fault(emulator, "rows", "refusal", fraction=0.2)
    fault(emulator, "rows", "length", fraction=0.3)
    fault(emulator, "rows", "error", status=500, fraction=0.5)
    status = run(keld, emulator, triage(peer, max_shard_rows=7), tickets(40))
    assert status.cost_usd == billed_usd(emulator, status.created_at) > 0
    assert status.cost_usd.as_tuple().exponent >= -12 or status.cost_usd == round(status.cost_usd, 12)
    assert sum(keld.read(status.id).read_all().column("keld_cost_usd").to_pylist()) == status.cost_usd


def test_cached_tokens_are_billed_at_their_own_rate(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """A long system prompt is cached by the provider; the bill is lower, and so is ours."""
    system = SYSTEM + " Think of the rules." * 2_000
    params = {} if peer.name == "openai" else {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    status = run(keld, emulator, triage(peer, system=system, params=params), tickets(8))
    assert status.cost_usd == billed_usd(emulator, status.created_at)
    check_promise(keld, emulator, status, tickets(8))


# --- cancel -----------------------------------------------------------------------------------------------------------


def test_a_cancelled_run_harvests_what_was_paid(keld: Keld, emulator: Emulator, peer: Peer, ledger_url: str) -> None:
    """Trap 22: cancelling stops the spending; what was spent is not thrown away."""
    status = keld.submit(triage(peer), tickets(10))
    keld.advance(status.id)
    emulator.advance(30)
    keld.cancel(status.id)
    status = finish(keld, emulator, status.id)
    assert status.state is RunState.CANCELLED
    paid = purchases(emulator)
    assert 0 < len(paid) < 10
    assert [outcome == "answered" for outcome in outcomes(keld, status)] == [n in paid for n in range(10)]
    check_promise(keld, emulator, status, tickets(10), paid=dict(paid))


def test_a_run_cancelled_before_it_was_sent_costs_nothing(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """Nothing left our house."""
    status = keld.submit(triage(peer), tickets())
    keld.cancel(status.id)
    status = finish(keld, emulator, status.id)
    assert outcomes(keld, status) == ["unasked"] * 6
    assert emulator.requests() == []


def test_a_cancel_while_the_create_is_unknown_first_finds_it(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """A batch that nobody cancels goes on and is paid in full."""
    fault(emulator, "create", "drop_after")
    status = keld.submit(triage(peer), tickets())
    keld.advance(status.id)
    assert states(keld, status.id) == [State.UNKNOWN]
    keld.cancel(status.id)
    status = finish(keld, emulator, status.id)
    assert status.state is RunState.CANCELLED or set(outcomes(keld, status)) == {"answered"}
    assert status.batches[0].batch_id is not None
    assert status.cost_usd == billed_usd(emulator, status.created_at)


def test_a_cancel_that_the_provider_did_not_hear_is_asked_again(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """A 503 to the cancel leaves the batch running, and paying."""
    status = keld.submit(triage(peer), tickets(10))
    keld.advance(status.id)
    emulator.advance(12)
    keld.cancel(status.id)
    fault(emulator, "cancel", "status", status=503, times=3, retry_after=0.001)
    status = finish(keld, emulator, status.id)
    assert status.state is RunState.CANCELLED
    assert status.cost_usd == billed_usd(emulator, status.created_at)


def test_the_environment_holds_no_key_of_a_real_provider() -> None:
    """These tests must never reach a provider that charges."""
    assert not os.environ.get("OPENAI_API_KEY", "").startswith("sk-proj")
