"""Embeddings: many rows in one request, in batches and in the fast lane; each row has its own vector, its own cost and its own faults."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from keld import Embedding, Job, Keld, Lane, Status
from keld.emulator import Emulator
from keld.schema import output_schema
from tests.support.realtime_rows import Rows, turning
from tests.support.ticket_job import billed_usd, check_promise, fault, finish, openai, purchases, run

pytestmark = pytest.mark.by_turns

SMALL, MISTRAL = "openai:text-embedding-3-small", "mistral:mistral-embed"
TOO_LONG = "word " * 8_000  # OpenAI takes 8,192 tokens of one text; the emulator counts four bytes each
HALF_TOO_LONG = "word " * 3_500


def table(texts: list[str]) -> pa.Table:
    return pa.table({"id": [str(n) for n in range(len(texts))], "text": texts})


def texts(count: int) -> list[str]:
    return [f"text {n} " + "long " * (n % 7) for n in range(count)]


def vectors(**terms: Any) -> Job:
    asked: dict[str, Any] = {"name": "vectors", "key": "id", "prompt": "{text}", "models": SMALL, "output_type": Embedding(dimensions=8)}
    return Job(**{**asked, **terms})


def rows_of(keld: Keld, status: Status) -> list[dict[str, Any]]:
    return keld.read(status.id).read_all().to_pylist()


def lines_sent(emulator: Emulator) -> list[int]:
    """How many rows each paid request had."""
    return [entry.rows for entry in emulator.bill()]


@pytest.mark.parametrize("terms", [{}, {"lane": Lane.STANDARD}, {"models": MISTRAL, "output_type": Embedding(dimensions=1024)}], ids=str)
def test_many_rows_are_one_request_and_each_has_its_own_vector_and_cost(keld: Keld, emulator: Emulator, terms: dict[str, Any]) -> None:
    status = run(keld, emulator, vectors(**terms), table(texts(200)))
    assert sorted(lines_sent(emulator)) == [8, 64, 64, 64]
    rows = rows_of(keld, status)
    assert [row["keld_outcome"] for row in rows] == ["answered"] * 200
    assert sum(row["keld_cost_usd"] for row in rows) == status.cost_usd == billed_usd(emulator, status.created_at)
    assert len({tuple(row["embedding"]) for row in rows}) == 200
    assert rows[6]["keld_cost_usd"] > rows[0]["keld_cost_usd"], "a longer text has the larger share"


def test_a_packed_vector_is_the_one_that_the_row_gets_alone(keld: Keld, emulator: Emulator) -> None:
    """One attempt leaves no second round for the rows of a refused request: then each row is a request of its own."""
    packed = run(keld, emulator, vectors(), table(texts(70)))
    alone = run(keld, emulator, vectors(max_attempts=1, reuse="never", name="alone"), table(texts(70)))
    assert [row["embedding"] for row in rows_of(keld, packed)] == [row["embedding"] for row in rows_of(keld, alone)]
    assert Counter(lines_sent(emulator)) == Counter([64, 6, *[1] * 70])


@pytest.mark.parametrize("lane", [Lane.BATCH, Lane.STANDARD])
def test_a_text_that_is_too_long_costs_its_own_row_and_no_other(keld: Keld, emulator: Emulator, lane: Lane) -> None:
    asked = table([*texts(30), TOO_LONG, *texts(100)])
    status = run(keld, emulator, vectors(lane=lane, reuse="never"), asked)
    found = rows_of(keld, status)
    assert [n for n, row in enumerate(found) if row["keld_outcome"] != "answered"] == [30]
    assert "maximum context length is 8192 tokens" in found[30]["keld_error"]
    assert sum(lines_sent(emulator)) == 130, "each of the others is paid once"
    assert sum(row["keld_cost_usd"] for row in found) == status.cost_usd == billed_usd(emulator, status.created_at)


def test_rows_that_are_too_long_only_together_are_asked_in_smaller_requests(keld: Keld, emulator: Emulator) -> None:
    """Mistral takes 16,384 tokens in one request; the bound by bytes keeps to it without a refusal."""
    asked = table([f"{n} {HALF_TOO_LONG}" for n in range(5)])
    status = run(keld, emulator, vectors(models=MISTRAL, output_type=Embedding(dimensions=1024)), asked)
    assert lines_sent(emulator) == [1] * 5
    check_promise(keld, emulator, status, asked)


def test_a_batch_that_expires_pays_no_row_of_it_twice(keld: Keld, emulator: Emulator) -> None:
    fault(emulator, "life", "expire", done=0.5, after_s=600)
    status = run(keld, emulator, vectors(), table(texts(256)))
    check_promise(keld, emulator, status, table(texts(256)))
    assert lines_sent(emulator) == [64] * 4, "the rows that it did not reach are packed again"


def test_rows_that_a_probe_held_back_are_packed(keld: Keld, emulator: Emulator) -> None:
    """They are asked in a second round, and nothing was wrong with them."""
    status = run(keld, emulator, vectors(probe=True), table(texts(200)))
    assert sorted(lines_sent(emulator)) == [1, 7, 64, 64, 64]
    rows = rows_of(keld, status)
    assert [row["keld_outcome"] for row in rows] == ["answered"] * 200
    assert sum(row["keld_cost_usd"] for row in rows) == status.cost_usd == billed_usd(emulator, status.created_at)
    alone = run(keld, emulator, vectors(max_attempts=1, name="alone"), table(texts(200)))
    assert [row["embedding"] for row in rows] == [row["embedding"] for row in rows_of(keld, alone)]


def test_rows_that_are_asked_for_the_last_time_are_not_packed(keld: Keld, emulator: Emulator) -> None:
    """A refused request has no round after it to tell whose fault it was."""
    fault(emulator, "life", "expire", done=0.5, after_s=600)
    run(keld, emulator, vectors(max_attempts=2), table(texts(128)))
    assert Counter(lines_sent(emulator)) == Counter([64, *[1] * 64])


def reply_with(*vectors: list[float], tokens: int) -> str:
    data = [{"object": "embedding", "embedding": vector, "index": n} for n, vector in enumerate(vectors)]
    return json.dumps(
        {"object": "list", "data": data, "model": "text-embedding-3-small", "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
    )


def test_a_vector_that_is_not_accepted_adds_nothing_to_the_text_that_is_asked_again(keld: Keld, emulator: Emulator) -> None:
    """A model may correct what it is told was wrong; the vector of a text with a complaint after it is the vector of another text."""
    fault(emulator, "realtime", "garbage", body=reply_with([0.5], tokens=2), after=True)
    status = run(keld, emulator, vectors(lane=Lane.STANDARD), table(texts(1)))
    other = run(keld, emulator, vectors(name="other"), table(texts(1)))
    assert sum(lines_sent(emulator)) == 3, "its first vector, which was too short, its second, and the other job's"
    assert rows_of(keld, status)[0]["embedding"] == rows_of(keld, other)[0]["embedding"]


def test_rows_whose_answer_had_too_few_vectors_are_asked_alone(keld: Keld, emulator: Emulator) -> None:
    """A server that does not know lists answers with one vector: asked the same way again, it would be paid again for nothing."""
    fault(emulator, "realtime", "garbage", body=reply_with([0.5] * 8, tokens=3))
    status = run(keld, emulator, vectors(lane=Lane.STANDARD), table(texts(10)))
    assert [row["keld_outcome"] for row in rows_of(keld, status)] == ["answered"] * 10
    assert lines_sent(emulator) == [1] * 10


def test_a_line_that_is_missing_from_the_results_is_all_of_its_rows(keld: Keld, emulator: Emulator) -> None:
    """The provider counts it as done, so it may be paid: its rows are asked again only when the file has been seen not to grow."""
    fault(emulator, "lines", "missing", count=1)
    status = run(keld, emulator, vectors(), table(texts(128)))
    found = rows_of(keld, status)
    assert [row["keld_outcome"] for row in found] == ["answered"] * 128
    assert sorted(purchases(emulator).values()) == [1] * 64 + [2] * 64


@pytest.mark.parametrize("do", ["drop_after", "late_landing"])
def test_a_batch_whose_create_got_no_reply_is_found_and_collected(keld: Keld, emulator: Emulator, do: str) -> None:
    fault(emulator, "create", do)
    status = run(keld, emulator, vectors(), table(texts(130)))
    check_promise(keld, emulator, status, table(texts(130)))
    assert sorted(lines_sent(emulator)) == [2, 64, 64]


def test_progress_is_told_in_rows(keld: Keld, emulator: Emulator) -> None:
    """The provider counts requests: five of ten are half of the rows."""
    fault(emulator, "life", "stuck", done=0.5)
    status = keld.advance(keld.submit(vectors(), table(texts(640))).id)
    emulator.advance(timedelta(hours=2))
    assert [batch.done for batch in keld.poll([status.id])[0].batches] == [320]
    assert [batch.done for batch in keld.advance(status.id).batches] == [320]


def test_a_packed_reply_that_is_lost_is_in_doubt_for_each_of_its_rows(keld: Keld, emulator: Emulator) -> None:
    """It may be paid: what it may have cost stays in the books, and the rows are asked again under the ceiling."""
    fault(emulator, "realtime", "drop_after")
    status = run(keld, emulator, vectors(lane=Lane.STANDARD), table(texts(64)))
    assert [row["keld_outcome"] for row in rows_of(keld, status)] == ["answered"] * 64
    assert sum(lines_sent(emulator)) == 2 * 64
    assert status.cost_usd < billed_usd(emulator, status.created_at)


def test_a_refusal_of_what_all_rows_share_is_not_asked_in_halves(keld: Keld, emulator: Emulator) -> None:
    fault(emulator, "realtime", "status", status=404, code="model_not_found", times=None)
    status = finish(keld, emulator, keld.submit(vectors(lane=Lane.STANDARD, probe=False), table(texts(640))).id)
    assert {row["keld_outcome"] for row in rows_of(keld, status)} == {"errored"}
    assert len([call for call in emulator.requests() if call.path.endswith("/embeddings")]) <= 10
    assert not emulator.bill()


def test_rows_that_cannot_be_asked_leave_no_gap_in_a_pack(open_keld: Callable[..., Keld], emulator: Emulator) -> None:
    """A pack is of the rows that are asked, however they lie in the table."""
    keld = open_keld(clock=emulator.now)
    asked = table([text if n % 3 else None for n, text in enumerate(texts(90))])  # type: ignore[misc]
    status = run(keld, emulator, vectors(missing=None), asked)
    found = rows_of(keld, status)
    assert [row["keld_outcome"] for row in found] == ["answered" if n % 3 else "unaskable" for n in range(90)]
    alone = run(keld, emulator, vectors(missing=None, max_attempts=1, name="alone", reuse="never"), asked)
    assert [row["embedding"] for row in found] == [row["embedding"] for row in rows_of(keld, alone)]


def test_under_a_limit_of_requests_the_rows_a_minute_grow_by_the_packing(open_emulator: Callable[..., Emulator], tmp_path: Path) -> None:
    """1,280 rows through 10 requests a minute: 20 requests in the minute after the first ten, where one by one they would take two hours."""
    emulator = open_emulator(requests_per_minute=10)
    question = {"output": output_schema(Embedding(dimensions=8)).to_json()}
    rows = Rows(peer=replace(openai, model="text-embedding-3-small"), folder=str(tmp_path), question=question, count=1_280)
    began = emulator.now()
    done = rows.ask(clock=turning(emulator))
    assert (done.answered, done.in_doubt) == (1_280, 0)
    assert lines_sent(emulator) == [64] * 20
    assert emulator.now() - began <= timedelta(minutes=8), "in larger steps, on a busy machine"
