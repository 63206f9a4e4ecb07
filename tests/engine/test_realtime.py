"""The fast lanes: every row answered once, paid once, priced as billed; little is turned away, and a kill costs what was in flight."""

import asyncio
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from keld import failpoint as points
from keld.emulator import Emulator
from keld.errors import AccessRefused, InvalidJob, LeaseLost, ProviderRefused, ProviderUnreachable
from keld.failpoint import FailpointHit
from keld.outcome import Outcome
from keld.price import Lane
from keld.realtime import Options, Stopped, Time, run_realtime
from keld.realtime.journal_file import JournalFile
from keld.request import custom_id
from keld.schema import Embedding, output_schema
from tests.support.realtime_rows import NONCE, Rows, killed, once, turning
from tests.support.ticket_job import Peer, anthropic, billed_usd, fault, openai
from tests.support.worker_process import KILLED

CALM = Options(begin_with=4, most=4)


@pytest.fixture
def emulator(open_emulator: Callable[..., Emulator]) -> Emulator:
    return open_emulator()


@pytest.fixture
def rows(peer: Peer, emulator: Emulator, tmp_path: Path) -> Rows:
    """Six rows in the standard lane; once for each provider."""
    return Rows(peer=peer, folder=str(tmp_path))


@pytest.fixture(
    params=[(openai, Lane.STANDARD), (openai, Lane.FLEX), (anthropic, Lane.STANDARD)], ids=lambda p: f"{p[0].name}-{p[1].value}"
)
def fast(request: pytest.FixtureRequest, emulator: Emulator, tmp_path: Path) -> Rows:
    """Six rows; once for each fast lane there is."""
    return Rows(peer=request.param[0], lane=request.param[1], folder=str(tmp_path))


def outcomes(rows: Rows) -> list[str]:
    return [row["keld_outcome"] for row in rows.collect()[1]]


def statuses(emulator: Emulator) -> list[int | None]:
    return [call.status for call in emulator.requests()]


# --- every row once, at its price -------------------------------------------------------------------------------------


def test_every_row_is_answered_and_paid_once_at_the_price_of_its_lane(fast: Rows, emulator: Emulator) -> None:
    """The bill is the provider's; what Keld reckons from the journal must be the same to the pico-dollar."""
    done = fast.ask()
    assert (done.answered, done.refused, done.in_doubt, len(done.undone), done.stopped) == (6, 0, 0, 0, Stopped.DONE)
    assert fast.paid(emulator) == once(range(6))
    assert {entry.lane for entry in emulator.bill()} == {fast.lane.value}
    tally, answers = fast.collect()
    assert tally.answered == 6
    assert tally.cost_usd == billed_usd(emulator, emulator.now()) > 0
    assert {row["keld_lane"] for row in answers} == {fast.lane.value}
    assert tally.standard_usd == tally.cost_usd * (2 if fast.lane is Lane.FLEX else 1)


def test_flex_that_was_given_the_standard_tier_is_priced_as_standard(emulator: Emulator, tmp_path: Path) -> None:
    """The tier that counts is the one the reply names: what was asked for is not what is billed."""
    rows = Rows(peer=openai, lane=Lane.FLEX, folder=str(tmp_path), count=10)
    fault(emulator, "rows", "standard_tier", fraction=0.3, times=None)
    rows.ask()
    tally, answers = rows.collect()
    assert sorted(row["keld_lane"] for row in answers) == ["flex"] * 7 + ["standard"] * 3
    assert tally.cost_usd == billed_usd(emulator, emulator.now()) == sum(Decimal(row["keld_cost_pico"]) for row in answers) / 10**12
    assert rows.paid(emulator) == once(range(10))


def test_responses_and_embeddings_have_paths_of_their_own(emulator: Emulator, tmp_path: Path) -> None:
    rows = Rows(peer=openai, folder=str(tmp_path), question={"endpoint": "/v1/responses"}, lane=Lane.FLEX)
    assert rows.ask().answered == 6
    assert rows.collect()[0].cost_usd == billed_usd(emulator, emulator.now())
    embedding = {"output": output_schema(Embedding(dimensions=8)).to_json()}
    vectors = Rows(peer=replace(openai, model="text-embedding-3-small"), folder=str(tmp_path / "vectors"), question=embedding)
    assert vectors.ask().answered == 6
    assert [call.path for call in emulator.requests()] == ["/v1/responses"] * 6 + ["/v1/embeddings"]


