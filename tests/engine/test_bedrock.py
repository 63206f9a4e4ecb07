"""Bedrock: a job run at Amazon Bedrock, whole: batches over a bucket, a create that is lost, late or sent twice, fast lanes, a rescue at another vendor.

What was bought is read from the emulator's bill.
"""

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from msgspec import structs

from keld import Keld, Settings, Status
from keld.emulator import Emulator
from keld.request import Question
from keld.runner.collect import most_bytes
from tests.support.lane_purchases import HOUR, PATIENT, listen, paid, pass_time, sellers, tell
from tests.support.realtime_rows import turning
from tests.support.ticket_job import Peer, anthropic, bedrock, bedrock_claude, creates, finish, outcomes, purchases, run, tickets, triage

ROWS = 120  # a job has at least 100
ONCE = dict.fromkeys(range(ROWS), 1)
DIALECTS = pytest.mark.parametrize("peer", [bedrock, bedrock_claude], ids=["converse", "invoke_model"])


@pytest.fixture
def emulator(open_emulator: Callable[..., Emulator]) -> Emulator:
    """Jobs take an hour."""
    return open_emulator(latency_s=3_600)


@pytest.fixture
def keld(open_keld: Callable[..., Keld], emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Keld:
    monkeypatch.setattr("keld.realtime.run.Time", lambda: turning(emulator))
    settings = Settings(poll_least=timedelta(seconds=60), poll_most=timedelta(minutes=30))
    return open_keld(clock=emulator.now, settings=settings)


def fault(emulator: Emulator, at: str, do: str, **more: Any) -> None:
    emulator.faults({"rules": [{"at": at, "do": do, **more, "match": {"provider": "bedrock", **more.get("match", {})}}]})


def events(keld: Keld, status: Status) -> list[str]:
    return [event.kind for event in keld.ledger.events(status.id)]


@DIALECTS
def test_every_row_is_answered_and_paid_once(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    status = run(keld, emulator, triage(peer), tickets(ROWS))
    assert outcomes(keld, status) == ["answered"] * ROWS
    assert (purchases(emulator), len(creates(emulator, bedrock))) == (ONCE, 1)
    assert {entry.lane for entry in emulator.bill()} == {"batch"}


# --- a create: lost, late, doubled ------------------------------------------------------------------------------------


@pytest.mark.share(3)
@pytest.mark.parametrize("do", ["drop_before", "drop_after", "garbage"])
def test_a_lost_create_is_sent_again_with_its_token_and_makes_one_job(keld: Keld, emulator: Emulator, do: str) -> None:
    fault(emulator, "create", do)
    status = run(keld, emulator, triage(bedrock), tickets(ROWS))
    assert outcomes(keld, status) == ["answered"] * ROWS
    assert (purchases(emulator), len(creates(emulator, bedrock))) == (ONCE, 2)
    assert "looked" not in events(keld, status)


def test_a_create_that_stays_without_a_reply_is_found_by_its_name(keld: Keld, emulator: Emulator) -> None:
    """The first of three was done; the search by name and token shows which job it is."""
    fault(emulator, "create", "drop_after", times=3)
    status = run(keld, emulator, triage(bedrock), tickets(ROWS))
    assert (outcomes(keld, status), purchases(emulator)) == (["answered"] * ROWS, ONCE)
    assert "adopted" in events(keld, status)


@pytest.mark.share(2)
@pytest.mark.parametrize("after_s", [1, 60, 299, 3_000])
def test_a_create_that_lands_late_makes_no_second_job(keld: Keld, emulator: Emulator, after_s: int) -> None:
    """Its token is known by then; and after five minutes its signature has expired."""
    fault(emulator, "create", "late_landing", after_s=after_s)
    status = run(keld, emulator, triage(bedrock), tickets(ROWS))
    emulator.advance(7_200)
    assert (outcomes(keld, status), purchases(emulator)) == (["answered"] * ROWS, ONCE)


def test_a_create_that_lands_after_the_last_look_finds_no_input(keld: Keld, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an API key, which no time limits.  The token is forgotten by then, but the input is removed: the late job fails, and is not paid."""
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", emulator.api_key)
    fault(emulator, "create", "late_landing", after_s=20_000, times=4)
    status = run(keld, emulator, triage(bedrock), tickets(ROWS))
    emulator.advance(30_000)
    assert (outcomes(keld, status), purchases(emulator)) == (["answered"] * ROWS, ONCE)
    assert {batch["status"] for batch in emulator.batches()} == {"Completed", "Failed"}


def test_a_gateway_that_sends_a_create_twice_makes_one_job(keld: Keld, emulator: Emulator) -> None:
    fault(emulator, "create", "twice")
    status = run(keld, emulator, triage(bedrock), tickets(ROWS))
    assert (outcomes(keld, status), purchases(emulator)) == (["answered"] * ROWS, ONCE)
    assert len(emulator.batches()) == 1


def test_a_full_queue_is_waited_for_though_its_status_is_400(keld: Keld, emulator: Emulator) -> None:
    """Taken for a refusal, it would reject every row of the shard."""
    fault(emulator, "create", "status", status=400, code="ServiceQuotaExceededException", times=2)
    status = run(keld, emulator, triage(bedrock), tickets(ROWS))
    assert (outcomes(keld, status), purchases(emulator), len(creates(emulator, bedrock))) == (["answered"] * ROWS, ONCE, 3)


def test_a_token_that_is_in_use_is_looked_for(keld: Keld, emulator: Emulator) -> None:
    """400 ConflictException after a create that was done: there is a job with our token."""
    fault(emulator, "create", "status", status=400, code="ConflictException", after=True)
    fault(emulator, "create", "status", status=400, code="ConflictException", times=2)
    status = run(keld, emulator, triage(bedrock), tickets(ROWS))
    assert (outcomes(keld, status), purchases(emulator)) == (["answered"] * ROWS, ONCE)


# --- how a job ends ---------------------------------------------------------------------------------------------------


def test_what_a_job_did_not_reach_in_its_time_is_asked_again_and_nothing_else(keld: Keld, emulator: Emulator) -> None:
    """`PartiallyCompleted`: by its counts the rows without a line are not paid, so nothing is reserved for them.  84 are too few for a job."""
    fault(emulator, "life", "expire", done=0.3, after_s=7_200)
    status = run(keld, emulator, triage(bedrock), tickets(ROWS))
    assert outcomes(keld, status) == ["answered"] * ROWS
    assert [(batch.lane, batch.ended, batch.requests) for batch in status.batches] == [
        ("batch", "expired", ROWS),
        ("flex", "completed", 84),
    ]
    assert (len(emulator.bill()), status.reserved_usd) == (ROWS, 0)


def test_a_job_that_never_began_costs_nothing_and_its_rows_are_asked_again(keld: Keld, emulator: Emulator) -> None:
    """`Expired`: the queue was too long."""
    fault(emulator, "life", "expire", done=0, after_s=7_200)
    status = run(keld, emulator, triage(bedrock), tickets(ROWS))
    assert (outcomes(keld, status), purchases(emulator)) == (["answered"] * ROWS, ONCE)
    assert ([batch.ended for batch in status.batches], status.reserved_usd) == (["expired", "completed"], 0)


@pytest.mark.wide
def test_a_job_that_may_not_read_its_bucket_is_sent_again_when_a_person_has_acted(keld: Keld, emulator: Emulator) -> None:
    """It fails minutes after its create was answered.  The rows are not at fault, and nothing was paid."""
    fault(emulator, "life", "fail", message="The role arn:aws:iam::123456789012:role/x is not authorized to perform: s3:GetObject")
    status = keld.submit(triage(bedrock), tickets(ROWS))
    problems = set()
    for _ in range(3):
        problems.add(keld.advance(status.id).problem_kind)
        emulator.advance(30)
    assert "AccessRefused" in problems
    status = finish(keld, emulator, status.id)
    assert (outcomes(keld, status), purchases(emulator)) == (["answered"] * ROWS, ONCE)


def test_an_output_with_fewer_lines_than_its_manifest_is_read_again(keld: Keld, emulator: Emulator) -> None:
    """Rows are not lost, and not bought again, while the manifest says that they were answered."""
    fault(emulator, "results", "late_ids", for_s=1_800)
    status = run(keld, emulator, triage(bedrock), tickets(ROWS))
    assert (outcomes(keld, status), purchases(emulator)) == (["answered"] * ROWS, ONCE)


def test_rows_without_a_line_are_lost_and_asked_again(keld: Keld, emulator: Emulator) -> None:
    fault(emulator, "lines", "missing", count=2)
    status = run(keld, emulator, triage(bedrock), tickets(ROWS))
    assert outcomes(keld, status) == ["answered"] * ROWS
    assert len(emulator.bill()) == ROWS + 2, "they were paid for, and there is no answer to show for it"


def test_a_job_that_is_cancelled_gives_what_it_had(keld: Keld, emulator: Emulator) -> None:
    status = keld.advance(keld.submit(triage(bedrock), tickets(ROWS)).id)
    emulator.advance(1_800)
    keld.cancel(status.id)
    status = finish(keld, emulator, status.id)
    assert 0 < outcomes(keld, status).count("answered") == len(emulator.bill()) < ROWS
    assert set(outcomes(keld, status)) == {"answered", "cancelled"}
    assert status.reserved_usd == 0, "what it did not reach is not paid"


def test_an_output_is_not_cut_off_though_it_has_its_input_in_it_again(keld: Keld, emulator: Emulator) -> None:
    """700 MB of long prompts with answers of one token: the limit against endless streams is above them."""
    status = keld.advance(keld.submit(triage(bedrock), tickets(ROWS)).id)
    shard = structs.replace(keld.ledger.shards(status.id)[0], requests=700, size_bytes=700_000_000)
    assert most_bytes(Question(system=None, output={}, max_output_tokens=1), shard) > 3 * 700_000_000
    finish(keld, emulator, status.id)


def test_an_input_and_an_output_lie_in_the_users_bucket(keld: Keld, emulator: Emulator) -> None:
    run(keld, emulator, triage(bedrock), tickets(ROWS))
    stored = emulator._live.store.objects.listed("s3", "keld-emulator", "bedrock/")
    folders = sorted({one.name.split("/")[1] for one in stored})
    assert folders in (["out"], ["in", "out"])
    assert {one.name.rpartition("/")[2] for one in stored if "/out/" in one.name} > {"manifest.json.out"}


# --- the fast lanes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("peer", "lane"), [(bedrock, "standard"), (bedrock, "flex"), (bedrock_claude, "standard")])
def test_a_fast_lane_asks_row_by_row(keld: Keld, emulator: Emulator, peer: Peer, lane: str) -> None:
    status = run(keld, emulator, triage(peer, lane=lane), tickets(6))
    assert outcomes(keld, status) == ["answered"] * 6
    assert [(entry.lane, entry.model) for entry in emulator.bill()] == [(lane, peer.model)] * 6
    assert creates(emulator, bedrock) == []


def test_fewer_rows_than_a_job_needs_go_to_a_fast_lane(keld: Keld, emulator: Emulator) -> None:
    status = run(keld, emulator, triage(bedrock), tickets(99))
    assert outcomes(keld, status) == ["answered"] * 99
    assert creates(emulator, bedrock) == []


@pytest.mark.parametrize(
    "how",
    [
        {"status": 429, "code": "ModelNotReadyException"},
        {"status": 429, "code": "ThrottlingException"},
        {"status": 424, "code": "ModelErrorException", "after": True},
        {"status": 408, "code": "ModelTimeoutException", "after": True},
    ],
    ids=lambda how: how["code"],
)
def test_a_model_that_is_not_ready_is_asked_later_and_one_that_failed_may_have_been_paid(
    keld: Keld, emulator: Emulator, how: dict[str, Any]
) -> None:
    """Nothing that may have been paid is asked again without being counted."""
    fault(emulator, "realtime", "status", **how)
    status = run(keld, emulator, triage(bedrock, lane="standard"), tickets(6))
    doubtful = "after" in how
    assert outcomes(keld, status).count("answered") == 6
    assert len(emulator.bill()) == 6 + doubtful
    assert (status.reserved_usd > 0) == doubtful, "the worst case of the one in doubt"


# --- at two vendors ---------------------------------------------------------------------------------------------------


@pytest.mark.wide
@pytest.mark.parametrize("done", [0.0, 0.25])
def test_a_job_that_stalls_at_bedrock_is_rescued_at_anthropic(
    open_keld: Callable[..., Keld], emulator: Emulator, monkeypatch: pytest.MonkeyPatch, done: float
) -> None:
    """The same model at two vendors is a backup for itself: only the rows that Bedrock was not paid for are asked at Anthropic, before the deadline."""
    listen(emulator)
    pass_time(emulator, monkeypatch)
    keld = open_keld(settings=PATIENT)
    fault(emulator, "life", "stuck", done=done)
    fault(emulator, "realtime", "status", status=503, retry_after=600, times=None)  # an incident has all of a provider
    cheap = {bedrock_claude.models: {"input": "0.4", "output": "2"}}  # so that the batch goes to Bedrock
    both = triage(bedrock_claude, models=[bedrock_claude.models, anthropic.models], deadline=4 * HOUR, prices=cheap)
    status = tell(keld, emulator, both, tickets(ROWS))
    left = ROWS - int(ROWS * done)
    assert sellers(emulator) == Counter({("bedrock", "batch"): ROWS - left, ("anthropic", "standard"): left}) - Counter()
    assert (paid(emulator), outcomes(keld, status)) == (ONCE, ["answered"] * ROWS)
    assert status.deadline_met


def test_a_job_that_stalls_at_anthropic_is_rescued_at_bedrock(
    open_keld: Callable[..., Keld], emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    listen(emulator)
    pass_time(emulator, monkeypatch)
    keld = open_keld(settings=PATIENT)
    emulator.faults({"rules": [{"at": "life", "do": "stuck", "done": 0.5, "match": {"provider": "anthropic"}}]})
    emulator.faults(
        {
            "rules": [
                {"at": "realtime", "do": "status", "status": 503, "retry_after": 600, "times": None, "match": {"provider": "anthropic"}}
            ]
        }
    )
    both = triage(anthropic, models=[anthropic.models, bedrock_claude.models], deadline=4 * HOUR)
    status = tell(keld, emulator, both, tickets(ROWS))
    assert {seller for seller, _ in sellers(emulator)} == {"anthropic", "bedrock"}
    assert sellers(emulator)["anthropic", "batch"] == 60
    assert (paid(emulator), outcomes(keld, status)) == (ONCE, ["answered"] * ROWS)
