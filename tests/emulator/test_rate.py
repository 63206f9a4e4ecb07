"""Rate limits of realtime calls: refused as the services refuse, told in their headers, refilled by the emulator's clock."""

import time
from collections.abc import Callable
from typing import Any

import anthropic
import openai
import pytest

from tests.emulator.conftest import Desk, message_params

CHAT: dict[str, Any] = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "Hello"}], "max_completion_tokens": 100}


def test_openai_tells_what_is_left_and_refuses_what_is_too_much(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk(requests_per_minute=2, tokens_per_minute=100_000)
    told = [desk.openai.chat.completions.with_raw_response.create(**CHAT).headers for _ in range(2)]
    assert [headers["x-ratelimit-remaining-requests"] for headers in told] == ["1", "0"]
    assert [headers["x-ratelimit-reset-requests"] for headers in told] == ["30s", "1m0s"]
    assert int(told[1]["x-ratelimit-remaining-tokens"]) < 100_000 - 200
    with pytest.raises(openai.RateLimitError) as refused:
        desk.openai.chat.completions.create(**CHAT)
    assert refused.value.code == "rate_limit_exceeded"
    assert refused.value.response.headers["retry-after"] == "30"
    assert refused.value.response.headers["x-ratelimit-remaining-requests"] == "0"
    assert len(desk.emulator.bill()) == 2
    desk.emulator.advance(30)
    desk.openai.chat.completions.create(**CHAT)


def test_anthropic_tells_an_instant_by_the_clock_in_its_date(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk(requests_per_minute=2)
    desk.emulator.advance(86_400)
    raw = desk.anthropic.messages.with_raw_response.create(**message_params(1))
    assert (raw.headers["anthropic-ratelimit-requests-limit"], raw.headers["anthropic-ratelimit-requests-remaining"]) == ("2", "1")
    date = time.strftime("%Y-%m-%dT%H", time.strptime(raw.headers["date"], "%a, %d %b %Y %H:%M:%S GMT"))
    assert raw.headers["anthropic-ratelimit-requests-reset"][:11] == date[:11]
    desk.anthropic.messages.create(**message_params(2))
    with pytest.raises(anthropic.RateLimitError) as refused:
        desk.anthropic.messages.create(**message_params(3))
    assert refused.value.response.headers["retry-after"] == "30"


def test_tokens_are_limited_by_what_a_call_may_take(open_desk: Callable[..., Desk]) -> None:
    """As reckoned at the door: the body, and the most the answer may have."""
    desk = open_desk(tokens_per_minute=200)
    desk.openai.chat.completions.create(**CHAT)
    with pytest.raises(openai.RateLimitError):
        desk.openai.chat.completions.create(**CHAT)


def test_each_model_has_limits_of_its_own(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk(requests_per_minute=1)
    desk.openai.chat.completions.create(**CHAT)
    desk.openai.chat.completions.create(**{**CHAT, "model": "gpt-5-nano"})
    with pytest.raises(openai.RateLimitError):
        desk.openai.chat.completions.create(**CHAT)


def test_batches_have_no_part_in_it(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk(requests_per_minute=1)
    assert len(desk.output(desk.chat_batch(5))) == 5


def test_a_flex_request_is_answered_and_billed_in_flex(desk: Desk) -> None:
    said = desk.openai.chat.completions.create(**CHAT, service_tier="flex")
    assert said.service_tier == "flex"
    desk.fault("rows", "standard_tier")
    assert desk.openai.chat.completions.create(**CHAT, service_tier="flex").service_tier == "default"
    assert [entry.lane for entry in desk.emulator.bill()] == ["flex", "standard"]
