"""The Anthropic dialect, through the official SDK."""

import json
from collections.abc import Callable
from typing import Any

import anthropic
import jsonschema
import pytest

from .conftest import SCHEMA, Desk, message_params


def results(desk: Desk, batch_id: str) -> list[Any]:
    return list(desk.anthropic.messages.batches.results(batch_id))


def test_message_batch_answers_every_request(desk: Desk) -> None:
    batch_id = desk.message_batch(4, output_config={"format": {"type": "json_schema", "schema": SCHEMA}})
    answers = results(desk, batch_id)
    assert {one.custom_id for one in answers} == {f"r-{n}" for n in range(4)}
    for one in answers:
        assert one.result.message.usage.service_tier == "batch"
        jsonschema.validate(json.loads(one.result.message.content[0].text), SCHEMA)


def test_counts_stay_at_zero_until_all_has_ended(slow_desk: Desk) -> None:
    batch_id = slow_desk.message_batch(4)
    slow_desk.emulator.advance(50)
    running = slow_desk.anthropic.messages.batches.retrieve(batch_id)
    assert (running.request_counts.processing, running.request_counts.succeeded, running.results_url) == (4, 0, None)
    slow_desk.emulator.advance(50)
    ended = slow_desk.anthropic.messages.batches.retrieve(batch_id)
    assert (ended.processing_status, ended.request_counts.processing, ended.request_counts.succeeded) == ("ended", 0, 4)


def test_canceled_batch_ends_with_what_was_done(slow_desk: Desk) -> None:
    batch_id = slow_desk.message_batch(10)
    slow_desk.emulator.advance(20)
    assert slow_desk.anthropic.messages.batches.cancel(batch_id).processing_status == "canceling"
    slow_desk.emulator.advance(10)
    kinds = [one.result.type for one in results(slow_desk, batch_id)]
    assert (kinds.count("succeeded"), kinds.count("canceled")) == (3, 7)
    assert len(slow_desk.emulator.bill()) == 3


def test_expired_requests_are_not_billed(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk(latency_s=2 * 86_400)
    batch_id = desk.message_batch(4)
    desk.emulator.advance(86_400)
    assert desk.anthropic.messages.batches.retrieve(batch_id).request_counts.expired == 2
    assert sorted(one.result.type for one in results(desk, batch_id)) == ["expired"] * 2 + ["succeeded"] * 2
    assert len(desk.emulator.bill()) == 2


def test_wrong_params_show_only_in_the_results(desk: Desk) -> None:
    batch_id = desk.message_batch(2, max_tokens=0)
    kinds = {one.result.type: one.result.error.error.type for one in results(desk, batch_id)}
    assert kinds == {"errored": "invalid_request_error"}
    assert desk.emulator.bill() == []


@pytest.mark.parametrize("custom_id", ["x" * 65, "a b", ""])
def test_custom_id_is_checked_at_create(desk: Desk, custom_id: str) -> None:
    requests: Any = [{"custom_id": custom_id, "params": message_params(0)}]
    with pytest.raises(anthropic.BadRequestError, match=r"requests.0.custom_id: String should"):
        desk.anthropic.messages.batches.create(requests=requests)


def test_custom_ids_are_unique(desk: Desk) -> None:
    requests: Any = [{"custom_id": "same", "params": message_params(0)}] * 2
    with pytest.raises(anthropic.BadRequestError, match=r"requests\.1\.custom_id"):
        desk.anthropic.messages.batches.create(requests=requests)


def test_first_request_writes_the_cache_and_later_ones_read_it(desk: Desk) -> None:
    block = {"type": "text", "text": "x" * 20_000, "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    usages = [one.result.message.usage for one in results(desk, desk.message_batch(3, system=[block]))]
    assert [usage.cache_creation_input_tokens for usage in usages] == [5000, 0, 0]
    assert [usage.cache_read_input_tokens for usage in usages] == [0, 5000, 5000]
    bill = desk.emulator.bill()
    assert (sum(one.cache_write_1h_tokens for one in bill), sum(one.cached_tokens for one in bill)) == (5000, 10_000)
    assert sum(one.input_tokens for one in bill) == sum(usage.input_tokens for usage in usages)


def test_both_headers_carry_the_key(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk(api_keys={"good-key"})
    old = desk.anthropic.with_options(default_headers={"authorization": "", "x-api-key": "good-key"})
    assert old.messages.batches.list().data == [] and desk.anthropic.messages.batches.list().data == []
    with pytest.raises(anthropic.AuthenticationError):
        desk.anthropic.with_options(api_key="bad").messages.batches.list()


def test_batches_are_listed_newest_first_in_pages(desk: Desk) -> None:
    made = [desk.message_batch(1) for _ in range(5)]
    assert [one.id for one in desk.anthropic.messages.batches.list(limit=2)] == made[::-1]
    assert [one.id for one in desk.anthropic.messages.batches.list(before_id=made[2]).data] == made[:2:-1]


def test_only_an_ended_batch_can_be_deleted(slow_desk: Desk) -> None:
    batch_id = slow_desk.message_batch(1)
    with pytest.raises(anthropic.BadRequestError):
        slow_desk.anthropic.messages.batches.delete(batch_id)
    slow_desk.emulator.advance(100)
    assert slow_desk.anthropic.messages.batches.delete(batch_id).type == "message_batch_deleted"
    with pytest.raises(anthropic.NotFoundError):
        slow_desk.anthropic.messages.batches.retrieve(batch_id)


def test_message_and_count_tokens_agree(desk: Desk) -> None:
    messages: Any = [{"role": "user", "content": "How are you?"}]
    message = desk.anthropic.messages.create(model="claude-haiku-4-5", max_tokens=2, messages=messages)
    counted = desk.anthropic.messages.count_tokens(model="claude-haiku-4-5", messages=messages)
    assert (message.usage.input_tokens, message.stop_reason) == (counted.input_tokens, "max_tokens")


def test_overload_is_an_overloaded_error(desk: Desk) -> None:
    desk.fault("realtime", "status", status=529)
    with pytest.raises(anthropic.OverloadedError):
        desk.anthropic.messages.create(**message_params(0))
