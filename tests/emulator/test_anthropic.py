"""The Anthropic dialect, through the official SDK."""

import json
from collections.abc import Callable
from typing import Any

import anthropic
import jsonschema
import pytest

from keld.emulator.cache import Piece, PromptCache, Use, tick
from keld.emulator.dialect import Conditions
from tests.emulator.conftest import PLAIN, Desk, message_params


def results(desk: Desk, batch_id: str) -> list[Any]:
    return list(desk.anthropic.messages.batches.results(batch_id))


def test_message_batch_answers_every_request(desk: Desk) -> None:
    batch_id = desk.message_batch(4, output_config={"format": {"type": "json_schema", "schema": PLAIN}})
    answers = results(desk, batch_id)
    assert {one.custom_id for one in answers} == {f"r-{n}" for n in range(4)}
    for one in answers:
        assert one.result.message.usage.service_tier == "batch"
        jsonschema.validate(json.loads(one.result.message.content[0].text), PLAIN)


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


def _written_and_read(desk: Desk, batch_id: str) -> list[tuple[int | None, int | None]]:
    usages = [one.result.message.usage for one in results(desk, batch_id)]
    return [(usage.cache_creation_input_tokens, usage.cache_read_input_tokens) for usage in usages]


def test_rows_of_a_cold_batch_run_side_by_side_and_all_write_and_those_of_the_next_one_read(desk: Desk) -> None:
    """As measured in github.com/anthropics/skills/issues/1475: 0 % of five cold batches, all of a batch behind a batch of one."""
    assert _written_and_read(desk, desk.message_batch(3, system=[_marked(20_000, ttl="1h")])) == [(5_000, 0)] * 3
    assert _written_and_read(desk, desk.message_batch(3, system=[_marked(20_000, ttl="1h")])) == [(0, 5_000)] * 3
    bill = desk.emulator.bill()
    assert (sum(one.cache_write_1h_tokens for one in bill), sum(one.cached_tokens for one in bill)) == (15_000, 15_000)


@pytest.mark.parametrize(("ttl", "reads"), [("5m", False), ("1h", True)])
def test_a_batch_of_one_keeps_the_cache_warm_for_its_time_only(slow_desk: Desk, ttl: str, reads: bool) -> None:
    slow_desk.message_batch(1, system=[_marked(20_000, ttl=ttl)])
    slow_desk.emulator.advance(100 + 310)
    batch_id = slow_desk.message_batch(2, system=[_marked(20_000, ttl=ttl)])
    slow_desk.emulator.advance(100)
    assert _written_and_read(slow_desk, batch_id) == [(0, 5_000) if reads else (5_000, 0)] * 2


def test_a_batch_that_begins_before_another_has_answered_writes_too(slow_desk: Desk) -> None:
    both = [slow_desk.message_batch(2, system=[_marked(20_000, ttl="1h")]) for _ in range(2)]
    slow_desk.emulator.advance(100)
    assert [_written_and_read(slow_desk, one) for one in both] == [[(5_000, 0)] * 2] * 2


def test_batches_and_calls_that_are_answered_at_once_have_caches_apart(desk: Desk) -> None:
    """A call wrote the beginning and a batch sent a second later read nothing of it (github.com/anthropics/skills/issues/1475)."""
    assert _usage(desk, system=[_marked(20_000, ttl="1h")])[1:] == (5_000, 0)
    assert _written_and_read(desk, desk.message_batch(1, system=[_marked(20_000, ttl="1h")])) == [(5_000, 0)]
    assert _usage(desk, system=[_marked(20_000, ttl="1h")])[1:] == (0, 5_000)


def test_calls_that_arrive_before_the_first_answer_all_write() -> None:
    cache, pieces = PromptCache(), [Piece(b"x" * 20_000, 5_000, "5m")]
    together = [Conditions(0.0, batch=False, arrived=tick()) for _ in range(3)]
    assert [cache.marked("m", pieces, 1_024, one) for one in together] == [Use(written=5_000)] * 3
    assert cache.marked("m", pieces, 1_024, Conditions(0.0, batch=False, arrived=tick())) == Use(read=5_000)


