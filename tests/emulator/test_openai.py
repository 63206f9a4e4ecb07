"""The OpenAI dialect, through the official SDK."""

import json
import secrets
from collections.abc import Callable
from typing import Any

import jsonschema
import openai
import pytest

from tests.emulator.conftest import SCHEMA, Desk, chat_lines, line, read


def test_chat_batch_answers_every_row_with_a_conforming_document(desk: Desk) -> None:
    batch_id = desk.chat_batch(10)
    output = desk.output(batch_id)
    assert {one["custom_id"] for one in output} == {f"r-{n}" for n in range(10)}
    for one in output:
        assert (one["response"]["status_code"], one["error"]) == (200, None)
        jsonschema.validate(json.loads(one["response"]["body"]["choices"][0]["message"]["content"]), SCHEMA)


def test_create_answers_validating_and_a_clean_batch_has_no_error_file(desk: Desk) -> None:
    file_id = desk.upload(chat_lines(3))
    created = desk.openai.batches.create(
        input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"keld": "nonce"}
    )
    assert (created.status, created.request_counts and created.request_counts.total) == ("validating", 0)
    assert (created.in_progress_at, created.output_file_id, created.errors) == (None, None, None)
    ended = desk.openai.batches.retrieve(created.id)
    assert (ended.status, ended.error_file_id, ended.metadata) == ("completed", None, {"keld": "nonce"})


def test_responses_batch_answers(desk: Desk) -> None:
    body = {"model": "gpt-5", "input": "hi", "text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}}
    output = desk.output(desk.create(line(0, "/v1/responses", body), "/v1/responses"))
    text = output[0]["response"]["body"]["output"][0]["content"][0]["text"]
    jsonschema.validate(json.loads(text), SCHEMA)


def test_embeddings_batch_answers_with_unit_vectors(desk: Desk) -> None:
    body = {"model": "text-embedding-3-small", "input": ["one", "two"], "dimensions": 8}
    data = desk.output(desk.create(line(0, "/v1/embeddings", body), "/v1/embeddings"))[0]["response"]["body"]["data"]
    assert [item["index"] for item in data] == [0, 1]
    assert sum(value**2 for value in data[0]["embedding"]) == pytest.approx(1)


def test_realtime_chat_responses_and_embeddings_answer(desk: Desk) -> None:
    chat = desk.openai.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "hi"}], service_tier="flex")
    response = desk.openai.responses.create(model="gpt-5", input="hi")
    vector = desk.openai.embeddings.create(model="text-embedding-3-small", input="hi").data[0].embedding
    assert chat.choices[0].message.content and response.output_text and len(vector) == 1536
    assert [(one.lane, one.batch_id) for one in desk.emulator.bill()] == [
        ("flex", None),
        ("standard", None),
        ("standard", None),
    ]


def _cached(desk: Desk, content: Any, model: str = "gpt-5-mini", **body: Any) -> tuple[int, int]:
    """(read, written) of a chat whose system message is `content`."""
    messages: Any = [{"role": "system", "content": content}, {"role": "user", "content": secrets.token_hex(2_000)}]
    usage = desk.openai.chat.completions.create(model=model, messages=messages, **body).usage
    assert usage and usage.prompt_tokens_details
    return usage.prompt_tokens_details.cached_tokens or 0, usage.prompt_tokens_details.cache_write_tokens or 0


def test_an_equal_prefix_is_read_in_steps_of_128_tokens(desk: Desk) -> None:
    assert [_cached(desk, "x" * 8_000) for _ in range(2)] == [(0, 0), (1_920, 0)]
    assert [_cached(desk, "y" * 4_000) for _ in range(2)] == [(0, 0), (0, 0)], "1,024 tokens at least"
    desk.emulator.advance(601)
    assert _cached(desk, "x" * 8_000) == (0, 0)
    assert sum(one.cached_tokens for one in desk.emulator.bill()) == 1_920


def test_a_newer_model_reads_only_what_ends_at_a_breakpoint_and_bills_what_it_writes(desk: Desk) -> None:
    """Left to itself it sets one behind the last message: another one's question finds nothing."""
    newer, explicit = "gpt-5.6", {"mode": "explicit"}
    marked = [{"type": "text", "text": "x" * 8_000, "prompt_cache_breakpoint": explicit}]
    assert [_cached(desk, "x" * 8_000, newer) for _ in range(2)] == [(0, 3_008)] * 2
    options: Any = {"prompt_cache_options": explicit}
    assert [_cached(desk, "x" * 8_000, newer, **options) for _ in range(2)] == [(0, 0)] * 2
    assert [_cached(desk, marked, newer, **options) for _ in range(2)] == [(0, 2_004), (2_004, 0)]


def test_same_body_gets_the_same_answer(desk: Desk) -> None:
    ask = {"model": "gpt-5", "input": "hi"}
    assert desk.openai.responses.create(**ask).output_text == desk.openai.responses.create(**ask).output_text  # type: ignore[call-overload]


