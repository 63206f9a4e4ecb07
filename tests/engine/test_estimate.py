"""What a row takes: learned from what providers reported, counted where it can be, and told how far it was off."""

import doctest
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from keld import Keld, estimate
from keld.emulator import Emulator
from keld.estimate import TOKENS_A_MESSAGE, Estimate, Observed, learned, prior
from keld.plan import Option
from keld.providers.dialects.openai_vocabulary import counter
from keld.view import outcome_view, plan_view, status_view
from keld.vocabulary import tokens_of
from tests.support.ticket_job import SYSTEM, Peer, anthropic, billed_usd, fault, openai, run, tickets, triage

pytestmark = pytest.mark.by_turns


def _seen(rows: int, bytes_a_token: float, output: int) -> Observed:
    """Rows of 400 bytes that took one token for so many bytes."""
    return Observed(
        rows=rows, size_bytes=rows * 400, input_tokens=int(rows * (400 / bytes_a_token + TOKENS_A_MESSAGE)), output_tokens=rows * output
    )


# --- what is learned --------------------------------------------------------------------------------------------------


def test_what_the_docstrings_reckon_is_so() -> None:
    assert doctest.testmod(estimate).failed == 0


@pytest.mark.parametrize("kind", ["object", "text", "embedding"])
def test_before_anything_was_seen_the_prior_speaks(kind: str) -> None:
    assert learned(prior(kind), Observed(), 100) == prior(kind)


def test_a_partition_outweighs_the_prior() -> None:
    found = learned(prior("object"), _seen(10_000, 3.0, 25), 0)
    assert found.bytes_a_token == pytest.approx(3.0, rel=0.01)
    assert found.output_tokens_a_row == pytest.approx(25, rel=0.02)
    assert found.rows == 10_000


def test_one_odd_row_moves_little() -> None:
    """It wrote sixteen times what a row is expected to."""
    found = learned(prior("object"), _seen(1, 2.0, 1_000), 0)
    assert found.output_tokens_a_row < 80
    assert found.bytes_a_token > 3.9


def test_the_envelope_of_a_line_is_no_text() -> None:
    """An endpoint and a custom_id are bytes on the wire, and nothing to the model."""
    bare, wrapped = _seen(500, 3.0, 25), _seen(500, 3.0, 25)
    wrapped = Observed(
        rows=500, size_bytes=bare.size_bytes + 500 * 150, input_tokens=wrapped.input_tokens, output_tokens=wrapped.output_tokens
    )
    assert learned(prior("object"), wrapped, 150) == learned(prior("object"), bare, 0)


@given(
    rows=st.integers(0, 10**7), size=st.integers(0, 10**12), tokens=st.integers(0, 10**15), output=st.integers(0, 10**15),
    envelope=st.integers(-1_000, 10_000),
)  # fmt: skip
def test_whatever_a_provider_reports_an_estimate_is_a_number(rows: int, size: int, tokens: int, output: int, envelope: int) -> None:
    """Counts are claims."""
    found = learned(prior("text"), Observed(rows=rows, size_bytes=size, input_tokens=tokens, output_tokens=output), envelope)
    assert 0 < found.bytes_a_token <= 16.001
    assert found.output_tokens_a_row >= 0


# --- over the wire ----------------------------------------------------------------------------------------------------


def _batch(keld: Keld, peer: Peer, rows: int, name: str = "triage") -> Option:
    """What is planned for so many rows in the batch lane."""
    return next(option for option in keld.plan(triage(peer, name=name), tickets(rows)).options if option.lane == "batch")


def _run(keld: Keld, emulator: Emulator, peer: Peer, partition: str, rows: int) -> Any:
    return run(keld, emulator, triage(peer), tickets(rows), partition=partition)


def test_the_second_partition_is_estimated_by_what_the_first_one_used(keld: Keld, emulator: Emulator, peer: Peer, ledger_url: str) -> None:
    first = _run(keld, emulator, peer, "2026-11-18", 400)
    second = _run(keld, emulator, peer, "2026-11-19", 300)
    assert first.estimate_error is not None
    assert second.estimate_error is not None
    assert first.estimate_error < -0.3, "an answer of the emulator's is shorter than the prior says"
    assert abs(second.estimate_error) < 0.05


