"""The emulator's host without batches: OpenAI's bodies, errors of its own, and 404 where OpenAI has files and batches."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.emulator.conftest import FORMAT, Desk


@pytest.fixture
def host(desk: Desk) -> openai.OpenAI:
    return openai.OpenAI(base_url=desk.emulator.url_of("openai_compatible"), api_key="any", max_retries=0)


def said(url: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
    """The status and the JSON of a call without a key."""
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, {"content-type": "application/json"})) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_chat_is_answered_and_billed_to_this_kind(desk: Desk, host: openai.OpenAI) -> None:
    answer = host.chat.completions.create(
        model="gpt-oss-120b", messages=[{"role": "user", "content": "Where is my invoice?"}], response_format=FORMAT
    )  # type: ignore[call-overload]  # a plain dict
    assert set(json.loads(answer.choices[0].message.content)) == {"category", "urgency"}
    (paid,) = desk.emulator.bill()
    assert (paid.provider, paid.lane, paid.model) == ("openai_compatible", "standard", "gpt-oss-120b")


def test_responses_and_embeddings_are_answered(host: openai.OpenAI) -> None:
    assert host.responses.create(model="gpt-oss-120b", input="hello").output_text
    assert host.embeddings.create(model="e5", input=["a", "b"]).data[1].embedding


def test_there_are_no_batches_and_no_files(desk: Desk) -> None:
    for path in ("/batches", "/files", "/batches/batch_1"):
        assert said(desk.emulator.url_of("openai_compatible") + path) == (404, {"detail": "Not Found"})
    assert [call.status for call in desk.emulator.requests()] == [404] * 3


def test_no_key_is_needed_unless_the_emulator_has_one(desk: Desk, open_desk: Callable[..., Desk]) -> None:
    assert said(desk.emulator.url_of("openai_compatible") + "/models")[0] == 200
    assert said(open_desk(api_keys=["sk-a"]).emulator.url_of("openai_compatible") + "/models")[0] == 401


def test_code_of_an_error_is_its_status(desk: Desk) -> None:
    url = desk.emulator.url_of("openai_compatible") + "/chat/completions"
    status, body = said(url, {"model": "gpt-oss-120b"})
    assert (status, body["error"]["code"], body["error"]["type"]) == (400, 400, "BadRequestError")
    desk.fault("realtime", "status", status=503, match={"provider": "openai_compatible"})
    assert said(url, {"model": "gpt-oss-120b", "messages": []})[1]["error"]["code"] == 503


def test_environment_leads_nobody_here(desk: Desk) -> None:
    """Its clients are given an address; a variable would lead OpenAI's here."""
    assert not [name for name, value in desk.emulator.env().items() if "/openai_compatible" in value]
