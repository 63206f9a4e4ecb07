"""The emulator as a thing: start, stop, control, refusal of open hosts, the command line, the fixture."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import openai
import pytest

from keld.emulator import Emulator
from tests.emulator.conftest import Desk


def control(url: str, body: object = None, method: str | None = None, token: str | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"authorization": f"Bearer {token}"} if token else {}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method)) as answer:
        return json.load(answer)


def test_open_host_is_refused_without_a_token() -> None:
    with pytest.raises(ValueError, match="give a token"):
        Emulator(host="0.0.0.0")


def test_token_is_asked_of_every_request(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk(host="0.0.0.0", token="secret")
    assert desk.openai.models.list().data
    with pytest.raises(openai.AuthenticationError):
        desk.openai.with_options(api_key="other").models.list()
    assert control(desk.emulator.url + "/_keld/bill", token="secret") == []
    with pytest.raises(urllib.error.HTTPError, match="401"):
        control(desk.emulator.url + "/_keld/bill")


def test_control_bill_and_its_summary(desk: Desk) -> None:
    desk.output(desk.chat_batch(3))
    bill = control(desk.emulator.url + "/_keld/bill")
    assert len(bill) == 3 and set(bill[0]) >= {"provider", "batch_id", "custom_id", "body_sha256", "lane", "at"}
    (total,) = control(desk.emulator.url + "/_keld/bill?summary=1")
    assert (total["rows"], total["input_tokens"]) == (3, sum(entry["input_tokens"] for entry in bill))


def test_control_clock(desk: Desk) -> None:
    before = desk.emulator.now()
    control(desk.emulator.url + "/_keld/clock", {"advance_s": 90})
    assert desk.emulator.now() - before == timedelta(seconds=90)


def test_control_faults(desk: Desk) -> None:
    url = desk.emulator.url + "/_keld/faults"
    control(url, {"rules": [{"at": "list", "do": "status"}]})
    with pytest.raises(openai.InternalServerError):
        desk.openai.batches.list()
    told = control(url)
    assert (told["rules"][0]["hits"], told["log"][0]["do"]) == (1, "status")
    assert control(url, method="DELETE")["rules"] == []
    with pytest.raises(urllib.error.HTTPError, match="400"):
        control(url, {"rules": [{"at": "nowhere", "do": "status"}]})


def test_control_objects_and_requests(desk: Desk) -> None:
    batch_id = desk.chat_batch(1)
    assert control(desk.emulator.url + "/_keld/objects")["batches"][0]["id"] == batch_id
    calls = [(call["method"], call["path"]) for call in control(desk.emulator.url + "/_keld/requests")]
    assert calls == [("POST", "/v1/files"), ("POST", "/v1/batches")]


def test_responder_answers_instead(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk(responder=lambda body: {"said": body["input"]})
    assert desk.openai.responses.create(model="gpt-5", input="echo").output_text == '{"said":"echo"}'


def test_env_leads_the_sdk_here(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in desk.emulator.env().items():
        monkeypatch.setenv(name, value)
    assert openai.OpenAI().models.list().data


def test_unknown_path_is_a_404_in_the_dialect(desk: Desk) -> None:
    with pytest.raises(openai.NotFoundError, match="Invalid URL"):
        desk.openai.post("/nope", cast_to=object)


def test_two_services_have_one_path_and_each_client_gets_its_own(desk: Desk) -> None:
    """Only Anthropic's clients name a version in a header."""
    assert {model.id[:6] for model in desk.anthropic.models.list().data} == {"claude"}
    assert "gpt-5" in {model.id for model in desk.openai.models.list().data}


def test_command_prints_its_urls_and_ends_with_0() -> None:
    command = [sys.executable, "-m", "keld.emulator", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stdout is not None
        told = process.stdout.readline()
        assert "http://127.0.0.1:" in told and "/v1" in told
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_fixture_sets_the_environment(keld_emulator: Emulator) -> None:
    assert openai.OpenAI().base_url.host == "127.0.0.1" and openai.OpenAI().models.list().data
    assert keld_emulator.bill() == []


def test_fixture_module_does_not_import_the_server() -> None:
    """It is loaded in every pytest run of everyone who installed Keld."""
    code = "import sys, keld.emulator.fixture; sys.exit('starlette' in sys.modules or 'uvicorn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