def test_a_lane_that_is_not_sold_is_refused_before_anything_is_sent(emulator: Emulator, tmp_path: Path) -> None:
    with pytest.raises(InvalidJob, match="Nothing was sent"):
        Rows(peer=anthropic, lane=Lane.FLEX, folder=str(tmp_path)).ask()
    assert emulator.requests() == []


def test_a_second_stretch_over_a_full_journal_asks_nothing(rows: Rows, emulator: Emulator) -> None:
    rows.ask()
    again = rows.ask()
    assert (again.answered, again.stopped, again.at_once) == (6, Stopped.DONE, 0)
    assert len(emulator.requests()) == 6


def test_a_stretch_runs_where_a_loop_runs_already(rows: Rows) -> None:
    """As in a notebook."""

    async def cell() -> int:
        return rows.ask().answered

    assert asyncio.run(cell()) == 6


# --- rate limits ------------------------------------------------------------------------------------------------------


@pytest.mark.share(2)
@pytest.mark.parametrize("limit", [{"requests_per_minute": 60}, {"tokens_per_minute": 20_000}], ids=str)
def test_rate_limits_are_met_at_their_pace(
    open_emulator: Callable[..., Emulator], peer: Peer, tmp_path: Path, limit: dict[str, int]
) -> None:
    """The headers tell when the wall comes: 300 rows through 60 a minute take minutes, and hardly one is turned away."""
    emulator = open_emulator(**limit)
    rows = Rows(peer=peer, folder=str(tmp_path), count=300)
    began = emulator.now()
    done = rows.ask(clock=turning(emulator), options=Options(output_tokens=256))
    assert (done.answered, done.in_doubt) == (300, 0)
    assert rows.paid(emulator) == once(range(300))
    assert statuses(emulator).count(429) == done.rejected <= 10
    least = (
        300 / 60 - 1
        if "requests_per_minute" in limit
        else sum(len(rows.encoder.body(f, rows.lane)) / 4 + 256 for _, f in rows.fragments(range(300))) / 20_000 - 1
    )
    # On a busy machine the clock is turned in larger steps, and more of each minute's limit is left unused.
    assert least * 60 * 0.9 <= (emulator.now() - began).total_seconds() <= least * 60 * 4


def test_a_storm_without_headers_costs_time_only(rows: Rows, emulator: Emulator) -> None:
    """Every third call is turned away, and nothing says when to come back."""
    rows = replace(rows, count=60)
    for skip in range(0, 60, 3):
        fault(emulator, "realtime", "status", status=429, skip=skip)
    done = rows.ask(clock=turning(emulator))
    assert (done.answered, done.rejected) == (60, 20)
    assert rows.paid(emulator) == once(range(60))


def test_retry_after_is_waited_for(rows: Rows, emulator: Emulator) -> None:
    """Nothing is sent before the time the provider names."""
    fault(emulator, "realtime", "status", status=429, retry_after=120)
    done = rows.ask(clock=turning(emulator), options=Options(begin_with=1, most=1))
    first, second = [call.at for call in emulator.requests()][:2]
    assert (second - first).total_seconds() >= 120
    assert (done.answered, done.rejected) == (6, 1)


def test_a_wait_beyond_all_patience_ends_the_stretch_at_once(rows: Rows, emulator: Emulator) -> None:
    """Who is told to come back tomorrow does not hold a worker until then."""
    fault(emulator, "realtime", "status", status=429, retry_after=7_000, times=None)
    began = emulator.now()
    done = rows.ask(clock=turning(emulator), options=CALM)
    assert (done.stopped, done.answered, done.in_doubt, len(done.undone)) == (Stopped.NO_CAPACITY, 0, 0, 6)
    assert done.retry_after_s == pytest.approx(7_000, abs=60)
    assert emulator.now() == began
    assert emulator.bill() == []


