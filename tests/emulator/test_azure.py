"""Azure, through the official SDKs: `AzureOpenAI` by the older API, `OpenAI` by the v1 API, azure-identity for a token."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import jsonschema
import openai
import pytest

from keld.emulator import Emulator
from keld.emulator.services import azure_batches
from tests.emulator.conftest import SCHEMA, Desk, chat_lines, line, read

VERSION = "2025-04-01-preview"
EXPIRY: Any = {"anchor": "created_at", "seconds": 14 * 86_400}
CHAT: Any = {"model": "mini-standard", "messages": [{"role": "user", "content": "hi"}]}


def v1(emulator: Emulator, **more: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=emulator.url_of("azure"), **{"api_key": emulator.api_key, "max_retries": 0, **more})


def classic(emulator: Emulator, **more: Any) -> openai.AzureOpenAI:
    endpoint = emulator.env()["AZURE_OPENAI_ENDPOINT"]
    given = {"azure_endpoint": endpoint, "api_version": VERSION, "api_key": emulator.api_key, "max_retries": 0, **more}
    return openai.AzureOpenAI(**given)


@pytest.fixture(params=[v1, classic], ids=["v1", "classic"])
def client(request: pytest.FixtureRequest, slow_desk: Desk) -> openai.OpenAI:
    """Batches take 100 s on a frozen clock."""
    made: openai.OpenAI = request.param(slow_desk.emulator)
    return made


@pytest.fixture
def emulator(slow_desk: Desk) -> Emulator:
    return slow_desk.emulator


def batch_of(client: openai.OpenAI, content: bytes, endpoint: Any = "/v1/chat/completions", **more: Any) -> Any:
    file = client.files.create(file=("in.jsonl", content), purpose="batch", expires_after=EXPIRY)
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **more)


def test_a_batch_goes_its_way_and_its_error_file_has_no_byte(client: openai.OpenAI, emulator: Emulator) -> None:
    """As the documentation shows them: ids that are empty, counts that are null, an endpoint that is null."""
    created = batch_of(client, chat_lines(5, model="mini-batch"), metadata={"keld": "nonce"})
    assert (created.status, created.output_file_id, created.error_file_id, created.endpoint) == ("validating", "", "", None)
    assert set(created.request_counts.model_dump().values()) == {None}
    emulator.advance(100)
    ended = client.batches.retrieve(created.id)
    assert (ended.status, ended.metadata, ended.endpoint) == ("completed", {"keld": "nonce"}, "/v1/chat/completions")
    assert ended.request_counts and ended.request_counts.completed == 5
    assert client.files.content(ended.error_file_id or "").content == b""
    answers = read(client.files.content(ended.output_file_id or "").content)
    assert {one["response"]["body"]["model"].partition("-20")[0] for one in answers} == {"gpt-5-mini"}
    jsonschema.validate(json.loads(answers[0]["response"]["body"]["choices"][0]["message"]["content"]), SCHEMA)
    assert {(paid.provider, paid.model, paid.lane) for paid in emulator.bill()} == {("azure", "gpt-5-mini", "batch")}
    assert [one.id for one in client.batches.list(limit=5)] == [created.id]


def test_both_apis_show_the_same_batches(emulator: Emulator) -> None:
    created = batch_of(v1(emulator), chat_lines(1, model="mini-batch"))
    assert classic(emulator).batches.retrieve(created.id).id == created.id


def test_a_batch_is_not_expired(client: openai.OpenAI, emulator: Emulator) -> None:
    """Jobs continue until they are completed or cancelled, whatever `expires_at` says."""
    emulator.faults({"rules": [{"at": "life", "do": "stuck", "done": 0.5}]})
    created = batch_of(client, chat_lines(4, model="mini-batch"))
    assert created.expires_at == created.created_at + 86_400
    emulator.advance(5 * 86_400)
    assert client.batches.retrieve(created.id).status == "in_progress"
    client.batches.cancel(created.id)
    emulator.advance(10)
    assert client.batches.retrieve(created.id).status == "cancelled"


def test_the_file_decides_about_the_endpoint(client: openai.OpenAI, emulator: Emulator) -> None:
    body = {"model": "mini-batch", "messages": [{"role": "user", "content": "hi"}]}
    created = batch_of(client, line(0, "/chat/completions", body), endpoint="/v1/chat/completions")
    emulator.advance(100)
    assert client.batches.retrieve(created.id).status == "completed"


def test_requests_are_answered_by_the_model_behind_a_deployment(client: openai.OpenAI, emulator: Emulator) -> None:
    answer = client.chat.completions.create(**CHAT, service_tier="flex")
    assert answer.choices[0].message.content
    vector = client.embeddings.create(model="text-embedding-3-small", input="hi")
    assert len(vector.data[0].embedding) == 1536
    assert [(paid.model, paid.lane) for paid in emulator.bill()] == [("gpt-5-mini", "flex"), ("text-embedding-3-small", "standard")]


def test_a_deployment_is_for_batches_or_for_single_requests(client: openai.OpenAI, emulator: Emulator) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**{**CHAT, "model": "mini-batch"})
    assert refused.value.code == "OperationNotSupported"
    created = batch_of(client, chat_lines(1, model="mini-standard"))
    emulator.advance(100)
    ended = client.batches.retrieve(created.id)
    assert ended.errors and ended.errors.data
    assert (ended.status, ended.errors.data[0].code) == ("failed", "model_not_found")
    assert emulator.bill() == []


def test_a_deployment_that_is_not_there_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(**{**CHAT, "model": "does-not-exist"})
    assert missing.value.code == "DeploymentNotFound"


def test_embeddings_are_not_answered_in_batches(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        batch_of(client, line(0, "/v1/embeddings", {"model": "e", "input": "hi"}), endpoint="/v1/embeddings")


@pytest.fixture
def narrow(open_desk: Callable[..., Desk]) -> Iterator[openai.OpenAI]:
    """A resource whose queue takes one batch of some rows."""
    yield v1(open_desk(latency_s=100, enqueued_token_limit=400).emulator)


def test_a_full_queue_refuses_the_create(narrow: openai.OpenAI) -> None:
    """As in the regions that fail fast; the others fail the batch after its validation."""
    batch_of(narrow, chat_lines(2, model="mini-batch"))
    with pytest.raises(openai.BadRequestError) as full:
        batch_of(narrow, chat_lines(2, model="mini-batch"))
    assert full.value.code == "token_limit_exceeded"
    batch_of(narrow, chat_lines(2, model="gpt-5"))  # another deployment has a queue of its own


def test_input_files_without_an_expiry_are_few(client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(azure_batches, "MAX_FILES", 1)
    client.files.create(file=("in.jsonl", b"{}"), purpose="batch")
    with pytest.raises(openai.BadRequestError):
        client.files.create(file=("in.jsonl", b"{}"), purpose="batch")
    client.files.create(file=("in.jsonl", b"{}"), purpose="batch", expires_after=EXPIRY)
    with pytest.raises(openai.BadRequestError):
        client.files.create(file=("in.jsonl", b"{}"), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3_600})


def test_a_file_with_a_byte_order_mark_is_refused(client: openai.OpenAI, emulator: Emulator) -> None:
    created = batch_of(client, b"\xef\xbb\xbf" + chat_lines(1, model="mini-batch"))
    emulator.advance(100)
    ended = client.batches.retrieve(created.id)
    assert ended.errors and ended.errors.data and ended.errors.data[0].code == "invalid_json_line"


def test_the_older_api_wants_its_version_and_every_call_a_key(emulator: Emulator) -> None:
    url = f"{emulator.url}/azure/openai"
    with httpx2.Client(headers={"api-key": emulator.api_key}) as http:
        assert http.get(f"{url}/batches").status_code == 404
        assert http.get(f"{url}/batches?api-version={VERSION}").status_code == 200
        assert http.get(f"{url}/v1/batches").status_code == 200
        refused = httpx2.get(f"{url}/v1/batches")
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "401")
        assert http.get(f"{url}/v1/no-such-path").json() == {"error": {"code": "404", "message": "Resource not found"}}


def test_a_token_of_a_managed_identity_is_accepted_and_another_is_not(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """By azure-identity, as an App Service or a Container App has it."""
    from azure.identity import ManagedIdentityCredential, get_bearer_token_provider

    monkeypatch.setenv("IDENTITY_ENDPOINT", f"{emulator.url}/azure/msi/token")
    monkeypatch.setenv("IDENTITY_HEADER", "any")
    provider = get_bearer_token_provider(ManagedIdentityCredential(), "https://cognitiveservices.azure.com/.default")
    assert v1(emulator, api_key=provider).batches.list().data == []
    assert classic(emulator, api_key=None, azure_ad_token_provider=provider).batches.list().data == []
    with pytest.raises(openai.AuthenticationError):
        v1(emulator, api_key="keld-entra-of-another-day").batches.list()