def test_what_was_learned_leaves_the_reservation_as_it_was(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    before = _batch(keld, peer, 300)
    _run(keld, emulator, peer, "2026-11-18", 400)
    after = _batch(keld, peer, 300)
    assert before.worst_usd == after.worst_usd
    assert before.expected_usd != after.expected_usd
    assert (before.estimate.rows, after.estimate.rows) == (0, 400)


def test_another_job_learns_of_the_models_rows_until_it_has_its_own(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    fresh = _batch(keld, peer, 300, "other")
    _run(keld, emulator, peer, "2026-11-18", 400)
    other = _batch(keld, peer, 300, "other")
    assert other.estimate.rows == 400
    assert other.estimate.output_tokens_a_row < fresh.estimate.output_tokens_a_row / 2


def test_another_model_learns_nothing(keld: Keld, emulator: Emulator) -> None:
    _run(keld, emulator, openai, "2026-11-18", 60)
    assert _batch(keld, anthropic, 60).estimate.rows == 0


def test_rows_that_were_not_billed_teach_nothing(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """Half of a batch expired: by its bytes, every token would seem twice as long."""
    fault(emulator, "rows", "error", status=400, fraction=0.5)
    status = _run(keld, emulator, peer, "2026-11-18", 400)
    found = _batch(keld, peer, 300).estimate
    assert 0 < found.rows < 400
    assert found.rows == status.answered
    emulator.faults({"rules": []})
    whole = _run(keld, emulator, peer, "2026-11-19", 400)
    assert abs(whole.estimate_error) < 0.1


def test_the_error_is_of_the_rows_that_were_billed(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    fault(emulator, "rows", "error", status=400, fraction=0.5)
    status = _run(keld, emulator, peer, "2026-11-18", 60)
    paid = billed_usd(emulator, status.created_at)
    assert status.cost_usd == paid
    assert status.expected_usd is not None
    assert float(status.estimated_usd) == pytest.approx(float(status.expected_usd) * status.answered / 60, rel=0.01)
    assert status.estimate_error == pytest.approx(float(paid / status.estimated_usd - 1), abs=0.0001)


def test_before_anything_is_billed_there_is_no_error(keld: Keld, emulator: Emulator) -> None:
    status = keld.submit(triage(openai), tickets())
    assert (status.estimated_usd, status.estimate_error) == (0, None)


# --- as it is told ----------------------------------------------------------------------------------------------------


def _text(view: Any) -> str:
    console = Console(width=300)
    with console.capture() as captured:
        console.print(view)
    return captured.get()


def test_the_plan_tells_what_it_was_reckoned_by(keld: Keld, emulator: Emulator) -> None:
    assert "by rule of thumb" in _text(plan_view(keld.plan(triage(anthropic), tickets())))
    run(keld, emulator, triage(anthropic))
    assert "learned from 6 answered rows" in _text(plan_view(keld.plan(triage(anthropic), tickets())))


def test_the_error_is_told_in_the_status_and_at_the_end(keld: Keld, emulator: Emulator) -> None:
    status = run(keld, emulator, triage(anthropic))
    told = f"{status.estimate_error:+.1%} against the estimate"
    assert told in _text(status_view(status))
    assert told in _text(outcome_view(status))
    assert json.loads(json.dumps(status.to_json()))["estimate_error"] == status.estimate_error


# --- what is counted --------------------------------------------------------------------------------------------------


def _words(text: str) -> int:
    return len(text.split())


@pytest.mark.parametrize(
    ("fragments", "found"),
    [
        ([b'"two words"', b'"one"'], [2, 1]),
        ([b'[{"role":"system","content":"be brief"},{"role":"user","content":[{"type":"text","text":"a b c"}]}]'], [5]),
        ([b'"text"', b'[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:"}}]}]'], None),
        ([b'[{"role":"assistant","tool_calls":[{"id":"c"}]},{"role":"tool","content":"sunny"}]'], None),
        ([], []),
    ],
)
def test_texts_are_counted_and_what_is_no_text_cannot_be(fragments: list[bytes], found: list[int] | None) -> None:
    assert tokens_of(fragments, _words) == found


@pytest.mark.parametrize("model", ["claude-haiku-4-5", "gemini-2.5-flash", "gpt-oss-120b", "my-model", "gpt-image-1", "o200"])
def test_a_model_whose_vocabulary_is_not_public_cannot_be_counted(model: str) -> None:
    assert counter(model) is None


@pytest.mark.parametrize(
    ("model", "tokens"),
    [("gpt-5-mini", 8), ("gpt-4o-2024-08-06", 8), ("gpt-6.1-sol", 8), ("o4-mini", 8), ("ft:gpt-4.1:a::b", 8), ("gpt-4", 9), ("text-embedding-3-small", 9)],
)  # fmt: skip
def test_a_text_is_counted_by_the_models_own_vocabulary(model: str, tokens: int) -> None:
    """The Japanese greeting is nine tokens of cl100k in OpenAI's cookbook; o200k, made for more languages, takes eight."""
    pytest.importorskip("rs_bpe", reason="the extra `tokens` is not installed")
    count = counter(model)
    assert count is not None
    assert (count("お誕生日おめでとう"), count("2 + 2 = 4"), count("antidisestablishmentarianism")) == (tokens, 7, 6)


def test_a_text_of_two_million_bytes_is_counted() -> None:
    pytest.importorskip("rs_bpe", reason="the extra `tokens` is not installed")
    count = counter("gpt-5-mini")
    assert count is not None
    assert count("hello" + " hello" * 400_000) == 400_001


def test_with_the_extra_the_input_of_these_very_rows_is_counted(keld: Keld, emulator: Emulator) -> None:
    pytest.importorskip("rs_bpe", reason="the extra `tokens` is not installed")
    count = counter(openai.model)
    assert count is not None
    table = tickets(50)
    bodies = table.column("body").to_pylist()
    plan = keld.plan(triage(openai, output_type=str), table)
    option = next(option for option in plan.options if option.lane == "batch")
    exact = sum(count(f"Classify:\n\n{body}") + count(SYSTEM) + TOKENS_A_MESSAGE for body in bodies)
    assert option.estimate.counted
    assert abs(option.usage.input_tokens - exact) <= 1, "down to the rounding of a division"
    assert "counted in these rows" in _text(plan_view(plan))


def test_of_many_rows_a_sample_is_counted_and_its_error_is_told(keld: Keld, emulator: Emulator) -> None:
    """Every row of 10^6 took as long as a fifth of the whole run; the bound that is reserved still comes from every row's bytes."""
    pytest.importorskip("rs_bpe", reason="the extra `tokens` is not installed")
    count = counter(openai.model)
    assert count is not None
    bodies = [f"{n} " + ("again " * (n % 40) if n < 4_000 else "请帮我把发票改一下，谢谢。" * (n % 9)) for n in range(6_000)]
    table = pa.table({"ticket_id": [str(n) for n in range(6_000)], "body": bodies})
    plan = keld.plan(triage(openai, output_type=str), table)
    option = next(option for option in plan.options if option.lane == "batch")
    exact = sum(count(f"Classify:\n\n{body}") + count(SYSTEM) + TOKENS_A_MESSAGE for body in bodies)
    assert 0 < option.estimate.counted_rows <= 2_048
    assert 0 < option.estimate.input_error < 0.1
    assert abs(option.usage.input_tokens / exact - 1) <= option.estimate.input_error
    assert f"counted in {option.estimate.counted_rows:,} of these rows, drawn at random: within" in _text(plan_view(plan))
    assert plan.work.prompt_bytes == sum(len(msgspec.json.encode(f"Classify:\n\n{body}")) for body in bodies)
    assert option.worst_usd is not None and option.expected_usd is not None and option.worst_usd > option.expected_usd


def test_what_was_counted_otherwise_at_the_host_is_learned(keld: Keld, emulator: Emulator) -> None:
    """A vocabulary that a newer model no longer has, a schema that is told to it in other words: its own reports say so."""
    pytest.importorskip("rs_bpe", reason="the extra `tokens` is not installed")
    before = _batch(keld, openai, 300).estimate
    _run(keld, emulator, openai, "2026-11-18", 400)
    after = _batch(keld, openai, 300).estimate
    assert abs(before.bytes_a_token - 4) > 0.3, "the emulator's token is four bytes"
    assert abs(after.bytes_a_token - 4) < 0.3


def test_chinese_rows_are_expected_to_cost_what_they_count(open_keld: Callable[..., Keld], emulator: Emulator) -> None:
    """By four bytes a token they would be far off."""
    pytest.importorskip("rs_bpe", reason="the extra `tokens` is not installed")
    table = pa.table({"ticket_id": [str(n) for n in range(20)], "body": [f"请帮我把第{n}张发票改一下，谢谢。" * 20 for n in range(20)]})
    options = open_keld().plan(triage(openai), table).options
    assert isinstance(options[0].estimate, Estimate)
    assert options[0].estimate.counted
    assert options[0].estimate.bytes_a_token != pytest.approx(4.0, rel=0.02)