@pytest.mark.parametrize(
    "how",
    [
        {"status": 429, "code": "resource_unavailable"},
        {"status": 529, "code": "overloaded_error"},
        {"status": 503, "retry_after": 5},
    ],
    ids=lambda how: str(how["status"]),
)
def test_what_was_not_done_is_tried_again_until_patience_ends(rows: Rows, emulator: Emulator, how: dict[str, Any]) -> None:
    """No capacity in flex, an overload: not paid, so it may be asked again; and left for the next time when that does not help."""
    if rows.peer is openai or how["status"] != 429:
        fault(emulator, "realtime", "status", times=None, **how)
        done = rows.ask(clock=turning(emulator), options=CALM)
        assert (done.stopped, len(done.undone), done.in_doubt) == (Stopped.NO_CAPACITY, 6, 0)
        emulator.clear_faults()
    assert rows.ask(clock=turning(emulator)).answered == 6
    assert rows.paid(emulator) == once(range(6))


def test_a_host_that_is_not_there_is_tried_again_and_nothing_is_in_doubt(rows: Rows, emulator: Emulator) -> None:
    """No byte went out."""
    gone = replace(rows, account={"base_url": "http://127.0.0.1:9/v1"})
    done = gone.ask(clock=turning(emulator), options=CALM)
    assert (done.stopped, done.in_doubt, len(done.undone)) == (Stopped.NO_CAPACITY, 0, 6)
    assert rows.ask().answered == 6


# --- in doubt ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("do", "how"),
    [("drop_after", {}), ("drop_before", {}), ("status", {"status": 500, "after": True}), ("garbage", {"after": True})],
    ids=str,
)
def test_a_lost_reply_is_in_doubt_and_not_asked_again(rows: Rows, emulator: Emulator, do: str, how: dict[str, Any]) -> None:
    """It may have been paid; only a later round, which has the money for it, may ask again."""
    fault(emulator, "realtime", do, times=2, **how)
    done = rows.ask(clock=turning(emulator), options=CALM)
    assert (done.answered, done.in_doubt, len(done.undone), done.stopped) == (4, 2, 0, Stopped.DONE)
    assert len(emulator.requests()) == 6
    assert max(rows.paid(emulator).values()) == 1
    tally, answers = rows.collect()
    lost = [row for row in answers if row["keld_outcome"] == "lost"]
    assert len(lost) == tally.retryable == 2
    assert all(row["keld_retryable"] and "may have been paid" in row["keld_error"] for row in lost)
    assert rows.ask().in_doubt == 2, "counted over the whole journal, and not asked again by a second stretch"
    assert len(emulator.requests()) == 6


def test_a_request_that_times_out_is_in_doubt(rows: Rows, emulator: Emulator) -> None:
    fault(emulator, "realtime", "delay", delay_s=0.5)
    done = rows.ask(options=Options(timeout_s=0.2), clock=turning(emulator))
    assert done.in_doubt >= 1  # the delayed one; on a busy machine others may take as long
    assert done.answered == 6 - done.in_doubt


def test_a_provider_that_loses_every_reply_is_left_alone(rows: Rows, emulator: Emulator) -> None:
    """Else a whole partition would be in doubt."""
    rows = replace(rows, count=200)
    fault(emulator, "realtime", "status", status=502, times=None)
    done = rows.ask(clock=turning(emulator))
    assert done.stopped is Stopped.SAME_FAULT
    assert isinstance(done.problem, ProviderUnreachable)
    assert 20 <= done.in_doubt <= 40
    assert len(done.undone) == 200 - done.in_doubt


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_row_is_told_and_the_others_are_answered(rows: Rows, emulator: Emulator, status: int) -> None:
    fault(emulator, "realtime", "status", status=status)
    done = rows.ask()
    assert (done.answered, done.refused, done.stopped) == (5, 1, Stopped.DONE)
    assert sorted(outcomes(rows)) == ["answered"] * 5 + ["errored"]
    assert rows.collect()[0].retryable == 0


def test_a_model_that_is_not_there_is_not_asked_for_by_every_row(rows: Rows, emulator: Emulator) -> None:
    """50,000 rows would meet the same."""
    rows = replace(rows, count=500)
    fault(emulator, "rows", "model_not_found", times=None)
    done = rows.ask()
    assert done.stopped is Stopped.SAME_FAULT
    assert isinstance(done.problem, ProviderRefused)
    assert 20 <= done.refused <= 60
    assert (done.answered, len(done.undone)) == (0, 500 - done.refused)
    assert emulator.bill() == []


