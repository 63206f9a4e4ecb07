"""The emulator's engine of one's own: the official SDKs' dialects, its names, its slots, and a queue that is full."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anthropic
import openai
import pytest

from keld.emulator import Emulator, Engine
from tests.emulator.conftest import FORMAT, Desk

HELLO: Any = [{"role": "user", "content": "Where is my invoice?"}]


@pytest.fixture
def desk(open_desk: Callable[..., Desk]) -> Desk:
    return open_desk(engine=Engine(slots=2, queue=1, models=("smol",)))


@pytest.fixture
def host(desk: Desk) -> openai.OpenAI:
    return openai.OpenAI(base_url=desk.emulator.url_of("self_hosted"), api_key="any", max_retries=0)


def said(emulator: Emulator, path: str) -> tuple[int, str]:
    """The status and the text of a page beside the base URL."""
    url = emulator.url_of("self_hosted").removesuffix("/v1") + path
    try:
        with urllib.request.urlopen(url) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_sdks_of_openai_and_of_anthropic_drive_it(desk: Desk, host: openai.OpenAI) -> None:
    chat = host.chat.completions.create(model="smol", messages=HELLO, response_format=FORMAT)  # type: ignore[call-overload]  # a plain dict
    assert set(json.loads(chat.choices[0].message.content)) == {"category", "urgency"}
    assert host.responses.create(model="smol", input="hello").output_text
    assert len(host.embeddings.create(model="smol", input=["a", "b"]).data) == 2
    root = desk.emulator.url_of("self_hosted").removesuffix("/v1")
    message = anthropic.Anthropic(base_url=root, api_key="any", max_retries=0).messages.create(model="smol", max_tokens=64, messages=HELLO)
    assert message.usage.output_tokens
    assert {entry.provider for entry in desk.emulator.bill()} == {"self_hosted"}


def test_only_the_models_that_it_has_are_answered(host: openai.OpenAI) -> None:
    assert [model.id for model in host.models.list()] == ["smol"]
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        host.chat.completions.create(model="other", messages=HELLO)


def test_it_tells_its_slots_and_how_busy_it_is(desk: Desk) -> None:
    assert json.loads(said(desk.emulator, "/props")[1]) == {"total_slots": 2}
    status, text = said(desk.emulator, "/metrics")
    assert status == 200
    assert 'vllm:num_requests_running{engine="0"} 0.0' in text


def test_without_an_engine_nothing_is_told_and_nothing_is_full(open_desk: Callable[..., Desk]) -> None:
    emulator = open_desk().emulator
    assert said(emulator, "/props")[0] == said(emulator, "/metrics")[0] == 404
    assert json.loads(said(emulator, "/v1/batches")[1]) == {"detail": "Not Found"}


def test_a_request_beyond_slots_and_queue_is_refused_and_not_paid(open_desk: Callable[..., Desk]) -> None:
    """Two run and one waits; whoever comes then gets 503."""
    desk = open_desk(engine=Engine(slots=2, queue=1, step_s=0.02))
    host = openai.OpenAI(base_url=desk.emulator.url_of("self_hosted"), api_key="any", max_retries=0)

    def ask(_: int) -> int:
        try:
            host.chat.completions.create(model="e5", messages=HELLO)
        except openai.InternalServerError as error:
            assert error.status_code == 503
            return 503
        return 200

    with ThreadPoolExecutor(16) as threads:
        found = Counter(threads.map(ask, range(16)))
    assert found[200] >= 3
    assert found[200] + found[503] == 16
    assert len(desk.emulator.bill()) == found[200]
