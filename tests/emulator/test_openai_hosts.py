"""Hosts that copied OpenAI's API, driven by OpenAI's SDK: what is their own."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import openai
import pytest

from tests.emulator.conftest import Desk, chat_lines

OTHERS = ("together", "openrouter", "xai", "fireworks", "deepinfra")


def sdk(desk: Desk, kind: str, api_key: str | None = None) -> openai.OpenAI:
    return openai.OpenAI(base_url=desk.emulator.url_of(kind), api_key=api_key or desk.emulator.api_key, max_retries=0)


def groq_batch(client: openai.OpenAI, **create: Any) -> Any:
    file = client.files.create(file=("in.jsonl", chat_lines(4, model="openai/gpt-oss-20b")), purpose="batch")
    return client.batches.create(**{"input_file_id": file.id, "endpoint": "/v1/chat/completions", "completion_window": "24h", **create})


def test_a_window_of_groq_may_be_a_week(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk(latency_s=10 * 86_400)
    client = sdk(desk, "groq")
    made = groq_batch(client, completion_window="7d")
    assert made.completion_window == "168h"
    desk.emulator.advance(timedelta(days=6))
    assert client.batches.retrieve(made.id).status == "in_progress"
    desk.emulator.advance(timedelta(days=1))
    assert client.batches.retrieve(made.id).status == "expired"
    with pytest.raises(openai.BadRequestError, match="Invalid value: '25h'"):
        groq_batch(client, completion_window="25h")


def test_the_list_of_groq_is_one_reply(desk: Desk) -> None:
    client = sdk(desk, "groq")
    made = [groq_batch(client).id for _ in range(3)]
    reply = client.batches.with_raw_response.list(limit=1, after=made[1])
    assert [batch.id for batch in reply.parse().data] == made[::-1]
    assert "has_more" not in reply.http_response.json()


def test_groq_has_batches_of_chat_completions_only(desk: Desk) -> None:
    with pytest.raises(openai.BadRequestError, match="Invalid value: '/v1/responses'"):
        groq_batch(sdk(desk, "groq"), endpoint="/v1/responses")


@pytest.mark.parametrize("kind", OTHERS)
def test_the_others_answer_at_once_and_have_no_batches(desk: Desk, kind: str) -> None:
    client = sdk(desk, kind)
    model = client.models.list().data[0].id
    assert client.chat.completions.create(model=model, messages=[{"role": "user", "content": "hi"}]).choices[0].message.content
    assert [entry.provider for entry in desk.emulator.bill()] == [kind]
    with pytest.raises(openai.NotFoundError):
        client.batches.list()


@pytest.mark.parametrize("kind", OTHERS)
def test_the_others_need_a_key(open_desk: Callable[..., Desk], kind: str) -> None:
    desk = open_desk(api_keys=["right"])
    refused = openai.BadRequestError if kind == "xai" else openai.AuthenticationError
    with pytest.raises(refused):
        sdk(desk, kind, "wrong").models.list()