@pytest.mark.parametrize("how", [{"status": 401}, {"status": 402}, {"status": 403}, {"status": 429, "code": "insufficient_quota"}], ids=str)
def test_a_refused_key_stops_the_stretch(rows: Rows, emulator: Emulator, how: dict[str, Any]) -> None:
    """It is refused for every row; those that were not done stay undone."""
    if rows.peer is anthropic and how["status"] == 429:
        how = {"status": 402}
    fault(emulator, "realtime", "status", times=None, skip=2, **how)
    done = rows.ask(options=Options(begin_with=1, most=1))
    assert done.stopped is Stopped.ACCESS
    assert isinstance(done.problem, AccessRefused)
    assert (done.answered, done.in_doubt, done.undone.tolist()) == (2, 0, [2, 3, 4, 5])
    assert emulator.api_key not in str(done.problem)


@pytest.mark.parametrize(("status", "stopped", "most"), [(403, Stopped.ACCESS, 0), (404, Stopped.SAME_FAULT, 40)])
def test_a_gateway_that_refuses_all_with_pages_is_left_alone(
    rows: Rows, emulator: Emulator, status: int, stopped: Stopped, most: int
) -> None:
    """So that it does not use up the ceiling, whether nothing was done or nobody knows."""
    rows = replace(rows, count=200)
    fault(emulator, "realtime", "garbage", status=status, times=None)
    done = rows.ask(clock=turning(emulator))
    assert done.stopped is stopped
    assert done.in_doubt <= most
    assert len(done.undone) == 200 - done.in_doubt


def test_a_redirect_is_not_followed(rows: Rows, emulator: Emulator) -> None:
    """The key would go to whoever is named there."""
    with Emulator(frozen=True) as other:
        fault(emulator, "realtime", "redirect", location=other.url + "/v1/messages", times=None)
        done = rows.ask()
        assert (done.stopped, len(done.undone)) == (Stopped.ACCESS, 6)
        assert other.requests() == []


# --- asked to stop ----------------------------------------------------------------------------------------------------


def test_a_stretch_that_is_told_to_stop_awaits_what_is_in_flight(rows: Rows, emulator: Emulator) -> None:
    """What is in flight may be paid; leaving it would lose the answer."""
    rows = replace(rows, count=50)
    done = rows.ask(should_stop=lambda: len(emulator.requests()) >= 10, options=CALM)
    assert done.stopped is Stopped.BY_CALLER
    assert 10 <= done.answered <= 14
    assert (done.in_doubt, len(done.undone)) == (0, 50 - done.answered)
    assert rows.paid(emulator) == once(set(range(50)) - set(done.undone.tolist()))
    assert rows.ask().answered == 50
    assert rows.paid(emulator) == once(range(50))


def test_what_stop_raises_is_raised_when_the_flying_ones_are_safe(rows: Rows, emulator: Emulator) -> None:
    """A worker that has lost its lease goes home, with its answers on disk."""
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        if asked > 4:
            raise LeaseLost("gone")
        return False

    with pytest.raises(LeaseLost):
        rows.ask(should_stop=stop)
    assert len(emulator.bill()) == 4
    assert rows.ask().in_doubt == 0
    assert rows.paid(emulator) == once(range(6))


def test_a_journal_has_one_worker(rows: Rows, emulator: Emulator) -> None:
    """A frozen worker that wakes up beside its successor would pay every row twice."""
    with JournalFile(rows.journal, NONCE, rows.reader.journal), pytest.raises(LeaseLost, match="has sent nothing"):
        rows.ask()
    assert emulator.requests() == []


# --- crashes ----------------------------------------------------------------------------------------------------------