def test_answer_is_cut_at_max_completion_tokens(desk: Desk) -> None:
    chat = desk.openai.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "hi"}], max_completion_tokens=2)
    assert (chat.choices[0].finish_reason, chat.usage and chat.usage.completion_tokens) == ("length", 2)


def test_counts_grow_with_the_clock(slow_desk: Desk) -> None:
    batch_id = slow_desk.chat_batch(10)
    slow_desk.emulator.advance(35)
    running = slow_desk.openai.batches.retrieve(batch_id)
    assert (running.status, running.request_counts and running.request_counts.completed) == ("in_progress", 3)
    assert len(slow_desk.emulator.bill()) == 3
    slow_desk.emulator.advance(65)
    assert slow_desk.openai.batches.retrieve(batch_id).status == "completed"


def test_batch_passes_through_validating_and_finalizing(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk(latency_s=100, validate_s=10, finalize_s=10)
    batch_id = desk.chat_batch(2)
    seen = [desk.openai.batches.retrieve(batch_id).status]
    for span in (10, 100, 10):
        desk.emulator.advance(span)
        seen.append(desk.openai.batches.retrieve(batch_id).status)
    assert seen == ["validating", "in_progress", "finalizing", "completed"]


def test_cancelled_batch_hands_out_and_bills_what_was_done(slow_desk: Desk) -> None:
    batch_id = slow_desk.chat_batch(10)
    slow_desk.emulator.advance(20)
    assert slow_desk.openai.batches.cancel(batch_id).status == "cancelling"
    assert slow_desk.openai.batches.retrieve(batch_id).status == "cancelling"
    slow_desk.emulator.advance(10)
    assert slow_desk.openai.batches.retrieve(batch_id).status == "cancelled"
    done = {one["custom_id"] for one in slow_desk.output(batch_id)}
    undone = {one["custom_id"] for one in slow_desk.errors(batch_id)}
    assert (len(done), len(undone), done & undone) == (3, 7, set())
    assert {one.custom_id for one in slow_desk.emulator.bill()} == done


def test_ended_batch_cannot_be_cancelled(desk: Desk) -> None:
    batch_id = desk.chat_batch(1)
    with pytest.raises(openai.ConflictError):
        desk.openai.batches.cancel(batch_id)


def test_batch_that_needs_longer_expires_with_what_was_done(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk(latency_s=2 * 86_400)
    batch_id = desk.chat_batch(10)
    desk.emulator.advance(86_400)
    batch = desk.openai.batches.retrieve(batch_id)
    assert batch.status == "expired" and batch.request_counts and batch.request_counts.failed == 0
    assert len(desk.output(batch_id)) == 5
    assert {one["error"]["code"] for one in desk.errors(batch_id)} == {"batch_expired"}
    assert len(desk.emulator.bill()) == 5


def test_bill_equals_the_sum_of_usages(desk: Desk) -> None:
    batch_id = desk.chat_batch(20)
    usages = [one["response"]["body"]["usage"] for one in desk.output(batch_id)]
    total = desk.emulator.bill_summary()[0]
    assert (total.rows, total.input_tokens) == (20, sum(usage["prompt_tokens"] for usage in usages))
    assert total.output_tokens == sum(usage["completion_tokens"] for usage in usages)
    usage = desk.openai.batches.retrieve(batch_id).usage
    assert usage and usage.total_tokens == total.input_tokens + total.output_tokens


def test_batches_are_listed_newest_first_in_pages(desk: Desk) -> None:
    made = [desk.chat_batch(1) for _ in range(5)]
    first = desk.openai.batches.list(limit=2)
    assert [one.id for one in first.data] == made[:-3:-1] and first.has_more
    assert [one.id for one in desk.openai.batches.list(limit=2)] == made[::-1]


def test_files_are_listed_fetched_in_ranges_and_deleted(desk: Desk) -> None:
    file_id = desk.upload(b"0123456789", "some.jsonl")
    assert [one.filename for one in desk.openai.files.list(purpose="batch")] == ["some.jsonl"]
    part = desk.openai.files.content(file_id, extra_headers={"Range": "bytes=2-4"})
    assert (part.response.status_code, part.content) == (206, b"234")
    assert desk.openai.files.delete(file_id).deleted
    with pytest.raises(openai.NotFoundError):
        desk.openai.files.retrieve(file_id)


def test_file_expires_by_the_clock(desk: Desk) -> None:
    file = desk.openai.files.create(file=("a.jsonl", b"{}"), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600})
    desk.emulator.advance(3600)
    with pytest.raises(openai.NotFoundError):
        desk.openai.files.retrieve(file.id)


def test_upload_must_be_called_jsonl(desk: Desk) -> None:
    with pytest.raises(openai.BadRequestError, match=r"Must be \.jsonl"):
        desk.upload(b"{}", "in.json")


def test_create_refuses_an_input_file_that_is_not_there(desk: Desk) -> None:
    with pytest.raises(openai.BadRequestError, match="No such File object"):
        desk.openai.batches.create(input_file_id="file-x", endpoint="/v1/responses", completion_window="24h")


@pytest.mark.parametrize(
    "wrong",
    [{"endpoint": "/v1/nope"}, {"completion_window": "1h"}, {"metadata": {"k": "v" * 513}}],
    ids=["endpoint", "window", "metadata"],
)
def test_create_refuses_wrong_parameters(desk: Desk, wrong: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError):
        desk.create(chat_lines(1), **wrong)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty_file"),
        (b"not json", "invalid_json_line"),
        (chat_lines(1) + b"\n" + chat_lines(1), "duplicate_custom_id"),
        (line(0, "/v1/responses", {"model": "m"}), "url_mismatch"),
        (chat_lines(1) + b"\n" + line(1, "/v1/chat/completions", {"model": "other"}), "model_mismatch"),
        (chat_lines(1, model="does-not-exist"), "model_not_found"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_validation_failure_arrives_after_create(desk: Desk, content: bytes, code: str) -> None:
    batch = desk.openai.batches.retrieve(desk.create(content))
    assert batch.status == "failed" and batch.errors and batch.errors.data
    assert batch.errors.data[0].code == code
    assert desk.emulator.bill() == []


def test_input_deleted_before_validation_fails_the_batch(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk(validate_s=10)
    file_id = desk.upload(chat_lines(2))
    batch = desk.openai.batches.create(input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h")
    desk.openai.files.delete(file_id)
    desk.emulator.advance(10)
    assert desk.openai.batches.retrieve(batch.id).status == "failed"
    assert desk.emulator.bill() == []


def test_full_queue_fails_the_batch_until_the_earlier_one_has_ended(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk(latency_s=100, enqueued_token_limit=len(chat_lines(10)) // 4 + 10)
    desk.chat_batch(10)
    second = desk.openai.batches.retrieve(desk.chat_batch(10))
    assert second.errors and second.errors.data and second.errors.data[0].code == "token_limit_exceeded"
    desk.emulator.advance(100)
    assert desk.openai.batches.retrieve(desk.chat_batch(10)).status == "in_progress"


def test_bad_row_stands_in_the_error_file_unpaid(desk: Desk) -> None:
    bad = line(7, "/v1/chat/completions", {"model": "gpt-5-mini"})
    batch_id = desk.create(chat_lines(2) + b"\n" + bad)
    (error,) = desk.errors(batch_id)
    assert (error["custom_id"], error["response"]["status_code"], error["error"]) == ("r-7", 400, None)
    assert "messages" in error["response"]["body"]["error"]["message"]
    assert len(desk.emulator.bill()) == 2


def test_streaming_is_refused(desk: Desk) -> None:
    with pytest.raises(openai.BadRequestError):
        desk.openai.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "x"}], stream=True)


def test_unknown_model_is_not_found(desk: Desk) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        desk.openai.responses.create(model="does-not-exist", input="x")
    assert raised.value.code == "model_not_found"


def test_wrong_key_is_an_authentication_error(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk(api_keys={"good-key"})
    assert desk.openai.models.list().data
    with pytest.raises(openai.AuthenticationError):
        desk.openai.with_options(api_key="bad-key").models.list()


def test_a_schema_that_is_refused_is_refused_row_by_row_and_in_responses_by_its_own_words(desk: Desk) -> None:
    """In a batch nobody looks before the rows are asked; each is told in the error file, and none is billed."""
    bad = {**SCHEMA, "properties": {**SCHEMA["properties"], "link": {"type": "string", "format": "uri"}}}  # type: ignore[dict-item]
    form: Any = {"type": "json_schema", "name": "x", "schema": {**bad, "required": [*bad["properties"]]}, "strict": True}
    with pytest.raises(openai.BadRequestError) as caught:
        desk.openai.responses.create(model="gpt-5", input="hi", text={"format": form})
    said = "Invalid schema for response_format 'x': In context=('properties', 'link'), 'uri' is not a valid format."
    assert caught.value.body == {
        "message": said,
        "type": "invalid_request_error",
        "param": "text.format.schema",
        "code": "invalid_json_schema",
    }
    body = {"model": "gpt-5", "input": "hi", "text": {"format": form}}
    asked = {"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": body}
    batch_id = desk.create(json.dumps(asked).encode() + b"\n", endpoint="/v1/responses")
    desk.emulator.advance(25 * 3600)
    [row] = read(desk.content(desk.openai.batches.retrieve(batch_id).error_file_id))
    assert (row["response"]["status_code"], row["response"]["body"]["error"]["message"]) == (400, said)
    assert desk.emulator.bill() == []
