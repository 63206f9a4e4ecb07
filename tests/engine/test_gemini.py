"""Job runs at Gemini, against the emulator: what is bought on the bill when creates are lost, late or doubled, and when a batch gives nothing back."""

from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from keld import Embedding, Job, Keld, Status
from keld.emulator import Emulator
from keld.state import Event
from tests.support.realtime_rows import turning
from tests.support.ticket_job import billed_usd, creates, fault, finish, gemini, outcomes, purchases, run, tickets, triage

pytestmark = pytest.mark.by_turns


@pytest.fixture
def emulator(open_emulator: Callable[..., Emulator], monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """Batches take a minute; a wait of the fast lanes turns the clock."""
    emulator = open_emulator()
    monkeypatch.setattr("keld.realtime.run.Time", lambda: turning(emulator))
    return emulator


def events(keld: Keld, status: Status) -> list[str]:
    return [event.kind for event in keld.ledger.events(status.id)]


def test_every_row_is_answered_and_bought_once_at_the_batch_price(keld: Keld, emulator: Emulator) -> None:
    status = run(keld, emulator, triage(gemini))
    assert outcomes(keld, status) == ["answered"] * 6
    assert purchases(emulator) == Counter(range(6))
    assert (status.cost_usd, status.reserved_usd) == (billed_usd(emulator, status.created_at), 0)
    assert len(creates(emulator, gemini)) == 1
    removed = [call.path for call in emulator.requests() if call.method == "DELETE"]
    assert all("/v1beta/files/" in path for path in removed), "the input, and no batch"


@pytest.mark.share(2)
@pytest.mark.parametrize(
    ("do", "terms", "bought", "sent"),
    [
        ("drop_before", {}, {1: 6}, 2),  # never done: looked for, and then sent again
        ("drop_after", {}, {1: 6}, 1),  # done: found by its mark
        ("garbage", {"after": True}, {1: 6}, 1),
        ("status", {"status": 503, "after": True}, {1: 6}, 1),  # "UNAVAILABLE", and done all the same
        ("late_landing", {"after_s": 120}, {1: 6}, 1),  # it shows before the last look
        ("late_landing", {"after_s": 7_200}, {2: 6}, 2),  # after it: nothing at Google stops it, so it is found, cancelled and counted
    ],
    ids=str,
)
def test_a_create_without_a_reply_is_looked_for_by_its_mark(
    keld: Keld, emulator: Emulator, do: str, terms: dict[str, Any], bought: dict[int, int], sent: int
) -> None:
    fault(emulator, "create", do, **terms)
    status = run(keld, emulator, triage(gemini))
    for _ in range(24):  # what lands late is found by the sweep
        emulator.advance(1_800)
        status = keld.advance(status.id)
    assert outcomes(keld, status) == ["answered"] * 6
    assert Counter(purchases(emulator).values()) == bought
    assert len(creates(emulator, gemini)) == sent


def test_of_a_create_that_was_done_twice_the_one_beside_is_cancelled_and_its_worst_case_kept(keld: Keld, emulator: Emulator) -> None:
    """It gives nothing back, so nobody knows what it cost."""
    fault(emulator, "create", "twice")
    status = keld.submit(triage(gemini), tickets())
    keld.advance(status.id)
    emulator.advance(30)
    keld.poll()
    status = finish(keld, emulator, status.id)
    for _ in range(12):
        emulator.advance(1_800)
        status = keld.advance(status.id)
    assert outcomes(keld, status) == ["answered"] * 6
    assert Counter(purchases(emulator).values()) == {2: 3, 1: 3}
    assert status.cost_usd < billed_usd(emulator, status.created_at) <= status.cost_usd + status.reserved_usd


@pytest.mark.parametrize("done", [0.0, 0.5])
def test_a_batch_that_expired_is_asked_again_and_what_it_may_have_cost_stays_reserved(keld: Keld, emulator: Emulator, done: float) -> None:
    fault(emulator, "life", "expire", done=done, after_s=900)
    status = run(keld, emulator, triage(gemini))
    assert outcomes(keld, status) == ["answered"] * 6
    lost = int(6 * done)
    assert Counter(purchases(emulator).values()) == ({2: lost, 1: 6 - lost} if lost else {1: 6})
    billed = billed_usd(emulator, status.created_at)
    assert (status.cost_usd == billed) is (lost == 0)
    assert billed <= status.cost_usd + status.reserved_usd


def test_a_full_queue_is_waited_for_with_the_same_file(keld: Keld, emulator: Emulator) -> None:
    fault(emulator, "create", "status", status=429, times=2, retry_after=90)
    status = run(keld, emulator, triage(gemini))
    assert outcomes(keld, status) == ["answered"] * 6
    uploads = [call for call in emulator.requests() if "/upload/" in call.path]
    assert (len(uploads), len(creates(emulator, gemini))) == (2, 3)


def test_an_upload_that_is_gone_before_its_create_is_uploaded_again(keld: Keld, emulator: Emulator) -> None:
    """The Files API removes it after two days, and says the same as of a file that is somebody else's."""
    fault(emulator, "create", "status", status=429, retry_after=49 * 3_600)
    status = run(keld, emulator, triage(gemini))
    assert outcomes(keld, status) == ["answered"] * 6
    assert purchases(emulator) == Counter(range(6))


def test_a_wrong_key_stops_the_account_and_rejects_no_row(
    open_emulator: Callable[..., Emulator], open_keld: Callable[..., Keld], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its status is that of a bad request, which would be a refusal of every row for good."""
    emulator = open_emulator(api_keys=["right"])
    keld = open_keld(clock=emulator.now)
    monkeypatch.setenv("GEMINI_API_KEY", "AIzaSyWRONG")
    status = keld.submit(triage(gemini), tickets())
    status = keld.advance(status.id)
    assert "API_KEY_INVALID" in str(status.problem)
    assert "AIzaSyWRONG" not in str(status.problem)
    monkeypatch.setenv("GEMINI_API_KEY", "right")
    again = open_keld(clock=emulator.now)
    assert outcomes(again, finish(again, emulator, status.id)) == ["answered"] * 6
    assert Event.REJECTED not in events(again, status)


@pytest.mark.parametrize("lane", ["standard", "flex"])
def test_rows_are_answered_at_once(keld: Keld, emulator: Emulator, lane: str) -> None:
    fault(emulator, "realtime", "status", status=503, times=2)  # UNAVAILABLE is not billed, and is asked again
    status = run(keld, emulator, triage(gemini, lane=lane), tickets(12))
    assert outcomes(keld, status) == ["answered"] * 12
    assert {entry.lane for entry in emulator.bill()} == {lane}
    assert len(emulator.bill()) == 12
    assert creates(emulator, gemini) == []


def test_embeddings_are_made_in_a_batch_at_half_the_price(keld: Keld, emulator: Emulator) -> None:
    model = "gemini:gemini-embedding-001"
    job = Job(
        name="vectors",
        key="ticket_id",
        prompt="{body}",
        models=model,
        output_type=Embedding(dimensions=16),
        params={"taskType": "CLUSTERING"},
    )
    status = run(keld, emulator, job)
    vectors = keld.read(status.id).read_all().column("embedding").to_pylist()
    assert all(len(vector) == 16 for vector in vectors)
    tokens = sum(entry.input_tokens for entry in emulator.bill())
    assert status.cost_usd == tokens * Decimal("0.075") / 10**6 > 0
    assert any(call.path.endswith(":asyncBatchEmbedContent") for call in emulator.requests())


def test_a_table_is_cut_into_shards_of_two_thousand_rows(keld: Keld, emulator: Emulator) -> None:
    """An expiry then costs no more than that many rows."""
    status = run(keld, emulator, triage(gemini), tickets(4_100))
    assert sorted(batch.requests for batch in status.batches) == [100, 2_000, 2_000]
    assert status.answered == 4_100