@pytest.mark.share(3)
@pytest.mark.parametrize("nth", [1, 7])
@pytest.mark.parametrize("point", ["realtime.send", "realtime.received", "realtime.journal"])
def test_a_kill_costs_at_most_what_was_in_flight_and_it_is_counted(fast: Rows, emulator: Emulator, point: str, nth: int) -> None:
    """Answered rows are kept, and those in flight are not asked again here: nobody knows, so a round with the money for it decides."""
    rows = replace(fast, count=30)
    if point == "realtime.journal":
        nth = 1 + nth // 3  # many answers may share one
    assert killed(rows, emulator.env(), point, nth=nth, at_once=4) == KILLED
    had = sum(line.endswith(b"\n") for line in rows.journal.read_bytes().splitlines(keepends=True))
    before = rows.paid(emulator)
    done = rows.ask()
    paid = rows.paid(emulator)
    assert (done.answered + done.in_doubt, done.stopped, len(done.undone)) == (30, Stopped.DONE, 0)
    assert set(paid.values()) == {1}
    assert sum(before.values()) - had <= done.in_doubt <= 4, "paid without an answer to show for it: no more than is told"
    assert Counter(outcomes(rows)) == {"answered": done.answered, **({"lost": done.in_doubt} if done.in_doubt else {})}
    assert rows.ask().in_doubt == done.in_doubt, "a third stretch says the same"


@pytest.mark.parametrize("rest", [b'{"custom_id":"fastfastfa-0000', b"\0" * 500])
def test_a_torn_last_line_is_no_answer(rows: Rows, emulator: Emulator, rest: bytes) -> None:
    """A power cut may leave half a line, or a block of nothing; the row was in flight, and is asked again."""
    rows.ask(should_stop=lambda: len(emulator.requests()) >= 3, options=Options(begin_with=1, most=1))
    with rows.journal.open("ab") as file:
        file.write(rest)
    with rows.journal.with_suffix(".sent").open("ab") as file:
        file.write(b"+3\n+")
    done = rows.ask()
    assert (done.answered, done.in_doubt) == (5, 1)
    assert sorted(outcomes(rows)) == ["answered"] * 5 + ["lost"]
    assert set(rows.paid(emulator).values()) == {1}


def test_marks_that_a_power_cut_took_lose_no_row(rows: Rows, emulator: Emulator) -> None:
    rows.ask(should_stop=lambda: len(emulator.requests()) >= 3, options=Options(begin_with=1, most=1))
    rows.journal.with_suffix(".sent").unlink()
    done = rows.ask()
    assert (done.answered, done.in_doubt) == (6, 0)
    assert rows.paid(emulator) == once(range(6))


@pytest.mark.share(2)
@pytest.mark.parametrize(("action", "error"), [("enospc", OSError), ("raise", FailpointHit)])
@pytest.mark.parametrize("point", ["realtime.send", "realtime.received", "realtime.journal"])
def test_a_fault_of_ours_ends_the_stretch_and_the_next_one_goes_on(
    rows: Rows, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, point: str, action: str, error: type[Exception]
) -> None:
    """A full disk: the others in flight are still kept, and what could not be is counted."""
    rows = replace(rows, count=30)
    monkeypatch.setenv("KELD_FAILPOINT", f"{point}:{action}:2")
    points._passes.clear()
    with pytest.raises(error):
        rows.ask(options=CALM)
    monkeypatch.delenv("KELD_FAILPOINT")
    done = rows.ask()
    assert (done.answered + done.in_doubt, len(done.undone)) == (30, 0)
    assert done.in_doubt <= 4
    assert set(rows.paid(emulator).values()) == {1}
    assert rows.collect()[0].duplicates == 0


# --- what is written --------------------------------------------------------------------------------------------------


def test_an_answer_is_durable_before_the_row_counts(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """At one at a time, each row's fsync has returned before the next request begins."""
    order: list[str] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (fsync(descriptor), order.append("fsync"))[0])
    monkeypatch.setattr(points, "on_pass", order.append)
    rows.ask(options=Options(begin_with=1, most=1))
    assert [step for step in order if step in ("realtime.send", "fsync")][1:] == ["realtime.send", "fsync"] * 6