def _marked(size: int, **control: str) -> dict[str, Any]:
    return {"type": "text", "text": "x" * size, "cache_control": {"type": "ephemeral", **control}}


def _usage(desk: Desk, **params: Any) -> tuple[int, int, int]:
    """(input that is not cached, written, read) of one message."""
    usage = desk.anthropic.messages.create(**message_params(0) | params).usage
    return usage.input_tokens, usage.cache_creation_input_tokens or 0, usage.cache_read_input_tokens or 0


@pytest.mark.parametrize(("model", "least"), [("claude-haiku-4-5", 4_096), ("claude-sonnet-4-5", 1_024), ("claude-opus-5", 512)])
def test_a_prefix_that_is_too_short_is_not_kept_and_nothing_says_so(desk: Desk, model: str, least: int) -> None:
    short, enough = ({"model": model, "system": [_marked(size)]} for size in (least * 4 - 4, least * 4))
    assert [_usage(desk, **short)[1:] for _ in range(2)] == [(0, 0), (0, 0)]
    assert [_usage(desk, **enough)[1:] for _ in range(2)] == [(least, 0), (0, least)]


@pytest.mark.parametrize(("ttl", "lasts_s"), [("5m", 300), ("1h", 3_600)])
def test_a_prefix_is_warm_for_its_time_which_each_read_prolongs(desk: Desk, ttl: str, lasts_s: int) -> None:
    reads = []
    for wait_s in (0, lasts_s - 10, lasts_s - 10, lasts_s + 10):
        desk.emulator.advance(wait_s)
        reads.append(bool(_usage(desk, system=[_marked(20_000, ttl=ttl)])[2]))
    assert reads == [False, True, True, False]


def test_tools_and_schema_belong_to_the_prefix(desk: Desk) -> None:
    form = {"output_config": {"format": {"type": "json_schema", "schema": PLAIN}}}
    assert _usage(desk, system=[_marked(20_000)])[1] == 5_000
    _, written, read = _usage(desk, system=[_marked(20_000)], **form)
    assert (written > 5_000, read) == (True, 0)
    assert _usage(desk, system=[_marked(20_000)], **form)[2] == written


def test_the_longest_warm_prefix_is_read_and_what_lies_behind_it_written(desk: Desk) -> None:
    said = [{"role": "user", "content": [_marked(8_000)]}]
    assert _usage(desk, system=[_marked(20_000, ttl="1h")])[1:] == (5_000, 0)
    fresh, written, read = _usage(desk, system=[_marked(20_000, ttl="1h")], messages=said)
    assert (fresh, written, read) == (0, 2_004, 5_000)
    assert _usage(desk, system=[_marked(20_000, ttl="1h")], messages=said) == (0, 0, 7_004)


def test_a_mark_on_the_whole_request_is_one_on_its_last_block(desk: Desk) -> None:
    assert _usage(desk, system="x" * 20_000, cache_control={"type": "ephemeral"}) == (0, 5_000 + 2 + 4, 0)


def test_a_cache_that_is_missed_is_written_again_and_billed(desk: Desk) -> None:
    desk.message_batch(1, system=[_marked(20_000)])
    desk.fault("rows", "cache_miss", fraction=0.5)
    usages = [one.result.message.usage for one in results(desk, desk.message_batch(4, system=[_marked(20_000)]))]
    assert [usage.cache_creation_input_tokens for usage in usages] == [0, 5_000, 0, 5_000]
    assert sum(one.cache_write_tokens for one in desk.emulator.bill()) == 15_000


def test_more_than_four_marks_are_refused(desk: Desk) -> None:
    with pytest.raises(anthropic.BadRequestError, match="maximum of 4 blocks"):
        _usage(desk, system=[_marked(10)] * 5)


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