def test_many_answers_share_one_fsync(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0
    fsync = os.fsync

    def slow(descriptor: int) -> None:
        nonlocal count
        count += 1
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    assert replace(rows, count=200).ask(options=Options(begin_with=64, most=64)).answered == 200
    assert count < 200


def test_answers_with_line_ends_inside_stand_in_one_line(open_emulator: Callable[..., Emulator], peer: Peer, tmp_path: Path) -> None:
    """OpenAI indents its replies, and an answer may hold U+2028."""
    open_emulator(responder=lambda body: '{"category":\n"bug","urgent":\u2028 true}'.replace("\u2028", " "))
    rows = Rows(peer=peer, folder=str(tmp_path))
    assert rows.ask().answered == 6
    assert len(rows.journal.read_bytes().split(b"\n")) == 7
    assert outcomes(rows) == ["answered"] * 6


def test_a_journal_has_lines_of_one_shape_whatever_the_provider(rows: Rows, emulator: Emulator) -> None:
    """One reader serves them all."""
    rows.ask()
    lines = [json.loads(line) for line in rows.journal.read_bytes().split(b"\n") if line]
    assert {line["custom_id"] for line in lines} == {custom_id(NONCE, n) for n in range(6)}
    assert {frozenset(line) for line in lines} == {frozenset({"custom_id", "response", "error"})}


@pytest.mark.parametrize("begun", [1, 3, 6])
def test_a_journal_that_was_begun_in_the_providers_own_lines_is_read_on(emulator: Emulator, tmp_path: Path, begun: int) -> None:
    """Version 0.1 kept a provider's own result lines; a job run may outlive an upgrade, and what is in its journal is paid."""
    rows = Rows(peer=anthropic, folder=str(tmp_path))
    rows.ask()
    whole = [json.loads(line) for line in rows.journal.read_bytes().splitlines()]
    old = [{"custom_id": line["custom_id"], "result": {"type": "succeeded", "message": line["response"]["body"]}} for line in whole[:begun]]
    rows.journal.write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in old))
    rows.journal.with_suffix(".sent").write_bytes(b"")
    assert rows.ask().answered == 6
    assert len(emulator.bill()) == 6 + (6 - begun)
    assert outcomes(rows) == ["answered"] * 6


def test_a_doubt_and_a_refusal_in_the_providers_own_lines_are_read(emulator: Emulator, tmp_path: Path) -> None:
    """As above; a doubt that read as a refusal would never be asked again, and one that read as nothing at once."""
    rows = Rows(peer=anthropic, folder=str(tmp_path), count=2)
    errors = [{"type": "keld_in_doubt", "message": "may have been paid"}, {"type": "invalid_request_error", "message": "no"}]
    lines = [
        {"custom_id": custom_id(NONCE, n), "result": {"type": "errored", "error": {"type": "error", "error": error}}}
        for n, error in enumerate(errors)
    ]
    found = rows.reader.journal(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    assert [(reply.outcome, reply.retryable) for reply in found] == [(Outcome.LOST, True), (Outcome.ERRORED, False)]


def test_no_prompt_and_no_key_in_the_log(rows: Rows, emulator: Emulator, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="keld")
    fault(emulator, "realtime", "status", status=429, message=f"CANARY {emulator.api_key}")
    fault(emulator, "realtime", "status", status=500, message=f"CANARY {emulator.api_key}", skip=1)
    rows.ask(clock=turning(emulator))
    said = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("keld"))
    assert "realtime.ended" in said
    assert not re.search(f"CANARY|{re.escape(emulator.api_key)}", said)


def test_rows_are_read_as_they_are_asked(rows: Rows, emulator: Emulator) -> None:
    """A partition's prompts are never all in memory."""
    read: list[int] = []

    def fragments(positions: Any) -> Any:
        for position, fragment in rows.fragments(positions):
            read.append(position)
            yield position, fragment

    many = replace(rows, count=500)
    run_realtime(
        many.provider, many.encoder, many.reader, many.lane, NONCE, many.positions, fragments, many.journal,
        should_stop=lambda: len(emulator.requests()) >= 5, options=CALM, clock=Time(),
    )  # fmt: skip
    assert len(read) <= 20


@pytest.mark.slow
def test_five_thousand_rows(open_emulator: Callable[..., Emulator], peer: Peer, tmp_path: Path) -> None:
    """At 50 ms a reply, in one process with the emulator; memory does not grow with the rows."""
    emulator = open_emulator(realtime_latency_s=0.05)
    rows = Rows(peer=peer, folder=str(tmp_path), count=5_000)
    done = rows.ask()
    assert (done.answered, done.in_doubt, done.rejected) == (5_000, 0, 0)
    assert rows.paid(emulator) == once(range(5_000))
    assert rows.collect()[0].cost_usd == billed_usd(emulator, emulator.now())
    assert done.rows_per_s > 50
